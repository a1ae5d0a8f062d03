"""Numbers that know how wrong they can be."""

import math
from dataclasses import dataclass


class CertifiedFloat(float):
    """A float with a bound of its distance from the answer on the original data.

    Parameters
    ----------
    value : float
        The answer on the compressed data.
    error : float
        ``abs(value - answer on the original data) <= error``.

    Attributes
    ----------
    error : float
        The bound; infinite where there is none.
    interval : tuple of float
        The answer on the original data lies in it.

    Examples
    --------
    >>> m = CertifiedFloat(2.0, 0.5)
    >>> m + 1, m.error, m.interval
    (3.0, 0.5, (1.5, 2.5))
    """

    __slots__ = ("error",)
    error: float

    def __new__(cls, value: float, error: float) -> "CertifiedFloat":
        """Return a float that carries a bound."""
        self = super().__new__(cls, value)
        self.error = math.inf if math.isnan(error) else float(error)
        return self

    def __getnewargs__(self) -> tuple[float, float]:  # type: ignore[override]
        return float(self), self.error

    @property
    def interval(self) -> tuple[float, float]:
        """Least and greatest value that the answer on the original data can have."""
        value, error = float(self), self.error
        low, high = value - error, value + error
        if math.isnan(low) or math.isinf(error):
            return -math.inf, math.inf
        # The sum of three numbers is rounded once, so its sign says on which side an end was rounded
        if math.isfinite(low) and math.fsum((value, -error, -low)) < 0:
            low = math.nextafter(low, -math.inf)
        if math.isfinite(high) and math.fsum((value, error, -high)) > 0:
            high = math.nextafter(high, math.inf)
        return low, high

    def __repr__(self) -> str:
        return float.__repr__(self)


@dataclass(frozen=True)
class ErrorBound:
    """Bounds of the difference between a compressed array and its original.

    Parameters
    ----------
    max_abs : float
        Largest absolute difference of any value.
    l2 : float
        Square root of the sum of squared differences.
    """

    max_abs: float
    l2: float
