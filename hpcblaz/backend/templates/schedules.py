"""The order in which messages are computed and sent, whatever they are.

A unit computes the messages that it sends, offsets[u] to offsets[u + 1], from what it was told. A message tells a
variable, and the units that listen to variable v are listeners[listener_offsets[v]] and on. A graph is (offsets,
variables, listener_offsets, listeners): variables[k] is told by message k.
"""

import numpy as np

from hpcblaz.bodies.messages import draw

from .atomics import add_one, claim, read, step_aside
from .constants import FORM, INTEGER, REAL
from .helper import helper, inlined, kernel
from .residuals import HIDE_SIGN, settle

if FORM == "factors":
    from .factor_messages import (
        begin_sweep,
        know,
        know_all,
        make_buffers,
        send,
        sweep_level,
        update_knowing,
        update_unit,
        update_units,
    )
else:
    if FORM == "binary":
        from .binary_messages import make_buffers, send, send_level, update_unit, update_units
    else:
        from .pairwise_messages import make_buffers, send, send_level, update_unit, update_units

    # A unit is a variable, and works out what it knows as it sends: nothing is kept

    @inlined()
    def know(model, v, messages, cavities, before, logs):
        pass

    @inlined()
    def know_all(model, first, last, messages, cavities, room):
        pass

    @inlined()
    def begin_sweep(model, messages, cavities, backward):
        return cavities, model[0]

    @inlined()
    def update_knowing(model, u, cavities, messages, out, residuals, tolerance, damping, maximise, buffers):
        return update_unit(model, u, messages, out, residuals, tolerance, damping, maximise, buffers)

    @inlined()
    def sweep_level(
        model, first, last, cavities, known, begins, messages, residuals, tolerance, damping, maximise, buffers
    ):
        return send_level(model, first, last, messages, residuals, tolerance, damping, maximise, buffers)


STAGES = 2 if FORM == "factors" else 1  # of a round: what variables know, and what units send
PATIENCE = 1000  # looks at a counter before a thread lets others have the core


@inlined()
def count_above(residuals, tolerance):
    """Return how many residuals are not within the tolerance: NaN is above every tolerance."""
    n = 0
    for i in range(len(residuals)):
        n += 0 if residuals[i] <= tolerance else 1
    return n


@inlined()
def largest_bits(bits):
    """Return the largest magnitude of floats seen as integers: NaN is the largest of all."""
    largest = INTEGER(0)
    for i in range(len(bits)):
        largest = max(largest, INTEGER(bits[i] & HIDE_SIGN))
    return largest


@kernel()
def measure(residuals, bits, start, stop, tolerance):
    """Return how many residuals of a range are above the tolerance, and the bits of the largest one."""
    return count_above(residuals[start:stop], tolerance), largest_bits(bits[start:stop])


@kernel()
def compute_listed(model, units, start, stop, messages, out, residuals, tolerance, maximise, room):
    """Compute what some units of a list send."""
    buffers = make_buffers(model, room)
    for i in range(start, stop):
        update_unit(model, np.int64(units[i]), messages, out, residuals, tolerance, REAL(0), maximise, buffers)


@kernel()
def flood(
    model, counters, unit_bounds, variable_bounds, above, most, cavities, messages, out, residuals, tolerance, damping,
    maximise, room,
):  # fmt: skip
    """Send all messages at once, several times, until none changes; return the number of rounds.

    After an odd number of them the messages are in `out`. Any number of threads may call it at the same time. They
    take parts of a round, of units unit_bounds[i] to unit_bounds[i + 1], and begin none before the round before has
    ended: counters[0] is how many parts have been taken, counters[1] how many have been done, both 0 at first. Row i of
    `above` and `most` receives how many messages change by more than the tolerance, and the largest change, in each
    part of round i. A thread that waits has taken nothing, so that those which run never wait for one that does not.
    """
    buffers = make_buffers(model, room)
    rounds, parts = above.shape
    while True:
        taken = read(counters, 0)
        stage, part = taken // parts, taken % parts
        looks = 0
        while read(counters, 1) < stage * parts:
            looks += 1
            if looks > PATIENCE:
                step_aside()
        done = stage // STAGES
        if done >= rounds or (done > 0 and not above[done - 1].any()):
            return done
        if not claim(counters, 0, taken):
            continue
        here, there = (out, messages) if done & 1 else (messages, out)
        if stage % STAGES + 1 < STAGES:
            know_all(model, variable_bounds[part], variable_bounds[part + 1], here, cavities, room)
        else:
            some, largest = update_units(
                model, unit_bounds[part], unit_bounds[part + 1], cavities, here, there, residuals, tolerance, damping,
                maximise, buffers,
            )  # fmt: skip
            above[done, part], most[done, part] = some, settle(some, largest, tolerance)
        add_one(counters, 1)


@kernel()
def sweep(model, levels, backward, cavities, messages, residuals, tolerance, damping, maximise, room, left, largest):
    """Send messages in the order of levels, forward and backward in turn, each computed from the newest ones.

    Sweeps end when none changes, or after as many as `left` has room for; return how many there were.
    """
    buffers = make_buffers(model, room)
    count = len(levels) - 1
    for i in range(len(left)):
        reverse = (i & 1) != backward
        known, begins = begin_sweep(model, messages, cavities, reverse)
        above, most = 0, REAL(0)
        for step in range(count):
            level = count - 1 - step if reverse else step
            some, change = sweep_level(
                model, levels[level], levels[level + 1], cavities, known, begins, messages, residuals, tolerance,
                damping, maximise, buffers,
            )  # fmt: skip
            above += some
            most = change if change > most else most
        left[i], largest[i] = above, settle(above, most, tolerance)
        if above == 0:
            return i + 1
    return len(left)


@helper()
def sift_down(heap, place, keys, i):
    n = len(heap)
    k = np.int64(heap[i])
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


@helper()
def sift_up(heap, place, keys, i):
    k = np.int64(heap[i])
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


@helper()
def change_key(heap, place, keys, k, key):
    if key > keys[k]:
        keys[k] = key
        sift_up(heap, place, keys, np.int64(place[k]))
    elif key < keys[k]:
        keys[k] = key
        sift_down(heap, place, keys, np.int64(place[k]))


@kernel()
def build_heap(heap, place, keys, residuals):
    """Order messages by their residuals, the largest first."""
    for i in range(len(heap)):
        heap[i] = i
        place[i] = i
        keys[i] = residuals[i]
    for i in range(len(heap) // 2 - 1, -1, -1):
        sift_down(heap, place, keys, i)


@kernel()
def queue(
    model, graph, pops, heap, place, keys, cavities, messages, fresh, residuals, damping, maximise, room, tolerance
):
    """Send the message that changes most, one at a time; return how many until none is above the tolerance."""
    offsets, variables, listener_offsets, listeners = graph
    buffers = make_buffers(model, room)
    before, logs = np.empty(room, REAL), np.empty(0, REAL)
    know_all(model, np.int64(0), len(listener_offsets) - 1, messages, cavities, room)
    for sent in range(pops):
        k = np.int64(heap[0])
        if keys[k] <= tolerance:
            return sent
        send(model, k, fresh, messages, damping)
        residuals[k] *= damping
        change_key(heap, place, keys, k, residuals[k])
        v = np.int64(variables[k])
        know(model, v, messages, cavities, before, logs)
        for j in range(listener_offsets[v], listener_offsets[v + 1]):
            u = np.int64(listeners[j])
            update_knowing(model, u, cavities, messages, fresh, residuals, tolerance, REAL(0), maximise, buffers)
            for i in range(offsets[u], offsets[u + 1]):
                change_key(heap, place, keys, i, residuals[i])
    return pops


@helper()
def key_of(offsets, residuals, u):
    """Return the largest residual of what a unit sends."""
    key = REAL(0)
    for k in range(offsets[u], offsets[u + 1]):
        key = max(key, residuals[k])
    return key


@kernel()
def build_unit_heap(graph, heap, place, keys, residuals):
    """Order units by the largest residual of what they send, the largest first."""
    offsets = graph[0]
    for u in range(len(heap)):
        heap[u] = u
        place[u] = u
        keys[u] = key_of(offsets, residuals, u)
    for i in range(len(heap) // 2 - 1, -1, -1):
        sift_down(heap, place, keys, i)


@kernel()
def unit_queue(
    model, graph, most, heap, place, keys, cavities, messages, fresh, residuals, damping, maximise, room, tolerance
):
    """Send all that changes of the unit with the largest change, a unit at a time; return how many messages."""
    offsets, variables, listener_offsets, listeners = graph
    buffers = make_buffers(model, room)
    before, logs = np.empty(room, REAL), np.empty(0, REAL)
    know_all(model, np.int64(0), len(listener_offsets) - 1, messages, cavities, room)
    sent = 0
    while sent < most:
        u = np.int64(heap[0])
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
                v = np.int64(variables[k])
                know(model, v, messages, cavities, before, logs)
                for j in range(listener_offsets[v], listener_offsets[v + 1]):
                    w = np.int64(listeners[j])
                    if w != u:
                        update_knowing(
                            model, w, cavities, messages, fresh, residuals, tolerance, REAL(0), maximise, buffers
                        )
                        change_key(heap, place, keys, w, key_of(offsets, residuals, w))
        change_key(heap, place, keys, u, key_of(offsets, residuals, u))
    return sent


@helper()
def mark_listeners(graph, k, stamps, stamp, marked, count):
    """Add the units that hear a message to a list, unless they are there."""
    offsets, variables, listener_offsets, listeners = graph
    v = np.int64(variables[k])
    for j in range(listener_offsets[v], listener_offsets[v + 1]):
        w = np.int64(listeners[j])
        if stamps[w] != stamp:
            stamps[w] = stamp
            marked[count] = w
            count += 1
    return count


@kernel()
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


@kernel()
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


@kernel()
def variable_keys(graph, residuals, keys):
    """Write the largest residual of what each variable is to be told."""
    variables = graph[1]
    keys[:] = 0
    for k in range(len(variables)):
        keys[variables[k]] = max(keys[variables[k]], residuals[k])


@kernel()
def splash(
    model, graph, iteration, roots, depth, messages, residuals, tolerance, damping, maximise, room, trees, heard, tree,
    marked,
):  # fmt: skip
    """Send all messages around some variables, from the leaves of a tree of some depth to its root and back.

    `trees` has the number of the last tree that each unit was in, and `heard` the iteration in which it last heard.
    """
    offsets, variables, listener_offsets, listeners = graph
    buffers = make_buffers(model, room)
    sent = count = 0
    for number in range(len(roots)):
        stamp = iteration * len(trees) + number
        size = 0
        v = roots[number]
        for j in range(listener_offsets[v], listener_offsets[v + 1]):
            tree[size] = listeners[j]
            trees[listeners[j]] = stamp
            size += 1
        begin = 0
        for _ in range(depth):
            end = size
            for i in range(begin, end):
                for k in range(offsets[tree[i]], offsets[tree[i] + 1]):
                    size = mark_listeners(graph, k, trees, stamp, tree, size)
            begin = end
        for step in range(2 * size - 1):
            u = np.int64(tree[abs(size - 1 - step)])
            update_unit(model, u, messages, messages, residuals, tolerance, damping, maximise, buffers)
            sent += offsets[u + 1] - offsets[u]
        for i in range(size):
            u = tree[i]
            if heard[u] != iteration:
                heard[u] = iteration
                marked[count] = u
                count += 1
            for k in range(offsets[u], offsets[u + 1]):
                count = mark_listeners(graph, k, heard, iteration, marked, count)
    return sent, count
