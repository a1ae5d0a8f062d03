"""Gram matrices, distances, modes and linear combinations, against NumPy on the original fields."""

from __future__ import annotations

from typing import Any

import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hpcblaz as hb
from hpcblaz.errors import CodecError, ShapeError, UnsupportedOperationError

CASES = pytest.mark.parametrize("case", oracles.CASES, ids=lambda case: case.name)


@st.composite
def snapshots(draw: Any, case: oracles.Case) -> tuple[list[Any], list[hb.CompressedArray]]:
    """Draw some fields of one shape, some of them nearly equal; some have a factor and an offset."""
    first = draw(oracles.arrays(case))
    fields, truths, arrays = [first], [], []
    for _ in range(draw(st.integers(0, 4))):
        values = oracles.field(draw(st.sampled_from(oracles.KINDS)), first.shape, draw(st.integers(0, 2**32)))
        if draw(st.booleans()):
            fields.append((first.astype(float) * (1 + 1e-3 * values)).clip(-1e30, 1e30).astype(case.dtypes[0]))
        else:
            fields.append(oracles.to_dtype(values, draw(st.sampled_from(case.dtypes))))
    for x in fields:
        a, truth = draw(oracles.compressed(case, x)), oracles.exact(x)
        if draw(st.booleans()):
            factor, offset = draw(st.sampled_from([-2.0, 0.3, 1e-3, 0.0])), draw(st.sampled_from([0.0, 1.5, -1000.0]))
            a, truth = np.float64(factor) * a + np.float64(offset), factor * truth + offset
        truths.append(truth)
        arrays.append(a)
    return truths, arrays


def check(truths: list[Any], arrays: list[hb.CompressedArray]) -> None:
    x = np.stack([truth.ravel() for truth in truths])
    g, d = hb.gram(arrays), hb.pairwise_distances(arrays)
    distances = np.sqrt(((x[:, None] - x[None]) ** 2).sum(axis=-1))
    for found, truth in ((g, x @ x.T), (d, distances)):
        assert found.values.shape == found.error.shape == truth.shape
        assert np.array_equal(found.values, found.values.T)
        assert np.all(np.abs(found.values - truth) <= found.error)


@CASES
@settings(max_examples=20)
@given(data=st.data())
def test_products_and_distances(case: oracles.Case, data: st.DataObject) -> None:
    check(*data.draw(snapshots(case)))


@settings(max_examples=10)
@given(data=st.data())
def test_arrays_of_different_codecs_are_decoded(data: st.DataObject) -> None:
    x = data.draw(oracles.arrays(oracles.DCT_2D))
    cases = (oracles.DCT_2D, oracles.INT8_2D, oracles.IDENTITY_2D, oracles.DCT_2D_DOUBLE)
    arrays = [data.draw(oracles.compressed(case, x.astype(case.dtypes[0]))) for case in cases]
    check([oracles.exact(x.astype(case.dtypes[0])) for case in cases], arrays)


@CASES
@settings(max_examples=20)
@given(data=st.data())
def test_linear_combinations(case: oracles.Case, data: st.DataObject) -> None:
    truths, arrays = data.draw(snapshots(case))
    weight = st.sampled_from([1.0, -1.0, 0.0, 0.5, 0.3, -7.0, 1e-3])
    weights = data.draw(st.lists(weight, min_size=len(arrays), max_size=len(arrays)))
    c = hb.linear_combination(weights, arrays).astype(np.float64)
    truth = sum(w * t for w, t in zip(weights, truths, strict=True))
    oracles.assert_within_certificate(truth, c)
    oracles.assert_holds(c.mean(), oracles.mean(truth))
    largest = sum(abs(w) * a._field_error.max_abs for w, a in zip(weights, arrays, strict=True))
    scale = sum(abs(w) * (a._magnitude + 2000) for w, a in zip(weights, arrays, strict=True))
    if not case.fixed:
        assert c.error.max_abs <= 2 * largest + 1e-6 * scale + 1e-30


def test_a_sum_of_many_is_rounded_once() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 24, 24)).astype(np.float32)
    arrays = [hb.compress(step, tolerance=1e-2, codec=oracles.DCT_2D.codec) for step in x]
    c = hb.linear_combination(np.full(40, 1 / 40), arrays)
    assert c.error.max_abs <= 1.01 * max(a.error.max_abs for a in arrays)
    assert hb.linear_combination([1, 1, -1], arrays[:3]).error.max_abs <= 3.0001e-2
    exact = hb.linear_combination([1.0, -1.0], arrays[:2])
    np.testing.assert_array_equal(exact.decompress(), (arrays[0] - arrays[1]).decompress())


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("case", [oracles.DCT_2D, oracles.DCT_2D_DOUBLE, oracles.INT8_2D], ids=lambda case: case.name)
def test_modes(case: oracles.Case, center: bool) -> None:
    t, s = np.linspace(0, 6, 12), np.linspace(0, 9, 40 * 40).reshape(40, 40)
    x = np.stack([np.sin(k) * np.cos(s) + 0.3 * np.cos(3 * k) * np.sin(2 * s) + 5 for k in t]).astype(case.dtypes[0])
    arrays = [
        hb.compress(step, codec=case.codec) if case.fixed else hb.compress(step, tolerance=1e-3, codec=case.codec)
        for step in x
    ]
    p = hb.pod(arrays, 6, center=center)
    flat = x.reshape(12, -1).astype(np.float64)
    flat = flat - flat.mean(axis=0) if center else flat
    assert np.all(np.abs(p.singular_values - np.linalg.svd(flat, compute_uv=False)[:6]) <= p.error)
    assert p.error.max() < 0.1 * p.singular_values[0]
    leading = range(2 if center else 3)
    modes = np.stack([p.mode(k).decompress().ravel() for k in leading]).astype(np.float64)
    np.testing.assert_allclose(modes @ modes.T, np.eye(len(modes)), atol=0.05)
    rest = flat - p.coefficients[list(leading)].T @ modes
    assert np.linalg.norm(rest) <= 0.1 * np.linalg.norm(flat)


def test_equal_arrays_have_no_distance() -> None:
    x = oracles.field("noise", (30, 30), 2).astype(np.float32)
    a = hb.compress(x, tolerance=1e-3, codec=oracles.DCT_2D.codec)
    d = hb.pairwise_distances([a, a, a + 1])
    assert (d.values[0, 1], d.error[0, 0]) == (0, 0)
    assert abs(d.values[0, 2] - 30) < 1e-9
    far = hb.pairwise_distances([a + 1e8, a + 1e8])
    assert far.values[0, 1] == 0


def test_squares_beyond_double_precision_have_no_bound() -> None:
    a = hb.compress(oracles.field("noise", (32, 32), 1), tolerance=1e-4, codec=oracles.DCT_2D_DOUBLE.codec)
    g = hb.gram([a, 1e200 * a])
    assert np.isfinite(g.error).tolist() == [[True, False], [False, False]]


def test_empty_arrays() -> None:
    a = hb.compress(np.zeros((0, 5), np.float32), tolerance=1e-3)
    assert hb.gram([a, a]).values.tolist() == hb.pairwise_distances([a, a]).values.tolist() == [[0, 0], [0, 0]]
    assert hb.linear_combination([1, 2], [a, a]).shape == (0, 5)


def test_refusals() -> None:
    x = oracles.field("noise", (24, 24)).astype(np.float32)
    a = hb.compress(x, tolerance=1e-2, codec=oracles.DCT_2D.codec)
    small = hb.compress(x[:20], tolerance=1e-2, codec=oracles.DCT_2D.codec)
    for function in (hb.gram, hb.pairwise_distances, lambda arrays: hb.pod(arrays, 1)):
        with pytest.raises(ShapeError, match="expected at least one array"):
            function([])
        with pytest.raises(ShapeError, match="one shape"):
            function([a, small])
        with pytest.raises(UnsupportedOperationError, match=r"expected arrays\[1\] to be a CompressedArray"):
            function([a, x])
    with pytest.raises(ShapeError, match="expected 1 to 2 modes of 2 snapshots, got 3"):
        hb.pod([a, a], 3)
    with pytest.raises(ShapeError, match="a weight for each of 2 arrays, got 1"):
        hb.linear_combination([1.0], [a, a])
    with pytest.raises(CodecError, match="one codec"):
        hb.linear_combination([1, 1], [a, hb.compress(x, codec=oracles.INT8_2D.codec)])
    with pytest.raises(UnsupportedOperationError, match="finite number"):
        hb.linear_combination([np.inf], [a])
    with pytest.raises(UnsupportedOperationError, match="that float64 holds"):
        hb.linear_combination([1e308, 1e308], [a, a])
