"""Integers over one step, and their records: exact round trips, exact sums, exact errors."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from hpcblaz.backend import quantised
from hpcblaz.backend.payload import SPARE_WORDS
from hpcblaz.backend.quantised import MANTISSAS, Step, largest_step
from hpcblaz.backend.threads import threads

SETS = [(), (1,), (7, 1), (60, 5, 1), (4096,)]


def scratch(count: int) -> NDArray[np.int32]:
    return np.empty((2, count), np.int32)


def packed(q: NDArray[np.int32], strides: tuple[int, ...]) -> NDArray[np.uint32]:
    before = q.copy()
    out = np.full(quantised.most_words(len(q)), 0xDEADBEEF, np.uint32)
    length = quantised.pack(q, strides, scratch(len(q)), out)
    assert (q == before).all()
    assert length + SPARE_WORDS <= len(out)
    out[length:] = 0x5EED5EED  # what follows a message is never looked at, but may be read
    return out


def integers(kind: str, count: int, seed: int = 0) -> NDArray[np.int32]:
    rng = np.random.default_rng(seed)
    if kind == "zero":
        return np.zeros(count, np.int32)
    if kind == "small":
        return rng.integers(-9, 9, count, dtype=np.int32)
    if kind == "smooth":
        return rng.integers(-2, 3, count).cumsum().astype(np.int32)
    if kind == "spikes":
        q = np.zeros(count, np.int32)
        q[:: max(1, count // 5)] = 2**30 - 1
        return q
    return rng.integers(-(2**31), 2**31, count, dtype=np.int64).astype(np.int32)


KINDS = ["zero", "small", "smooth", "spikes", "any"]


@pytest.mark.parametrize("strides", SETS, ids=str)
@pytest.mark.parametrize("count", [0, 1, 15, 33, 4095, 4096, 4097, 40_000])
def test_a_message_holds_its_integers(strides: tuple[int, ...], count: int) -> None:
    for kind in KINDS:
        q = integers(kind, count)
        message = packed(q, strides)
        found = np.full(count, 77, np.int32)
        quantised.unpack(message, strides, found, False, scratch(count))
        assert (found == q).all()
        quantised.unpack(message, strides, found, True, scratch(count))
        assert (found == q + q).all()  # both wrap around


@given(
    values=st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=200),
    repeats=st.integers(1, 40),
    strides=st.sampled_from(SETS),
)
def test_any_integers_come_back(values: list[int], repeats: int, strides: tuple[int, ...]) -> None:
    q = np.tile(np.array(values, np.int64).astype(np.int32), repeats)
    found = np.empty_like(q)
    quantised.unpack(packed(q, strides), strides, found, False, scratch(len(q)))
    assert (found == q).all()


def test_messages_do_not_depend_on_threads() -> None:
    q = integers("smooth", 150_000)
    with threads(1):
        one = packed(q, (300, 1))
    with threads(3):
        many = packed(q, (300, 1))
        found = np.empty_like(q)
        quantised.unpack(many, (300, 1), found, False, scratch(len(q)))
    assert (found == q).all() and (one == many).all()


def test_small_integers_take_few_bits() -> None:
    count = 1 << 16
    for kind, strides, most in (("zero", (), 0.1), ("small", (), 5.4), ("smooth", (1,), 3.4)):
        length = quantised.pack(
            integers(kind, count), strides, scratch(count), np.empty(quantised.most_words(count), np.uint32)
        )
        assert 32 * length / count < most


@given(width=st.floats(1e-300, 1e300))
def test_the_largest_step(width: float) -> None:
    step = largest_step(width)
    assert step.mantissa in MANTISSAS
    assert step.value <= width < 1.25 * step.value


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("mantissa", MANTISSAS)
def test_errors_are_exact_and_at_most_half_a_step(precision: str, mantissa: int) -> None:
    rng = np.random.default_rng(mantissa)
    step = Step(mantissa, -9)
    for limit in (3.0, 2.0**15):
        x = (rng.uniform(-limit, limit, 20_001) * step.value).astype(precision)
        x[::7] = (np.arange(len(x[::7])) + 0.5) * step.value  # ties
        x = x[abs(x) <= limit * step.value]
        q = np.empty(len(x), np.int32)
        largest, norm = quantised.quantise(x, step, precision, q)
        assert x.flags.writeable
        errors = x.astype(np.float64) - q * step.value
        assert largest == abs(errors).max() <= (0.5 + 2.0**-6) * step.value
        assert np.linalg.norm(errors) <= norm <= np.linalg.norm(errors) * 1.001 + 1e-12
        out = np.empty(len(x), precision)
        quantised.restore(q, step, out, step.is_exact(limit * step.value, out.dtype))
        assert (out == q * step.value).all()


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_multiples_are_exact_where_it_is_said(dtype: str) -> None:
    kind = np.dtype(dtype)
    for step in (Step(7, -4), Step(5, 0), Step(4, -24), Step(6, 3)):
        for largest in (1.0, 2.0**7, 2.0**15, 2.0**25, 2.0**60):
            q = np.array([1, 3, int(min(largest / step.value, 2**31 - 1))])
            multiples = [value for value in (q * step.value).tolist() if value <= largest]
            if step.is_exact(largest, kind):
                assert [float(kind.type(value)) for value in multiples] == multiples


def test_rounded_results_are_the_nearest() -> None:
    q = np.arange(-(2**20), 2**20, 77, dtype=np.int32) * 1000
    step = Step(7, -3)
    for dtype in ("float16", "float32"):
        out = np.empty(len(q), dtype)
        quantised.restore(q, step, out, False)
        with np.errstate(over="ignore"):
            assert (out == (q * step.value).astype(dtype)).all()


def test_extents() -> None:
    assert quantised.extent(np.empty(0)) == (0.0, 0.0)
    assert quantised.extent(np.array([3, -2, 0.5], np.float16)) == (-2.0, 3.0)
    for bad in (math.nan, math.inf, -math.inf):
        assert quantised.extent(np.array([1.0, bad, 2.0])) is None


def test_sampled_bits_tell_smooth_from_rough() -> None:
    sets = ((), (1,), (500, 1))
    rng = np.random.default_rng(1)
    rough = quantised.sampled_bits(rng.normal(size=100_000), 0.01, sets)
    smooth = quantised.sampled_bits(rng.normal(size=100_000).cumsum(), 0.1, sets)
    assert rough.index(min(rough)) == 0
    assert smooth.index(min(smooth)) == 1
    plane = np.add.outer(rng.normal(size=200).cumsum(), rng.normal(size=500).cumsum())
    assert int(np.argmin(quantised.sampled_bits(plane.ravel(), 0.1, sets))) == 2
