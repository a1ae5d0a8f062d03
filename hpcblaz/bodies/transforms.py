"""Orthonormal transforms of short vectors: their matrices, and straight-line code that evaluates them.

Three families, each defined for every length from 1 to 16:

``dct``
    The discrete cosine transform of type II, orthonormal (Ahmed, Natarajan and Rao, 1974).
``haar``
    The Haar wavelet; for lengths that are no power of two the unbalanced Haar basis
    (Girardi and Sweldens, 1997), which splits every interval as evenly as it can.
``identity``
    The samples themselves.

In ``dct`` and ``haar`` coefficient 0 is the sum of the samples over the square root of their number.

:func:`matrix` is the oracle. :func:`straight_line` gives the same transform, for the lengths 1, 2, 4, 8 and 16,
as assignments without loops or branches, from which a backend builds its kernels: a value never leaves
its register, and CPU and GPU evaluate the same operations in the same order.
"""

import math

import numpy as np

KINDS = ("dct", "haar", "identity")
SIDES = (1, 2, 4, 8, 16)


def matrix(kind: str, n: int) -> np.ndarray:
    """Return the orthonormal matrix of a transform.

    Parameters
    ----------
    kind : {'dct', 'haar', 'identity'}
        The transform.
    n : int
        Length of the vectors, at least 1.

    Returns
    -------
    numpy.ndarray
        float64, shape (n, n); row k holds the weights of coefficient k, so that
        ``matrix @ samples`` are the coefficients and ``matrix.T @ coefficients`` the samples.

    Examples
    --------
    >>> import numpy as np
    >>> m = matrix("dct", 4)
    >>> bool(np.allclose(m @ m.T, np.eye(4)))
    True
    """
    if kind == "dct":
        k, i = np.arange(n)[:, None], np.arange(n)[None]
        return np.sqrt((1.0 + (k > 0)) / n) * np.cos(np.pi * (2 * i + 1) * k / (2 * n))
    if kind == "haar":
        rows = [np.full(n, 1 / math.sqrt(n))]
        intervals = [(0, n)]
        while intervals:
            finer = []
            for lo, hi in intervals:
                if hi - lo == 1:
                    continue
                middle = lo + (hi - lo + 1) // 2
                left, right = middle - lo, hi - middle
                row = np.zeros(n)
                row[lo:middle] = math.sqrt(right / (left * (left + right)))
                row[middle:hi] = -math.sqrt(left / (right * (left + right)))
                rows.append(row)
                finer += [(lo, middle), (middle, hi)]
            intervals = finer
        return np.array(rows)
    return np.eye(n)


def depth(kind: str, n: int) -> int:
    """Return how many roundings one output of a transform of length n meets, rounded constants included.

    Every path from a coefficient to a sample (or back) is unique, so an evaluation in arithmetic of unit
    roundoff u differs from the exact transform by at most ``gamma(depth) * (abs(matrix) @ abs(input))`` with
    ``gamma(m) = m u / (1 - m u)`` (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1).
    Lengths without straight-line code are evaluated as a product with the matrix.
    """
    if kind == "identity" or n == 1:
        return 0
    if n not in SIDES:
        return n + 1
    if kind == "haar":
        return 3 * (n.bit_length() - 1)
    return {2: 3, 4: 4, 8: 6, 16: 10}[n]


def straight_line(
    kind: str, inputs: list[str], outputs: list[str], inverse: bool, prefix: str, product: str = "{} * {}"
) -> list[str]:
    """Return assignments that compute a transform of length 1, 2, 4, 8 or 16.

    Parameters
    ----------
    kind : {'dct', 'haar', 'identity'}
        The transform.
    inputs, outputs : list of str
        Expressions that are read, once each or more often, and names that are assigned; of equal length.
    inverse : bool
        Coefficients to samples instead of samples to coefficients.
    prefix : str
        Beginning of the temporary names.
    product : str
        How a product of two expressions is written. A backend that would contract a product and a sum into one
        operation, of one rounding, names a function here that it leaves alone.

    Returns
    -------
    list of str
        Python statements. Constants are written ``REAL(...)`` so that a kernel of single precision
        is never promoted to double.
    """
    statements: list[str] = []
    count = 0

    def name(expression: str) -> str:
        nonlocal count
        count += 1
        statements.append(f"{prefix}{count} = {expression}")
        return f"{prefix}{count}"

    def times(weight: float, value: str) -> str:
        return product.format(_constant(weight), value)

    def combine(weights, values) -> str:
        return " + ".join(times(w, v) for w, v in zip(weights, values, strict=True))

    def dct(x: list[str], scale: float) -> list[str]:
        n = len(x)
        if n == 1:
            return [times(scale, x[0])]
        half = n // 2
        sums = [name(f"{x[i]} + {x[n - 1 - i]}") for i in range(half)]
        differences = [name(f"{x[i]} - {x[n - 1 - i]}") for i in range(half)]
        odd = matrix("dct", n)[1::2, :half] * scale
        y = [""] * n
        y[0::2] = dct(sums, scale * math.sqrt(0.5))
        y[1::2] = [combine(odd[k], differences) for k in range(half)]
        return y

    def inverse_dct(y: list[str], scale: float) -> list[str]:
        n = len(y)
        if n == 1:
            return [times(scale, y[0])]
        half = n // 2
        if n == 2:
            a, b = y
            weight = scale * math.sqrt(0.5)
            return [times(weight, f"({a} + {b})"), times(weight, f"({a} - {b})")]
        even = [name(e) for e in inverse_dct(y[0::2], scale * math.sqrt(0.5))]
        weights = matrix("dct", n)[1::2, :half] * scale
        odd = [name(combine(weights[:, i], y[1::2])) for i in range(half)]
        return [f"{even[i]} + {odd[i]}" for i in range(half)] + [f"{even[i]} - {odd[i]}" for i in reversed(range(half))]

    def haar(x: list[str]) -> list[str]:
        if len(x) == 1:
            return x
        root = math.sqrt(0.5)
        sums = [name(times(root, f"({x[2 * i]} + {x[2 * i + 1]})")) for i in range(len(x) // 2)]
        return [*haar(sums), *(times(root, f"({x[2 * i]} - {x[2 * i + 1]})") for i in range(len(x) // 2))]

    def inverse_haar(y: list[str]) -> list[str]:
        if len(y) == 1:
            return y
        root = math.sqrt(0.5)
        half = len(y) // 2
        coarse = [name(e) for e in inverse_haar(y[:half])]
        x = []
        for i in range(half):
            x += [times(root, f"({coarse[i]} + {y[half + i]})"), times(root, f"({coarse[i]} - {y[half + i]})")]
        return x

    if kind == "identity" or len(inputs) == 1:
        expressions = list(inputs)
    elif kind == "haar":
        expressions = inverse_haar(inputs) if inverse else haar(inputs)
    else:
        expressions = inverse_dct(inputs, 1.0) if inverse else dct(inputs, 1.0)
    return statements + [f"{o} = {e}" for o, e in zip(outputs, expressions, strict=True)]


def _constant(value: float) -> str:
    dyadic = round(value * 1024) / 1024
    if abs(value - dyadic) < 1e-15:
        value = dyadic
    return f"REAL({float(value)!r})"
