"""The largest of residuals, of which NaN is larger than all others."""

from numba import njit

from .constants import INTEGER

HIDE_SIGN = INTEGER(0x7FFFFFFF) if INTEGER(-1).nbytes == 4 else INTEGER(0x7FFFFFFFFFFFFFFF)


@njit(error_model="numpy")
def larger(a, b):
    """Return the larger one, and NaN if one of them is."""
    return b if a == a and not b <= a else a  # noqa: PLR0124  NaN is unlike itself
