"""Records of integers that are added on their way, by 128 threads each; see templates/quantised.py.

Where widths are found, a thread has one group, 32 neighbouring values; where bits are written or read, it has one lane
of some groups, so that neighbouring threads meet neighbouring words. The values of a record are in shared memory, apart
by one more word every 32: both ways of going through them meet different banks.
"""

import numpy as np
from numba import int32, int64
from numba.extending import register_jitable

from hpcblaz.bodies.bits import fold, low_bits, shift_left, shift_right, sign_extend, two_words
from hpcblaz.bodies.records import LANES
from hpcblaz.bodies.records import TILE as THREADS
from hpcblaz.bodies.sums import GROUP, GROUPS, HEADER, TILE, ZERO_HEADER, code_of, width_of

from .scalars import cuda

PADDED = TILE + GROUPS
EACH = TILE // THREADS
GROUP_ROWS = GROUP // LANES
LANE_GROUPS = THREADS // LANES  # groups that are written or read at a time


@register_jitable(forceinline=True)
def place(i):
    """Return where the value of a record is in shared memory."""
    return i + (i >> 5)


@register_jitable(forceinline=True)
def load(q, first, count, neighbours, rows):
    """Bring the values of a record, or the differences of neighbours, into shared memory."""
    t = cuda.threadIdx.x
    for k in range(EACH):
        i = k * THREADS + t
        value = np.int64(0)
        if i < count and not (neighbours and i == 0):
            value = np.int64(q[first + i])
            if neighbours:
                value -= np.int64(q[first + i - 1])
        rows[place(i)] = np.int32(np.uint32(value & 0xFFFFFFFF))
    cuda.syncthreads()


@register_jitable(forceinline=True)
def add_up(values):
    """Replace each of 128 values in shared memory by the sum of those up to it; one thread does, between two waits."""
    cuda.syncthreads()
    if cuda.threadIdx.x == 0:
        total = np.int64(0)
        for i in range(THREADS):
            total += values[i]
            values[i] = total
    cuda.syncthreads()


@register_jitable(forceinline=True)
def find_ends(rows, widths, ends):
    """Find the width of each group and the bit that it ends at in each lane; return the most bits of a group."""
    t = cuda.threadIdx.x
    bits = np.uint32(0)
    for j in range(GROUP):
        bits = np.uint32(bits | fold(rows[place(t * GROUP + j)]))
    width = np.int64(32 - cuda.clz(bits))
    ends[t] = width
    cuda.syncthreads()
    most = np.int64(0)
    for g in range(GROUPS):
        most = max(most, ends[g])
    cuda.syncthreads()
    widths[t] = width_of(code_of(width, most), most)
    ends[t] = GROUP_ROWS * widths[t]
    add_up(ends)
    return most


def measure_sums(q, tiles, neighbours, lengths):
    """Find the words of each record."""
    rows = cuda.shared.array(PADDED, int32)
    widths = cuda.shared.array(GROUPS, int64)
    ends = cuda.shared.array(GROUPS, int64)
    for tile in range(cuda.blockIdx.x, tiles, cuda.gridDim.x):
        first = tile * TILE
        load(q, first, min(TILE, len(q) - first), neighbours, rows)
        most = find_ends(rows, widths, ends)
        if cuda.threadIdx.x == 0:
            lengths[tile] = HEADER + (ends[GROUPS - 1] + 31) // 32 * LANES if most else ZERO_HEADER
        cuda.syncthreads()


def write_sums(q, tiles, neighbours, offsets, out):
    """Write the records; out is all zeros."""
    rows = cuda.shared.array(PADDED, int32)
    widths = cuda.shared.array(GROUPS, int64)
    ends = cuda.shared.array(GROUPS, int64)
    t = cuda.threadIdx.x
    for tile in range(cuda.blockIdx.x, tiles, cuda.gridDim.x):
        first = tile * TILE
        load(q, first, min(TILE, len(q) - first), neighbours, rows)
        most = find_ends(rows, widths, ends)
        position = offsets[tile]
        if t == 0:
            out[position] = np.uint32(np.int64(q[first]) & 0xFFFFFFFF) if neighbours else np.uint32(0)
            out[position + 1] = np.uint32(most)
        if most:
            if t < HEADER - ZERO_HEADER:
                word = np.int64(0)
                for i in range(8):
                    word |= code_of(widths[8 * t + i], most) << (4 * i)
                out[position + ZERO_HEADER + t] = np.uint32(word)
            lane = t % LANES
            for g in range(t // LANES, GROUPS, LANE_GROUPS):
                width = widths[g]
                for r in range(GROUP_ROWS if width else 0):
                    value = rows[place(g * GROUP + r * LANES + lane)]
                    bits = np.uint32(np.uint32(np.int64(value) & 0xFFFFFFFF) & low_bits(width))
                    begin = ends[g] + (r - GROUP_ROWS) * width
                    word = position + HEADER + (begin >> 5) * LANES + lane
                    shift = begin & 31
                    cuda.atomic.or_(out, word, shift_left(bits, shift))
                    if shift + width > 32:
                        cuda.atomic.or_(out, word + LANES, shift_right(bits, 32 - shift))
        cuda.syncthreads()


def unpack_sums(words, offsets, tiles, neighbours, add, q):
    """Write the integers of the records to q, or add them to what is there."""
    rows = cuda.shared.array(PADDED, int32)
    widths = cuda.shared.array(GROUPS, int64)
    ends = cuda.shared.array(GROUPS, int64)
    totals = cuda.shared.array(THREADS, int64)
    t = cuda.threadIdx.x
    for tile in range(cuda.blockIdx.x, tiles, cuda.gridDim.x):
        first = tile * TILE
        count = min(TILE, len(q) - first)
        position = offsets[tile]
        most = np.int64(words[position + 1])
        code = np.uint32(15)
        if most:
            code = (words[position + ZERO_HEADER + (t >> 3)] >> np.uint32(4 * (t & 7))) & np.uint32(15)
        widths[t] = width_of(np.int64(code), most)
        ends[t] = GROUP_ROWS * widths[t]
        add_up(ends)
        lane = t % LANES
        for g in range(t // LANES, GROUPS, LANE_GROUPS):
            width = widths[g]
            for r in range(GROUP_ROWS):
                value = np.int32(0)
                if width:
                    begin = ends[g] + (r - GROUP_ROWS) * width
                    word = position + HEADER + (begin >> 5) * LANES + lane
                    bits = two_words(words[word], words[word + LANES], begin & 31)
                    value = sign_extend(bits, 32 - width)
                rows[place(g * GROUP + r * LANES + lane)] = value
        cuda.syncthreads()
        before = np.int64(0)
        if neighbours:
            total = np.int64(0)
            for j in range(GROUP):
                total += np.int64(rows[place(t * GROUP + j)])
            totals[t] = total
            add_up(totals)
            before = np.int64(np.int32(words[position])) + totals[t] - total
        for j in range(GROUP if neighbours else 0):
            before += np.int64(rows[place(t * GROUP + j)])
            rows[place(t * GROUP + j)] = np.int32(np.uint32(before & 0xFFFFFFFF))
        cuda.syncthreads()
        for k in range(EACH):
            i = k * THREADS + t
            if i < count:
                value = np.int64(rows[place(i)])
                if add:
                    value += np.int64(q[first + i])
                q[first + i] = np.int32(np.uint32(value & 0xFFFFFFFF))
        cuda.syncthreads()
