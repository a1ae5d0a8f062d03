"""The record of one tile: up to 128 blocks of integer coefficients in a run of 32-bit words.

See docs/format.md for the layout. Readers and writers of the header are scalar code over an array of words, the
same for CPU and GPU; the lanes that follow the header are for the backends.
"""

import numpy as np
from numba.extending import register_jitable

from hpcblaz.bodies.bits import bit_count

LANES = 16  # blocks that share bit widths; one AVX-512 register, half a GPU warp
TILE = 128  # blocks a record; a tile of 4x4x4 integers fits a first-level cache
STRIPS = TILE // LANES
NATURAL = 1 << STRIPS  # in the mask of groups: the groups are the strips
# Sorted groups save bits, and cost a gather wherever two fields meet; blocks stay in natural order unless sorting saves
# a fifth, by the estimate of the encoder (about half of that in fact).
WORTH_SORTING = 0.8
FIXED_WORDS = 6  # mask of groups; a byte a strip, the width of coefficient 0; header length; sum of coefficient 0


@register_jitable
def strips_of(blocks):
    """Return how many strips of 16 lanes hold `blocks` blocks."""
    return (blocks + LANES - 1) // LANES


@register_jitable
def header_limit(blocks, size):
    """Return the greatest number of header words of a tile of `blocks` blocks of `size` coefficients."""
    strips = (blocks + LANES - 1) // LANES
    return FIXED_WORDS + strips + (blocks + 3) // 4 + strips * ((size + 31) // 32 + (3 * size + 7) // 8)


@register_jitable
def write_widths(words, position, widths, size):
    """Write the bit widths of a group, coefficients 1 to size - 1, and return the position after them.

    A bitmap says which are not zero. Of those, widths up to 14 take a nibble, wider ones three.
    """
    nibbles = position + (size + 31) // 32
    for i in range(position, nibbles + (3 * size + 7) // 8):
        words[i] = np.uint32(0)
    count = 0
    for k in range(1, size):
        width = widths[k]
        present = 1 if width else 0
        words[position + (k >> 5)] |= np.uint32(present << (k & 31))
        code = width if width < 15 else 15
        words[nibbles + (count >> 3)] |= np.uint32(code << (4 * (count & 7)))
        count += present
        if width >= 15:
            words[nibbles + (count >> 3)] |= np.uint32((width & 15) << (4 * (count & 7)))
            count += 1
            words[nibbles + (count >> 3)] |= np.uint32((width >> 4) << (4 * (count & 7)))
            count += 1
    return nibbles + ((count + 7) >> 3)


@register_jitable
def read_widths(words, position, widths, size):
    """Read what :func:`write_widths` wrote into `widths`; return the position after it."""
    nibbles = position + (size + 31) // 32
    count = 0
    bitmap = np.uint32(0)
    for k in range(size):
        if k & 31 == 0:
            bitmap = words[position + (k >> 5)]
        present = np.int64((bitmap >> np.uint32(k & 31)) & np.uint32(1))
        # Read ahead even where no width follows: a branch here would be mispredicted half the time
        width = np.int64((words[nibbles + (count >> 3)] >> np.uint32(4 * (count & 7))) & np.uint32(15)) * present
        count += present
        if width == 15:
            low = np.int64((words[nibbles + (count >> 3)] >> np.uint32(4 * (count & 7))) & np.uint32(15))
            count += 1
            high = np.int64((words[nibbles + (count >> 3)] >> np.uint32(4 * (count & 7))) & np.uint32(15))
            count += 1
            width = low | high << 4
        widths[k] = width
    return nibbles + ((count + 7) >> 3)


@register_jitable
def skip_widths(words, position, size):
    """Return the position after the widths of a group, without reading them one by one if none is wide."""
    nibbles = position + (size + 31) // 32
    present = 0
    for i in range(position, nibbles):
        present += bit_count(words[i])
    wide = np.uint32(0)
    for i in range(nibbles, nibbles + ((present + 7) >> 3)):
        word = np.uint32(words[i])
        pairs = word & np.uint32(word >> np.uint32(1))
        wide |= pairs & np.uint32(pairs >> np.uint32(2))
    count = present
    if wide & np.uint32(0x11111111):
        count = 0
        for _ in range(present):
            code = (words[nibbles + (count >> 3)] >> np.uint32(4 * (count & 7))) & np.uint32(15)
            count += 3 if code == np.uint32(15) else 1
    return nibbles + ((count + 7) >> 3)
