"""Steps of quantisation: the search for that of a block, and the scale of a block with indices of fixed width.

The search looks for the largest power of two at which the decoded samples stay within their room. Constants are of
single precision, so that neither precision is promoted.
"""

import numpy as np
from numba.extending import register_jitable

LEVELS = 16  # steps that a block can choose from
FIRST_LEVEL = 3  # where every search begins: what a block takes must not depend on its neighbours
INDEX_LIMIT = np.float32(2.0**30)
HOPEFUL = np.float32(0.7)  # a block that uses less of its room than this tries the next larger step
HALF = np.float32(0.5)


@register_jitable
def judge(
    error, square, room, largest, step, inverse_step, accepted, refused, best_error, best_square, least_step, most_step
):
    """Judge the trial of a step, and choose the next one.

    A block that holds its room may go on to twice the step, unless that was refused; one that does not goes to half
    the step, unless that was accepted.

    Parameters
    ----------
    error, square : float
        The largest error of the trial, and its sum of squared errors.
    room : float
        What the error may be.
    largest : float
        The largest magnitude of the coefficients but the first.
    step, inverse_step : float
        The step of the trial, a power of two, and its inverse.
    accepted, refused : float
        The largest step that held so far, 0 if none did; the least that did not.
    best_error, best_square : float
        Those of the accepted step.
    least_step, most_step : float
        The steps to choose from.

    Returns
    -------
    tuple
        step, accepted, refused, best_error, best_square, and 1 if there is a next trial, of that step, else 0.
    """
    scaled = largest * inverse_step
    holds = error <= room and scaled < INDEX_LIMIT
    better = holds and step > accepted
    best = step if better else accepted
    bad = refused if holds else step
    up = step + step
    down = step * HALF
    rises = holds and up < bad and up <= most_step and error < HOPEFUL * room and scaled >= HALF
    falls = not holds and down > best and down >= least_step
    return (
        up if rises else (down if falls else step),
        best,
        bad,
        error if better else best_error,
        square if better else best_square,
        1 if rises or falls else 0,
    )


@register_jitable
def scales(largest, limit, least):
    """Return the scale N of a block, r / N and N / r, in double precision: 0, 0 and 0 below the scale `least`.

    largest is that of the magnitudes of the block's coefficients, and limit is r, the largest index.
    """
    scale = np.float64(largest) if largest > least else 0.0
    return scale, limit / scale if scale > 0.0 else 0.0, scale * (1.0 / limit)
