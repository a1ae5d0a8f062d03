"""Messages over tables of any number of variables, a factor a thread; see templates/factor_messages.py.

A model has four arrays more: cavities and told, of as many numbers as the messages, for what the variables of a factor
know without it and what it tells them, at the places of the messages; before and states, of as many as there are
messages, for the factors of one table entry before each variable, and for the entry.
"""

import numpy as np
from numba.extending import register_jitable

from hpcblaz.bodies.messages import TINY

from .constants import REAL
from .message_tally import measured, note_trouble
from .message_vectors import finish, multiply, scale_to_one, send_vector


@register_jitable(forceinline=True)
def send(model, k, fresh, messages, damping):
    send_vector(model[3], k, fresh, messages, damping)


@register_jitable(forceinline=True)
def tell_factor(model, tally, first, last, messages):
    """Write what the variables of a factor know without it."""
    offsets, variables, cards, places, tables_at, tables, told_offsets, told_by, cavities, told, before, states = model
    for k in range(first, last):
        v = np.int64(variables[k])
        begin, end = np.int64(places[k]), np.int64(places[k + 1])
        for i in range(begin, end):
            cavities[i] = REAL(1)
            told[i] = REAL(0)
        states[k] = 0
        for j in range(np.int64(told_offsets[v]), np.int64(told_offsets[v + 1])):
            if np.int64(told_by[j]) != k:
                multiply(cavities, begin, end, messages, np.int64(places[told_by[j]]))
                if not scale_to_one(cavities, begin, end) > 0:
                    note_trouble(tally, v)


@register_jitable(forceinline=True)
def next_entry(model, first, last):
    """Go to the next entry of a table: the states of the last variable run fastest."""
    places, states = model[3], model[11]
    k = last - 1
    while k >= first:
        states[k] += 1
        if states[k] < places[k + 1] - places[k]:
            k = first
        else:
            states[k] = 0
        k -= 1


@register_jitable(forceinline=True)
def update_unit(model, tally, f, messages, out, residuals, damping, maximise, tolerance, left, largest):
    """Compute what one factor sends; see binary_messages."""
    offsets, variables, cards, places, tables_at, tables, told_offsets, told_by, cavities, told, before, states = model
    first, last = np.int64(offsets[f]), np.int64(offsets[f + 1])
    if first == last:
        return left, largest
    tell_factor(model, tally, first, last, messages)
    for entry in range(np.int64(tables_at[f]), np.int64(tables_at[f + 1])):
        weight = tables[entry]
        if weight > 0:
            zeros = 0
            for k in range(first, last):
                before[k] = weight
                known = cavities[np.int64(places[k]) + states[k]]
                weight *= known
                zeros += 0 if known > 0 else 1
            if zeros < 2:
                weight = REAL(1)
                for k in range(last - 1, first - 1, -1):
                    place = np.int64(places[k]) + states[k]
                    known = cavities[place]
                    if zeros == 0 or not known > 0:
                        term = max(before[k] * weight, REAL(TINY))  # that nothing possible becomes 0
                        told[place] = max(told[place], term) if maximise > 0 else told[place] + term
                    weight *= known
        next_entry(model, first, last)
    for k in range(first, last):
        begin, end = np.int64(places[k]), np.int64(places[k + 1])
        residual = finish(tally, k, variables[k], begin, end, told, messages, out, residuals, damping)
        left, largest = measured(residual, tolerance, left, largest)
    return left, largest
