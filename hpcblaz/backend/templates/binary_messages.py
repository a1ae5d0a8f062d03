"""Messages between variables of two states: a unit is a variable, and sends its odds to each of its neighbours.

A model is (offsets, reverse, unaries, weights): unit u sends the messages from offsets[u] to offsets[u + 1], the
message back along the edge of message k is reverse[k], unaries are odds. weights has one row, those of `odds_alike`, or
three, those of `odds_any`.

What is computed with many messages at a time has one short loop for each step, over arrays that lie apart: these become
vector instructions.
"""

import numpy as np

from hpcblaz.bodies.messages import ROOT_TWO, damped_odds, most_odds, odds_alike, odds_any, odds_distance

from .constants import INTEGER, REAL
from .helper import helper, inlined, kernel
from .residuals import HIDE_SIGN

ONE = REAL(1)
ROOT = REAL(ROOT_TWO)
NARROW = 8  # units of a level from which on vectors are worth it
SHORT = 8  # units of one degree in a row from which on they are worth a loop of their own


@helper()
def make_buffers(model, room):
    """Return rows for what units are told, what they know, send and change, and the same memory as integers."""
    buffers = np.empty((4, room), REAL)
    return buffers, buffers.view(INTEGER)


@inlined()
def send(model, k, fresh, messages, damping):
    """Replace a message by a fresh one, or by a mixture with it."""
    messages[k] = damped_odds(fresh[k], messages[k], damping, ONE) if damping > 0 else fresh[k]


@inlined()
def gather(reverse, messages, back):
    for i in range(len(reverse)):
        back[i] = messages[reverse[i]]


def fields_of(degree):
    """Return the function that multiplies what units with so many neighbours know: a loop that can be unrolled."""

    @helper()
    def multiply(unaries, back, fields):
        for u in range(len(unaries)):
            field = unaries[u]
            for i in range(degree):
                field *= back[degree * u + i]
            for i in range(degree):
                fields[degree * u + i] = field

    return multiply


fields_of_two, fields_of_three, fields_of_four = fields_of(2), fields_of(3), fields_of(4)


@inlined()
def fields_of_any(offsets, unaries, back, fields):
    for u in range(len(unaries)):
        field = unaries[u]
        start, stop = np.uint64(offsets[u] - offsets[0]), np.uint64(offsets[u + 1] - offsets[0])
        for i in range(start, stop):
            field *= back[i]
        for i in range(start, stop):
            fields[i] = field


@inlined()
def multiply_fields(offsets, unaries, back, fields):
    """Write the product of all that each unit was told, once for each message that it sends."""
    first, units = 0, len(unaries)
    while first < units:
        begin = offsets[first]
        degree = offsets[first + 1] - begin
        until = first + 1
        while until < units and offsets[until + 1] - offsets[until] == degree:
            until += 1
        place, end = begin - offsets[0], offsets[until] - offsets[0]
        some, theirs, out = unaries[first:until], back[place:end], fields[place:end]
        if until - first < SHORT or not 2 <= degree <= 4:
            fields_of_any(offsets[first : until + 1], some, theirs, out)
        elif degree == 2:
            fields_of_two(some, theirs, out)
        elif degree == 3:
            fields_of_three(some, theirs, out)
        else:
            fields_of_four(some, theirs, out)
        first = until


@inlined()
def alike(fields, back, unlike, fresh):
    for i in range(len(fields)):
        fresh[i] = odds_alike(fields[i], back[i], unlike[i])


@inlined()
def anyhow(fields, back, w01, w10, w11, fresh):
    for i in range(len(fields)):
        fresh[i] = odds_any(fields[i], back[i], w01[i], w10[i], w11[i])


@inlined()
def most(fields, back, w01, w10, w11, fresh):
    for i in range(len(fields)):
        fresh[i] = most_odds(fields[i], back[i], w01[i], w10[i], w11[i])


@inlined()
def most_alike(fields, back, unlike, fresh):
    for i in range(len(fields)):
        fresh[i] = most_odds(fields[i], back[i], unlike[i], unlike[i], ONE)


@inlined()
def distances(fresh, old, change):
    for i in range(len(fresh)):
        change[i] = odds_distance(fresh[i], old[i], ROOT, ONE)


@inlined()
def damp(fresh, old, damping):
    for i in range(len(fresh)):
        fresh[i] = damped_odds(fresh[i], old[i], damping, ONE)


@inlined()
def copy(source, target):
    for i in range(len(source)):
        target[i] = source[i]


@inlined()
def count_above(change, bits, tolerance):
    """Return how many are above the tolerance, NaN with them, and the bits of the largest, NaN the largest of all."""
    above, largest = INTEGER(0), INTEGER(0)
    for i in range(len(change)):
        above += INTEGER(0) if change[i] <= tolerance else INTEGER(1)
        size = INTEGER(bits[i] & HIDE_SIGN)
        largest = size if size > largest else largest
    return above, largest


@helper()
def update_units(model, first, last, cavities, messages, out, residuals, tolerance, damping, maximise, buffers):
    """Compute what some units send; return how many messages change by more than the tolerance, and the largest change.

    `out` may be `messages` if the units are no neighbours of each other. It and `residuals` may be empty: nothing is
    written then.
    """
    offsets, reverse, unaries, weights = model
    work, integers = buffers
    rows, room = len(weights), work.shape[1]
    above, largest = 0, INTEGER(0)
    while first < last:
        begin = offsets[first]
        until = first + 1
        while until < last and offsets[until + 1] - begin <= room:
            until += 1
        end = offsets[until]
        count = end - begin
        back, fields, fresh, change = work[0, :count], work[1, :count], work[2, :count], work[3, :count]
        old = messages[begin:end]
        gather(reverse[begin:end], messages, back)
        multiply_fields(offsets[first : until + 1], unaries[first:until], back, fields)
        w01, w10, w11 = weights[0, begin:end], weights[rows // 2, begin:end], weights[rows - 1, begin:end]
        if rows == 1:
            if maximise:
                most_alike(fields, back, w01, fresh)
            else:
                alike(fields, back, w01, fresh)
        elif maximise:
            most(fields, back, w01, w10, w11, fresh)
        else:
            anyhow(fields, back, w01, w10, w11, fresh)
        distances(fresh, old, change)
        some, most_bits = count_above(change, integers[3, :count], tolerance)
        above += some
        if most_bits > largest:
            largest = most_bits
        if len(residuals):
            copy(change, residuals[begin:end])
        if damping > 0:
            damp(fresh, old, damping)
        if len(out):
            copy(fresh, out[begin:end])
        first = until
    integers[3, 0] = largest
    return above, work[3, 0]


@inlined()
def update_unit(model, u, messages, out, residuals, tolerance, damping, maximise, buffers):
    """Compute what one unit sends, as `update_units` does, without vectors: for units of few neighbours."""
    offsets, reverse, unaries, weights = model
    start, stop = np.uint64(offsets[u]), np.uint64(offsets[u + 1])
    field = unaries[u]
    above, largest = 0, REAL(0)
    for k in range(start, stop):
        field *= messages[reverse[k]]
    for k in range(start, stop):
        back = messages[reverse[k]]
        w01 = weights[0, k]
        if len(weights) == 1:
            w10, w11 = w01, ONE
        else:
            w10, w11 = weights[1, k], weights[2, k]
        if maximise:
            fresh = most_odds(field, back, w01, w10, w11)
        else:
            fresh = odds_any(field, back, w01, w10, w11)
        old = messages[k]
        change = odds_distance(fresh, old, ROOT, ONE)
        above += 0 if change <= tolerance else 1
        largest = change if change > largest else largest
        if len(residuals):
            residuals[k] = change
        if damping > 0:
            fresh = damped_odds(fresh, old, damping, ONE)
        out[k] = fresh
    return above, largest


@inlined()  # of a chain, a level is one unit: a call would take longer
def send_level(model, first, last, messages, residuals, tolerance, damping, maximise, buffers):
    """Send what some units send that are no neighbours of each other; see `update_units`."""
    if last - first >= NARROW:
        above, largest = update_units(
            model, first, last, messages, messages, messages, residuals, tolerance, damping, maximise, buffers
        )
    else:
        above, largest = 0, REAL(0)
        for u in range(first, last):
            some, change = update_unit(model, u, messages, messages, residuals, tolerance, damping, maximise, buffers)
            above += some
            largest = change if change > largest else largest
    return above, largest


@kernel()
def odds_told(model, messages, order, told):
    """Write the product of the odds that each variable is told; unit u is variable order[u]."""
    offsets, reverse, unaries, weights = model
    for u in range(len(order)):
        product = 1.0
        for k in range(offsets[u], offsets[u + 1]):
            product *= messages[reverse[k]]
        told[order[u]] = product


@helper()
def log_of_sum(a, b):
    """Return the logarithm of the sum of two weights, of which one may be zero."""
    most = max(a, b)
    return most + np.log1p(np.exp(min(a, b) - most)) if most > -np.inf else most


@kernel()
def free_energy(model, messages, log_tables, table_of, targets, numbers, order, logs):
    """Return the sum of the logarithms of what the beliefs of all edges would be divided by.

    A message counts as the weight 1 of state 0, and its odds as that of state 1. `logs` are the beliefs of the
    variables by such messages, not normalised.
    """
    offsets, reverse, unaries, weights = model
    total = 0.0
    for u in range(len(order)):
        for k in range(offsets[u], offsets[u + 1]):
            if numbers[k] & 1:  # the other message along the edge goes from its first variable to its second
                continue
            first, second = order[u], order[targets[k]]
            a0, a1 = logs[first, 0], logs[first, 1] - np.log(np.float64(messages[reverse[k]]))
            b0, b1 = logs[second, 0], logs[second, 1] - np.log(np.float64(messages[k]))
            table = 4 * table_of[numbers[k] >> 1]
            zero = log_of_sum(log_tables[table] + b0, log_tables[table + 1] + b1)
            one = log_of_sum(log_tables[table + 2] + b0, log_tables[table + 3] + b1)
            total += log_of_sum(a0 + zero, a1 + one)
    return total
