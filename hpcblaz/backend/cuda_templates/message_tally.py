"""What the kernels of messages count, and what a thread needs that the simulator has under another name.

A tally is a table of 64-bit integers, with one column for each time that messages are sent, and before them two of what
was: how many residuals are above the tolerance, the bits of the largest, how many messages were sent, how many units
heard one, and (in column 0) 1 more than a unit or variable whose states are all impossible.
"""

import numpy as np
from numba import int32, int64
from numba.extending import register_jitable

from hpcblaz.bodies.messages import draw
from hpcblaz.bodies.records import TILE

from .constants import INTEGER, REAL
from .scalars import SIMULATED, cuda

LEFT, LARGEST, SENT, HEARD, TROUBLE = 0, 1, 2, 3, 4
FIRST = 2  # column of the first time
HIDE_SIGN = 0x7FFFFFFF if INTEGER(-1).nbytes == 4 else 0x7FFFFFFFFFFFFFFF

if SIMULATED:

    def bits_of(x):
        """Return the magnitude of a float as an integer: NaN is the largest of all."""
        return np.int64(REAL(x).view(INTEGER)) & np.int64(HIDE_SIGN)

    def drawn(seed, iteration, number):
        """Return 63 random bits."""
        with np.errstate(over="ignore"):
            return draw(seed, iteration, np.uint64(number)) >> np.uint64(1)

else:
    from numba.cuda import libdevice

    if REAL is np.float32:

        @register_jitable(forceinline=True)
        def bits_of(x):
            return np.int64(libdevice.float_as_int(x)) & np.int64(HIDE_SIGN)

    else:

        @register_jitable(forceinline=True)
        def bits_of(x):
            return np.int64(libdevice.double_as_longlong(x)) & np.int64(HIDE_SIGN)

    @register_jitable(forceinline=True)
    def drawn(seed, iteration, number):
        return draw(seed, iteration, np.uint64(number)) >> np.uint64(1)


@register_jitable(forceinline=True)
def measured(residual, tolerance, left, largest):
    """Add a residual to how many are above the tolerance, as NaN is, and to the bits of the largest."""
    return left + (0 if residual <= tolerance else 1), max(largest, bits_of(residual))


@register_jitable(forceinline=True)
def first_item():
    """Return the number of this thread among all."""
    return np.int64(cuda.blockIdx.x) * TILE + cuda.threadIdx.x


@register_jitable(forceinline=True)
def all_threads():
    """Return how many threads there are."""
    return np.int64(cuda.gridDim.x) * TILE


@register_jitable(forceinline=True)
def over(tally, column):
    """Say whether the time before this one left nothing to send."""
    return column > FIRST and tally[LEFT, column - 1] == 0


@register_jitable(forceinline=True)
def note_trouble(tally, number):
    """Keep that all states of a unit or variable are impossible: of several, the last one."""
    cuda.atomic.max(tally, (TROUBLE, 0), np.int64(number) + 1)


@register_jitable(forceinline=True)
def add_measures(tally, column, left, largest):
    """Add what the threads of a tile have measured; all of them come here."""
    counts = cuda.shared.array(1, int32)
    tops = cuda.shared.array(1, int64)
    if cuda.threadIdx.x == 0:
        counts[0] = 0
        tops[0] = 0
    cuda.syncthreads()
    if left > 0:
        cuda.atomic.add(counts, 0, np.int32(left))
    if largest > tops[0]:
        cuda.atomic.max(tops, 0, largest)
    cuda.syncthreads()
    if cuda.threadIdx.x == 0:
        if counts[0] > 0:
            cuda.atomic.add(tally, (LEFT, column), np.int64(counts[0]))
        cuda.atomic.max(tally, (LARGEST, column), tops[0])


@register_jitable(forceinline=True)
def add_sent(tally, column, sent):
    """Add how many messages the threads of a tile have sent; all of them come here."""
    counts = cuda.shared.array(1, int32)
    if cuda.threadIdx.x == 0:
        counts[0] = 0
    cuda.syncthreads()
    if sent > 0:
        cuda.atomic.add(counts, 0, np.int32(sent))
    cuda.syncthreads()
    if cuda.threadIdx.x == 0 and counts[0] > 0:
        cuda.atomic.add(tally, (SENT, column), np.int64(counts[0]))


@register_jitable(forceinline=True)
def wait_for_all(arrived, waits):
    """Wait until all threads of all tiles have come here; return how often they have.

    The tiles have to run at the same time: a cooperative launch sees to it. In the simulator there is one.
    """
    cuda.syncthreads()
    if cuda.gridDim.x > 1:
        if cuda.threadIdx.x == 0:
            cuda.threadfence()
            cuda.atomic.add(arrived, 0, 1)
            while cuda.atomic.add(arrived, 0, 0) < (waits + 1) * np.int64(cuda.gridDim.x):
                pass
            cuda.threadfence()
        cuda.syncthreads()
    return waits + 1
