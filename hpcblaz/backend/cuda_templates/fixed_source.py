"""Tiles of the form of PyBlaz: a scale a block, and indices of fixed width; see templates/fixed.py."""

import numpy as np
from numba.extending import register_jitable

from hpcblaz.bodies.records import LANES, NATURAL

from .constants import SIZE, STRIDE
from .scalars import cuda, times_double


@register_jitable(forceinline=True)
def open_tile(indices, side, tile, count, step, mean_step, widths, positions, group_bits, slots, owner):
    """Return the mask of a tile, and the step and the coefficient 0 of this thread's block; `step` is 1 / r."""
    t = cuda.threadIdx.x
    scales, starts, kept = side
    own_step, mean = 0.0, 0.0
    if t < count:
        slots[t] = t
        owner[t] = t
        own_step = np.float64(scales[starts[tile, 1] + t]) * step
        region = starts[tile, 2]
        if kept[region, 0] and kept[region, 1] == 0:
            first = starts[tile, 0] + t // LANES * LANES * kept[region, 0]
            mean = times_double(own_step, np.float64(indices[np.uint64(first + t % LANES)]))
    cuda.syncthreads()
    return np.int64(NATURAL | (NATURAL - 1)), own_step, mean


@register_jitable(forceinline=True)
def unpack_tile(indices, side, tile, count, mask, widths, group_bits, owner, integers):
    """Unpack a tile, every block to its column; coefficient 0, and those that are not kept, are zero."""
    t = cuda.threadIdx.x
    kept, starts = side[2], side[1]
    region = starts[tile, 2]
    if t < count:
        if kept[region, 0] < SIZE:
            for k in range(SIZE):
                integers[np.uint64(k * STRIDE + t)] = 0
        strip = t // LANES
        lanes = min(LANES, count - strip * LANES)
        position = starts[tile, 0] + strip * LANES * kept[region, 0] + t % LANES
        for j in range(kept[region, 0]):
            k = kept[region, 1 + j]
            integers[np.uint64(k * STRIDE + t)] = np.int32(indices[np.uint64(position + j * lanes)]) if k else 0
    cuda.syncthreads()


@register_jitable(forceinline=True)
def sum_of_means(indices, side, tile, mean_step):
    """Return the sum of coefficient 0 over the blocks of a tile; mean_step is 1 / r."""
    scales, starts, kept = side
    region = starts[tile, 2]
    total = 0.0
    if kept[region, 0] and kept[region, 1] == 0:
        position, first = starts[tile, 0], starts[tile, 1]
        count = starts[tile + 1, 1] - first
        for b in range(count):
            strip = b // LANES * LANES
            index = indices[np.uint64(position + strip * kept[region, 0] + b % LANES)]
            total += np.float64(index) * np.float64(scales[first + b])
    return total * mean_step
