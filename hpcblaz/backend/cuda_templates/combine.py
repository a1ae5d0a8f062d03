"""Linear combinations of two packed fields, packed again: ``weight_a * a + weight_b * b``.

As templates/combine.py has it, block by block: the same integers, and the groups of the operand that takes more words.
"""

import math

import numpy as np
from numba import float64, int32, int64, uint32
from numba.extending import register_jitable

from hpcblaz.bodies.records import LANES, NATURAL, STRIPS, TILE, strips_of
from hpcblaz.bodies.steps import LEVELS

from .constants import IN_REGISTERS, SIZE, STRIDE
from .packing import HEADER, find_means, find_widths, open_tile, record_words, unpack_tile, write_record
from .scalars import cuda, nearest_double, power, times_double
from .tile import largest_of_row, packing_memory, record_memory, sum_rows

COLUMNS = SIZE * STRIDE
WIDTHS = STRIPS * SIZE
HEADERS = STRIPS * HEADER
TWO_ROWS = 2 * TILE
LIMIT = 2.0**30
NOTHING = 1 << 20  # the exponent of a block without coefficients


@register_jitable(forceinline=True)
def exponent_of(value):
    """Return the binary exponent of a positive number, of the power of two at or below it."""
    return np.int64(math.frexp(value)[1]) - 1


@register_jitable(forceinline=True)
def widest(mask, widths, wide):
    """Find the most bits of a coefficient of each group, 0 if it has none."""
    t = cuda.threadIdx.x
    if t < STRIPS:
        most = np.int64(0)
        for k in range(1, SIZE if mask >> t & 1 else 0):
            most = max(most, np.int64(widths[t * SIZE + k]))
        wide[t] = most
    cuda.syncthreads()


@register_jitable(forceinline=True)
def add_rounded(integers, factor_a, others, factor_b, column, exponent, level):
    """Add the coefficients of one block as reals, and round them to the finest level, from `level` on, that holds them.

    Returns the level, or -1 if none holds them, and the sum of squares of what was rounded away.
    """
    while level < LEVELS:
        inverse_step = power(-exponent - level)
        largest, lost = 0.0, 0.0
        for k in range(1, SIZE):
            here = np.uint64(k * STRIDE + column)
            own = times_double(factor_a, np.float64(integers[here]))
            scaled = (own + times_double(factor_b, np.float64(others[here]))) * inverse_step
            index = nearest_double(scaled)
            lost += (scaled - index) * (scaled - index)
            largest = max(largest, abs(index))
        if largest < LIMIT:
            for k in range(1, SIZE):
                here = np.uint64(k * STRIDE + column)
                own = times_double(factor_a, np.float64(integers[here]))
                scaled = (own + times_double(factor_b, np.float64(others[here]))) * inverse_step
                integers[here] = np.int32(nearest_double(scaled))
            return level, lost / inverse_step / inverse_step
        level += 1
    return -1, 0.0


def combine(
    words_a, offsets_a, exponent_a, mean_exponent_a, weight_a, words_b, offsets_b, exponent_b, mean_exponent_b,
    weight_b, tiles, first_tile, stop_tile, exponent, mean_exponent, writing, out, offsets, sizes, stats,
    integers_scratch, table, headers,
):  # fmt: skip
    """Combine tiles: the words of each record (-1 if an integer outgrows 32 bits), and with `writing` the records.

    exponent and mean_exponent are those of the result. stats receives, for each tile, the largest 2-norm of what was
    rounded away from a block, and the sum of the squares of those norms.
    """
    t = cuda.threadIdx.x
    if IN_REGISTERS:
        both = cuda.shared.array(0, int32)
        widths = cuda.shared.array(WIDTHS, int32)
        header = cuda.shared.array(HEADERS, uint32)
    else:
        both = integers_scratch[2 * cuda.blockIdx.x * COLUMNS : 2 * (cuda.blockIdx.x + 1) * COLUMNS]
        widths = table[cuda.blockIdx.x * STRIPS * SIZE : (cuda.blockIdx.x + 1) * STRIPS * SIZE]
        header = headers[cuda.blockIdx.x * STRIPS * HEADER : (cuda.blockIdx.x + 1) * STRIPS * HEADER]
    integers, others = both[:COLUMNS], both[COLUMNS:]
    positions, group_bits, slots, owner = record_memory()
    levels = cuda.shared.array(TILE, int32)
    wide = cuda.shared.array(STRIPS, int32)
    other_wide = cuda.shared.array(STRIPS, int32)
    some = cuda.shared.array(STRIPS, int32)
    group_words, least, mean_widths, means = packing_memory()
    sums = cuda.shared.array(STRIPS, int64)
    rows = cuda.shared.array(TWO_ROWS, float64)
    mean_step = power(mean_exponent)
    for tile in range(first_tile + cuda.blockIdx.x, stop_tile, cuda.gridDim.x):
        count = tiles[tile, 2]
        swapped = offsets_a[tile + 1] - offsets_a[tile] < offsets_b[tile + 1] - offsets_b[tile]
        words_1, offsets_1 = (words_b, offsets_b) if swapped else (words_a, offsets_a)
        words_2, offsets_2 = (words_a, offsets_a) if swapped else (words_b, offsets_b)
        exponent_1, mean_exponent_1, weight_1 = exponent_a, mean_exponent_a, weight_a
        exponent_2, mean_exponent_2, weight_2 = exponent_b, mean_exponent_b, weight_b
        if swapped:
            exponent_1, mean_exponent_1, weight_1 = exponent_b, mean_exponent_b, weight_b
            exponent_2, mean_exponent_2, weight_2 = exponent_a, mean_exponent_a, weight_a
        mask, step_2, mean_2 = open_tile(
            words_2, offsets_2, tile, count, exponent_2, mean_exponent_2, widths, positions, group_bits, slots, owner
        )
        widest(mask, widths, other_wide)
        unpack_tile(words_2, offsets_2, tile, count, mask, widths, group_bits, owner, others)
        other_bits = np.int64(other_wide[slots[t] // LANES]) if t < count else 0
        if t < STRIPS:
            some[t] = 0
        cuda.syncthreads()
        mask, step_1, mean_1 = open_tile(
            words_1, offsets_1, tile, count, exponent_1, mean_exponent_1, widths, positions, group_bits, slots, owner
        )
        widest(mask, widths, wide)
        unpack_tile(words_1, offsets_1, tile, count, mask, widths, group_bits, owner, integers)
        rows[t], rows[TILE + t] = 0.0, 0.0
        failed = 0
        if t < count:
            total = times_double(weight_1, mean_1) + times_double(weight_2, mean_2)
            mean = nearest_double(total / mean_step)
            failed = 0 if abs(mean) < 2.0 * LIMIT else 1
            rest = total - times_double(mean, mean_step)
            lost = rest * rest
            means[t] = np.int32(mean) if failed == 0 else np.int32(0)
            own_bits = np.int64(wide[slots[t] // LANES])
            if own_bits or other_bits:
                some[slots[t] // LANES] = 1
            own_exponent = exponent_of(step_1) + exponent_of(abs(weight_1)) if own_bits else NOTHING
            other_exponent = exponent_of(step_2) + exponent_of(abs(weight_2)) if other_bits else NOTHING
            wanted = min(own_exponent, other_exponent) - exponent
            level = min(max(wanted, 0), LEVELS - 1)
            own_shift = own_exponent - exponent - level if own_bits else 0
            other_shift = other_exponent - exponent - level if other_bits else 0
            exact = math.frexp(abs(weight_1))[0] == 0.5 and math.frexp(abs(weight_2))[0] == 0.5
            if exact and wanted >= 0 and own_bits + own_shift <= 30 and other_bits + other_shift <= 30:
                own_factor = (1 << own_shift) if weight_1 > 0 else -(1 << own_shift)
                other_factor = (1 << other_shift) if weight_2 > 0 else -(1 << other_shift)
                for k in range(1, SIZE):
                    here = np.uint64(k * STRIDE + t)
                    value = np.int64(integers[here]) * own_factor + np.int64(others[here]) * other_factor
                    integers[here] = np.int32(value)
            elif own_bits or other_bits:
                level, away = add_rounded(
                    integers, weight_1 * step_1, others, weight_2 * step_2, t, exponent, level
                )  # fmt: skip
                failed |= 1 if level < 0 else 0
                lost += away
            levels[t] = level
            rows[t] = math.sqrt(lost)
            rows[TILE + t] = lost
        else:
            owner[t] = owner[count - 1]
        failures = cuda.syncthreads_or(failed)
        if failures:
            if t == 0:
                sizes[tile] = -1
        else:
            mask &= NATURAL
            for s in range(strips_of(count)):
                mask |= some[s] << s
            mask = find_widths(integers, owner, count, mask, widths, group_bits, group_words)
            find_means(means, count, least, mean_widths)
            if writing:
                write_record(
                    integers, means, levels, slots, owner, count, mask, widths, group_bits, group_words, least,
                    mean_widths, header, sums, out, offsets[tile],
                )  # fmt: skip
            else:
                most = largest_of_row(rows)
                sum_rows(rows[TILE:], 1, stats[2 * tile + 1 : 2 * tile + 2])
                if t == 0:
                    sizes[tile] = record_words(count, mask, mean_widths, group_bits, group_words)
                    stats[2 * tile] = most
        cuda.syncthreads()
