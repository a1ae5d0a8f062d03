"""Rounds of messages of many members of a batch, until one of them is done.

All arrays of floats have a column for each member. ``FORM`` says what their rows are: see ``batch_odds`` and
``batch_vectors``.
"""

import numpy as np
from numba import njit

from .constants import FORM, INTEGER, REAL

if FORM == "batch_odds":
    from .batch_odds import begin, believe, find_broken, make_buffers, update
else:
    from .batch_vectors import begin, believe, find_broken, make_buffers, update

FEW = 64  # parities that are looked at first: most members that break any break one of them


@njit(nogil=True, cache=True, error_model="numpy")
def advance(
    model, unaries, tables, messages, other, beliefs, worst, trouble, active, done, rounds, flooding, both_ways,
    until_valid, damping, tolerance, maximise, bounds,
):  # fmt: skip
    """Send messages for some rounds, or until an active member is done; return how many rounds that took.

    If `flooding`, all messages of a round are computed from those before it, and after an odd number of rounds they are
    in `other`. Otherwise each is computed from the newest ones, and if `both_ways`, a round goes through the factors
    forward, then backward. A member is done if no message changes by more than the tolerance, all computed from the
    same messages; if `until_valid`, once its beliefs break no parity; or if it has no possible assignment. `beliefs`
    are those of the messages that this was found for; of other members they say nothing.
    """
    buffers = make_buffers(model, len(active))
    measured = not until_valid
    here, there = messages, other
    for i in range(rounds):
        worst[:] = 0
        if flooding:
            update(
                model, unaries, tables, here, there, worst, damping, measured, False, maximise, bounds, False, trouble,
                buffers,
            )  # fmt: skip
        else:
            for way in range(2 if both_ways else 1):
                worst[:] = 0
                update(
                    model, unaries, tables, here, here, worst, damping, measured, True, maximise, bounds, way == 1,
                    trouble, buffers,
                )  # fmt: skip
        found = False
        for lane in range(len(active)):
            done[lane] = active[lane] and (trouble[lane] > 0 or (not until_valid and worst[lane] <= tolerance))
            found |= done[lane]
        if found and not flooding:  # what was found on the way need not hold at the end of it
            checked = np.zeros_like(worst)
            update(
                model, unaries, tables, here, there, checked, REAL(0), True, False, maximise, bounds, False, trouble,
                buffers,
            )  # fmt: skip
            found = False
            for lane in range(len(active)):
                if done[lane]:
                    worst[lane] = checked[lane]
                    done[lane] = trouble[lane] > 0 or checked[lane] <= tolerance
                    found |= done[lane]
        if found:
            believe(model, unaries, here, bounds, beliefs, trouble)
        if flooding:
            here, there = there, here
        if until_valid:
            found |= look(model, unaries, here, beliefs, trouble, active, done, bounds)
        if found:
            return i + 1
    return rounds


@njit(nogil=True, cache=True, error_model="numpy")
def look(model, unaries, messages, beliefs, trouble, active, done, bounds):
    """Say which active members break no parity, and whether there is one; if so, write the beliefs of all."""
    broken = np.empty(len(active), INTEGER)
    for lane in range(len(active)):
        broken[lane] = INTEGER(0 if active[lane] else 1)
    factors = len(model[0]) - 1
    if factors <= FEW or not find_broken(model, unaries, messages, beliefs, broken, bounds, FEW):
        believe(model, unaries, messages, bounds, beliefs, trouble)
        find_broken(model, unaries, messages, beliefs, broken, bounds, factors)
    found = False
    for lane in range(len(active)):
        done[lane] = active[lane] and (broken[lane] == 0 or trouble[lane] > 0)
        found |= done[lane]
    return found


@njit(nogil=True, cache=True, error_model="numpy")
def conclude(model, unaries, messages, beliefs, trouble, bounds):
    """Write the beliefs of all members."""
    believe(model, unaries, messages, bounds, beliefs, trouble)


@njit(nogil=True, cache=True, error_model="numpy")
def load(model, rows, member, unaries, messages, lane, bounds):
    """Put a member into a column: its unaries, and messages that say nothing."""
    for v in range(len(unaries)):
        unaries[v, lane] = rows[member, v]
    begin(model, unaries, messages, lane, bounds)


@njit(nogil=True, cache=True, error_model="numpy")
def load_tables(rows, member, tables, lane):
    """Put the tables of a member into a column."""
    for i in range(len(tables)):
        tables[i, lane] = rows[member, i]


@njit(nogil=True, cache=True, error_model="numpy")
def unload(beliefs, lane, rows, member):
    """Write the beliefs of a member to a row of its own."""
    for v in range(len(beliefs)):
        rows[member, v] = beliefs[v, lane]


@njit(nogil=True, cache=True, error_model="numpy")
def keep(lanes, source, target):
    """Copy some columns."""
    for k in range(len(target)):
        for i in range(len(lanes)):
            target[k, i] = source[k, lanes[i]]
