"""Sums and means along axes: slabs are decoded, summed exactly, and what comes out is compressed again."""

import math
import operator
from typing import TYPE_CHECKING, Any

import numpy as np

from hpcblaz.backend.dispatch import drivers_of
from hpcblaz.errors import ShapeError
from hpcblaz.fields.certificates import UNIT
from hpcblaz.fields.codec import ToleranceCodec
from hpcblaz.fields.encoding import encode_result
from hpcblaz.fields.gaps import decode_window, slabs
from hpcblaz.fields.moments import check_no_missing, check_values, payload_bound
from hpcblaz.fields.scalars import ErrorBound

if TYPE_CHECKING:
    from hpcblaz.fields.array import CompressedArray

Axes = int | tuple[int, ...]
_FINER = 1 / 16  # of the error of the array: what compressing a result again may add


def sum_along(a: "CompressedArray", axis: Axes) -> "CompressedArray":
    """Return the field of sums along some axes; see :func:`hpcblaz.total`."""
    return _reduced(a, axis, "sum", lambda count: count)


def mean_along(a: "CompressedArray", axis: Axes) -> "CompressedArray":
    """Return the field of means along some axes; see :func:`hpcblaz.mean`."""
    return _reduced(a, axis, "mean", lambda count: 1)


def _reduced(a: "CompressedArray", axis: Axes, name: str, times: Any) -> "CompressedArray":
    check_values(a, a.size, name)
    with a._comm.together():
        axes = _axes(axis, a.ndim)
        check_no_missing(f"a {name} along an axis", a)
    kept = [i for i in range(a.ndim) if i not in axes]
    count = math.prod(a.shape[i] for i in axes)
    means = _means(a, axes, kept, count)
    codec = ToleranceCodec(tuple((a.codec.block_shape or ())[i] for i in kept), a.codec.transform)
    bound = payload_bound(a)
    own = min(a._field_error.max_abs, a._field_error.l2 / math.sqrt(count))
    wanted = own * _FINER / abs(a._factor) if a._factor and own else bound * 2.0**-40
    blocks, numerics, added = encode_result(means, codec, wanted, drivers_of(a._blocks))
    cells, weight = math.sqrt(means.size), times(count)
    # Values are rounded to count times 2**-51 of the largest payload, or less; factors, offsets and quotients as well
    rounding = (count * 2.0**-50 + 16 * UNIT) * bound * abs(a._factor) + 16 * UNIT * (a._magnitude + abs(a._offset))
    factor = abs(a._factor) * (1 + 2.0**-40)
    kind = np.dtype(np.float32) if a.dtype.name in ("float16", "float32") else np.dtype(np.float64)
    return a._replace(
        blocks=blocks,
        numerics=numerics,
        codec=codec,
        dtype=kind,
        layout=None,
        factor=a._factor * weight,
        offset=a._offset * weight,
        magnitude=a._magnitude * weight,
        field_error=ErrorBound(
            weight * (own + factor * added.max_abs + rounding),
            weight * (a._field_error.l2 / math.sqrt(count) + factor * added.l2 + cells * rounding),
        ),
    )


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


def _means(a: "CompressedArray", axes: set[int], kept: list[int], count: int) -> Any:
    """Return the means of the payload, in the order of the kept axes, on the array's device.

    Values are rounded to multiples of one power of two before they are summed: sums are exact, in whatever order.
    """
    drivers, grid = drivers_of(a._blocks), a._numerics.grid
    xp = drivers.array_module()
    payload = a._replace(factor=1.0, offset=0.0)
    quantum = math.ldexp(1.0, math.frexp(payload_bound(a) * count)[1] - 51)
    rounder = quantum * 1.5 * 2.0**52
    along = tuple(sorted(axes))
    local = xp.zeros(tuple(grid.shape[i] for i in kept))
    for low, high in slabs(a):
        values = decode_window(payload, low, high)
        values += rounder
        values -= rounder
        part = values.sum(axis=along)
        if 0 in axes:
            local += part
        else:
            local[low[0] : high[0]] = part
    if a.layout is None:
        return local / count
    begin = tuple(a.layout.offset[i] for i in kept)
    whole = np.zeros(tuple(a.shape[i] for i in kept))
    for offset, piece in a._comm.gather_objects((begin, drivers.asnumpy(local))):
        whole[tuple(slice(o, o + n) for o, n in zip(offset, piece.shape, strict=True))] += piece
    return drivers.asarray(whole / count)
