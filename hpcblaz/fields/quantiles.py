"""Quantiles of the values of an array: only blocks whose range holds the quantile are decoded."""

import math
import numbers
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hpcblaz.errors import UnsupportedOperationError
from hpcblaz.fields.gaps import block_cells
from hpcblaz.fields.moments import check_array, check_values, value_rounding
from hpcblaz.fields.ranges import block_ranges, block_values, check_on_host
from hpcblaz.fields.scalars import CertifiedFloat
from hpcblaz.mpi import Communicator

if TYPE_CHECKING:
    from hpcblaz.fields.array import CompressedArray

_CELLS = 1 << 20  # cells that are decoded at a time
_ALL_BUT_SIGN = 2**63 - 1


def quantile(a: "CompressedArray", q: float) -> CertifiedFloat:
    """Return a quantile of all values of an array, between order statistics by linear interpolation, as NumPy does.

    Blocks whose range lies wholly below or above are counted, and only the others decoded. How many those are depends
    on the data: few of a smooth field, most of one whose values vary as much within a block as they do overall.

    Parameters
    ----------
    a : CompressedArray
        Not empty, on the CPU. Missing values are skipped.
    q : float
        From 0, the least value, to 1, the greatest.

    Returns
    -------
    CertifiedFloat
        Its error is that of the array's values: order statistics move no farther than the values do.

    Raises
    ------
    ShapeError
        If the array is empty.
    UnsupportedOperationError
        If `q` is not from 0 to 1, or the array is on a GPU.

    Examples
    --------
    >>> import numpy as np, hpcblaz as hb
    >>> x = np.random.default_rng(0).normal(size=(100, 100))
    >>> upper = hb.quantile(hb.compress(x, tolerance=1e-3), 0.9)
    >>> bool(abs(upper - np.quantile(x, 0.9)) <= upper.error)
    True
    """
    check_array(a, "a")
    count = a.count() if a.size else 0
    check_values(a, count, "quantile")
    if isinstance(q, bool) or not isinstance(q, numbers.Real) or not 0 <= q <= 1:
        raise UnsupportedOperationError(f"expected q to be a number from 0 to 1, got {q!r}")
    check_on_host(a, "a quantile")
    share = Fraction(float(q)) if a._factor >= 0 else 1 - Fraction(float(q))
    position = share * (count - 1)
    below = math.floor(position)
    low, high = _order_statistics(a, [below, min(below + 1, count - 1)])
    weight = float(position - below)
    value = (1 - weight) * low + weight * high
    return CertifiedFloat(a._factor * value + a._offset, a._field_error.max_abs + value_rounding(a))


def median(a: "CompressedArray") -> CertifiedFloat:
    """Return the median of all values of an array: :func:`quantile` of one half.

    Parameters
    ----------
    a : CompressedArray
        Not empty, on the CPU. Missing values are skipped.

    Returns
    -------
    CertifiedFloat
    """
    return quantile(a, 0.5)


def _order_statistics(a: "CompressedArray", ranks: Sequence[int]) -> list[float]:
    """Return the values of the payload, in all ranks' parts, that have some ranks in ascending order."""
    ranges, cells = block_ranges(a), block_cells(a).ravel()
    # What has a rank among the lower (or upper) ends of all ranges bounds what has that rank among the values
    least = _search(a._comm, _counter(ranges.low, cells), ranks[0])
    most = _search(a._comm, _counter(ranges.high, cells), ranks[-1])
    below = float(cells[ranges.high < least].sum())
    numbers = np.flatnonzero((ranges.high >= least) & (ranges.low <= most))
    inside: list[NDArray[np.float64]] = []
    step = max(1, _CELLS // a._numerics.grid.block_size)
    for start in range(0, len(numbers), step):
        values = block_values(a, numbers[start : start + step]).ravel()
        below += float((values < least).sum())
        inside.append(values[(values >= least) & (values <= most)])
    values = np.sort(np.concatenate([*inside, np.zeros(0)]))
    return [
        _search(a._comm, lambda value: below + float(np.searchsorted(values, value, side="right")), rank)
        for rank in ranks
    ]


def _counter(values: NDArray[np.float64], weights: NDArray[np.float64]) -> Callable[[float], float]:
    """Return a function that says how much weight is at or below a value."""
    order = np.argsort(values)
    values, total = values[order], np.concatenate([[0.0], np.cumsum(weights[order])])
    return lambda value: float(total[np.searchsorted(values, value, side="right")])


def _search(comm: Communicator, count: Callable[[float], float], rank: int) -> float:
    """Return the least float at or below which more than `rank` values of all ranks lie, by bisection of its bits."""
    low, high = _key(-math.inf), _key(math.inf)
    while low < high:
        middle = (low + high) // 2
        if comm.allgather(np.array([count(_value(middle))])).sum() > rank:
            high = middle
        else:
            low = middle + 1
    return _value(low)


def _key(value: float) -> int:
    """Return an integer that orders as floats do."""
    bits: Any = np.float64(value).view(np.int64)
    return int(bits) if bits >= 0 else int(bits ^ np.int64(_ALL_BUT_SIGN))


def _value(key: int) -> float:
    bits = np.int64(key) if key >= 0 else np.int64(key) ^ np.int64(_ALL_BUT_SIGN)
    return float(bits.view(np.float64))
