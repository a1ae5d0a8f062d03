"""What the kernels of the GPU work with: tables of a grid, scratch memory, and which tiles are handled how."""

from collections.abc import Iterator
from types import ModuleType

import numpy as np

from hpcblaz.backend.compile import fits_registers
from hpcblaz.backend.payload import Numerics
from hpcblaz.bodies.records import STRIPS, TILE

_SCRATCH_BYTES = 64 << 20  # of the blocks that do not fit registers
_MOST_TILES = 2048  # of them that are worked on at a time


class Tables:
    """What kernels need to know of a grid, on the current card of an array module."""

    def __init__(self, numerics: Numerics, xp: ModuleType) -> None:
        grid = numerics.grid
        regions = grid.regions
        self.shape = xp.asarray(grid.shape4)
        self.regions = xp.asarray(np.ascontiguousarray(regions))
        self.tiles = xp.asarray(np.ascontiguousarray(grid.tiles))
        self.matrices = xp.asarray(numerics.matrices)
        self.roots = xp.asarray(numerics.roots)
        self.blocks = xp.asarray(np.array((1,) * (4 - grid.ndim) + grid.blocks, np.int64))
        self.count = len(grid.tiles)
        full = [bool((region[8:12] == grid.sides).all()) for region in regions]
        self.full = int(np.isin(grid.tiles[:, 0], np.flatnonzero(full)).sum()) if self.count else 0


def runs(numerics: Numerics, full: int, count: int) -> Iterator[tuple[bool, int, int]]:
    """Split tiles 0 to `count`, of which `full` have full blocks, by whether their blocks fit registers."""
    middle = full if fits_registers(numerics.grid.sides) else 0
    if middle:
        yield True, 0, middle
    if middle < count:
        yield False, middle, count


class Scratch:
    """Memory of the kernels that do not hold their blocks in registers, and how many tiles it is for."""

    def __init__(self, numerics: Numerics, in_registers: bool, tiles: int, xp: ModuleType, fields: int = 1) -> None:
        size = numerics.grid.block_size
        header = STRIPS * ((size + 31) // 32 + (3 * size + 7) // 8)
        counts = ((3 * size + 16) * TILE, fields * size * TILE, STRIPS * size, header)
        item = numerics.dtype.itemsize
        per_tile = counts[0] * item + 4 * sum(counts[1:])
        self.tiles = min(tiles, 2**31 - 1)
        if not in_registers:
            self.tiles = max(1, min(tiles, _MOST_TILES, _SCRATCH_BYTES // per_tile))
        held = 0 if in_registers else self.tiles
        self.reals = xp.empty(max(1, held * counts[0]), numerics.dtype)
        self.integers = xp.empty(max(1, held * counts[1]), np.int32)
        self.table = xp.empty(max(1, held * counts[2]), np.int32)
        self.headers = xp.empty(max(1, held * counts[3]), np.uint32)


def columns_bytes(numerics: Numerics, in_registers: bool, item: int) -> int:
    """Return the shared memory of a tile of blocks, of items of some bytes."""
    side = numerics.grid.sides[3]
    return numerics.grid.block_size * (TILE + 32 // side) * item if in_registers else 0
