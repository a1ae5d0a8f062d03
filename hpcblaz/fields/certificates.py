"""From the errors of arrays to the errors of answers. Every bound is derived in docs/certificates.md.

Throughout, ``x`` is the original, ``a`` the compressed array as a real-valued field, ``n`` the number of cells,
``delta = l2 / sqrt(n)`` bounds the root mean square of ``x - a``.
"""

import math
from dataclasses import dataclass

UNIT = 2.0**-53


@dataclass(frozen=True)
class Interval:
    """A closed interval whose arithmetic is rounded outward."""

    low: float
    high: float

    @classmethod
    def around(cls, value: float, error: float) -> "Interval":
        """Return the interval of all numbers within `error` of `value`."""
        return cls(_down(value - error), _up(value + error))

    def __add__(self, other: "Interval | float") -> "Interval":
        other = _interval(other)
        return Interval(_down(self.low + other.low), _up(self.high + other.high))

    def __mul__(self, other: "Interval | float") -> "Interval":
        other = _interval(other)
        ends = [a * b for a in (self.low, self.high) for b in (other.low, other.high)]
        return Interval(_down(min(ends)), _up(max(ends)))

    def __truediv__(self, other: "Interval | float") -> "Interval":
        other = _interval(other)
        if other.low <= 0 <= other.high:
            return Interval(-math.inf, math.inf)
        ends = [a / b for a in (self.low, self.high) for b in (other.low, other.high)]
        return Interval(_down(min(ends)), _up(max(ends)))

    def square(self) -> "Interval":
        """Return the interval of the squares."""
        ends = (self.low * self.low, self.high * self.high)
        low = 0.0 if self.low <= 0 <= self.high else min(ends)
        return Interval(max(0.0, _down(low)), _up(max(ends)))

    def power(self, exponent: float) -> "Interval":
        """Return the interval of the powers; infinite where a power is not real."""
        if exponent == 1:
            return self
        if self.low < 0:
            if exponent != int(exponent) or exponent < 0:
                return Interval(-math.inf, math.inf)
            ends = [self.low**exponent, self.high**exponent] + [0.0] * (self.high >= 0)
            return Interval(_down(min(ends)), _up(max(ends)))
        if exponent < 0 and self.low == 0:
            return Interval(-math.inf, math.inf)
        ends = [self.low**exponent, self.high**exponent]
        return Interval(_down(_down(min(ends))), _up(_up(max(ends))))

    def intersect(self, low: float, high: float) -> "Interval":
        """Return the part between `low` and `high`."""
        return Interval(min(max(self.low, low), high), max(min(self.high, high), low))

    def error_of(self, value: float) -> float:
        """Return the largest distance of a member from `value`."""
        return _up(max(self.high - value, value - self.low))


def _interval(value: "Interval | float") -> Interval:
    return value if isinstance(value, Interval) else Interval(value, value)


def _down(value: float) -> float:
    return math.nextafter(value, -math.inf)


def _up(value: float) -> float:
    return math.nextafter(value, math.inf)


def mean_error(max_abs: float, l2: float, n: float) -> float:
    """Return the bound of a mean: ``|mean(x - a)| <= min(max_abs, l2 / sqrt(n))``."""
    return min(max_abs, l2 / math.sqrt(n))


def dot_error(norm_a: float, l2_a: float, norm_b: float, l2_b: float) -> float:
    """Return the bound of an inner product, from the norms of the compressed arrays (Cauchy-Schwarz)."""
    return norm_a * l2_b + norm_b * l2_a + l2_a * l2_b


def variance_error(std: float, delta: float) -> float:
    """Return the bound of a variance: the standard deviation is a seminorm, so it moves by at most delta."""
    return delta * (2 * std + delta)


def covariance_error(std_a: float, delta_a: float, std_b: float, delta_b: float) -> float:
    """Return the bound of a covariance (Cauchy-Schwarz on the deviations)."""
    return std_a * delta_b + std_b * delta_a + delta_a * delta_b


def direction_error(norm: float, l2: float) -> float:
    """Return the bound of ``|x / |x| - a / |a||``: 2 l2 / (|x| + |a|) (Dunkl and Williams, 1964)."""
    return 2.0 if 2 * norm <= 2 * l2 else min(2.0, 2 * l2 / (2 * norm - l2))
