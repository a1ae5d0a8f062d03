"""The order in which messages are computed and sent, whatever they are.

A unit computes the messages that it sends, offsets[u] to offsets[u + 1], from what it was told. A message tells a
variable, and the units that listen to variable v are listeners[listener_offsets[v]] and on. A graph is (offsets,
variables, listener_offsets, listeners): variables[k] is told by message k.
"""

import numpy as np
from numba import njit

from hpcblaz.bodies.messages import draw

from .constants import FORM, INTEGER, REAL

if FORM == "binary":
    from .binary_messages import make_buffers, send, update_unit, update_units
elif FORM == "pairwise":
    from .pairwise_messages import make_buffers, send, update_unit, update_units
else:
    from .factor_messages import make_buffers, send, update_unit, update_units

NARROW = 8  # units of a level from which on vectors are worth it
HIDE_SIGN = INTEGER(0x7FFFFFFF) if INTEGER(-1).nbytes == 4 else INTEGER(0x7FFFFFFFFFFFFFFF)


@njit(error_model="numpy")
def count_above(residuals, tolerance):
    """Return how many residuals are not within the tolerance: NaN is above every tolerance."""
    n = 0
    for i in range(len(residuals)):
        n += 0 if residuals[i] <= tolerance else 1
    return n


@njit(error_model="numpy")
def largest_bits(bits):
    """Return the largest magnitude of floats seen as integers: NaN is the largest of all."""
    largest = INTEGER(0)
    for i in range(len(bits)):
        largest = max(largest, INTEGER(bits[i] & HIDE_SIGN))
    return largest


@njit(nogil=True, cache=True, error_model="numpy")
def measure(residuals, bits, start, stop, tolerance):
    """Return how many residuals of a range are above the tolerance, and the bits of the largest one."""
    return count_above(residuals[start:stop], tolerance), largest_bits(bits[start:stop])


@njit(nogil=True, cache=True, error_model="numpy")
def compute(model, first, last, messages, out, residuals, damping, maximise, room):
    """Compute what the units of a range send."""
    update_units(model, first, last, messages, out, residuals, damping, maximise, make_buffers(model, room))


@njit(nogil=True, cache=True, error_model="numpy")
def compute_listed(model, units, start, stop, messages, out, residuals, damping, maximise, room):
    """Compute what some units of a list send."""
    buffers = make_buffers(model, room)
    for i in range(start, stop):
        update_unit(model, units[i], messages, out, residuals, damping, maximise, buffers)


@njit(nogil=True, cache=True, error_model="numpy")
def flood(model, rounds, messages, out, residuals, bits, damping, maximise, room, tolerance, left, largest):
    """Send all messages at once, several times, until none changes; return the number of rounds.

    After an odd number of them the messages are in `out`. The messages are those that the residuals belong to.
    """
    buffers = make_buffers(model, room)
    units = len(model[0]) - 1
    here, there = messages, out
    for i in range(rounds):
        update_units(model, 0, units, here, there, residuals, damping, maximise, buffers)
        left[i] = count_above(residuals, tolerance)
        largest[i] = largest_bits(bits)
        here, there = there, here
        if left[i] == 0:
            return i + 1
    return rounds


@njit(nogil=True, cache=True, error_model="numpy")
def sweep(
    model, levels, sweeps, backward, messages, residuals, bits, damping, maximise, room, tolerance, left, largest
):
    """Send messages in the order of levels, forward and backward in turn, each computed from the newest ones."""
    buffers = make_buffers(model, room)
    count = len(levels) - 1
    for i in range(sweeps):
        for step in range(count):
            level = count - 1 - step if (i & 1) != backward else step
            first, last = levels[level], levels[level + 1]
            if last - first < NARROW:
                for u in range(first, last):
                    update_unit(model, u, messages, messages, residuals, damping, maximise, buffers)
            else:
                update_units(model, first, last, messages, messages, residuals, damping, maximise, buffers)
        left[i] = count_above(residuals, tolerance)
        largest[i] = largest_bits(bits)
        if left[i] == 0:
            return i + 1
    return sweeps


@njit(error_model="numpy")
def sift_down(heap, place, keys, i):
    n = len(heap)
    k = heap[i]
    key = keys[k]
    while True:
        child = 2 * i + 1
        if child >= n:
            break
        if child + 1 < n and keys[heap[child + 1]] > keys[heap[child]]:
            child += 1
        if not keys[heap[child]] > key:
            break
        heap[i] = heap[child]
        place[heap[i]] = i
        i = child
    heap[i] = k
    place[k] = i


@njit(error_model="numpy")
def sift_up(heap, place, keys, i):
    k = heap[i]
    key = keys[k]
    while i > 0:
        parent = (i - 1) >> 1
        if not keys[heap[parent]] < key:
            break
        heap[i] = heap[parent]
        place[heap[i]] = i
        i = parent
    heap[i] = k
    place[k] = i


@njit(error_model="numpy")
def change_key(heap, place, keys, k, key):
    if key > keys[k]:
        keys[k] = key
        sift_up(heap, place, keys, place[k])
    elif key < keys[k]:
        keys[k] = key
        sift_down(heap, place, keys, place[k])


@njit(nogil=True, cache=True, error_model="numpy")
def build_heap(heap, place, keys, residuals):
    """Order messages by their residuals, the largest first."""
    for i in range(len(heap)):
        heap[i] = i
        place[i] = i
        keys[i] = residuals[i]
    for i in range(len(heap) // 2 - 1, -1, -1):
        sift_down(heap, place, keys, i)


@njit(nogil=True, cache=True, error_model="numpy")
def queue(model, graph, pops, heap, place, keys, messages, fresh, residuals, damping, maximise, room, tolerance):
    """Send the message that changes most, one at a time; return how many until none is above the tolerance."""
    offsets, variables, listener_offsets, listeners = graph
    buffers = make_buffers(model, room)
    for sent in range(pops):
        k = heap[0]
        if keys[k] <= tolerance:
            return sent
        send(model, k, fresh, messages, damping)
        residuals[k] *= damping
        change_key(heap, place, keys, k, residuals[k])
        v = variables[k]
        for j in range(listener_offsets[v], listener_offsets[v + 1]):
            u = listeners[j]
            update_unit(model, u, messages, fresh, residuals, REAL(0), maximise, buffers)
            for i in range(offsets[u], offsets[u + 1]):
                change_key(heap, place, keys, i, residuals[i])
    return pops


@njit(error_model="numpy")
def key_of(offsets, residuals, u):
    """Return the largest residual of what a unit sends."""
    key = REAL(0)
    for k in range(offsets[u], offsets[u + 1]):
        key = max(key, residuals[k])
    return key


@njit(nogil=True, cache=True, error_model="numpy")
def build_unit_heap(graph, heap, place, keys, residuals):
    """Order units by the largest residual of what they send, the largest first."""
    offsets = graph[0]
    for u in range(len(heap)):
        heap[u] = u
        place[u] = u
        keys[u] = key_of(offsets, residuals, u)
    for i in range(len(heap) // 2 - 1, -1, -1):
        sift_down(heap, place, keys, i)


@njit(nogil=True, cache=True, error_model="numpy")
def unit_queue(model, graph, most, heap, place, keys, messages, fresh, residuals, damping, maximise, room, tolerance):
    """Send all that changes of the unit with the largest change, a unit at a time; return how many messages."""
    offsets, variables, listener_offsets, listeners = graph
    buffers = make_buffers(model, room)
    sent = 0
    while sent < most:
        u = heap[0]
        if keys[u] <= tolerance:
            break
        first, last = offsets[u], offsets[u + 1]
        for k in range(first, last):
            if not residuals[k] <= tolerance:
                send(model, k, fresh, messages, damping)
                residuals[k] = -residuals[k]  # those that are sent, until their listeners have heard them
                sent += 1
        for k in range(first, last):
            if residuals[k] < 0:
                residuals[k] = -residuals[k] * damping
                v = variables[k]
                for j in range(listener_offsets[v], listener_offsets[v + 1]):
                    w = listeners[j]
                    if w != u:
                        update_unit(model, w, messages, fresh, residuals, REAL(0), maximise, buffers)
                        change_key(heap, place, keys, w, key_of(offsets, residuals, w))
        change_key(heap, place, keys, u, key_of(offsets, residuals, u))
    return sent


@njit(error_model="numpy")
def mark_listeners(graph, k, stamps, stamp, marked, count):
    """Add the units that hear a message to a list, unless they are there."""
    offsets, variables, listener_offsets, listeners = graph
    v = variables[k]
    for j in range(listener_offsets[v], listener_offsets[v + 1]):
        w = listeners[j]
        if stamps[w] != stamp:
            stamps[w] = stamp
            marked[count] = w
            count += 1
    return count


@njit(nogil=True, cache=True, error_model="numpy")
def send_drawn(
    model, graph, seed, iteration, numbers, least, messages, fresh, residuals, damping, tolerance, stamps, marked
):
    """Send each message above the tolerance whose draw is `least` or more; return how many, and how many units hear.

    `marked` receives the units, which have to compute again.
    """
    sent = count = 0
    for k in range(len(residuals)):
        if residuals[k] <= tolerance:
            continue
        if (draw(seed, iteration, np.uint64(numbers[k])) >> np.uint64(1)) >= least:
            send(model, k, fresh, messages, damping)
            residuals[k] *= damping
            sent += 1
            count = mark_listeners(graph, k, stamps, np.int64(iteration), marked, count)
    return sent, count


@njit(nogil=True, cache=True, error_model="numpy")
def send_listed(model, graph, iteration, listed, messages, fresh, residuals, damping, tolerance, stamps, marked):
    """Send the messages of a list that are above the tolerance, as `send_drawn` does."""
    sent = count = 0
    for k in listed:
        if residuals[k] <= tolerance:
            continue
        send(model, k, fresh, messages, damping)
        residuals[k] *= damping
        sent += 1
        count = mark_listeners(graph, k, stamps, np.int64(iteration), marked, count)
    return sent, count


@njit(nogil=True, cache=True, error_model="numpy")
def variable_keys(graph, residuals, keys):
    """Write the largest residual of what each variable is to be told."""
    variables = graph[1]
    keys[:] = 0
    for k in range(len(variables)):
        keys[variables[k]] = max(keys[variables[k]], residuals[k])


@njit(nogil=True, cache=True, error_model="numpy")
def splash(model, graph, iteration, roots, depth, messages, residuals, damping, maximise, room, stamps, tree, marked):
    """Send all messages around some variables, from the leaves of a tree of some depth to its root and back.

    `stamps` has two rows: units of a tree, by the number of the tree, and units that hear, by that of the iteration.
    """
    offsets, variables, listener_offsets, listeners = graph
    buffers = make_buffers(model, room)
    sent = count = 0
    for number in range(len(roots)):
        stamp = iteration * len(stamps[0]) + number
        size = 0
        v = roots[number]
        for j in range(listener_offsets[v], listener_offsets[v + 1]):
            tree[size] = listeners[j]
            stamps[0, listeners[j]] = stamp
            size += 1
        begin = 0
        for _ in range(depth):
            end = size
            for i in range(begin, end):
                for k in range(offsets[tree[i]], offsets[tree[i] + 1]):
                    size = mark_listeners(graph, k, stamps[0], stamp, tree, size)
            begin = end
        for step in range(2 * size - 1):
            u = tree[abs(size - 1 - step)]
            update_unit(model, u, messages, messages, residuals, damping, maximise, buffers)
            sent += offsets[u + 1] - offsets[u]
        for i in range(size):
            u = tree[i]
            if stamps[1, u] != iteration:
                stamps[1, u] = iteration
                marked[count] = u
                count += 1
            for k in range(offsets[u], offsets[u + 1]):
                count = mark_listeners(graph, k, stamps[1], iteration, marked, count)
    return sent, count
