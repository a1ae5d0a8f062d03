"""Blocks to indices of fixed width with a scale each, and sums of two such fields; see templates/fixed.py."""

import math

import numpy as np
from numba import float64, int32, int64
from numba.extending import register_jitable

from hpcblaz.bodies.records import LANES, TILE
from hpcblaz.bodies.steps import scales

from .blocks import cells_of, four, load_tile, region_of, to_coefficients, to_samples
from .columns import keep_only, largest_kept, measure_error, round_all, scale_all, store_indices
from .constants import IN_REGISTERS, KIND, LEAST_SCALE, REAL, SIZE, STRIDE
from .fixed_source import open_tile, unpack_tile
from .scalars import cuda, forget, nearest_double, times_double
from .tile import largest_of_row, sum_rows

COLUMNS = SIZE * STRIDE
THREE_ROWS = 3 * TILE
TWO_ROWS = 2 * TILE


def encode_fixed(
    x, shape, regions, tiles, first_tile, stop_tile, matrices, limit, allowance, indices, block_scales, tile_starts,
    kept, stats, reals,
):  # fmt: skip
    """Encode tiles in place of their indices and scales; limit is r.

    stats receives, for each tile, its largest error (allowances for the rounding of another backend included), its sum
    of squared errors, and its sum of squared allowances.
    """
    t = cuda.threadIdx.x
    if IN_REGISTERS:
        samples = cuda.shared.array(0, KIND)
        r = cuda.local.array(SIZE, KIND)
        line = samples
    else:
        base = cuda.blockIdx.x * (3 * SIZE + 16) * STRIDE
        samples = reals[base : base + COLUMNS]
        r = reals[base + COLUMNS : base + 2 * COLUMNS]
        line = reals[base + 2 * COLUMNS : base + 2 * COLUMNS + 16 * STRIDE]
    starts = cuda.shared.array(TILE, int64)
    ranks = cuda.shared.array(SIZE, int32)
    rows = cuda.shared.array(THREE_ROWS, float64)
    extent = four(shape)
    for tile in range(first_tile + cuda.blockIdx.x, stop_tile, cuda.gridDim.x):
        number = tiles[tile, 0]
        region = region_of(regions, number)
        first, count = tiles[tile, 1], tiles[tile, 2]
        cells = cells_of(region)
        for k in range(t, SIZE, TILE):
            ranks[k] = -1
        cuda.syncthreads()
        for j in range(t, kept[number, 0], TILE):
            ranks[kept[number, 1 + j]] = j
        load_tile(x, extent, region, first, count, starts, samples)
        rows[t], rows[TILE + t], rows[2 * TILE + t] = 0.0, 0.0, 0.0
        if t < count:
            to_coefficients(samples, t, r, t, line, region, matrices)
            largest = largest_kept(r, t, ranks)
            scale, to_index, to_value = scales(largest, limit, LEAST_SCALE)
            block_scales[tile_starts[tile, 1] + t] = REAL(scale)
            round_all(r, t, REAL(to_index))
            forget()
            keep_only(r, t, ranks)
            forget()
            strip = t // LANES * LANES
            position = tile_starts[tile, 0] + strip * kept[number, 0] + t % LANES
            store_indices(r, t, ranks, indices, position, min(LANES, count - strip))
            scale_all(r, t, REAL(to_value))
            to_samples(r, t, line, region, matrices)
            forget()
            error, square = measure_error(samples, t, r, t)
            slack = allowance * np.float64(largest) * math.sqrt(np.float64(kept[number, 0]))
            rows[t] = np.float64(error) + slack
            rows[TILE + t] = np.float64(square)
            rows[2 * TILE + t] = cells * slack * slack
        most = largest_of_row(rows)
        sum_rows(rows[TILE:], 2, stats[3 * tile + 1 : 3 * tile + 3])
        if t == 0:
            stats[3 * tile] = most


def combine_fixed(
    main_a, side_a, weight_a, main_b, side_b, weight_b, tiles, first_tile, stop_tile, limit, indices, block_scales,
    tile_starts, kept, stats, integers_scratch,
):  # fmt: skip
    """Compute weight_a * a + weight_b * b in coefficients, and round it to indices anew.

    stats receives, for each tile, the largest 2-norm of what was rounded away from a block, and the sum of the squares.
    """
    t = cuda.threadIdx.x
    if IN_REGISTERS:
        both = cuda.shared.array(0, int32)
    else:
        both = integers_scratch[2 * cuda.blockIdx.x * COLUMNS : 2 * (cuda.blockIdx.x + 1) * COLUMNS]
    integers_a, integers_b = both[:COLUMNS], both[COLUMNS:]
    slots = cuda.shared.array(TILE, int32)
    owner = cuda.shared.array(TILE, int32)
    rows = cuda.shared.array(TWO_ROWS, float64)
    unit = 1.0 / limit
    for tile in range(first_tile + cuda.blockIdx.x, stop_tile, cuda.gridDim.x):
        number, count = tiles[tile, 0], tiles[tile, 2]
        mask, step_a, mean_a = open_tile(main_a, side_a, tile, count, unit, unit, owner, owner, owner, slots, owner)
        mask, step_b, mean_b = open_tile(main_b, side_b, tile, count, unit, unit, owner, owner, owner, slots, owner)
        unpack_tile(main_a, side_a, tile, count, mask, owner, owner, owner, integers_a)
        unpack_tile(main_b, side_b, tile, count, mask, owner, owner, owner, integers_b)
        rows[t], rows[TILE + t] = 0.0, 0.0
        if t < count:
            strip = t // LANES * LANES
            lanes = min(LANES, count - strip)
            position = tile_starts[tile, 0] + strip * kept[number, 0] + t % LANES
            factor_a, factor_b = weight_a * step_a, weight_b * step_b
            mean = times_double(weight_a, mean_a) + times_double(weight_b, mean_b)
            largest, lost = 0.0, 0.0
            for j in range(kept[number, 0]):
                k = kept[number, 1 + j]
                value = sum_of(integers_a, factor_a, integers_b, factor_b, k, t) if k else mean
                largest = max(largest, abs(value))
            largest = np.float64(REAL(largest))
            block_scales[tile_starts[tile, 1] + t] = REAL(largest)
            step = largest * unit
            for j in range(kept[number, 0]):
                k = kept[number, 1 + j]
                value = sum_of(integers_a, factor_a, integers_b, factor_b, k, t) if k else mean
                index = nearest_double(value / step) if step > 0.0 else 0.0
                index = max(-limit, min(limit, index))
                rest = value - times_double(index, step)
                lost += rest * rest
                indices[np.uint64(position + j * lanes)] = np.int32(index)
            rows[t] = math.sqrt(lost)
            rows[TILE + t] = lost
        most = largest_of_row(rows)
        sum_rows(rows[TILE:], 1, stats[2 * tile + 1 : 2 * tile + 2])
        if t == 0:
            stats[2 * tile] = most


@register_jitable(forceinline=True)
def sum_of(integers_a, factor_a, integers_b, factor_b, k, column):
    """Return the sum of a coefficient of two columns, each times a factor."""
    here = np.uint64(k * STRIDE + column)
    first = times_double(factor_a, np.float64(integers_a[here]))
    return first + times_double(factor_b, np.float64(integers_b[here]))
