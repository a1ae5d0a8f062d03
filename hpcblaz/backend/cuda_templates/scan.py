"""One pass over a field: its least and greatest value, and whether all are finite."""

from hpcblaz.bodies.records import TILE

from .constants import INTEGER, INTEGER_KIND
from .scalars import cuda

HIDE_SIGN = INTEGER(0x7FFFFFFF) if INTEGER(-1).nbytes == 4 else INTEGER(0x7FFFFFFFFFFFFFFF)
SIGN_SHIFT = INTEGER(INTEGER(-1).nbytes * 8 - 1)


def scan(bits, extremes):
    """Bring the least and the greatest key of floats seen as integers into extremes; see templates/scan.py."""
    t = cuda.threadIdx.x
    lows = cuda.shared.array(TILE, INTEGER_KIND)
    highs = cuda.shared.array(TILE, INTEGER_KIND)
    least, most = HIDE_SIGN, INTEGER(-1) - HIDE_SIGN
    for i in range(cuda.blockIdx.x * TILE + t, len(bits), cuda.gridDim.x * TILE):
        value = bits[i]
        key = INTEGER(value ^ INTEGER(INTEGER(value >> SIGN_SHIFT) & HIDE_SIGN))
        least = min(least, key)
        most = max(most, key)
    lows[t], highs[t] = least, most
    half = TILE // 2
    while half:
        cuda.syncthreads()
        if t < half:
            lows[t] = min(lows[t], lows[t + half])
            highs[t] = max(highs[t], highs[t + half])
        half //= 2
    if t == 0:
        cuda.atomic.min(extremes, 0, lows[0])
        cuda.atomic.max(extremes, 1, highs[0])
