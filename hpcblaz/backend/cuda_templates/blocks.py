"""Where a block lies in the field; tiles loaded and stored; transforms of partial blocks.

A tile is an array of columns, one block each: cell or coefficient k of column c is at ``k * STRIDE + c``. It lies in
shared memory where a block is small enough for registers (IN_REGISTERS), in device memory otherwise.
"""

import numpy as np
from numba.extending import register_jitable

from hpcblaz.bodies.records import TILE

from .columns import forward, inverse
from .constants import IN_REGISTERS, REAL, SHIFT3, SIDE0, SIDE1, SIDE2, SIDE3, SIZE, STRIDE
from .scalars import cuda, times

# Cells that a thread loads without a loop: with more of them, addresses would take most registers. Counts of other
# loops are read from the region, so that they stay loops.
FEW_CELLS = SIDE2 * SIDE3 <= 16


@register_jitable(forceinline=True)
def four(array):
    """Return the four entries of an array, in registers."""
    return array[0], array[1], array[2], array[3]


@register_jitable(forceinline=True)
def region_of(regions, number):
    """Return a region, in registers: the cell where it begins, its blocks along each axis, their cells along each."""
    return (
        regions[number, 0],
        regions[number, 1],
        regions[number, 2],
        regions[number, 3],
        regions[number, 4],
        regions[number, 5],
        regions[number, 6],
        regions[number, 7],
        regions[number, 8],
        regions[number, 9],
        regions[number, 10],
        regions[number, 11],
    )


@register_jitable(forceinline=True)
def block_indices(region, block):
    """Return the numbers of a block of a region along the four axes."""
    q3 = block // region[7]
    q2 = q3 // region[6]
    q1 = q2 // region[5]
    return q1, q2 - q1 * region[5], q3 - q2 * region[6], block - q3 * region[7]


@register_jitable(forceinline=True)
def first_cell(region, block):
    """Return the indices of the first cell of a block."""
    b0, b1, b2, b3 = block_indices(region, block)
    return region[0] + b0 * SIDE0, region[1] + b1 * SIDE1, region[2] + b2 * SIDE2, region[3] + b3 * SIDE3


@register_jitable(forceinline=True)
def place_of(region, block, blocks):
    """Return the number of a block in C order of the whole grid."""
    b0, b1, b2, b3 = block_indices(region, block)
    b0 += region[0] // SIDE0
    b1 += region[1] // SIDE1
    b2 += region[2] // SIDE2
    b3 += region[3] // SIDE3
    return ((b0 * blocks[1] + b1) * blocks[2] + b2) * blocks[3] + b3


@register_jitable(forceinline=True)
def find_starts(region, first, count, shape, starts):
    """Find where in a field of C order each block of a tile begins."""
    t = cuda.threadIdx.x
    if t < count:
        c0, c1, c2, c3 = first_cell(region, first + t)
        starts[t] = ((c0 * shape[1] + c1) * shape[2] + c2) * shape[3] + c3
    cuda.syncthreads()


@register_jitable(forceinline=True)
def load_tile(x, shape, region, first, count, starts, samples):
    """Load the blocks of a tile. Threads of a warp read neighbouring cells where blocks lie side by side."""
    t = cuda.threadIdx.x
    find_starts(region, first, count, shape, starts)
    if IN_REGISTERS:
        for j in range(SIDE3):
            cell = t + TILE * j
            block = cell >> SHIFT3
            if block < count:
                start = starts[block] + (cell & (SIDE3 - 1))
                column = block + (cell & (SIDE3 - 1)) * STRIDE
                for a in range(region[8]):
                    for b in range(region[9]):
                        for c in range(SIDE2 if FEW_CELLS else region[10]):
                            here = start + ((a * shape[1] + b) * shape[2] + c) * shape[3]
                            row = ((a * SIDE1 + b) * SIDE2 + c) * SIDE3
                            samples[np.uint64(row * STRIDE + column)] = x[np.uint64(here)]
    elif t < count:
        start = starts[t]
        for a in range(SIDE0):
            for b in range(SIDE1):
                for c in range(SIDE2):
                    here = start + ((a * shape[1] + b) * shape[2] + c) * shape[3]
                    row = ((a * SIDE1 + b) * SIDE2 + c) * SIDE3
                    exists = a < region[8] and b < region[9] and c < region[10]
                    for d in range(SIDE3):
                        value = x[np.uint64(here + d)] if exists and d < region[11] else REAL(0)
                        samples[np.uint64((row + d) * STRIDE + t)] = value
    cuda.syncthreads()


@register_jitable(forceinline=True)
def store_tile(samples, region, first, count, starts, offset, out, shape):
    """Store the full blocks of a tile, all within `out`; offset is added to every value."""
    t = cuda.threadIdx.x
    find_starts(region, first, count, shape, starts)
    for j in range(SIDE3):
        cell = t + TILE * j
        block = cell >> SHIFT3
        if block < count:
            start = starts[block] + (cell & (SIDE3 - 1))
            column = block + (cell & (SIDE3 - 1)) * STRIDE
            for a in range(region[8]):
                for b in range(region[9]):
                    for c in range(SIDE2 if FEW_CELLS else region[10]):
                        here = start + ((a * shape[1] + b) * shape[2] + c) * shape[3]
                        row = ((a * SIDE1 + b) * SIDE2 + c) * SIDE3
                        out[np.uint64(here)] = samples[np.uint64(row * STRIDE + column)] + offset


@register_jitable(forceinline=True)
def store_block(samples, column, region, block, offset, out, low, high, shape):
    """Store the part of one block that lies between the cells `low` and `high`; `out` begins at `low`."""
    c0, c1, c2, c3 = first_cell(region, block)
    start = (((c0 - low[0]) * shape[1] + c1 - low[1]) * shape[2] + c2 - low[2]) * shape[3] + c3 - low[3]
    for a in range(max(0, low[0] - c0), min(region[8], high[0] - c0)):
        for b in range(max(0, low[1] - c1), min(region[9], high[1] - c1)):
            for c in range(max(0, low[2] - c2), min(region[10], high[2] - c2)):
                here = start + ((a * shape[1] + b) * shape[2] + c) * shape[3]
                row = ((a * SIDE1 + b) * SIDE2 + c) * SIDE3
                for d in range(max(0, low[3] - c3), min(region[11], high[3] - c3)):
                    out[np.uint64(here + d)] = samples[np.uint64((row + d) * STRIDE + column)] + offset


@register_jitable
def transform_partial(r, own, line, region, matrices, transposed):
    """Transform a block of which only the first cells of each axis exist, with the matrices of their number."""
    stride = 1
    for axis in range(3, -1, -1):
        n = SIDE3 if axis == 3 else SIDE2 if axis == 2 else SIDE1 if axis == 1 else SIDE0
        m = region[11] if axis == 3 else region[10] if axis == 2 else region[9] if axis == 1 else region[8]
        for high in range(SIZE // (n * stride)):
            for low in range(stride):
                base = high * n * stride + low
                for i in range(m):
                    line[np.uint64(i * STRIDE + own)] = r[np.uint64((base + i * stride) * STRIDE + own)]
                for k in range(m):
                    weight = matrices[m, 0, k] if transposed else matrices[m, k, 0]
                    value = times(weight, line[np.uint64(own)])
                    for i in range(1, m):
                        weight = matrices[m, i, k] if transposed else matrices[m, k, i]
                        value = value + times(weight, line[np.uint64(i * STRIDE + own)])
                    r[np.uint64((base + k * stride) * STRIDE + own)] = value
        stride *= n


@register_jitable(forceinline=True)
def is_full(region):
    """Say whether the blocks of a region have all their cells."""
    return region[8] == SIDE0 and region[9] == SIDE1 and region[10] == SIDE2 and region[11] == SIDE3


@register_jitable(forceinline=True)
def to_coefficients(samples, column, r, own, line, region, matrices):
    """Write the coefficients of a column to r."""
    if IN_REGISTERS or is_full(region):
        forward(samples, column, r, own)
    else:
        for k in range(SIZE):
            r[np.uint64(k * STRIDE + own)] = samples[np.uint64(k * STRIDE + column)]
        transform_partial(r, own, line, region, matrices, False)


@register_jitable(forceinline=True)
def to_samples(r, own, line, region, matrices):
    """Turn the coefficients in r into samples."""
    if IN_REGISTERS or is_full(region):
        inverse(r, own)
    else:
        transform_partial(r, own, line, region, matrices, True)


@register_jitable(forceinline=True)
def cells_of(region):
    """Return the cells of a block of a region."""
    return SIZE if IN_REGISTERS else region[8] * region[9] * region[10] * region[11]
