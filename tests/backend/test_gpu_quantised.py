"""Records of integers on a GPU: the messages of the CPU, bit by bit. They run where tests/backend/test_gpu.py does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hpcblaz.backend import gpu, gpu_quantised, quantised
from hpcblaz.backend.quantised import largest_step
from hpcblaz.errors import HpcblazError


def usable() -> bool:
    try:
        gpu.array_module()
    except HpcblazError:
        return False
    return True


pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not usable(), reason="no GPU, and not in the simulator")]


def integers(kind: str, count: int) -> Any:
    rng = np.random.default_rng(count)
    if kind == "smooth":
        return rng.integers(-2, 3, count).cumsum().astype(np.int32)
    if kind == "spikes":
        return np.where(np.arange(count) % 999 == 7, 2**30, 0).astype(np.int32)
    return rng.integers(-(2**31), 2**31, count).astype(np.int32)


@pytest.mark.parametrize("kind, strides", [("any", ()), ("smooth", (70, 1)), ("spikes", (600,))], ids=str)
def test_messages_are_those_of_the_cpu(kind: str, strides: tuple[int, ...]) -> None:
    count = 5000  # two records; the simulator takes a second for each
    q = integers(kind, count)
    scratch = np.empty((2, count), np.int32)
    expected, found = (np.full(quantised.most_words(count), 7, np.uint32) for _ in range(2))
    length = quantised.pack(q, strides, scratch, expected)
    on_card = gpu.asarray(q)
    assert gpu_quantised.pack(on_card, strides, gpu.asarray(scratch), found) == length
    assert (found[:length] == expected[:length]).all()
    back = gpu.asarray(np.full(count, 5, np.int32))
    gpu_quantised.unpack(found, strides, back, False, gpu.asarray(scratch))
    assert (gpu.asnumpy(back) == q).all()
    gpu_quantised.unpack(found, strides, back, True, gpu.asarray(scratch))
    assert (gpu.asnumpy(back) == q + q).all()


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_integers_and_errors_are_those_of_the_cpu(precision: str) -> None:
    x = np.random.default_rng(0).normal(size=5000).astype(precision)
    step = largest_step(1e-3)
    q = [np.empty(5000, np.int32) for _ in range(2)]
    on_card = gpu.asarray(q[1])
    expected = quantised.quantise(x, step, precision, q[0])
    found = gpu_quantised.quantise(gpu.asarray(x), step, precision, on_card)
    assert (gpu.asnumpy(on_card) == q[0]).all()
    assert found == pytest.approx(expected, rel=1e-3)
    for dtype, exact in ((precision, True), ("float16", False)):
        out = gpu_quantised.empty((5000,), dtype)
        gpu_quantised.restore(on_card, step, out, exact)
        assert (gpu.asnumpy(out) == (q[0] * step.value).astype(dtype)).all()


def test_what_is_asked_of_values() -> None:
    x = np.random.default_rng(1).normal(size=6000).cumsum()
    on_card = gpu.asarray(x)
    assert gpu_quantised.extent(on_card) == quantised.extent(x)
    assert gpu_quantised.extent(on_card[:0]) == (0.0, 0.0)
    sets = ((), (1,))
    assert gpu_quantised.sampled_bits(on_card, 0.1, sets) == quantised.sampled_bits(x, 0.1, sets)
    x[[3, 99]] = np.nan, np.inf
    places, values = gpu_quantised.strange(gpu.asarray(x))
    assert gpu_quantised.extent(gpu.asarray(x)) is None
    assert places.tolist() == [3, 99] and np.isnan(values[0]) and np.isinf(values[1])
    assert (
        gpu.asnumpy(gpu_quantised.flat(gpu.asarray(x.reshape(60, 100).T))) == x.reshape(60, 100).T.ravel()
    ).sum() > 5000
