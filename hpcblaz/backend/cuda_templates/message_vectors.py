"""What messages that are vectors have in common. Vectors are runs of arrays in device memory: no thread has its own."""

import math

from numba.extending import register_jitable

from hpcblaz.bodies.messages import product

from .constants import REAL
from .message_tally import note_trouble


@register_jitable(forceinline=True)
def scale_to_one(values, begin, end):
    """Divide weights by the largest of them, and return it."""
    most = REAL(0)
    for i in range(begin, end):
        most = max(most, values[i])
    if most > 0:
        scale = REAL(1) / most
        for i in range(begin, end):
            values[i] = product(values[i], scale)
    return most


@register_jitable(forceinline=True)
def multiply(values, begin, end, others, at):
    """Multiply weights by others."""
    for i in range(begin, end):
        values[i] = product(values[i], others[at + i - begin])


@register_jitable(forceinline=True)
def send_vector(places, k, fresh, messages, damping):
    """Replace a message by a fresh one, or by a mixture with it."""
    for i in range(places[k], places[k + 1]):
        messages[i] = fresh[i] + damping * (messages[i] - fresh[i])


@register_jitable(forceinline=True)
def finish(tally, k, target, begin, end, told, messages, out, residuals, damping):
    """Normalise what a variable is told, write it, and return how far the message is from it."""
    total = REAL(0)
    for i in range(begin, end):
        total += told[i]
    if not total > 0:
        note_trouble(tally, target)
    scale = REAL(1) / total if total > 0 else REAL(0)
    change = REAL(0)
    for i in range(begin, end):
        fresh = product(told[i], scale)
        told[i] = fresh
        difference = fresh - messages[i]
        change += difference * difference
    residual = REAL(math.sqrt(change))
    if len(residuals) > 0:
        residuals[k] = residual
    for i in range(begin, end if len(out) > 0 else begin):
        out[i] = told[i] + damping * (messages[i] - told[i])
    return residual
