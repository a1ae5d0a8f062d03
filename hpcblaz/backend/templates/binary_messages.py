"""Messages between variables of two states: a unit is a variable, and sends its odds to each of its neighbours.

A model is (offsets, reverse, unaries, weights): unit u sends the messages from offsets[u] to offsets[u + 1], the
message back along the edge of message k is reverse[k], unaries are odds. weights has one row, those of `odds_alike`, or
three, those of `odds_any`.
"""

import numpy as np
from numba import njit

from hpcblaz.bodies.messages import ROOT_TWO, damped_odds, most_odds, odds_alike, odds_any, odds_distance

from .constants import REAL

ONE = REAL(1)
ROOT = REAL(ROOT_TWO)


@njit(error_model="numpy")
def make_buffers(model, count):
    """Return room for the messages that `count` units or fewer send at a time."""
    return np.empty(count, REAL), np.empty(count, REAL), np.empty(count, REAL)


@njit(error_model="numpy")
def send(model, k, fresh, messages, damping):
    """Replace a message by a fresh one, or by a mixture with it."""
    messages[k] = damped_odds(fresh[k], messages[k], damping, ONE) if damping > 0 else fresh[k]


@njit(error_model="numpy")
def gather(model, first, last, messages, back, fields):
    """Write what comes back along the edges of some units, and the product of all that each unit was told."""
    offsets, reverse, unaries, weights = model
    begin = offsets[first]
    for u in range(first, last):
        field = unaries[u]
        start, stop = np.uint64(offsets[u] - begin), np.uint64(offsets[u + 1] - begin)
        for i in range(start, stop):
            told = messages[reverse[np.uint64(begin) + i]]
            back[i] = told
            field *= told
        for i in range(start, stop):
            fields[i] = field


@njit(error_model="numpy")
def alike(fields, back, unlike, fresh):
    for i in range(len(fields)):
        fresh[i] = odds_alike(fields[i], back[i], unlike[i])


@njit(error_model="numpy")
def anyhow(fields, back, w01, w10, w11, fresh):
    for i in range(len(fields)):
        fresh[i] = odds_any(fields[i], back[i], w01[i], w10[i], w11[i])


@njit(error_model="numpy")
def most(fields, back, w01, w10, w11, fresh):
    for i in range(len(fields)):
        fresh[i] = most_odds(fields[i], back[i], w01[i], w10[i], w11[i])


@njit(error_model="numpy")
def most_alike(fields, back, unlike, fresh):
    for i in range(len(fields)):
        fresh[i] = most_odds(fields[i], back[i], unlike[i], unlike[i], ONE)


@njit(error_model="numpy")
def distances(fresh, old, residuals):
    for i in range(len(fresh)):
        residuals[i] = odds_distance(fresh[i], old[i], ROOT, ONE)


@njit(error_model="numpy")
def damp(fresh, old, damping):
    for i in range(len(fresh)):
        fresh[i] = damped_odds(fresh[i], old[i], damping, ONE)


@njit(error_model="numpy")
def copy(source, target):
    for i in range(len(source)):
        target[i] = source[i]


@njit(error_model="numpy")
def update_units(model, first, last, messages, out, residuals, damping, maximise, buffers):
    """Compute what some units send; `out` may be `messages` if the units are no neighbours of each other."""
    offsets, reverse, unaries, weights = model
    room = len(buffers[0])
    while first < last:
        begin = offsets[first]
        until = first + 1
        while until < last and offsets[until + 1] - begin <= room:
            until += 1
        end = offsets[until]
        back, fields, fresh = buffers[0][: end - begin], buffers[1][: end - begin], buffers[2][: end - begin]
        gather(model, first, until, messages, back, fields)
        if len(weights) == 1:
            if maximise:
                most_alike(fields, back, weights[0, begin:end], fresh)
            else:
                alike(fields, back, weights[0, begin:end], fresh)
        elif maximise:
            most(fields, back, weights[0, begin:end], weights[1, begin:end], weights[2, begin:end], fresh)
        else:
            anyhow(fields, back, weights[0, begin:end], weights[1, begin:end], weights[2, begin:end], fresh)
        old = messages[begin:end]
        distances(fresh, old, residuals[begin:end])
        if damping > 0:
            damp(fresh, old, damping)
        copy(fresh, out[begin:end])
        first = until


@njit(error_model="numpy")
def update_unit(model, u, messages, out, residuals, damping, maximise, buffers):
    """Compute what one unit sends, as `update_units` does, without vectors: for units of few neighbours."""
    offsets, reverse, unaries, weights = model
    start, stop = np.uint64(offsets[u]), np.uint64(offsets[u + 1])
    field = unaries[u]
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
        residuals[k] = odds_distance(fresh, old, ROOT, ONE)
        if damping > 0:
            fresh = damped_odds(fresh, old, damping, ONE)
        out[k] = fresh
