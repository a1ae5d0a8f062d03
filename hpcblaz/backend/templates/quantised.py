"""Values to integers over one step and back, and integers to records of few bits, which can be added.

docs/collectives.md describes the record of a tile. Differences along rows, planes and neighbours are linear in the
integers, and the arithmetic is that of 32-bit words that wrap around: sums of records are exact as long as the sums
themselves fit.
"""

import numpy as np
from numba import njit

from hpcblaz.backend.vectors import append_row, begin_row, unpack_row, zero_row
from hpcblaz.bodies.bits import low_bits
from hpcblaz.bodies.records import LANES
from hpcblaz.bodies.sums import GROUP, GROUPS, HEADER, TILE, ZERO_HEADER, code_of, width_of

from .constants import INTEGER, REAL

ROWS = TILE // LANES
GROUP_ROWS = GROUP // LANES
HIDE_SIGN = INTEGER(0x7FFFFFFF) if INTEGER(-1).nbytes == 4 else INTEGER(0x7FFFFFFFFFFFFFFF)


@njit(fastmath={"reassoc"})
def sum_of_squares(errors, count):
    """Return the sum of the squares of the first errors, in any order."""
    total = REAL(0)
    for i in range(count):
        total += errors[i] * errors[i]
    return total


@njit
def largest_magnitude(bits, count):
    """Return the largest magnitude of finite floats that are seen as integers, as an integer."""
    most = INTEGER(0)
    for i in range(count):
        most = max(most, INTEGER(bits[i] & HIDE_SIGN))
    return most


@njit(nogil=True, cache=True)
def quantise(x, start, stop, step, inverse_step, q, stats):
    """Round the values of some tiles to multiples of the step; stats receives the largest error and their squares.

    x and q begin at the first tile. Errors are exact: a product with the step is, and so is the small difference.
    """
    errors = np.empty(TILE, REAL)
    bits = errors.view(INTEGER)
    largest = np.zeros(1, INTEGER)
    for tile in range(start, stop):
        first = tile * TILE
        count = min(TILE, len(x) - first)
        values = x[first : first + count]
        integers = q[first : first + count]
        for i in range(count):
            f = np.rint(values[i] * inverse_step)
            integers[i] = np.int32(f)
            errors[i] = values[i] - f * step
        largest[0] = max(largest[0], largest_magnitude(bits, count))
        stats[1] += np.float64(sum_of_squares(errors, count))
    stats[0] = max(stats[0], np.float64(largest.view(REAL)[0]))


@njit(nogil=True, cache=True)
def restore(q, step, out):
    """Write the multiples of the step."""
    for i in range(len(q)):
        out[i] = REAL(q[i]) * step


@njit(nogil=True, cache=True)
def difference(q, stride, out):
    """Write the differences from the values a stride before; the first ones stay."""
    for i in range(min(stride, len(q))):
        out[i] = q[i]
    later, earlier, result = q[stride:], q, out[stride:]
    for i in range(len(later)):
        result[i] = np.int32(later[i] - earlier[i])


@njit(nogil=True, cache=True)
def integrate(q, stride):
    """Undo `difference`, in place."""
    for first in range(stride, len(q), stride):
        here, before = q[first : first + stride], q[first - stride : first]
        for i in range(len(here)):
            here[i] = np.int32(here[i] + before[i])


@njit
def find_widths(rows, codes, folded, halved, doubles):
    """Find the bits of each group, 32 values in two's complement; return the most."""
    for i in range(TILE):
        value = rows[i]
        folded[i] = np.uint32(np.uint32(value << np.uint32(1)) ^ np.uint32(np.int32(value) >> np.int32(31)))
    # Or neighbours together until one word a group is left: whole vectors at a time, no loop over few lanes
    for i in range(TILE // 2):
        halved[i] = folded[2 * i] | folded[2 * i + 1]
    for i in range(TILE // 4):
        folded[i] = halved[2 * i] | halved[2 * i + 1]
    for i in range(TILE // 8):
        halved[i] = folded[2 * i] | folded[2 * i + 1]
    for i in range(TILE // 16):
        folded[i] = halved[2 * i] | halved[2 * i + 1]
    for i in range(GROUPS):
        doubles[i] = np.float64(folded[2 * i] | folded[2 * i + 1])
    exponents = doubles.view(np.int64)
    most = np.int64(0)
    for g in range(GROUPS):
        width = (exponents[g] >> 52) - 1022
        codes[g] = width if width > 0 else 0
        most = max(most, codes[g])
    return most


@njit(nogil=True, cache=True)
def pack(q, start, stop, neighbours, out, sizes):
    """Write the records of some tiles one after the other, and their lengths; return the length of all.

    With `neighbours` a record holds the differences of neighbouring values.
    """
    rows = np.zeros(TILE, np.uint32)
    codes = np.empty(GROUPS, np.int64)
    folded = np.empty(TILE, np.uint32)
    halved = np.empty(TILE // 2, np.uint32)
    doubles = np.empty(GROUPS)
    position = np.int64(0)
    for tile in range(start, stop):
        first = tile * TILE
        count = min(TILE, len(q) - first)
        values = q[first : first + count]
        base = np.int32(0)
        if neighbours:
            base = values[0]
            rows[0] = np.uint32(0)
            later, earlier, result = values[1:], values, rows[1:]
            for i in range(len(later)):
                result[i] = np.uint32(np.int32(later[i] - earlier[i]))
        else:
            for i in range(count):
                rows[i] = np.uint32(values[i])
        for i in range(count, TILE):
            rows[i] = np.uint32(0)
        here = position
        most = find_widths(rows, codes, folded, halved, doubles)
        out[position] = np.uint32(base)
        out[position + 1] = np.uint32(most)
        if most == 0:
            position += ZERO_HEADER
        else:
            for i in range(ZERO_HEADER, HEADER):
                out[position + i] = np.uint32(0)
            for g in range(GROUPS):
                code = code_of(codes[g], most)
                codes[g] = width_of(code, most)
                out[position + ZERO_HEADER + (g >> 3)] |= np.uint32(code << (4 * (g & 7)))
            position = pack_rows(rows, codes, out, position + HEADER)
        sizes[tile - start] = position - here
    return position


@njit
def pack_rows(rows, widths, out, position):
    """Write the lowest bits of the rows to the streams of the lanes, word by word interleaved."""
    word = np.uint64(position)
    step = np.uint64(LANES)
    shift = np.int64(0)
    zero_row(out, word)
    for g in range(GROUPS):
        width = widths[g]
        mask = low_bits(width)
        for r in range(GROUP_ROWS if width else 0):
            row = np.uint64((g * GROUP_ROWS + r) * LANES)
            append_row(out, word, rows, row, mask, shift)
            shift += width
            if shift >= 32:
                word += step
                shift -= 32
                if shift:
                    begin_row(out, word, rows, row, mask, width - shift)
                else:
                    zero_row(out, word)
    return np.int64(word) + (LANES if shift else 0)


@njit
def unpack_rows(words, position, most, rows):
    """Read the rows of a record whose header ends at `position`; rows without bits are zero."""
    word = np.uint64(position)
    step = np.uint64(LANES)
    shift = np.int64(0)
    for g in range(GROUPS):
        code = (words[position - HEADER + ZERO_HEADER + (g >> 3)] >> np.uint32(4 * (g & 7))) & np.uint32(15)
        width = width_of(np.int64(code), most)
        for r in range(GROUP_ROWS):
            row = np.uint64((g * GROUP_ROWS + r) * LANES)
            if width == 0:
                zero_row(rows, row)
            else:
                unpack_row(words, word, word + step, shift, 32 - width, rows, row)
                shift += width
                word += step if shift >= 32 else np.uint64(0)
                shift &= 31


@njit(nogil=True, cache=True)
def unpack(words, offsets, start, stop, neighbours, add, q):
    """Write the integers of some tiles to q, or add them to what is there."""
    rows = np.empty(TILE, np.int32)
    for tile in range(start, stop):
        first = tile * TILE
        count = min(TILE, len(q) - first)
        values = q[first : first + count]
        position = offsets[tile]
        base = np.int32(words[position])
        most = np.int64(words[position + 1])
        if most:
            unpack_rows(words, position + HEADER, most, rows)
        else:
            rows[:] = 0
        if neighbours:
            total = base
            for i in range(count):
                total = np.int32(total + rows[i])
                rows[i] = total
        if add:
            for i in range(count):
                values[i] = np.int32(values[i] + rows[i])
        else:
            for i in range(count):
                values[i] = rows[i]
