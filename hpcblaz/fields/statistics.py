"""Statistics of compressed arrays, from their coefficients, with certificates; cells that are missing are skipped.

Each function gives the answer for the whole field, on every rank, with one exchange of a few numbers, which
are combined in the order of the ranks. The bounds are derived in docs/certificates.md.
"""

import math
from typing import TYPE_CHECKING, Any, overload

from hpcblaz.errors import ShapeError, UnsupportedOperationError
from hpcblaz.fields.certificates import (
    UNIT,
    Interval,
    covariance_error,
    direction_error,
    dot_error,
    mean_error,
    variance_error,
)
from hpcblaz.fields.moments import (
    Moments,
    certified,
    check_array,
    check_values,
    delta_of,
    moments_of,
    moments_of_pair,
    relative_rounding,
    value_rounding,
)
from hpcblaz.fields.norms import power_norm
from hpcblaz.fields.reductions import Axes, mean_along, sum_along
from hpcblaz.fields.scalars import CertifiedFloat

if TYPE_CHECKING:
    from hpcblaz.fields.array import CompressedArray


@overload
def total(a: "CompressedArray", axis: None = None) -> CertifiedFloat: ...
@overload
def total(a: "CompressedArray", axis: Axes) -> "CompressedArray": ...
def total(a: "CompressedArray", axis: Axes | None = None) -> "CertifiedFloat | CompressedArray":
    """Return the sum of the values of an array, of all or along axes.

    Parameters
    ----------
    a : CompressedArray
    axis : int or tuple of int, optional
        Axes to sum over, not all of them. Default: all values.

    Returns
    -------
    CertifiedFloat or CompressedArray
        A number, whose error is at most that of the mean times the number of values. With `axis`, the field of sums,
        whole on every rank: see :func:`mean`.

    Raises
    ------
    ShapeError
        If there is no such axis.
    """
    check_array(a, "a")
    if axis is not None:
        return sum_along(a, axis)
    m = moments_of(a, means_only=True)
    return CertifiedFloat(m.mean_a * m.n, _mean_bound(a, m.n) * m.n) if m.n else CertifiedFloat(0.0, 0.0)


@overload
def mean(a: "CompressedArray", axis: None = None) -> CertifiedFloat: ...
@overload
def mean(a: "CompressedArray", axis: Axes) -> "CompressedArray": ...
def mean(a: "CompressedArray", axis: Axes | None = None) -> "CertifiedFloat | CompressedArray":
    """Return the mean of the values of an array: of all, from the first coefficient of every block, or along axes.

    Along axes, slabs are decoded, summed exactly in fixed point, and compressed anew in double precision, to a
    sixteenth of the array's error.

    Parameters
    ----------
    a : CompressedArray
        Not empty.
    axis : int or tuple of int, optional
        Axes to average over, not all of them. Default: all values.

    Returns
    -------
    CertifiedFloat or CompressedArray
        A number; or, with `axis`, the field of means with a certificate of its own, by a ToleranceCodec of the
        remaining block sides and the same transform. It has no layout: every rank has all of it, the same bits for any
        number of ranks.

    Raises
    ------
    ShapeError
        If the array is empty, or there is no such axis.

    Examples
    --------
    >>> import numpy as np, hpcblaz as hb
    >>> x = np.arange(10_000.0).reshape(100, 100)
    >>> m = hb.mean(hb.compress(x, tolerance=0.5))
    >>> abs(m - 4999.5) <= m.error
    True
    >>> rows = hb.mean(hb.compress(x, tolerance=0.5), axis=1)
    >>> rows.shape, bool(abs(rows.decompress() - x.mean(axis=1)).max() <= rows.error.max_abs)
    ((100,), True)
    """
    check_array(a, "a")
    if axis is not None:
        return mean_along(a, axis)
    m = moments_of(a, means_only=True)
    check_values(a, m.n, "mean")
    return CertifiedFloat(m.mean_a, _mean_bound(a, m.n))


def _mean_bound(a: "CompressedArray", n: float) -> float:
    return mean_error(a._field_error.max_abs, a._field_error.l2, n) + value_rounding(a)


def _spread_rounding(a: "CompressedArray", variance: float) -> float:
    """Return how far rounding can move a centred sum of squares, divided by n."""
    unit = 8 * UNIT * a._magnitude
    return relative_rounding(a) * variance + unit * math.sqrt(variance) + unit * unit


def variance(a: "CompressedArray", *, ddof: int = 0) -> CertifiedFloat:
    """Return the variance of all values of an array.

    Parameters
    ----------
    a : CompressedArray
        Not empty.
    ddof : int, default 0
        The sum of squared deviations is divided by ``n - ddof``.

    Returns
    -------
    CertifiedFloat

    Raises
    ------
    ShapeError
        If the array has no more than `ddof` values.
    """
    check_array(a, "a")
    m = moments_of(a)
    check_values(a, m.n, "variance")
    _check_ddof(m.n, ddof)
    bound = variance_error(m.std_a, delta_of(a, m.n)) + _spread_rounding(a, m.square_a / m.n)
    correction = m.n / (m.n - ddof)
    return certified(m.square_a / (m.n - ddof), bound * correction * (1 + 8 * UNIT), a)


def _check_ddof(n: float, ddof: int) -> None:
    if not 0 <= ddof < n:
        raise ShapeError(f"expected ddof from 0 to {int(n) - 1} for {int(n)} values, got {ddof}")


def standard_deviation(a: "CompressedArray", *, ddof: int = 0) -> CertifiedFloat:
    """Return the standard deviation of all values of an array.

    Parameters
    ----------
    a : CompressedArray
        Not empty.
    ddof : int, default 0
        The sum of squared deviations is divided by ``n - ddof``.

    Returns
    -------
    CertifiedFloat
    """
    check_array(a, "a")
    m = moments_of(a)
    check_values(a, m.n, "standard deviation")
    _check_ddof(m.n, ddof)
    correction = math.sqrt(m.n / (m.n - ddof))
    square = m.square_a / m.n
    bound = delta_of(a, m.n) + _root_rounding(square, _spread_rounding(a, square))
    return certified(m.std_a * correction, bound * correction * (1 + 8 * UNIT), a)


def _root_rounding(value: float, error: float) -> float:
    """Return how far the root of a number moves when the number is wrong by `error`."""
    return math.sqrt(value + error) - math.sqrt(max(0.0, value - error)) + 4 * UNIT * math.sqrt(value)


def norm(a: "CompressedArray", *, order: float = 2.0) -> CertifiedFloat:
    """Return the p-norm of all values of an array, by default its 2-norm.

    Parameters
    ----------
    a : CompressedArray
    order : float, default 2.0
        p, at least 1. The norm of order 2 is computed from coefficients; that of infinity, the largest magnitude, from
        a few blocks, see :func:`extremum`; others from values that are decoded slab by slab.

    Returns
    -------
    CertifiedFloat

    Raises
    ------
    UnsupportedOperationError
        If `order` is less than 1.
    """
    check_array(a, "a")
    if not order >= 1:
        raise UnsupportedOperationError(f"expected an order of at least 1, got {order!r}")
    if a.size == 0:
        return CertifiedFloat(0.0, 0.0)
    if order != 2:
        return power_norm(a, float(order))
    m = moments_of(a)
    if m.n == 0:
        return CertifiedFloat(0.0, 0.0)
    return certified(m.norm_a, a._field_error.l2 + _norm_rounding(a, m.norm_a), a)


def _norm_rounding(a: "CompressedArray", value: float) -> float:
    return 2 * relative_rounding(a) * value + 16 * UNIT * math.sqrt(a.size) * (a._magnitude + abs(a._offset))


def _largest_norm(a: "CompressedArray", known: float | None = None) -> float:
    """Return an upper bound of the norm of the compressed field."""
    if known is not None:
        return known + _norm_rounding(a, known)
    return math.sqrt(a.size) * (a._magnitude + a._field_error.max_abs)


def dot(a: "CompressedArray", b: "CompressedArray") -> CertifiedFloat:
    """Return the sum of products of all values of two arrays.

    Parameters
    ----------
    a, b : CompressedArray
        Of one shape and layout. Arrays of one kind of codec, block shape and transform meet as coefficients; others are
        decoded slab by slab.

    Returns
    -------
    CertifiedFloat

    Raises
    ------
    ShapeError, LayoutError
        If shapes or layouts differ.

    Examples
    --------
    >>> import numpy as np, hpcblaz as hb
    >>> x, y = np.random.default_rng(0).normal(size=(2, 64, 64))
    >>> d = hb.dot(hb.compress(x, tolerance=1e-3), hb.compress(y, tolerance=1e-3))
    >>> bool(abs(d - (x * y).sum()) <= d.error)
    True
    """
    check_array(a, "a")
    m = moments_of_pair(a, b, squares=True)
    if m.n == 0:
        return CertifiedFloat(0.0, 0.0)
    norm_a, norm_b = _largest_norm(a, m.norm_a), _largest_norm(b, m.norm_b)
    bound = dot_error(norm_a, a._field_error.l2, norm_b, b._field_error.l2)
    return certified(m.dot, bound + relative_rounding(a, b) * norm_a * norm_b, a, b)


def covariance(a: "CompressedArray", b: "CompressedArray", *, ddof: int = 0) -> CertifiedFloat:
    """Return the covariance of the values of two arrays.

    Parameters
    ----------
    a, b : CompressedArray
        Of one shape and layout, not empty.
    ddof : int, default 0
        The sum of products of deviations is divided by ``n - ddof``.

    Returns
    -------
    CertifiedFloat
    """
    check_array(a, "a")
    m = moments_of_pair(a, b, squares=True)
    check_values(a, m.n, "covariance")
    _check_ddof(m.n, ddof)
    bound = covariance_error(m.std_a, delta_of(a, m.n), m.std_b, delta_of(b, m.n)) + _product_rounding(a, b, m)
    correction = m.n / (m.n - ddof)
    return certified(m.product / (m.n - ddof), bound * correction * (1 + 8 * UNIT), a, b)


def _product_rounding(a: "CompressedArray", b: "CompressedArray", m: Moments) -> float:
    """Return how far rounding can move the centred sum of products (and the deviations), divided by n."""
    return (
        2 * relative_rounding(a, b) * m.std_a * m.std_b
        + 8 * UNIT * (a._magnitude * m.std_b + b._magnitude * m.std_a)
        + 64 * UNIT**2 * a._magnitude * b._magnitude
    )


def cosine_similarity(a: "CompressedArray", b: "CompressedArray") -> CertifiedFloat:
    """Return the cosine of the angle between two arrays: ``dot(a, b) / (norm(a) norm(b))``.

    Parameters
    ----------
    a, b : CompressedArray
        Of one shape and layout, not empty.

    Returns
    -------
    CertifiedFloat
        NaN, with an infinite error, if an array is zero.
    """
    check_array(a, "a")
    m = moments_of_pair(a, b, squares=True)
    check_values(a, m.n, "cosine similarity")
    if m.norm_a == 0 or m.norm_b == 0:
        return CertifiedFloat(math.nan, math.inf)
    bound = sum(
        direction_error(max(0.0, norm - _norm_rounding(array, norm)), array._field_error.l2)
        for array, norm in ((a, m.norm_a), (b, m.norm_b))
    )
    relative = 4 * relative_rounding(a, b)
    relative += 32 * UNIT * math.sqrt(a.size) * (a._magnitude / m.norm_a + b._magnitude / m.norm_b)
    cosine = m.dot / m.norm_a / m.norm_b
    return certified(max(-1.0, min(1.0, cosine)), min(2.0, bound + relative), a, b)


def structural_similarity(
    a: "CompressedArray",
    b: "CompressedArray",
    *,
    data_range: float | None = None,
    k1: float = 0.01,
    k2: float = 0.03,
    luminance: float = 1.0,
    contrast: float = 1.0,
    structure: float = 1.0,
) -> CertifiedFloat:
    """Return the global structural similarity of two arrays.

    The product of luminance, contrast and structure, each to its exponent, over the whole field (Wang, Bovik, Sheikh
    and Simoncelli, 2004), with C1 = (k1 L)**2, C2 = (k2 L)**2 and C3 = C2 / 2.

    Parameters
    ----------
    a, b : CompressedArray
        Of one shape and layout, not empty.
    data_range : float, optional
        L. Default: twice the greatest magnitude of either array (1 if both are zero).
    k1, k2 : float
        Stabilisers, not negative.
    luminance, contrast, structure : float
        Exponents, not negative.

    Returns
    -------
    CertifiedFloat
        1 for two equal constant fields. NaN, with an infinite error, where a negative structure meets a fractional
        exponent.
    """
    check_array(a, "a")
    numbers = (k1, k2, luminance, contrast, structure, 1.0 if data_range is None else data_range)
    if not all(math.isfinite(number) for number in numbers) or min(numbers) < 0 or numbers[-1] == 0:
        raise UnsupportedOperationError(
            "expected k1, k2 and the exponents not to be negative, and data_range to be positive, "
            f"got {k1}, {k2}, {(luminance, contrast, structure)} and {data_range}"
        )
    m = moments_of_pair(a, b, squares=True)
    check_values(a, m.n, "structural similarity")
    span = data_range if data_range is not None else 2 * max(a._magnitude, b._magnitude) or 1.0
    c1, c2 = (k1 * span) * (k1 * span), (k2 * span) * (k2 * span)
    exponents = (luminance, contrast, structure)
    covariance_ab = m.product / m.n
    values = similarity_factors(m.mean_a, m.mean_b, m.std_a, m.std_b, covariance_ab, c1, c2)
    value = 1.0
    for part, exponent in zip(values, exponents, strict=True):
        if part < 0 and exponent != int(exponent):
            return CertifiedFloat(math.nan, math.inf)
        value *= part**exponent
    bounds = similarity_factors(
        Interval.around(m.mean_a, delta_of(a, m.n) + value_rounding(a)),
        Interval.around(m.mean_b, delta_of(b, m.n) + value_rounding(b)),
        _std_interval(a, m.std_a, m.square_a / m.n, m.n),
        _std_interval(b, m.std_b, m.square_b / m.n, m.n),
        Interval.around(
            covariance_ab,
            covariance_error(m.std_a, delta_of(a, m.n), m.std_b, delta_of(b, m.n)) + _product_rounding(a, b, m),
        ),
        c1,
        c2,
    )
    whole = Interval(1.0, 1.0)
    for bound, exponent in zip(bounds, exponents, strict=True):
        whole = whole * bound.intersect(-1.0, 1.0).power(exponent)
    return certified(value, whole.error_of(value) * (1 + 16 * UNIT) + 16 * UNIT, a, b)


def similarity_factors(
    mean_a: Any, mean_b: Any, std_a: Any, std_b: Any, covariance_ab: Any, c1: float, c2: float
) -> tuple[Any, Any, Any]:
    """Return luminance, contrast and structure of two arrays: of numbers as numbers, of intervals as intervals."""
    return (
        _quotient(mean_a * mean_b * 2.0 + c1, _square(mean_a) + _square(mean_b) + c1),
        _quotient(std_a * std_b * 2.0 + c2, _square(std_a) + _square(std_b) + c2),
        _quotient(covariance_ab + c2 / 2, std_a * std_b + c2 / 2),
    )


def _square(value: Any) -> Any:
    return value.square() if isinstance(value, Interval) else value * value


def _quotient(numerator: Any, denominator: Any) -> Any:
    if isinstance(numerator, Interval):
        return numerator / denominator
    return numerator / denominator if denominator else 1.0


def _std_interval(a: "CompressedArray", std: float, variance: float, n: float) -> Interval:
    around = Interval.around(std, delta_of(a, n) + _root_rounding(variance, _spread_rounding(a, variance)))
    return Interval(max(0.0, around.low), around.high)
