"""Boxes of arrays and arrays put together: the same values, with the certificates that they had."""

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


@CASES
@settings(max_examples=15)
@given(data=st.data())
def test_a_crop_has_the_values_of_its_box(case: oracles.Case, data: st.DataObject) -> None:
    x = data.draw(oracles.arrays(case))
    a = np.float64(2) * data.draw(oracles.compressed(case, x)) + np.float64(1)
    box = []
    for n, side in zip(x.shape, case.codec.block_shape or (), strict=True):
        first, last = sorted(data.draw(st.lists(st.integers(0, -(-n // side)), min_size=2, max_size=2)))
        box.append(slice(first * side, min(n, last * side)))
    b = hb.crop(a, tuple(box))
    np.testing.assert_array_equal(b.decompress(), a[tuple(box)])
    oracles.assert_within_certificate(2 * oracles.exact(x)[tuple(box)] + 1, b.astype(np.float64))
    if b.size:
        oracles.assert_holds(b.mean(), oracles.mean(2 * oracles.exact(x)[tuple(box)] + 1))


@CASES
@settings(max_examples=15)
@given(data=st.data())
def test_arrays_are_put_together(case: oracles.Case, data: st.DataObject) -> None:
    x = data.draw(oracles.arrays(case))
    axis = data.draw(st.integers(0, case.ndim - 1))
    side = (case.codec.block_shape or ())[axis]
    truths, arrays = [], []
    for number in range(data.draw(st.integers(1, 3)), 0, -1):
        length = data.draw(st.integers(1, 2)) * side if number > 1 else x.shape[axis]
        shape = tuple(length if i == axis else n for i, n in enumerate(x.shape))
        kind = data.draw(st.sampled_from(("smooth", "noise", "constant", "zeros")))
        scale = float(np.abs(x.astype(float)).max())
        part = x if number == 1 else (scale / 4 * oracles.field(kind, shape, number)).clip(0, scale).astype(x.dtype)
        a = hb.compress(part, codec=case.codec) if case.fixed else hb.compress(part, relative=1e-2, codec=case.codec)
        truths.append(oracles.exact(part))
        arrays.append(a)
    if len({a._offset for a in arrays}) > 1 and case.codec.transform == "identity":
        return
    joined = hb.concatenate(arrays, axis)
    truth = np.concatenate(truths, axis)
    assert (joined.shape, joined.dtype) == (truth.shape, x.dtype)
    oracles.assert_within_certificate(truth, joined)
    oracles.assert_holds(joined.mean(), oracles.mean(truth))
    if all(a._offset == 0 for a in arrays) and len({a._numerics.precision for a in arrays}) == 1:
        np.testing.assert_array_equal(joined.decompress(), np.concatenate([a.decompress() for a in arrays], axis))
        assert joined._field_error.max_abs == max(a._field_error.max_abs for a in arrays)


def test_scaled_arrays_are_put_together() -> None:
    x = oracles.field("noise", (32, 20), 1).astype(np.float32)
    a = hb.compress(x, tolerance=1e-2, codec=oracles.DCT_2D.codec)
    for other, truth in ((0.3 * a + 2, 0.3 * x.astype(float) + 2), (0 * a + 5, 0 * x + 5), (-a, -x)):
        joined = hb.concatenate([a, other, a])
        whole = np.concatenate([x, truth, x])
        oracles.assert_within_certificate(whole, joined.astype(np.float64))
        assert joined.error.max_abs <= 1.2e-2
    fixed = hb.compress(x, codec=oracles.INT8_2D.codec)
    joined = hb.concatenate([fixed, fixed + 1])
    oracles.assert_within_certificate(np.concatenate([x, x + 1.0]), joined.astype(np.float64))


def test_pieces_make_the_whole() -> None:
    x = oracles.field("smooth", (37, 41), 1).astype(np.float32)
    a = hb.compress(x, tolerance=1e-3, codec=oracles.DCT_2D.codec)
    again = hb.concatenate([hb.crop(a, slice(0, 16)), hb.crop(a, (slice(16, None), ...))])
    np.testing.assert_array_equal(again.decompress(), a.decompress())
    assert again.error.max_abs == a.error.max_abs
    oracles.assert_within_certificate(x, again)


def test_refusals() -> None:
    x: Any = oracles.field("noise", (24, 24)).astype(np.float32)
    a = hb.compress(x, tolerance=1e-2, codec=oracles.DCT_2D.codec)
    with pytest.raises(ShapeError, match=r"whole blocks of \(8, 8\), got \(3, 0\) to \(20, 24\): take \[0:24, 0:24\]"):
        hb.crop(a, slice(3, 20))
    with pytest.raises(UnsupportedOperationError, match="expected slices to crop with"):
        hb.crop(a, 3)
    with pytest.raises(UnsupportedOperationError, match="expected slices of step 1"):
        hb.crop(a, slice(0, 16, 2))
    short = hb.compress(x[:20], tolerance=1e-2, codec=oracles.DCT_2D.codec)
    with pytest.raises(ShapeError, match="its last block would lie across the seam"):
        hb.concatenate([short, a])
    with pytest.raises(ShapeError, match=r"one shape but along axis 1"):
        hb.concatenate([a, short], axis=1)
    with pytest.raises(ShapeError, match="expected at least one array"):
        hb.concatenate([])
    with pytest.raises(ShapeError, match="expected an axis from -2 to 1, got 2"):
        hb.concatenate([a], axis=2)
    with pytest.raises(CodecError, match="one codec"):
        hb.concatenate([a, hb.compress(x, codec=oracles.INT8_2D.codec)])
    rough = hb.compress(x, tolerance=1e-1, codec=oracles.DCT_2D.codec)
    assert hb.concatenate([0 * rough, a]).shape == (48, 24)
    same = hb.compress(x, tolerance=1e-2, codec=oracles.IDENTITY_2D.codec)
    with pytest.raises(UnsupportedOperationError, match="concatenate before scaling"):
        hb.concatenate([same, 2 * same])
