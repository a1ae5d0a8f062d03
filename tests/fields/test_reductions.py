"""Sums and means along axes, against NumPy on the original fields."""

from __future__ import annotations

from typing import Any

import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hpcblaz as hb
from hpcblaz.errors import ShapeError

# Every set of axes that is left has kernels of its own to compile, so only some are tried
AXES: dict[str, list[Any]] = {
    oracles.DCT_2D.name: [0, -1],
    oracles.DCT_2D_DOUBLE.name: [1],
    oracles.IDENTITY_2D.name: [0],
    oracles.INT8_2D.name: [(0,), 1],
    oracles.DCT_3D.name: [0, 2, -2],
    oracles.HAAR_4D_DOUBLE.name: [(0, 2, 3), (0, -1, -2)],
}
SOME = [case for case in oracles.CASES if case.name in AXES]
CASES = pytest.mark.parametrize("case", SOME, ids=lambda case: case.name)


def check(x: Any, a: hb.CompressedArray, axis: Any) -> None:
    for result, truth in ((a.mean(axis), x.mean(axis=axis)), (hb.sum(a, axis=axis), x.sum(axis=axis))):
        assert (result.shape, result.layout) == (truth.shape, None)
        oracles.assert_within_certificate(truth, result.astype(np.float64))
        oracles.assert_holds(result.mean(), truth.mean())
        assert abs(oracles.exact(result.decompress()) - truth).max() <= result.error.max_abs


@CASES
@settings(max_examples=15)
@given(data=st.data())
def test_sums_and_means_along_axes(case: oracles.Case, data: st.DataObject) -> None:
    x = data.draw(oracles.arrays(case))
    a = data.draw(oracles.compressed(case, x))
    axis = data.draw(st.sampled_from(AXES[case.name]))
    check(oracles.exact(x), a, axis)
    check(-0.3 * oracles.exact(x) + 3, np.float64(-0.3) * a + np.float64(3), axis)


def test_bounds_are_those_of_the_array() -> None:
    x = oracles.field("noise", (40, 50, 30), 1).astype(np.float32)
    a = hb.compress(x, tolerance=1e-2, codec=oracles.DCT_3D.codec)
    m = a.mean(0)
    assert m.error.max_abs <= 1.1e-2
    assert m.error.l2 <= 1.1 * a.error.l2 / np.sqrt(40)
    assert (m.codec, m.dtype) == (hb.ToleranceCodec((4, 4)), np.float32)
    assert (0 * a + 2).mean(0).decompress().tolist() == np.full((50, 30), 2.0).tolist()


@pytest.mark.parametrize("case", [oracles.DCT_2D, oracles.INT8_2D], ids=lambda case: case.name)
@settings(max_examples=15)
@given(data=st.data())
def test_missing_cells_are_skipped(case: oracles.Case, data: st.DataObject) -> None:
    shape = data.draw(oracles.shapes(2))
    x = 3 + oracles.field("noise", shape, data.draw(st.integers(0, 2**32))).astype(np.float32)
    gaps = np.random.default_rng(0).random(shape) < data.draw(st.sampled_from([0.02, 0.5, 0.9]))
    gaps[shape[0] // 2 :, 0] = True
    gaps[0, : shape[1] // 2] = True
    x[gaps] = np.nan
    a = hb.compress(x, codec=case.codec) if case.fixed else hb.compress(x, tolerance=1e-2, codec=case.codec)
    b, y = -0.5 * a + 4, -0.5 * oracles.exact(x) + 4
    for array, values in ((a, oracles.exact(x)), (b, y)):
        for axis in (0, 1):
            count = np.isfinite(values).sum(axis=axis)
            total = np.where(np.isnan(values), 0, values).sum(axis=axis)
            oracles.assert_within_certificate(total, hb.sum(array, axis=axis).astype(np.float64))
            means = hb.mean(array, axis=axis).astype(np.float64)
            np.testing.assert_array_equal(means.missing(), count == 0)
            e = np.abs(means.decompress() - total / np.maximum(count, 1))[count > 0]
            assert e.max(initial=0) <= means.error.max_abs
            assert np.sqrt((e**2).sum()) <= means.error.l2


def test_refusals() -> None:
    a = hb.compress(np.zeros((3, 5), np.float32), tolerance=1e-3)
    for axis in (2, -3, (0, 1), (0, 0), (), "x", 0.5):
        with pytest.raises(ShapeError, match="expected 1 to 1 different axes of 2, from -2 to 1"):
            a.mean(axis)
        with pytest.raises(ShapeError, match="expected 1 to 1 different axes of 2, from -2 to 1"):
            hb.sum(a, axis)
    with pytest.raises(ShapeError, match="expected an array with values"):
        hb.compress(np.zeros((0, 5), np.float32), tolerance=1e-3).mean(0)
