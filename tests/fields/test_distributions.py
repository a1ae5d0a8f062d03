"""Norms of any order, histograms and transport distances of values, against NumPy on the original fields."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hpcblaz as hb
from hpcblaz.errors import ShapeError, UnsupportedOperationError

SOME = [oracles.DCT_2D, oracles.IDENTITY_2D, oracles.DCT_2D_DOUBLE, oracles.INT8_2D, oracles.DCT_1D]
CASES = pytest.mark.parametrize("case", SOME, ids=lambda case: case.name)


@pytest.fixture(autouse=True)
def on_host(device: str) -> None:
    if device != "cpu":
        pytest.skip("extremes are found on the CPU only")


ORDERS = (1.0, 1.5, 2.0, 3.0, 8.0, 68.0, math.inf)


def power_norm(x: Any, order: float) -> Any:
    largest = np.abs(x).max()
    if largest == 0 or order == math.inf:
        return largest
    return largest * ((np.abs(x) / largest) ** np.longdouble(order)).sum() ** (1 / np.longdouble(order))


def distance(x: Any, y: Any, order: float) -> Any:
    apart = np.sort(x, axis=None) - np.sort(y, axis=None)
    return power_norm(apart, order) * (1 if order == math.inf else x.size ** (-1 / np.longdouble(order)))


@st.composite
def operands(draw: Any, case: oracles.Case) -> tuple[Any, hb.CompressedArray]:
    x = draw(oracles.arrays(case))
    a, truth = draw(oracles.compressed(case, x)), oracles.exact(x)
    if draw(st.booleans()):
        a, truth = np.float64(-0.3) * a + np.float64(100), -0.3 * truth + 100
    return truth, a


@CASES
@settings(max_examples=20)
@given(data=st.data())
def test_norms(case: oracles.Case, data: st.DataObject) -> None:
    x, a = data.draw(operands(case))
    for order in ORDERS:
        oracles.assert_holds(hb.norm(a, order=order), power_norm(x, order))


@CASES
@settings(max_examples=20)
@given(data=st.data())
def test_histograms(case: oracles.Case, data: st.DataObject) -> None:
    x, a = data.draw(operands(case))
    low, high = float(x.min()), float(x.max())
    span = max(high - low, 1e-3 * abs(low)) or 1.0
    choices: list[Any] = [
        (7, None),
        (5, (low + 0.1 * span, low + span)),
        ([low - span, low, low + span / 3, high + span], None),
    ]
    for bins, limits in choices:
        h = hb.histogram(a, bins, limits=limits)
        truth = np.array(
            [
                ((x >= e) & ((x < f) | (last & (x == f)))).sum()
                for e, f, last in zip(
                    h.edges, h.edges[1:], np.arange(1, len(h.edges)) == len(h.edges) - 1, strict=False
                )
            ]
        )
        assert np.all((h.low <= truth) & (truth <= h.high))
        assert np.all((h.low <= h.counts) & (h.counts <= h.high))
        assert h.counts.sum() <= x.size


def test_a_histogram_is_that_of_the_decoded_values() -> None:
    x = oracles.field("noise", (90, 80), 4)
    a = hb.compress(x, tolerance=1e-5, codec=oracles.DCT_2D_DOUBLE.codec)
    h = hb.histogram(a, 30)
    counts, edges = np.histogram(a.decompress(), 30)
    np.testing.assert_allclose(h.edges, edges, rtol=1e-12)
    assert abs(h.counts - counts).max() <= 1
    assert (h.high - h.low).max() <= 10
    assert hb.histogram(0 * a + 3, 3).counts.tolist() == [0, x.size, 0]


@CASES
@settings(max_examples=15)
@given(data=st.data())
def test_transport_distances(case: oracles.Case, data: st.DataObject) -> None:
    x, a = data.draw(operands(case))
    seed = data.draw(st.integers(0, 2**32))
    y = oracles.to_dtype(oracles.field(data.draw(st.sampled_from(oracles.KINDS)), x.shape, seed), case.dtypes[0])
    b = data.draw(oracles.compressed(case, y))
    for order in ORDERS:
        answer = hb.value_wasserstein_distance(a, b, order=order)
        oracles.assert_holds(answer, distance(x, oracles.exact(y), order))
    assert float(hb.value_wasserstein_distance(a, a)) == 0


def test_refusals() -> None:
    x = oracles.field("noise", (24, 24)).astype(np.float32)
    a = hb.compress(x, tolerance=1e-2, codec=oracles.DCT_2D.codec)
    small = hb.compress(x[:20], tolerance=1e-2, codec=oracles.DCT_2D.codec)
    empty = hb.compress(x[:0], tolerance=1e-2, codec=oracles.DCT_2D.codec)
    for order in (0.5, math.nan, -1.0):
        with pytest.raises(UnsupportedOperationError, match="expected an order of at least 1"):
            hb.norm(a, order=order)
        with pytest.raises(UnsupportedOperationError, match="expected an order of at least 1"):
            hb.value_wasserstein_distance(a, a, order=order)
    with pytest.raises(ShapeError, match="one shape"):
        hb.value_wasserstein_distance(a, small)
    with pytest.raises(ShapeError, match="an array with values"):
        hb.value_wasserstein_distance(empty, empty)
    with pytest.raises(ShapeError, match="an array with values"):
        hb.histogram(empty)
    assert hb.norm(empty, order=3) == 0
    for bins, limits in ((0, (0, 1)), ([1.0], None), ([1, 1, 2], None), ([0, 1], (0, 1)), (3, (1, 0)), ("x", None)):
        with pytest.raises(UnsupportedOperationError, match="expected"):
            hb.histogram(a, bins, limits=limits)  # type: ignore[arg-type]
