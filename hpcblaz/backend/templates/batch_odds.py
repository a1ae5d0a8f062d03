"""Odds of variables of two states, for many members of a batch at once: rows are messages, and columns are members.

A model is (offsets, variables, kinds, other_offsets, others, told_offsets, told). Factor f sends the messages from
offsets[f] to offsets[f + 1], and message k tells variables[k]. Its kind is 0 if the number of its variables in state 1
is to be even, 1 if odd; otherwise it has two variables, and the table kinds[f] - 2: three rows of tables, the entries
(0, 1), (1, 0) and (1, 1) over that of (0, 0), with one column, or one a member. Message k depends on the messages
others[other_offsets[k]] and on: what other factors tell its variable. Variable v is told the messages
told[told_offsets[v]] and on.

Odds stay within `bounds`, so that no product overflows or becomes zero.
"""

import numpy as np
from numba import njit

from hpcblaz.bodies.messages import ROOT_TWO, damped_odds

from .constants import INTEGER, REAL

ONE = REAL(1)
ROOT = REAL(ROOT_TWO)


@njit(error_model="numpy")
def make_buffers(model, lanes):
    """Return room for what a factor is told, and for what it tells."""
    offsets = model[0]
    most = 2
    for f in range(len(offsets) - 1):
        most = max(most, offsets[f + 1] - offsets[f])
    return np.empty((most, lanes), REAL), np.empty((most, lanes), REAL)


@njit(error_model="numpy")
def copy(source, target):
    for i in range(len(target)):
        target[i] = source[i]


@njit(error_model="numpy")
def invert(odds):
    for i in range(len(odds)):
        odds[i] = ONE / odds[i]


@njit(error_model="numpy")
def multiply(odds, told, bounds):
    for i in range(len(odds)):
        odds[i] = min(max(odds[i] * told[i], bounds[0]), bounds[1])


@njit(error_model="numpy")
def multiply_two(odds, one, other, bounds, out):
    for i in range(len(out)):
        both = min(max(odds[i] * one[i], bounds[0]), bounds[1])
        out[i] = min(max(both * other[i], bounds[0]), bounds[1])


@njit(error_model="numpy")
def gather(unaries, messages, numbers, first, last, bounds, out):
    """Write the product of the odds of a variable and of some messages that it was told."""
    if last - first < 2:
        copy(unaries, out)
        if first < last:
            multiply(out, messages[numbers[first]], bounds)
        return
    multiply_two(unaries, messages[numbers[first]], messages[numbers[first + 1]], bounds, out)
    for i in range(first + 2, last):
        multiply(out, messages[numbers[i]], bounds)


@njit(error_model="numpy")
def add(a, b, maximise, out):
    """Write the odds that of two independent variables exactly one is in state 1."""
    if maximise:
        for i in range(len(out)):
            out[i] = max(a[i], b[i]) / max(ONE, a[i] * b[i])
    else:
        for i in range(len(out)):
            out[i] = (a[i] + b[i]) / (ONE + a[i] * b[i])


@njit(error_model="numpy")
def add_both(before, here, after, maximise):
    """Write the odds of `before` and `after` together over `after`, and add `here` to `before`."""
    if maximise:
        for i in range(len(after)):
            b, a = before[i], after[i]
            after[i] = max(b, a) / max(ONE, b * a)
            before[i] = max(b, here[i]) / max(ONE, b * here[i])
    else:
        for i in range(len(after)):
            b, a = before[i], after[i]
            after[i] = (b + a) / (ONE + b * a)
            before[i] = (b + here[i]) / (ONE + b * here[i])


@njit(error_model="numpy")
def replace(fresh, message, worst):
    """Write a message over the old one, and how far it was from that if it is more than `worst`."""
    for i in range(len(worst)):
        more = distance(fresh[i], message[i]) - worst[i]
        worst[i] += REAL(0) if more <= 0 else more
        message[i] = fresh[i]


@njit(error_model="numpy")
def distance(a, b):
    """Return the distance of two messages: 0 if the product overflows, since both are certain then."""
    return ROOT * abs(a - b) / ((ONE + a) * (ONE + b))


@njit(error_model="numpy")
def settle(fresh, old, out, worst, damping, measured, in_place):
    """Write a message, and how far it is from the old one if that is more than `worst`. What is NaN stays there.

    No loop reads and writes two rows that may be the same one: it would not be done in vectors.
    """
    if measured and in_place and damping == 0:
        replace(fresh, out, worst)
        return
    if measured:
        for i in range(len(worst)):
            more = distance(fresh[i], old[i]) - worst[i]
            worst[i] += REAL(0) if more <= 0 else more
    if damping > 0:
        for i in range(len(fresh)):
            fresh[i] = damped_odds(fresh[i], old[i], damping, ONE)
    copy(fresh, out)


@njit(error_model="numpy")
def over_parity(odd, count, maximise, told, fresh):
    """Write what a parity tells: of all of its variables but one, added up from both ends.

    What it tells variable j is row j + 1, and what it tells the last one is row 0.
    """
    if odd:
        invert(told[0])
    copy(told[count - 1], fresh[count - 1])
    for j in range(count - 2, 0, -1):
        add(fresh[j + 1], told[j], maximise, fresh[j])
    copy(told[0], fresh[0])
    for j in range(1, count - 1):
        add_both(fresh[0], told[j], fresh[j + 1], maximise)
    if odd:
        invert(fresh[1])


@njit(error_model="numpy")
def over_table(told, w01, w10, w11, maximise, fresh):
    """Write the odds over a table whose rows are the states of who tells. Its rows have one entry, or one a member."""
    if len(w01) == 1:
        a, b, c = w01[0], w10[0], w11[0]
        if maximise:
            for i in range(len(fresh)):
                fresh[i] = max(a, c * told[i]) / max(ONE, b * told[i])
        else:
            for i in range(len(fresh)):
                fresh[i] = (a + c * told[i]) / (ONE + b * told[i])
    elif maximise:
        for i in range(len(fresh)):
            fresh[i] = max(w01[i], w11[i] * told[i]) / max(ONE, w10[i] * told[i])
    else:
        for i in range(len(fresh)):
            fresh[i] = (w01[i] + w11[i] * told[i]) / (ONE + w10[i] * told[i])


@njit(error_model="numpy")
def update(
    model, unaries, tables, messages, out, worst, damping, measured, in_place, maximise, bounds, backward, trouble,
    buffers,
):  # fmt: skip
    """Compute what all factors send, one after the other; `out` is `messages` if `in_place`."""
    offsets, variables, kinds, other_offsets, others, told_offsets, told_messages = model
    told, fresh = buffers
    factors = len(kinds)
    for step in range(factors):
        f = factors - 1 - step if backward else step
        start, count = offsets[f], offsets[f + 1] - offsets[f]
        for j in range(count):
            k = start + j
            gather(unaries[variables[k]], messages, others, other_offsets[k], other_offsets[k + 1], bounds, told[j])
        if kinds[f] < 2:
            over_parity(kinds[f] == 1, count, maximise, told, fresh)
        else:
            row = 3 * (kinds[f] - 2)
            for j in range(2):  # to the first variable, the states of who tells are columns
                over_table(told[1 - j], tables[row + 1 - j], tables[row + j], tables[row + 2], maximise, fresh[1 - j])
        for j in range(count):
            message = fresh[j + 1 if j + 1 < count else 0]
            settle(message, messages[start + j], out[start + j], worst, damping, measured, in_place)


@njit(error_model="numpy")
def believe(model, unaries, messages, bounds, beliefs, trouble):
    """Write the odds of all variables."""
    told_offsets, told = model[5], model[6]
    for v in range(len(unaries)):
        gather(unaries[v], messages, told, told_offsets[v], told_offsets[v + 1], bounds, beliefs[v])


@njit(error_model="numpy")
def flip(odds, flips):
    for i in range(len(flips)):
        flips[i] ^= INTEGER(odds[i] > ONE)


@njit(error_model="numpy")
def find_broken(model, unaries, messages, beliefs, broken, bounds, factors):
    """Add to `broken` the members that break one of the first parities, and say whether that are all.

    The beliefs of their variables are computed as they are needed if `factors` are not all, otherwise they are there.
    """
    offsets, variables, kinds, _, _, told_offsets, told = model
    flips = np.empty(len(broken), INTEGER)
    for f in range(factors):
        flips[:] = INTEGER(kinds[f])
        for k in range(offsets[f], offsets[f + 1]):
            v = variables[k]
            if factors < len(kinds):
                gather(unaries[v], messages, told, told_offsets[v], told_offsets[v + 1], bounds, beliefs[v])
            flip(beliefs[v], flips)
        whole = INTEGER(1)
        for i in range(len(broken)):
            broken[i] |= flips[i]
            whole &= broken[i]
        if whole:
            return True
    return False
