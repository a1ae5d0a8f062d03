"""Sums over coefficients, from which the statistics of fields follow: nothing is decoded.

The transforms are orthonormal, so sums of products of samples are sums of products of coefficients (Parseval);
coefficient 0 of a block of n cells is the sum of its samples over sqrt(n). Products are accumulated in the kernel's
precision over at most 16 coefficients of a block, and in double precision beyond.
"""

import numpy as np
from numba import njit

from hpcblaz.bodies.records import LANES, NATURAL, STRIPS, TILE, strips_of

from .constants import REAL, SIDE0, SIDE1, SIDE2, SIDE3, SIZE
from .source import ROWS, sum_of_means, unpack_tile

CHUNK = min(16, SIZE)


@njit(nogil=True, cache=True)
def sums(main, side, start, stop, mean_step, roots):
    """Return the sum of the samples of tiles `start` to `stop`; roots are the square roots of their block sizes.

    What each addition rounds away is summed as well (Neumaier, 1974): the result does not suffer from many tiles.
    """
    total, lost = 0.0, 0.0
    for tile in range(start, stop):
        value = sum_of_means(main, side, tile, mean_step) * roots[tile]
        following = total + value
        lost += (total - following) + value if abs(total) >= abs(value) else (value - following) + total
        total = following
    return total + lost


@njit
def squares_of_group(rows, base, step, total):
    """Return the sum of squares of the coefficients of one group, the first (which is zero there) included."""
    for lane in range(LANES):
        total[lane] = 0.0
    for k in range(0, SIZE, CHUNK):
        row = np.uint64((base + k) * LANES)
        for lane in range(LANES):
            part = REAL(0)
            for j in range(CHUNK):
                c = REAL(rows[row + np.uint64(j * LANES + lane)])
                part += c * c
            total[lane] += np.float64(part)
    result = 0.0
    for lane in range(LANES):
        result += total[lane] * step[lane] * step[lane]
    return result


@njit(nogil=True, cache=True)
def moments(main, side, tiles, start, stop, steps, mean_step, roots, center, out):
    """For each tile: the centred sum of coefficient 0, of its square, and of the squares of the other coefficients."""
    rows = np.empty(ROWS * LANES, np.int32)
    widths = np.zeros(ROWS, np.int64)
    means = np.empty(TILE, np.float64)
    block_steps = np.empty(TILE, np.float64)
    slots = np.empty(TILE, np.int64)
    lane_steps = np.empty(TILE, np.float64)
    total = np.empty(LANES, np.float64)
    for tile in range(start, stop):
        count = tiles[tile, 2]
        mask = unpack_tile(main, side, tile, count, steps, mean_step, rows, widths, means, block_steps, slots)
        shift = center * roots[tile]
        s, s2 = 0.0, 0.0
        for b in range(count):
            d = means[b] - shift
            s += d
            s2 += d * d
        lane_steps[:] = 0.0
        for b in range(count):
            lane_steps[slots[b]] = block_steps[b]
        r2 = 0.0
        for g in range(strips_of(count)):
            if mask >> g & 1:
                step = lane_steps[g * LANES : (g + 1) * LANES]
                r2 += squares_of_group(rows, STRIPS + g * SIZE, step, total)
        out[tile, 0] = s * roots[tile]
        out[tile, 1] = s2
        out[tile, 2] = r2


@njit
def products_in_place(rows_a, rows_b, base, weight, total):
    """Return the sum of products of the coefficients of two groups of the same blocks, the first being zero."""
    for lane in range(LANES):
        total[lane] = 0.0
    for k in range(0, SIZE, CHUNK):
        row = np.uint64((base + k) * LANES)
        for lane in range(LANES):
            part = REAL(0)
            for j in range(CHUNK):
                here = row + np.uint64(j * LANES + lane)
                part += REAL(rows_a[here]) * REAL(rows_b[here])
            total[lane] += np.float64(part)
    result = 0.0
    for lane in range(LANES):
        result += total[lane] * weight[lane]
    return result


@njit
def products_of_group(rows_a, column, rows_b, base, weight, total):
    """Return the sum of products of the coefficients of a group of b and its partners in a, the first being zero.

    The partners are gathered one by one, where integer products are faster than those of floats; they are exact,
    given that 16 products fit in 63 bits.
    """
    for lane in range(LANES):
        total[lane] = 0.0
    for k in range(0, SIZE, CHUNK):
        row = np.uint64((base + k) * LANES)
        for lane in range(LANES):
            part = np.int64(0)
            partner = column[lane] + np.uint64(k * LANES)
            for j in range(CHUNK):
                own = np.int64(rows_b[row + np.uint64(j * LANES + lane)])
                part += np.int64(rows_a[partner + np.uint64(j * LANES)]) * own
            total[lane] += np.float64(part)
    result = 0.0
    for lane in range(LANES):
        result += total[lane] * weight[lane]
    return result


@njit
def widest(widths):
    """Return the most bits of a coefficient of a tile."""
    most = np.int64(0)
    for i in range(STRIPS, len(widths)):
        most = max(most, widths[i])
    return most


@njit
def wide_products(rows_a, column, rows_b, base, weight):
    """Do the same as products_of_group in double precision, for integers of any size."""
    result = 0.0
    for lane in range(LANES):
        part = 0.0
        for k in range(1, SIZE):
            own = np.float64(rows_b[(base + k) * LANES + lane])
            part += np.float64(rows_a[np.int64(column[lane]) + k * LANES]) * own
        result += part * weight[lane]
    return result


@njit(nogil=True, cache=True)
def products(
    main_a,
    side_a,
    steps_a,
    mean_step_a,
    center_a,
    main_b,
    side_b,
    steps_b,
    mean_step_b,
    center_b,
    tiles,
    start,
    stop,
    roots,
    squares,
    out,
):
    """For each tile of two fields: centred sums of coefficient 0 of a and b, their squares and their product; and,
    of the other coefficients, the sums of squares (if `squares`) and of products."""
    rows_a = np.empty(ROWS * LANES, np.int32)
    rows_b = np.empty(ROWS * LANES, np.int32)
    widths_a = np.zeros(ROWS, np.int64)
    widths_b = np.zeros(ROWS, np.int64)
    means_a = np.empty(TILE, np.float64)
    means_b = np.empty(TILE, np.float64)
    block_steps_a = np.empty(TILE, np.float64)
    block_steps_b = np.empty(TILE, np.float64)
    slots_a = np.empty(TILE, np.int64)
    slots_b = np.empty(TILE, np.int64)
    lane_steps_a = np.empty(TILE, np.float64)
    lane_steps_b = np.empty(TILE, np.float64)
    weights = np.empty(TILE, np.float64)
    columns = np.empty(TILE, np.uint64)
    total = np.empty(LANES, np.float64)
    for tile in range(start, stop):
        count = tiles[tile, 2]
        mask_a = unpack_tile(
            main_a, side_a, tile, count, steps_a, mean_step_a, rows_a, widths_a, means_a, block_steps_a, slots_a
        )
        mask_b = unpack_tile(
            main_b, side_b, tile, count, steps_b, mean_step_b, rows_b, widths_b, means_b, block_steps_b, slots_b
        )
        sa, sb, saa, sbb, sab = 0.0, 0.0, 0.0, 0.0, 0.0
        shift_a, shift_b = center_a * roots[tile], center_b * roots[tile]
        for b in range(count):
            da = means_a[b] - shift_a
            db = means_b[b] - shift_b
            sa += da
            sb += db
            saa += da * da
            sbb += db * db
            sab += da * db
        weights[:] = 0.0
        lane_steps_a[:] = 0.0
        lane_steps_b[:] = 0.0
        columns[:] = np.uint64(STRIPS * LANES)
        for b in range(count):
            i = slots_b[b]
            weights[i] = block_steps_a[b] * block_steps_b[b]
            columns[i] = np.uint64((STRIPS + (slots_a[b] // LANES) * SIZE) * LANES + slots_a[b] % LANES)
            lane_steps_a[slots_a[b]] = block_steps_a[b]
            lane_steps_b[i] = block_steps_b[b]
        raa, rbb, rab = 0.0, 0.0, 0.0
        fits = widest(widths_a) + widest(widths_b) <= 58
        for g in range(strips_of(count)):
            base = STRIPS + g * SIZE
            lanes = slice(g * LANES, (g + 1) * LANES)
            if mask_a & mask_b & NATURAL:
                if (mask_a & mask_b) >> g & 1:
                    rab += products_in_place(rows_a, rows_b, base, weights[lanes], total)
            elif mask_a & ~NATURAL and mask_b >> g & 1:
                if fits:
                    rab += products_of_group(rows_a, columns[lanes], rows_b, base, weights[lanes], total)
                else:
                    rab += wide_products(rows_a, columns[lanes], rows_b, base, weights[lanes])
            if squares and mask_a >> g & 1:
                raa += squares_of_group(rows_a, base, lane_steps_a[lanes], total)
            if squares and mask_b >> g & 1:
                rbb += squares_of_group(rows_b, base, lane_steps_b[lanes], total)
        out[tile, 0] = sa * roots[tile]
        out[tile, 1] = sb * roots[tile]
        out[tile, 2] = saa
        out[tile, 3] = sbb
        out[tile, 4] = sab
        out[tile, 5] = raa
        out[tile, 6] = rbb
        out[tile, 7] = rab


@njit(nogil=True, cache=True)
def block_moments(
    main, side, regions, tiles, start, stop, steps, mean_step, roots, blocks, wanted, means_out, squares_out
):
    """For each block: its mean, and (if `wanted`) the sum of squares of its coefficients but the first.

    blocks are the blocks along each axis; the outputs are flat, in C order of the blocks.
    """
    rows = np.empty(ROWS * LANES, np.int32)
    widths = np.zeros(ROWS, np.int64)
    means = np.empty(TILE, np.float64)
    block_steps = np.empty(TILE, np.float64)
    slots = np.empty(TILE, np.int64)
    squares = np.empty(TILE, np.float64)
    for tile in range(start, stop):
        region = regions[tiles[tile, 0]]
        first, count = tiles[tile, 1], tiles[tile, 2]
        unpack_tile(main, side, tile, count, steps, mean_step, rows, widths, means, block_steps, slots)
        squares[:] = 0.0
        if wanted:
            for g in range(strips_of(count)):
                for k in range(1, SIZE):
                    row = STRIPS + g * SIZE + k
                    if widths[row]:
                        for lane in range(LANES):
                            c = np.float64(rows[row * LANES + lane])
                            squares[g * LANES + lane] += c * c
        for b in range(count):
            block = first + b
            b3 = block % region[7]
            block //= region[7]
            b2 = block % region[6]
            block //= region[6]
            b1 = block % region[5]
            b0 = block // region[5]
            b3 += region[3] // SIDE3
            b2 += region[2] // SIDE2
            b1 += region[1] // SIDE1
            b0 += region[0] // SIDE0
            place = ((b0 * blocks[1] + b1) * blocks[2] + b2) * blocks[3] + b3
            means_out[place] = means[b] / roots[tile]
            if wanted:
                squares_out[place] = squares[slots[b]] * block_steps[b] * block_steps[b]
