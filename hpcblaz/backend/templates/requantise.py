"""Coefficients in double precision to tiles: packed with power-of-two steps, or as indices of fixed width."""

import numpy as np
from numba import njit

from hpcblaz.bodies.bits import bit_length
from hpcblaz.bodies.records import LANES, TILE, strips_of
from hpcblaz.bodies.steps import LEVELS

from .constants import REAL, SIZE
from .packing import ROWS, pack_tile, record_scratch

LIMIT = 2.0**30


@njit
def round_block(c, base, level, steps, q, here):
    """Round the coefficients of a block but the first with the finest step, from `level` on, that 31 bits hold.

    Returns the level (-1 if there is none), the sum of squares of what is rounded away, and the cost in bits.
    """
    while level < LEVELS:
        inverse_step = 1.0 / steps[level]
        largest, lost, cost = 0.0, 0.0, np.int64(0)
        for k in range(1, SIZE):
            scaled = c[base + k * LANES] * inverse_step
            index = np.rint(scaled)
            largest = max(largest, abs(index))
            if largest >= LIMIT:
                break
            lost += (scaled - index) * (scaled - index)
            q[here + k * LANES] = np.int32(index)
            cost += bit_length(np.int64(abs(index)))
        if largest < LIMIT:
            return level, lost * steps[level] * steps[level], cost
        level += 1
    return -1, 0.0, np.int64(0)


@njit(nogil=True, cache=True)
def requantise(c, least, tiles, start, stop, steps, mean_step, out, sizes, stats):
    """Pack the coefficients of tiles `start` to `stop` into `out`; return False if an integer outgrows 32 bits.

    least has the step that each block is to be rounded with (or the next finer one there is). stats receives, for each
    tile, the largest 2-norm of what was rounded away from a block, and the sum of the squares of those norms.
    """
    rows = np.empty(ROWS * LANES, np.uint32)
    q = np.zeros(SIZE * TILE, np.int32)
    key = np.empty(TILE, np.int64)
    levels = np.zeros(TILE, np.int64)
    scratch = record_scratch()
    position = np.int64(0)
    for tile in range(start, stop):
        count = tiles[tile, 2]
        first = (tile - start) * TILE
        for b in range(count):
            here = b // LANES * SIZE * LANES + b % LANES
            base = first * SIZE + here
            mean = np.rint(c[base] / mean_step)
            if not abs(mean) < 2.0 * LIMIT:
                return False
            q[here] = np.int32(mean)
            level = 0
            while level + 1 < LEVELS and steps[level + 1] <= least[first + b]:
                level += 1
            level, lost, cost = round_block(c, base, level, steps, q, here)
            if level < 0:
                return False
            levels[b] = level
            key[b] = cost
            lost += (c[base] - mean * mean_step) * (c[base] - mean * mean_step)
            stats[tile - start, 0] = max(stats[tile - start, 0], np.sqrt(lost))
            stats[tile - start, 1] += lost
        begin = position
        position = pack_tile(q, key, levels, count, out, position, rows, scratch)
        sizes[tile - start] = position - begin
    return True


@njit(nogil=True, cache=True)
def requantise_fixed(c, tiles, start, stop, limit, indices, scales, starts, kept, stats):
    """Write the coefficients of tiles `start` to `stop` as indices and scales; stats as for requantise, by tile."""
    for tile in range(start, stop):
        count = tiles[tile, 2]
        region_kept = kept[tiles[tile, 0]]
        number = region_kept[0]
        position = starts[tile, 0]
        for s in range(strips_of(count)):
            lanes = min(LANES, count - s * LANES)
            for lane in range(lanes):
                base = ((tile - start) * TILE + s * LANES) * SIZE + lane
                largest = 0.0
                for j in range(number):
                    largest = max(largest, abs(c[base + region_kept[1 + j] * LANES]))
                largest = np.float64(REAL(largest))
                scales[starts[tile, 1] + s * LANES + lane] = REAL(largest)
                step = largest * (1.0 / limit)
                lost = 0.0
                for j in range(number):
                    value = c[base + region_kept[1 + j] * LANES]
                    index = np.rint(value / step) if step > 0.0 else 0.0
                    index = max(-limit, min(limit, index))
                    lost += (value - index * step) * (value - index * step)
                    indices[position + j * lanes + lane] = np.int32(index)
                stats[tile, 0] = max(stats[tile, 0], np.sqrt(lost))
                stats[tile, 1] += lost
            position += number * lanes
