"""Messages over tables of any number of variables: a unit is a factor, and tells each of its variables.

A model is (offsets, variables, cards, places, tables_at, tables, told_offsets, told, trouble). Unit f sends messages
offsets[f] to offsets[f + 1]; message k goes to variable variables[k] of cards[variables[k]] states and is at places[k]
to places[k + 1] of the messages. The table of f is tables_at[f] to tables_at[f + 1] of tables. Variable v is told the
messages told[told_offsets[v]] and on. If all states of a variable are impossible, trouble[0] becomes 1 more than its
number.
"""

import numpy as np
from numba import njit

from hpcblaz.bodies.messages import TINY, product

from .constants import REAL


@njit(error_model="numpy")
def make_buffers(model, room):
    """Return room for what the variables of a factor tell it, and for what it tells them."""
    cavity, result, before = np.empty(room, REAL), np.empty(room, REAL), np.empty(room, REAL)
    starts, states = np.empty(room, np.int64), np.empty(room, np.int64)
    return cavity, result, before, starts, states


@njit(error_model="numpy")
def send(model, k, fresh, messages, damping):
    """Replace a message by a fresh one, or by a mixture with it."""
    places = model[3]
    for i in range(places[k], places[k + 1]):
        messages[i] = fresh[i] + damping * (messages[i] - fresh[i])


@njit(error_model="numpy")
def scale_to_one(values):
    """Divide weights by the largest of them, and return it."""
    most = REAL(0)
    for i in range(len(values)):
        most = max(most, values[i])
    if most > 0:
        for i in range(len(values)):
            values[i] = product(values[i], 1 / most)
    return most


@njit(error_model="numpy")
def multiply(values, messages, place):
    for x in range(len(values)):
        values[x] = product(values[x], messages[place + x])


@njit(error_model="numpy")
def tell_factor(model, f, messages, cavity, starts):
    """Write what the variables of a factor know without it; return the log of what was divided out."""
    offsets, variables, cards, places, tables_at, tables, told_offsets, told, trouble = model
    position = 0
    log = 0.0
    for k in range(offsets[f], offsets[f + 1]):
        v = variables[k]
        starts[k - offsets[f]] = position
        values = cavity[position : position + cards[v]]
        values[:] = 1
        for j in range(told_offsets[v], told_offsets[v + 1]):
            if told[j] != k:
                multiply(values, messages, places[told[j]])
                most = scale_to_one(values)
                log += np.log(most)
                if not most > 0:
                    trouble[0] = v + 1
        position += cards[v]
    return log


@njit(error_model="numpy")
def next_entry(model, f, states):
    """Go to the next entry of a table: the states of the last variable run fastest."""
    offsets, variables, cards = model[0], model[1], model[2]
    i = offsets[f + 1] - offsets[f] - 1
    while i >= 0:
        states[i] += 1
        if states[i] < cards[variables[offsets[f] + i]]:
            return
        states[i] = 0
        i -= 1


@njit(error_model="numpy")
def update_unit(model, f, messages, out, residuals, damping, maximise, buffers):
    """Compute what one factor sends."""
    offsets, variables, cards, places, tables_at, tables, told_offsets, told, trouble = model
    cavity, result, before, starts, states = buffers
    arity = offsets[f + 1] - offsets[f]
    if arity == 0:
        return
    tell_factor(model, f, messages, cavity, starts)
    result[: starts[arity - 1] + cards[variables[offsets[f + 1] - 1]]] = 0
    states[:arity] = 0
    for entry in range(tables_at[f], tables_at[f + 1]):
        weight = tables[entry]
        if weight > 0:
            zeros = 0
            for i in range(arity):
                before[i] = weight
                weight *= cavity[starts[i] + states[i]]
                zeros += 0 if cavity[starts[i] + states[i]] > 0 else 1
            if zeros < 2:
                weight = REAL(1)
                for i in range(arity - 1, -1, -1):
                    place = starts[i] + states[i]
                    if zeros == 0 or not cavity[place] > 0:
                        term = max(before[i] * weight, TINY)  # that nothing possible becomes 0
                        result[place] = max(result[place], term) if maximise else result[place] + term
                    weight *= cavity[place]
        next_entry(model, f, states)
    for i in range(arity):
        k = offsets[f] + i
        begin = places[k]
        fresh = result[starts[i] : starts[i] + cards[variables[k]]]
        total = REAL(0)
        for x in range(len(fresh)):
            total += fresh[x]
        if not total > 0 and trouble[0] == 0:
            trouble[0] = variables[k] + 1
        scale = 1 / total if total > 0 else REAL(0)
        change = REAL(0)
        for x in range(len(fresh)):
            fresh[x] = product(fresh[x], scale)
            difference = fresh[x] - messages[begin + x]
            change += difference * difference
        residuals[k] = np.sqrt(change)
        for x in range(len(fresh)):
            out[begin + x] = fresh[x] + damping * (messages[begin + x] - fresh[x])


@njit(error_model="numpy")
def update_units(model, first, last, messages, out, residuals, damping, maximise, buffers):
    """Compute what some factors send; `out` may be `messages` if no two of them share a variable."""
    for f in range(first, last):
        update_unit(model, f, messages, out, residuals, damping, maximise, buffers)


@njit(nogil=True, cache=True, error_model="numpy")
def beliefs(model, messages, out, logs):
    """Write the belief of each variable, normalised, and the logarithm of what it was divided by."""
    offsets, variables, cards, places, tables_at, tables, told_offsets, told, trouble = model
    begin = 0
    for v in range(len(cards)):
        belief = out[begin : begin + cards[v]]
        begin += cards[v]
        belief[:] = 1
        logs[v] = 0
        for j in range(told_offsets[v], told_offsets[v + 1]):
            multiply(belief, messages, places[told[j]])
            logs[v] += np.log(scale_to_one(belief))
        total = belief.sum()
        if total > 0:
            logs[v] += np.log(total)
            belief /= total
        elif trouble[0] == 0:
            trouble[0] = v + 1


@njit(nogil=True, cache=True, error_model="numpy")
def free_energy(model, messages, room):
    """Return the sum of the logarithms of what the beliefs of all factors would be divided by."""
    offsets, variables, cards, places, tables_at, tables, told_offsets, told, trouble = model
    cavity, result, before, starts, states = make_buffers(model, room)
    total = 0.0
    for f in range(len(offsets) - 1):
        log = tell_factor(model, f, messages, cavity, starts)
        arity = offsets[f + 1] - offsets[f]
        states[:arity] = 0
        weight = 0.0
        for entry in range(tables_at[f], tables_at[f + 1]):
            term = tables[entry]
            for i in range(arity):
                term *= cavity[starts[i] + states[i]]
            weight += term
            next_entry(model, f, states)
        total += np.log(weight) + log
    return total
