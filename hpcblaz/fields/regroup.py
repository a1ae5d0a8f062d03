"""From the blocks of some parts of a field to those of another part, without loss: other tiles, the same integers."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcblaz.backend import cpu
from hpcblaz.backend.blocks import BlockGrid
from hpcblaz.backend.payload import SPARE_WORDS, Blocks, FixedBlocks, Numerics, PackedBlocks
from hpcblaz.bodies.records import LANES, TILE
from hpcblaz.bodies.steps import LEVELS
from hpcblaz.errors import LayoutError
from hpcblaz.fields.codec import BlockCodec, empty_blocks

_UNPACKED_CELLS = 1 << 22  # of another part at a time
_PACKED_CELLS = 1 << 24  # of the wanted part at a time: nothing of the size of the field is ever in memory
_LARGEST = 2**31 - 1

Part = tuple[Blocks, Numerics, tuple[int, ...]]


def regroup(
    parts: Iterable[Part], numerics: Numerics, offset: tuple[int, ...], codec: Any, exponents: tuple[int, int]
) -> Blocks:
    """Return the blocks of a part of a field.

    Parameters
    ----------
    parts : iterable of (Blocks, Numerics, tuple of int)
        Parts that cover the wanted one together, each with the index of its first cell in the field.
    numerics : Numerics
        Of the wanted part.
    offset : tuple of int
        Index of its first cell in the field.
    codec : ToleranceCodec or BlockCodec
        Of all parts.
    exponents : tuple of int
        The least exponent and the least mean exponent of all parts, for a ToleranceCodec.

    Raises
    ------
    LayoutError
        If the steps of parts are so different that their integers do not fit 32 bits with one step.
    """
    if isinstance(codec, BlockCodec):
        return _regroup_fixed(parts, numerics, offset, codec)
    grid = numerics.grid
    held = list(parts)
    shift = np.array((0,) * (4 - grid.ndim) + offset, np.int64)
    records = _Records(sum(int(blocks.offsets[-1]) for blocks, _, _ in held if isinstance(blocks, PackedBlocks)))
    for region, begin, tiles in _runs_of_tiles(grid, np.zeros(4, np.int64), grid.shape4, _PACKED_CELLS):
        end = begin + int(grid.tiles[tiles, 2].sum())
        indices = np.zeros((end - begin, grid.block_size), np.int32)
        levels = np.zeros(end - begin, np.int8)
        low, high = (cells + shift for cells in _box(grid, region, begin, end))
        for blocks, own, first in held:
            if isinstance(blocks, PackedBlocks):
                _take(blocks, own, first, (region, shift, begin, end), (low, high), exponents, indices, levels)
        records.append(_pack(indices, levels, numerics, exponents))
    return records.blocks(exponents)


def _box(
    grid: BlockGrid, region: NDArray[np.int64], begin: int, end: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the first cell, and the cell after the last, of a box that has all blocks of a run of a region."""
    counts, sides = region[4:8], np.array(grid.sides, np.int64)
    low, high = np.zeros(4, np.int64), counts.copy()
    axis = next((i for i in range(4) if counts[i] > 1), 3)
    inner = int(counts[axis + 1 :].prod())
    low[axis], high[axis] = begin // inner, -(-end // inner)
    return region[:4] + low * sides, np.minimum(region[:4] + high * sides, grid.shape4)


def _take(
    blocks: PackedBlocks,
    own: Numerics,
    first: tuple[int, ...],
    run: tuple[NDArray[np.int64], NDArray[np.int64], int, int],
    box: tuple[NDArray[np.int64], NDArray[np.int64]],
    exponents: tuple[int, int],
    indices: NDArray[np.int32],
    levels: NDArray[np.int8],
) -> None:
    """Copy the integers of those blocks of a part that belong to a run of blocks of the wanted part's region."""
    grid = own.grid
    region, shift, begin, end = run
    corner = np.array((0,) * (4 - grid.ndim) + first, np.int64)
    sides = np.array(grid.sides, np.int64)
    steps = (blocks.exponent - exponents[0], blocks.mean_exponent - exponents[1])
    low, high = np.maximum(0, box[0] - corner), np.minimum(grid.shape4, box[1] - corner)
    for theirs, start, tiles in _runs_of_tiles(grid, low, high, _UNPACKED_CELLS):
        count = int(grid.tiles[tiles, 2].sum())
        numbers = np.arange(start, start + count)
        place = np.stack(np.unravel_index(numbers, tuple(theirs[4:8])), axis=1)
        place += (theirs[:4] + corner - shift - region[:4]) // sides
        inside = np.flatnonzero(np.all((place >= 0) & (place < region[4:8]), axis=1))
        target = np.ravel_multi_index(tuple(place[inside].T), tuple(region[4:8])) - begin
        wanted = (target >= 0) & (target < end - begin)
        if wanted.any():
            inside, target = inside[wanted], target[wanted]
            found, found_levels = _unpack(blocks, own, tiles, count)
            indices[target], levels[target] = _with_steps(found[inside], found_levels[inside], *steps)


def _pack(
    indices: NDArray[np.int32], levels: NDArray[np.int8], numerics: Numerics, exponents: tuple[int, int]
) -> PackedBlocks:
    """Return the records of a run of blocks of one region; see :func:`_unpack`."""
    row = replace(numerics, grid=_row(numerics.grid, len(levels)))
    return cpu.from_integers(indices.reshape(*row.grid.blocks, -1), levels.reshape(row.grid.blocks), row, *exponents)


class _Records:
    """Records one after the other; memory is reserved for about as many words as expected, and touched as they come."""

    def __init__(self, expected: int) -> None:
        self._words = np.empty(expected + expected // 8 + SPARE_WORDS, np.uint32)
        self._offsets = [np.zeros(1, np.int64)]
        self._used = 0

    def append(self, piece: PackedBlocks) -> None:
        count = int(piece.offsets[-1])
        end = self._used + count
        if end + SPARE_WORDS > len(self._words):
            self._words.resize(end + end // 4 + SPARE_WORDS, refcheck=False)
        self._words[self._used : end] = piece.words[:count]
        self._offsets.append(piece.offsets[1:] + self._used)
        self._used = end

    def blocks(self, exponents: tuple[int, int]) -> PackedBlocks:
        """Return them; the rest of the reserved memory is given back."""
        self._words.resize(self._used + SPARE_WORDS, refcheck=False)
        self._words[self._used :] = 0
        return PackedBlocks(self._words, np.concatenate(self._offsets), *exponents)


def _row(grid: BlockGrid, count: int) -> BlockGrid:
    """Return the grid of so many full blocks, one after the other along the last axis."""
    sides = grid.block_shape
    return BlockGrid((*sides[:-1], count * sides[-1]), sides)


def _with_steps(
    indices: NDArray[np.int32], levels: NDArray[np.int8], shift: int, mean_shift: int
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return integers and levels for steps that are smaller by powers of two."""
    if shift == mean_shift == 0:
        return indices, levels
    wide = indices.astype(np.int64)
    mean_shift = mean_shift if wide[:, 0].any() else 0
    new_levels = np.where(wide[:, 1:].any(axis=1), levels.astype(np.int64) + shift, 0)
    up = np.maximum(0, new_levels - (LEVELS - 1))
    fits = up.max(initial=0) <= 31 and mean_shift <= 31
    if fits:
        wide[:, 1:] <<= up[:, None]
        wide[:, 0] <<= mean_shift
        fits = bool(np.abs(wide).max(initial=0) <= _LARGEST)
    if not fits:
        raise LayoutError(
            "expected the layout that the array was written or computed with, because its parts have steps too "
            "different for one, got another, or chunks with cells of several ranks: keep to that layout"
        )
    return wide, new_levels - up


def _runs_of_tiles(
    grid: BlockGrid, low: NDArray[np.int64], high: NDArray[np.int64], cells: int
) -> Iterator[tuple[NDArray[np.int64], int, slice]]:
    """Yield runs of tiles of one region that touch a box: the region, the number of the first block, and the tiles."""
    at_once = max(1, cells // (TILE * grid.block_size))
    touching = grid.tiles_touching(low, high)
    first = 0
    for region in grid.regions:
        tiles = -(-int(region[4:8].prod()) // TILE)
        start, stop = (int(n) for n in np.searchsorted(touching, (first, first + tiles)))
        if start < stop:
            begin, end = int(touching[start]), int(touching[stop - 1]) + 1
            for tile in range(begin, end, at_once):
                run = slice(tile, min(end, tile + at_once))
                if np.searchsorted(touching, run.start) < np.searchsorted(touching, run.stop):
                    yield region, (tile - first) * TILE, run
        first += tiles


def _unpack(
    blocks: PackedBlocks, numerics: Numerics, tiles: slice, count: int
) -> tuple[NDArray[np.int32], NDArray[np.int8]]:
    """Return the integers and levels of some tiles of one region, in the order of the blocks in it.

    The tiles are handed over as a field of their own, one block thick along all axes but the last; the extents of
    partial blocks matter to the transform only.
    """
    offsets = blocks.offsets[tiles.start : tiles.stop + 1]
    row = PackedBlocks(blocks.words[offsets[0] :], offsets - offsets[0], blocks.exponent, blocks.mean_exponent)
    indices, levels = cpu.to_integers(row, replace(numerics, grid=_row(numerics.grid, count)))
    return indices.reshape(count, -1), levels.reshape(count)


def _placer(
    grid: BlockGrid, first: tuple[int, ...], wanted: BlockGrid, offset: tuple[int, ...]
) -> Callable[[NDArray[np.int64], int, int], tuple[NDArray[np.bool_], NDArray[np.int64]]]:
    """Return a function from blocks of a region of one part to their numbers in another part."""
    pad = (0,) * (4 - grid.ndim)
    sides = np.array(grid.sides, np.int64)
    shift = np.array(pad + first, np.int64) // sides - np.array(pad + offset, np.int64) // sides
    counts = np.array((1,) * len(pad) + wanted.blocks)

    def place(region: NDArray[np.int64], start: int, count: int) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        numbers = np.arange(start, start + count)
        place = np.stack(np.unravel_index(numbers, tuple(region[4:8])), axis=1)
        place += region[:4] // sides + shift
        inside = np.all((place >= 0) & (place < counts), axis=1)
        return inside, np.ravel_multi_index(tuple(place[inside].T), tuple(counts))

    return place


def _regroup_fixed(
    parts: Iterable[Part], numerics: Numerics, offset: tuple[int, ...], codec: BlockCodec
) -> FixedBlocks:
    grid = numerics.grid
    result = empty_blocks(codec, numerics)
    indices = np.zeros((int(np.prod(grid.blocks)), grid.block_size), result.indices.dtype)
    scales = np.zeros(len(indices), result.scales.dtype)
    for blocks, own, first in parts:
        if not isinstance(blocks, FixedBlocks):
            continue
        place = _placer(own.grid, first, grid, offset)
        for region, kept, begin, block in _runs_of_blocks(own.grid, blocks):
            count = int(region[4:8].prod())
            inside, target = place(region, 0, count)
            rows = np.zeros((count, grid.block_size), indices.dtype)
            rows[:, kept] = _rows(blocks.indices[begin : begin + count * len(kept)], count)
            indices[target] = rows[inside]
            scales[target] = blocks.scales[block : block + count][inside]
    place = _placer(grid, offset, grid, offset)
    for region, kept, begin, block in _runs_of_blocks(grid, result):
        count = int(region[4:8].prod())
        _, source = place(region, 0, count)
        result.indices[begin : begin + count * len(kept)] = _strips(indices[source][:, kept])
        result.scales[block : block + count] = scales[source]
    return result


def _runs_of_blocks(
    grid: BlockGrid, blocks: FixedBlocks
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], int, int]]:
    """Yield each region with its kept coefficients, and where its indices and its scales begin."""
    begin = block = 0
    for region, row in zip(grid.regions, blocks.kept, strict=True):
        kept = row[1 : 1 + row[0]]
        yield region, kept, begin, block
        begin += int(region[4:8].prod()) * len(kept)
        block += int(region[4:8].prod())


def _rows(strips: NDArray[Any], count: int) -> NDArray[Any]:
    """Return the indices of `count` blocks, a row a block, from strips of 16 blocks with the blocks innermost."""
    kept = len(strips) // count
    full = count // LANES
    head = strips[: full * LANES * kept].reshape(full, kept, LANES).transpose(0, 2, 1).reshape(-1, kept)
    tail = strips[full * LANES * kept :].reshape(kept, count - full * LANES).T
    return np.concatenate([head, tail])


def _strips(rows: NDArray[Any]) -> NDArray[Any]:
    """Return strips from rows; the inverse of :func:`_rows`."""
    count, kept = rows.shape
    full = count // LANES
    head = rows[: full * LANES].reshape(full, LANES, kept).transpose(0, 2, 1).reshape(-1)
    return np.concatenate([head, rows[full * LANES :].T.reshape(-1)])
