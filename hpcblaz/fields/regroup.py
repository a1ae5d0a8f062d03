"""From the blocks of some parts of a field to those of another part, without loss: other tiles, the same integers."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcblaz.backend import cpu
from hpcblaz.backend.blocks import BlockGrid
from hpcblaz.backend.payload import Blocks, FixedBlocks, Numerics, PackedBlocks
from hpcblaz.bodies.records import LANES, TILE
from hpcblaz.bodies.steps import LEVELS
from hpcblaz.errors import LayoutError
from hpcblaz.fields.codec import BlockCodec, empty_blocks

_TILES_AT_ONCE = 256  # what is unpacked of another part at a time
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
    indices = np.zeros((int(np.prod(grid.blocks)), grid.block_size), np.int32)
    levels = np.zeros(len(indices), np.int8)
    for blocks, own, first in parts:
        if not isinstance(blocks, PackedBlocks):
            continue
        place = _placer(own.grid, first, grid, offset)
        for region, start, tiles in _runs_of_tiles(own.grid):
            count = int(own.grid.tiles[tiles, 2].sum())
            inside, target = place(region, start, count)
            if inside.any():
                found, found_levels = _unpack(blocks, own, tiles, count)
                steps = (blocks.exponent - exponents[0], blocks.mean_exponent - exponents[1])
                indices[target], levels[target] = _with_steps(found[inside], found_levels[inside], *steps)
    shape = (*grid.blocks, grid.block_size)
    return cpu.from_integers(indices.reshape(shape), levels.reshape(grid.blocks), numerics, *exponents)


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
            "expected the layout that the file was written with, because its parts have steps too different for one, "
            "got another: load it with that layout"
        )
    return wide, new_levels - up


def _runs_of_tiles(grid: BlockGrid) -> Iterator[tuple[NDArray[np.int64], int, slice]]:
    """Yield runs of tiles of one region: the region, the number of the first block in it, and the tiles."""
    first = 0
    for region in grid.regions:
        tiles = -(-int(region[4:8].prod()) // TILE)
        for start in range(0, tiles, _TILES_AT_ONCE):
            yield region, start * TILE, slice(first + start, first + min(tiles, start + _TILES_AT_ONCE))
        first += tiles


def _unpack(
    blocks: PackedBlocks, numerics: Numerics, tiles: slice, count: int
) -> tuple[NDArray[np.int32], NDArray[np.int8]]:
    """Return the integers and levels of some tiles of one region, in the order of the blocks in it.

    The tiles are handed over as a field of their own, one block thick along all axes but the last; the extents of
    partial blocks matter to the transform only.
    """
    sides = numerics.grid.block_shape
    offsets = blocks.offsets[tiles.start : tiles.stop + 1]
    row = PackedBlocks(blocks.words[offsets[0] :], offsets - offsets[0], blocks.exponent, blocks.mean_exponent)
    grid = BlockGrid((*sides[:-1], count * sides[-1]), sides)
    indices, levels = cpu.to_integers(row, replace(numerics, grid=grid))
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
