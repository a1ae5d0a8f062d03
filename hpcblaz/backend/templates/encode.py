"""Blocks to bits for a guaranteed tolerance.

Strips of 16 neighbouring blocks, one block a lane, are loaded, transformed, and quantised with the largest power of
two at which the *decoded* block stays within the tolerance, measured. The blocks of a tile are then sorted by cost
into groups of 16, so that a group shares one bit width a coefficient, and packed.
"""

import numpy as np
from numba import njit

from hpcblaz.bodies.records import LANES, TILE, strips_of
from hpcblaz.bodies.steps import FIRST_LEVEL, LEVELS, judge

from .blocks import UNROLL, is_full, load_strip, measure_error, transform_partial
from .constants import EXPONENT_BIAS, EXPONENT_MASK, FRACTION_BITS, INTEGER, REAL, SIZE
from .packing import ROWS, pack_tile, record_scratch
from .transforms import forward, inverse


@njit
def copy_rows(source, target):
    """Copy one strip."""
    for i in range(SIZE * LANES):
        target[i] = source[i]


@njit
def measure_coefficients(c, largest, square):
    """Find the largest magnitude and the sum of squares of each lane's coefficients, the first left out."""
    for lane in range(LANES):
        largest[lane] = REAL(0)
        square[lane] = REAL(0)
    for k in range(0, SIZE, UNROLL):
        for lane in range(LANES):
            m = largest[lane]
            s = square[lane]
            for j in range(UNROLL):
                a = abs(c[(k + j) * LANES + lane]) if k + j else REAL(0)
                m = a if a > m else m
                s += a * a
            largest[lane] = m
            square[lane] = s


@njit
def quantise(c, step, inverse_step, r):
    """Round each coefficient to a multiple of its lane's step; coefficient 0 is one already."""
    for k in range(0, SIZE, UNROLL):
        for lane in range(LANES):
            a = inverse_step[lane]
            b = step[lane]
            for j in range(UNROLL):
                r[(k + j) * LANES + lane] = np.rint(c[(k + j) * LANES + lane] * a) * b
    for lane in range(LANES):
        r[lane] = c[lane]


@njit
def to_integers(c, inverse_step, r, q):
    """Round the coefficients of a strip to multiples of the step: integers in q, the same as reals in r."""
    for k in range(0, SIZE, UNROLL):
        for lane in range(LANES):
            a = inverse_step[lane]
            for j in range(UNROLL):
                f = np.rint(c[(k + j) * LANES + lane] * a)
                r[(k + j) * LANES + lane] = f
                q[(k + j) * LANES + lane] = np.int32(f)


@njit
def cost(exponents, bits):
    """Sum the bit lengths of the integer coefficients of each lane, read from the exponents of their reals."""
    for lane in range(LANES):
        bits[lane] = INTEGER(0)
    for k in range(0, SIZE, UNROLL):
        for lane in range(LANES):
            s = bits[lane]
            for j in range(UNROLL):
                e = INTEGER((exponents[(k + j) * LANES + lane] >> INTEGER(FRACTION_BITS)) & INTEGER(EXPONENT_MASK))
                e = INTEGER(e - INTEGER(EXPONENT_BIAS))
                if k + j:
                    s = INTEGER(s + (e if e > INTEGER(0) else INTEGER(0)))
            bits[lane] = s


@njit(error_model="numpy")
def choose(
    error,
    square,
    room,
    largest,
    step,
    inverse_step,
    accepted,
    refused,
    best_error,
    best_square,
    lanes,
    least_step,
    most_step,
):
    """Judge a trial of all lanes, and set the steps of the next one; return how many lanes want one.

    accepted is 0 until a step is. The number of lanes is left to run time, so that their loop is vectorised.
    """
    again = 0
    for lane in range(lanes):
        found = judge(
            error[lane],
            square[lane],
            room[lane],
            largest[lane],
            step[lane],
            inverse_step[lane],
            accepted[lane],
            refused[lane],
            best_error[lane],
            best_square[lane],
            least_step,
            most_step,
        )
        step[lane], accepted[lane], refused[lane], best_error[lane], best_square[lane] = found[:5]
        inverse_step[lane] = REAL(1) / step[lane]
        again += found[5]
    return again


@njit(error_model="numpy")
def encode_tile(
    x,
    shape,
    region,
    first,
    count,
    matrices,
    tolerance,
    allowance,
    steps,
    mean_level,
    out,
    position,
    scratch,
    q,
    rows,
    levels,
    guess,
    lane_reals,
    lane_bits,
    record,
    stats,
):
    """Encode one tile at `position` of `out`; return the position after it, or -1 if no level holds the tolerance."""
    v, c, r, w = scratch[0], scratch[1], scratch[2], scratch[3]
    exponents = r.view(INTEGER)
    step, inverse_step, error, square = lane_reals[0], lane_reals[1], lane_reals[2], lane_reals[3]
    room, largest, accepted, refused = lane_reals[4], lane_reals[5], lane_reals[6], lane_reals[7]
    best_error, best_square = lane_reals[8], lane_reals[9]
    step_bits = step.view(INTEGER)
    key = np.empty(TILE, np.int64)
    cell = np.empty(4, np.int64)
    full = is_full(region)
    cells = region[8] * region[9] * region[10] * region[11]
    root = REAL(np.sqrt(np.float64(cells)))
    mean_step = steps[mean_level]
    inverse_mean_step = REAL(1) / mean_step
    inverse_least_step = REAL(1) / steps[0]
    for strip in range(strips_of(count)):
        lanes = min(LANES, count - LANES * strip)
        load_strip(x, shape, region, first + LANES * strip, lanes, v, cell)
        if full:
            forward(v, c)
        else:
            copy_rows(v, c)
            transform_partial(c, w, region[8:12], matrices, 0)
        measure_coefficients(c, largest, square)
        for lane in range(len(guess)):
            c[lane] = np.rint(c[lane] * inverse_mean_step) * mean_step
            # Another backend may round the decoded samples differently: `allowance` times a bound of them
            room[lane] = tolerance - allowance * (abs(c[lane]) / root + np.sqrt(square[lane]) + root * tolerance)
            step[lane] = guess[lane]
            inverse_step[lane] = REAL(1) / guess[lane]
            accepted[lane] = REAL(0)
            refused[lane] = steps[LEVELS - 1] * REAL(4)
        again = 1
        while again:
            quantise(c, step, inverse_step, r)
            if full:
                inverse(r)
            else:
                transform_partial(r, w, region[8:12], matrices, 1)
            measure_error(v, r, error, square)
            again = choose(
                error,
                square,
                room,
                largest,
                step,
                inverse_step,
                accepted,
                refused,
                best_error,
                best_square,
                len(guess),
                steps[0],
                steps[LEVELS - 1],
            )
        refusals = 0
        for lane in range(len(guess)):
            refusals += 1 if accepted[lane] == REAL(0) else 0
            inverse_step[lane] = REAL(1) / accepted[lane]
            step[lane] = accepted[lane] * inverse_least_step
        if refusals:
            return np.int64(-1)
        for lane in range(LANES):
            levels[LANES * strip + lane] = (step_bits[lane] >> FRACTION_BITS) - EXPONENT_BIAS - 1
        for lane in range(lanes):
            slack = np.float64(tolerance - room[lane])
            stats[0] = max(stats[0], np.float64(best_error[lane]) + slack)
            stats[1] += np.float64(best_square[lane])
            stats[2] += cells * slack * slack
        integers = q[strip * SIZE * LANES : (strip + 1) * SIZE * LANES]
        to_integers(c, inverse_step, r, integers)
        for lane in range(LANES):
            integers[lane] = np.int32(c[lane] * inverse_mean_step)
        cost(exponents, lane_bits)
        for lane in range(LANES):
            key[LANES * strip + lane] = lane_bits[lane]
    return pack_tile(q, key, levels, count, out, position, rows, record)


@njit(nogil=True, cache=True)
def encode(x, shape, regions, tiles, start, stop, matrices, tolerance, allowance, steps, mean_level, out, sizes, stats):
    """Encode tiles `start` to `stop` one after the other into `out`.

    Returns False if some block cannot hold the tolerance. sizes receives the words of each tile; stats its largest
    error, its sum of squared errors, and its sum of squared allowances.
    """
    scratch = np.zeros((4, max(SIZE, 16) * LANES), REAL)
    q = np.empty(SIZE * TILE, np.int32)
    rows = np.empty(ROWS * LANES, np.uint32)
    levels = np.zeros(TILE, np.int64)
    guess = np.empty(LANES, REAL)
    lane_reals = np.zeros((10, LANES), REAL)
    lane_bits = np.zeros(LANES, INTEGER)
    record = record_scratch()
    position = np.int64(0)
    guess[:] = steps[FIRST_LEVEL]
    for t in range(start, stop):
        here = position
        position = encode_tile(
            x,
            shape,
            regions[tiles[t, 0]],
            tiles[t, 1],
            tiles[t, 2],
            matrices,
            tolerance,
            allowance,
            steps,
            mean_level,
            out,
            position,
            scratch,
            q,
            rows,
            levels,
            guess,
            lane_reals,
            lane_bits,
            record,
            stats[t - start],
        )
        if position < 0:
            return False
        sizes[t - start] = position - here
    return True
