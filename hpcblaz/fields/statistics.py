"""Statistics of compressed arrays, from their coefficients, with certificates.

Each function gives the answer for the whole field, on every rank, with one exchange of a few numbers, which
are combined in the order of the ranks. The bounds are derived in docs/certificates.md.
"""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpcblaz.backend import cpu
from hpcblaz.errors import CodecError, ShapeError, UnsupportedOperationError
from hpcblaz.fields.arithmetic import check_partners, is_array
from hpcblaz.fields.certificates import (
    UNIT,
    Interval,
    covariance_error,
    direction_error,
    dot_error,
    mean_error,
    variance_error,
)
from hpcblaz.fields.codec import UNIT_ROUNDOFF
from hpcblaz.fields.scalars import CertifiedFloat

if TYPE_CHECKING:
    from hpcblaz.fields.array import CompressedArray

_STREAM_CELLS = 1 << 20  # cells decoded at a time where coefficients cannot be used
_SEQUENTIAL = 256  # double precision: most additions in a row, products included


@dataclass(frozen=True)
class Moments:
    """Sums over the cells of one or two fields: number, means, and centred sums of squares and of products."""

    n: float
    mean_a: float = 0.0
    square_a: float = 0.0
    mean_b: float = 0.0
    square_b: float = 0.0
    product: float = 0.0

    def merge(self, other: "Moments") -> "Moments":
        """Return the moments of both sets of cells (Chan, Golub and LeVeque, 1983)."""
        if self.n == 0 or other.n == 0:
            return other if self.n == 0 else self
        n = self.n + other.n
        weight = self.n * other.n / n
        da, db = other.mean_a - self.mean_a, other.mean_b - self.mean_b
        return Moments(
            n,
            self.mean_a + da * other.n / n,
            self.square_a + other.square_a + weight * da * da,
            self.mean_b + db * other.n / n,
            self.square_b + other.square_b + weight * db * db,
            self.product + other.product + weight * da * db,
        )

    @property
    def norm_a(self) -> float:
        """2-norm of the first field."""
        return math.sqrt(self.square_a + self.n * (self.mean_a * self.mean_a))

    @property
    def norm_b(self) -> float:
        """2-norm of the second field."""
        return math.sqrt(self.square_b + self.n * (self.mean_b * self.mean_b))

    @property
    def dot(self) -> float:
        """Inner product of both fields."""
        return self.product + self.n * self.mean_a * self.mean_b

    @property
    def std_a(self) -> float:
        """Standard deviation of the first field."""
        return math.sqrt(self.square_a / self.n)

    @property
    def std_b(self) -> float:
        """Standard deviation of the second field."""
        return math.sqrt(self.square_b / self.n)


class BlockField(NamedTuple):
    """A value for each block of an array, and its bound.

    Parameters
    ----------
    values : numpy.ndarray
        float64, of the shape of the grid of blocks.
    error : numpy.ndarray
        float64, of the same shape: each value is within its error of that of the original data.
    """

    values: NDArray[np.float64]
    error: NDArray[np.float64]


def _check(a: Any, name: str) -> None:
    if not is_array(a):
        raise UnsupportedOperationError(
            f"expected {name} to be a CompressedArray, got {type(a).__name__}: compress it first with hb.compress"
        )


def _check_not_empty(a: "CompressedArray", what: str) -> None:
    if a.size == 0:
        raise ShapeError(f"expected an array with values for its {what}, got shape {a.shape}")


def _relative_rounding(*arrays: "CompressedArray") -> float:
    """Return the relative rounding of sums of squares or products, with respect to the sum of their magnitudes."""
    precision = "float64" if any(a._numerics.precision == "float64" for a in arrays) else "float32"
    return 20 * UNIT_ROUNDOFF[precision] + _SEQUENTIAL * UNIT


def _certified(value: float, bound: float, *arrays: "CompressedArray") -> CertifiedFloat:
    """Return an answer made of squares or products, without a bound where those could leave double precision."""
    for a in arrays:
        largest = a._magnitude + a._field_error.max_abs + abs(a._offset)
        payload = largest / abs(a._factor) if a._factor else largest
        if largest and not (min(largest, payload) > 2.0**-450 and max(largest, payload) < 2.0**450):
            return CertifiedFloat(value, math.inf)
    return CertifiedFloat(value, bound)


def _value_rounding(a: "CompressedArray") -> float:
    """Return how far rounding can move a mean."""
    return 16 * UNIT * (a._magnitude + a._field_error.max_abs + abs(a._offset))


def _moments(a: "CompressedArray", means_only: bool = False) -> Moments:
    n = a._numerics.grid.size
    local = Moments(0.0)
    if n and _has_means(a):
        center = cpu.total(a._blocks, a._numerics) / n
        square = 0.0
        if not means_only:
            _, means, rest = cpu.moments(a._blocks, a._numerics, center)
            square = a._factor * (a._factor * float(means + rest))
        local = Moments(float(n), a._factor * center + a._offset, square)
    elif n:
        local = _stream(a, None)
    return _merge(a, local)


def _pair(a: "CompressedArray", b: "CompressedArray", squares: bool) -> Moments:
    with a._comm.together():
        _check(b, "b")
        check_partners(a, b)
    n = a._numerics.grid.size
    local = Moments(0.0)
    if n and _can_meet(a, b):
        numerics = a._numerics if a._numerics.precision == "float64" else b._numerics
        center_a, center_b = cpu.total(a._blocks, a._numerics) / n, cpu.total(b._blocks, b._numerics) / n
        sums = cpu.products(a._blocks, center_a, b._blocks, center_b, numerics, squares)
        local = Moments(
            float(n),
            a._factor * center_a + a._offset,
            a._factor * (a._factor * float(sums[2] + sums[5])),
            b._factor * center_b + b._offset,
            b._factor * (b._factor * float(sums[3] + sums[6])),
            a._factor * (b._factor * float(sums[4] + sums[7])),
        )
    elif n:
        local = _stream(a, b)
    return _merge(a, local)


def _merge(a: "CompressedArray", local: Moments) -> Moments:
    if a.layout is None:
        return local
    rows = a._comm.allgather(
        np.array([local.n, local.mean_a, local.square_a, local.mean_b, local.square_b, local.product])
    )
    whole = Moments(0.0)
    for row in rows:
        whole = whole.merge(Moments(*map(float, row)))
    return whole


def _has_means(a: "CompressedArray") -> bool:
    return a.codec.transform != "identity"


def _can_meet(a: "CompressedArray", b: "CompressedArray") -> bool:
    """Say whether the coefficients of two arrays can be multiplied: one grid, one transform, one form."""
    return (
        _has_means(a)
        and a._blocks.form == b._blocks.form
        and (a.codec.block_shape, a.codec.transform) == (b.codec.block_shape, b.codec.transform)
    )


def _stream(a: "CompressedArray", b: "CompressedArray | None") -> Moments:
    """Decode slabs of one or two local arrays and sum them in double precision."""
    shape = a._numerics.grid.shape
    side = math.lcm(a._numerics.grid.block_shape[0], b._numerics.grid.block_shape[0] if b is not None else 1)
    rows = max(1, _STREAM_CELLS // (side * max(1, math.prod(shape[1:])))) * side
    whole = Moments(0.0)
    for start in range(0, shape[0], rows):
        low, high = (start,) + (0,) * (len(shape) - 1), (min(shape[0], start + rows), *shape[1:])
        x = _decode(a, low, high)
        y = x if b is None else _decode(b, low, high)
        mx, my = float(x.mean()), float(y.mean())
        dx, dy = (x - mx).ravel(), (y - my).ravel()
        whole = whole.merge(
            Moments(float(x.size), mx, float((dx * dx).sum()), my, float((dy * dy).sum()), float((dx * dy).sum()))
        )
    return whole


def _decode(a: "CompressedArray", low: tuple[int, ...], high: tuple[int, ...]) -> NDArray[np.float64]:
    payload = cpu.decode(a._blocks, a._numerics, 1.0, 0.0, low, high).astype(np.float64)
    return payload * a._factor + a._offset


def total(a: "CompressedArray") -> CertifiedFloat:
    """Return the sum of all values of an array.

    Parameters
    ----------
    a : CompressedArray

    Returns
    -------
    CertifiedFloat
        Its error is at most that of the mean times the number of values.
    """
    _check(a, "a")
    if a.size == 0:
        return CertifiedFloat(0.0, 0.0)
    m = mean(a)
    return CertifiedFloat(float(m) * a.size, m.error * a.size)


def mean(a: "CompressedArray") -> CertifiedFloat:
    """Return the mean of all values of an array, from the first coefficient of every block.

    Parameters
    ----------
    a : CompressedArray
        Not empty.

    Returns
    -------
    CertifiedFloat

    Raises
    ------
    ShapeError
        If the array is empty.

    Examples
    --------
    >>> import numpy as np, hpcblaz as hb
    >>> x = np.arange(10_000.0).reshape(100, 100)
    >>> m = hb.mean(hb.compress(x, tolerance=0.5))
    >>> abs(m - 4999.5) <= m.error
    True
    """
    _check(a, "a")
    _check_not_empty(a, "mean")
    m = _moments(a, means_only=True)
    bound = mean_error(a._field_error.max_abs, a._field_error.l2, a.size)
    return CertifiedFloat(m.mean_a, bound + _value_rounding(a))


def _delta(a: "CompressedArray") -> float:
    return mean_error(a._field_error.max_abs, a._field_error.l2, a.size)


def _spread_rounding(a: "CompressedArray", square: float) -> float:
    """Return how far rounding can move a centred sum of squares, divided by n."""
    variance = square / a.size
    unit = 8 * UNIT * a._magnitude
    return _relative_rounding(a) * variance + unit * math.sqrt(variance) + unit * unit


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
    _check(a, "a")
    _check_not_empty(a, "variance")
    _check_ddof(a, ddof)
    m = _moments(a)
    bound = variance_error(m.std_a, _delta(a)) + _spread_rounding(a, m.square_a)
    correction = a.size / (a.size - ddof)
    return _certified(m.square_a / (a.size - ddof), bound * correction * (1 + 8 * UNIT), a)


def _check_ddof(a: "CompressedArray", ddof: int) -> None:
    if not 0 <= ddof < a.size:
        raise ShapeError(f"expected ddof from 0 to {a.size - 1} for {a.size} values, got {ddof}")


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
    _check(a, "a")
    _check_not_empty(a, "standard deviation")
    _check_ddof(a, ddof)
    m = _moments(a)
    correction = math.sqrt(a.size / (a.size - ddof))
    bound = _delta(a) + _root_rounding(m.square_a / a.size, _spread_rounding(a, m.square_a))
    return _certified(m.std_a * correction, bound * correction * (1 + 8 * UNIT), a)


def _root_rounding(value: float, error: float) -> float:
    """Return how far the root of a number moves when the number is wrong by `error`."""
    return math.sqrt(value + error) - math.sqrt(max(0.0, value - error)) + 4 * UNIT * math.sqrt(value)


def norm(a: "CompressedArray") -> CertifiedFloat:
    """Return the 2-norm of all values of an array.

    Parameters
    ----------
    a : CompressedArray

    Returns
    -------
    CertifiedFloat
    """
    _check(a, "a")
    if a.size == 0:
        return CertifiedFloat(0.0, 0.0)
    m = _moments(a)
    return _certified(m.norm_a, a._field_error.l2 + _norm_rounding(a, m.norm_a), a)


def _norm_rounding(a: "CompressedArray", value: float) -> float:
    return 2 * _relative_rounding(a) * value + 16 * UNIT * math.sqrt(a.size) * (a._magnitude + abs(a._offset))


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
    _check(a, "a")
    m = _pair(a, b, squares=True)
    if a.size == 0:
        return CertifiedFloat(0.0, 0.0)
    norm_a, norm_b = _largest_norm(a, m.norm_a), _largest_norm(b, m.norm_b)
    bound = dot_error(norm_a, a._field_error.l2, norm_b, b._field_error.l2)
    return _certified(m.dot, bound + _relative_rounding(a, b) * norm_a * norm_b, a, b)


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
    _check(a, "a")
    _check_not_empty(a, "covariance")
    _check_ddof(a, ddof)
    m = _pair(a, b, squares=True)
    bound = covariance_error(m.std_a, _delta(a), m.std_b, _delta(b)) + _product_rounding(a, b, m)
    correction = a.size / (a.size - ddof)
    return _certified(m.product / (a.size - ddof), bound * correction * (1 + 8 * UNIT), a, b)


def _product_rounding(a: "CompressedArray", b: "CompressedArray", m: Moments) -> float:
    """Return how far rounding can move the centred sum of products (and the deviations), divided by n."""
    return (
        2 * _relative_rounding(a, b) * m.std_a * m.std_b
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
    _check(a, "a")
    _check_not_empty(a, "cosine similarity")
    m = _pair(a, b, squares=True)
    if m.norm_a == 0 or m.norm_b == 0:
        return CertifiedFloat(math.nan, math.inf)
    bound = sum(
        direction_error(max(0.0, norm - _norm_rounding(array, norm)), array._field_error.l2)
        for array, norm in ((a, m.norm_a), (b, m.norm_b))
    )
    relative = 4 * _relative_rounding(a, b)
    relative += 32 * UNIT * math.sqrt(a.size) * (a._magnitude / m.norm_a + b._magnitude / m.norm_b)
    cosine = m.dot / m.norm_a / m.norm_b
    return _certified(max(-1.0, min(1.0, cosine)), min(2.0, bound + relative), a, b)


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
    _check(a, "a")
    _check_not_empty(a, "structural similarity")
    numbers = (k1, k2, luminance, contrast, structure, 1.0 if data_range is None else data_range)
    if not all(math.isfinite(number) for number in numbers) or min(numbers) < 0 or numbers[-1] == 0:
        raise UnsupportedOperationError(
            "expected k1, k2 and the exponents not to be negative, and data_range to be positive, "
            f"got {k1}, {k2}, {(luminance, contrast, structure)} and {data_range}"
        )
    m = _pair(a, b, squares=True)
    span = data_range if data_range is not None else 2 * max(a._magnitude, b._magnitude) or 1.0
    c1, c2 = (k1 * span) * (k1 * span), (k2 * span) * (k2 * span)
    c3 = c2 / 2

    def parts(mean_a: Any, mean_b: Any, std_a: Any, std_b: Any, product: Any, square: Any, divide: Any) -> list[Any]:
        return [
            divide(mean_a * mean_b * 2.0 + c1, square(mean_a) + square(mean_b) + c1),
            divide(std_a * std_b * 2.0 + c2, square(std_a) + square(std_b) + c2),
            divide(product + c3, std_a * std_b + c3),
        ]

    exponents = (luminance, contrast, structure)
    covariance_ab = m.product / m.n
    values = parts(m.mean_a, m.mean_b, m.std_a, m.std_b, covariance_ab, lambda v: v * v, _quotient)
    value = 1.0
    for part, exponent in zip(values, exponents, strict=True):
        if part < 0 and exponent != int(exponent):
            return CertifiedFloat(math.nan, math.inf)
        value *= part**exponent
    bounds = parts(
        Interval.around(m.mean_a, _delta(a) + _value_rounding(a)),
        Interval.around(m.mean_b, _delta(b) + _value_rounding(b)),
        _std_interval(a, m.std_a, m.square_a),
        _std_interval(b, m.std_b, m.square_b),
        Interval.around(
            covariance_ab,
            covariance_error(m.std_a, _delta(a), m.std_b, _delta(b)) + _product_rounding(a, b, m),
        ),
        lambda v: v.square(),
        lambda v, w: v / w,
    )
    whole = Interval(1.0, 1.0)
    for bound, exponent in zip(bounds, exponents, strict=True):
        whole = whole * bound.intersect(-1.0, 1.0).power(exponent)
    return _certified(value, whole.error_of(value) * (1 + 16 * UNIT) + 16 * UNIT, a, b)


def _quotient(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else 1.0


def _std_interval(a: "CompressedArray", std: float, square: float) -> Interval:
    around = Interval.around(std, _delta(a) + _root_rounding(square / a.size, _spread_rounding(a, square)))
    return Interval(max(0.0, around.low), around.high)


def block_mean(a: "CompressedArray") -> BlockField:
    """Return the mean of each block of this rank's part: a coarse field.

    Parameters
    ----------
    a : CompressedArray

    Returns
    -------
    BlockField
    """
    _check(a, "a")
    means, _ = _blocks(a, squares=False)
    return BlockField(means, _block_delta(a) + _value_rounding(a))


def block_variance(a: "CompressedArray") -> BlockField:
    """Return the variance within each block of this rank's part.

    Parameters
    ----------
    a : CompressedArray

    Returns
    -------
    BlockField
    """
    _check(a, "a")
    _, variances = _blocks(a, squares=True)
    delta = _block_delta(a)
    return BlockField(
        variances,
        delta * (2 * np.sqrt(variances) + delta) + 4096 * UNIT * (variances + a._magnitude * a._magnitude * UNIT),
    )


def block_standard_deviation(a: "CompressedArray") -> BlockField:
    """Return the standard deviation within each block of this rank's part.

    Parameters
    ----------
    a : CompressedArray

    Returns
    -------
    BlockField
    """
    _check(a, "a")
    _, variances = _blocks(a, squares=True)
    return BlockField(np.sqrt(variances), _block_delta(a) + 4096 * UNIT * (np.sqrt(variances) + a._magnitude))


def _block_cells(a: "CompressedArray") -> NDArray[np.float64]:
    grid = a._numerics.grid
    cells = np.ones(grid.blocks)
    for axis, (n, side) in enumerate(zip(grid.shape, grid.block_shape, strict=True)):
        lengths = np.minimum(side, n - side * np.arange(grid.blocks[axis]))
        cells = cells * lengths.reshape([-1 if i == axis else 1 for i in range(grid.ndim)])
    return cells


def _block_delta(a: "CompressedArray") -> NDArray[np.float64]:
    return np.minimum(a._field_error.max_abs, a._field_error.l2 / np.sqrt(_block_cells(a)))


def _blocks(a: "CompressedArray", squares: bool) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return means and variances of the blocks of the local part."""
    grid = a._numerics.grid
    if not _has_means(a):
        return _decoded_blocks(a)
    means, energies = cpu.block_moments(a._blocks, a._numerics, squares)
    means = a._factor * means + a._offset
    variances = np.zeros(grid.blocks) if energies is None else a._factor * (a._factor * energies) / _block_cells(a)
    return means, variances


def _decoded_blocks(a: "CompressedArray") -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    grid = a._numerics.grid
    cells = _block_cells(a)

    def block_sums(values: NDArray[np.float64]) -> NDArray[np.float64]:
        for axis, side in enumerate(grid.block_shape):
            values = np.add.reduceat(values, np.arange(0, values.shape[axis], side), axis=axis)
        return values

    if not grid.size:
        return np.zeros(grid.blocks), np.zeros(grid.blocks)
    values = _decode(a, (0,) * grid.ndim, grid.shape)
    means = block_sums(values) / cells
    spread = means
    for axis, (n, side) in enumerate(zip(grid.shape, grid.block_shape, strict=True)):
        spread = np.repeat(spread, side, axis=axis).take(range(n), axis=axis)
    return means, block_sums((values - spread) ** 2) / cells


def wasserstein_distance(a: "CompressedArray", b: "CompressedArray", *, order: float = 1.0) -> CertifiedFloat:
    """Return the approximate Wasserstein distance of PyBlaz between two arrays.

    The means of the blocks, through a softmax, are taken for masses; the distance is the p-mean of the differences of
    the sorted masses. The bound is with respect to the same number for the original data, with the same blocks.

    Parameters
    ----------
    a, b : CompressedArray
        Of one shape, layout and block shape, not empty.
    order : float, default 1.0
        p, at least 1.

    Returns
    -------
    CertifiedFloat

    Raises
    ------
    CodecError
        If block shapes differ.
    """
    _check(a, "a")
    _check_not_empty(a, "Wasserstein distance")
    if not order >= 1 or not math.isfinite(order):
        raise UnsupportedOperationError(f"expected an order of at least 1, got {order!r}")
    with a._comm.together():
        _check(b, "b")
        check_partners(a, b)
        if a.codec.block_shape != b.codec.block_shape:
            raise CodecError(
                f"expected two arrays of one block shape, got {a.codec.block_shape} and {b.codec.block_shape}"
            )
    masses, moved = [], []
    for array in (a, b):
        field = block_mean(array)
        pieces = array._comm.gather_objects((field.values.ravel(), field.error.ravel()))
        means = np.concatenate([piece[0] for piece in pieces])
        error = float(max(piece[1].max(initial=0.0) for piece in pieces))
        means = means - means.max()
        mass = np.exp(means)
        means = means - math.log(mass.sum())
        masses.append(np.sort(mass / mass.sum()))
        shift = 2 * error + 64 * UNIT  # of the logarithm of a mass, which may have underflowed itself
        moved.append(np.exp(means) * math.expm1(shift) if shift < 1 else np.exp(np.minimum(means + shift, 0.0)))
    value = _power_mean(np.abs(masses[0] - masses[1]), order)
    bound = sum(_power_mean(move, order) for move in moved)
    return CertifiedFloat(value, bound * (1 + 2.0**-30) + 64 * UNIT * value)


def _power_mean(values: NDArray[np.float64], order: float) -> float:
    largest = float(values.max())
    if largest == 0:
        return 0.0
    return float(largest * float(np.mean((values / largest) ** order)) ** (1 / order))
