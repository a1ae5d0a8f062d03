"""The record of a tile of integers that are added on their way: 4,096 values in groups of 32 that share a bit width.

See docs/collectives.md for the layout.
"""

from numba.extending import register_jitable

TILE = 4096  # values a record; a tile of 32-bit integers is half a first-level cache
GROUP = 32  # neighbouring values of one bit width
GROUPS = TILE // GROUP
ZERO_HEADER = 2  # words: the value before the first difference, and the most bits of a group
HEADER = ZERO_HEADER + GROUPS // 8  # and four bits a group: how many fewer bits it has
LIMIT = HEADER + TILE  # the most words of a record


@register_jitable
def code_of(width, most):
    """Return the code, 0 to 15, of a group of `width` bits in a tile whose widest group has `most`."""
    return min(14, most - width) if width else 15


@register_jitable
def width_of(code, most):
    """Return the bits that a group of this code is written with: none, or up to 14 fewer than most."""
    return most - code if code < 15 else 0
