"""Fields there and back: what is promised of every value holds, whatever the field."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hpcblaz as hb
from hpcblaz.errors import ToleranceError

PACKED = pytest.mark.parametrize("case", oracles.PACKED, ids=lambda case: case.name)
CASES = pytest.mark.parametrize("case", oracles.CASES, ids=lambda case: case.name)


def rearrange(x: Any, how: str) -> Any:
    """Return an equal array that lies in memory in another way."""
    if how == "swapped bytes":
        return x.astype(x.dtype.newbyteorder())
    if how == "Fortran order":
        return np.asfortranarray(x)
    if how == "negative strides":
        return np.ascontiguousarray(np.flip(x))[(slice(None, None, -1),) * x.ndim]
    if how == "every other cell":
        wide = np.zeros([2 * n for n in x.shape], x.dtype)
        wide[(slice(None, None, 2),) * x.ndim] = x
        return wide[(slice(None, None, 2),) * x.ndim]
    if how == "misaligned":
        buffer = np.zeros(x.nbytes + 1, np.uint8)
        shifted = buffer[1:].view(x.dtype).reshape(x.shape)
        shifted[...] = x
        return shifted
    return x


@PACKED
@settings(max_examples=60)
@given(data=st.data())
def test_no_value_is_farther_away_than_the_tolerance(case: oracles.Case, data: st.DataObject) -> None:
    x = data.draw(oracles.arrays(case, least=0))
    largest = float(np.abs(x.astype(float)).max(initial=0)) or 1.0
    fractions = [2.0, 0.1, 1e-3, 3e-5] if case.precision == "float32" else [2.0, 1e-2, 1e-5, 1e-8, 1e-12]
    tolerance = largest * data.draw(st.sampled_from(fractions)) * data.draw(st.floats(0.5, 1))
    view = rearrange(
        x, data.draw(st.sampled_from(["", "swapped bytes", "Fortran order", "negative strides", "every other cell"]))
    )
    before = view.copy()
    try:
        a = hb.compress(view, tolerance=tolerance, codec=case.codec)
    except ToleranceError as refusal:
        assert tolerance < 1e-4 * largest
        tolerance = float(re.search(r"smallest usable is about (\S+)$", str(refusal))[1])  # type: ignore[index]
        a = hb.compress(view, tolerance=tolerance, codec=case.codec)
    np.testing.assert_array_equal(view, before)
    assert (a.shape, a.dtype) == (x.shape, x.dtype)
    assert a.decompress().flags.c_contiguous
    assert oracles.errors_of(x, a)[0] <= tolerance
    assert a.error.max_abs <= tolerance
    oracles.assert_within_certificate(x, a)
    assert a.nbytes > 0
    assert (x.size == 0) or a.ratio == pytest.approx(x.nbytes / a.nbytes)


@pytest.mark.parametrize("how", ["read-only", "misaligned"])
def test_unusual_memory(how: str) -> None:
    x = oracles.field("noise", (37, 21)).astype(np.float32)
    view = rearrange(x, how)
    view.flags.writeable = how != "read-only"
    a, b = (hb.compress(y, tolerance=1e-2, codec=oracles.DCT_2D.codec) for y in (x, view))
    np.testing.assert_array_equal(a.decompress(), b.decompress())


@pytest.mark.parametrize("case", [oracles.DCT_2D, oracles.DCT_3D, oracles.DCT_1D], ids=lambda case: case.name)
@settings(max_examples=25)
@given(data=st.data())
def test_relative_tolerances(case: oracles.Case, data: st.DataObject) -> None:
    x = data.draw(oracles.arrays(case))
    fraction = data.draw(st.sampled_from([0.5, 1e-2, 1e-3]))
    span = float(x.max().astype(float) - x.min().astype(float))
    if case.precision == "float32" and 0 < span * fraction < 1e-5 * float(np.abs(x).astype(float).max()):
        return  # double precision, which is not compiled for this case
    a = hb.compress(x, relative=fraction, codec=case.codec)
    assert oracles.errors_of(x, a)[0] <= fraction * span
    oracles.assert_within_certificate(x, a)


@pytest.mark.parametrize("case", [oracles.DCT_2D, oracles.DCT_1D], ids=lambda case: case.name)
@pytest.mark.parametrize("kind", ["smooth", "noise", "spikes", "steps"])
@pytest.mark.parametrize("psnr", [20.0, 50.0, 80.0])
def test_signal_to_noise_ratio(case: oracles.Case, kind: str, psnr: float) -> None:
    x = oracles.field(kind, (60,) * case.ndim, 1).astype(case.dtypes[0])
    a = hb.compress(x, psnr=psnr, codec=case.codec)
    _, l2 = oracles.errors_of(x, a)
    assert l2 <= float(x.max() - x.min()) * 10 ** (-psnr / 20) * math.sqrt(x.size)
    oracles.assert_within_certificate(x, a)


@pytest.mark.parametrize("rate", [3.0, 5.5, 9.0])
@pytest.mark.parametrize("kind", ["smooth", "noise", "spikes"])
def test_rate(kind: str, rate: float) -> None:
    x = oracles.field(kind, (160, 120), 1).astype(np.float32)
    a = hb.compress(x, rate=rate, codec=oracles.DCT_2D.codec)
    assert 8 * a.nbytes / x.size <= rate
    oracles.assert_within_certificate(x, a)
    spent = 8 * a.nbytes / x.size
    finer = hb.compress(x, tolerance=a.error.max_abs / 2.5, codec=oracles.DCT_2D.codec)
    assert spent >= 0.9 * rate or 8 * finer.nbytes / x.size > rate  # the rate is made use of


@pytest.mark.parametrize("case", [*oracles.FIXED], ids=lambda case: case.name)
@settings(max_examples=50)
@given(data=st.data())
def test_the_form_of_the_paper_knows_its_error(case: oracles.Case, data: st.DataObject) -> None:
    x = data.draw(oracles.arrays(case, least=0))
    a = hb.compress(x, codec=case.codec)
    assert (a.shape, a.dtype) == (x.shape, x.dtype)
    oracles.assert_within_certificate(x, a)


@pytest.mark.parametrize("case", [oracles.DCT_2D, oracles.DCT_2D_DOUBLE, oracles.INT8_2D], ids=lambda case: case.name)
@pytest.mark.parametrize("exponent", [-300, -170, -45, -38, -30, -20, -10, 10, 20, 30, 37, 80, 140])
@pytest.mark.parametrize("kind", ["noise", "spikes"])
def test_any_magnitude(case: oracles.Case, exponent: int, kind: str) -> None:
    dtype = case.dtypes[0]
    if dtype == "float32" and not -46 < exponent < 38:
        pytest.skip("beyond float32")
    x = (oracles.field(kind, (24, 19), 2) * 10.0**exponent).astype(dtype)
    for fraction in (1e-2, 1e-5):
        a = (
            hb.compress(x, codec=case.codec)
            if case.fixed
            else hb.compress(x, tolerance=max(float(np.abs(x).max()) * fraction, 2.0**-985), codec=case.codec)
        )
        oracles.assert_within_certificate(x, a)
        oracles.assert_holds(a.mean(), oracles.mean(x))
        oracles.assert_holds(a.norm(), oracles.norm(x))
        oracles.assert_holds(a.variance(), oracles.variance(x))


def test_denormals() -> None:
    x = (oracles.field("noise", (24, 19)) * 1e-40).astype(np.float32)
    oracles.assert_within_certificate(x, hb.compress(x, tolerance=1e-42, codec=oracles.DCT_2D.codec))
    oracles.assert_within_certificate(x, hb.compress(x, codec=oracles.INT8_2D.codec))
    tiny = np.full((9, 9), 5e-324)
    tiny[3, 3] = 0
    oracles.assert_within_certificate(tiny, hb.compress(tiny, codec=hb.BlockCodec((8, 8))))
    oracles.assert_within_certificate(tiny, hb.compress(tiny, tolerance=1e-3, codec=oracles.DCT_2D.codec))


@pytest.mark.parametrize("tolerance", [5e-324, 1e-300, 1e300, 1.7e308])
def test_extreme_tolerances(tolerance: float) -> None:
    x = oracles.field("noise", (20, 20)).astype(np.float32)
    if tolerance < 1:
        with pytest.raises(ToleranceError, match="smallest usable"):
            hb.compress(x, tolerance=tolerance, codec=oracles.DCT_2D.codec)
        return
    a = hb.compress(x, tolerance=tolerance, codec=oracles.DCT_2D.codec)
    assert a.error.max_abs <= 3 * np.abs(x).max()  # no worse than having no values at all
    oracles.assert_within_certificate(x, a)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "int32", "uint64"])
def test_a_constant_field_is_exact_and_small(dtype: str) -> None:
    x = np.full((100, 100), 7.3 if np.dtype(dtype).kind == "f" else 7, dtype)
    a = hb.compress(x, tolerance=1e-9)
    np.testing.assert_array_equal(a.decompress(), x)
    assert a.nbytes < 1000
    assert a.error.max_abs == pytest.approx(0, abs=1e-9)
    oracles.assert_holds(a.mean(), oracles.mean(x))
    oracles.assert_holds(a.variance(), 0)


def test_half_precision_never_overflows() -> None:
    """A decoded value above the largest float16 belongs to an original that is not above it."""
    x = (65000 + 504 * np.random.default_rng(0).random((32, 32))).astype(np.float16)
    for tolerance in (20, 100, 400, 5000):
        a = hb.compress(x, tolerance=tolerance, codec=oracles.DCT_2D.codec)
        assert oracles.errors_of(x, a)[0] <= tolerance
        oracles.assert_within_certificate(x, a)
    oracles.assert_within_certificate(x, hb.compress(x, codec=oracles.INT8_2D.codec))


@pytest.mark.parametrize("tolerance", [0.2, 0.6, 0.9, 1.2, 1.9, 2.3, 7.5])
def test_rounding_to_integers_is_part_of_the_error(tolerance: float) -> None:
    x = np.random.default_rng(0).integers(0, 200, (40, 41)).astype(np.uint8)
    a = hb.compress(x, tolerance=tolerance, codec=oracles.DCT_2D.codec)
    oracles.assert_within_certificate(x, a)
    assert oracles.errors_of(x, a)[0] <= math.floor(tolerance)
    oracles.assert_within_certificate(x, hb.compress(x, codec=oracles.INT8_2D.codec))


def test_integers_at_the_ends_of_their_type() -> None:
    for dtype in ("int8", "uint8", "int16", "uint16"):
        limits = np.iinfo(dtype)
        x = np.random.default_rng(0).choice(np.array([limits.min, limits.max], dtype), (33, 33))
        a = hb.compress(x, tolerance=0.4, codec=oracles.DCT_2D.codec)
        np.testing.assert_array_equal(a.decompress(), x)
        oracles.assert_within_certificate(x, hb.compress(x, tolerance=40, codec=oracles.DCT_2D.codec))
    large = np.array([[2**53, -(2**53), 5, 0]], np.int64)
    oracles.assert_within_certificate(large, hb.compress(large, tolerance=2.0**30, codec=oracles.DCT_2D.codec))


@pytest.mark.parametrize(
    ("shape", "sides", "transform", "dtype"),
    [
        ((19, 40), (4, 16), "dct", "float32"),
        ((18, 9, 5), (16, 1, 2), "haar", "float32"),
        ((5, 3, 5, 5), (2, 1, 2, 2), "dct", "float64"),
    ],
)
def test_other_block_shapes(shape: tuple[int, ...], sides: tuple[int, ...], transform: str, dtype: str) -> None:
    x = oracles.field("noise", shape, 4).astype(dtype)
    a = hb.compress(x, tolerance=1e-2, codec=hb.ToleranceCodec(sides, transform))
    assert oracles.errors_of(x, a)[0] <= 1e-2
    oracles.assert_within_certificate(x, a)


@pytest.mark.parametrize("sides", [(8, 8), (4, 4), (16, 16)])
def test_default_codec_fills_in_its_block_shape(sides: tuple[int, int]) -> None:
    a = hb.compress(np.zeros((5, 5)), tolerance=1)
    assert a.codec == hb.ToleranceCodec((8, 8))
    assert hb.BlockCodec(sides).mask(sides).all()


def test_smooth_fields_compress_well_and_the_bound_is_not_silly() -> None:
    x = oracles.field("smooth", (256, 256), 3).astype(np.float32)
    a = hb.compress(x, tolerance=1e-3, codec=oracles.DCT_2D.codec)
    assert a.ratio > 4
    max_abs, l2 = oracles.errors_of(x, a)
    assert a.error.max_abs <= 1.05 * max_abs
    assert a.error.l2 <= 1.1 * l2
    assert a.local is a
    assert len(a) == 256
    assert re.fullmatch(r"CompressedArray\(shape=\(256, 256\), dtype=float32, ToleranceCodec 8x8 dct, .*\)", repr(a))


def test_lists_and_empty_fields() -> None:
    a = hb.compress([[1, 2], [3, 4]], tolerance=0.1)
    np.testing.assert_array_equal(a.decompress(), [[1, 2], [3, 4]])
    for shape in ((0,), (0, 5), (3, 0, 2)):
        for options in ({"tolerance": 1e-3}, {"relative": 0.1}, {"psnr": 30}, {"rate": 4}, {"codec": hb.BlockCodec()}):
            e = hb.compress(np.zeros(shape, np.float32), **options)  # type: ignore[arg-type]
            assert e.decompress().shape == shape
            assert (e.error.max_abs, e.error.l2) == (pytest.approx(0), pytest.approx(0))
