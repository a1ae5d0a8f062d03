"""From integers of a tile to its record, and back, by 128 threads. docs/format.md describes the record.

Thread t has block t of the tile. While bits are read or written it is lane ``t % 16`` of group ``t // 16``, and has the
block of that slot, whose column of integers it fills or empties. The lanes of a record are streams of
bits that all groups share: a thread starts where the widths of the groups before it end, and words in which
two groups meet are joined by atomic operations.
"""

import math

import numpy as np
from numba.extending import register_jitable

from hpcblaz.bodies.bits import bit_count, bit_length, fold, low_bits, shift_left, shift_right, sign_extend, two_words
from hpcblaz.bodies.records import (
    FIXED_WORDS,
    LANES,
    NATURAL,
    STRIPS,
    TILE,
    WORTH_SORTING,
    read_widths,
    skip_widths,
    strips_of,
    write_widths,
)

from .constants import SIZE, STRIDE
from .scalars import cuda, power

GROUPS = NATURAL - 1  # in a mask, the bits of the groups
HEADER = (SIZE + 31) // 32 + (3 * SIZE + 7) // 8  # most words of the widths of a group


@register_jitable(forceinline=True)
def arrange(key, count, code, dearest, slots, owner):
    """Sort the blocks of a tile by cost into groups; return the mask of the groups that have coefficients.

    key is the cost of this thread's block. code is scratch for 128 integers, dearest for 8. Receives slots, the slot of
    each block, and owner, the block of each slot (that of the last one for slots beyond it).
    """
    t = cuda.threadIdx.x
    strips = strips_of(count)
    code[t] = key if t < count else 0
    cuda.syncthreads()
    if t < strips:
        most = 0
        for b in range(t * LANES, min(count, (t + 1) * LANES)):
            most = max(most, code[b])
        dearest[t] = most
    cuda.syncthreads()
    most, natural_cost = 1, 0
    for s in range(strips):
        natural_cost += dearest[s]
        most = max(most, dearest[s])
    scale = (TILE - 1) / np.float64(most)
    own_class = min(np.int64(math.ceil(scale * np.float64(key))), TILE - 1)
    cuda.syncthreads()
    code[t] = own_class * TILE + t
    cuda.syncthreads()
    own = own_class * TILE + t
    rank = 0
    for b in range(count):
        rank += 1 if code[b] < own else 0
    if t < count:
        owner[rank] = own_class
    cuda.syncthreads()
    sorted_cost, mask = 0, 0
    for s in range(strips):
        last = owner[min(count, (s + 1) * LANES) - 1]
        sorted_cost += last
        mask |= 1 << s if last > 0 else 0
    natural = sorted_cost * most >= WORTH_SORTING * natural_cost * (TILE - 1)
    slot = t
    if natural:
        mask = ((1 << strips) - 1) | NATURAL
    if natural_cost == 0:
        mask = 0
    cuda.syncthreads()
    if mask & NATURAL == 0 and mask:
        own = (rank // LANES) * TILE + t
        code[t] = own
        cuda.syncthreads()
        slot = 0
        for b in range(count):
            slot += 1 if code[b] < own else 0
    if t < count:
        slots[t] = slot
        owner[slot] = t
    cuda.syncthreads()
    if t >= count:
        owner[t] = owner[count - 1]
    cuda.syncthreads()
    return mask


@register_jitable(forceinline=True)
def find_widths(integers, owner, count, mask, widths, group_bits, group_words):
    """Find the bit widths of all groups, the bits of a lane of each and the words of its widths.

    Return the mask without groups of zeros only.
    """
    t = cuda.threadIdx.x
    strips = strips_of(count)
    group, lane = t // LANES, t % LANES
    if mask >> group & 1:
        for k in range(lane, SIZE, LANES):
            bits = np.uint32(0)
            for j in range(LANES):
                bits = np.uint32(bits | fold(integers[np.uint64(k * STRIDE + owner[group * LANES + j])]))
            widths[group * SIZE + k] = 32 - cuda.clz(bits) if k else 0
    cuda.syncthreads()
    if t < STRIPS:
        bits, nibbles = 0, 0
        for k in range(SIZE if mask >> t & 1 else 0):
            width = widths[t * SIZE + k]
            bits += width
            nibbles += 0 if width == 0 else 1 if width < 15 else 3
        group_bits[t] = bits
        group_words[t] = (SIZE + 31) // 32 + (nibbles + 7) // 8 if bits else 0
    cuda.syncthreads()
    for s in range(strips):
        if group_bits[s] == 0:
            mask &= ~(1 << s)
    return mask if mask & GROUPS else 0


@register_jitable(forceinline=True)
def find_means(means, count, least, mean_widths):
    """Find the least coefficient 0 of each strip, and the width of what the others are above it."""
    t = cuda.threadIdx.x
    if t < strips_of(count):
        low, high = np.int64(means[t * LANES]), np.int64(means[t * LANES])
        for b in range(t * LANES, min(count, (t + 1) * LANES)):
            low = min(low, np.int64(means[b]))
            high = max(high, np.int64(means[b]))
        least[t] = low
        mean_widths[t] = bit_length(high - low)
    cuda.syncthreads()


@register_jitable(forceinline=True)
def header_words(count, mask, group_words):
    """Return the words of a record before its lanes."""
    strips = strips_of(count)
    words = FIXED_WORDS + strips + ((count + 3) // 4 if mask else 0)
    for s in range(strips):
        words += group_words[s] if mask >> s & 1 else 0
    return words


@register_jitable(forceinline=True)
def lane_words(count, mask, mean_widths, group_bits):
    """Return the words of one lane of a record."""
    bits = 0
    for s in range(strips_of(count)):
        bits += mean_widths[s] + (group_bits[s] if mask >> s & 1 else 0)
    return (bits + 31) // 32


@register_jitable(forceinline=True)
def record_words(count, mask, mean_widths, group_bits, group_words):
    """Return the words of a record."""
    return header_words(count, mask, group_words) + min(count, LANES) * lane_words(count, mask, mean_widths, group_bits)


@register_jitable(forceinline=True)
def write_record(
    integers, means, levels, slots, owner, count, mask, widths, group_bits, group_words, least, mean_widths, header,
    sums, out, position,
):  # fmt: skip
    """Write the record of a tile at `position`. header is scratch for the widths of 8 groups, sums for 8 integers."""
    t = cuda.threadIdx.x
    strips = strips_of(count)
    lanes = min(count, LANES)
    group, lane = t // LANES, t % LANES
    stream = position + header_words(count, mask, group_words)
    if t < strips:
        total = np.int64(0)
        for b in range(t * LANES, min(count, (t + 1) * LANES)):
            total += means[b]
        sums[t] = total
        out[position + FIXED_WORDS + t] = np.uint32(np.int64(least[t]) & 0xFFFFFFFF)
        if mask >> t & 1:
            write_widths(header, t * HEADER, widths[t * SIZE : (t + 1) * SIZE], SIZE)
    if mask and t < (count + 3) // 4:
        word = 0
        for i in range(4):
            b = 4 * t + i
            if b < count:
                word |= (slots[b] // LANES << 4 | levels[b]) << (8 * i)
        out[position + FIXED_WORDS + strips + t] = np.uint32(word)
    for i in range(t, stream_words(count, mask, mean_widths, group_bits), TILE):
        out[np.uint64(stream + i)] = np.uint32(0)
    cuda.syncthreads()
    if t == 0:
        total, low, high = np.int64(0), 0, 0
        for s in range(strips):
            total += sums[s]
            if s < 4:
                low |= mean_widths[s] << (8 * s)
            else:
                high |= mean_widths[s] << (8 * (s - 4))
        out[position] = np.uint32(mask)
        out[position + 1] = np.uint32(low)
        out[position + 2] = np.uint32(high)
        out[position + 3] = np.uint32(stream - position)
        out[position + 4] = np.uint32(total & 0xFFFFFFFF)
        out[position + 5] = np.uint32((total >> 32) & 0xFFFFFFFF)
    here = position + FIXED_WORDS + strips + (count + 3) // 4
    begin = 0
    for s in range(strips):
        begin += mean_widths[s] + (group_bits[s] if s < group and mask >> s & 1 else 0)
        here += group_words[s] if s < group and mask >> s & 1 else 0
    if mask >> group & 1:
        for i in range(lane, group_words[group], LANES):
            out[here + i] = header[group * HEADER + i]
        if lane < lanes:
            pack_column(integers, owner[t], widths, group * SIZE, begin, out, stream + lane, lanes)
    if t < lanes:
        pack_means(means, t, count, least, mean_widths, out, stream + t, lanes)


@register_jitable(forceinline=True)
def stream_words(count, mask, mean_widths, group_bits):
    """Return the words of all lanes of a record."""
    return min(count, LANES) * lane_words(count, mask, mean_widths, group_bits)


@register_jitable(forceinline=True)
def pack_column(integers, column, widths, base, begin, out, word, lanes):
    """Append the coefficients of one block, but the first, to its lane, from bit `begin` on."""
    word += (begin >> 5) * lanes
    shift = begin & 31
    pending = np.uint32(0)
    shared = True  # the first word may hold the end of the group before
    for k in range(1, SIZE):
        width = widths[base + k]
        if width:
            value = np.uint32(np.int64(integers[np.uint64(k * STRIDE + column)]) & 0xFFFFFFFF) & low_bits(width)
            pending = np.uint32(pending | shift_left(value, shift))
            shift += width
            if shift >= 32:
                if shared:
                    cuda.atomic.or_(out, word, pending)
                else:
                    out[np.uint64(word)] = pending
                shared = False
                word += lanes
                shift -= 32
                pending = shift_right(value, width - shift) if shift else np.uint32(0)
    if shift:
        cuda.atomic.or_(out, word, pending)


@register_jitable(forceinline=True)
def pack_means(means, lane, count, least, mean_widths, out, word, lanes):
    """Write the first coefficients of the blocks of one lane, strip by strip, to the beginning of the lane."""
    shift = 0
    for s in range(strips_of(count)):
        width = mean_widths[s]
        if width:
            above = np.int64(means[min(s * LANES + lane, count - 1)]) - np.int64(least[s])
            value = np.uint32(above & 0xFFFFFFFF)
            cuda.atomic.or_(out, word, shift_left(value, shift))
            shift += width
            if shift >= 32:
                word += lanes
                shift -= 32
                if shift:
                    cuda.atomic.or_(out, word, shift_right(value, width - shift))


@register_jitable(forceinline=True)
def open_record(words, start, count, widths, positions, group_bits, slots, owner):
    """Read the header of a record: return its mask, and the level and the coefficient 0 of this thread's block.

    Receives the widths and bits of all groups, and the slots of blocks and the owners of slots. positions is scratch
    for 8 integers. If no group has coefficients, the mask is NATURAL, as if they were the strips.
    """
    t = cuda.threadIdx.x
    strips = strips_of(count)
    mask = np.int64(words[start])
    present = mask & GROUPS
    controls = start + FIXED_WORDS + strips
    level, slot = 0, t
    if present:
        if t < count:
            control = np.int64(words[controls + (t >> 2)] >> np.uint32(8 * (t & 3))) & 255
            level = control & 15
            if mask & NATURAL == 0:
                slot = (control >> 4) * LANES + lane_of(words, controls, t, control >> 4)
    else:
        mask = NATURAL
    if t < count:
        slots[t] = slot
        owner[slot] = t
    if t == 0:
        position = controls + ((count + 3) // 4 if present else 0)
        for s in range(strips):
            positions[s] = position
            if present >> s & 1:
                position = skip_widths(words, position, SIZE)
    cuda.syncthreads()
    if t < STRIPS:
        bits = 0
        if present >> t & 1:
            mine = widths[t * SIZE : (t + 1) * SIZE]
            read_widths(words, positions[t], mine, SIZE)
            for k in range(1, SIZE):
                bits += mine[k]
        group_bits[t] = bits
    cuda.syncthreads()
    mean = 0
    if t < count:
        strip = t // LANES
        begin, width = 0, mean_width(words, start, strip)
        for s in range(strip):
            begin += mean_width(words, start, s)
        mean = np.int64(np.int32(words[start + FIXED_WORDS + strip]))
        if width:
            lanes = min(count, LANES)
            word = start + np.int64(words[start + 3]) + (begin >> 5) * lanes + t % LANES
            above = two_words(words[np.uint64(word)], words[np.uint64(word + lanes)], begin & 31) & low_bits(width)
            mean += np.int64(above)
    return mask, level, mean


@register_jitable(forceinline=True)
def lane_of(words, controls, block, group):
    """Return how many blocks of a tile come before a block in its group."""
    wanted = group * 0x10101010
    lane = 0
    for i in range(block >> 2):
        lane += 4 - bit_count(
            np.uint32((((np.int64(words[controls + i]) ^ wanted) & 0x70707070) + 0x70707070) & 0x80808080)
        )
    rest = block & 3
    if rest:
        others = (((np.int64(words[controls + (block >> 2)]) ^ wanted) & 0x70707070) + 0x70707070) & 0x80808080
        lane += rest - bit_count(np.uint32(others & ((1 << (8 * rest)) - 1)))
    return lane


@register_jitable(forceinline=True)
def mean_width(words, start, strip):
    """Return the width of the first coefficients of a strip."""
    return np.int64(words[start + 1 + (strip >> 2)] >> np.uint32(8 * (strip & 3))) & 255


@register_jitable(forceinline=True)
def group_begin(words, start, count, group, group_bits):
    """Return the bit of a lane where a group begins."""
    begin = 0
    for s in range(strips_of(count)):
        begin += mean_width(words, start, s) + (group_bits[s] if s < group else 0)
    return begin


@register_jitable(forceinline=True)
def unpack_column(words, start, count, mask, widths, group_bits, integers, column):
    """Write the coefficients of the block of this thread's slot, the first as zero, to the block's column."""
    t = cuda.threadIdx.x
    group = t // LANES
    integers[np.uint64(column)] = 0
    if mask >> group & 1 == 0:
        for k in range(1, SIZE):
            integers[np.uint64(k * STRIDE + column)] = 0
        return
    lanes = min(count, LANES)
    begin = group_begin(words, start, count, group, group_bits)
    word = start + np.int64(words[start + 3]) + (begin >> 5) * lanes + t % LANES
    shift = begin & 31
    low, high = words[np.uint64(word)], words[np.uint64(word + lanes)]
    for k in range(1, SIZE):
        width = widths[group * SIZE + k]
        value = np.int32(0)
        if width:
            value = sign_extend(two_words(low, high, shift), 32 - width)
            shift += width
            if shift >= 32:
                shift -= 32
                word += lanes
                low = high
                high = words[np.uint64(word + lanes)]
        integers[np.uint64(k * STRIDE + column)] = value


@register_jitable(forceinline=True)
def sum_of_means(words, offsets, tile, mean_step):
    """Return the sum of coefficient 0 over the blocks of a tile, kept in its record."""
    start = offsets[tile]
    total = np.int64(words[start + 4]) | np.int64(np.int32(words[start + 5])) << 32
    return mean_step * np.float64(total)


@register_jitable(forceinline=True)
def open_tile(words, offsets, tile, count, exponent, mean_exponent, widths, positions, group_bits, slots, owner):
    """Read the header of a tile; return its mask, and the step and the coefficient 0 of this thread's block."""
    mask, level, mean = open_record(words, offsets[tile], count, widths, positions, group_bits, slots, owner)
    return mask, power(exponent + level), power(mean_exponent) * np.float64(mean)


@register_jitable(forceinline=True)
def unpack_tile(words, offsets, tile, count, mask, widths, group_bits, owner, integers):
    """Unpack a tile whose header has been read, every block to its column."""
    t = cuda.threadIdx.x
    if t < count:
        unpack_column(words, offsets[tile], count, mask, widths, group_bits, integers, owner[t])
    cuda.syncthreads()
