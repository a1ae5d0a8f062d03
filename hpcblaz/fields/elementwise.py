"""Functions of every value: decoded slab by slab, applied, and compressed again, with a bound where there is one.

What an error of the operands can do to a value of the result is bounded value by value, at the values themselves: no
constant of the function over its whole range is needed. docs/certificates.md proves the rules.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hpcblaz.backend.dispatch import drivers_of
from hpcblaz.errors import HpcblazError, ShapeError, UnsupportedOperationError
from hpcblaz.fields.arithmetic import check_partners, is_array
from hpcblaz.fields.certificates import UNIT
from hpcblaz.fields.codec import BlockCodec, ToleranceCodec, half_unit
from hpcblaz.fields.compressing import compress_input
from hpcblaz.fields.gaps import numbers_or_nan, slabs
from hpcblaz.fields.inputs import StreamedInput
from hpcblaz.fields.scalars import ErrorBound
from hpcblaz.fields.target import Target

if TYPE_CHECKING:
    from hpcblaz.fields.array import CompressedArray

_ROUNDING = 16 * UNIT  # of NumPy's functions in double precision, relative to their values and bounds
_FINEST = 2.0**-20  # of the largest value of a result: what compressing it adds, if errors of operands do less

Values = NDArray[np.float64]
Rule = Callable[[Sequence[Any], Sequence[float], Values, Callable[..., Any]], Any]


def _monotone(low: float, high: float = math.inf) -> Rule:
    """Return the rule of a monotone function on its domain: its values at both ends of what the operand can be."""

    def rule(x: Sequence[Any], e: Sequence[float], y: Values, function: Callable[..., Any]) -> Any:
        below = function(np.clip(np.nextafter(x[0] - e[0], -math.inf), low, high))
        above = function(np.clip(np.nextafter(x[0] + e[0], math.inf), low, high))
        return np.maximum(np.abs(above - y), np.abs(y - below))

    return rule


def _sum_of_errors(x: Sequence[Any], e: Sequence[float], y: Values, function: Callable[..., Any]) -> Any:
    return sum(e)


def _largest_error(x: Sequence[Any], e: Sequence[float], y: Values, function: Callable[..., Any]) -> Any:
    return max(e)


def _product(x: Sequence[Any], e: Sequence[float], y: Values, function: Callable[..., Any]) -> Any:
    return np.abs(x[0]) * e[1] + np.abs(x[1]) * e[0] + e[0] * e[1]


def _square(x: Sequence[Any], e: Sequence[float], y: Values, function: Callable[..., Any]) -> Any:
    return 2 * np.abs(x[0]) * e[0] + e[0] * e[0]


def _quotient(x: Sequence[Any], e: Sequence[float], y: Values, function: Callable[..., Any]) -> Any:
    if e[1] == 0:
        return e[0] / np.abs(x[1])
    distance = np.abs(x[1]) - e[1]
    return np.where(distance > 0, (e[0] + np.abs(y) * e[1]) / distance, math.inf)


def _reciprocal(x: Sequence[Any], e: Sequence[float], y: Values, function: Callable[..., Any]) -> Any:
    return _quotient([1.0, x[0]], [0.0, e[0]], y, function)


def _power(x: Sequence[Any], e: Sequence[float], y: Values, function: Callable[..., Any]) -> Any:
    if np.ndim(x[1]) or e[1]:
        return math.inf
    exponent = float(x[1])
    if exponent >= 1:
        return (np.abs(x[0]) + e[0]) ** exponent - np.abs(x[0]) ** exponent
    if exponent == 0:
        return 0.0
    distance = np.abs(x[0]) - e[0]
    if exponent > 0:
        above, below = np.maximum(x[0] + e[0], 0) ** exponent, np.maximum(distance, 0) ** exponent
        return np.maximum(above - np.abs(y), np.abs(y) - below)
    return np.where(distance > 0, distance**exponent - np.abs(y), math.inf)


_RULES: dict[str, Rule] = {
    **dict.fromkeys(("absolute", "fabs", "sin", "cos", "positive", "negative"), _sum_of_errors),
    **dict.fromkeys(("add", "subtract", "hypot", "logaddexp", "logaddexp2"), _sum_of_errors),
    **dict.fromkeys(("minimum", "maximum", "fmin", "fmax", "clip", "where"), _largest_error),
    **dict.fromkeys(("exp", "exp2", "expm1", "sinh", "tanh", "arcsinh", "arctan", "cbrt"), _monotone(-math.inf)),
    **dict.fromkeys(("radians", "degrees", "deg2rad", "rad2deg"), _monotone(-math.inf)),
    **dict.fromkeys(("sqrt", "log", "log2", "log10"), _monotone(0.0)),
    "log1p": _monotone(-1.0),
    "arccosh": _monotone(1.0),
    **dict.fromkeys(("arcsin", "arccos", "arctanh"), _monotone(-1.0, 1.0)),
    "multiply": _product,
    "square": _square,
    "divide": _quotient,
    "reciprocal": _reciprocal,
    "power": _power,
    "float_power": _power,
}
_DOMAINS = {"sqrt": (0.0, math.inf), "arcsin": (-1.0, 1.0), "arccos": (-1.0, 1.0), "arccosh": (1.0, math.inf)}


class _Applied:
    """The values of a function of operands, which are computed when they are asked for, by slabs of the first axis."""

    def __init__(
        self, function: Callable[..., Any], name: str, operands: Sequence[Any], shape: tuple[int, ...]
    ) -> None:
        self.function = function
        self.name = name
        self.operands = operands
        self.shape = shape
        samples = [np.ones(1, x.dtype) if (hasattr(x, "dtype") and np.ndim(x)) or is_array(x) else x for x in operands]
        with np.errstate(all="ignore"):
            kind = np.asarray(function(*samples)).dtype
        self.dtype = kind if kind == np.bool_ or kind.kind == "f" else np.dtype(np.float64)
        if self.dtype.itemsize > 8:
            self.dtype = np.dtype(np.float64)
        self.errors = [x.error.max_abs if is_array(x) else 0.0 for x in operands]

    def arguments(self, low: tuple[int, ...], high: tuple[int, ...]) -> list[Any]:
        """Return the operands in double precision; cells that hold fill values are NaN."""
        window = tuple(slice(start, stop) for start, stop in zip(low, high, strict=True))
        values: list[Any] = []
        for x in self.operands:
            if is_array(x):
                values.append(drivers_of(x._blocks).asnumpy(numbers_or_nan(x, low, high)).astype(np.float64))
            else:
                values.append(x[window] if np.ndim(x) else x)
        return values

    def compute(self, low: tuple[int, ...], high: tuple[int, ...]) -> tuple[list[Any], Any]:
        """Return operands and result of a window; operands a little outside the domain are moved to its end."""
        x = self.arguments(low, high)
        if self.name in _DOMAINS and is_array(self.operands[0]):
            least, most = _DOMAINS[self.name]
            near = (x[0] >= least - self.errors[0]) & (x[0] <= most + self.errors[0])
            x[0] = np.where(near, np.clip(x[0], least, most), x[0])
        with np.errstate(all="ignore"):
            return x, self.function(*x)

    def __getitem__(self, index: Any) -> NDArray[Any]:
        first = index[0] if isinstance(index, tuple) else index
        start, stop, _ = first.indices(self.shape[0])
        if stop <= start:
            return np.zeros((0,) * len(self.shape), self.dtype)
        low = (start,) + (0,) * (len(self.shape) - 1)
        with np.errstate(over="ignore"):
            return np.asarray(self.compute(low, (stop, *self.shape[1:]))[1]).astype(self.dtype)

    def windows(self) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
        """Yield the slabs that the operands are decoded in."""
        return slabs(*(x for x in self.operands if is_array(x)))

    def survey(self) -> tuple[float, float, float, float]:
        """Return what errors of the operands do at most, the sum of the squares of that, and the range of values.

        Cells that have no bound make the first infinite, and are left out of the sum.
        """
        rule = _RULES.get(self.name)
        most = squares = 0.0
        least, greatest = math.inf, -math.inf
        for low, high in self.windows():
            x, y = self.compute(low, high)
            with np.errstate(all="ignore"):
                bound = math.inf if rule is None else rule(x, self.errors, y, self.function)
                bound = np.abs(np.where(np.isfinite(y), bound, 0.0))
                bound = np.where(np.isnan(bound), math.inf, bound)
                bound = bound * (1 + 2 * _ROUNDING) + np.where(np.isfinite(y), _ROUNDING * np.abs(y), 0.0)
                known = bound[np.isfinite(bound)]
                squares += float((known * known).sum())
            most = max(most, float(bound.max(initial=0.0)))
            valid = y[np.isfinite(y)]
            if valid.size:
                least, greatest = min(least, float(valid.min())), max(greatest, float(valid.max()))
        return most, squares, least, greatest


def apply(function: Callable[..., Any], *operands: Any, tolerance: float | None = None, name: str | None = None) -> Any:
    """Apply a function to every value of compressed arrays, slab by slab.

    This is what NumPy's functions do with compressed arrays: ``np.exp(a)`` is ``hb.apply(np.exp, a)``.

    Parameters
    ----------
    function : callable
        Of arrays, value by value, such as a ufunc of NumPy.
    *operands : CompressedArray, array_like or float
        One at least compressed; arrays of one shape and layout. Plain ones are this rank's part.
    tolerance : float, optional
        What compressing the result may add to its error. Default: as much as errors of the operands do in the mean, or
        a millionth of the largest value of the result where that is less.
    name : str, optional
        Of the ufunc whose rule bounds the error. Default: the function's.

    Returns
    -------
    CompressedArray or numpy.ndarray
        Functions that say yes or no, such as comparisons, give an array of bool: of the decompressed values, on this
        rank. Everything else is compressed with the block shape and the transform of the first operand. Cells without
        a number, before or after, are missing.

        Its error is bounded for the functions of NumPy that are continuous, otherwise it is infinite: the least error
        of an operand moves ``np.floor`` by one. Of functions that are defined for some numbers only, such as the
        logarithm, it is about cells where the original has a value, and operands that are outside by no more than
        their error are taken to be at the end of the domain.

    Raises
    ------
    ShapeError, LayoutError
        If shapes or layouts differ.
    UnsupportedOperationError
        If no operand is compressed, or the function does not give one value for each.

    Examples
    --------
    >>> import numpy as np, hpcblaz as hb
    >>> x = np.random.default_rng(0).normal(size=(64, 64))
    >>> y = np.exp(hb.compress(x, tolerance=1e-4))
    >>> bool(np.abs(y.decompress() - np.exp(x)).max() <= y.error.max_abs < 1e-1)
    True
    """
    arrays = [x for x in operands if is_array(x)]
    if not arrays:
        raise UnsupportedOperationError("expected a compressed array among the operands, got none: call the function")
    a = arrays[0]
    shape = a._numerics.grid.shape
    with a._comm.together():
        for b in arrays[1:]:
            check_partners(a, b)
        plain = [x if is_array(x) else _plain(x, shape) for x in operands]
        applied = _Applied(function, name or str(getattr(function, "__name__", "")), plain, shape)
    if applied.dtype == np.bool_:
        found = [np.asarray(applied.compute(low, high)[1]) for low, high in applied.windows()]
        return np.concatenate(found) if found else np.zeros(shape, np.bool_)
    return _compressed(a, applied, tolerance)


def _plain(x: Any, shape: tuple[int, ...]) -> Any:
    """Return an operand that is not compressed: a number, or an array of the shape."""
    values = np.asarray(x)
    if values.dtype.kind not in "fiub":
        raise UnsupportedOperationError(f"expected numbers as operands, got {type(x).__name__}")
    if not values.ndim:
        return x if isinstance(x, (bool, int, float)) else values[()]
    if values.shape != shape:
        raise ShapeError(f"expected an array of shape {shape}, got {values.shape}: there is no broadcasting")
    return values


def _compressed(a: "CompressedArray", applied: _Applied, tolerance: float | None) -> "CompressedArray":
    error: HpcblazError | None = None
    local = (0.0,) * 4
    try:
        local = applied.survey()
    except HpcblazError as refusal:
        error = refusal
    a._comm.agree(error)
    rows = a._comm.allgather(np.array(local))
    most, squares = float(rows[:, 0].max()), float(rows[:, 1].sum())
    least, greatest = float(rows[:, 2].min()), float(rows[:, 3].max())
    norm = math.sqrt(squares) * (1 + 2.0**-40) if math.isfinite(most) else math.inf
    largest = max(abs(least), abs(greatest)) if least <= greatest else 0.0
    if applied.dtype.itemsize < 8:
        rounded = half_unit(applied.dtype, largest)
        most, norm = most + rounded, norm + math.sqrt(a.size) * rounded
    codec = a.codec
    if isinstance(codec, BlockCodec) and tolerance is not None:
        codec = ToleranceCodec(codec.block_shape, codec.transform)
    if isinstance(codec, BlockCodec):
        target = Target("codec", 0.0, codec)
    else:
        typical = math.sqrt(squares / a.size) if a.size else 0.0
        finest = max(_FINEST, 4 * float(np.finfo(applied.dtype).eps)) * largest
        wanted = tolerance if tolerance is not None else max(typical, finest)
        target = Target.of(wanted or 1.0, None, None, None, codec)
    with a._comm.together():
        source = StreamedInput.of(applied, target.codec, a.layout, "cpu")
    result = compress_input(source, target, a._comm, None, type(a))
    bound = result._field_error
    added = ErrorBound(bound.max_abs + most, bound.l2 + norm)
    result = result._replace(field_error=added, magnitude=result._magnitude + most)
    return result if a.device == "cpu" else result.to_device("gpu")
