"""Gradients, divergences and windowed structural similarity, against NumPy on the original fields."""

from __future__ import annotations

from typing import Any

import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hpcblaz as hb
from hpcblaz.errors import ShapeError, UnsupportedOperationError

SOME = [oracles.DCT_2D, oracles.IDENTITY_2D, oracles.INT8_2D, oracles.DCT_1D, oracles.HAAR_4D_DOUBLE]
CASES = pytest.mark.parametrize("case", SOME, ids=lambda case: case.name)


def gradient(x: Any, spacing: Any) -> list[Any]:
    found = np.gradient(x, *spacing)
    return [found] if isinstance(found, np.ndarray) else list(found)


@CASES
@settings(max_examples=15)
@given(data=st.data())
def test_gradients_and_divergences(case: oracles.Case, data: st.DataObject) -> None:
    x = data.draw(oracles.arrays(case, least=2))
    a, truth = data.draw(oracles.compressed(case, x)), oracles.exact(x)
    if data.draw(st.booleans()):
        a, truth = np.float64(-0.3) * a + np.float64(100), -0.3 * truth + 100
    spacing = [0.5, 2.0, 0.1, 1.0][: x.ndim]
    exact = gradient(truth, spacing)
    for found, expected in zip(hb.gradient(a, spacing), exact, strict=True):
        oracles.assert_within_certificate(expected, found.astype(np.float64))
        oracles.assert_holds(found.mean(), expected.mean())
    whole = hb.divergence([a] * x.ndim, spacing)
    oracles.assert_within_certificate(sum(exact), whole.astype(np.float64))


def similarity(x: Any, y: Any, window: int, span: float) -> Any:
    """The mean similarity of all windows, from its definition."""
    axes = tuple(range(x.ndim))
    views = [np.lib.stride_tricks.sliding_window_view(v, (window,) * v.ndim) for v in (x, y)]
    axes = tuple(range(x.ndim, 2 * x.ndim))
    mx, my = (view.mean(axis=axes, keepdims=True) for view in views)
    cells = window**x.ndim
    dx, dy = views[0] - mx, views[1] - my
    vx, vy, vxy = ((u * v).sum(axis=axes) / (cells - 1) for u, v in ((dx, dx), (dy, dy), (dx, dy)))
    mx, my = mx.reshape(vx.shape), my.reshape(vx.shape)
    c1, c2 = (0.01 * np.longdouble(span)) ** 2, (0.03 * np.longdouble(span)) ** 2
    return ((2 * mx * my + c1) * (2 * vxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean()


@pytest.mark.parametrize("case", SOME[:3], ids=lambda case: case.name)
@settings(max_examples=15)
@given(data=st.data())
def test_similarity_of_windows(case: oracles.Case, data: st.DataObject) -> None:
    x = data.draw(oracles.arrays(case, least=7))
    y = x.astype(float) + float(np.abs(x.astype(float)).max()) * 0.1 * oracles.field("noise", x.shape, 3)
    y = y.astype(np.float32)
    a, b = data.draw(oracles.compressed(case, x)), data.draw(oracles.compressed(case, y))
    span = 2 * float(np.abs(y).max()) or 1.0
    answer = hb.local_structural_similarity(a, b, data_range=span)
    oracles.assert_holds(answer, similarity(oracles.exact(x), oracles.exact(y), 7, span))
    if np.abs(x.astype(float)).max() > 0:
        assert float(hb.local_structural_similarity(a, a, window=3)) == pytest.approx(1.0, abs=1e-9)


def test_bounds_are_not_silly() -> None:
    x = oracles.field("smooth", (60, 70), 1).astype(np.float32)
    y = (x + 0.03 * oracles.field("noise", (60, 70), 2)).astype(np.float32)
    a, b = (hb.compress(v, tolerance=1e-4, codec=oracles.DCT_2D.codec) for v in (x, y))
    answer = hb.local_structural_similarity(a, b, data_range=2.0)
    assert answer.error < 0.02
    assert all(part.error.max_abs <= 1.1 * 2e-4 for part in hb.gradient(a))


def test_refusals() -> None:
    x = oracles.field("noise", (24, 24)).astype(np.float32)
    a = hb.compress(x, tolerance=1e-2, codec=oracles.DCT_2D.codec)
    line = hb.compress(x[:1], tolerance=1e-2, codec=oracles.DCT_2D.codec)
    with pytest.raises(ShapeError, match="at least two cells along every axis"):
        hb.gradient(line)
    with pytest.raises(ShapeError, match="a spacing for each of the 2 axes, got 1"):
        hb.gradient(a, [1.0])
    with pytest.raises(UnsupportedOperationError, match="expected positive spacings"):
        hb.gradient(a, -1.0)
    with pytest.raises(UnsupportedOperationError, match="expected a to be a CompressedArray"):
        hb.gradient(x)  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="a component for each of the 2 axes, got 1"):
        hb.divergence([a])
    with pytest.raises(ShapeError, match="one shape"):
        hb.divergence([a, line])
    with pytest.raises(ShapeError, match="expected at least 7 cells"):
        hb.local_structural_similarity(line, line)
    for options in ({"window": 1}, {"k1": 0.0}, {"data_range": -1.0}, {"window": 2.5}):
        with pytest.raises(UnsupportedOperationError, match="expected"):
            hb.local_structural_similarity(a, a, **options)
