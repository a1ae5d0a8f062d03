"""What the threads of a tile share, and sums over them."""

from numba import float64, int32, int64
from numba.extending import register_jitable

from hpcblaz.bodies.records import STRIPS, TILE

from .scalars import cuda

PARTS = 8  # a row of 128 values is summed as 8 runs of 16, and those by one thread


@register_jitable(forceinline=True)
def record_memory():
    """Return what threads share while they read a record: positions, bits of groups, slots of blocks, their owners."""
    positions = cuda.shared.array(STRIPS, int64)
    group_bits = cuda.shared.array(STRIPS, int32)
    slots = cuda.shared.array(TILE, int32)
    owner = cuda.shared.array(TILE, int32)
    return positions, group_bits, slots, owner


@register_jitable(forceinline=True)
def packing_memory():
    """Return what threads share while they pack a record: words of groups, least means, widths of means, all means."""
    group_words = cuda.shared.array(STRIPS, int32)
    least = cuda.shared.array(STRIPS, int32)
    mean_widths = cuda.shared.array(STRIPS, int32)
    means = cuda.shared.array(TILE, int32)
    return group_words, least, mean_widths, means


@register_jitable(forceinline=True)
def sum_rows(values, rows, out):
    """Sum `rows` rows of 128 values, each written by the threads of a tile, to `out` (at least as many entries)."""
    t = cuda.threadIdx.x
    partial = cuda.shared.array(TILE, float64)
    cuda.syncthreads()
    if t < rows * PARTS:
        total = 0.0
        for i in range(TILE // PARTS):
            total += values[(t // PARTS) * TILE + t % PARTS * (TILE // PARTS) + i]
        partial[t] = total
    cuda.syncthreads()
    if t < rows:
        total = 0.0
        for i in range(PARTS):
            total += partial[t * PARTS + i]
        out[t] = total
    cuda.syncthreads()


@register_jitable(forceinline=True)
def largest_of_row(values):
    """Return the largest of 128 values, on every thread."""
    t = cuda.threadIdx.x
    partial = cuda.shared.array(PARTS, float64)
    cuda.syncthreads()
    if t < PARTS:
        most = values[t * (TILE // PARTS)]
        for i in range(1, TILE // PARTS):
            most = max(most, values[t * (TILE // PARTS) + i])
        partial[t] = most
    cuda.syncthreads()
    most = partial[0]
    for i in range(1, PARTS):
        most = max(most, partial[i])
    cuda.syncthreads()
    return most
