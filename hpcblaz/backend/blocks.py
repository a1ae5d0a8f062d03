"""How a field is cut into blocks: pure integers, the same on every backend and rank.

A grid cuts each axis into blocks of one side; the last block of an axis may be shorter. Blocks of equal extent are
gathered into *regions* (one of full blocks, and up to 2**ndim - 1 of partial ones along the upper faces), and
the blocks of a region, in C order, into *tiles* of at most 128. Each tile is compressed by itself.
"""

import itertools
import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hpcblaz.bodies.records import TILE
from hpcblaz.bodies.transforms import SIDES
from hpcblaz.errors import CodecError, ShapeError

MAX_AXES = 4
MAX_BLOCK_SIZE = 4096
_DEFAULTS: dict[int, tuple[int, ...]] = {1: (16,), 2: (8, 8), 3: (4, 4, 4), 4: (4, 4, 4, 4)}


def default_block_shape(ndim: int) -> tuple[int, ...]:
    """Return the block shape that is used where none is given.

    Parameters
    ----------
    ndim : int
        Number of axes, 1 to 4.

    Returns
    -------
    tuple of int

    Raises
    ------
    ShapeError
        If `ndim` is not 1, 2, 3 or 4.

    Examples
    --------
    >>> default_block_shape(3)
    (4, 4, 4)
    """
    if ndim not in _DEFAULTS:
        raise ShapeError(f"expected an array of 1 to {MAX_AXES} axes, got {ndim}: reshape it")
    return _DEFAULTS[ndim]


@dataclass(frozen=True)
class BlockGrid:
    """The blocks of one field.

    Parameters
    ----------
    shape : tuple of int
        Shape of the field, 1 to 4 axes; zero extents are allowed.
    block_shape : tuple of int
        A side for each axis: 1, 2, 4, 8 or 16; at most 4096 cells a block.

    Raises
    ------
    ShapeError
        If the field has no axes or more than four.
    CodecError
        If a side is not allowed, or there are more or fewer sides than axes.
    """

    shape: tuple[int, ...]
    block_shape: tuple[int, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.shape) <= MAX_AXES:
            hint = "wrap a single number as an array of shape (1,)" if not self.shape else "reshape it"
            raise ShapeError(f"expected an array of 1 to {MAX_AXES} axes, got {len(self.shape)}: {hint}")
        if len(self.block_shape) != len(self.shape):
            raise CodecError(
                f"expected a block side for each of the {len(self.shape)} axes, got block_shape={self.block_shape}"
            )
        if any(side not in SIDES for side in self.block_shape):
            raise CodecError(f"expected block sides out of {SIDES}, got block_shape={self.block_shape}")
        if math.prod(self.block_shape) > MAX_BLOCK_SIZE:
            raise CodecError(f"expected at most {MAX_BLOCK_SIZE} cells a block, got block_shape={self.block_shape}")

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of cells of the field."""
        return math.prod(self.shape)

    @property
    def block_size(self) -> int:
        """Number of cells of a full block."""
        return math.prod(self.block_shape)

    @property
    def blocks(self) -> tuple[int, ...]:
        """Blocks along each axis, partial ones included."""
        return tuple(-(-n // side) for n, side in zip(self.shape, self.block_shape, strict=True))

    @cached_property
    def shape4(self) -> NDArray[np.int64]:
        """The shape with leading ones, int64, shape (4,)."""
        return np.array(_four(self.shape), np.int64)

    @cached_property
    def sides(self) -> tuple[int, int, int, int]:
        """The block shape with leading ones."""
        return _four(self.block_shape)

    @cached_property
    def regions(self) -> NDArray[np.int64]:
        """int64, shape (regions, 12): first cell, blocks and cells a block, along each of four axes."""
        segments = []
        for n, side in zip(_four(self.shape), self.sides, strict=True):
            full, rest = divmod(n, side)
            segments.append([(0, full, side)] * (full > 0) + [(full * side, 1, rest)] * (rest > 0))
        rows = [tuple(zip(*choice, strict=True)) for choice in itertools.product(*segments)]
        return np.array([sum(row, ()) for row in rows], np.int64).reshape(-1, 12)

    @cached_property
    def tiles(self) -> NDArray[np.int64]:
        """int64, shape (tiles, 3): region, number of the first block within it, blocks."""
        rows = []
        for number, region in enumerate(self.regions):
            blocks = int(region[4:8].prod())
            first = np.arange(0, blocks, TILE, dtype=np.int64)
            rows.append(np.stack([np.full_like(first, number), first, np.minimum(TILE, blocks - first)], axis=1))
        return np.concatenate(rows) if rows else np.zeros((0, 3), np.int64)

    @cached_property
    def block_cells(self) -> NDArray[np.int64]:
        """Cells a block, for each tile: int64, shape (tiles,)."""
        return np.asarray(self.regions[self.tiles[:, 0], 8:12].prod(axis=1), np.int64)

    def tiles_of(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the tiles of blocks that are given by their numbers in C order of the grid: int64, one a block."""
        places = np.stack(np.unravel_index(numbers, _four(self.blocks)), axis=1)
        result = np.empty(len(numbers), np.int64)
        first_tile = 0
        for region in self.regions:
            counts = region[4:8]
            inside = places - region[:4] // self.sides
            mine = np.all((inside >= 0) & (inside < counts), axis=1)
            result[mine] = first_tile + np.ravel_multi_index(tuple(inside[mine].T), tuple(counts)) // TILE
            first_tile += -(-int(counts.prod()) // TILE)
        return result

    def tiles_touching(self, low: NDArray[np.int64], high: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the numbers of the tiles with a block in a window.

        Parameters
        ----------
        low, high : numpy.ndarray
            int64, shape (4,): first cell of the window, and the cell after its last, on four axes.

        Returns
        -------
        numpy.ndarray
            int64, ascending.
        """
        chosen: list[NDArray[np.int64]] = []
        if np.any(low >= high):
            return np.zeros(0, np.int64)
        first_tile = 0
        for region in self.regions:
            counts = region[4:8]
            begin = np.maximum(0, (low - region[:4]) // self.sides)
            end = np.minimum(counts, -(-(high - region[:4]) // self.sides))
            if np.all(begin < end):
                strides = np.array([counts[1] * counts[2] * counts[3], counts[2] * counts[3], counts[3], 1])
                rows = np.zeros(1, np.int64)
                for axis in range(3):
                    rows = (rows[:, None] + np.arange(begin[axis], end[axis]) * strides[axis]).ravel()
                spans = -(-(end[3] - begin[3]) // TILE) + 1
                tiles = (rows[:, None] + np.minimum(begin[3] + TILE * np.arange(spans), end[3] - 1)) // TILE
                chosen.append(first_tile + np.unique(tiles))
            first_tile += -(-int(counts.prod()) // TILE)
        return np.concatenate(chosen) if chosen else np.zeros(0, np.int64)


def _four(values: tuple[int, ...]) -> tuple[int, int, int, int]:
    padded = (1, 1, 1, 1, *values)
    return padded[-4], padded[-3], padded[-2], padded[-1]
