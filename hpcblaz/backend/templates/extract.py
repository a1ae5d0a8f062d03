"""Tiles to dense arrays: the coefficients of runs of tiles, and the samples of single blocks.

Coefficients come in natural order, strip by strip, coefficient by coefficient, the 16 blocks of a strip innermost; a
tile takes the room of 128 blocks, whose last ones are zero where it has fewer.
"""

import numpy as np
from numba import njit

from hpcblaz.bodies.records import LANES, NATURAL, STRIPS, TILE, strips_of

from .blocks import UNROLL, is_full, transform_partial
from .constants import REAL, SIDE1, SIDE2, SIDE3, SIZE
from .decode import dequantise
from .integers import place_of
from .source import ROWS, unpack_tile
from .transforms import inverse


@njit
def strip_columns(s, count, slots, block_steps, column, step):
    """Find where the coefficients of the blocks of a strip begin, and their steps: 0 in lanes without a block."""
    for lane in range(LANES):
        b = s * LANES + lane
        last = min(b, count - 1)
        step[lane] = block_steps[last] if b < count else 0.0
        column[lane] = np.uint64((STRIPS + slots[last] // LANES * SIZE) * LANES + slots[last] % LANES)


@njit(nogil=True, cache=True)
def coefficients(main, side, tiles, start, stop, steps, mean_step, roots, factor, offset, out, means_out):
    """Write ``factor * field + offset`` of tiles `start` to `stop`: coefficient 0 into means_out, the others into out.

    out has the rows of a tile, with zeros for coefficient 0; means_out one double a block.
    """
    rows = np.empty(ROWS * LANES, np.int32)
    widths = np.zeros(ROWS, np.int64)
    means = np.empty(TILE, np.float64)
    block_steps = np.empty(TILE, np.float64)
    slots = np.empty(TILE, np.int64)
    column = np.empty(LANES, np.uint64)
    step = np.empty(LANES, np.float64)
    scale = np.empty(LANES, REAL)
    for tile in range(start, stop):
        count = tiles[tile, 2]
        natural = unpack_tile(main, side, tile, count, steps, mean_step, rows, widths, means, block_steps, slots)
        natural &= NATURAL
        base = (tile - start) * TILE
        for b in range(TILE):
            means_out[base + b] = factor * means[b] + offset * roots[tile] if b < count else 0.0
        for s in range(STRIPS):
            here = np.uint64((base + s * LANES) * SIZE)
            if s >= strips_of(count):
                out[here : here + np.uint64(SIZE * LANES)] = REAL(0)
                continue
            strip_columns(s, count, slots, block_steps, column, step)
            for lane in range(LANES):
                scale[lane] = REAL(factor * step[lane])
            if natural and (s + 1) * LANES <= count:
                source = np.uint64((STRIPS + s * SIZE) * LANES)
                for k in range(0, SIZE, UNROLL):
                    row = np.uint64(k * LANES)
                    for lane in range(LANES):
                        f = scale[lane]
                        for j in range(UNROLL):
                            i = row + np.uint64(j * LANES + lane)
                            out[here + i] = REAL(rows[source + i]) * f
            else:
                for k in range(SIZE):
                    row = np.uint64(k * LANES)
                    for lane in range(LANES):
                        value = rows[column[lane] + row] if step[lane] != 0.0 else np.int32(0)
                        out[here + row + np.uint64(lane)] = REAL(value) * scale[lane]
            for lane in range(LANES):
                out[here + np.uint64(lane)] = REAL(0)


@njit(nogil=True, cache=True)
def add_coefficients(main, side, tiles, start, stop, steps, mean_step, roots, factor, offset, out, least):
    """Add the coefficients of ``factor * field + offset`` of tiles `start` to `stop`, the first among them, to `out`.

    least receives, for each block, the least of its own value and of the magnitude of a factor times the block's step.
    """
    rows = np.empty(ROWS * LANES, np.int32)
    widths = np.zeros(ROWS, np.int64)
    means = np.empty(TILE, np.float64)
    block_steps = np.empty(TILE, np.float64)
    slots = np.empty(TILE, np.int64)
    column = np.empty(LANES, np.uint64)
    step = np.empty(LANES, np.float64)
    for tile in range(start, stop):
        count = tiles[tile, 2]
        mask = unpack_tile(main, side, tile, count, steps, mean_step, rows, widths, means, block_steps, slots)
        base = (tile - start) * TILE
        for s in range(strips_of(count)):
            here = np.uint64((base + s * LANES) * SIZE)
            strip_columns(s, count, slots, block_steps, column, step)
            lanes = min(LANES, count - s * LANES)
            for lane in range(lanes):
                out[here + np.uint64(lane)] += factor * means[s * LANES + lane] + offset * roots[tile]
                b = s * LANES + lane
                if mask >> (slots[b] // LANES) & 1:
                    least[base + b] = min(least[base + b], abs(factor) * step[lane])
            for k in range(1, SIZE):
                row = np.uint64(k * LANES)
                for lane in range(lanes):
                    out[here + row + np.uint64(lane)] += factor * (step[lane] * rows[column[lane] + row])


@njit(nogil=True, cache=True)
def block_ranges(main, side, regions, tiles, start, stop, steps, mean_step, roots, blocks, peaks, centers, spreads):
    """For each block, in C order: coefficient 0 over the root of its cells, and a bound of what the others can add.

    peaks has, for each length and number of a basis function of one axis, its largest magnitude. The bound is the
    smaller one of the sum of magnitudes times those, and of the 2-norm.
    """
    rows = np.empty(ROWS * LANES, np.int32)
    widths = np.zeros(ROWS, np.int64)
    means = np.empty(TILE, np.float64)
    block_steps = np.empty(TILE, np.float64)
    slots = np.empty(TILE, np.int64)
    sums = np.empty(TILE, np.float64)
    squares = np.empty(TILE, np.float64)
    weights = np.empty(SIZE, np.float64)
    known = -1
    for tile in range(start, stop):
        count = tiles[tile, 2]
        region = regions[tiles[tile, 0]]
        if known != tiles[tile, 0]:
            known = tiles[tile, 0]
            for k in range(SIZE):
                weight = peaks[region[11], k % SIDE3] * peaks[region[10], k // SIDE3 % SIDE2]
                weight *= peaks[region[9], k // (SIDE3 * SIDE2) % SIDE1]
                weights[k] = weight * peaks[region[8], k // (SIDE3 * SIDE2 * SIDE1)]
        unpack_tile(main, side, tile, count, steps, mean_step, rows, widths, means, block_steps, slots)
        sums[:] = 0.0
        squares[:] = 0.0
        for s in range(strips_of(count)):
            first = np.uint64(s * LANES)
            for k in range(1, SIZE):
                if widths[STRIPS + s * SIZE + k] == 0:
                    continue
                row = np.uint64((STRIPS + s * SIZE + k) * LANES)
                weight = weights[k]
                for lane in range(LANES):
                    c = np.float64(rows[row + np.uint64(lane)])
                    sums[first + np.uint64(lane)] += abs(c) * weight
                    squares[first + np.uint64(lane)] += c * c
        for b in range(count):
            place = place_of(region, tiles[tile, 1] + b, blocks)
            centers[place] = means[b] / roots[tile]
            spreads[place] = min(sums[slots[b]], np.sqrt(squares[slots[b]])) * block_steps[b]


@njit(nogil=True, cache=True)
def decode_blocks(main, side, regions, tiles, chosen, start, stop, matrices, steps, mean_step, blocks, targets, out):
    """Decode single blocks of the tiles chosen[start:stop].

    targets has, for each block in C order of the grid, its row in `out`, or -1. A row has the cells of a full block;
    those that a partial block lacks are NaN.
    """
    rows = np.empty(ROWS * LANES, np.int32)
    widths = np.zeros(ROWS, np.int64)
    means = np.empty(TILE, np.float64)
    block_steps = np.empty(TILE, np.float64)
    slots = np.empty(TILE, np.int64)
    v = np.empty(max(SIZE, 16) * LANES, REAL)
    w = np.empty(16 * LANES, REAL)
    step = np.zeros(LANES, np.float64)
    scale = np.zeros(LANES, REAL)
    column = np.zeros(LANES, np.uint64)
    target = np.empty(LANES, np.int64)
    for i in range(start, stop):
        tile = chosen[i]
        region = regions[tiles[tile, 0]]
        first, count = tiles[tile, 1], tiles[tile, 2]
        unpack_tile(main, side, tile, count, steps, mean_step, rows, widths, means, block_steps, slots)
        for s in range(strips_of(count)):
            lanes = min(LANES, count - s * LANES)
            wanted = 0
            for lane in range(lanes):
                target[lane] = targets[place_of(region, first + s * LANES + lane, blocks)]
                wanted += 1 if target[lane] >= 0 else 0
            if wanted == 0:
                continue
            strip_columns(s, count, slots, block_steps, column, step)
            for lane in range(LANES):
                scale[lane] = REAL(step[lane])
            dequantise(rows, column, scale, v)
            for lane in range(LANES):
                v[lane] = REAL(means[min(s * LANES + lane, count - 1)])
            if is_full(region):
                inverse(v)
            else:
                transform_partial(v, w, region[8:12], matrices, 1)
            for lane in range(lanes):
                if target[lane] < 0:
                    continue
                for k in range(SIZE):
                    there = k % SIDE3 < region[11] and k // SIDE3 % SIDE2 < region[10]
                    there = there and k // (SIDE3 * SIDE2) % SIDE1 < region[9]
                    there = there and k // (SIDE3 * SIDE2 * SIDE1) < region[8]
                    out[target[lane], k] = v[k * LANES + lane] if there else REAL(np.nan)
