"""Linear combinations of two packed fields, packed again: ``weight_a * a + weight_b * b``.

Steps are powers of two. Where both weights are too, a sum of integers over the smaller of the two steps is exact,
and nothing is rounded; otherwise, or where an integer would outgrow 30 bits, what is rounded away is measured.
"""

import numpy as np
from numba import njit

from hpcblaz.bodies.bits import bit_length
from hpcblaz.bodies.records import LANES, STRIPS, TILE, strips_of

from .constants import SIZE
from .packing import ROWS, pack_tile, unpack_tile

LIMIT = 2.0**30


@njit
def finer(step_a, step_b, steps, weight_a, weight_b, empty_a, empty_b):
    """Return the greatest level whose step divides both operands' steps, as far as there is one."""
    wanted = steps[15]
    if not empty_a:
        wanted = min(wanted, step_a * weight_a)
    if not empty_b:
        wanted = min(wanted, step_b * weight_b)
    level = 15
    while level > 0 and steps[level] > wanted:
        level -= 1
    return level


@njit(nogil=True, cache=True)
def combine(words_a, offsets_a, steps_a, mean_step_a, weight_a, words_b, offsets_b, steps_b, mean_step_b, weight_b,
            tiles, start, stop, steps, mean_step, out, sizes, stats):
    """Combine tiles `start` to `stop` into `out`; return False if coefficient 0 outgrows an integer.

    steps and mean_step are those of the result. stats receives, for each tile, the largest 2-norm of what was rounded
    away from a block, and the sum of the squares of those norms.
    """
    rows_a = np.empty(ROWS * LANES, np.int32)
    rows_b = np.empty(ROWS * LANES, np.int32)
    rows = np.empty(ROWS * LANES, np.uint32)
    widths_a = np.zeros(ROWS, np.int64)
    widths_b = np.zeros(ROWS, np.int64)
    means_a = np.empty(TILE, np.float64)
    means_b = np.empty(TILE, np.float64)
    block_steps_a = np.empty(TILE, np.float64)
    block_steps_b = np.empty(TILE, np.float64)
    slots_a = np.empty(TILE, np.int64)
    slots_b = np.empty(TILE, np.int64)
    q = np.zeros(SIZE * TILE, np.int32)
    key = np.empty(TILE, np.int64)
    levels = np.zeros(TILE, np.int64)
    bases = np.zeros(STRIPS, np.int32)
    mean_widths = np.zeros(STRIPS, np.int64)
    position = np.int64(0)
    exact_a, exact_b = abs(weight_a), abs(weight_b)
    for tile in range(start, stop):
        count = tiles[tile, 2]
        mask_a = unpack_tile(
            words_a, offsets_a, tile, count, steps_a, mean_step_a, rows_a, widths_a, means_a, block_steps_a, slots_a
        )
        mask_b = unpack_tile(
            words_b, offsets_b, tile, count, steps_b, mean_step_b, rows_b, widths_b, means_b, block_steps_b, slots_b
        )
        for s in range(strips_of(count)):
            least, most = np.int64(2**31), -np.int64(2**31)
            for lane in range(LANES):
                b = s * LANES + lane
                here = s * SIZE * LANES + lane
                if b >= count:
                    key[b] = 0
                    q[here] = q[here - 1]
                    continue
                total = weight_a * means_a[b] + weight_b * means_b[b]
                mean = np.rint(total / mean_step)
                if not abs(mean) < 2.0 * LIMIT:
                    return False
                rest = total - mean * mean_step
                lost = rest * rest
                q[here] = np.int32(mean)
                least, most = min(least, np.int64(mean)), max(most, np.int64(mean))
                empty_a = not (mask_a >> (slots_a[b] // LANES) & 1)
                empty_b = not (mask_b >> (slots_b[b] // LANES) & 1)
                level = finer(block_steps_a[b], block_steps_b[b], steps, exact_a, exact_b, empty_a, empty_b)
                factor_a = 0.0 if empty_a else weight_a * block_steps_a[b]
                factor_b = 0.0 if empty_b else weight_b * block_steps_b[b]
                column_a = np.uint64((STRIPS + (slots_a[b] // LANES) * SIZE) * LANES + slots_a[b] % LANES)
                column_b = np.uint64((STRIPS + (slots_b[b] // LANES) * SIZE) * LANES + slots_b[b] % LANES)
                while True:
                    inverse_step = 1.0 / steps[level]
                    largest = 0.0
                    cost = 0.0
                    away = 0.0
                    for k in range(1, SIZE):
                        row = np.uint64(k * LANES)
                        value = factor_a * rows_a[column_a + row] + factor_b * rows_b[column_b + row]
                        scaled = value * inverse_step
                        index = np.rint(scaled)
                        rest = scaled - index
                        away += rest * rest
                        size = abs(index)
                        cost += size
                        largest = max(largest, size)
                        q[here + k * LANES] = np.int32(index) if size < LIMIT else np.int32(0)
                    if largest < LIMIT or level == 15:
                        break
                    level += 1
                if not largest < LIMIT:
                    return False
                levels[b] = level
                key[b] = np.int64(min(cost, 1e15)) if cost > 0 else 0
                lost += away * steps[level] * steps[level]
                stats[tile - start, 0] = max(stats[tile - start, 0], np.sqrt(lost))
                stats[tile - start, 1] += lost
            bases[s] = np.int32(least)
            mean_widths[s] = bit_length(most - least)
        # costs grow with the logarithm of the sizes
        for b in range(count):
            if key[b] > 0:
                key[b] = np.int64(64.0 * np.log2(1.0 + np.float64(key[b])))
        here = position
        position = pack_tile(q, key, levels, bases, mean_widths, count, out, position, rows)
        sizes[tile - start] = position - here
    return True
