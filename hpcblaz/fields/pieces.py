"""Parts of compressed arrays, and arrays put together, without decoding: whole blocks are moved as they are."""

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hpcblaz.backend import dense
from hpcblaz.backend.dispatch import drivers_of
from hpcblaz.backend.payload import Blocks, FixedBlocks, Numerics, PackedBlocks
from hpcblaz.errors import CodecError, LayoutError, ShapeError, ToleranceError, UnsupportedOperationError
from hpcblaz.fields.arithmetic import FUZZ, SPREAD, UNDERFLOW, check_same_codec, result_dtype, value_bound
from hpcblaz.fields.boxes import Box, Held, brought_together, exponents_of, put_together
from hpcblaz.fields.codec import grid_of
from hpcblaz.fields.moments import check_array, has_means
from hpcblaz.fields.scalars import ErrorBound
from hpcblaz.fields.window import Window
from hpcblaz.mpi import Layout

if TYPE_CHECKING:
    from hpcblaz.fields.array import CompressedArray

Cell = tuple[int, ...]


def crop(a: "CompressedArray", index: Any) -> "CompressedArray":
    """Return a box of an array as a compressed array, without loss: the blocks of the box are kept as they are.

    Parameters
    ----------
    a : CompressedArray
    index : slice or tuple of slice
        As for ``a[index]``, of step 1. A box begins at the first cell of a block, and ends at that of another one or at
        the end of the axis.

    Returns
    -------
    CompressedArray
        With a layout, the box is dealt out anew over the ranks, by the default ``Layout`` of its shape.

    Raises
    ------
    ShapeError
        If the box is not made of whole blocks; the message names the nearest that is.
    UnsupportedOperationError
        If the index is not made of slices of step 1.

    Examples
    --------
    >>> import numpy as np, hpcblaz as hb
    >>> a = hb.compress(np.random.default_rng(0).normal(size=(100, 100)), tolerance=1e-3)
    >>> b = hb.crop(a, (slice(16, 48), slice(96, None)))
    >>> b.shape, bool((b.decompress() == a[16:48, 96:]).all())
    ((32, 4), True)
    """
    check_array(a, "a")
    with a._comm.together():
        entries = index if isinstance(index, tuple) else (index,)
        if any(not isinstance(entry, slice) and entry is not Ellipsis for entry in entries):
            raise UnsupportedOperationError(
                f"expected slices to crop with, got {index!r}: a[...] decodes other indices"
            )
        if any(isinstance(entry, slice) and entry.step not in (None, 1) for entry in entries):
            raise UnsupportedOperationError(f"expected slices of step 1 to crop with, got {index!r}")
        window = Window.of(index, a.shape)
        _check_aligned(window, a)
    shape = tuple(high - low for low, high in zip(window.low, window.high, strict=True))
    parts = [(a, tuple(-low for low in window.low))]
    error = a._field_error
    l2 = min(error.l2, math.sqrt(math.prod(shape)) * error.max_abs * (1 + 2.0**-50))
    return _assemble(parts, shape, field_error=ErrorBound(error.max_abs, l2), promise=a._promise)


def concatenate(arrays: "Sequence[CompressedArray]", axis: int = 0) -> "CompressedArray":
    """Return arrays one after the other along an axis, without decoding them.

    Blocks are kept as they are. Only arrays with another factor or offset than the one of the largest error, such as
    scaled ones and constant fields, have their coefficients rounded anew, which adds a little to their error.

    Parameters
    ----------
    arrays : sequence of CompressedArray
        At least one; of one codec, and of one shape but along `axis`, where all but the last are whole blocks long.
    axis : int, default 0
        Axis to put them together along.

    Returns
    -------
    CompressedArray
        With layouts, it is dealt out anew over the ranks, by the default ``Layout`` of its shape.

    Raises
    ------
    ShapeError
        If shapes do not fit, or blocks would be cut by a seam.
    CodecError, LayoutError, UnsupportedOperationError
        If codecs or communicators differ, or arrays of the identity have different factors and offsets.

    Examples
    --------
    >>> import numpy as np, hpcblaz as hb
    >>> x = np.random.default_rng(0).normal(size=(96, 50))
    >>> parts = [hb.compress(part, tolerance=1e-3) for part in (x[:32], x[32:])]
    >>> a = hb.concatenate(parts)
    >>> a.shape, bool(abs(a.decompress() - x).max() <= a.error.max_abs)
    ((96, 50), True)
    """
    operands = list(arrays)
    if not operands:
        raise ShapeError("expected at least one array to concatenate, got none")
    first = operands[0]
    check_array(first, "arrays[0]")
    with first._comm.together():
        for number, a in enumerate(operands):
            check_array(a, f"arrays[{number}]")
        axis = _check_fitting(operands, axis)
    like = max(operands, key=lambda a: a._field_error.max_abs)  # the coarsest, to whose steps others can be rounded
    largest = max(value_bound(a) + abs(a._offset) for a in operands) + abs(like._offset)
    based = [_rebased(a, like, largest) for a in operands]
    starts = np.cumsum([0, *(a.shape[axis] for a in based)])
    parts = [
        (a, tuple(int(start) if i == axis else 0 for i in range(first.ndim)))
        for a, start in zip(based, starts[:-1], strict=True)
    ]
    shape = tuple(int(starts[-1]) if i == axis else n for i, n in enumerate(first.shape))
    known = [a._promise for a in based if a._promise is not None]
    alike = all(a.dtype == first.dtype for a in based)
    return _assemble(
        parts,
        shape,
        dtype=first.dtype
        if len({a.dtype for a in based}) == 1
        else np.result_type(*(result_dtype(a, 1.0) for a in based)),
        magnitude=max(a._magnitude for a in based),
        field_error=ErrorBound(
            max(a._field_error.max_abs for a in based),
            float(np.hypot.reduce([a._field_error.l2 for a in based])) * (1 + len(based) * 2.0**-51),
        ),
        promise=max(known) if alike and len(known) == len(based) else None,
    )


def _check_aligned(window: Window, a: "CompressedArray") -> None:
    sides = a.codec.block_shape or ()
    box = list(zip(window.low, window.high, a.shape, sides, strict=True))
    if all(low % side == 0 and (high % side == 0 or high == n) for low, high, n, side in box if high > low):
        return
    nearest = ", ".join(f"{low // side * side}:{min(n, -(-high // side) * side)}" for low, high, n, side in box)
    raise ShapeError(
        f"expected a box of whole blocks of {sides}, got {window.low} to {window.high}: take [{nearest}], or compress "
        "the decoded values of a[...]"
    )


def _check_fitting(arrays: "list[CompressedArray]", axis: Any) -> int:
    """Return the axis as a number from 0; raise unless the arrays can be put together along it."""
    first = arrays[0]
    if isinstance(axis, bool) or not isinstance(axis, (int, np.integer)) or not -first.ndim <= axis < first.ndim:
        raise ShapeError(f"expected an axis from {-first.ndim} to {first.ndim - 1}, got {axis!r}")
    axis = int(axis) % int(first.ndim)
    side = (first.codec.block_shape or ())[axis]
    for number, a in enumerate(arrays):
        if a.ndim != first.ndim or any(
            i != axis and m != n for i, (m, n) in enumerate(zip(a.shape, first.shape, strict=True))
        ):
            raise ShapeError(f"expected arrays of one shape but along axis {axis}, got {first.shape} and {a.shape}")
        check_same_codec(first, a)
        if a.device != first.device:
            raise UnsupportedOperationError(
                f"expected arrays on one device, got {first.device} and {a.device}: move one with a.to_device(...)"
            )
        if (a.layout is None) != (first.layout is None) or (a._comm.size, a._comm.rank) != (
            first._comm.size, first._comm.rank,
        ):  # fmt: skip
            raise LayoutError("expected arrays with layouts of one communicator, or none with a layout")
        if number < len(arrays) - 1 and a.shape[axis] % side:
            raise ShapeError(
                f"expected all arrays but the last to be whole blocks of {side} long along axis {axis}, got "
                f"{a.shape[axis]}: its last block would lie across the seam; compress such parts together"
            )
        if (a._factor, a._offset) != (first._factor, first._offset) and not has_means(first):
            raise UnsupportedOperationError(
                "expected arrays of the identity transform with one factor and offset, got different ones: concatenate "
                "before scaling"
            )
    return int(axis)


def _rebased(a: "CompressedArray", like: "CompressedArray", largest: float) -> "CompressedArray":
    """Return an array with the factor and offset of another: its coefficients are rounded anew if they differ.

    Steps are fine relative to its error, but no finer than those of the other array allow, or `largest` does.
    """
    if (a._factor, a._offset) == (like._factor, like._offset):
        return a
    host = a.to_device("cpu")
    lead = like._factor or 1.0
    term = dense.Term(host._blocks, a._factor / lead, (a._offset - like._offset) / lead)
    numerics = replace(a._numerics, precision="float64")
    blocks, lost = host._blocks, (0.0, 0.0)
    with a._comm.together():
        if like._factor == 0:
            raise CodecError("expected an array other than a multiple by zero, got one that has the largest error")
        exponent = math.frexp(max(a._field_error.max_abs / 64, largest * 2.0**-26) / abs(lead) or 2.0**-900)[1]
        if isinstance(like._blocks, PackedBlocks) and like._field_error.max_abs:
            exponent = max(exponent, like._blocks.exponent - SPREAD)
        blocks, *lost_norms = _requantised(host, term, numerics, exponent)
        lost = (lost_norms[0], lost_norms[1])
    both = a._comm.allgather(np.array(lost))
    root = math.sqrt(a.size)
    rounding = 2 * FUZZ * (value_bound(a) + abs(like._offset))
    scale = abs(lead) * (1 + 2.0**-40)
    return a._replace(
        blocks=blocks,
        numerics=numerics,
        factor=like._factor,
        offset=like._offset,
        field_error=ErrorBound(
            a._field_error.max_abs + scale * (float(both[:, 0].max()) + UNDERFLOW) + rounding,
            a._field_error.l2 + scale * (float(np.hypot.reduce(both[:, 1])) + UNDERFLOW * root) + root * rounding,
        ),
    ).to_device(like.device.split(":")[0])


def _requantised(
    a: "CompressedArray", term: dense.Term, numerics: Numerics, exponent: int
) -> tuple[Blocks, float, float]:
    if isinstance(a._blocks, FixedBlocks):
        result = dense.combine_many([term], numerics, 0, 0, 0)
        if result is not None:
            return result
    for coarser in range(0, 64, 4):
        result = dense.combine_many([term], numerics, exponent + coarser, exponent + coarser, 2)
        if result is not None:
            return result
    raise ToleranceError("expected factors and offsets that 32-bit indices can express in each other, got others")


def _is_blank(a: "CompressedArray") -> bool:
    """Say whether all integers of the local part are zero, whatever the steps: those of a constant field are."""
    if not a._numerics.grid.size:
        return True
    if a._field_error.max_abs:
        return False
    squares = drivers_of(a._blocks).moments(a._blocks, a._numerics, 0.0)[1:]
    return not any(squares)


def _assemble(parts: "list[tuple[CompressedArray, Cell]]", shape: Cell, **changes: Any) -> "CompressedArray":
    """Return an array of blocks of others, each with the place of its first cell in the new one."""
    first = parts[0][0]
    comm, layout = first._comm, None
    if first.layout is not None:
        layout = Layout(shape, first.layout.comm, block_shape=first.layout.block_shape)
    targets = [Box((0,) * len(shape), shape)]
    if layout is not None:
        targets = [Box.of(layout.slices_of(rank)) for rank in range(layout.size)]
    mine = targets[comm.rank]
    precision = "float64" if any(a._numerics.precision == "float64" for a, _ in parts) else "float32"
    numerics = Numerics(grid_of(first.codec, mine.extents), first.codec.transform, precision)
    held: list[Held] = []
    own: list[tuple[int, int]] = []
    for a, place in parts:
        host = a.to_device("cpu")
        sources = [Box(place, a.shape)]
        if a.layout is not None:
            boxes = (Box.of(a.layout.slices_of(rank)) for rank in range(a.layout.size))
            sources = [Box(tuple(f + p for f, p in zip(box.first, place, strict=True)), box.extents) for box in boxes]
        held += brought_together(host, sources, targets, comm)
        own += [exponents_of(host._blocks)] if isinstance(host._blocks, PackedBlocks) and not _is_blank(host) else []
    exponents = [pair for pairs in comm.gather_objects(own) for pair in pairs]
    steps = (min(e for e, _ in exponents), min(m for _, m in exponents)) if exponents else (0, 0)
    with comm.together():
        try:
            part = put_together(held, mine, numerics, first.codec, steps)
        except LayoutError:
            raise CodecError(
                "expected arrays whose integers fit 32 bits with one step, got errors too different: compress those "
                "with the smallest errors anew with larger tolerances"
            ) from None
    result = first._replace(blocks=part.blocks, numerics=numerics, layout=layout, missing=part.missing, **changes)
    return result if first.device == "cpu" else result.to_device("gpu")
