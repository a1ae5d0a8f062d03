"""The form of PyBlaz: for each block a scale N, its largest coefficient, and indices round(r c / N) of fixed width.

``main`` holds the indices of each strip one after the other, the kept coefficients of its blocks with the blocks
innermost.
``side`` is a tuple: scales, one a block; int64 (tiles, 3), where the indices and the scales of a tile begin, and its
region; int64 (regions, 1 + SIZE), the number of kept coefficients of a region's blocks, and which.
"""

import numpy as np
from numba import njit

from hpcblaz.bodies.records import LANES, NATURAL, STRIPS, TILE, strips_of
from hpcblaz.bodies.steps import scales

from .blocks import UNROLL, is_full, load_strip, measure_error, transform_partial
from .constants import LEAST_SCALE, REAL, SIZE
from .packing import ROWS
from .transforms import forward, inverse


@njit
def unpack_tile(indices, side, tile, count, steps, mean_step, rows, widths, means, block_steps, slots):
    """Unpack a tile like its namesake in packing.py; here the groups are the strips, and steps[0] is 1 / r."""
    scales, starts, kept = side
    position = starts[tile, 0]
    first = starts[tile, 1]
    region = starts[tile, 2]
    number = kept[region, 0]
    for s in range(strips_of(count)):
        base = STRIPS + s * SIZE
        widths[base : base + SIZE] = 0
        lanes = min(LANES, count - s * LANES)
        for b in range(s * LANES, s * LANES + lanes):
            slots[b] = b
            block_steps[b] = np.float64(scales[first + b]) * steps[0]
        if number == SIZE and lanes == LANES:
            source, target = np.uint64(position), np.uint64(base * LANES)
            for i in range(SIZE * LANES):
                rows[target + np.uint64(i)] = np.int32(indices[source + np.uint64(i)])
            widths[base + 1 : base + SIZE] = 32
            position += SIZE * LANES
        else:
            rows[base * LANES : (base + SIZE) * LANES] = 0
            for j in range(number):
                k = kept[region, 1 + j]
                source, target = np.uint64(position), np.uint64((base + k) * LANES)
                for lane in range(lanes):
                    rows[target + np.uint64(lane)] = np.int32(indices[source + np.uint64(lane)])
                widths[base + k] = 32 if k else 0
                position += lanes
        # Coefficient 0 is handed over by itself, and zero among the others
        for lane in range(lanes):
            b = s * LANES + lane
            means[b] = block_steps[b] * np.float64(rows[base * LANES + lane])
            rows[base * LANES + lane] = 0
    return np.int64((1 << STRIPS) - 1) | NATURAL


@njit
def sum_of_means(indices, side, tile, mean_step):
    """Return the sum of coefficient 0 over the blocks of a tile; mean_step is 1 / r."""
    scales, starts, kept = side
    region = starts[tile, 2]
    total = 0.0
    if kept[region, 0] == 0 or kept[region, 1] != 0:
        return total
    position = starts[tile, 0]
    first = starts[tile, 1]
    count = starts[tile + 1, 1] - first
    for s in range(strips_of(count)):
        lanes = min(LANES, count - s * LANES)
        for lane in range(lanes):
            total += np.float64(indices[position + lane]) * np.float64(scales[first + s * LANES + lane])
        position += lanes * kept[region, 0]
    return total * mean_step


@njit
def largest_kept(c, region_kept, largest):
    """Find the largest magnitude of the kept coefficients of each lane."""
    for lane in range(LANES):
        largest[lane] = REAL(0)
    if region_kept[0] == SIZE:
        for k in range(0, SIZE, UNROLL):
            for lane in range(LANES):
                m = largest[lane]
                for j in range(UNROLL):
                    a = abs(c[(k + j) * LANES + lane])
                    m = a if a > m else m
                largest[lane] = m
        return
    for j in range(region_kept[0]):
        row = np.uint64(region_kept[1 + j] * LANES)
        for lane in range(LANES):
            a = abs(c[row + np.uint64(lane)])
            largest[lane] = a if a > largest[lane] else largest[lane]


@njit
def round_rows(c, to_index):
    """Round coefficients to indices, in place; lanes without a scale get zeros."""
    for k in range(0, SIZE, UNROLL):
        for lane in range(LANES):
            a = to_index[lane]
            for j in range(UNROLL):
                c[(k + j) * LANES + lane] = np.rint(c[(k + j) * LANES + lane] * a)


@njit
def scale_rows(c, step, r):
    """Multiply indices by the steps of their lanes."""
    for k in range(0, SIZE, UNROLL):
        for lane in range(LANES):
            b = step[lane]
            for j in range(UNROLL):
                r[(k + j) * LANES + lane] = c[(k + j) * LANES + lane] * b


@njit
def write_strip(c, region_kept, lanes, indices, position):
    """Write the kept indices of a strip; return the position after them."""
    if region_kept[0] == SIZE and lanes == LANES:
        first = np.uint64(position)
        for i in range(SIZE * LANES):
            indices[first + np.uint64(i)] = np.int32(c[i])
        return position + SIZE * LANES
    for j in range(region_kept[0]):
        row = np.uint64(region_kept[1 + j] * LANES)
        first = np.uint64(position)
        for lane in range(lanes):
            indices[first + np.uint64(lane)] = np.int32(c[row + np.uint64(lane)])
        position += lanes
    return position


@njit(error_model="numpy")
def find_scales(largest, limit, scale, to_index, step):
    """Set scale, r / N and N / r of each lane."""
    for lane in range(LANES):
        found = scales(largest[lane], limit, LEAST_SCALE)
        scale[lane], to_index[lane], step[lane] = REAL(found[0]), REAL(found[1]), REAL(found[2])


@njit(nogil=True, cache=True)
def encode_fixed(
    x, shape, regions, tiles, start, stop, matrices, limit, allowance, indices, scales, starts, kept, stats
):
    """Encode tiles `start` to `stop` in place of their indices and scales; limit is r.

    stats receives, for each tile, its largest error (allowances for the rounding of another backend included), its sum
    of squared errors, and its sum of squared allowances.
    """
    v = np.empty(max(SIZE, 16) * LANES, REAL)
    c = np.empty(max(SIZE, 16) * LANES, REAL)
    r = np.empty(max(SIZE, 16) * LANES, REAL)
    w = np.empty(16 * LANES, REAL)
    largest = np.zeros(LANES, REAL)
    scale = np.zeros(LANES, REAL)
    to_index = np.zeros(LANES, REAL)
    step = np.zeros(LANES, REAL)
    error = np.zeros(LANES, REAL)
    square = np.zeros(LANES, REAL)
    cell = np.empty(4, np.int64)
    for tile in range(start, stop):
        region = regions[tiles[tile, 0]]
        first, count = tiles[tile, 1], tiles[tile, 2]
        region_kept = kept[tiles[tile, 0]]
        position, block = starts[tile, 0], starts[tile, 1]
        full = is_full(region)
        cells = region[8] * region[9] * region[10] * region[11]
        for s in range(strips_of(count)):
            lanes = min(LANES, count - s * LANES)
            load_strip(x, shape, region, first + s * LANES, lanes, v, cell)
            if full:
                forward(v, c)
            else:
                for i in range(SIZE * LANES):
                    c[i] = v[i]
                transform_partial(c, w, region[8:12], matrices, 0)
            largest_kept(c, region_kept, largest)
            find_scales(largest, limit, scale, to_index, step)
            round_rows(c, to_index)
            if region_kept[0] < cells:
                keep_only(c, region_kept)
            for lane in range(lanes):
                scales[block + lane] = scale[lane]
            block += lanes
            position = write_strip(c, region_kept, lanes, indices, position)
            scale_rows(c, step, r)
            if full:
                inverse(r)
            else:
                transform_partial(r, w, region[8:12], matrices, 1)
            measure_error(v, r, error, square)
            root = np.sqrt(np.float64(region_kept[0]))
            for lane in range(lanes):
                slack = allowance * np.float64(largest[lane]) * root
                stats[tile, 0] = max(stats[tile, 0], np.float64(error[lane]) + slack)
                stats[tile, 1] += np.float64(square[lane])
                stats[tile, 2] += cells * slack * slack


@njit
def keep_only(c, region_kept):
    """Set the coefficients that are not kept to zero."""
    j = 1
    for k in range(SIZE):
        if j <= region_kept[0] and region_kept[j] == k:
            j += 1
        else:
            for lane in range(LANES):
                c[k * LANES + lane] = REAL(0)


@njit(nogil=True, cache=True)
def combine_fixed(
    main_a, side_a, weight_a, main_b, side_b, weight_b, tiles, start, stop, limit, indices, scales, starts, kept, stats
):
    """Compute weight_a * a + weight_b * b in coefficients, and round it to indices anew.

    stats receives, for each tile, the largest 2-norm of what was rounded away from a block, and the sum of the squares.
    """
    rows_a = np.empty(ROWS * LANES, np.int32)
    rows_b = np.empty(ROWS * LANES, np.int32)
    widths_a = np.zeros(ROWS, np.int64)
    widths_b = np.zeros(ROWS, np.int64)
    means_a = np.empty(TILE, np.float64)
    means_b = np.empty(TILE, np.float64)
    block_steps_a = np.empty(TILE, np.float64)
    block_steps_b = np.empty(TILE, np.float64)
    slots = np.empty(TILE, np.int64)
    steps = np.full(1, 1.0 / limit)
    value = np.zeros((SIZE, LANES))
    largest = np.zeros(LANES)
    lost = np.zeros(LANES)
    for tile in range(start, stop):
        count = tiles[tile, 2]
        region_kept = kept[tiles[tile, 0]]
        position, first = starts[tile, 0], starts[tile, 1]
        unpack_tile(main_a, side_a, tile, count, steps, steps[0], rows_a, widths_a, means_a, block_steps_a, slots)
        unpack_tile(main_b, side_b, tile, count, steps, steps[0], rows_b, widths_b, means_b, block_steps_b, slots)
        for s in range(strips_of(count)):
            lanes = min(LANES, count - s * LANES)
            largest[:] = 0.0
            lost[:] = 0.0
            for j in range(region_kept[0]):
                k = region_kept[1 + j]
                row = (STRIPS + s * SIZE + k) * LANES
                for lane in range(lanes):
                    b = s * LANES + lane
                    if k:
                        t = weight_a * block_steps_a[b] * rows_a[row + lane]
                        t += weight_b * block_steps_b[b] * rows_b[row + lane]
                    else:
                        t = weight_a * means_a[b] + weight_b * means_b[b]
                    value[k, lane] = t
                    largest[lane] = max(largest[lane], abs(t))
            for lane in range(lanes):
                largest[lane] = np.float64(REAL(largest[lane]))
                scales[first + s * LANES + lane] = REAL(largest[lane])
            for j in range(region_kept[0]):
                k = region_kept[1 + j]
                for lane in range(lanes):
                    step = largest[lane] * steps[0]
                    index = np.rint(value[k, lane] / step) if step > 0 else 0.0
                    index = max(-limit, min(limit, index))
                    rest = value[k, lane] - index * step
                    lost[lane] += rest * rest
                    indices[position + lane] = np.int32(index)
                position += lanes
            for lane in range(lanes):
                stats[tile, 0] = max(stats[tile, 0], np.sqrt(lost[lane]))
                stats[tile, 1] += lost[lane]
