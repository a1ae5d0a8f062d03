"""Boxes of a field that several ranks hold: cut out, sent as compressed records, and put together without loss."""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hpcblaz.backend.blocks import BlockGrid
from hpcblaz.backend.payload import Blocks, Numerics, PackedBlocks
from hpcblaz.fields.codec import BlockCodec, Codec, empty_blocks
from hpcblaz.fields.container import Container
from hpcblaz.fields.dumping import dumps
from hpcblaz.fields.missing import Missing, join
from hpcblaz.fields.regroup import regroup
from hpcblaz.fields.scalars import ErrorBound
from hpcblaz.fields.streaming import assemble, tile_rows
from hpcblaz.mpi import Communicator, Layout
from hpcblaz.mpi.pairwise import exchange_in_turn

if TYPE_CHECKING:
    from hpcblaz.fields.array import CompressedArray

Cells = tuple[int, ...]


class Box(NamedTuple):
    """Cells of a field: the index of the first one, and how many there are along each axis."""

    first: Cells
    extents: Cells

    @classmethod
    def of(cls, slices: Sequence[slice]) -> "Box":
        """Return the cells of some slices."""
        return cls(tuple(s.start for s in slices), tuple(s.stop - s.start for s in slices))

    @property
    def size(self) -> int:
        """Number of cells."""
        return math.prod(self.extents)

    @property
    def slices(self) -> tuple[slice, ...]:
        """Slices of the field that cut the box out."""
        return tuple(slice(f, f + n) for f, n in zip(self.first, self.extents, strict=True))

    def common(self, other: "Box") -> "Box":
        """Return the cells of both; without any, some extent is zero."""
        first = tuple(map(max, self.first, other.first))
        ends = ((f + n, g + m) for f, n, g, m in zip(*self, *other, strict=True))
        return Box(first, tuple(max(0, min(pair) - f) for pair, f in zip(ends, first, strict=True)))


class Held(NamedTuple):
    """A part of a field that this process holds: its records, what is missing of it, and its place in the field."""

    blocks: Blocks
    numerics: Numerics
    missing: Missing | None
    first: Cells

    @property
    def box(self) -> Box:
        """The cells of the part."""
        return Box(self.first, self.numerics.grid.shape)


def held_part(a: "CompressedArray", first: Cells | None = None) -> Held:
    """Return what this rank holds of an array; `first` is where it lies, if its layout does not say it."""
    if first is None:
        first = a.layout.offset if a.layout is not None else (0,) * a.ndim
    return Held(a._blocks, a._numerics, a._missing, first)


def exponents_of(blocks: Blocks) -> tuple[int, int]:
    """Return the exponents of the steps of a payload; zeros for a BlockCodec's."""
    return (blocks.exponent, blocks.mean_exponent) if isinstance(blocks, PackedBlocks) else (0, 0)


def put_together(
    held: Sequence[Held], box: Box, like: Numerics, codec: Codec, exponents: tuple[int, int] | None = None
) -> Held:
    """Return a box of whole blocks out of parts that cover it together; nothing is decoded.

    Parameters
    ----------
    held : sequence of Held
        Parts that share no cell. Those that have no cell of the box are passed over.
    box : Box
        Begins and ends where blocks of the field do.
    like : Numerics
        Of any part.
    codec : ToleranceCodec or BlockCodec
        Of all parts.
    exponents : tuple of int, optional
        Of the steps of the result. Default: the least of the parts that have cells of the box.

    Raises
    ------
    LayoutError
        If the steps of parts are too different for one array.
    """
    used = [part for part in held if part.box.common(box).size]
    numerics = Numerics(BlockGrid(box.extents, like.grid.block_shape), like.transform, like.precision)
    if exponents is None:
        found = [exponents_of(part.blocks) for part in used] or [(0, 0)]
        exponents = (min(pair[0] for pair in found), min(pair[1] for pair in found))
    if len(used) == 1 and used[0].box == box and exponents_of(used[0].blocks) == exponents:
        return used[0]._replace(numerics=numerics)
    used.sort(key=lambda part: part.first)
    rows = _slabs(used, box, numerics, exponents)
    if rows is not None:
        empty = empty_blocks(codec, numerics) if isinstance(codec, BlockCodec) else None
        blocks = assemble([(part.numerics.grid, part.blocks) for part in used], numerics, empty, rows)
    else:
        parts = [(part.blocks, part.numerics, part.first) for part in used]
        blocks = regroup(parts, numerics, box.first, codec, exponents)
    places = (
        (part.missing, part.numerics.grid.shape, tuple(f - g for f, g in zip(part.first, box.first, strict=True)))
        for part in used
    )
    return Held(blocks, numerics, join(box.extents, places), box.first)


def _slabs(
    parts: Sequence[Held], box: Box, numerics: Numerics, exponents: tuple[int, int]
) -> list[tuple[int, int]] | None:
    """Return the cells along the first axis that a box takes of parts, if they are slabs that give it whole tiles.

    Their records can be put one behind the other then, as they are. None if they cannot.
    """
    if not box.size:
        return None
    step, row, stop = tile_rows(numerics.grid), box.first[0], box.first[0] + box.extents[0]
    rows = []
    for part in parts:
        first, extents = part.box
        end = min(stop, first[0] + extents[0])
        cuts = [row - box.first[0], row - first[0]]  # where tiles must begin: those of the box, and those of the part
        cuts += [end - box.first[0]] if end < stop else []
        cuts += [end - first[0]] if end < first[0] + extents[0] else []
        across = (first[1:], extents[1:]) == (box.first[1:], box.extents[1:])
        if not across or first[0] > row or any(cut % step for cut in cuts) or exponents_of(part.blocks) != exponents:
            return None
        rows.append((row - first[0], end - first[0]))
        row = end
    return rows if row == stop else None


def array_of(a: "CompressedArray", part: Held) -> "CompressedArray":
    """Return a part of the field of an array as an array of its own, with bounds of its error."""
    error = a._field_error
    bound = min(error.l2, math.sqrt(part.box.size) * error.max_abs * (1 + 2.0**-50))
    return a._replace(
        blocks=part.blocks,
        numerics=part.numerics,
        missing=part.missing,
        layout=None,
        field_error=ErrorBound(error.max_abs, bound),
        promise=a._promise,
    )


def packed(a: "CompressedArray", part: Held) -> bytes:
    """Return a part of the field of an array as a record, to be sent."""
    return dumps(array_of(a, part), attributes={})


def unpacked(record: Any, first: Cells) -> Held:
    """Return the part that a record of :func:`packed` holds, and that begins at a cell of the field."""
    with Container(record, "message") as message:
        header = message.header
        numerics = Numerics(BlockGrid(header.shape, header.block_shape), header.codec.transform, header.precision)
        return Held(message.blocks(0, numerics), numerics, message.missing(0, header.shape), first)


def brought_together(
    a: "CompressedArray | None", sources: Sequence[Box], targets: Sequence[Box], comm: Communicator
) -> list[Held]:
    """Bring the cells of every rank to those that are to have them; return parts that cover this rank's target.

    A collective call. Pieces travel as records, and are whole blocks.

    Parameters
    ----------
    a : CompressedArray or None
        In host memory; None on a rank that holds nothing.
    sources, targets : sequence of Box
        The cells that each rank holds and is to have, in the field that the targets are of.
    comm : Communicator
    """
    held = [] if a is None else [held_part(a, sources[comm.rank].first)]

    def pieces(rank: int) -> list[bytes]:
        box = sources[comm.rank].common(targets[rank])
        return [] if a is None else [packed(a, put_together(held, box, a._numerics, a.codec))]

    counts = [int(sources[comm.rank].common(target).size > 0) for target in targets]
    found = exchange_in_turn(comm, counts, pieces)
    with comm.together():
        mine = targets[comm.rank]
        return [*held, *(unpacked(records[0], sources[rank].common(mine).first) for rank, records in found.items())]


def chunks_sharing(shape: Cells, chunk: Cells, box: Box) -> Iterator[tuple[Cells, Box]]:
    """Yield index and cells of each chunk of an array with a cell of a box, in C order."""
    if not box.size:
        return
    ranges = [range(f // c, -(-(f + n) // c)) for f, n, c in zip(*box, chunk, strict=True)]
    for index in itertools.product(*ranges):
        first = tuple(i * c for i, c in zip(index, chunk, strict=True))
        yield index, Box(first, tuple(min(c, n - f) for c, n, f in zip(chunk, shape, first, strict=True)))


def ranks_sharing(layout: Layout, box: Box) -> list[tuple[int, int]]:
    """Return the ranks that own cells of a box, in ascending order, each with how many."""
    if not box.size:
        return []
    ends = tuple(f + n - 1 for f, n in zip(*box, strict=True))
    low, high = (np.unravel_index(layout.owner(cell), layout.splits) for cell in (box.first, ends))
    parts = itertools.product(*(range(int(one), int(two) + 1) for one, two in zip(low, high, strict=True)))
    ranks = (int(np.ravel_multi_index(part, layout.splits)) for part in parts)
    return [(rank, Box.of(layout.slices_of(rank)).common(box).size) for rank in ranks]


def keeper(sharing: Sequence[tuple[int, int]]) -> int:
    """Return the rank that owns most of a box, of several the lowest; see :func:`ranks_sharing`."""
    return max(sharing, key=lambda entry: (entry[1], -entry[0]))[0]
