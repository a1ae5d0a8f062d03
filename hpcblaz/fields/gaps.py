"""Where coefficients cannot be used because cells are missing, and how values are looked at slab by slab instead."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hpcblaz.backend.blocks import BlockGrid
from hpcblaz.backend.dispatch import drivers_of

if TYPE_CHECKING:
    from hpcblaz.fields.array import CompressedArray

_SLAB_CELLS = 1 << 20  # cells decoded at a time

Cells = tuple[int, ...]


@dataclass(frozen=True)
class Gaps:
    """The tiles of a grid that have a missing cell.

    Parameters
    ----------
    grid : BlockGrid
    tiles : numpy.ndarray
        bool, one a tile.
    blocks : numpy.ndarray
        bool, of shape ``grid.blocks``: whether a block lies in such a tile.
    """

    grid: BlockGrid
    tiles: NDArray[np.bool_]
    blocks: NDArray[np.bool_]

    @classmethod
    def of(cls, grid: BlockGrid, missing: NDArray[np.bool_]) -> "Gaps":
        """Return the gaps of a grid from flags of its blocks with a missing cell."""
        tiles = np.zeros(len(grid.tiles), np.bool_)
        blocks = np.zeros_like(missing)
        sides = np.array(grid.sides)
        pad = (1,) * (4 - grid.ndim)
        flags, members = missing.reshape(pad + missing.shape), blocks.reshape(pad + missing.shape)
        for number, region in enumerate(grid.regions):
            first = region[:4] // sides
            place = tuple(slice(int(f), int(f + n)) for f, n in zip(first, region[4:8], strict=True))
            own = grid.tiles[:, 0] == number
            _, starts, counts = grid.tiles[own].T
            found = np.logical_or.reduceat(flags[place].reshape(-1), starts)
            tiles[own] = found
            members[place] = np.repeat(found, counts).reshape(region[4:8])
        return cls(grid, tiles, blocks)

    def near(self, low: int, high: int) -> NDArray[np.bool_]:
        """Return the flags of the blocks with cells from `low` to before `high` along the first axis."""
        side = self.grid.block_shape[0]
        return self.blocks[low // side : -(-high // side)]

    def cells(self, low: int, high: int) -> NDArray[np.bool_]:
        """Return which cells of these, from a multiple of the block's side on, lie in a tile with a missing one."""
        flags = self.near(low, high)
        for axis, side in enumerate(self.grid.block_shape):
            flags = np.repeat(flags, side, axis=axis)
        return flags[tuple(slice(0, n) for n in (high - low, *self.grid.shape[1:]))]


def gaps_of(*arrays: "CompressedArray") -> Gaps | None:
    """Return the gaps of local arrays of one grid, None if nothing is missing."""
    grid = arrays[0]._numerics.grid
    flags = [a._missing.blocks(grid) for a in arrays if a._missing is not None]
    return Gaps.of(grid, np.logical_or.reduce(flags)) if flags else None


def slabs(*arrays: "CompressedArray") -> Iterator[tuple[Cells, Cells]]:
    """Yield first cell and end of slabs of whole blocks of local arrays of one shape."""
    shape = arrays[0]._numerics.grid.shape
    side = math.lcm(*(a._numerics.grid.block_shape[0] for a in arrays))
    rows = max(1, _SLAB_CELLS // (side * max(1, math.prod(shape[1:])))) * side
    if math.prod(shape):
        for start in range(0, shape[0], rows):
            yield (start,) + (0,) * (len(shape) - 1), (min(shape[0], start + rows), *shape[1:])


def valid_cells(low: Cells, high: Cells, *arrays: "CompressedArray") -> NDArray[np.bool_] | None:
    """Return which cells of a window hold numbers in all local arrays, None if all do."""
    flags = [a._missing.window(low, high) for a in arrays if a._missing is not None]
    return ~np.logical_or.reduce(flags) if any(flag.any() for flag in flags) else None


def valid_values(a: "CompressedArray", low: Cells, high: Cells) -> NDArray[np.float64]:
    """Return the values of a window that are not missing, in double precision; all of them keep their shape."""
    values, valid = decode_window(a, low, high), valid_cells(low, high, a)
    return values if valid is None else values[drivers_of(a._blocks).asarray(valid)]


def numbers_or_nan(a: "CompressedArray", low: Cells, high: Cells) -> NDArray[Any]:
    """Return the decompressed values of a window of the local array, NaN in place of fill values.

    They have the array's type, or double precision if it holds integers.
    """
    values: NDArray[Any] = a._raw(low, high)
    if a.dtype.kind != "f":
        values = values.astype(np.float64)
    if a._missing is not None and "fill" in a._missing.sets:
        flags = a._missing.sets["fill"].window(a._missing.shape, low, high)
        values[drivers_of(a._blocks).asarray(flags)] = np.nan
    return values


def decode_window(a: "CompressedArray", low: Cells, high: Cells) -> NDArray[np.float64]:
    """Return the values of the local array between two cells, in double precision; missing ones are any numbers."""
    payload: NDArray[Any] = drivers_of(a._blocks).decode(a._blocks, a._numerics, 1.0, 0.0, low, high)
    return payload.astype(np.float64) * a._factor + a._offset


def block_rows(grid: BlockGrid, low: tuple[int, ...], high: tuple[int, ...]) -> slice:
    """Return the blocks of a slab of whole blocks, along the first axis."""
    side = grid.block_shape[0]
    return slice(low[0] // side, -(-high[0] // side))


def block_sums(grid: BlockGrid, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the sum over each block of a slab."""
    for axis, side in enumerate(grid.block_shape):
        values = np.add.reduceat(values, np.arange(0, values.shape[axis], side), axis=axis)
    return values


def cells_of_blocks(grid: BlockGrid) -> NDArray[np.float64]:
    """Return how many cells each block has, of the shape of the grid of blocks."""
    cells = np.ones(())
    for n, side, blocks in zip(grid.shape, grid.block_shape, grid.blocks, strict=True):
        cells = np.multiply.outer(cells, np.minimum(side, n - side * np.arange(blocks)))
    return cells


def block_cells(a: "CompressedArray") -> NDArray[np.float64]:
    """Return how many cells of each block of the local array hold numbers, of the shape of the grid of blocks."""
    cells = cells_of_blocks(a._numerics.grid)
    if a._missing is not None:
        for low, high in slabs(a):
            missing = a._missing.window(low, high).astype(np.float64)
            cells[block_rows(a._numerics.grid, low, high)] -= block_sums(a._numerics.grid, missing)
    return cells
