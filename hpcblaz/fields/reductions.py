"""Sums and means along axes: slabs are decoded, summed exactly, and what comes out is compressed again."""

import math
import operator
from typing import TYPE_CHECKING, Any

import numpy as np

from hpcblaz.backend.dispatch import drivers_of
from hpcblaz.errors import ShapeError
from hpcblaz.fields.arithmetic import value_bound
from hpcblaz.fields.certificates import UNIT
from hpcblaz.fields.codec import ToleranceCodec, grid_of
from hpcblaz.fields.encoding import encode_result
from hpcblaz.fields.filling import fill
from hpcblaz.fields.gaps import decode_window, slabs, valid_cells
from hpcblaz.fields.missing import CellSet, Missing
from hpcblaz.fields.moments import check_values, payload_bound
from hpcblaz.fields.scalars import ErrorBound

if TYPE_CHECKING:
    from hpcblaz.fields.array import CompressedArray

Axes = int | tuple[int, ...]
_FINER = 1 / 16  # of the error of the array: what compressing a result again may add


def sum_along(a: "CompressedArray", axis: Axes) -> "CompressedArray":
    """Return the field of sums along some axes; see :func:`hpcblaz.total`."""
    return _reduced(a, axis, "sum")


def mean_along(a: "CompressedArray", axis: Axes) -> "CompressedArray":
    """Return the field of means along some axes; see :func:`hpcblaz.mean`."""
    return _reduced(a, axis, "mean")


def _reduced(a: "CompressedArray", axis: Axes, name: str) -> "CompressedArray":
    check_values(a, a.size, name)
    with a._comm.together():
        axes = _axes(axis, a.ndim)
    kept = [i for i in range(a.ndim) if i not in axes]
    if a._comm.allgather(np.array([a._missing is not None])).any():
        return _reduced_with_gaps(a, axes, kept, name)
    count = math.prod(a.shape[i] for i in axes)
    weight = count if name == "sum" else 1
    bound = payload_bound(a)
    sums, _ = _sums(a._replace(factor=1.0, offset=0.0), axes, kept, bound * count)
    own = min(a._field_error.max_abs, a._field_error.l2 / math.sqrt(count))
    wanted = own * _FINER / abs(a._factor) if a._factor and own else bound * 2.0**-40
    codec = _codec_of(a, kept)
    blocks, numerics, added = encode_result(sums / count, codec, wanted, drivers_of(a._blocks))
    cells = math.sqrt(sums.size)
    # Values are rounded to count times 2**-51 of the largest payload, or less; factors, offsets and quotients as well
    rounding = (count * 2.0**-50 + 16 * UNIT) * bound * abs(a._factor) + 16 * UNIT * (a._magnitude + abs(a._offset))
    factor = abs(a._factor) * (1 + 2.0**-40)
    return a._replace(
        blocks=blocks,
        numerics=numerics,
        codec=codec,
        dtype=_dtype_of(a),
        layout=None,
        factor=a._factor * weight,
        offset=a._offset * weight,
        magnitude=a._magnitude * weight,
        field_error=ErrorBound(
            weight * (own + factor * added.max_abs + rounding),
            weight * (a._field_error.l2 / math.sqrt(count) + factor * added.l2 + cells * rounding),
        ),
    )


def _reduced_with_gaps(a: "CompressedArray", axes: set[int], kept: list[int], name: str) -> "CompressedArray":
    """Reduce what is not missing; a mean of nothing is missing, a sum of nothing is zero, as in NumPy's nansum."""
    drivers = drivers_of(a._blocks)
    xp = drivers.array_module()
    count = math.prod(a.shape[i] for i in axes)
    bound = value_bound(a)
    sums, counts = _sums(a, axes, kept, bound * count)
    least, most = int(xp.where(counts > 0, counts, count).min()), int(counts.max())
    error = a._field_error
    weight = most if name == "sum" else 1
    own = min(weight * error.max_abs, error.l2 * (math.sqrt(most) if name == "sum" else 1 / math.sqrt(least)))
    l2 = error.l2 * (math.sqrt(most) if name == "sum" else 1 / math.sqrt(least))
    values = sums if name == "sum" else sums / xp.maximum(counts, 1)
    codec = _codec_of(a, kept)
    missing = None
    if name == "mean" and least and bool((counts == 0).any()):
        flags = drivers.asnumpy(counts == 0)
        fill(values, flags, grid_of(codec, values.shape), xp, drivers.asarray)
        missing = Missing.of(tuple(values.shape), {"nan": CellSet.of(flags)})
    wanted = own * _FINER if own else weight * bound * 2.0**-40
    blocks, numerics, added = encode_result(values, codec, wanted, drivers)
    rounding = weight * (count * 2.0**-50 + 16 * UNIT) * bound
    return a._replace(
        blocks=blocks,
        numerics=numerics,
        codec=codec,
        dtype=_dtype_of(a),
        layout=None,
        factor=1.0,
        offset=0.0,
        magnitude=bound * weight,
        missing=missing,
        field_error=ErrorBound(own + added.max_abs + rounding, l2 + added.l2 + math.sqrt(values.size) * rounding),
    )


def _codec_of(a: "CompressedArray", kept: list[int]) -> ToleranceCodec:
    return ToleranceCodec(tuple((a.codec.block_shape or ())[i] for i in kept), a.codec.transform)


def _dtype_of(a: "CompressedArray") -> np.dtype[Any]:
    return np.dtype(np.float32) if a.dtype.name in ("float16", "float32") else np.dtype(np.float64)


def _axes(axis: Axes, ndim: int) -> set[int]:
    """Return the numbers of axes; raise ShapeError unless some are left."""
    given = axis if isinstance(axis, tuple) else (axis,)
    try:
        numbers = [operator.index(one) for one in given]
    except TypeError:
        numbers = []
    axes = {number % ndim for number in numbers if -ndim <= number < ndim}
    if len(axes) != len(given) or not 0 < len(axes) < ndim:
        raise ShapeError(
            f"expected 1 to {ndim - 1} different axes of {ndim}, from {-ndim} to {ndim - 1}, got {axis!r}: "
            "leave axis out for a number"
        )
    return axes


def _sums(a: "CompressedArray", axes: set[int], kept: list[int], largest: float) -> tuple[Any, Any]:
    """Return the sums of what is not missing, and of how many cells, in the order of the kept axes.

    They are on the array's device. Values are rounded to multiples of one power of two before they are summed: sums,
    of at most `largest`, are exact, in whatever order.
    """
    drivers, grid = drivers_of(a._blocks), a._numerics.grid
    xp = drivers.array_module()
    quantum = math.ldexp(1.0, math.frexp(largest)[1] - 51)
    rounder = quantum * 1.5 * 2.0**52
    along = tuple(sorted(axes))
    shape = tuple(grid.shape[i] for i in kept)
    local, counts = xp.zeros(shape), xp.zeros(shape)
    for low, high in slabs(a):
        values = decode_window(a, low, high)
        values += rounder
        values -= rounder
        valid = valid_cells(low, high, a)
        if valid is not None:
            values *= drivers.asarray(valid)
        part = values.sum(axis=along)
        number = math.prod(values.shape[i] for i in along) if valid is None else drivers.asarray(valid.sum(axis=along))
        if 0 in axes:
            local += part
            counts += number
        else:
            local[low[0] : high[0]] = part
            counts[low[0] : high[0]] = number
    if a.layout is None:
        return local, counts
    begin = tuple(a.layout.offset[i] for i in kept)
    whole = np.zeros((2, *(a.shape[i] for i in kept)))
    own = drivers.asnumpy(xp.stack([local, counts]))
    for offset, piece in a._comm.gather_objects((begin, own)):
        whole[(slice(None), *(slice(o, o + n) for o, n in zip(offset, piece.shape[1:], strict=True)))] += piece
    return drivers.asarray(whole[0]), drivers.asarray(whole[1])
