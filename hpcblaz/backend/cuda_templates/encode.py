"""Blocks to bits for a guaranteed tolerance, in two kernels.

``measure`` searches the step of every block, arranges the blocks of each tile, and finds the size of its record; when
the sum of all sizes is known, ``write`` quantises anew and packs.
"""

import math

import numpy as np
from numba import float64, int32, int64, uint32

from hpcblaz.bodies.records import STRIPS, TILE
from hpcblaz.bodies.steps import FIRST_LEVEL, LEVELS, judge

from .blocks import cells_of, four, load_tile, region_of, to_coefficients, to_samples
from .columns import (
    clear_all,
    cost,
    first_of,
    measure_coefficients,
    measure_error,
    quantise,
    round_all,
    store_integers,
)
from .constants import IN_REGISTERS, KIND, REAL, SIZE, STRIDE
from .packing import HEADER, arrange, find_means, find_widths, record_words, write_record
from .scalars import cuda, forget, nearest, power, quotient, times
from .tile import largest_of_row, packing_memory, sum_rows

COLUMNS = SIZE * STRIDE
WIDTHS = STRIPS * SIZE
# Registers hold the coefficients beside the block of a trial in single precision only; in double they are computed anew
KEPT = REAL is np.float32 or not IN_REGISTERS
THREE_ROWS = 3 * TILE
HEADERS = STRIPS * HEADER


def measure(
    x, shape, regions, tiles, first_tile, stop_tile, matrices, tolerance, allowance, exponent, mean_level,
    controls, masks, sizes, stats, reals, integers_scratch, table,
):  # fmt: skip
    """Search the steps of tiles; find their arrangement, and the words of their records.

    controls receives for each block its slot times 16 plus its level; masks the groups of each tile (negative where
    some block cannot hold the tolerance); stats its largest error, its sum of squared errors, and its sum of squared
    allowances.
    """
    t = cuda.threadIdx.x
    if IN_REGISTERS:
        samples = cuda.shared.array(0, KIND)
        integers = cuda.shared.array(0, int32)
        r = cuda.local.array(SIZE, KIND)
        c = r
        if KEPT:
            c = cuda.local.array(SIZE, KIND)
        line = samples
        widths = cuda.shared.array(WIDTHS, int32)
    else:
        base = cuda.blockIdx.x * (3 * SIZE + 16) * STRIDE
        samples = reals[base : base + COLUMNS]
        r = reals[base + COLUMNS : base + 2 * COLUMNS]
        c = reals[base + 2 * COLUMNS : base + 3 * COLUMNS]
        line = reals[base + 3 * COLUMNS : base + 3 * COLUMNS + 16 * STRIDE]
        integers = integers_scratch[cuda.blockIdx.x * COLUMNS : (cuda.blockIdx.x + 1) * COLUMNS]
        widths = table[cuda.blockIdx.x * STRIPS * SIZE : (cuda.blockIdx.x + 1) * STRIPS * SIZE]
    starts = cuda.shared.array(TILE, int64)
    code = cuda.shared.array(TILE, int32)
    slots = cuda.shared.array(TILE, int32)
    owner = cuda.shared.array(TILE, int32)
    dearest = cuda.shared.array(STRIPS, int32)
    group_bits = cuda.shared.array(STRIPS, int32)
    group_words, least, mean_widths, means = packing_memory()
    rows = cuda.shared.array(THREE_ROWS, float64)
    extent = four(shape)
    least_step = REAL(power(exponent))
    most_step = REAL(power(exponent + LEVELS - 1))
    mean_step = REAL(power(exponent + mean_level))
    inverse_mean_step = REAL(1) / mean_step
    for tile in range(first_tile + cuda.blockIdx.x, stop_tile, cuda.gridDim.x):
        region = region_of(regions, tiles[tile, 0])
        first, count = tiles[tile, 1], tiles[tile, 2]
        cells = cells_of(region)
        root = REAL(math.sqrt(np.float64(cells)))
        load_tile(x, extent, region, first, count, starts, samples)
        key, failed, level = 0, 0, 0
        rows[t], rows[TILE + t], rows[2 * TILE + t] = 0.0, 0.0, 0.0
        if t < count:
            step = REAL(power(exponent + FIRST_LEVEL))
            inverse_step = REAL(1) / step
            accepted, refused = REAL(0), most_step * REAL(4)
            best_error, best_square = REAL(0), REAL(0)
            to_coefficients(samples, t, c, t, line, region, matrices)
            largest, square = measure_coefficients(c, t)
            mean = times(nearest(times(first_of(c, t), inverse_mean_step)), mean_step)
            # Another backend may round the decoded samples differently: `allowance` times a bound of them
            rounding = quotient(abs(mean), root) + REAL(math.sqrt(square)) + times(root, tolerance)
            room = tolerance - times(allowance, rounding)
            again = 1
            while again:
                quantise(c, r, t, mean, step, inverse_step)
                to_samples(r, t, line, region, matrices)
                forget()
                error, square = measure_error(samples, t, r, t)
                step, accepted, refused, best_error, best_square, again = judge(
                    error, square, room, largest, step, inverse_step, accepted, refused, best_error, best_square,
                    least_step, most_step,
                )  # fmt: skip
                inverse_step = REAL(1) / step
                if not KEPT:
                    to_coefficients(samples, t, c, t, line, region, matrices)
            if accepted == REAL(0):
                failed = 1
            else:
                slack = np.float64(tolerance - room)
                rows[t] = np.float64(best_error) + slack
                rows[TILE + t] = np.float64(best_square)
                rows[2 * TILE + t] = cells * slack * slack
                inverse_step = REAL(1) / accepted
                level = np.int64(math.frexp(np.float64(accepted))[1]) - 1 - exponent
                means[t] = np.int32(times(mean, inverse_mean_step))
                round_all(c, t, inverse_step)
                key = cost(c, t)
        else:
            clear_all(c, t)
        failures = cuda.syncthreads_or(failed)
        if t < count and failures == 0:
            store_integers(c, t, integers, t)
        cuda.syncthreads()
        if failures:
            if t == 0:
                masks[tile] = -1
                sizes[tile] = 0
        else:
            mask = arrange(key, count, code, dearest, slots, owner)
            mask = find_widths(integers, owner, count, mask, widths, group_bits, group_words)
            find_means(means, count, least, mean_widths)
            if t < count:
                controls[tile * TILE + t] = slots[t] << 4 | level
            most = largest_of_row(rows)
            sum_rows(rows[TILE:], 2, stats[3 * tile + 1 : 3 * tile + 3])
            if t == 0:
                masks[tile] = mask
                sizes[tile] = record_words(count, mask, mean_widths, group_bits, group_words)
                stats[3 * tile] = most
        cuda.syncthreads()


def write(
    x, shape, regions, tiles, first_tile, stop_tile, matrices, exponent, mean_level,
    controls, masks, offsets, out, reals, integers_scratch, table, headers,
):  # fmt: skip
    """Write the records of tiles that have been measured."""
    t = cuda.threadIdx.x
    if IN_REGISTERS:
        samples = cuda.shared.array(0, KIND)
        integers = cuda.shared.array(0, int32)
        r = cuda.local.array(SIZE, KIND)
        line = samples
        widths = cuda.shared.array(WIDTHS, int32)
        header = cuda.shared.array(HEADERS, uint32)
    else:
        base = cuda.blockIdx.x * (3 * SIZE + 16) * STRIDE
        samples = reals[base : base + COLUMNS]
        r = reals[base + COLUMNS : base + 2 * COLUMNS]
        line = reals[base + 2 * COLUMNS : base + 2 * COLUMNS + 16 * STRIDE]
        integers = integers_scratch[cuda.blockIdx.x * COLUMNS : (cuda.blockIdx.x + 1) * COLUMNS]
        widths = table[cuda.blockIdx.x * STRIPS * SIZE : (cuda.blockIdx.x + 1) * STRIPS * SIZE]
        header = headers[cuda.blockIdx.x * STRIPS * HEADER : (cuda.blockIdx.x + 1) * STRIPS * HEADER]
    starts = cuda.shared.array(TILE, int64)
    slots = cuda.shared.array(TILE, int32)
    owner = cuda.shared.array(TILE, int32)
    levels = cuda.shared.array(TILE, int32)
    group_bits = cuda.shared.array(STRIPS, int32)
    group_words, least, mean_widths, means = packing_memory()
    sums = cuda.shared.array(STRIPS, int64)
    extent = four(shape)
    mean_step = REAL(power(exponent + mean_level))
    inverse_mean_step = REAL(1) / mean_step
    for tile in range(first_tile + cuda.blockIdx.x, stop_tile, cuda.gridDim.x):
        region = region_of(regions, tiles[tile, 0])
        first, count = tiles[tile, 1], tiles[tile, 2]
        load_tile(x, extent, region, first, count, starts, samples)
        if t < count:
            control = np.int64(controls[tile * TILE + t])
            slots[t] = control >> 4
            owner[control >> 4] = t
            levels[t] = control & 15
            to_coefficients(samples, t, r, t, line, region, matrices)
            means[t] = np.int32(nearest(times(first_of(r, t), inverse_mean_step)))
            round_all(r, t, REAL(power(-exponent - (control & 15))))
        else:
            clear_all(r, t)
        cuda.syncthreads()
        if t < count:
            store_integers(r, t, integers, t)
        else:
            last = np.int64(0)
            for b in range(count):
                last = b if slots[b] == count - 1 else last
            owner[t] = last
        cuda.syncthreads()
        mask = find_widths(integers, owner, count, np.int64(masks[tile]), widths, group_bits, group_words)
        find_means(means, count, least, mean_widths)
        write_record(
            integers, means, levels, slots, owner, count, mask, widths, group_bits, group_words, least, mean_widths,
            header, sums, out, offsets[tile],
        )  # fmt: skip
        cuda.syncthreads()
