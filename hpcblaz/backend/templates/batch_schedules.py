"""Rounds of messages of many members of a batch, until one of them is done.

All arrays of floats have a column for each member. ``FORM`` says what their rows are: see ``batch_odds`` and
``batch_vectors``.
"""

import numpy as np
from numba import njit

from .constants import FORM, INTEGER, REAL

if FORM == "batch_odds":
    from .batch_odds import believe, find_broken, make_buffers, update
else:
    from .batch_vectors import believe, find_broken, make_buffers, update

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
    checked = np.empty_like(worst)
    measured = not until_valid
    here, there = messages, other
    ways = 2 if both_ways and not flooding else 1
    for i in range(rounds):
        found, step = False, 0
        while step < ways or (step == ways and found and not flooding):
            check = step == ways  # what was found on the way need not hold at the end of it
            residuals = checked if check else worst
            residuals[:] = 0
            in_place = not (flooding or check)
            update(
                model, unaries, tables, here, here if in_place else there, residuals, REAL(0) if check else damping,
                measured, in_place, maximise, bounds, step == 1 and not check, trouble, buffers,
            )  # fmt: skip
            step += 1
            if step >= ways:
                found = False
                for lane in range(len(active)):
                    fine = trouble[lane] > 0 or (measured and residuals[lane] <= tolerance)
                    done[lane] = fine and (done[lane] if check else active[lane])
                    worst[lane] = residuals[lane] if done[lane] else worst[lane]
                    found |= done[lane]
        if found:
            believe(model, unaries, here, bounds, beliefs, trouble)
        if flooding:
            here, there = there, here
        if until_valid:
            found |= look(model, unaries, here, beliefs, trouble, active, done, bounds, False)
        if found:
            return i + 1
    return rounds


@njit(nogil=True, cache=True, error_model="numpy")
def look(model, unaries, messages, beliefs, trouble, active, done, bounds, always):
    """Say which active members break no parity, and whether there is one; if so, or always, write all beliefs."""
    broken = np.empty(len(active), INTEGER)
    for lane in range(len(active)):
        broken[lane] = INTEGER(0 if active[lane] else 1)
    factors = len(model[0]) - 1
    if always or factors <= FEW or not find_broken(model, unaries, messages, beliefs, broken, bounds, FEW):
        believe(model, unaries, messages, bounds, beliefs, trouble)
        find_broken(model, unaries, messages, beliefs, broken, bounds, factors)
    found = False
    for lane in range(len(active)):
        done[lane] = active[lane] and (broken[lane] == 0 or trouble[lane] > 0)
        found |= done[lane]
    return found
