"""The record of one tile: up to 128 blocks of integer coefficients in a run of 32-bit words.

See docs/format.md for the layout. Readers and writers of the header are scalar code over an array of words, the
same for CPU and GPU; the lanes that follow the header are for the backends.
"""

import numpy as np
from numba.extending import register_jitable

LANES = 16  # blocks that share bit widths; one AVX-512 register, half a GPU warp
TILE = 128  # blocks a record; a tile of 4x4x4 integers fits a first-level cache
STRIPS = TILE // LANES
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
    first = position
    position += (size + 31) // 32
    for i in range(first, position):
        words[i] = np.uint32(0)
    shift = 32
    position -= 1
    for k in range(1, size):
        width = widths[k]
        if width == 0:
            continue
        words[first + (k >> 5)] |= np.uint32(1 << (k & 31))
        code = width if width < 15 else 15 | ((width & 15) << 4) | ((width >> 4) << 8)
        for _ in range(1 if width < 15 else 3):
            if shift == 32:
                position += 1
                words[position] = np.uint32(0)
                shift = 0
            words[position] |= np.uint32((code & 15) << shift)
            code >>= 4
            shift += 4
    return position + 1


@register_jitable
def read_widths(words, position, widths, size):
    """Read what :func:`write_widths` wrote into `widths`; return the position after it."""
    first = position
    position += (size + 31) // 32 - 1
    shift = 32
    widths[0] = 0
    bitmap = np.uint32(0)
    for k in range(size):
        if k & 31 == 0:
            bitmap = words[first + (k >> 5)]
        present = (bitmap >> np.uint32(k & 31)) & np.uint32(1)
        width = 0
        if k > 0 and present:
            if shift == 32:
                position += 1
                shift = 0
            width = np.int64((words[position] >> np.uint32(shift)) & np.uint32(15))
            shift += 4
            if width == 15:
                width = 0
                for half in range(2):
                    if shift == 32:
                        position += 1
                        shift = 0
                    width |= np.int64((words[position] >> np.uint32(shift)) & np.uint32(15)) << (4 * half)
                    shift += 4
        widths[k] = width
    return position + 1
