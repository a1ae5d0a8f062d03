"""Tiles to blocks of a field: all of it, or the blocks that a window of cells touches."""

import numpy as np
from numba import njit

from hpcblaz.bodies.records import LANES, STRIPS, TILE, strips_of

from .blocks import first_cell, is_full, store_block, transform_partial
from .constants import REAL, SIZE
from .source import ROWS, unpack_tile
from .transforms import inverse


@njit
def dequantise(rows, base, widths, step, v):
    """Multiply the integers of one group by the steps of their lanes."""
    for k in range(SIZE):
        row = np.uint64((base + k) * LANES)
        if widths[base + k]:
            for lane in range(LANES):
                v[k * LANES + lane] = REAL(rows[row + np.uint64(lane)]) * step[lane]
        else:
            for lane in range(LANES):
                v[k * LANES + lane] = REAL(0)


@njit(nogil=True, cache=True)
def decode(main, side, regions, tiles, chosen, start, stop, matrices, steps, mean_step, factor, offset,
           out, low, high, shape):
    """Decode the tiles chosen[start:stop] into `out`, which holds the cells from `low` to `high`.

    The field is factor * payload + offset. Groups without a block in the window are not decoded.
    """
    rows = np.empty(ROWS * LANES, np.int32)
    widths = np.zeros(ROWS, np.int64)
    means = np.empty(TILE, np.float64)
    block_steps = np.empty(TILE, np.float64)
    slots = np.empty(TILE, np.int64)
    blocks = np.empty(TILE, np.int64)
    v = np.empty(max(SIZE, 16) * LANES, REAL)
    w = np.empty(16 * LANES, REAL)
    step = np.zeros(LANES, REAL)
    cell = np.empty(4, np.int64)
    for i in range(start, stop):
        tile = chosen[i]
        region = regions[tiles[tile, 0]]
        first, count = tiles[tile, 1], tiles[tile, 2]
        unpack_tile(main, side, tile, count, steps, mean_step, rows, widths, means, block_steps, slots)
        blocks[:] = -1
        for b in range(count):
            first_cell(region, first + b, cell)
            inside = True
            for axis in range(4):
                inside = inside and cell[axis] < high[axis] and cell[axis] + region[8 + axis] > low[axis]
            if inside:
                blocks[slots[b]] = b
        for s in range(strips_of(count)):
            needed = False
            for lane in range(LANES):
                b = blocks[s * LANES + lane]
                step[lane] = REAL(block_steps[b]) if b >= 0 else REAL(0)
                needed = needed or b >= 0
            if not needed:
                continue
            dequantise(rows, STRIPS + s * SIZE, widths, step, v)
            for lane in range(LANES):
                b = blocks[s * LANES + lane]
                v[lane] = REAL(means[b]) if b >= 0 else REAL(0)
            if is_full(region):
                inverse(v)
            else:
                transform_partial(v, w, region[8:12], matrices, True)
            if factor != REAL(1):
                for j in range(SIZE * LANES):
                    v[j] *= factor
            for lane in range(LANES):
                b = blocks[s * LANES + lane]
                if b >= 0:
                    first_cell(region, first + b, cell)
                    store_block(v, lane, region, cell, offset, out, low, high, shape)
