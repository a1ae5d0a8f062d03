"""Integers of few bits inside 32-bit words. Every cast is written out: Numba would widen the arithmetic to 64 bits."""

import numpy as np
from numba.extending import register_jitable


@register_jitable
def bit_length(value):
    """Return the number of bits of an integer, 0 <= value < 2**33, without a branch that a loop could mispredict."""
    n = 0
    for half in (16, 8, 4, 2, 1):
        more = half if value >> half else 0
        value >>= more
        n += more
    return n + (1 if value >= 1 else 0) + (1 if value >= 2 else 0)


@register_jitable
def magnitude_bits(value):
    """Return a uint32 whose bit length is that of a two's complement value, a uint32, without its sign bit."""
    return np.uint32(value ^ np.uint32(np.int32(value) >> np.int32(31)))


@register_jitable
def low_bits(width):
    """Return a uint32 mask of the lowest `width` bits, 0 to 32."""
    return np.uint32((np.uint64(1) << np.uint64(width)) - np.uint64(1))


@register_jitable
def shift_left(word, count):
    """Return a uint32 shifted left by 0 to 31."""
    return np.uint32(np.uint32(word) << np.uint32(count & 31))


@register_jitable
def shift_right(word, count):
    """Return a uint32 shifted right by 0 to 31."""
    return np.uint32(np.uint32(word) >> np.uint32(count & 31))


@register_jitable
def sign_extend(word, unused):
    """Return the int32 in the lowest ``32 - unused`` bits of a uint32, 0 <= unused <= 31."""
    return np.int32(np.int32(shift_left(word, unused)) >> np.int32(unused & 31))
