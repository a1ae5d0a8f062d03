"""Messages of belief propagation: one update each, and the counter that random choices are drawn from.

A message about a variable of two states is one number, its odds: the weight of state 1 over that of state 0. Products
of messages are then products of numbers, and no logarithm or exponential is needed. Other messages are vectors whose
sum is 1. Zero means impossible, exactly: what is possible never becomes zero by rounding (see `product`).
"""

import numpy as np
from numba.extending import register_jitable

TINY = 1e-150  # the least weight of what is possible, beside a largest of 1; the product of two is no zero
ROOT_TWO = 1.4142135623730951


@register_jitable
def odds_alike(field, reverse, unlike):
    """Return the odds that a variable sends over a table of 1 where the states are alike, else `unlike`.

    Its own odds are ``field / reverse``: of all it was told, what came over this edge is left out.
    """
    return (unlike * reverse + field) / (reverse + unlike * field)


@register_jitable
def odds_any(field, reverse, weight01, weight10, weight11):
    """Return the odds that a variable sends over a table whose rows are its own states, with 1 at (0, 0)."""
    return (weight01 * reverse + weight11 * field) / (reverse + weight10 * field)


@register_jitable
def most_odds(field, reverse, weight01, weight10, weight11):
    """Return the odds of the largest products, where `odds_any` has those of their sums."""
    return max(weight01 * reverse, weight11 * field) / max(reverse, weight10 * field)


@register_jitable
def odds_distance(a, b, root_two, one):
    """Return the Euclidean distance of two messages, each a pair of probabilities, from their odds.

    The product of the odds does not overflow.
    """
    return root_two * abs(a - b) / ((one + a) * (one + b))


@register_jitable
def damped_odds(fresh, old, damping, one):
    """Return the odds of a mixture of two messages."""
    keep, take = damping / (one + old), (one - damping) / (one + fresh)
    return (take * fresh + keep * old) / (take + keep)


@register_jitable
def product(a, b):
    """Return a product of two weights that is zero only if one of them is."""
    c = a * b
    if c < TINY and a > 0 and b > 0:
        return TINY
    return c


@register_jitable
def draw(seed, iteration, key):
    """Return 64 random bits that depend on nothing but these three 64-bit words.

    References
    ----------
    The mixing is that of SplitMix64: G. Steele, D. Lea, C. Flood, "Fast splittable pseudorandom number generators",
    2014.
    """
    return mixed(key ^ mixed(iteration ^ mixed(seed)))


@register_jitable
def mixed(word):
    """Return a word whose every bit depends on all bits of a 64-bit word."""
    z = np.uint64(word + np.uint64(0x9E3779B97F4A7C15))
    z = np.uint64((z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9))
    z = np.uint64((z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB))
    return np.uint64(z ^ (z >> np.uint64(31)))
