"""One pass over a field: its least and greatest value, and whether all are finite."""

from numba import njit

from .constants import INTEGER, REAL

HIDE_SIGN = INTEGER(0x7FFFFFFF) if INTEGER(-1).nbytes == 4 else INTEGER(0x7FFFFFFFFFFFFFFF)
SIGN_SHIFT = INTEGER(INTEGER(-1).nbytes * 8 - 1)


@njit(nogil=True, cache=True)
def scan(bits, start, stop):
    """Return the least and the greatest key of floats seen as integers.

    The key of a float is its bits with all but the sign flipped if it is negative: keys order as the floats do, and
    NaN lies beyond infinity, so that one pass of integer arithmetic finds extremes and non-finite values.
    """
    part = bits[start:stop]
    least = HIDE_SIGN
    most = INTEGER(-1) - HIDE_SIGN
    for i in range(len(part)):
        value = part[i]
        key = INTEGER(value ^ INTEGER(INTEGER(value >> SIGN_SHIFT) & HIDE_SIGN))
        least = min(least, key)
        most = max(most, key)
    return least, most
