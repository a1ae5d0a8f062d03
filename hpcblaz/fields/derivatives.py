"""Derivatives by finite differences: decoded with a halo, differenced, and compressed again."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from hpcblaz.backend.dispatch import drivers_of
from hpcblaz.errors import ShapeError, UnsupportedOperationError
from hpcblaz.fields.arithmetic import check_partners, real, result_dtype
from hpcblaz.fields.certificates import UNIT
from hpcblaz.fields.codec import ToleranceCodec
from hpcblaz.fields.encoding import encode_result
from hpcblaz.fields.halo import Neighbourhood, doubles_with_halo
from hpcblaz.fields.moments import check_array, check_no_missing
from hpcblaz.fields.scalars import ErrorBound

if TYPE_CHECKING:
    from hpcblaz.fields.array import CompressedArray

_FINER = 1 / 16  # of the error of a derivative: what compressing it again may add


def gradient(a: "CompressedArray", spacing: float | Sequence[float] = 1.0) -> "list[CompressedArray]":
    """Return the derivatives of an array along all axes, by the differences of ``np.gradient``.

    Central differences of neighbours inside, one-sided ones at the faces of the field. This rank's part is decoded in
    double precision, with one cell of its neighbours around it.

    Parameters
    ----------
    a : CompressedArray
        At least two cells along every axis.
    spacing : float or sequence of float, default 1.0
        Distance of cells, along all axes or along each.

    Returns
    -------
    list of CompressedArray
        One for each axis, with the layout of `a`. The error is with respect to the same differences of the original
        data: twice that of `a` over the spacing, and a sixteenth of that for compressing the result.

    Raises
    ------
    ShapeError
        If an axis has fewer than two cells, or there are not as many spacings as axes.
    UnsupportedOperationError
        If a spacing is not positive, or there are missing values.

    Examples
    --------
    >>> import numpy as np, hpcblaz as hb
    >>> x = np.sin(np.linspace(0, 6, 4000)).reshape(40, 100)
    >>> along = hb.gradient(hb.compress(x, tolerance=1e-4), spacing=(0.1, 0.02))[1]
    >>> bool(abs(along.decompress() - np.gradient(x, 0.02, axis=1)).max() <= along.error.max_abs)
    True
    """
    steps = _checked([a], spacing, range(getattr(a, "ndim", 0)))
    around = doubles_with_halo(a, 1, 1)
    return [_compressed([a], [step], _difference(a, around, axis) / step, [axis]) for axis, step in enumerate(steps)]


def divergence(components: "Sequence[CompressedArray]", spacing: float | Sequence[float] = 1.0) -> "CompressedArray":
    """Return the divergence of a vector field: the sum of the derivative of each component along its own axis.

    Parameters
    ----------
    components : sequence of CompressedArray
        As many as axes, of one shape and layout.
    spacing : float or sequence of float, default 1.0
        As for :func:`gradient`.

    Returns
    -------
    CompressedArray
        With the layout of the components. Its error is the sum of those of the derivatives.

    Raises
    ------
    ShapeError, LayoutError, UnsupportedOperationError
        As for :func:`gradient`; or if components differ in shape or layout, or are not as many as axes.

    Examples
    --------
    >>> import numpy as np, hpcblaz as hb
    >>> u, v = np.random.default_rng(0).normal(size=(2, 50, 60))
    >>> d = hb.divergence([hb.compress(u, tolerance=1e-3), hb.compress(v, tolerance=1e-3)])
    >>> exact = np.gradient(u, axis=0) + np.gradient(v, axis=1)
    >>> bool(abs(d.decompress() - exact).max() <= d.error.max_abs)
    True
    """
    parts = list(components)
    steps = _checked(parts, spacing, range(len(parts)))
    total: Any = 0.0
    for axis, (a, step) in enumerate(zip(parts, steps, strict=True)):
        total = total + _difference(a, doubles_with_halo(a, 1, 1), axis) / step
    return _compressed(parts, steps, total, range(len(parts)))


def _checked(parts: "list[CompressedArray]", spacing: Any, axes: range) -> list[float]:
    """Return the spacing along each axis; raise unless arrays and spacings are as described above."""
    if not parts:
        raise ShapeError("expected a component for each axis, got none")
    check_array(parts[0], "the first component" if len(parts) > 1 else "a")
    first = parts[0]
    with first._comm.together():
        for a in parts:
            check_array(a, "every component")
            check_partners(first, a)
        check_no_missing("derivatives", *parts)
        if len(axes) != first.ndim:
            raise ShapeError(f"expected a component for each of the {first.ndim} axes, got {len(axes)}")
        if min(first.shape) < 2:
            raise ShapeError(f"expected at least two cells along every axis, got shape {first.shape}")
        given = list(spacing) if isinstance(spacing, (list, tuple, np.ndarray)) else [spacing] * first.ndim
        if len(given) != first.ndim:
            raise ShapeError(f"expected a spacing for each of the {first.ndim} axes, got {len(given)}")
        steps = [real(step, "divide by") for step in given]
        if min(steps) <= 0:
            raise UnsupportedOperationError(f"expected positive spacings, got {spacing!r}")
    return steps


def _difference(a: "CompressedArray", around: Neighbourhood, axis: int) -> Any:
    """Return the differences of neighbours along an axis, by their distance in cells, for this rank's part."""
    xp = drivers_of(a._blocks).array_module()
    if not a._numerics.grid.size:
        return xp.zeros(a._numerics.grid.shape)
    begin = a.layout.offset if a.layout is not None else (0,) * a.ndim
    own = [slice(b - o, b - o + n) for b, o, n in zip(begin, around.low, a._numerics.grid.shape, strict=True)]
    own[axis] = slice(None)
    values = around.values[tuple(own)]
    cells = begin[axis] + np.arange(a._numerics.grid.shape[axis])
    above, below = np.minimum(cells + 1, a.shape[axis] - 1), np.maximum(cells - 1, 0)
    distance = (above - below).reshape([-1 if i == axis else 1 for i in range(a.ndim)])
    first, last = (xp.asarray(index - around.low[axis]) for index in (below, above))
    return (xp.take(values, last, axis=axis) - xp.take(values, first, axis=axis)) / xp.asarray(distance)


def _compressed(
    parts: "list[CompressedArray]", steps: list[float], values: Any, axes: Sequence[int]
) -> "CompressedArray":
    """Return the sum of derivatives, each of one array along one axis, as a compressed array."""
    first = parts[0]
    max_abs = l2 = rounding = magnitude = 0.0
    for a, step, axis in zip(parts, steps, axes, strict=True):
        # The norm of differences: at most the root of the largest sum of magnitudes in a row (2) times that in a column
        gain = math.sqrt(3.0) * (1 + 2.0**-50) if a.shape[axis] > 3 else 2.0
        max_abs += 2 * a._field_error.max_abs / step
        l2 += gain * a._field_error.l2 / step
        magnitude += 2 * a._magnitude / step
        rounding += 64 * len(parts) * UNIT * (a._magnitude + a._field_error.max_abs + abs(a._offset)) / step
    codec = ToleranceCodec(first.codec.block_shape, first.codec.transform)
    wanted = _FINER * max_abs if max_abs else 2.0**-40 * magnitude
    blocks, numerics, added = encode_result(values, codec, wanted, drivers_of(first._blocks))
    rows = first._comm.allgather(np.array([added.max_abs, added.l2]))
    kinds = [result_dtype(a, 1.0) for a in parts]
    return first._replace(
        blocks=blocks,
        numerics=numerics,
        codec=codec,
        dtype=np.result_type(np.float32, *kinds),
        factor=1.0,
        offset=0.0,
        magnitude=magnitude * (1 + 2.0**-40),
        field_error=ErrorBound(
            (max_abs + float(rows[:, 0].max())) * (1 + 2.0**-40) + rounding,
            (l2 + float(np.hypot.reduce(rows[:, 1]))) * (1 + 2.0**-40) + math.sqrt(first.size) * rounding,
        ),
    )
