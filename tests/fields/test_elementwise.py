"""Functions of every value, and NumPy's protocols: bounds are never broken, and NumPy's functions find ours."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hpcblaz as hb
from hpcblaz.errors import LayoutError, ShapeError, UnsupportedOperationError

SETTINGS = settings(max_examples=10)
CASES = pytest.mark.parametrize(
    "case", [oracles.DCT_2D, oracles.DCT_2D_DOUBLE, oracles.INT8_2D], ids=lambda case: case.name
)
ONE = ["absolute", "sin", "cos", "tanh", "arctan", "exp", "expm1", "sqrt", "cbrt", "log", "log1p", "square"]
ONE += ["reciprocal", "arcsin", "arcsinh", "sinh", "exp2", "degrees"]
TWO = ["add", "subtract", "multiply", "divide", "minimum", "maximum", "hypot", "fmin", "logaddexp"]


def operand(data: st.DataObject, case: oracles.Case, shape: Any = None) -> tuple[oracles.Array, hb.CompressedArray]:
    kind = data.draw(st.sampled_from(oracles.KINDS))
    shape = data.draw(oracles.shapes(case.ndim)) if shape is None else shape
    values = oracles.field(kind, shape, data.draw(st.integers(0, 2**32))) * data.draw(st.sampled_from([1, 0.1, 30]))
    x = values.astype("float64" if case.precision == "float64" else "float32")
    if data.draw(st.booleans()):
        x[np.random.default_rng(0).random(shape) < 0.1] = np.nan
    if case.fixed:
        return x, hb.compress(x, codec=case.codec)
    return x, hb.compress(x, tolerance=data.draw(st.sampled_from([1e-1, 1e-2, 1e-3])), codec=case.codec)


def assert_bounded(found: hb.CompressedArray, truth: oracles.Array) -> None:
    """Assert that values are within the bound wherever both have one."""
    values = found.decompress()
    both = np.isfinite(values) & np.isfinite(truth)
    e = np.abs(values[both].astype(np.longdouble) - truth[both])
    assert e.max(initial=0) <= found.error.max_abs
    assert np.sqrt((e * e).sum()) <= found.error.l2 * (1 + 1e-12) or found.error.l2 == math.inf


@pytest.mark.parametrize("name", ONE)
@CASES
@SETTINGS
@given(data=st.data())
def test_functions_of_one_array(case: oracles.Case, name: str, data: st.DataObject) -> None:
    x, a = operand(data, case)
    function = getattr(np, name)
    found = function(a)
    with np.errstate(all="ignore"):
        truth = function(x.astype(np.float64))
    assert found.shape == x.shape and found.dtype == function(np.ones(1, x.dtype)).dtype
    assert_bounded(found, truth)
    assert np.isnan(found.decompress()[np.isnan(x)]).all()


@pytest.mark.parametrize("name", TWO)
@CASES
@SETTINGS
@given(data=st.data())
def test_functions_of_two_arrays(case: oracles.Case, name: str, data: st.DataObject) -> None:
    x, a = operand(data, case)
    y, b = operand(data, case, x.shape)
    function = getattr(np, name)
    with np.errstate(all="ignore"):
        truth = function(x.astype(np.float64), y.astype(np.float64))
        assert_bounded(function(a, b), truth)
        assert_bounded(function(a, y), truth)
        assert_bounded(function(x, b), truth)


@pytest.mark.parametrize("exponent", [2, 3, 0.5, 1.5, -1, 0, -2])
@SETTINGS
@given(data=st.data())
def test_powers(exponent: float, data: st.DataObject) -> None:
    x, a = operand(data, oracles.DCT_2D_DOUBLE)
    with np.errstate(all="ignore"):
        assert_bounded(a**exponent, x.astype(np.float64) ** exponent)


@SETTINGS
@given(data=st.data())
def test_operators_and_choices(data: st.DataObject) -> None:
    x, a = operand(data, oracles.DCT_2D_DOUBLE)
    y, b = operand(data, oracles.DCT_2D_DOUBLE, x.shape)
    x, y = x.astype(np.float64), y.astype(np.float64)
    choose = np.random.default_rng(1).random(x.shape) < 0.5
    with np.errstate(all="ignore"):
        pairs = [
            (a * b, x * y), (a / b, x / y), (2 / a, 2 / x), (abs(a), abs(x)), (a + y, x + y), (y - a, y - x),
            (a * y, x * y), (y / b, y / y), (np.clip(a, -0.5, 0.7), np.clip(x, -0.5, 0.7)),
            (np.clip(a, 0, None), np.clip(x, 0, None)),
            (np.where(choose, a, b), np.where(choose, x, y)), (np.where(choose, a, 0.0), np.where(choose, x, 0.0)),
        ]  # fmt: skip
    for found, truth in pairs:
        assert_bounded(found, truth)


def test_comparisons_are_of_the_decompressed_values() -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 30, 40))
    a, b = hb.compress(x, tolerance=1e-3), hb.compress(y, tolerance=1e-3)
    u, v = a.decompress(), b.decompress()
    for compare in (operator.lt, operator.le, operator.gt, operator.ge, operator.eq, operator.ne):
        np.testing.assert_array_equal(compare(a, b), compare(u, v))
        np.testing.assert_array_equal(compare(a, 0.5), compare(u, 0.5))
        np.testing.assert_array_equal(compare(0.5, b), compare(0.5, v))
    assert (a == a).all() and hash(a) != hash(b) and len({a, a, b}) == 2


def test_what_is_missing_is_known_exactly() -> None:
    x = np.random.default_rng(0).normal(size=(30, 40))
    x[3:5], x[7, 8], x[9, 9] = np.nan, np.inf, -np.inf
    a = hb.compress(x, tolerance=1e-3)
    for function in (np.isnan, np.isinf, np.isfinite):
        np.testing.assert_array_equal(function(a), function(x))
    filled = hb.compress(np.nan_to_num(x, nan=-9, posinf=-9, neginf=-9), fill_value=-9, tolerance=1e-3)
    assert np.isnan(np.exp(filled).decompress()[~np.isfinite(x)]).all()


def test_a_tolerance_can_be_asked_for() -> None:
    x = np.random.default_rng(0).normal(size=(64, 64))
    a = hb.compress(x, tolerance=1e-6)
    coarse, fine = hb.apply(np.exp, a, tolerance=0.1), hb.apply(np.exp, a, tolerance=1e-5)
    assert coarse.nbytes < fine.nbytes and coarse.error.max_abs > fine.error.max_abs
    assert_bounded(coarse, np.exp(x))
    assert_bounded(fine, np.exp(x))
    b = hb.compress(x, codec=hb.BlockCodec((8, 8)))
    assert isinstance(np.exp(b).codec, hb.BlockCodec) and isinstance(
        hb.apply(np.exp, b, tolerance=1.0).codec, hb.ToleranceCodec
    )


def test_functions_that_jump_have_no_bound() -> None:
    x = np.random.default_rng(0).normal(size=(40, 40))
    a = hb.compress(x, tolerance=1e-3)
    for function in (np.floor, np.rint, np.sign, lambda v: v % 1):
        found = hb.apply(function, a)
        assert found.error.max_abs == found.error.l2 == math.inf
        assert np.abs(found.decompress() - function(a.decompress())).max() <= 1e-4


def test_operands_just_outside_a_domain_are_at_its_end() -> None:
    x = np.abs(np.random.default_rng(0).normal(size=(40, 40))) * 1e-3
    x[:20] = 0
    a = hb.compress(x + 0.0, tolerance=1e-3)
    root = np.sqrt(a)
    assert root.count() == a.size
    assert_bounded(root, np.sqrt(x))
    assert np.isnan(np.sqrt(a - 1).decompress()).all()
    assert np.log(hb.compress(np.full((9, 9), -3.0), tolerance=1)).count() == 0


def test_numpys_functions_find_ours() -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 32, 40))
    a, b = hb.compress(x, tolerance=1e-3), hb.compress(y, tolerance=1e-3)
    pairs: list[tuple[Any, Any]] = [
        (np.sum(a), x.sum()), (np.mean(a), x.mean()), (np.nanmean(a), x.mean()), (np.var(a), x.var()),
        (np.std(a, ddof=1), x.std(ddof=1)), (np.max(a), x.max()), (np.min(a), x.min()), (np.median(a), np.median(x)),
        (np.quantile(a, 0.3), np.quantile(x, 0.3)), (np.percentile(a, 30), np.percentile(x, 30)),
        (np.linalg.norm(a), np.linalg.norm(x)), (np.vdot(a, b), np.vdot(x, y)), (np.add.reduce(a, axis=None), x.sum()),
        (np.maximum.reduce(a, axis=None), x.max()), (np.sum(a, axis=(0, 1)), x.sum()),
    ]  # fmt: skip
    for found, truth in pairs:
        oracles.assert_holds(found, truth)
    assert_bounded(np.mean(a, axis=0), x.mean(axis=0))
    assert_bounded(np.concatenate([a, b]), np.concatenate([x, y]))
    assert abs(x.ravel()[np.argmax(a)] - x.max()) <= 2e-3 and abs(x.ravel()[np.argmin(a)] - x.min()) <= 2e-3
    assert (np.shape(a), np.ndim(a), np.size(a), np.size(a, 1)) == ((32, 40), 2, 1280, 40)
    flat, other = hb.compress(x.ravel(), tolerance=1e-3), hb.compress(y.ravel(), tolerance=1e-3)
    oracles.assert_holds(np.dot(flat, other), np.dot(x.ravel(), y.ravel()))
    np.testing.assert_array_equal(np.from_dlpack(a), a.decompress())
    np.testing.assert_array_equal(np.asarray(a), a.decompress())


def test_what_cannot_be_done_says_what_to_do() -> None:
    a = hb.compress(np.random.default_rng(0).normal(size=(20, 20)), tolerance=1e-3)
    refused: list[tuple[type[Exception], Any]] = [
        (UnsupportedOperationError, lambda: np.sort(a)), (UnsupportedOperationError, lambda: np.linalg.inv(a)),
        (UnsupportedOperationError, lambda: np.modf(a)), (UnsupportedOperationError, lambda: np.add.accumulate(a)),
        (UnsupportedOperationError, lambda: np.exp(a, where=np.ones((20, 20), bool))),
        (UnsupportedOperationError, lambda: np.mean(a, axis=0, keepdims=True)),
        (UnsupportedOperationError, lambda: np.max(a, axis=0)), (UnsupportedOperationError, lambda: np.dot(a, a)),
        (UnsupportedOperationError, lambda: hb.apply(np.exp, 3.0)), (UnsupportedOperationError, lambda: a + "1"),
        (UnsupportedOperationError, lambda: np.linalg.norm(a, 1)), (ShapeError, lambda: a * np.ones(20)),
        (ShapeError, lambda: np.maximum(a, hb.compress(np.ones((20, 21)), tolerance=1))),
    ]  # fmt: skip
    for error, call in refused:
        with pytest.raises(error, match="expected"):
            call()
    layout = hb.Layout((20, 20), block_shape=(8, 8), splits=(1, 1), size=1)
    with pytest.raises((LayoutError, UnsupportedOperationError)):
        a * hb.compress(np.ones((20, 20)), tolerance=1, layout=layout)


def test_empty_and_constant_arrays() -> None:
    empty = hb.compress(np.zeros((0, 5)), tolerance=1)
    assert np.exp(empty).shape == (0, 5) and (empty > 1).shape == (0, 5)
    constant = hb.compress(np.full((9, 9), 2.0), tolerance=1e-3)
    assert_bounded(np.sqrt(constant), np.full((9, 9), math.sqrt(2)))
    assert np.sqrt(constant).error.max_abs < 1e-2
