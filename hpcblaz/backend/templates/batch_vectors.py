"""Messages as vectors, for many members of a batch at once: rows are states of messages, and columns are members.

A model is (offsets, variables, cards, places, unary_places, tables_at, other_offsets, others, told_offsets, told).
Factor f sends the messages from offsets[f] to offsets[f + 1]; message k tells variables[k], of cards[variables[k]]
states, and is at places[k] of the rows of messages. Its table begins at row tables_at[f] of tables, in C order, with
one column, or one a member. Others and told are as in ``batch_odds``. If all states of a variable are impossible,
trouble of the member becomes 1 more than its number.

Zero means impossible, exactly: what is possible never becomes zero by rounding.
"""

import numpy as np
from numba import njit

from hpcblaz.bodies.messages import TINY

from .constants import INTEGER, REAL

LEAST = REAL(TINY)


@njit(error_model="numpy")
def make_buffers(model, lanes):
    """Return room for what a factor is told, for what it tells, for products, and for sums."""
    offsets, variables, cards = model[0], model[1], model[2]
    most, arity = 1, 1
    for f in range(len(offsets) - 1):
        states = 0
        for k in range(offsets[f], offsets[f + 1]):
            states += cards[variables[k]]
        most = max(most, states)
        arity = max(arity, offsets[f + 1] - offsets[f])
    told, result = np.empty((most, lanes), REAL), np.empty((most, lanes), REAL)
    before, sums = np.empty((arity + 1, lanes), REAL), np.empty(lanes, REAL)
    return told, result, before, sums, np.empty(arity, np.int64), np.empty(arity, np.int64)


@njit(error_model="numpy")
def multiply(a, b, out):
    """Write products that are zero only where one of the two is."""
    for i in range(len(out)):
        c = a[i] * b[i]
        out[i] = LEAST if c < LEAST and a[i] > 0 and b[i] > 0 else c


@njit(error_model="numpy")
def multiply_by(values, others):
    """Multiply in place: `multiply` would not do it in vectors."""
    for i in range(len(values)):
        c = values[i] * others[i]
        values[i] = LEAST if c < LEAST and values[i] > 0 and others[i] > 0 else c


@njit(error_model="numpy")
def copy(source, target):
    for i in range(len(target)):
        target[i] = source[i]


@njit(error_model="numpy")
def raise_to(values, most):
    for i in range(len(most)):
        most[i] = max(most[i], values[i])


@njit(error_model="numpy")
def add_to(values, total):
    for i in range(len(total)):
        total[i] += values[i]


@njit(error_model="numpy")
def divide(vector, divisors, variable, trouble):
    """Divide a vector, in place. Where it is divided by zero, the states of a variable are all impossible."""
    for i in range(len(divisors)):
        if divisors[i] > 0:
            divisors[i] = 1 / divisors[i]
        elif divisors[i] == 0:
            if trouble[i] == 0:
                trouble[i] = variable + 1
            divisors[i] = 0
    for x in range(len(vector)):
        multiply_by(vector[x], divisors)


@njit(error_model="numpy")
def gather(unaries, messages, places, numbers, first, last, variable, trouble, out, sums):
    """Write the product of the weights of a variable and of some messages that it was told, the largest of them 1."""
    for x in range(len(out)):
        copy(unaries[x], out[x])
    for j in range(first, last):
        sums[:] = 0
        for x in range(len(out)):
            multiply_by(out[x], messages[places[numbers[j]] + x])
            raise_to(out[x], sums)
        divide(out, sums, variable, trouble)


@njit(error_model="numpy")
def next_entry(model, f, states):
    """Go to the next entry of a table: the states of the last variable run fastest."""
    offsets, variables, cards = model[0], model[1], model[2]
    i = offsets[f + 1] - offsets[f] - 1
    while i >= 0:
        states[i] += 1
        if states[i] < cards[variables[offsets[f] + i]]:
            return True
        states[i] = 0
        i -= 1
    return False


@njit(error_model="numpy")
def over_table(model, f, tables, maximise, buffers):
    """Write what a factor tells its variables, from what they told it."""
    told, result, before, after, starts, states = buffers
    arity = model[0][f + 1] - model[0][f]
    entry = model[5][f]
    states[:arity] = 0
    going = True
    while going:
        weight = tables[entry]
        entry += 1
        if len(weight) > 1:
            copy(weight, before[0])
        else:
            before[0] = weight[0]
        if len(weight) > 1 or weight[0] > 0:
            for i in range(arity - 1):
                multiply(before[i], told[starts[i] + states[i]], before[i + 1])
            after[:] = 1
            for i in range(arity - 1, -1, -1):
                multiply_by(before[i], after)
                if maximise:
                    raise_to(before[i], result[starts[i] + states[i]])
                else:
                    add_to(before[i], result[starts[i] + states[i]])
                if i:
                    multiply_by(after, told[starts[i] + states[i]])
        going = next_entry(model, f, states)


@njit(error_model="numpy")
def approach(fresh, old, damping, sums):
    """Add the squares of what changes, and keep a part of what was."""
    for i in range(len(sums)):
        change = fresh[i] - old[i]
        sums[i] += change * change
        fresh[i] -= damping * change


@njit(error_model="numpy")
def settle(fresh, old, out, sums, worst, damping):
    """Write a message, and how far it is from the old one if that is more than `worst`. What is NaN stays there."""
    sums[:] = 0
    for x in range(len(fresh)):
        approach(fresh[x], old[x], damping, sums)
        copy(fresh[x], out[x])
    for i in range(len(sums)):
        more = np.sqrt(sums[i]) - worst[i]
        worst[i] += REAL(0) if more <= 0 else more


@njit(error_model="numpy")
def update(
    model, unaries, tables, messages, out, worst, damping, measured, in_place, maximise, bounds, backward, trouble,
    buffers,
):  # fmt: skip
    """Compute what all factors send, one after the other; `out` is `messages` if `in_place`."""
    offsets, variables, cards, places, unary_places, tables_at, other_offsets, others, told_offsets, _ = model
    told, result, before, sums, starts, states = buffers
    factors = len(tables_at)
    for step in range(factors):
        f = factors - 1 - step if backward else step
        position = 0
        for k in range(offsets[f], offsets[f + 1]):
            v = variables[k]
            starts[k - offsets[f]] = position
            at = unary_places[v]
            gather(
                unaries[at : at + cards[v]], messages, places, others, other_offsets[k], other_offsets[k + 1], v,
                trouble, told[position : position + cards[v]], sums,
            )  # fmt: skip
            position += cards[v]
        result[:position] = 0
        over_table(model, f, tables, maximise, buffers)
        for k in range(offsets[f], offsets[f + 1]):
            begin, at = starts[k - offsets[f]], places[k]
            states_of = cards[variables[k]]
            fresh = result[begin : begin + states_of]
            sums[:] = 0
            for x in range(states_of):
                add_to(fresh[x], sums)
            divide(fresh, sums, variables[k], trouble)
            settle(fresh, messages[at : at + states_of], out[at : at + states_of], sums, worst, damping)


@njit(error_model="numpy")
def believe(model, unaries, messages, bounds, beliefs, trouble):
    """Write the beliefs of all variables, each with sum 1, or 0 if all states are impossible."""
    cards, places, unary_places, told_offsets, told = model[2], model[3], model[4], model[8], model[9]
    sums = np.empty(len(trouble), REAL)
    for v in range(len(cards)):
        at = unary_places[v]
        belief = beliefs[at : at + cards[v]]
        gather(
            unaries[at : at + cards[v]], messages, places, told, told_offsets[v], told_offsets[v + 1], v, trouble,
            belief, sums,
        )  # fmt: skip
        sums[:] = 0
        for x in range(cards[v]):
            add_to(belief[x], sums)
        divide(belief, sums, v, trouble)


@njit(error_model="numpy")
def find_broken(model, unaries, messages, beliefs, broken, bounds, factors):
    """Say that all members are broken: there are no parities here."""
    broken[:] = INTEGER(1)
    return True
