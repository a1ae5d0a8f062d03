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
def bit_count(word):
    """Return how many bits of a uint32 are set."""
    n = np.int64(word)
    n -= (n >> 1) & 0x55555555
    n = (n & 0x33333333) + ((n >> 2) & 0x33333333)
    n = (n + (n >> 4)) & 0x0F0F0F0F
    return ((n * 0x01010101) >> 24) & 255


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
def two_words(low, high, shift):
    """Return the 32 bits that begin at bit `shift`, 0 to 31, of two uint32."""
    return np.uint32(shift_right(low, shift) | shift_left(shift_left(high, 1), 31 - shift))


@register_jitable
def fold(value):
    """Return a uint32 whose bit length is the width of an int32 in two's complement, 0 for 0."""
    word = np.uint32(np.int64(value) & 0xFFFFFFFF)
    return np.uint32(shift_left(word, 1) ^ np.uint32(0xFFFFFFFF if value < 0 else 0))


@register_jitable
def sign_extend(word, unused):
    """Return the int32 in the lowest ``32 - unused`` bits of a uint32, 0 <= unused <= 31."""
    return np.int32(np.int32(shift_left(word, unused)) >> np.int32(unused & 31))
