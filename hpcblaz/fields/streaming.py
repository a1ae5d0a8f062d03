"""Fields that are compressed slab by slab, so that they are never in memory as a whole."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from hpcblaz.backend.blocks import BlockGrid
from hpcblaz.backend.dispatch import drivers
from hpcblaz.backend.payload import SPARE_WORDS, Blocks, FixedBlocks, Numerics, PackedBlocks
from hpcblaz.bodies.records import TILE

_SLAB_CELLS = 1 << 22  # cells of a slab, at least, where a field has as many

Piece = tuple[BlockGrid, Blocks]


def tile_rows(grid: BlockGrid) -> int:
    """Return cells along the first axis: slabs of a multiple of them have the very tiles of the field."""
    lead = 4 - grid.ndim
    per_row = [math.prod(region[4 + lead + 1 : 8]) for region in grid.regions.tolist()]
    return math.lcm(*(TILE // math.gcd(TILE, blocks) for blocks in per_row)) * grid.block_shape[0]


def slab_rows(grid: BlockGrid) -> int:
    """Return the cells of a slab along the first axis."""
    rows = tile_rows(grid)
    row_cells = max(1, math.prod(grid.shape[1:]))
    return rows * max(1, _SLAB_CELLS // (rows * row_cells))


def slab_bounds(grid: BlockGrid) -> Iterator[tuple[int, int]]:
    """Yield first cell and end, along the first axis, of slabs that cover a field; one of an empty field."""
    rows = slab_rows(grid) if grid.size else max(1, grid.shape[0])
    for start in range(0, max(1, grid.shape[0]), rows):
        yield start, min(grid.shape[0], start + rows)


def assemble(
    pieces: Sequence[Piece],
    numerics: Numerics,
    empty: FixedBlocks | None,
    rows: Sequence[tuple[int, int]] | None = None,
) -> Blocks:
    """Return the payload of a field from those of its slabs, as they were cut by :func:`slab_bounds`.

    Parameters
    ----------
    pieces : sequence of (BlockGrid, Blocks)
        With the same steps; in order.
    numerics : Numerics
        Of the field.
    empty : FixedBlocks or None
        Where to put indices and scales, for the fixed form.
    rows : sequence of (int, int), optional
        Of each piece the cells along the first axis that are taken: first and end, where tiles begin and end; see
        :func:`tile_rows`. Default: all.
    """
    first = pieces[0][1]
    if rows is None:
        if len(pieces) == 1:
            return first
        rows = [(0, own.shape[0]) for own, _ in pieces]
    spans = list(_spans(pieces, numerics.grid, rows))
    xp = drivers(first.device).array_module()
    if empty is not None:
        for name, column in (("indices", 0), ("scales", 1)):
            parts = []
            for blocks, start, stop in spans:
                begin, end = (int(blocks.starts[tile, column]) for tile in (start, stop))
                parts.append(getattr(blocks, name)[begin:end])
            getattr(empty, name)[...] = xp.concatenate(parts)
        return empty
    words = [blocks.words[int(blocks.offsets[start]) : int(blocks.offsets[stop])] for blocks, start, stop in spans]
    sizes = [xp.diff(blocks.offsets[start : stop + 1]) for blocks, start, stop in spans]
    offsets = xp.concatenate([xp.zeros(1, np.int64), xp.cumsum(xp.concatenate(sizes))])
    spare = xp.zeros(SPARE_WORDS, np.uint32)
    if not isinstance(first, PackedBlocks):
        raise TypeError("expected packed blocks where no fixed ones are given")
    return PackedBlocks(xp.concatenate([*words, spare]), offsets, first.exponent, first.mean_exponent, first.device)


def _spans(pieces: Sequence[Piece], grid: BlockGrid, rows: Sequence[tuple[int, int]]) -> Iterator[tuple[Any, int, int]]:
    """Yield the runs of tiles of the pieces, in the order of the field's tiles."""
    for region in grid.regions:
        for (own, blocks), (begin, end) in zip(pieces, rows, strict=True):
            for number in np.flatnonzero((own.regions[:, 8:] == region[8:]).all(axis=1)):
                start, stop = _tiles_of_rows(own, int(number), begin, end)
                if start < stop:
                    yield blocks, start, stop


def _tiles_of_rows(grid: BlockGrid, number: int, begin: int, end: int) -> tuple[int, int]:
    """Return the tiles of a region with cells along the first axis from `begin` to `end`: first and end."""
    lead = 4 - grid.ndim
    region, side = grid.regions[number].tolist(), grid.sides[lead]
    first, counts = region[lead], region[4:8]
    per_row = math.prod(counts) // counts[lead]
    low, high = max(0, (begin - first) // side), min(counts[lead], -(-(end - first) // side))
    before = int(np.searchsorted(grid.tiles[:, 0], number))
    return before + low * per_row // TILE, before + max(-(-high * per_row // TILE), low * per_row // TILE)
