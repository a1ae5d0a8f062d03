"""Linear combinations of two packed fields, packed again: ``weight_a * a + weight_b * b``.

Steps are powers of two. Where both weights are too, a sum of integers over the smaller of the two steps is exact,
and nothing is rounded; otherwise, or where an integer would outgrow 30 bits, what is rounded away is measured.
The sum keeps the groups of the operand that takes more words in the tile.
"""

import math

import numpy as np
from numba import njit

from hpcblaz.bodies.records import LANES, NATURAL, STRIPS, TILE, strips_of

from .constants import SIZE
from .packing import ROWS, record_scratch, unpack_tile, write_record

LIMIT = 2.0**30
LEVELS = 16
NOTHING = 1 << 20  # the exponent of a block without coefficients
CHUNK = min(16, SIZE)


@njit
def widest(widths, base):
    """Return the most bits of a coefficient of a group; 0 if it has none."""
    most = np.int64(0)
    for k in range(SIZE):
        most = max(most, widths[base + k])
    return most


@njit
def add_group(rows_a, base, factor_a, rows_b, column, factor_b, out):
    """Add the integers of a group of a and those of their partners in b, each times a factor of its lane."""
    for k in range(0, SIZE, CHUNK):
        row = np.uint64((base + k) * LANES)
        for lane in range(LANES):
            partner = column[lane] + np.uint64(k * LANES)
            fa, fb = factor_a[lane], factor_b[lane]
            for j in range(CHUNK):
                own = np.int32(rows_a[row + np.uint64(j * LANES + lane)] * fa)
                other = np.int32(rows_b[partner + np.uint64(j * LANES)] * fb)
                out[row + np.uint64(j * LANES + lane)] = np.uint32(np.int32(own + other))


@njit
def add_in_place(rows_a, factor_a, rows_b, factor_b, base, out):
    """Add the integers of two groups of the same blocks, each times a factor of its lane."""
    for k in range(0, SIZE, CHUNK):
        row = np.uint64((base + k) * LANES)
        for lane in range(LANES):
            fa, fb = factor_a[lane], factor_b[lane]
            for j in range(CHUNK):
                here = row + np.uint64(j * LANES + lane)
                own = np.int32(rows_a[here] * fa)
                other = np.int32(rows_b[here] * fb)
                out[here] = np.uint32(np.int32(own + other))


@njit
def add_rounded(rows_a, place_a, factor_a, rows_b, place_b, factor_b, steps, level, out):
    """Add the coefficients of one block as reals, and round them to the finest level, from `level` on, that holds them.

    Returns the level, or -1 if none holds them, and the sum of squares of what was rounded away.
    """
    while level < LEVELS:
        inverse_step = 1.0 / steps[level]
        largest, lost = 0.0, 0.0
        for k in range(1, SIZE):
            row = np.uint64(k * LANES)
            scaled = (factor_a * rows_a[place_a + row] + factor_b * rows_b[place_b + row]) * inverse_step
            index = np.rint(scaled)
            lost += (scaled - index) * (scaled - index)
            largest = max(largest, abs(index))
            out[place_a + row] = np.uint32(np.int64(index) & 0xFFFFFFFF) if abs(index) < LIMIT else np.uint32(0)
        if largest < LIMIT:
            return level, lost * steps[level] * steps[level]
        level += 1
    return -1, 0.0


@njit
def exponents_of(values, out):
    """Write the binary exponents of positive, normal numbers (of the power of two at or below them)."""
    bits = values.view(np.int64)
    for i in range(len(values)):
        out[i] = (bits[i] >> 52) - 1023


@njit(nogil=True, cache=True)
def combine(a, weight_a, b, weight_b, tiles, start, stop, steps, mean_step, out, sizes, stats):
    """Combine tiles `start` to `stop` into `out`; return False if an integer outgrows 32 bits.

    a and b are tuples of words, offsets, steps and the step of coefficient 0; steps and mean_step are those of the
    result. stats receives, for each tile, the largest 2-norm of what was rounded away from a block, and the sum of
    the squares of those norms.
    """
    words_a, offsets_a, steps_a, mean_step_a = a
    words_b, offsets_b, steps_b, mean_step_b = b
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
    position = np.int64(0)
    for tile in range(start, stop):
        count = tiles[tile, 2]
        mask_a = unpack_tile(
            words_a, offsets_a, tile, count, steps_a, mean_step_a, rows_a, widths_a, means_a, block_steps_a, slots_a
        )
        mask_b = unpack_tile(
            words_b, offsets_b, tile, count, steps_b, mean_step_b, rows_b, widths_b, means_b, block_steps_b, slots_b
        )
        first = (rows_a, widths_a, mask_a, means_a, block_steps_a, slots_a, weight_a)
        second = (rows_b, widths_b, mask_b, means_b, block_steps_b, slots_b, weight_b)
        if offsets_a[tile + 1] - offsets_a[tile] < offsets_b[tile + 1] - offsets_b[tile]:
            first, second = second, first
        here = position
        position = combine_tile(first, second, count, steps, mean_step, rows, out, position, stats[tile - start])
        if position < 0:
            return False
        sizes[tile - start] = position - here
    return True


@njit
def combine_tile(a, b, count, steps, mean_step, rows, out, position, stats):
    """Combine one tile, in the groups of a; return the position after its record, or -1."""
    rows_a, widths_a, mask_a, means_a, block_steps_a, slots_a, weight_a = a
    rows_b, widths_b, mask_b, means_b, block_steps_b, slots_b, weight_b = b
    group = np.empty(TILE, np.int64)
    levels = np.zeros(TILE, np.int64)
    means = np.empty(TILE, np.int32)
    lost = np.zeros(TILE)
    weight_exponents = np.empty(3, np.int64)
    exponents_a = np.empty(TILE, np.int64)
    exponents_b = np.empty(TILE, np.int64)
    bits_a = np.zeros(STRIPS, np.int64)
    bits_b = np.zeros(STRIPS, np.int64)
    blocks = np.empty(TILE, np.int64)
    column = np.empty(TILE, np.uint64)
    factor_a = np.zeros(TILE, np.int32)
    factor_b = np.zeros(TILE, np.int32)
    strips = strips_of(count)
    for g in range(strips):
        bits_a[g] = widest(widths_a, STRIPS + g * SIZE)
        bits_b[g] = widest(widths_b, STRIPS + g * SIZE)
    weights = np.array([abs(weight_a), abs(weight_b), steps[0]])
    exact = math.frexp(weights[0])[0] == 0.5 and math.frexp(weights[1])[0] == 0.5
    exponents_of(weights, weight_exponents)
    exponents_of(block_steps_a, exponents_a)
    exponents_of(block_steps_b, exponents_b)
    lowest = weight_exponents[2]
    sign_a = np.int32(1) if weight_a > 0 else np.int32(-1)
    sign_b = np.int32(1) if weight_b > 0 else np.int32(-1)
    for block in range(count):
        total = weight_a * means_a[block] + weight_b * means_b[block]
        mean = np.rint(total / mean_step)
        if not abs(mean) < 2.0 * LIMIT:
            return np.int64(-1)
        means[block] = np.int32(mean)
        lost[block] = (total - mean * mean_step) * (total - mean * mean_step)
        group[block] = slots_a[block] // LANES
        blocks[slots_a[block]] = block
    blocks[count : strips * LANES] = blocks[count - 1]
    mask = mask_a & NATURAL
    for g in range(strips):
        lanes = slice(g * LANES, (g + 1) * LANES)
        rounded, some = False, bits_a[g]
        for i in range(g * LANES, (g + 1) * LANES):
            block = blocks[i]
            partner = slots_b[block]
            column[i] = np.uint64((STRIPS + partner // LANES * SIZE) * LANES + partner % LANES)
            other = bits_b[partner // LANES]
            some |= other
            exponent_a = exponents_a[block] + weight_exponents[0] if bits_a[g] else NOTHING
            exponent_b = exponents_b[block] + weight_exponents[1] if other else NOTHING
            wanted = min(exponent_a, exponent_b) - lowest
            level = min(max(wanted, 0), LEVELS - 1)
            levels[block] = level
            shift_a = exponent_a - lowest - level if bits_a[g] else 0
            shift_b = exponent_b - lowest - level if other else 0
            fits = exact and wanted >= 0 and bits_a[g] + shift_a <= 30 and other + shift_b <= 30
            factor_a[i] = sign_a << np.int32(shift_a) if fits else np.int32(0)
            factor_b[i] = sign_b << np.int32(shift_b) if fits else np.int32(0)
            rounded = rounded or not fits
        if some == 0:
            continue
        mask |= 1 << g
        base = STRIPS + g * SIZE
        if mask_a & mask_b & NATURAL:
            add_in_place(rows_a, factor_a[lanes], rows_b, factor_b[lanes], base, rows)
        else:
            add_group(rows_a, base, factor_a[lanes], rows_b, column[lanes], factor_b[lanes], rows)
        for i in range(g * LANES, min(count, (g + 1) * LANES) if rounded else 0):
            if factor_a[i] == 0:
                block = blocks[i]
                place = np.uint64(base * LANES + i % LANES)
                step_a, step_b = weight_a * block_steps_a[block], weight_b * block_steps_b[block]
                level, away = add_rounded(rows_a, place, step_a, rows_b, column[i], step_b, steps, levels[block], rows)
                if level < 0:
                    return np.int64(-1)
                levels[block] = level
                lost[block] += away
        if (g + 1) * LANES > count:  # lanes without a block get what the last one has
            last = count - 1 - g * LANES
            for k in range(SIZE):
                for lane in range(last + 1, LANES):
                    rows[(base + k) * LANES + lane] = rows[(base + k) * LANES + last]
    for block in range(count):
        stats[0] = max(stats[0], np.sqrt(lost[block]))
        stats[1] += lost[block]
    return write_record(rows, mask, group, levels, means, count, out, position, record_scratch())
