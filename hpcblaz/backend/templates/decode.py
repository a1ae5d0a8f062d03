"""Tiles to blocks of a field: all of it, or the blocks that a window of cells touches."""

import numpy as np
from numba import njit

from hpcblaz.bodies.records import LANES, NATURAL, STRIPS, TILE, strips_of

from .blocks import UNROLL, first_cell, is_full, is_run, store_block, store_run, transform_partial
from .constants import REAL, SIDE3, SIZE
from .source import ROWS, unpack_tile
from .transforms import inverse


@njit
def dequantise(rows, column, step, v):
    """Bring the integers of 16 neighbouring blocks side by side, and multiply them by the steps of their blocks."""
    for k in range(SIZE):
        for lane in range(LANES):
            source = column[lane] + np.uint64(k * LANES)
            v[k * LANES + lane] = REAL(rows[source]) * step[lane]


@njit
def dequantise_in_place(rows, base, step, v):
    """Multiply the integers of a strip by the steps of their blocks."""
    for k in range(0, SIZE, UNROLL):
        row = np.uint64((base + k) * LANES)
        for lane in range(LANES):
            s = step[lane]
            for j in range(UNROLL):
                v[(k + j) * LANES + lane] = REAL(rows[row + np.uint64(j * LANES + lane)]) * s


@njit(nogil=True, cache=True)
def decode(
    main, side, regions, tiles, chosen, start, stop, matrices, steps, mean_step, factor, offset, out, low, high, shape
):
    """Decode the tiles chosen[start:stop] into `out`, which holds the cells from `low` to `high`.

    The field is factor * payload + offset. Strips without a block in the window are not decoded.
    """
    rows = np.empty(ROWS * LANES, np.int32)
    widths = np.zeros(ROWS, np.int64)
    means = np.empty(TILE, np.float64)
    block_steps = np.empty(TILE, np.float64)
    slots = np.empty(TILE, np.int64)
    v = np.empty(max(SIZE, 16) * LANES, REAL)
    w = np.empty(16 * LANES, REAL)
    step = np.zeros(LANES, REAL)
    column = np.zeros(LANES, np.uint64)
    cells = np.empty((LANES, 4), np.int64)
    inside = np.zeros(LANES, np.int64)
    for i in range(start, stop):
        tile = chosen[i]
        region = regions[tiles[tile, 0]]
        first, count = tiles[tile, 1], tiles[tile, 2]
        mask = unpack_tile(main, side, tile, count, steps, mean_step, rows, widths, means, block_steps, slots)
        natural = mask & NATURAL
        for s in range(strips_of(count)):
            lanes = min(LANES, count - s * LANES)
            # Sixteen blocks side by side are stored as one, if the window holds them all
            run = is_run(region, first + s * LANES, lanes)
            if run:
                first_cell(region, first + s * LANES, cells[0])
                for axis in range(4):
                    end = cells[0, axis] + (LANES * SIDE3 if axis == 3 else region[8 + axis])
                    run = run and cells[0, axis] >= low[axis] and end <= high[axis]
            touched = 1 if run else 0
            for lane in range(0 if run else lanes):
                cell = cells[lane]
                first_cell(region, first + s * LANES + lane, cell)
                touches = True
                for axis in range(4):
                    touches = touches and cell[axis] < high[axis] and cell[axis] + region[8 + axis] > low[axis]
                inside[lane] = 1 if touches else 0
                touched += inside[lane]
            if touched == 0:
                continue
            for lane in range(LANES):
                b = s * LANES + min(lane, lanes - 1)
                step[lane] = REAL(block_steps[b])
                column[lane] = np.uint64((STRIPS + slots[b] // LANES * SIZE) * LANES + slots[b] % LANES)
            if natural:
                dequantise_in_place(rows, STRIPS + s * SIZE, step, v)
            else:
                dequantise(rows, column, step, v)
            for lane in range(lanes):
                v[lane] = REAL(means[s * LANES + lane])
            if is_full(region):
                inverse(v)
            else:
                transform_partial(v, w, region[8:12], matrices, 1)
            if factor != REAL(1):
                for j in range(SIZE * LANES):
                    v[j] *= factor
            if run:
                store_run(v, lanes, region, cells[0], offset, out, low, shape)
            else:
                for lane in range(lanes):
                    if inside[lane]:
                        store_block(v, lane, region, cells[lane], offset, out, low, high, shape)
