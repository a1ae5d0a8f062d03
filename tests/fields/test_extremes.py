"""Extremes and quantiles, against NumPy on the original fields and on the decompressed ones."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hpcblaz as hb
from hpcblaz.errors import ShapeError, UnsupportedOperationError
from hpcblaz.fields.moments import decode_window
from hpcblaz.fields.sample_fields import sines

CASES = pytest.mark.parametrize("case", oracles.CASES, ids=lambda case: case.name)


@pytest.fixture(autouse=True)
def on_host(device: str) -> None:
    if device != "cpu":
        pytest.skip("single blocks are decoded on the CPU only")


SHARES = (0.0, 1.0, 0.5, 0.1, 0.77, 1 / 3)


def quantile(x: Any, q: float) -> Any:
    """The quantile of its definition, in extended precision."""
    values = np.sort(oracles.exact(x).ravel())
    position = Fraction(q) * (values.size - 1)
    below = int(position)
    above = min(below + 1, values.size - 1)
    weight = np.longdouble(float(position - below))
    return (1 - weight) * values[below] + weight * values[above]


def check(x: Any, a: hb.CompressedArray) -> None:
    decoded = decode_window(a, (0,) * a.ndim, a.shape)
    for kind, found, where in (("max", x.max(), np.argmax), ("min", x.min(), np.argmin)):
        answer = hb.extremum(a, kind)
        oracles.assert_holds(answer.value, found)
        assert float(answer.value) == getattr(decoded, kind)()
        if a._factor > 0:  # scaling may round two values to one
            payload = decode_window(a._replace(factor=1.0, offset=0.0), (0,) * a.ndim, a.shape)
            assert answer.index == np.unravel_index(int(where(payload)), a.shape)
        assert abs(x[answer.index] - found) <= 2 * answer.value.error
        assert 1 <= answer.blocks_decoded <= answer.blocks == np.prod(a._numerics.grid.blocks)
    for q in SHARES:
        oracles.assert_holds(hb.quantile(a, q), quantile(x, q))


@CASES
@settings(max_examples=20)
@given(data=st.data())
def test_extremes_and_quantiles(case: oracles.Case, data: st.DataObject) -> None:
    x = data.draw(oracles.arrays(case))
    a = data.draw(oracles.compressed(case, x))
    check(oracles.exact(x), a)
    check(-0.3 * oracles.exact(x) + 3, np.float64(-0.3) * a + np.float64(3))
    check(np.full(x.shape, np.longdouble(2)), 0 * a + np.float64(2))


def test_few_blocks_are_decoded() -> None:
    x = sines(64)
    a = hb.compress(x, relative=1e-3)
    for kind in ("max", "min"):
        top = hb.extremum(a, kind)
        assert top.blocks_decoded < 0.1 * top.blocks
    assert (hb.max(a), hb.min(a)) == (hb.extremum(a, "max").value, hb.extremum(a, "min").value)
    assert (hb.argmax(a), hb.argmin(a)) == (hb.extremum(a, "max").index, hb.extremum(a, "min").index)
    oracles.assert_holds(hb.median(a), quantile(x, 0.5))


def test_the_first_of_equal_values() -> None:
    a = hb.compress(np.tile(np.arange(16.0), (32, 1)), tolerance=1e-6, codec=oracles.DCT_2D_DOUBLE.codec)
    b = hb.compress(np.zeros((17, 9)), tolerance=1e-3, codec=oracles.DCT_2D_DOUBLE.codec)
    whole = a.decompress()
    assert hb.argmax(a) == np.unravel_index(whole.argmax(), whole.shape)
    assert hb.argmax(b) == hb.argmin(b) == (0, 0)


def test_values_whose_squares_vanish() -> None:
    x = 1e-170 * oracles.field("noise", (32, 32), 1)
    a = hb.compress(x, tolerance=1e-174, codec=oracles.DCT_2D_DOUBLE.codec)
    check(oracles.exact(x), a)
    check(oracles.exact(x) * np.longdouble(1e170), 1e170 * a)


def test_refusals() -> None:
    a = hb.compress(np.zeros((0, 5), np.float32), tolerance=1e-3)
    b = hb.compress(np.zeros((3, 5), np.float32), tolerance=1e-3)
    for function in (hb.max, hb.min, hb.argmax, hb.argmin, hb.median):
        with pytest.raises(ShapeError, match="expected an array with values"):
            function(a)
        with pytest.raises(UnsupportedOperationError, match="expected a to be a CompressedArray"):
            function([1.0])
    for q in (-0.1, 1.1, np.nan, "0.5", True):
        with pytest.raises(UnsupportedOperationError, match="expected q to be a number from 0 to 1"):
            hb.quantile(b, q)
    with pytest.raises(UnsupportedOperationError, match="expected kind to be 'max' or 'min', got 'mean'"):
        hb.extremum(b, "mean")
