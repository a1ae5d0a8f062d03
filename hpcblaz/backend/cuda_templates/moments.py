"""Sums over coefficients, from which the statistics of fields follow: nothing is decoded.

As templates/moments.py has it: products are accumulated in the kernel's precision over at most 16 coefficients of a
block, and in double precision beyond.
"""

import numpy as np
from numba import float64, int32, int64
from numba.extending import register_jitable

from hpcblaz.bodies.records import STRIPS, TILE

from .blocks import place_of, region_of
from .constants import IN_REGISTERS, REAL, SIZE, STRIDE
from .scalars import cuda
from .source import open_tile, sum_of_means, unpack_tile
from .tile import record_memory, sum_rows

COLUMNS = SIZE * STRIDE
WIDTHS = STRIPS * SIZE
THREE_ROWS = 3 * TILE
EIGHT_ROWS = 8 * TILE
CHUNK = min(16, SIZE)


def sums(main, side, first_tile, stop_tile, mean_step, roots, out):
    """Write the sum of the samples of each tile; roots are the square roots of the block sizes. One thread a tile."""
    stride = cuda.gridDim.x * cuda.blockDim.x
    for tile in range(first_tile + cuda.blockIdx.x * cuda.blockDim.x + cuda.threadIdx.x, stop_tile, stride):
        out[tile] = sum_of_means(main, side, tile, mean_step) * roots[tile]


@register_jitable(forceinline=True)
def sum_products(a, b, column):
    """Return the sum of products of the integers of two columns, the first left out."""
    total = 0.0
    for k in range(0, SIZE, CHUNK):
        part = REAL(0)
        for j in range(CHUNK):
            here = np.uint64((k + j) * STRIDE + column)
            part += REAL(a[here]) * REAL(b[here])
        total += np.float64(part)
    return total


def moments(
    main, side, tiles, first_tile, stop_tile, exponent, mean_exponent, roots, center, out, integers_scratch, table
):
    """For each tile: the centred sum of coefficient 0, of its square, and of the squares of the other coefficients."""
    t = cuda.threadIdx.x
    if IN_REGISTERS:
        integers = cuda.shared.array(0, int32)
        widths = cuda.shared.array(WIDTHS, int32)
    else:
        integers = integers_scratch[cuda.blockIdx.x * COLUMNS : (cuda.blockIdx.x + 1) * COLUMNS]
        widths = table[cuda.blockIdx.x * STRIPS * SIZE : (cuda.blockIdx.x + 1) * STRIPS * SIZE]
    positions, group_bits, slots, owner = record_memory()
    rows = cuda.shared.array(THREE_ROWS, float64)
    for tile in range(first_tile + cuda.blockIdx.x, stop_tile, cuda.gridDim.x):
        count = tiles[tile, 2]
        mask, step, mean = open_tile(
            main, side, tile, count, exponent, mean_exponent, widths, positions, group_bits, slots, owner
        )
        unpack_tile(main, side, tile, count, mask, widths, group_bits, owner, integers)
        rows[t], rows[TILE + t], rows[2 * TILE + t] = 0.0, 0.0, 0.0
        if t < count:
            d = mean - center * roots[tile]
            rows[t] = d * roots[tile]
            rows[TILE + t] = d * d
            rows[2 * TILE + t] = sum_products(integers, integers, t) * step * step
        sum_rows(rows, 3, out[3 * tile : 3 * tile + 3])


def products(
    main_a, side_a, exponent_a, mean_exponent_a, center_a, main_b, side_b, exponent_b, mean_exponent_b, center_b,
    tiles, first_tile, stop_tile, roots, squares, out, integers_scratch, table,
):  # fmt: skip
    """For each tile of two fields: centred sums of coefficient 0 of a and b, their squares and their product; and,
    of the other coefficients, the sums of squares (if `squares`) and of products.
    """
    t = cuda.threadIdx.x
    if IN_REGISTERS:
        both = cuda.shared.array(0, int32)
        widths = cuda.shared.array(WIDTHS, int32)
    else:
        both = integers_scratch[2 * cuda.blockIdx.x * COLUMNS : 2 * (cuda.blockIdx.x + 1) * COLUMNS]
        widths = table[cuda.blockIdx.x * STRIPS * SIZE : (cuda.blockIdx.x + 1) * STRIPS * SIZE]
    integers_a, integers_b = both[:COLUMNS], both[COLUMNS:]
    positions, group_bits, slots, owner = record_memory()
    rows = cuda.shared.array(EIGHT_ROWS, float64)
    for tile in range(first_tile + cuda.blockIdx.x, stop_tile, cuda.gridDim.x):
        count = tiles[tile, 2]
        mask, step_a, mean_a = open_tile(
            main_a, side_a, tile, count, exponent_a, mean_exponent_a, widths, positions, group_bits, slots, owner
        )
        unpack_tile(main_a, side_a, tile, count, mask, widths, group_bits, owner, integers_a)
        mask, step_b, mean_b = open_tile(
            main_b, side_b, tile, count, exponent_b, mean_exponent_b, widths, positions, group_bits, slots, owner
        )
        unpack_tile(main_b, side_b, tile, count, mask, widths, group_bits, owner, integers_b)
        for row in range(8):
            rows[row * TILE + t] = 0.0
        if t < count:
            a, b = mean_a - center_a * roots[tile], mean_b - center_b * roots[tile]
            rows[t] = a * roots[tile]
            rows[TILE + t] = b * roots[tile]
            rows[2 * TILE + t] = a * a
            rows[3 * TILE + t] = b * b
            rows[4 * TILE + t] = a * b
            if squares:
                rows[5 * TILE + t] = sum_products(integers_a, integers_a, t) * step_a * step_a
                rows[6 * TILE + t] = sum_products(integers_b, integers_b, t) * step_b * step_b
            rows[7 * TILE + t] = sum_products(integers_a, integers_b, t) * (step_a * step_b)
        sum_rows(rows, 8, out[8 * tile : 8 * tile + 8])


def block_moments(
    main, side, regions, tiles, first_tile, stop_tile, exponent, mean_exponent, roots, blocks, squares,
    means_out, squares_out, integers_scratch, table,
):  # fmt: skip
    """For each block: its mean, and (if `squares`) the sum of squares of its coefficients but the first."""
    t = cuda.threadIdx.x
    if IN_REGISTERS:
        integers = cuda.shared.array(0, int32)
        widths = cuda.shared.array(WIDTHS, int32)
    else:
        integers = integers_scratch[cuda.blockIdx.x * COLUMNS : (cuda.blockIdx.x + 1) * COLUMNS]
        widths = table[cuda.blockIdx.x * STRIPS * SIZE : (cuda.blockIdx.x + 1) * STRIPS * SIZE]
    positions, group_bits, slots, owner = record_memory()
    grid = blocks[0], blocks[1], blocks[2], blocks[3]
    for tile in range(first_tile + cuda.blockIdx.x, stop_tile, cuda.gridDim.x):
        region = region_of(regions, tiles[tile, 0])
        count = tiles[tile, 2]
        mask, step, mean = open_tile(
            main, side, tile, count, exponent, mean_exponent, widths, positions, group_bits, slots, owner
        )
        if squares:
            unpack_tile(main, side, tile, count, mask, widths, group_bits, owner, integers)
        if t < count:
            place = place_of(region, tiles[tile, 1] + t, grid)
            means_out[place] = mean / roots[tile]
            if squares:
                total = 0.0
                for k in range(1, SIZE):
                    c = np.float64(integers[np.uint64(k * STRIDE + t)])
                    total += c * c
                squares_out[place] = total * step * step
        cuda.syncthreads()
