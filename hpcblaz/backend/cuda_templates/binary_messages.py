"""Messages between variables of two states, a variable a thread; see templates/binary_messages.py."""

import numpy as np
from numba.extending import register_jitable

from hpcblaz.bodies.messages import ROOT_TWO, damped_odds, most_odds, odds_any, odds_distance

from .constants import REAL
from .message_tally import measured

ONE = REAL(1)
ROOT = REAL(ROOT_TWO)


@register_jitable(forceinline=True)
def send(model, k, fresh, messages, damping):
    """Replace a message by a fresh one, or by a mixture with it."""
    if damping > 0:
        messages[k] = damped_odds(fresh[k], messages[k], damping, ONE)
    else:
        messages[k] = fresh[k]


@register_jitable(forceinline=True)
def update_unit(model, tally, u, messages, out, residuals, damping, maximise, tolerance, left, largest):
    """Compute what one unit sends; `out` may be `messages` if no neighbour is computed at the same time.

    It is kept if there is room, and so are residuals; return `left` and `largest` with them added, see `measured`.
    """
    offsets, reverse, unaries, weights = model
    start, stop = np.uint64(offsets[u]), np.uint64(offsets[u + 1])
    field = unaries[u]
    for k in range(start, stop):
        field *= messages[reverse[k]]
    for k in range(start, stop):
        back = messages[reverse[k]]
        w01 = weights[0, k]
        w10, w11 = w01, ONE
        if weights.shape[0] > 1:
            w10, w11 = weights[1, k], weights[2, k]
        if maximise > 0:
            fresh = most_odds(field, back, w01, w10, w11)
        else:
            fresh = odds_any(field, back, w01, w10, w11)
        old = messages[k]
        residual = odds_distance(fresh, old, ROOT, ONE)
        left, largest = measured(residual, tolerance, left, largest)
        if len(residuals) > 0:
            residuals[k] = residual
        if damping > 0:
            fresh = damped_odds(fresh, old, damping, ONE)
        if len(out) > 0:
            out[k] = fresh
    return left, largest
