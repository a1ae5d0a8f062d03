"""From integers of a tile to its record, and back. docs/format.md describes the record."""

import numpy as np
from numba import njit

from hpcblaz.backend.vectors import append_row, begin_row, unpack_row, zero_row
from hpcblaz.bodies.bits import bit_length, low_bits
from hpcblaz.bodies.records import (
    FIXED_WORDS,
    LANES,
    NATURAL,
    STRIPS,
    TILE,
    WORTH_SORTING,
    read_widths,
    strips_of,
    write_widths,
)

from .constants import SIZE

# The rows of a tile are what its streams hold, 16 lanes each: coefficient 0 of every strip, then all coefficients of
# every group (the first of each group is unused).
ROWS = STRIPS + STRIPS * SIZE


@njit
def record_scratch():
    """Return what write_record works with: bit widths of the rows, and the arrays of row_widths."""
    return (
        np.zeros(ROWS, np.int64),
        np.empty(LANES * SIZE, np.uint32),
        np.empty(8 * SIZE, np.uint32),
        np.empty(SIZE, np.float64),
    )


@njit
def pack_tile(q, key, levels, count, out, position, rows, scratch):
    """Sort the blocks of a tile by cost into groups, and write its record; return the position after it.

    q holds the integers by strip, coefficient and lane, in natural order; key the cost of each block.
    """
    column = np.empty(TILE, np.uint64)  # where the coefficients of a block begin; unsigned indices gather fastest
    group = np.empty(TILE, np.int64)
    means = np.empty(TILE, np.int32)
    filled = np.zeros(STRIPS, np.int64)
    starts = np.zeros(TILE + 1, np.int64)
    strips = strips_of(count)
    # A group costs about what its dearest block does, times 16
    most, natural_cost = np.int64(1), np.int64(0)
    for s in range(strips):
        dearest = np.int64(0)
        for b in range(s * LANES, min(count, (s + 1) * LANES)):
            means[b] = q[s * SIZE * LANES + b % LANES]
            dearest = max(dearest, key[b])
        natural_cost += dearest
        most = max(most, dearest)
    if natural_cost == 0:
        return write_record(rows, np.int64(0), group, levels, means, count, out, position, scratch)
    # A stable counting sort of the costs, brought to 128 classes; class 0 has no coefficients at all
    scale = (TILE - 1) / np.float64(most)
    for b in range(count):
        key[b] = min(np.int64(np.ceil(scale * key[b])), TILE - 1)
    for b in range(count):
        starts[key[b] + 1] += 1
    for i in range(TILE):
        starts[i + 1] += starts[i]
    sorted_cost, c = np.int64(0), 0
    for s in range(strips):
        last = min(count, (s + 1) * LANES) - 1
        while starts[c + 1] <= last:
            c += 1
        sorted_cost += c
    mask = np.int64(0)
    if sorted_cost * most >= WORTH_SORTING * natural_cost * (TILE - 1):
        for b in range(count):
            group[b] = b // LANES
        for s in range(strips):
            copy_strip(q, s * SIZE * LANES, rows, STRIPS + s * SIZE, min(LANES, count - s * LANES))
            mask |= 1 << s
        return write_record(rows, mask | NATURAL, group, levels, means, count, out, position, scratch)
    empty = starts[1]
    for b in range(count):
        group[b] = starts[key[b]] // LANES
        starts[key[b]] += 1
        column[group[b] * LANES + filled[group[b]]] = np.uint64((b // LANES) * SIZE * LANES + b % LANES)
        filled[group[b]] += 1
    for i in range(count, strips * LANES):
        column[i] = column[count - 1]
    for s in range(strips):
        if (s + 1) * LANES > empty:
            gather(q, column[s * LANES : (s + 1) * LANES], rows, STRIPS + s * SIZE)
            mask |= 1 << s
    return write_record(rows, mask, group, levels, means, count, out, position, scratch)


@njit
def copy_strip(q, here, rows, base, lanes):
    """Copy the integers of a strip; lanes without a block get those of the last."""
    source, target = np.uint64(here), np.uint64(base * LANES)
    for i in range(SIZE * LANES):
        rows[target + np.uint64(i)] = np.uint32(q[source + np.uint64(i)])
    for k in range(SIZE if lanes < LANES else 0):
        for lane in range(lanes, LANES):
            rows[(base + k) * LANES + lane] = rows[(base + k) * LANES + lanes - 1]


@njit
def write_record(rows, mask, group, levels, means, count, out, position, scratch):
    """Write the record of a tile whose blocks are in groups already; return the position after it.

    rows holds the integers of the groups of the mask (which may say NATURAL as well); for each block in natural order
    come its group, level and coefficient 0. Lanes of the last group that have no block must hold values that other
    lanes have too.
    """
    strips = strips_of(count)
    lanes = min(count, LANES)
    start = position
    widths, folded, halved, doubles = scratch
    widths[:] = 0
    total = np.int64(0)
    for s in range(strips):
        least, most = np.int64(means[s * LANES]), np.int64(means[s * LANES])
        for b in range(s * LANES, min(count, (s + 1) * LANES)):
            mean = np.int64(means[b])
            total += mean
            least = min(least, mean)
            most = max(most, mean)
        widths[s] = bit_length(most - least)
        out[position + FIXED_WORDS + s] = np.uint32(least & 0xFFFFFFFF)
        for lane in range(LANES):
            rows[s * LANES + lane] = np.uint32(np.int64(means[min(s * LANES + lane, count - 1)]) - least)
        if mask >> s & 1 and not row_widths(rows, STRIPS + s * SIZE, widths, folded, halved, doubles):
            mask ^= 1 << s
    mask = 0 if mask == NATURAL else mask
    out[position] = np.uint32(mask)
    out[position + 1] = np.uint32(0)
    out[position + 2] = np.uint32(0)
    out[position + 4] = np.uint32(total & 0xFFFFFFFF)
    out[position + 5] = np.uint32((total >> 32) & 0xFFFFFFFF)
    for s in range(strips):
        out[position + 1 + (s >> 2)] |= np.uint32(widths[s] << (8 * (s & 3)))
    position += FIXED_WORDS + strips
    if mask & ~NATURAL:
        for i in range((count + 3) // 4):
            out[position + i] = np.uint32(0)
        for b in range(count):
            out[position + (b >> 2)] |= np.uint32((group[b] << 4 | levels[b]) << (8 * (b & 3)))
        position += (count + 3) // 4
    for s in range(strips):
        if mask >> s & 1:
            base = STRIPS + s * SIZE
            position = write_widths(out, position, widths[base : base + SIZE], SIZE)
    out[start + 3] = np.uint32(position - start)
    return pack_rows(rows, widths, STRIPS + strips * SIZE, out, position, lanes)


@njit
def gather(q, column, rows, base):
    """Bring the blocks of a group side by side."""
    first = np.uint64(base * LANES)
    for k in range(SIZE):
        for lane in range(LANES):
            source = column[lane] + np.uint64(k * LANES)
            rows[first + np.uint64(k * LANES + lane)] = np.uint32(q[source])


@njit
def row_widths(rows, base, widths, folded, halved, doubles):
    """Find the bits that hold every lane of each coefficient but the first, two's complement; 0 if all are zero.

    Returns 0 if all of them are. folded and halved are scratch for 16 * SIZE and 8 * SIZE words, doubles for SIZE.
    """
    first = np.uint64(base * LANES)
    for i in range(LANES * SIZE):
        value = rows[first + np.uint64(i)]
        folded[i] = np.uint32(np.uint32(value << np.uint32(1)) ^ np.uint32(np.int32(value) >> np.int32(31)))
    # Or neighbours together until one word a coefficient is left: whole vectors at a time, no loop over few lanes
    for i in range(8 * SIZE):
        halved[i] = folded[2 * i] | folded[2 * i + 1]
    for i in range(4 * SIZE):
        folded[i] = halved[2 * i] | halved[2 * i + 1]
    for i in range(2 * SIZE):
        halved[i] = folded[2 * i] | folded[2 * i + 1]
    for i in range(SIZE):
        doubles[i] = np.float64(halved[2 * i] | halved[2 * i + 1])
    exponents = doubles.view(np.int64)
    any_bits = np.int64(0)
    for k in range(1, SIZE):
        width = (exponents[k] >> 52) - 1022
        width = width if width > 0 else 0
        widths[base + k] = width
        any_bits |= width
    return any_bits


@njit
def pack_rows(rows, widths, count, out, position, lanes):
    """Write the lowest `width` bits of each row's lanes to the streams of the lanes, word by word interleaved.

    Sixteen lanes are written even where there are fewer; what is too much is overwritten by the words that follow.
    """
    word = np.uint64(position)
    step = np.uint64(lanes)
    shift = np.int64(0)
    zero_row(out, word)
    for i in range(count):
        width = widths[i]
        if width == 0:
            continue
        row = np.uint64(i * LANES)
        mask = low_bits(width)
        append_row(out, word, rows, row, mask, shift)
        shift += width
        if shift >= 32:
            word += step
            shift -= 32
            if shift:
                begin_row(out, word, rows, row, mask, width - shift)
            else:
                zero_row(out, word)
    return np.int64(word) + (lanes if shift else 0)


@njit
def unpack_rows(words, position, widths, count, rows, lanes):
    """Read the rows of all lanes as signed values; rows without bits are zero, lanes without a block undefined."""
    word = np.uint64(position)
    step = np.uint64(lanes)
    shift = np.int64(0)
    for i in range(count):
        width = widths[i]
        row = np.uint64(i * LANES)
        if width == 0:
            zero_row(rows, row)
            continue
        unpack_row(words, word, word + step, shift, 32 - width, rows, row)
        shift += width
        word += step if shift >= 32 else np.uint64(0)
        shift &= 31


@njit
def unpack_tile(words, offsets, tile, count, steps, mean_step, rows, widths, means, block_steps, slots):
    """Unpack a tile: its integer coefficients in rows, by group, and for each block in natural order its
    coefficient 0, its step, and its slot (16 times its group, plus its lane).

    Returns the mask of the groups that have coefficients, with NATURAL if slots are numbers of blocks.
    """
    start = offsets[tile]
    position = start
    strips = strips_of(count)
    mask = np.int64(words[position])
    for s in range(STRIPS):
        widths[s] = np.int64((words[position + 1 + (s >> 2)] >> np.uint32(8 * (s & 3))) & np.uint32(255))
    bases = position + FIXED_WORDS
    position = bases + strips
    natural = mask & NATURAL
    if mask & ~NATURAL:
        filled = np.zeros(STRIPS, np.int64)
        for b in range(count):
            control = np.int64((words[position + (b >> 2)] >> np.uint32(8 * (b & 3))) & np.uint32(255))
            group = control >> 4 & 7
            slots[b] = b if natural else group * LANES + (filled[group] & 15)
            filled[group] += 1
            block_steps[b] = steps[control & 15]
        position += (count + 3) // 4
    else:
        mask = NATURAL
        for b in range(count):
            slots[b] = b
            block_steps[b] = steps[0]
    for s in range(strips):
        base = STRIPS + s * SIZE
        if mask >> s & 1:
            position = read_widths(words, position, widths[base : base + SIZE], SIZE)
        else:
            widths[base : base + SIZE] = 0
    unpack_rows(words, start + np.int64(words[start + 3]), widths, STRIPS + strips * SIZE, rows, min(count, LANES))
    for b in range(count):
        least = np.int64(np.int32(words[bases + b // LANES]))
        width = widths[b // LANES]
        above = np.int64(rows[b]) & ((1 << width) - 1)
        means[b] = mean_step * (least + above)
    return mask


@njit
def sum_of_means(words, offsets, tile, mean_step):
    """Return the sum of coefficient 0 over the blocks of a tile, kept in its record."""
    start = offsets[tile]
    total = np.int64(words[start + 4]) | np.int64(np.int32(words[start + 5])) << 32
    return mean_step * np.float64(total)
