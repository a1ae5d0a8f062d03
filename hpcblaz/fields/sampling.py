"""What is seen of a field: a slice of it, how its values are distributed, and the power of its waves."""

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpcblaz.errors import ShapeError, UnsupportedOperationError
from hpcblaz.fields.views import FieldView, Values
from hpcblaz.fields.window import Window
from hpcblaz.mpi import Communicator

_FINE = 4096  # bins while values are counted
_LINE, _PLANE = 4096, 1024  # most cells along an axis that are decoded for a line and for a plane
_BITS = 50  # a bin is no narrower than this many bits below the greatest value


class Section(NamedTuple):
    """Values along one axis, or over two.

    Parameters
    ----------
    values : numpy.ndarray
        float64, of 1 or 2 axes.
    cells : tuple of range
        Which cells of the field they are, along each of these axes.
    axes : tuple of str
        Names of these axes.
    place : str
        Where the other axes were cut, in words; empty if there are none.
    """

    values: Values
    cells: tuple[range, ...]
    axes: tuple[str, ...]
    place: str


def section(view: FieldView, index: tuple[Any, ...] | None = None) -> Section:
    """Return a slice of a field, thinned where it is larger than a picture can show; a collective call.

    Parameters
    ----------
    view : FieldView
    index : tuple of int and slice, optional
        One entry an axis, one or two of them slices. Default: the middle of all axes but the last two.

    Returns
    -------
    Section

    Raises
    ------
    ShapeError
        If the index does not fit the field, or the field is empty.
    """
    shape = view.shape
    if not math.prod(shape) or not shape:
        raise ShapeError(f"expected a field with cells and axes to draw, got shape {shape}")
    if index is None:
        index = (*[n // 2 for n in shape[:-2]], *[slice(None)] * min(2, len(shape)))
    ranges = [range(*entry.indices(n)) for entry, n in zip(index, shape, strict=False) if isinstance(entry, slice)]
    if len(index) != len(shape) or not 1 <= len(ranges) <= 2 or not all(ranges):
        raise ShapeError(
            f"expected one entry for each of {len(shape)} axes, one or two of them ':' or a range that is not empty, "
            f"got {len(index)} entries of which {len(ranges)} are ranges: write 0 for an axis to cut it there"
        )
    try:
        Window.of(index, shape)
    except (IndexError, UnsupportedOperationError) as error:
        raise ShapeError(str(error)) from error
    names = _axis_names(view)
    most = _LINE if len(ranges) == 1 else _PLANE
    cells = tuple(r[:: -(-len(r) // most)] for r in ranges)
    thinned = iter(slice(c.start, c.stop if c.stop >= 0 else None, c.step) for c in cells)
    values = view.take(tuple(next(thinned) if isinstance(entry, slice) else entry for entry in index))
    cuts = [
        f"{name}: {entry % n} of {n}"
        for name, entry, n in zip(names, index, shape, strict=True)
        if not isinstance(entry, slice)
    ]
    kept = tuple(name for name, entry in zip(names, index, strict=True) if isinstance(entry, slice))
    return Section(values, cells, kept, ", ".join(cuts))


def _axis_names(view: FieldView) -> list[str]:
    """Return what the axes are called, by the attributes that files have for it."""
    for key in ("dimensions", "dims", "_ARRAY_DIMENSIONS"):
        names = view.attributes.get(key)
        if isinstance(names, (list, tuple)) and len(names) == len(view.shape):
            return [str(name).replace("_", " ") for name in names]
    return [f"axis {axis}" for axis in range(len(view.shape))]


class RunningHistogram:
    """Counts of values that come piece by piece, in bins whose width is a power of two and grows as it needs to.

    Examples
    --------
    >>> histogram = RunningHistogram()
    >>> histogram.add(np.array([0.0, 1.0, 1.0, np.nan]))
    >>> edges, counts = histogram.bars(2)
    >>> edges.tolist(), counts.tolist()
    ([0.0, 1.0, 2.0], [1, 2])
    """

    def __init__(self) -> None:
        self._exponent = -1074  # bins are 2**exponent wide
        self._first = 0  # of the first bin: its lower edge over the width
        self._counts = np.zeros(0, np.int64)

    def add(self, values: NDArray[Any]) -> None:
        """Count values; those that are not finite are left out."""
        values = np.asarray(values, np.float64).ravel()
        values = values[np.isfinite(values)]
        if not values.size:
            return
        low, high = float(values.min()), float(values.max())
        least = math.frexp(max(abs(low), abs(high)))[1] - _BITS
        span = high / 2 - low / 2  # halved: it may be greater than any float
        wanted = math.frexp(span)[1] + 1 - int(math.log2(_FINE)) if span else least
        piece = RunningHistogram()
        piece._exponent = max(wanted, least, -1021)
        bins = np.floor(np.ldexp(values, -piece._exponent)).astype(np.int64)
        bins[(values < 0) & (bins == 0)] = -1  # what underflowed
        piece._first = int(bins.min())
        piece._counts = np.bincount(bins - piece._first)
        self._take(piece)

    def _take(self, other: "RunningHistogram") -> None:
        """Add the counts of another one, which is spoilt."""
        if not other._counts.size:
            return
        if not self._counts.size:
            self._exponent, self._first, self._counts = other._exponent, other._first, other._counts
        else:
            while self._exponent != other._exponent:
                (self if self._exponent < other._exponent else other)._coarsen()
            while max(self._last, other._last) - min(self._first, other._first) >= _FINE:
                self._coarsen()
                other._coarsen()
            first = min(self._first, other._first)
            counts = np.zeros(max(self._last, other._last) - first + 1, np.int64)
            for part in (self, other):
                counts[part._first - first : part._last - first + 1] += part._counts
            self._first, self._counts = first, counts
        while self._counts.size > _FINE:
            self._coarsen()

    @property
    def _last(self) -> int:
        return self._first + len(self._counts) - 1

    def _coarsen(self) -> None:
        counts = self._counts
        if self._first % 2:
            counts = np.concatenate([[0], counts])
        if len(counts) % 2:
            counts = np.concatenate([counts, [0]])
        self._exponent, self._first, self._counts = self._exponent + 1, self._first // 2, counts[::2] + counts[1::2]

    def gathered(self, comm: Communicator) -> "RunningHistogram":
        """Return the counts of all ranks; a collective call."""
        whole = RunningHistogram()
        for piece in comm.gather_objects(self):
            whole._take(piece)
        return whole

    def bars(self, most: int = 120) -> tuple[Values, NDArray[np.int64]]:
        """Return edges and counts of at most so many bins of equal width."""
        coarse = RunningHistogram()
        coarse._exponent, coarse._first, coarse._counts = self._exponent, self._first, self._counts
        while coarse._counts.size > most:
            coarse._coarsen()
        with np.errstate(over="ignore"):
            edges = np.ldexp(coarse._first + np.arange(coarse._counts.size + 1.0), coarse._exponent)
        greatest = np.finfo(np.float64).max
        return np.clip(edges, -greatest, greatest), coarse._counts


def spectrum(values: Values) -> tuple[Values, Values]:
    """Return the mean power of the waves of each length in a slice.

    Cells without a number are given the mean of the others. The mean is taken off and a Hann window put on, so that the
    edges make no waves.

    Parameters
    ----------
    values : numpy.ndarray
        Of 1 or 2 axes.

    Returns
    -------
    wave_number, power : numpy.ndarray
        In cycles a cell, and in the unit of the values squared. Empty where the slice is too small.
    """
    there = np.isfinite(values)
    if min(values.shape) < 4 or not there.any():
        return np.zeros(0), np.zeros(0)
    with np.errstate(over="ignore", invalid="ignore"):
        deviation = np.where(there, values - values[there].mean(), 0.0)
    weight = 1.0
    for axis, n in enumerate(values.shape):
        window = np.hanning(n + 2)[1:-1]
        deviation = deviation * window.reshape([-1 if i == axis else 1 for i in range(values.ndim)])
        weight *= float((window**2).sum())
    with np.errstate(over="ignore", invalid="ignore"):
        power = np.abs(np.fft.fftn(deviation)) ** 2 / weight
    frequencies = np.meshgrid(*[np.fft.fftfreq(n) for n in values.shape], indexing="ij", sparse=True)
    length = np.sqrt(sum(f**2 for f in frequencies))
    width = 1 / min(max(values.shape), 256)
    ring = np.rint(length / width).astype(int)
    inside = (ring > 0) & (length <= 0.5 + width / 2)
    counts = np.bincount(ring[inside])
    means = np.bincount(ring[inside], power[inside]) / np.maximum(counts, 1)
    rings = np.flatnonzero((counts > 0) & np.isfinite(means))
    return rings * width, means[rings]
