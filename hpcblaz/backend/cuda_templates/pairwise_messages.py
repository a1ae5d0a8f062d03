"""Messages over tables of two variables, a variable a thread; see templates/pairwise_messages.py.

A model has three arrays more: cavities, of as many numbers as the messages, for what a unit knows without the one that
a message goes to, at the place of the message that comes back; before, of as many as unaries; and told, of as many as
the messages.
"""

import numpy as np
from numba.extending import register_jitable

from .constants import REAL
from .message_tally import measured, note_trouble
from .message_vectors import finish, multiply, scale_to_one, send_vector


@register_jitable(forceinline=True)
def send(model, k, fresh, messages, damping):
    send_vector(model[5], k, fresh, messages, damping)


@register_jitable(forceinline=True)
def update_unit(model, tally, u, messages, out, residuals, damping, maximise, tolerance, left, largest):
    """Compute what one unit sends; see binary_messages."""
    offsets, reverse, targets, state_offsets, unaries, places, tables_at, tables, cavities, before, told = model
    first, last = np.int64(offsets[u]), np.int64(offsets[u + 1])
    begin, end = np.int64(state_offsets[u]), np.int64(state_offsets[u + 1])
    states = end - begin
    there = np.int64(0)
    for k in range(last - 1, first - 1, -1):  # products of what comes back along the later ones
        here = np.int64(places[reverse[k]])
        for x in range(states):
            cavities[here + x] = REAL(1)
        if k < last - 1:
            for x in range(states):
                cavities[here + x] = cavities[there + x]
            multiply(cavities, here, here + states, messages, there)
            scale_to_one(cavities, here, here + states)
        there = here
    for x in range(begin, end):
        before[x] = unaries[x]
    for k in range(first, last):
        here = np.int64(places[reverse[k]])
        multiply(cavities, here, here + states, before, begin)
        if not scale_to_one(cavities, here, here + states) > 0:
            note_trouble(tally, u)
        multiply(before, begin, end, messages, here)
        scale_to_one(before, begin, end)
        start, stop = np.int64(places[k]), np.int64(places[k + 1])
        width = stop - start
        for y in range(width):
            entry = np.int64(tables_at[k]) + y
            weighed = REAL(0)
            for x in range(states):
                weight = cavities[here + x]
                if weight > 0:
                    term = weight * tables[entry]
                    weighed = max(weighed, term) if maximise > 0 else weighed + term
                entry += width
            told[start + y] = weighed
        residual = finish(tally, k, targets[k], start, stop, told, messages, out, residuals, damping)
        left, largest = measured(residual, tolerance, left, largest)
    return left, largest
