"""Every answer is within its bound of NumPy's on the original data, in extended precision."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hpcblaz as hb
from hpcblaz.errors import CodecError, ShapeError, UnsupportedOperationError

CASES = pytest.mark.parametrize("case", oracles.CASES, ids=lambda case: case.name)
PLANE = [case for case in oracles.CASES if case.ndim == 2]


@st.composite
def operands(
    draw: Any, case: oracles.Case, other: oracles.Case
) -> tuple[Any, hb.CompressedArray, Any, hb.CompressedArray]:
    """Draw two fields of one shape, and compress them; half of them have a factor and an offset."""
    x = draw(oracles.arrays(case))
    kind = draw(st.sampled_from([*oracles.KINDS, "nearly the same"]))
    dtype = draw(st.sampled_from(other.dtypes))
    if kind == "nearly the same":
        y = (x.astype(float) * (1 + 1e-3 * oracles.field("noise", x.shape, 9))).clip(-1e30, 1e30)
        y = y.astype(other.dtypes[0])
    else:
        y = oracles.to_dtype(oracles.field(kind, x.shape, draw(st.integers(0, 2**32))), dtype)
    a, b = draw(oracles.compressed(case, x)), draw(oracles.compressed(other, y))
    truth_x, truth_y = oracles.exact(x), oracles.exact(y)
    if draw(st.booleans()):
        factor, offset = draw(st.sampled_from([-2.0, 0.3, 1e-3])), draw(st.sampled_from([0.0, 1.5, -1000.0]))
        a, truth_x = np.float64(factor) * a + np.float64(offset), factor * truth_x + offset
    if draw(st.booleans()):
        b, truth_y = np.float64(3.0) - b, 3 - truth_y
    return truth_x, a, truth_y, b


def check_one(x: Any, a: hb.CompressedArray) -> None:
    oracles.assert_holds(a.mean(), oracles.mean(x))
    oracles.assert_holds(a.sum(), oracles.exact(x).sum())
    oracles.assert_holds(a.norm(), oracles.norm(x))
    for ddof in {0, min(1, x.size - 1)}:
        oracles.assert_holds(a.variance(ddof), oracles.variance(x, ddof))
        oracles.assert_holds(a.std(ddof), np.sqrt(oracles.variance(x, ddof)))


def check_blocks(x: Any, a: hb.CompressedArray) -> None:
    means, variances, deviations = a.block_mean(), a.block_variance(), a.block_std()
    for place, block in oracles.blocks(x, a.codec.block_shape or ()).items():
        assert abs(means.values[place] - block.mean()) <= means.error[place]
        assert abs(variances.values[place] - block.var()) <= variances.error[place]
        assert abs(deviations.values[place] - block.std()) <= deviations.error[place]


def check_two(x: Any, a: hb.CompressedArray, y: Any, b: hb.CompressedArray) -> None:
    oracles.assert_holds(hb.dot(a, b), oracles.dot(x, y))
    oracles.assert_holds(hb.covariance(a, b), oracles.covariance(x, y))
    if x.size > 1:
        oracles.assert_holds(hb.covariance(a, b, ddof=1), oracles.covariance(x, y, 1))
    lengths = oracles.norm(x) * oracles.norm(y)
    if lengths > 0:
        oracles.assert_holds(hb.cosine_similarity(a, b), oracles.dot(x, y) / lengths)
    span = float(2 * max(np.abs(x).max(), np.abs(y).max())) or 1.0
    for exponents in ((1, 1, 1), (0, 2, 3), (0.5, 1.5, 1), (1, 1, 0)):
        answer = hb.structural_similarity(
            a, b, data_range=span, luminance=exponents[0], contrast=exponents[1], structure=exponents[2]
        )
        with np.errstate(invalid="ignore"):
            truth = oracles.similarity(x, y, span, exponents)
        if np.isnan(truth):
            assert answer.error == math.inf
        else:
            oracles.assert_holds(answer, truth)
    if a.codec.block_shape == b.codec.block_shape:
        for order in (1, 2, 8):
            answer = hb.wasserstein_distance(a, b, order=order)
            assert abs(float(answer) - oracles.wasserstein(x, y, a.codec.block_shape or (), order)) <= answer.error


@CASES
@settings(max_examples=40)
@given(data=st.data())
def test_statistics_of_one_array(case: oracles.Case, data: st.DataObject) -> None:
    x = data.draw(oracles.arrays(case))
    a = data.draw(oracles.compressed(case, x))
    check_one(x, a)
    check_blocks(x, a)
    y, b = -0.25 * oracles.exact(x) + 3, np.float64(-0.25) * a + np.float64(3)
    check_one(y, b)
    check_blocks(y, b)


@pytest.mark.parametrize(
    ("case", "other"),
    [(case, case) for case in oracles.CASES if case.ndim != 2]
    + [(a, b) for a in PLANE for b in PLANE if a.name <= b.name],
    ids=lambda case: case.name,
)
@settings(max_examples=12)
@given(data=st.data())
def test_statistics_of_two_arrays(case: oracles.Case, other: oracles.Case, data: st.DataObject) -> None:
    check_two(*data.draw(operands(case, other)))


@CASES
@pytest.mark.parametrize("kind", ["smooth", "noise", "offset"])
def test_bounds_are_not_silly(case: oracles.Case, kind: str) -> None:
    shape = {1: (4000,), 2: (80, 90), 3: (20, 21, 22), 4: (9, 10, 11, 12)}[case.ndim]
    x = oracles.field(kind, shape, 6).astype(case.dtypes[0])
    relative = 5e-3 if kind == "offset" else 1e-3  # finer ones need double precision, which is not compiled here
    a = hb.compress(x, codec=case.codec) if case.fixed else hb.compress(x, relative=relative, codec=case.codec)
    largest = float(np.abs(x).max())
    room = 1e-13 * largest
    rms = a.error.l2 / math.sqrt(a.size)
    assert a.mean().error <= rms * 1.001 + room <= 1.01 * a.error.max_abs + 2 * room
    assert a.std().error <= rms * 1.01 + 1e-5 * float(x.std()) + room
    assert a.norm().error <= a.error.l2 * 1.01 + 1e-5 * float(oracles.norm(x))
    assert a.variance().error <= 2.1 * rms * float(x.std()) + 2 * rms**2 + 1e-5 * float(x.var()) + room**2
    assert (
        hb.dot(a, a).error
        <= 2.1 * a.error.l2 * float(oracles.norm(x)) + 1.1 * a.error.l2**2 + 1e-5 * float(oracles.norm(x)) ** 2
    )
    if not case.fixed:
        assert 1 - float(hb.cosine_similarity(a, a)) < 1e-9
        assert hb.cosine_similarity(a, a).error < 0.01
        if kind != "offset":
            assert hb.structural_similarity(a, a).error < 0.1


def test_the_original_is_as_similar_to_itself_as_claimed() -> None:
    x = oracles.field("noise", (64, 64)).astype(np.float32)
    a = hb.compress(x, tolerance=1e-3, codec=oracles.DCT_2D.codec)
    for answer in (hb.structural_similarity(a, a), hb.cosine_similarity(a, a)):
        assert abs(float(answer) - 1) <= min(answer.error, 1e-6)
        assert answer.error < 0.05
    assert float(hb.wasserstein_distance(a, a)) == 0


def test_default_range_of_the_structural_similarity() -> None:
    x, y = (oracles.field("noise", (32, 32), seed).astype(np.float32) for seed in (0, 1))
    a, b = (hb.compress(v, tolerance=1e-3, codec=oracles.DCT_2D.codec) for v in (x, y))
    span = 2 * float(max(np.abs(x).max(), np.abs(y).max()))
    oracles.assert_holds(hb.structural_similarity(a, b), oracles.similarity(x, y, span))
    answer = hb.structural_similarity(a, b, data_range=1.0, k1=0.0, k2=0.0)
    oracles.assert_holds(answer, oracles.similarity(x, y, 1.0, k=(0, 0)))


@pytest.mark.parametrize("order", [1, 1.5, 8, 68])
def test_wasserstein_distance_of_moved_mass(order: float) -> None:
    x = oracles.field("smooth", (40, 40), 2).astype(np.float32)
    y = x.copy()
    y[:16, :16] += 2
    a, b = (hb.compress(v, tolerance=1e-4, codec=oracles.DCT_2D.codec) for v in (x, y))
    answer = hb.wasserstein_distance(a, b, order=order)
    truth = oracles.wasserstein(x, y, (8, 8), order)
    assert abs(float(answer) - truth) <= answer.error
    assert answer.error < 0.01 * truth


def test_masses_that_underflow_still_count() -> None:
    """The exponential of one block is zero, but within the tolerance it might be all of the mass."""
    x, y = np.zeros((2, 16, 16), np.float32)
    x[:8] = 2000 + oracles.field("noise", (8, 16))
    y[8:, 8:] = 2000 + oracles.field("noise", (8, 8))
    for tolerance in (1e-2, 100.0, 1500.0):
        a, b = (hb.compress(v, tolerance=tolerance, codec=oracles.DCT_2D.codec) for v in (x, y))
        for left, right, u, v in ((a, b, x, y), (a, a + 1, x, x + 1), (a, b * 0, x, 0 * x)):
            answer = hb.wasserstein_distance(left, right, order=2)
            assert abs(float(answer) - oracles.wasserstein(u, v, (8, 8), 2)) <= answer.error


def test_sum_of_values_that_cancel() -> None:
    x = oracles.field("noise", (50, 50)) + 1e8
    a = hb.compress(x, tolerance=1.0, codec=oracles.DCT_2D_DOUBLE.codec)
    moved = a - 1e8
    for ours, truth in ((a, x), (moved, oracles.exact(x) - np.longdouble(1e8))):
        check_one(truth, ours)
        check_blocks(truth, ours)


def test_answers_of_empty_arrays() -> None:
    a = hb.compress(np.zeros((0, 5), np.float32), tolerance=1e-3)
    assert (a.sum(), a.sum().error, a.norm(), hb.dot(a, a)) == (0, 0, 0, 0)
    assert a.block_mean().values.shape == (0, 1)
    for name in ("mean", "variance", "std"):
        with pytest.raises(ShapeError, match=r"expected an array with values for its .*, got shape \(0, 5\)"):
            getattr(a, name)()
    for function in (hb.covariance, hb.cosine_similarity, hb.structural_similarity, hb.wasserstein_distance):
        with pytest.raises(ShapeError, match=r"got shape \(0, 5\)"):
            function(a, a)


def test_squares_beyond_double_precision_have_no_bound() -> None:
    x = oracles.field("noise", (32, 32), 1)
    a = hb.compress(x, tolerance=1e-4, codec=oracles.DCT_2D_DOUBLE.codec)
    for scale in (1e-200, 1e200, 1e-160, 1e160):
        b = scale * a
        for answer in (b.norm(), b.variance(), b.std(), hb.dot(b, b), hb.covariance(b, b), hb.cosine_similarity(b, a)):
            assert answer.error == math.inf
        oracles.assert_holds(b.mean(), oracles.exact(x).mean() * np.longdouble(scale))
    oracles.assert_holds((1e-100 * a).norm(), oracles.norm(x) * np.longdouble(1e-100))


def test_senseless_arguments_are_refused() -> None:
    x = oracles.field("noise", (24, 24)).astype(np.float32)
    a = hb.compress(x, tolerance=1e-2, codec=oracles.DCT_2D.codec)
    small = hb.compress(x[:20], tolerance=1e-2, codec=oracles.DCT_2D.codec)
    for function in (hb.dot, hb.covariance, hb.cosine_similarity, hb.structural_similarity, hb.wasserstein_distance):
        with pytest.raises(ShapeError, match=r"expected two arrays of one shape, got \(24, 24\) and \(20, 24\)"):
            function(a, small)
        with pytest.raises(UnsupportedOperationError, match="expected b to be a CompressedArray, got ndarray"):
            function(a, x)
        with pytest.raises(UnsupportedOperationError, match="expected a to be a CompressedArray, got ndarray"):
            function(x, a)
    for one in (hb.mean, hb.total, hb.norm, hb.variance, hb.standard_deviation, hb.block_mean, hb.block_variance):
        with pytest.raises(UnsupportedOperationError, match="expected a to be a CompressedArray, got ndarray"):
            one(x)
    for ddof in (-1, 576):
        with pytest.raises(ShapeError, match=f"expected ddof from 0 to 575 for 576 values, got {ddof}"):
            a.variance(ddof)
        with pytest.raises(ShapeError, match="expected ddof"):
            hb.covariance(a, a, ddof=ddof)
    for order in (0.5, math.nan, math.inf):
        with pytest.raises(UnsupportedOperationError, match="expected an order of at least 1, got"):
            hb.wasserstein_distance(a, a, order=order)
    other = hb.compress(x, tolerance=1e-2, codec=hb.ToleranceCodec((4, 8), "identity"))
    with pytest.raises(CodecError, match=r"expected two arrays of one block shape, got \(8, 8\) and \(4, 8\)"):
        hb.wasserstein_distance(a, other)
    for options in (
        {"data_range": 0.0}, {"data_range": -1.0}, {"data_range": math.inf}, {"data_range": math.nan},
        {"k1": -1.0}, {"k2": math.nan}, {"luminance": -1.0}, {"contrast": math.inf}, {"structure": math.nan},
    ):  # fmt: skip
        with pytest.raises(UnsupportedOperationError, match=r"expected k1, k2 and the exponents .*, got"):
            hb.structural_similarity(a, a, **options)
