"""Between records and plain arrays of integers by block, without loss; and a check of records from outside."""

import numpy as np
from numba import njit

from hpcblaz.bodies.bits import bit_length
from hpcblaz.bodies.records import FIXED_WORDS, LANES, NATURAL, STRIPS, TILE, header_limit, read_widths, strips_of

from .constants import SIDE0, SIDE1, SIDE2, SIDE3, SIZE
from .packing import ROWS, pack_tile, record_scratch, sum_of_means, unpack_tile


@njit
def place_of(region, block, blocks):
    """Return the number of a block in C order of the whole grid."""
    b3 = block % region[7]
    block //= region[7]
    b2 = block % region[6]
    block //= region[6]
    b1 = block % region[5]
    b0 = block // region[5]
    b0 += region[0] // SIDE0
    b1 += region[1] // SIDE1
    b2 += region[2] // SIDE2
    b3 += region[3] // SIDE3
    return ((b0 * blocks[1] + b1) * blocks[2] + b2) * blocks[3] + b3


@njit(nogil=True, cache=True)
def explode(words, offsets, regions, tiles, start, stop, blocks, indices, levels):
    """Write the integers and the level of every block of some tiles: indices (blocks, SIZE), levels (blocks,)."""
    rows = np.empty(ROWS * LANES, np.int32)
    widths = np.zeros(ROWS, np.int64)
    means = np.empty(TILE, np.float64)
    block_levels = np.empty(TILE, np.float64)
    slots = np.empty(TILE, np.int64)
    numbers = np.arange(16).astype(np.float64)
    for tile in range(start, stop):
        region = regions[tiles[tile, 0]]
        count = tiles[tile, 2]
        unpack_tile(words, offsets, tile, count, numbers, 1.0, rows, widths, means, block_levels, slots)
        for b in range(count):
            place = place_of(region, tiles[tile, 1] + b, blocks)
            levels[place] = np.int8(block_levels[b])
            indices[place, 0] = np.int32(means[b])
            base = STRIPS + (slots[b] // LANES) * SIZE
            lane = slots[b] % LANES
            for k in range(1, SIZE):
                indices[place, k] = rows[(base + k) * LANES + lane]


@njit(nogil=True, cache=True)
def implode(indices, block_levels, regions, tiles, start, stop, blocks, out, sizes):
    """Pack some tiles from the integers and levels of their blocks; the inverse of explode."""
    rows = np.empty(ROWS * LANES, np.uint32)
    q = np.zeros(SIZE * TILE, np.int32)
    key = np.empty(TILE, np.int64)
    levels = np.zeros(TILE, np.int64)
    scratch = record_scratch()
    position = np.int64(0)
    for tile in range(start, stop):
        region = regions[tiles[tile, 0]]
        count = tiles[tile, 2]
        for b in range(count):
            place = place_of(region, tiles[tile, 1] + b, blocks)
            here = b // LANES * SIZE * LANES + b % LANES
            cost = 0
            for k in range(SIZE):
                value = indices[place, k]
                q[here + k * LANES] = value
                if k:
                    cost += bit_length(np.int64(abs(np.int64(value))))
            key[b] = cost
            levels[b] = block_levels[place]
        here = position
        position = pack_tile(q, key, levels, count, out, position, rows, scratch)
        sizes[tile - start] = position - here
    return True


@njit(nogil=True, cache=True)
def is_sound(words, offsets, tiles):
    """Say whether kernels can read every record: no position outside it, no group too full, its sum right."""
    widths = np.zeros(SIZE, np.int64)
    all_widths = np.zeros(ROWS, np.int64)
    rows = np.empty(ROWS * LANES, np.int32)
    means = np.empty(TILE, np.float64)
    steps = np.ones(16)
    block_steps = np.empty(TILE, np.float64)
    slots = np.empty(TILE, np.int64)
    if offsets[0] != 0 or offsets[len(tiles)] + 2 * LANES > len(words):
        return False
    for tile in range(len(tiles)):
        count = tiles[tile, 2]
        strips = strips_of(count)
        start = offsets[tile]
        end = offsets[tile + 1]
        if start < 0 or end > len(words) or end - start < FIXED_WORDS + strips:
            return False
        mask = np.int64(words[start])
        length = np.int64(words[start + 3])
        natural = mask & NATURAL
        mask &= ~NATURAL
        if mask >> strips or (natural and not mask) or length > end - start or length > header_limit(count, SIZE):
            return False
        bits = 0
        for s in range(STRIPS):
            width = np.int64((words[start + 1 + (s >> 2)] >> np.uint32(8 * (s & 3))) & np.uint32(255))
            if width > 32 or (s >= strips and width):
                return False
            bits += width
        position = start + FIXED_WORDS + strips
        if mask:
            if position + (count + 3) // 4 > start + length:
                return False
            filled = np.zeros(STRIPS, np.int64)
            for b in range(count):
                control = np.int64((words[position + (b >> 2)] >> np.uint32(8 * (b & 3))) & np.uint32(255))
                filled[control >> 4 & 7] += 1
                if control >> 7 or (natural and control >> 4 != b // LANES):
                    return False
            for s in range(STRIPS):
                if filled[s] != max(0, min(LANES, count - s * LANES)):
                    return False
            position += (count + 3) // 4
        for s in range(strips):
            if mask >> s & 1:
                if position + (SIZE + 31) // 32 > start + length:
                    return False
                nibbles = 0
                for k in range(1, SIZE):
                    if words[position + (k >> 5)] >> np.uint32(k & 31) & np.uint32(1):
                        nibbles += 1
                if position + (SIZE + 31) // 32 + (nibbles + 7) // 8 > start + length:
                    return False
                # Wide widths take three nibbles: reading may end later, but never past the record and its spare words
                if position + (SIZE + 31) // 32 + (3 * nibbles + 7) // 8 >= len(words):
                    return False
                position = read_widths(words, position, widths, SIZE)
                for k in range(SIZE):
                    if widths[k] > 32:
                        return False
                    bits += widths[k]
        if position != start + length or position + min(count, LANES) * ((bits + 31) // 32) != end:
            return False
        unpack_tile(words, offsets, tile, count, steps, 1.0, rows, all_widths, means, block_steps, slots)
        total = 0.0
        for b in range(count):
            total += means[b]
            if abs(means[b]) > 2.0**31:
                return False
        if total != sum_of_means(words, offsets, tile, 1.0):
            return False
    return True
