"""Where a block lies in the field; strips of blocks loaded, stored and compared; transforms of partial blocks."""

import numpy as np
from numba import njit

from hpcblaz.bodies.records import LANES

from .constants import REAL, SIDE0, SIDE1, SIDE2, SIDE3, SIZE

UNROLL = min(8, SIZE)  # rows that one vector loop handles, so that it checks once that its arrays do not overlap

# A region is a row of integers: the cell where it begins, its blocks along each axis, the cells of each of its blocks.


@njit
def is_full(region):
    """Say whether the blocks of a region have all their cells."""
    return region[8] == SIDE0 and region[9] == SIDE1 and region[10] == SIDE2 and region[11] == SIDE3


@njit
def first_cell(region, block, cell):
    """Write the indices of the first cell of block number `block` of a region."""
    cell[3] = region[3] + (block % region[7]) * SIDE3
    block //= region[7]
    cell[2] = region[2] + (block % region[6]) * SIDE2
    block //= region[6]
    cell[1] = region[1] + (block % region[5]) * SIDE1
    cell[0] = region[0] + (block // region[5]) * SIDE0


@njit
def flat(shape, cell):
    """Return the position of a cell in a field of C order."""
    return ((cell[0] * shape[1] + cell[1]) * shape[2] + cell[2]) * shape[3] + cell[3]


@njit
def is_run(region, first, count):
    """Say whether 16 blocks lie side by side along the last axis, none of them cut short along it."""
    return region[11] == SIDE3 and count == LANES and first % region[7] + LANES <= region[7]


@njit
def load_strip(x, shape, region, first, count, v, cell):
    """Load up to 16 consecutive blocks of a region; lanes without a block get the last one."""
    v0, v1, v2, v3 = region[8], region[9], region[10], region[11]
    if not is_full(region):
        v[:] = REAL(0)
    if is_run(region, first, count):
        first_cell(region, first, cell)
        start = flat(shape, cell)
        for a in range(v0):
            for b in range(v1):
                for c in range(v2):
                    here = start + ((a * shape[1] + b) * shape[2] + c) * shape[3]
                    base = np.uint64((((a * SIDE1 + b) * SIDE2 + c) * SIDE3) * LANES)
                    source = np.uint64(here)
                    for lane in range(count):
                        for d in range(SIDE3):
                            v[base + np.uint64(d * LANES + lane)] = x[source + np.uint64(lane * SIDE3 + d)]
        return
    for lane in range(LANES):
        first_cell(region, first + min(lane, count - 1), cell)
        start = flat(shape, cell)
        for a in range(v0):
            for b in range(v1):
                for c in range(v2):
                    here = start + ((a * shape[1] + b) * shape[2] + c) * shape[3]
                    base = (((a * SIDE1 + b) * SIDE2 + c) * SIDE3) * LANES + lane
                    row = x[here : here + v3]
                    if v3 == SIDE3:
                        for d in range(SIDE3):
                            v[base + d * LANES] = row[d]
                    else:
                        for d in range(v3):
                            v[base + d * LANES] = row[d]


@njit
def store_run(v, lanes, region, cell, offset, out, low, shape):
    """Store 16 blocks that lie side by side; `out` begins at the cell `low`, offset is added to every value.

    lanes is 16, and left to run time: loops of a known short length are unrolled, not vectorised.
    """
    start = (
        (((cell[0] - low[0]) * shape[1] + (cell[1] - low[1])) * shape[2] + (cell[2] - low[2])) * shape[3]
        + cell[3]
        - low[3]
    )
    for a in range(region[8]):
        for b in range(region[9]):
            for c in range(region[10]):
                here = start + ((a * shape[1] + b) * shape[2] + c) * shape[3]
                base = np.uint64((((a * SIDE1 + b) * SIDE2 + c) * SIDE3) * LANES)
                target = np.uint64(here)
                for lane in range(lanes):
                    for d in range(SIDE3):
                        out[target + np.uint64(lane * SIDE3 + d)] = v[base + np.uint64(d * LANES + lane)] + offset


@njit
def store_block(v, lane, region, cell, offset, out, low, high, shape):
    """Store the part of one block that lies between the cells `low` and `high`; `out` begins at `low`.

    v holds a strip, of which one lane is stored; offset is added to every value.
    """
    start = (
        (((cell[0] - low[0]) * shape[1] + (cell[1] - low[1])) * shape[2] + (cell[2] - low[2])) * shape[3]
        + cell[3]
        - low[3]
    )
    begin = max(0, low[3] - cell[3])
    end = min(region[11], high[3] - cell[3])
    for a in range(max(0, low[0] - cell[0]), min(region[8], high[0] - cell[0])):
        for b in range(max(0, low[1] - cell[1]), min(region[9], high[1] - cell[1])):
            for c in range(max(0, low[2] - cell[2]), min(region[10], high[2] - cell[2])):
                here = np.uint64(start + ((a * shape[1] + b) * shape[2] + c) * shape[3])
                base = np.uint64((((a * SIDE1 + b) * SIDE2 + c) * SIDE3) * LANES + lane)
                if begin == 0 and end == SIDE3:
                    for d in range(SIDE3):
                        out[here + np.uint64(d)] = v[base + np.uint64(d * LANES)] + offset
                else:
                    for d in range(begin, end):
                        out[here + np.uint64(d)] = v[base + np.uint64(d * LANES)] + offset


@njit
def transform_partial(v, w, valid, matrices, transposed):
    """Transform blocks of which only the first `valid` samples of each axis exist; the others stay zero.

    Each axis gets the transform of its own length, so that partial blocks have as many coefficients as cells
    and the sums of products of full blocks hold for them too.
    """
    stride = 1
    for axis in range(3, -1, -1):
        n = SIDE3 if axis == 3 else SIDE2 if axis == 2 else SIDE1 if axis == 1 else SIDE0
        m = valid[axis]
        for high in range(SIZE // (n * stride)):
            for low in range(stride):
                base = high * n * stride + low
                for i in range(m):
                    for lane in range(LANES):
                        w[i * LANES + lane] = v[(base + i * stride) * LANES + lane]
                for k in range(m):
                    row = (base + k * stride) * LANES
                    weight = matrices[m, 0, k] if transposed else matrices[m, k, 0]
                    for lane in range(LANES):
                        v[row + lane] = weight * w[lane]
                    for i in range(1, m):
                        weight = matrices[m, i, k] if transposed else matrices[m, k, i]
                        for lane in range(LANES):
                            v[row + lane] += weight * w[i * LANES + lane]
        stride *= n


@njit
def measure_error(v, r, error, square):
    """Find the largest error and the sum of squared errors of each lane."""
    for lane in range(LANES):
        error[lane] = REAL(0)
        square[lane] = REAL(0)
    for k in range(0, SIZE, UNROLL):
        for lane in range(LANES):
            m = error[lane]
            s = square[lane]
            for j in range(UNROLL):
                e = abs(r[(k + j) * LANES + lane] - v[(k + j) * LANES + lane])
                m = e if e > m else m
                s += e * e
            error[lane] = m
            square[lane] = s
