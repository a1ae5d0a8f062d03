"""When messages are computed and sent, whatever they are; see templates/schedules.py. Tallies are of message_tally.

Kernels that are queued several times over, one for each time that messages are sent, do nothing once all have
converged: the host looks at the tally when it wants to, and no earlier.
"""

import numpy as np
from numba import int32, int64
from numba.extending import register_jitable

from hpcblaz.bodies.records import TILE

from .constants import FORM, INTEGER, REAL
from .message_tally import (
    FIRST,
    HEARD,
    LARGEST,
    LEFT,
    SENT,
    TROUBLE,
    add_measures,
    add_sent,
    all_threads,
    bits_of,
    drawn,
    first_item,
    measured,
    over,
    wait_for_all,
)
from .scalars import cuda

if FORM == "binary":
    from .binary_messages import send, update_unit
elif FORM == "pairwise":
    from .pairwise_messages import send, update_unit
else:
    from .factor_messages import send, update_unit

SEPARATE_ROUNDING = True  # each product and each sum is rounded by itself, as on the CPU: both make the same choices
SHARE_LISTED = 4  # of more than one unit in so many, all are computed: so does the CPU
FALLING = 0.9  # a share of unconverged messages, after over before: below it, as many as possible are sent
EACH = 8  # units that a thread looks at, between two waits
BITS = 8  # of a key that are looked at at a time
BINS = 1 << BITS


def compute(model, listed, heard, messages, out, residuals, damping, maximise, tolerance, tally, column):
    """Compute what all units send, and measure it; or, if it is listed, what the units that heard something send."""
    if over(tally, column):
        return
    units = len(model[0]) - 1
    left, largest = np.int64(0), np.int64(0)
    count = tally[HEARD, column]
    some = listed > 0 and count * SHARE_LISTED <= units
    for i in range(first_item(), count if some else units, all_threads()):
        u = np.int64(heard[i]) if some else i
        left, largest = update_unit(
            model, tally, u, messages, out, residuals, damping, maximise, tolerance, left, largest
        )
    if listed == 0:
        add_measures(tally, column, left, largest)


def measure(residuals, tolerance, tally, column):
    """Count the residuals above the tolerance, and find the largest: NaN is above every tolerance."""
    if over(tally, column):
        return
    left, largest = np.int64(0), np.int64(0)
    for k in range(first_item(), len(residuals), all_threads()):
        left, largest = measured(residuals[k], tolerance, left, largest)
    add_measures(tally, column, left, largest)


def sweep(model, levels, sweeps, backward, messages, residuals, damping, maximise, tolerance, tally, arrived):
    """Send messages in the order of levels, forward and backward in turn, each computed from the newest ones.

    `arrived` is one zero. The tiles run at the same time.
    """
    count = len(levels) - 1
    waits = np.int64(0)
    for i in range(sweeps):
        left, largest = np.int64(0), np.int64(0)
        for step in range(count):
            level = count - 1 - step if (i & 1) != backward else step
            for u in range(np.int64(levels[level]) + first_item(), np.int64(levels[level + 1]), all_threads()):
                left, largest = update_unit(
                    model, tally, u, messages, messages, residuals, damping, maximise, tolerance, left, largest
                )
            waits = wait_for_all(arrived, waits)
        add_measures(tally, FIRST + i, left, largest)
        waits = wait_for_all(arrived, waits)
        if tally[LEFT, FIRST + i] == 0:
            return


@register_jitable(forceinline=True)
def send_and_mark(model, graph, k, stamp, messages, fresh, residuals, damping, stamps):
    """Send a message, and stamp the units that hear it."""
    offsets, variables, listener_offsets, listeners = graph
    send(model, k, fresh, messages, damping)
    residuals[k] *= damping
    v = np.int64(variables[k])
    for j in range(np.int64(listener_offsets[v]), np.int64(listener_offsets[v + 1])):
        stamps[listeners[j]] = stamp


def send_drawn(
    model, graph, seed, stamp, numbers, least, least_falling, messages, fresh, residuals, damping, tolerance, stamps,
    tally, column,
):  # fmt: skip
    """Send messages above the tolerance whose draw is `least` or more, or `least_falling` if a tenth has converged."""
    if over(tally, column):
        return
    if float(tally[LEFT, column - 1]) < FALLING * float(tally[LEFT, column - 2]):
        least = least_falling
    sent = 0
    for k in range(first_item(), len(residuals), all_threads()):
        if not residuals[k] <= tolerance and drawn(seed, np.uint64(stamp), numbers[k]) >= least:
            send_and_mark(model, graph, k, stamp, messages, fresh, residuals, damping, stamps)
            sent += 1
    add_sent(tally, column, sent)


@register_jitable(forceinline=True)
def is_chosen(residuals, k, chosen, tolerance):
    """Say whether a residual is above the tolerance, and its key not below the chosen one; see `count_digits`."""
    bits = bits_of(residuals[k])
    after = len(residuals) - 1 - k
    return not residuals[k] <= tolerance and (bits > chosen[0] or (bits == chosen[0] and after >= chosen[1]))


def send_chosen(model, graph, stamp, chosen, messages, fresh, residuals, damping, tolerance, stamps, tally, column):
    """Send the messages above the tolerance that are chosen; see `count_digits`."""
    sent = 0
    for k in range(first_item(), len(residuals), all_threads()):
        if is_chosen(residuals, k, chosen, tolerance):
            send_and_mark(model, graph, k, stamp, messages, fresh, residuals, damping, stamps)
            sent += 1
    add_sent(tally, column, sent)


def list_heard(stamps, stamp, heard, tally, column):
    """List the units that heard something, those of a tile together."""
    if over(tally, column):
        return
    t = cuda.threadIdx.x
    units = len(stamps)
    found = cuda.shared.array(1, int32)
    place = cuda.shared.array(1, int64)
    for base in range(np.int64(cuda.blockIdx.x) * TILE * EACH, units, all_threads() * EACH):
        if t == 0:
            found[0] = 0
        cuda.syncthreads()
        mine = 0
        for j in range(EACH):
            u = base + j * TILE + t
            if u < units and stamps[u] == stamp:
                mine += 1
        at = np.int64(0)
        if mine > 0:
            at = np.int64(cuda.atomic.add(found, 0, np.int32(mine)))
        cuda.syncthreads()
        if t == 0:
            place[0] = cuda.atomic.add(tally, (HEARD, column), np.int64(found[0]))
        cuda.syncthreads()
        if mine > 0:
            at += place[0]
            for j in range(EACH):
                u = base + j * TILE + t
                if u < units and stamps[u] == stamp:
                    heard[at] = u
                    at += 1


def gather(values, indices, packed):
    """Pack entries of an array, one after the other."""
    for i in range(first_item(), len(indices), all_threads()):
        packed[i] = values[indices[i]]


def take_in(arrived, first, slot_of, hearer_offsets, hearers, stamp, messages, stamps):
    """Take what others tell, behind this rank's own entries, and stamp the units that hear another message than before.

    Entry i of what has arrived is of message slot_of[i] of the tail, which hearers[hearer_offsets[slot]] and on hear.
    """
    for i in range(first_item(), len(arrived), all_threads()):
        if messages[first + i] != arrived[i]:
            messages[first + i] = arrived[i]
            slot = slot_of[i]
            for j in range(hearer_offsets[slot], hearer_offsets[slot + 1]):
                stamps[hearers[j]] = stamp


def variable_keys(variables, residuals, keys):
    """Write the bits of the largest residual of what each variable is to be told; all keys are 0 before."""
    for k in range(first_item(), len(residuals), all_threads()):
        cuda.atomic.max(keys, np.int64(variables[k]), INTEGER(bits_of(residuals[k])))


@register_jitable(forceinline=True)
def grow(graph, keys, chosen, depth, tolerance, depths, arrived):
    """Write how far each unit is from the variables that are chosen, -1 if farther than `depth`.

    Return the largest distance, and how often threads have waited. Whoever writes a distance writes the same.
    """
    offsets, variables, listener_offsets, listeners = graph
    waits = np.int64(0)
    for u in range(first_item(), len(depths), all_threads()):
        depths[u] = -1
    waits = wait_for_all(arrived, waits)
    for v in range(first_item(), len(keys), all_threads()):
        if is_chosen(keys, v, chosen, tolerance):
            for j in range(np.int64(listener_offsets[v]), np.int64(listener_offsets[v + 1])):
                depths[listeners[j]] = 0
    waits = wait_for_all(arrived, waits)
    reached = np.int64(0)
    while reached < depth:
        grown = False
        for u in range(first_item(), len(depths), all_threads()):
            if depths[u] == reached:
                for k in range(np.int64(offsets[u]), np.int64(offsets[u + 1])):
                    v = np.int64(variables[k])
                    for j in range(np.int64(listener_offsets[v]), np.int64(listener_offsets[v + 1])):
                        if depths[listeners[j]] < 0:
                            depths[listeners[j]] = reached + 1
                            grown = True
        if grown:
            cuda.atomic.max(arrived, 1, reached + 1)
        waits = wait_for_all(arrived, waits)
        if arrived[1] <= reached:
            return reached, waits
        reached += 1
    return reached, waits


def splash(
    model, graph, stamp, chosen, keys, depth, messages, fresh, nothing, damping, maximise, tolerance, depths, stamps,
    tally, column, arrived,
):  # fmt: skip
    """Send all messages around the variables that are chosen: the farthest units first, then nearer ones, and back.

    Units of one distance compute all of what they send before any of it is sent. `arrived` is two zeros. The tiles run
    at the same time.
    """
    offsets = graph[0]
    farthest, waits = grow(graph, keys, chosen, depth, tolerance, depths, arrived)
    left, largest, sent = np.int64(0), np.int64(0), 0
    for step in range(2 * farthest + 1):
        distance = abs(farthest - step)
        for u in range(first_item(), len(depths), all_threads()):
            if depths[u] == distance:
                left, largest = update_unit(
                    model, tally, u, messages, fresh, nothing, damping, maximise, tolerance, left, largest
                )
        waits = wait_for_all(arrived, waits)
        for u in range(first_item(), len(depths), all_threads()):
            if depths[u] == distance:
                for k in range(np.int64(offsets[u]), np.int64(offsets[u + 1])):
                    send(model, k, fresh, messages, REAL(0))
                    sent += 1
        waits = wait_for_all(arrived, waits)
    mark_around(graph, depths, stamps, stamp)
    add_sent(tally, column, sent)


@register_jitable(forceinline=True)
def mark_around(graph, depths, stamps, stamp):
    """Stamp the units that have a distance, and all that hear them."""
    offsets, variables, listener_offsets, listeners = graph
    for u in range(first_item(), len(depths), all_threads()):
        if depths[u] >= 0:
            stamps[u] = stamp
            for k in range(np.int64(offsets[u]), np.int64(offsets[u + 1])):
                v = np.int64(variables[k])
                for j in range(np.int64(listener_offsets[v]), np.int64(listener_offsets[v + 1])):
                    stamps[listeners[j]] = stamp


def count_digits(residuals, by_number, shift, chosen, histogram):
    """Count the next digits of the keys that begin as `chosen` does.

    The key of message k is its residual as an integer, and after it how many messages come after k: no two are equal.
    The digit is of the one or of the other.
    """
    t = cuda.threadIdx.x
    counts = cuda.shared.array(BINS, int32)
    for i in range(t, BINS, TILE):
        counts[i] = 0
    cuda.syncthreads()
    count = len(residuals)
    begin = (chosen[by_number] >> shift) >> BITS
    for k in range(first_item(), count, all_threads()):
        key = bits_of(residuals[k])
        fits = by_number == 0 or key == chosen[0]
        if by_number > 0:
            key = count - 1 - k
        if fits and (key >> shift) >> BITS == begin:
            cuda.atomic.add(counts, (key >> shift) & (BINS - 1), 1)
    cuda.syncthreads()
    for i in range(t, BINS, TILE):
        if counts[i] > 0:
            cuda.atomic.add(histogram, i, np.int64(counts[i]))


def choose_digit(by_number, shift, chosen, histogram):
    """Set the next digit of the least key that is chosen: `chosen` is both parts of it, and how many are still wanted.

    The histogram becomes all zeros. One tile does it.
    """
    t = cuda.threadIdx.x
    counts = cuda.shared.array(BINS, int64)
    for i in range(t, BINS, TILE):
        counts[i] = histogram[i]
        histogram[i] = 0
    cuda.syncthreads()
    if t == 0:
        wanted = chosen[2]
        digit = BINS - 1
        while digit > 0 and counts[digit] < wanted:
            wanted -= counts[digit]
            digit -= 1
        chosen[by_number] |= np.int64(digit) << shift
        chosen[2] = wanted
