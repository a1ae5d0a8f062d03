"""The distribution of an array's values: histograms, and the Wasserstein distance of two."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpcblaz.backend.dispatch import drivers_of
from hpcblaz.errors import UnsupportedOperationError
from hpcblaz.fields.arithmetic import check_partners
from hpcblaz.fields.certificates import UNIT
from hpcblaz.fields.extremes import extremum
from hpcblaz.fields.gaps import slabs, valid_values
from hpcblaz.fields.moments import check_array, check_no_missing, check_values, value_rounding
from hpcblaz.fields.norms import error_norm
from hpcblaz.fields.scalars import CertifiedFloat

if TYPE_CHECKING:
    from hpcblaz.fields.array import CompressedArray


class Histogram(NamedTuple):
    """How many values lie in each bin, with bounds of what that number is for the original data.

    Parameters
    ----------
    counts : numpy.ndarray
        int64, shape (bins,): of the compressed array.
    edges : numpy.ndarray
        float64, shape (bins + 1,).
    low, high : numpy.ndarray
        int64, shape (bins,): the original data has at least and at most so many values in a bin.
    """

    counts: NDArray[np.int64]
    edges: NDArray[np.float64]
    low: NDArray[np.int64]
    high: NDArray[np.int64]


def histogram(
    a: "CompressedArray", bins: int | Sequence[float] = 10, *, limits: tuple[float, float] | None = None
) -> Histogram:
    """Return the histogram of all values of an array.

    A value of the original lies within the array's error of the decoded one. Where an edge lies within that distance,
    the value may be on either side: it is counted as possible on both, and as certain on none.

    Parameters
    ----------
    a : CompressedArray
        Not empty. It is decoded slab by slab.
    bins : int or sequence of float, default 10
        Number of bins of equal width, or their edges, ascending. Bins are closed on the left, the last one on the
        right, too; values outside all of them are not counted.
    limits : tuple of float, optional
        First and last edge of bins of equal width. Default: the least and greatest value of the compressed array, which
        must then be on the CPU.

    Returns
    -------
    Histogram

    Raises
    ------
    UnsupportedOperationError
        If the bins make no sense.

    Examples
    --------
    >>> import numpy as np, hpcblaz as hb
    >>> x = np.random.default_rng(0).normal(size=(100, 100))
    >>> h = hb.histogram(hb.compress(x, tolerance=1e-3), 20, limits=(-3, 3))
    >>> exact, _ = np.histogram(x, h.edges)
    >>> bool(np.all((h.low <= exact) & (exact <= h.high)))
    True
    """
    check_array(a, "a")
    check_values(a, a.count(), "histogram")
    with a._comm.together():
        edges = None if limits is None and isinstance(bins, (int, np.integer)) else _edges(bins, limits)
    if edges is None:
        least_value, greatest = float(extremum(a, "min").value), float(extremum(a, "max").value)
        # So wide that float64 tells the edges apart
        span, unit = greatest - least_value, float(np.spacing(max(abs(least_value), abs(greatest))))
        wider = 0.5 * (span == 0) + 4 * int(np.max(bins)) * unit
        wider = wider if span <= wider else 0.0
        edges = _edges(bins, (least_value - wider, greatest + wider))
    count = len(edges) - 1
    room = a._field_error.max_abs + value_rounding(a)
    totals = np.zeros((3, count + 2), np.int64)
    for low, high in slabs(a):
        values = drivers_of(a._blocks).asnumpy(valid_values(a, low, high)).ravel()
        # Two units more, for the roundings of the ends themselves
        least, most = np.nextafter(values - room, -np.inf), np.nextafter(values + room, np.inf)
        first, place, last = (_bins_of(numbers, edges) for numbers in (least, values, most))
        totals[0] += np.bincount(place, minlength=count + 2)
        totals[1] += np.bincount(first[first == last], minlength=count + 2)
        opened = np.bincount(first, minlength=count + 2)
        closed = np.concatenate([[0], np.bincount(last, minlength=count + 2)[:-1]])
        totals[2] += np.cumsum(opened - closed)
    whole = a._comm.allgather(totals.ravel()).sum(axis=0).reshape(totals.shape).astype(np.int64)[:, 1:-1]
    return Histogram(whole[0], edges, whole[1], whole[2])


def _bins_of(values: NDArray[np.float64], edges: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the numbers of the bins of values, from 1; 0 below all of them, and one more than there are above."""
    places = np.searchsorted(edges, values, side="right")
    places[values == edges[-1]] = len(edges) - 1
    return places


def _edges(bins: int | Sequence[float], limits: tuple[float, float] | None) -> NDArray[np.float64]:
    if isinstance(bins, (int, np.integer)) and not isinstance(bins, bool):
        if bins < 1 or limits is None:
            raise UnsupportedOperationError(f"expected at least one bin, got {bins}")
        first, last = map(float, limits)
        if not (math.isfinite(first) and math.isfinite(last) and first < last):
            raise UnsupportedOperationError(f"expected finite, ascending limits, got {limits!r}")
        edges = np.linspace(first, last, int(bins) + 1)
        if not np.all(np.diff(edges) > 0):
            raise UnsupportedOperationError(f"expected fewer bins, or wider limits than {limits!r}, got {bins} bins")
        return edges
    try:
        edges = np.asarray(bins, np.float64)
    except (TypeError, ValueError):
        edges = np.zeros(0)
    if limits is not None or edges.ndim != 1 or len(edges) < 2 or not np.all(np.diff(edges) > 0):
        raise UnsupportedOperationError(
            f"expected bins to be a number, or at least two ascending edges without limits, got {bins!r} and {limits!r}"
        )
    return edges


def value_wasserstein_distance(a: "CompressedArray", b: "CompressedArray", *, order: float = 1.0) -> CertifiedFloat:
    """Return the Wasserstein distance of the distributions of the values of two arrays.

    That of optimal transport on the line: the p-mean of the differences of the sorted values [1]_. Unlike
    :func:`wasserstein_distance` it depends on no blocks, and its bound is with respect to the same distance of the
    original data.

    Parameters
    ----------
    a, b : CompressedArray
        Of one shape and layout, not empty. All values are decoded; with a layout they are brought to rank 0.
    order : float, default 1.0
        p, at least 1, or infinity.

    Returns
    -------
    CertifiedFloat

    Raises
    ------
    ShapeError, LayoutError, UnsupportedOperationError
        If shapes or layouts differ, or `order` is less than 1.

    References
    ----------
    .. [1] C. Villani, "Topics in Optimal Transportation", 2003, section 2.2.

    Examples
    --------
    >>> import numpy as np, hpcblaz as hb
    >>> x = np.random.default_rng(0).normal(size=(64, 64))
    >>> a = hb.compress(x, tolerance=1e-3)
    >>> moved = hb.value_wasserstein_distance(a, a + 2)
    >>> bool(abs(moved - 2) <= moved.error)
    True
    """
    check_array(a, "a")
    check_values(a, a.size, "Wasserstein distance")
    if not order >= 1:
        raise UnsupportedOperationError(f"expected an order of at least 1, got {order!r}")
    with a._comm.together():
        check_array(b, "b")
        check_partners(a, b)
        check_no_missing("a Wasserstein distance", a, b)
    both = [array.astype(np.float64) for array in (a, b)]
    bound = sum(
        error_norm(c.error.max_abs, c.error.l2, a.size, order)
        / float(a.size) ** (0.0 if order == math.inf else 1 / order)
        for c in both
    )
    fields = [c.gather() for c in both]
    value = 0.0
    if fields[0] is not None and fields[1] is not None:
        x, y = (np.sort(drivers_of(a._blocks).asnumpy(values), axis=None) for values in fields)
        value = _mean_of_powers(np.abs(x - y), order)
    value = float(a._comm.broadcast(value))
    rounding = (64 + 4 * min(order, 2.0**20)) * UNIT * value
    rounding += 4 * UNIT * sum(c._magnitude + c.error.max_abs for c in both)
    return CertifiedFloat(value, bound * (1 + 2.0**-40) + rounding)


def _mean_of_powers(values: NDArray[np.float64], order: float) -> float:
    largest = float(values.max())
    if largest == 0 or order == math.inf:
        return largest
    return float(largest * float(np.mean((values / largest) ** order)) ** (1 / order))
