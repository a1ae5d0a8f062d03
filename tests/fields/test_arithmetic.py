"""Sums and scalar multiples of compressed arrays, and what their certificates are worth after many of them."""

from __future__ import annotations

import operator
from fractions import Fraction
from typing import Any

import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hpcblaz as hb
from hpcblaz.errors import CodecError, ShapeError, ToleranceError, UnsupportedOperationError

CASES = pytest.mark.parametrize("case", oracles.CASES, ids=lambda case: case.name)
SCALARS = st.one_of(
    st.sampled_from([0.0, 1.0, -1.0, 0.5, 3.0, 1e-3, -7e4, 0.1]), st.floats(-100, 100).filter(lambda v: abs(v) > 1e-6)
)


def check(truth: Any, a: hb.CompressedArray) -> None:
    """Compare all that is certain of an array with the exact field."""
    e = np.abs(truth - oracles.exact(a.decompress()))
    assert float(e.max()) <= a.error.max_abs
    assert float(np.sqrt((e * e).sum())) <= a.error.l2 * (1 + 1e-15)
    oracles.assert_holds(a.mean(), truth.mean())
    oracles.assert_holds(a.norm(), oracles.norm(truth))
    oracles.assert_holds(a.variance(), truth.var())


@CASES
@settings(max_examples=30)
@given(data=st.data())
def test_certificates_hold_after_any_chain(case: oracles.Case, data: st.DataObject) -> None:
    shape = data.draw(oracles.shapes(case.ndim))
    dtype = data.draw(st.sampled_from([name for name in case.dtypes if name != "float16"]))
    known: list[tuple[Any, hb.CompressedArray]] = []
    for seed in range(2):
        kind = data.draw(st.sampled_from(oracles.KINDS))
        x = oracles.to_dtype(oracles.field(kind, shape, seed), dtype, data.draw(st.integers(-3, 3)))
        known.append((oracles.exact(x), data.draw(oracles.compressed(case, x))))
    for _ in range(data.draw(st.integers(1, 5))):
        x, a = data.draw(st.sampled_from(known))
        y, b = data.draw(st.sampled_from(known))
        s = np.float64(data.draw(SCALARS))
        name = data.draw(st.sampled_from(["a+b", "a-b", "-a", "s*a", "a*s", "a/s", "a+s", "s-a", "a-s"]))
        if name == "a/s" and s == 0:
            continue
        expression = compile(name, "expression", "eval")
        exact = eval(expression, {"a": x, "b": y, "s": np.longdouble(s)})
        try:
            known.append((exact, eval(expression, {"a": a, "b": b, "s": s})))
        except ToleranceError as refusal:
            assert "too different magnitude" in str(refusal)
    truth, result = known[-1]
    check(truth, result)
    if len(known) > 2:
        oracles.assert_holds(hb.dot(known[0][1], result), oracles.dot(known[0][0], truth))


def example(case: oracles.Case = oracles.DCT_2D, seed: int = 0) -> tuple[Any, hb.CompressedArray]:
    x = oracles.field("noise", (41, 37), seed).astype(case.dtypes[0])
    return oracles.exact(x), hb.compress(x, codec=case.codec) if case.fixed else hb.compress(
        x, tolerance=1e-2, codec=case.codec
    )


def test_scalars_cost_nothing_and_add_no_error() -> None:
    x, a = example()
    b = 2 * a
    assert b._blocks is a._blocks
    assert b.error.max_abs == pytest.approx(2 * a._field_error.max_abs, rel=1e-4)
    assert (-a)._field_error == a._field_error
    assert (+a) is a
    check(2 * x, b)
    for value in (
        0,
        7,
        True,
        2.5,
        np.float32(3),
        np.int8(-3),
        np.array(2.0),
        Fraction(1, 3),
        hb.CertifiedFloat(1.5, 0.1),
    ):
        check(x * np.longdouble(float(value)), a * value)
        check(np.longdouble(float(value)) - x, value - a)


def test_sums_with_steps_of_powers_of_two_lose_nothing() -> None:
    (x, a), (y, b) = example(), example(seed=1)
    s = a + b
    assert s._field_error.max_abs == pytest.approx(a._field_error.max_abs + b._field_error.max_abs, rel=1e-6)
    twice = a + a
    np.testing.assert_allclose(twice.decompress(), 2 * a.decompress(), rtol=1e-6, atol=1e-6)
    zero = a - a
    assert np.abs(zero.decompress()).max() == 0
    check(x + y, s)
    check(4 * y - x / 2, 4 * b - a / 2)


def test_types_of_results_are_those_of_numpy() -> None:
    x = {
        name: hb.compress(np.ones((9, 9), name) + np.eye(9).astype(name), tolerance=1e-1)
        for name in ("float16", "float32", "float64", "int8", "uint16")
    }
    for name in ("float16", "float32", "float64"):
        assert (2.0 * x[name]).dtype == (-x[name]).dtype == (x[name] + 1).dtype == (x[name] / 3).dtype == name
    assert (np.float64(2) * x["float32"]).dtype == "float64"
    assert (x["float32"] + x["float64"]).dtype == (x["float64"] + x["float32"]).dtype == "float64"
    assert (x["float16"] + x["float32"]).dtype == "float32"
    assert (x["int8"] + 1).dtype == (x["int8"] + x["int8"]).dtype == (-x["uint16"]).dtype == "float64"
    assert x["int8"].astype("float32").dtype == "float32"


def test_minus_of_unsigned_integers() -> None:
    x = np.arange(100, dtype=np.uint8).reshape(10, 10)
    a = -hb.compress(x, tolerance=0.4)
    check(-oracles.exact(x), a)
    assert a.decompress().min() < -90


@pytest.mark.parametrize("case", [oracles.DCT_2D, oracles.INT8_2D], ids=lambda case: case.name)
def test_very_unequal_operands(case: oracles.Case) -> None:
    (x, a), (y, b) = example(case), example(case, 1)
    for scale in (1e-60, 1e-30, 1e-6, 1e6, 1e30, 1e60):
        s = np.float64(scale)
        check(x + s * y, a + s * b)
        check(s * x - y, s * a - b)
    check(x * 1e30 + y - x * 1e30, (np.float64(1e30) * a + b) - np.float64(1e30) * a)
    try:
        check(x * 1e200 + y * 1e-200, np.float64(1e200) * a + np.float64(1e-200) * b)
    except ToleranceError as refusal:
        assert "too different magnitude" in str(refusal)
    except AssertionError:
        raise


@pytest.mark.parametrize(
    ("scale", "factor"), [(1e10, 1e-42), (1e12, 1e-48), (1e-11, 1e45), (1e-5, 1e40), (1.0, 1e-45), (1e14, 1e20)]
)
def test_factors_beyond_single_precision(scale: float, factor: float) -> None:
    """Single precision could not even hold the factor, or only with few bits."""
    x = (oracles.field("noise", (20, 20)) * scale).astype(np.float32)
    a = factor * hb.compress(x, tolerance=1e-3 * scale, codec=oracles.DCT_2D.codec)
    assert a.dtype == np.float32
    e = np.abs(oracles.exact(x) * np.longdouble(factor) - oracles.exact(a.decompress()))
    assert float(e.max()) <= a.error.max_abs
    assert a.error.max_abs <= 2e-3 * scale * factor + 3e-45


def test_fixed_operands_of_two_precisions() -> None:
    codec = oracles.INT8_2D.codec
    x = oracles.field("noise", (20, 20)).astype(np.float32)
    for scale in (1e-100, 1e-5, 1.0, 1e30, 1e100):
        y = oracles.field("noise", (20, 20), 1) * scale
        a, b = hb.compress(x, codec=codec), hb.compress(y, codec=codec)
        check(oracles.exact(x) + y, a + b)
        check(oracles.exact(y) - x, b - a)


@pytest.mark.parametrize("case", [oracles.DCT_2D, oracles.INT8_2D, oracles.DCT_2D_DOUBLE], ids=lambda case: case.name)
def test_constants_and_zeros_as_operands(case: oracles.Case) -> None:
    x, a = example(case)
    constant = np.full(x.shape, 2.5, case.dtypes[0])
    for y in (constant, 0 * constant):
        b = hb.compress(y, codec=case.codec) if case.fixed else hb.compress(y, tolerance=1e-2, codec=case.codec)
        for op in (operator.add, operator.sub):
            check(op(x, oracles.exact(y)), op(a, b))
            check(op(oracles.exact(y), x), op(b, a))
            check(op(oracles.exact(y), oracles.exact(y)), op(b, b))
            check(op(x, 0 * x + 3), op(a, 0 * a + 3))
            check(op(0 * x + 3, x), op(0 * a + 3, a))
            check(op(0 * x + 3, 0 * x - 1), op(0 * a + 3, 0 * a - 1))


def test_a_long_sum_stays_certain() -> None:
    x, a = example()
    truth, total = x, a
    for seed in range(1, 12):
        y, b = example(seed=seed)
        truth, total = truth + y * np.longdouble(0.7), total + np.float64(0.7) * b
    check(truth, total)
    assert total.error.max_abs < 3 * (1 + 11 * 0.7) * a.error.max_abs


def test_what_is_not_linear_is_refused() -> None:
    _, a = example()
    cases: list[tuple[Any, str]] = [
        (lambda: a / 0, "expected a divisor other than zero"),
        (lambda: a / 5e-324, "expected a divisor whose inverse float64 holds"),
        (lambda: a / np.float32(0), "expected a divisor other than zero"),
        (lambda: a * float("nan"), "expected a finite number to multiply by, got nan"),
        (lambda: a + float("inf"), "expected a finite number to add, got inf"),
        (lambda: a * 10**400, "expected a finite number to multiply by, got inf"),
        (lambda: a * 1e300 * 1e300, "expected a result that float64 holds"),
        (lambda: operator.add(a, [1, 2]), "got list"),
        (lambda: a + "1", "got '1'"),
        (lambda: a * b"2", "got b'2'"),
        (lambda: a + None, "expected a real number or a CompressedArray to add, got None"),
        (lambda: a * 1j, "expected a real number"),
        (lambda: a * np.complex64(2), "expected a real number"),
    ]
    for call, text in cases:
        with pytest.raises(UnsupportedOperationError) as caught:
            call()
        assert text in str(caught.value)
    with pytest.raises(UnsupportedOperationError, match="expected an index or a slice, got an iteration"):
        iter(a)
    assert hash(a) == hash(a)
    assert len({a, a, a + 1}) == 2


def test_operands_that_do_not_fit_are_refused() -> None:
    x = oracles.field("noise", (24, 24)).astype(np.float32)
    a = hb.compress(x, tolerance=1e-2, codec=oracles.DCT_2D.codec)
    with pytest.raises(
        ShapeError, match=r"expected two arrays of one shape, got \(24, 24\) and \(24, 16\): there is no"
    ):
        a + hb.compress(x[:, :16], tolerance=1e-2, codec=oracles.DCT_2D.codec)
    for codec in (hb.ToleranceCodec((4, 8), "identity"), hb.BlockCodec((8, 8))):
        b = (
            hb.compress(x, codec=codec)
            if isinstance(codec, hb.BlockCodec)
            else hb.compress(x, tolerance=1e-2, codec=codec)
        )
        for op in (operator.add, operator.sub):
            with pytest.raises(
                CodecError, match=r"expected two arrays of one codec to add, got .* and .*: compress one"
            ):
                op(a, b)
            with pytest.raises(CodecError, match="expected two arrays of one codec"):
                op(b, a)


def test_other_types_of_values() -> None:
    x, a = example()
    check(x, a.astype("float64"))
    check(x, a.astype("float16"))
    assert a.astype("float32") is a
    assert a.astype(np.float64)._blocks is a._blocks
    for dtype in ("int32", "complex64", "bool", "U3"):
        with pytest.raises(hb.errors.DtypeError, match="expected float16, float32 or float64, got"):
            a.astype(dtype)
    assert (a.astype("float16") * 1e6).error.max_abs == np.inf
    np.testing.assert_array_equal(np.asarray(a), a.decompress())
    assert np.asarray(a, np.float64).dtype == np.float64
    with pytest.raises(ValueError, match="expected copy to be allowed"):
        np.asarray(a, copy=False)
