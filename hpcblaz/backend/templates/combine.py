"""Linear combinations of two packed fields, packed again: ``weight_a * a + weight_b * b``.

Steps are powers of two. Where both weights are too, a sum of integers over the smaller of the two steps is exact,
and nothing is rounded; otherwise, or where an integer would outgrow 30 bits, what is rounded away is measured.
The sum keeps the groups of the operand that takes more words in the tile.
"""

import math

import numpy as np
from numba import njit

from hpcblaz.bodies.bits import bit_length
from hpcblaz.bodies.records import LANES, NATURAL, STRIPS, TILE, strips_of

from .constants import SIZE
from .packing import ROWS, unpack_tile, write_record

LIMIT = 2.0**30
LEVELS = 16
NOTHING = 1 << 20  # the exponent of a block without coefficients
CHUNK = min(16, SIZE)


@njit
def largest_magnitudes(rows, base, magnitudes):
    """Or together twice the magnitudes (plus one if negative) of each lane's coefficients; the first is zero."""
    for lane in range(LANES):
        magnitudes[lane] = np.uint32(0)
    for k in range(0, SIZE, CHUNK):
        row = np.uint64((base + k) * LANES)
        for lane in range(LANES):
            m = magnitudes[lane]
            for j in range(CHUNK):
                value = rows[row + np.uint64(j * LANES + lane)]
                m |= np.uint32(np.uint32(np.uint32(value) << np.uint32(1)) ^ np.uint32(np.int32(value >> np.int32(31))))
            magnitudes[lane] = m


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
def combine(
    words_a,
    offsets_a,
    steps_a,
    mean_step_a,
    weight_a,
    words_b,
    offsets_b,
    steps_b,
    mean_step_b,
    weight_b,
    tiles,
    start,
    stop,
    steps,
    mean_step,
    out,
    sizes,
    stats,
):
    """Combine tiles `start` to `stop` into `out`; return False if an integer outgrows 32 bits.

    steps and mean_step are those of the result. stats receives, for each tile, the largest 2-norm of what was rounded
    away from a block, and the sum of the squares of those norms.
    """
    rows_a = np.empty(ROWS * LANES, np.int32)
    rows_b = np.empty(ROWS * LANES, np.int32)
    rows = np.empty(ROWS * LANES, np.uint32)
    widths = np.zeros(ROWS, np.int64)
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
            words_a, offsets_a, tile, count, steps_a, mean_step_a, rows_a, widths, means_a, block_steps_a, slots_a
        )
        mask_b = unpack_tile(
            words_b, offsets_b, tile, count, steps_b, mean_step_b, rows_b, widths, means_b, block_steps_b, slots_b
        )
        here = position
        if offsets_a[tile + 1] - offsets_a[tile] >= offsets_b[tile + 1] - offsets_b[tile]:
            position = combine_tile(
                rows_a,
                mask_a,
                means_a,
                block_steps_a,
                slots_a,
                weight_a,
                rows_b,
                mask_b,
                means_b,
                block_steps_b,
                slots_b,
                weight_b,
                count,
                steps,
                mean_step,
                rows,
                out,
                position,
                stats[tile - start],
            )
        else:
            position = combine_tile(
                rows_b,
                mask_b,
                means_b,
                block_steps_b,
                slots_b,
                weight_b,
                rows_a,
                mask_a,
                means_a,
                block_steps_a,
                slots_a,
                weight_a,
                count,
                steps,
                mean_step,
                rows,
                out,
                position,
                stats[tile - start],
            )
        if position < 0:
            return False
        sizes[tile - start] = position - here
    return True


@njit
def combine_tile(
    rows_a,
    mask_a,
    means_a,
    block_steps_a,
    slots_a,
    weight_a,
    rows_b,
    mask_b,
    means_b,
    block_steps_b,
    slots_b,
    weight_b,
    count,
    steps,
    mean_step,
    rows,
    out,
    position,
    stats,
):
    """Combine one tile, in the groups of a; return the position after its record, or -1."""
    group = np.empty(TILE, np.int64)
    levels = np.zeros(TILE, np.int64)
    means = np.empty(TILE, np.int32)
    lost = np.zeros(TILE)
    weight_exponents = np.empty(3, np.int64)
    exponents_a = np.empty(TILE, np.int64)
    exponents_b = np.empty(TILE, np.int64)
    blocks = np.empty(TILE, np.int64)
    column = np.empty(TILE, np.uint64)
    factor_a = np.zeros(TILE, np.int32)
    factor_b = np.zeros(TILE, np.int32)
    magnitudes_a = np.zeros(TILE, np.uint32)
    magnitudes_b = np.zeros(TILE, np.uint32)
    strips = strips_of(count)
    for g in range(strips):
        lanes = slice(g * LANES, (g + 1) * LANES)
        if mask_a >> g & 1:
            largest_magnitudes(rows_a, STRIPS + g * SIZE, magnitudes_a[lanes])
        if mask_b >> g & 1:
            largest_magnitudes(rows_b, STRIPS + g * SIZE, magnitudes_b[lanes])
    weights = np.array([abs(weight_a), abs(weight_b), steps[0]])
    exact = math.frexp(weights[0])[0] == 0.5 and math.frexp(weights[1])[0] == 0.5
    exponents_of(weights, weight_exponents)
    exponents_of(block_steps_a, exponents_a)
    exponents_of(block_steps_b, exponents_b)
    lowest = weight_exponents[2]
    sign_a = np.int32(1) if weight_a > 0 else np.int32(-1)
    sign_b = np.int32(1) if weight_b > 0 else np.int32(-1)
    for b in range(count):
        total = weight_a * means_a[b] + weight_b * means_b[b]
        mean = np.rint(total / mean_step)
        if not abs(mean) < 2.0 * LIMIT:
            return np.int64(-1)
        means[b] = np.int32(mean)
        lost[b] = (total - mean * mean_step) * (total - mean * mean_step)
        group[b] = slots_a[b] // LANES
        blocks[slots_a[b]] = b
    for i in range(count, strips * LANES):
        blocks[i] = blocks[count - 1]
    mask = mask_a & NATURAL
    for g in range(strips):
        rounded = False
        for i in range(g * LANES, (g + 1) * LANES):
            b = blocks[i]
            partner = slots_b[b]
            column[i] = np.uint64((STRIPS + partner // LANES * SIZE) * LANES + partner % LANES)
            magnitude_a, magnitude_b = np.int64(magnitudes_a[slots_a[b]]), np.int64(magnitudes_b[partner])
            exponent_a = exponents_a[b] + weight_exponents[0] if magnitude_a else NOTHING
            exponent_b = exponents_b[b] + weight_exponents[1] if magnitude_b else NOTHING
            wanted = min(exponent_a, exponent_b) - lowest
            level = min(max(wanted, 0), LEVELS - 1)
            levels[b] = level
            shift_a = exponent_a - lowest - level if magnitude_a else 0
            shift_b = exponent_b - lowest - level if magnitude_b else 0
            fits = exact and wanted >= 0
            fits = fits and bit_length(magnitude_a) + shift_a <= 30 and bit_length(magnitude_b) + shift_b <= 30
            factor_a[i] = sign_a << np.int32(shift_a) if fits else np.int32(0)
            factor_b[i] = sign_b << np.int32(shift_b) if fits else np.int32(0)
            rounded = rounded or not fits
            if mask_a >> g & 1 or mask_b >> (partner // LANES) & 1:
                mask |= 1 << g
        if not mask >> g & 1:
            continue
        base = STRIPS + g * SIZE
        lanes = slice(g * LANES, (g + 1) * LANES)
        if mask_a & mask_b & NATURAL:
            add_in_place(rows_a, factor_a[lanes], rows_b, factor_b[lanes], base, rows)
        else:
            add_group(rows_a, base, factor_a[lanes], rows_b, column[lanes], factor_b[lanes], rows)
        if count < LANES:  # lanes without a block hold anything: give them what the last block has
            for k in range(SIZE):
                for lane in range(count, LANES):
                    rows[(base + k) * LANES + lane] = rows[(base + k) * LANES + count - 1]
        if rounded:
            for i in range(g * LANES, (g + 1) * LANES):
                b = blocks[i]
                if factor_a[i] or factor_b[i]:
                    continue
                level, away = add_rounded(
                    rows_a,
                    np.uint64(base * LANES + i % LANES),
                    weight_a * block_steps_a[b],
                    rows_b,
                    column[i],
                    weight_b * block_steps_b[b],
                    steps,
                    levels[b],
                    rows,
                )
                if level < 0:
                    return np.int64(-1)
                if i < count:
                    levels[b] = level
                    lost[b] += away
    for b in range(count):
        stats[0] = max(stats[0], np.sqrt(lost[b]))
        stats[1] += lost[b]
    return write_record(rows, mask, group, levels, means, count, out, position)
