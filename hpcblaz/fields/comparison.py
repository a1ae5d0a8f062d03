"""How far two fields are from each other, in the measures of the field, from one pass over their values.

Values are those that the fields decompress to. Every measure comes with a bound of its distance from the same measure
of the data that the fields were compressed from; docs/certificates.md derives the bounds ("Comparisons").
"""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpcblaz.fields.array import CompressedArray
from hpcblaz.fields.certificates import UNIT, Interval, direction_error
from hpcblaz.fields.scalars import CertifiedFloat
from hpcblaz.fields.statistics import similarity_factors
from hpcblaz.fields.views import FieldView, Values, slab_cells, slabs
from hpcblaz.mpi import Communicator

_LEAST = 2.0**-1074  # what a product may lose to underflow, and a sum never


class Comparison(NamedTuple):
    """What two fields have in common, and what not.

    Parameters
    ----------
    cells : int
        Cells with a number in both fields: what the measures are of.
    missing : tuple of int
        Cells of either field with no finite number.
    measures : dict of str to CertifiedFloat
        By name: ``largest_difference``, ``mean_difference``, ``root_mean_square_error``, ``relative_l2_error``,
        ``psnr`` (in decibel), ``cosine_similarity`` and ``structural_similarity``. Differences are the second field
        minus the first; the error is relative to the norm of the first, and the PSNR to its range. NaN where a measure
        has no value.
    """

    cells: int
    missing: tuple[int, int]
    measures: dict[str, CertifiedFloat]


def compare(a: FieldView, b: FieldView, comm: Communicator) -> Comparison:
    """Compare two fields; a collective call.

    Parameters
    ----------
    a, b : FieldView
        Of one shape and layout. Cells with no finite number in either field are left out, and counted.
    comm : Communicator
        Of the layout's ranks.

    Returns
    -------
    Comparison

    Raises
    ------
    ShapeError
        If shapes differ.

    Examples
    --------
    >>> import numpy as np, hpcblaz as hb
    >>> from hpcblaz.mpi import SerialCommunicator
    >>> x = np.random.default_rng(0).normal(size=(40, 40))
    >>> a, b = FieldView.of("x", x), FieldView.of("compressed", hb.compress(x, tolerance=1e-2))
    >>> found = compare(a, b, SerialCommunicator())
    >>> bool(found.measures["largest_difference"] <= 1e-2)
    True
    """
    with comm.together():
        centers = _centers(a, b)
    weights = comm.allgather(centers)
    parts = math.fsum(weights[:, 2])
    center_a, center_b = (math.fsum(weights[:, i]) / parts if parts else 0.0 for i in (0, 1))
    with comm.together():
        sums, ends = _sweep(a, b, center_a, center_b)
    every = comm.allgather(np.concatenate([sums, ends]))
    totals = [math.fsum(column) for column in every[:, : len(sums)].T]
    extremes = every[:, len(sums) :].max(axis=0)
    cells = int(totals[0])
    found = _Sums(cells, center_a, center_b, *totals[3:])
    rounding = 1.01 * (slab_cells(a, b) + 16) * UNIT
    measures = _measures(found, extremes, a, b, rounding) if cells else {}
    return Comparison(cells, (int(totals[1]), int(totals[2])), measures)


def _centers(a: FieldView, b: FieldView) -> NDArray[np.float64]:
    """Return a number near the mean of either field, and whether there is one; they need not be exact."""
    for x, y in slabs(a, b):
        there = np.isfinite(x) & np.isfinite(y)
        if there.any():
            with np.errstate(over="ignore", invalid="ignore"):
                means = np.array([x[there].mean(), y[there].mean(), 1.0])
            return means if np.isfinite(means).all() else np.array([0.0, 0.0, 1.0])
    return np.zeros(3)


def _sweep(
    a: FieldView, b: FieldView, center_a: float, center_b: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return sums and greatest values over this rank's cells, see `_Sums` and `_measures`."""
    rows: list[list[float]] = [[0.0] * 13]
    ends = np.full(5, -math.inf)
    for x, y in slabs(a, b):
        in_a, in_b = np.isfinite(x), np.isfinite(y)
        there = in_a & in_b
        if not there.all():
            x, y = x[there], y[there]
        x, y = x.ravel(), y.ravel()
        lost = [float(in_a.size - np.count_nonzero(in_a)), float(in_b.size - np.count_nonzero(in_b))]
        if not x.size:
            rows.append([0.0, *lost, *[0.0] * 10])
            continue
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            d, u, v = y - x, x - center_a, y - center_b
            sums = [d.sum(), d @ d, x @ x, y @ y, x @ y, u.sum(), v.sum(), u @ u, v @ v, u @ v]
        rows.append([float(x.size), *lost, *map(float, sums)])
        ends = np.maximum(ends, [np.abs(d).max(), x.max(), -x.min(), y.max(), -y.min()])
    with np.errstate(over="ignore"):
        return np.array([_sum(column) for column in zip(*rows, strict=True)]), ends


def _sum(column: tuple[float, ...]) -> float:
    try:
        return math.fsum(column)
    except (OverflowError, ValueError):  # infinities: the measure has no value
        return math.nan


class _Sums(NamedTuple):
    """Sums over the cells, of the difference d = y - x, of the values, and of the deviations u, v from the centres."""

    cells: int
    center_a: float
    center_b: float
    d: float
    dd: float
    xx: float
    yy: float
    xy: float
    u: float
    v: float
    uu: float
    vv: float
    uv: float


class _Moments(NamedTuple):
    """What is known of one field: its norm, mean and standard deviation as intervals, and the bounds of its error."""

    norm: Interval
    mean: Interval
    deviation: Interval
    l2: float
    delta: float


def _measures(s: _Sums, ends: Values, a: FieldView, b: FieldView, rounding: float) -> dict[str, CertifiedFloat]:
    """Return all measures: the numbers, and the intervals in which those of the original data lie."""
    n = float(s.cells)
    largest, top, bottom = float(ends[0]), float(ends[1]), -float(ends[2])
    span = Interval.around(top - bottom, UNIT * (top - bottom))

    def squares(total: float) -> Interval:
        """A sum of squares, with its roundings."""
        return Interval.around(total, rounding * total + n * _LEAST).intersect(0.0, math.inf)

    def products(total: float, first: Interval, second: Interval) -> Interval:
        """A sum of products, with its roundings: its terms are bounded by those two sums of squares."""
        return Interval.around(total, (_root(first * second) * rounding).high + n * _LEAST)

    def moments(center: float, u: float, uu: float, xx: float, view: FieldView) -> _Moments:
        shift = products(u, squares(uu), Interval(n, n)) / n
        deviation = _root(squares(uu) / n + shift.square() * -1.0)
        delta = min(view.error.max_abs, (Interval(view.error.l2, view.error.l2) / _root(Interval(n, n))).high)
        return _Moments(_root(squares(xx)), shift + center, deviation, view.error.l2, delta)

    p = moments(s.center_a, s.u, s.uu, s.xx, a)
    q = moments(s.center_b, s.v, s.vv, s.yy, b)
    dd = squares(s.dd)
    far = (Interval(a.error.max_abs, a.error.max_abs) + b.error.max_abs).high
    norm = (Interval(p.l2, p.l2) + q.l2).high
    delta = (Interval(p.delta, p.delta) + q.delta).high
    rms = _widen(_root(dd / n), delta, 0.0)
    found = {
        "largest_difference": (largest, Interval.around(largest, (UNIT * largest + far) * (1 + 2.0**-50))),
        "mean_difference": (s.d / n, _widen(products(s.d, dd, Interval(n, n)) / n, delta)),
        "root_mean_square_error": (math.sqrt(s.dd / n), rms),
        "relative_l2_error": (
            _ratio(math.sqrt(s.dd), math.sqrt(s.xx)),
            _widen(_root(dd), norm, 0.0) / _widen(p.norm, p.l2, 0.0),
        ),
        "psnr": (
            _decibel(_ratio(top - bottom, math.sqrt(s.dd / n))),
            _decibels(_widen(span, 2 * a.error.max_abs, 0.0) / rms),
        ),
        "cosine_similarity": (
            float(np.clip(_ratio(s.xy, math.sqrt(s.xx) * math.sqrt(s.yy)), -1.0, 1.0)),
            _widen(
                products(s.xy, squares(s.xx), squares(s.yy)) / (p.norm * q.norm),
                sum(direction_error(max(0.0, known.norm.low), known.l2) for known in (p, q)),
            ).intersect(-1.0, 1.0),
        ),
        "structural_similarity": _similarity(
            s,
            p,
            q,
            products(s.uv, squares(s.uu), squares(s.vv)),
            2 * max(_magnitude(a, ends[1:3]), _magnitude(b, ends[3:])),
        ),
    }
    return {name: _certified(value, interval) for name, (value, interval) in found.items()}


def _magnitude(view: FieldView, ends: Values) -> float:
    """Return the greatest magnitude of a field, as `hpcblaz.structural_similarity` takes it where it can."""
    return view.field._magnitude if isinstance(view.field, CompressedArray) else float(ends.max())


def _similarity(s: _Sums, p: _Moments, q: _Moments, uv: Interval, span: float) -> tuple[float, Interval]:
    """Return the global structural similarity of two fields, as `hpcblaz.structural_similarity` does."""
    n = float(s.cells)
    span = span or 1.0
    c1, c2 = (0.01 * span) * (0.01 * span), (0.03 * span) * (0.03 * span)
    u, v = s.u / n, s.v / n
    factors = similarity_factors(
        s.center_a + u,
        s.center_b + v,
        math.sqrt(max(0.0, s.uu / n - u * u)),
        math.sqrt(max(0.0, s.vv / n - v * v)),
        s.uv / n - u * v,
        c1,
        c2,
    )
    shifts = (p.mean + -s.center_a) * (q.mean + -s.center_b)
    moved = Interval(p.delta, p.delta) * q.deviation + Interval(q.delta, q.delta) * p.deviation
    bounds = similarity_factors(
        _widen(p.mean, p.delta),
        _widen(q.mean, q.delta),
        _widen(p.deviation, p.delta, 0.0),
        _widen(q.deviation, q.delta, 0.0),
        _widen(uv / n + shifts * -1.0, (moved + Interval(p.delta, p.delta) * q.delta).high),
        c1,
        c2,
    )
    whole = Interval(1.0, 1.0)
    for bound in bounds:
        whole = whole * bound.intersect(-1.0, 1.0)
    return math.prod(factors), whole


def _root(square: Interval) -> Interval:
    return square.intersect(0.0, math.inf).power(0.5)


def _widen(interval: Interval, error: float, least: float = -math.inf) -> Interval:
    return (interval + Interval(-error, error)).intersect(least, math.inf)


def _ratio(numerator: float, denominator: float) -> float:
    if math.isinf(denominator) or not (numerator or denominator):
        return math.nan
    return numerator / denominator if denominator else math.inf


def _decibel(ratio: float) -> float:
    if math.isnan(ratio):
        return math.nan
    return 20 * math.log10(ratio) if ratio > 0 else -math.inf


def _decibels(ratio: Interval) -> Interval:
    low, high = (_decibel(end) for end in (max(0.0, ratio.low), ratio.high))
    return Interval(Interval.around(low, 8 * UNIT * abs(low)).low, Interval.around(high, 8 * UNIT * abs(high)).high)


def _certified(value: float, interval: Interval) -> CertifiedFloat:
    known = math.isfinite(interval.low) and math.isfinite(interval.high) and math.isfinite(value)
    return CertifiedFloat(value, interval.error_of(value) if known else math.inf)
