"""Least and greatest values, and where they are: only blocks that may hold them are decoded."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hpcblaz.errors import UnsupportedOperationError
from hpcblaz.fields.moments import check_array, check_values, value_rounding
from hpcblaz.fields.ranges import block_ranges, block_values, cell_of, check_on_host
from hpcblaz.fields.scalars import CertifiedFloat

if TYPE_CHECKING:
    from hpcblaz.fields.array import CompressedArray

_FIRST = 32  # blocks that are decoded first; then as many again, and so on
_MOST = 1 << 21  # cells that are decoded at a time


@dataclass(frozen=True)
class Extremum:
    """The least or greatest value of an array, where it is, and what it took to find it.

    Parameters
    ----------
    value : CertifiedFloat
        The extremum, within its error of that of the original data.
    index : tuple of int
        The first cell, in C order, whose decompressed value it is. The original has a value there that is within twice
        the error of its extremum.
    blocks_decoded, blocks : int
        Blocks that were decoded, on all ranks, and blocks that there are.
    """

    value: CertifiedFloat
    index: tuple[int, ...]
    blocks_decoded: int
    blocks: int


def extremum(a: "CompressedArray", kind: str) -> Extremum:
    """Return the least or greatest value of an array with its place.

    From its coefficients, every block has a range that its values lie in; blocks are decoded in the order of these
    ranges until no other block can hold the extremum.

    Parameters
    ----------
    a : CompressedArray
        Not empty, on the CPU. Missing values are skipped.
    kind : {'max', 'min'}
        Which one.

    Returns
    -------
    Extremum

    Raises
    ------
    ShapeError
        If the array is empty.
    UnsupportedOperationError
        If `kind` is anything else, or the array is on a GPU.

    Examples
    --------
    >>> import numpy as np, hpcblaz as hb
    >>> x = np.sin(np.linspace(0, 3, 100_000))
    >>> top = hb.extremum(hb.compress(x, tolerance=1e-4), "max")
    >>> bool(abs(top.value - x.max()) <= top.value.error), top.blocks_decoded < 0.05 * top.blocks
    (True, True)
    """
    check_array(a, "a")
    check_values(a, a.count() if a.size else 0, "extremum")
    if kind not in ("max", "min"):
        raise UnsupportedOperationError(f"expected kind to be 'max' or 'min', got {kind!r}")
    check_on_host(a, "an extremum")
    sign = 1.0 if kind == "max" else -1.0
    payload_sign = -sign if a._factor < 0 else sign
    value, index, decoded = _local(a, payload_sign)
    rows = a._comm.allgather(np.array([value, *index, decoded, math.prod(a._numerics.grid.blocks)]))
    best = min(((-row[0], tuple(map(int, row[1:-2]))) for row in rows), key=lambda entry: entry)
    found = a._factor * payload_sign * -best[0] + a._offset if math.isfinite(best[0]) else math.nan
    error = a._field_error.max_abs + value_rounding(a) if math.isfinite(best[0]) else math.inf
    return Extremum(CertifiedFloat(found, error), best[1], int(rows[:, -2].sum()), int(rows[:, -1].sum()))


def _local(a: "CompressedArray", sign: float) -> tuple[float, tuple[int, ...], int]:
    """Return the greatest of sign times the payload's values in the local part, its cell, and the blocks decoded."""
    ranges = block_ranges(a)
    most = ranges.high if sign > 0 else -ranges.low
    grid = a._numerics.grid
    value, index, decoded, step = -math.inf, (0,) * grid.ndim, 0, _FIRST
    candidates = np.arange(len(most))
    while len(candidates):
        best = np.argpartition(most[candidates], max(0, len(candidates) - step))[-step:]
        numbers, candidates = candidates[best], np.delete(candidates, best)
        values = np.nan_to_num(sign * block_values(a, numbers), nan=-math.inf)
        top = float(values.max())
        if top >= value and math.isfinite(top):
            rows, samples = np.nonzero(values == top)
            cells = [cell_of(a, int(numbers[row]), int(sample)) for row, sample in zip(rows, samples, strict=True)]
            index = min(cells) if top > value else min(index, *cells)
            value = top
        candidates = candidates[most[candidates] >= value]
        decoded += len(numbers)
        step = min(2 * step, max(1, _MOST // grid.block_size))
    return value, index, decoded


def maximum(a: "CompressedArray") -> CertifiedFloat:
    """Return the greatest value of an array; see :func:`extremum`.

    Parameters
    ----------
    a : CompressedArray
        Not empty, on the CPU. Missing values are skipped.

    Returns
    -------
    CertifiedFloat
        Its error is that of the array's values.
    """
    return extremum(a, "max").value


def minimum(a: "CompressedArray") -> CertifiedFloat:
    """Return the least value of an array; see :func:`extremum`.

    Parameters
    ----------
    a : CompressedArray
        Not empty, on the CPU. Missing values are skipped.

    Returns
    -------
    CertifiedFloat
        Its error is that of the array's values.
    """
    return extremum(a, "min").value


def argmax(a: "CompressedArray") -> tuple[int, ...]:
    """Return the index of the first cell whose decompressed value is the greatest; see :func:`extremum`.

    Parameters
    ----------
    a : CompressedArray
        Not empty, on the CPU. Missing values are skipped.

    Returns
    -------
    tuple of int
        One for each axis: what ``np.unravel_index`` makes of NumPy's answer.
    """
    return extremum(a, "max").index


def argmin(a: "CompressedArray") -> tuple[int, ...]:
    """Return the index of the first cell whose decompressed value is the least; see :func:`extremum`.

    Parameters
    ----------
    a : CompressedArray
        Not empty, on the CPU. Missing values are skipped.

    Returns
    -------
    tuple of int
        One for each axis: what ``np.unravel_index`` makes of NumPy's answer.
    """
    return extremum(a, "min").index
