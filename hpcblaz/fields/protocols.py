"""NumPy's functions of compressed arrays: what the compressed domain can do is done there, the rest value by value."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from hpcblaz.errors import UnsupportedOperationError
from hpcblaz.fields import arithmetic, elementwise, extremes, pieces, quantiles, statistics
from hpcblaz.fields.arithmetic import is_array

Function = Callable[..., Any]


def ufunc(function: np.ufunc, method: str, inputs: tuple[Any, ...], options: dict[str, Any]) -> Any:
    """Return what a ufunc of NumPy gives for compressed arrays; see ``__array_ufunc__`` of NumPy.

    Raises
    ------
    UnsupportedOperationError
        If an option or a method is asked for that has no meaning here.
    """
    given = {key: value for key, value in options.items() if not (value is None or isinstance(value, tuple))}
    if method == "reduce" and function in _REDUCTIONS:
        return _reduce(_REDUCTIONS[function], *inputs, **given)
    if method != "__call__" or function.nout != 1 or given:
        what = f"np.{function.__name__}" + ("" if method == "__call__" else f".{method}")
        rest = f" with {', '.join(given)}" if given else ""
        raise UnsupportedOperationError(f"expected a function of each value, got {what}{rest}: use np.asarray(a)")
    if function in _LINEAR and all(is_array(x) or np.ndim(x) == 0 for x in inputs):
        result = _LINEAR[function](*inputs)
        if result is not NotImplemented:
            return result
    return elementwise.apply(function, *inputs)


def function(function: Function, arguments: Iterable[Any], options: dict[str, Any]) -> Any:
    """Return what a function of NumPy gives for compressed arrays; see ``__array_function__`` of NumPy.

    Raises
    ------
    UnsupportedOperationError
        If it is none of those that compressed arrays have.
    """
    if function not in _FUNCTIONS:
        raise UnsupportedOperationError(
            f"expected a function that compressed arrays have, got np.{function.__name__}: use np.asarray(a) for it"
        )
    return _FUNCTIONS[function](*arguments, **options)


def _add(x: Any, y: Any) -> Any:
    return arithmetic.add(x, y, 1.0, 1.0) if is_array(x) else arithmetic.add(y, x, 1.0, 1.0)


def _subtract(x: Any, y: Any) -> Any:
    return arithmetic.add(x, y, 1.0, -1.0) if is_array(x) else arithmetic.add(y, x, -1.0, 1.0)


def _multiply(x: Any, y: Any) -> Any:
    if is_array(x) and is_array(y):
        return NotImplemented
    return arithmetic.multiply(x, y) if is_array(x) else arithmetic.multiply(y, x)


def _divide(x: Any, y: Any) -> Any:
    return NotImplemented if is_array(y) else arithmetic.divide(x, y)


def _isnan(a: Any) -> Any:
    return _kinds(a, ("nan",))


def _isinf(a: Any) -> Any:
    return _kinds(a, ("+inf", "-inf"))


def _isfinite(a: Any) -> Any:
    return ~_kinds(a, ("nan", "+inf", "-inf"))


def _kinds(a: Any, kinds: tuple[str, ...]) -> Any:
    shape = a._numerics.grid.shape
    flags = np.zeros(shape, np.bool_)
    for kind in kinds:
        if a._missing is not None and kind in a._missing.sets:
            flags |= a._missing.sets[kind].window(shape, (0,) * len(shape), shape)
    return flags


def _negative(a: Any) -> Any:
    return -a


def _same(a: Any) -> Any:
    return a


_LINEAR: dict[np.ufunc, Function] = {
    np.add: _add,
    np.subtract: _subtract,
    np.multiply: _multiply,
    np.divide: _divide,
    np.negative: _negative,
    np.positive: _same,
    np.isnan: _isnan,
    np.isinf: _isinf,
    np.isfinite: _isfinite,
}


def _reduce(of: Function, a: Any, axis: Any = None, **options: Any) -> Any:
    """Reduce over all values, or along axes; options of NumPy that say what holds anyway are taken."""
    harmless = {"keepdims": (False, np._NoValue), "initial": (np._NoValue,), "where": (True, np._NoValue)}
    for key, value in options.items():
        if not (value is None or any(value is one for one in harmless.get(key, ()))):
            raise UnsupportedOperationError(
                f"expected no {key} for a compressed array, got {value!r}: use np.asarray(a)"
            )
    if axis is None or (isinstance(axis, tuple) and len(axis) == a.ndim) or (a.ndim == 1 and axis in (0, -1)):
        return of(a)
    return of(a, axis)


def _over_all(of: Function) -> Function:
    """Return a reduction that has no axes."""

    def reduction(a: Any, axis: Any = None) -> Any:
        if axis is not None:
            raise UnsupportedOperationError(f"expected no axis, got {axis!r}: use np.asarray(a) for one")
        return of(a)

    return reduction


def _ignoring_missing(of: Function) -> Function:
    def reduction(a: Any, axis: Any = None, **options: Any) -> Any:
        return _reduce(of, a, axis, **options)

    return reduction


_REDUCTIONS: dict[np.ufunc, Function] = {
    np.add: statistics.total,
    np.maximum: _over_all(extremes.maximum),
    np.minimum: _over_all(extremes.minimum),
}


def _spread(of: Function) -> Function:
    def reduction(a: Any, axis: Any = None, dtype: Any = None, out: Any = None, ddof: int = 0, **options: Any) -> Any:
        return _reduce(_over_all(lambda b: of(b, ddof=ddof)), a, axis, dtype=dtype, out=out, **options)

    return reduction


def _argument(of: Function) -> Function:
    def reduction(a: Any, axis: Any = None, out: Any = None) -> int:
        index: tuple[int, ...] = _reduce(_over_all(of), a, axis, out=out)
        return int(np.ravel_multi_index(index, a.shape))

    return reduction


def _quantile(a: Any, q: Any, axis: Any = None, **options: Any) -> Any:
    return _reduce(_over_all(lambda b: quantiles.quantile(b, q)), a, axis, **options)


def _percentile(a: Any, q: Any, axis: Any = None, **options: Any) -> Any:
    return _quantile(a, q / 100, axis, **options)


def _clip(a: Any, a_min: Any = None, a_max: Any = None, **options: Any) -> Any:
    low, high = options.get("min", a_min), options.get("max", a_max)
    least = -np.inf if low is None else low
    most = np.inf if high is None else high
    return elementwise.apply(np.clip, a, least, most, name="clip")


def _where(condition: Any, *choices: Any) -> Any:
    return elementwise.apply(np.where, condition, *choices, name="where")


def _norm(x: Any, ord: Any = None, axis: Any = None, keepdims: bool = False) -> Any:
    if ord not in (None, 2) or axis is not None or (ord == 2 and x.ndim != 1):
        raise UnsupportedOperationError(f"expected the 2-norm of all values, got ord={ord!r}, axis={axis!r}")
    return statistics.norm(x)


def _dot(a: Any, b: Any) -> Any:
    if not (is_array(a) and is_array(b)) or a.ndim != 1:
        raise UnsupportedOperationError("expected two compressed arrays of one axis, got others: hb.dot takes any axes")
    return statistics.dot(a, b)


def _vdot(a: Any, b: Any) -> Any:
    return statistics.dot(a, b)


def _shape(a: Any) -> Any:
    return a.shape


def _ndim(a: Any) -> Any:
    return a.ndim


def _size(a: Any, axis: int | None = None) -> Any:
    return a.size if axis is None else a.shape[axis]


_FUNCTIONS: dict[Function, Function] = {
    np.sum: _ignoring_missing(statistics.total),
    np.nansum: _ignoring_missing(statistics.total),
    np.mean: _ignoring_missing(statistics.mean),
    np.nanmean: _ignoring_missing(statistics.mean),
    np.var: _spread(statistics.variance),
    np.nanvar: _spread(statistics.variance),
    np.std: _spread(statistics.standard_deviation),
    np.nanstd: _spread(statistics.standard_deviation),
    np.max: _ignoring_missing(_over_all(extremes.maximum)),
    np.nanmax: _ignoring_missing(_over_all(extremes.maximum)),
    np.min: _ignoring_missing(_over_all(extremes.minimum)),
    np.nanmin: _ignoring_missing(_over_all(extremes.minimum)),
    np.argmax: _argument(extremes.argmax),
    np.argmin: _argument(extremes.argmin),
    np.median: _ignoring_missing(_over_all(quantiles.median)),
    np.quantile: _quantile,
    np.percentile: _percentile,
    np.concatenate: pieces.concatenate,
    np.clip: _clip,
    np.where: _where,
    np.dot: _dot,
    np.vdot: _vdot,
    np.linalg.norm: _norm,
    np.shape: _shape,
    np.ndim: _ndim,
    np.size: _size,
}
