"""Faults that were measured in the original PyBlaz code, each of which must not come back here."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import oracles
import pytest

import hpcblaz as hb
from hpcblaz.errors import CodecError, ShapeError

FORMS = pytest.mark.parametrize(
    "options",
    [{"tolerance": 1e-4, "codec": hb.ToleranceCodec((8, 8))}, {"codec": hb.BlockCodec((8, 8), index_dtype="int16")}],
    ids=["tolerance", "fixed"],
)


@FORMS
def test_statistics_are_divided_by_the_number_of_values_not_of_padded_ones(options: dict[str, Any]) -> None:
    """33 x 33 in blocks of 8 x 8: the mean was 3.42 in place of 5.03."""
    x = (5.03 + oracles.field("noise", (33, 33))).astype(np.float32)
    a = hb.compress(x, **options)
    assert a.mean() == pytest.approx(x.mean(), abs=1e-2)
    for answer, truth in (
        (a.mean(), oracles.mean(x)),
        (a.variance(), oracles.variance(x)),
        (a.variance(1), oracles.variance(x, 1)),
        (hb.covariance(a, a), oracles.variance(x)),
        (a.norm(), oracles.norm(x)),
    ):
        oracles.assert_holds(answer, truth)


def test_variance_under_a_mask_that_keeps_a_quarter() -> None:
    """It was wrong by a factor of four, even against the decompressed field."""
    x = oracles.field("smooth", (64, 64), 3).astype(np.float32)
    a = hb.compress(x, codec=hb.BlockCodec((8, 8), index_dtype="int16", keep=0.25))
    assert a.variance() == pytest.approx(a.decompress().astype(float).var(), rel=1e-5)
    oracles.assert_holds(a.variance(), oracles.variance(x))
    oracles.assert_holds(a.std(), np.sqrt(oracles.variance(x)))


def test_a_mask_without_the_mean() -> None:
    """The mean of a field is then zero, and its bound says so; it was some other coefficient."""
    x = (3 + oracles.field("smooth", (33, 40), 3)).astype(np.float32)
    mask = np.ones((8, 8), bool)
    mask[0, 0] = False
    a = hb.compress(x, codec=hb.BlockCodec((8, 8), index_dtype="int16", keep=mask))
    assert a.mean() == 0
    oracles.assert_holds(a.mean(), oracles.mean(x))
    np.testing.assert_allclose(a.block_mean().values, 0, atol=1e-12)
    assert abs(a.decompress().astype(float).mean()) < 1e-6
    for answer, truth in (
        (a.variance(), oracles.variance(x)),
        (a.norm(), oracles.norm(x)),
        (hb.dot(a, a), oracles.dot(x, x)),
    ):
        oracles.assert_holds(answer, truth)
    oracles.assert_within_certificate(x, a)


def test_wide_indices_do_not_wrap() -> None:
    """The largest coefficient of every block has the largest index, 2**31 - 1."""
    x = (oracles.field("spikes", (9, 10, 11)) * 1e6).astype(np.float64)
    a = hb.compress(x, codec=oracles.INT32_3D.codec)
    indices = a._blocks.indices  # type: ignore[union-attr]
    assert np.abs(indices.astype(np.int64)).max() == 2**31 - 1
    oracles.assert_within_certificate(x, a)
    assert a.error.max_abs < 1e-7 * np.abs(x).max()
    for answer, truth in (
        (a.norm(), oracles.norm(x)),
        (hb.dot(a, a), oracles.dot(x, x)),
        ((a + a).norm(), 2 * oracles.norm(x)),
    ):
        oracles.assert_holds(answer, truth)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@FORMS
def test_one_nan_leaves_its_block_alone(options: dict[str, Any], bad: float) -> None:
    """It poisoned its whole block, and every statistic."""
    x = np.random.default_rng(0).normal(size=(33, 33)).astype(np.float32)
    x[17, 5] = bad
    a = hb.compress(x, **options)
    valid = np.isfinite(x)
    np.testing.assert_array_equal(a.decompress()[~valid], x[~valid])
    assert np.abs(a.decompress()[valid] - x[valid]).max() <= a.error.max_abs
    assert abs(a.mean() - x[valid].mean(dtype=float)) <= a.mean().error


@FORMS
def test_blocks_of_zeros(options: dict[str, Any]) -> None:
    """They became NaN: zero divided by the largest coefficient, zero."""
    x = np.zeros((40, 40), np.float32)
    x[20:, 20:] = oracles.field("noise", (20, 20))
    for y in (x, 0 * x):
        a = hb.compress(y, **options)
        np.testing.assert_array_equal(a.decompress()[:16, :16], 0)
        oracles.assert_within_certificate(y, a)
        assert math.isfinite(a.mean())
        oracles.assert_holds(a.norm(), oracles.norm(y))
        assert not np.isnan(a.block_std().values).any()
        oracles.assert_within_certificate(y - y, a - a)


def test_indices_of_two_widths_do_not_mix_silently() -> None:
    x = oracles.field("noise", (16, 16)).astype(np.float32)
    a = hb.compress(x, codec=hb.BlockCodec((8, 8), index_dtype="int8"))
    b = hb.compress(x, codec=hb.BlockCodec((8, 8), index_dtype="int16"))
    with pytest.raises(
        CodecError, match=r"expected two arrays of one codec to add, got BlockCodec.*int8.*BlockCodec.*int16"
    ):
        a + b
    with pytest.raises(CodecError, match="expected two arrays of one codec"):
        a - hb.compress(x, codec=hb.BlockCodec((8, 8), index_dtype="int8", keep=0.5))
    oracles.assert_holds(hb.dot(a, b), oracles.dot(x, x))  # products need no common index


@FORMS
def test_numbers_may_stand_on_the_left(options: dict[str, Any]) -> None:
    x = oracles.field("noise", (20, 20)).astype(np.float32)
    a = hb.compress(x, **options)
    for made, truth in ((3 + a, 3 + x), (3 - a, 3 - x), (3 * a, 3 * x)):
        assert np.abs(made.decompress() - truth).max() <= made.error.max_abs


def test_empty_arrays_work_and_single_numbers_are_refused_with_words() -> None:
    a = hb.compress(np.zeros((0, 7), np.float32), tolerance=1e-3)
    assert (a.shape, a.decompress().shape, a.size, len(a)) == ((0, 7), (0, 7), 0, 0)
    assert ((a + a) * 2 - 1).decompress().shape == (0, 7)
    b = hb.compress(np.zeros((0, 7), np.float32), codec=hb.BlockCodec((8, 8)))
    assert (b - b).decompress().shape == (0, 7)
    with pytest.raises(
        ShapeError, match=r"expected an array of 1 to 4 axes, got a single number: wrap it as np.array\(\[x\]\)"
    ):
        hb.compress(np.float64(3), tolerance=1e-3)


@pytest.mark.parametrize("value", [0.0, 1.5, -1e-20])
def test_similarity_of_equal_constants(value: float) -> None:
    """It was NaN for zeros."""
    x = np.full((20, 20), value)
    for options in ({"tolerance": 1e-3}, {"codec": hb.BlockCodec((8, 8), index_dtype="int16")}):
        a = hb.compress(x, **options)  # type: ignore[arg-type]
        assert float(hb.structural_similarity(a, a)) == pytest.approx(1, abs=1e-9)
        oracles.assert_holds(hb.structural_similarity(a, a), 1)
        answer = hb.structural_similarity(a, a, k1=0.0, k2=0.0)
        assert abs(float(answer) - 1) <= answer.error
    zeros = hb.compress(np.zeros((20, 20)), tolerance=1e-3)
    assert float(hb.structural_similarity(zeros, zeros, k1=0.0, k2=0.0)) == 1


@FORMS
def test_the_variance_of_a_block_is_about_its_mean(options: dict[str, Any]) -> None:
    """The mean was forgotten: the variance of a constant block of tens was a hundred."""
    x = (10 + 0.1 * oracles.field("noise", (33, 33))).astype(np.float32)
    field = hb.compress(x, **options).block_variance()
    assert field.values.max() < 0.05
    for place, block in oracles.blocks(x, (8, 8)).items():
        assert abs(field.values[place] - block.var()) <= field.error[place]


@pytest.mark.parametrize(("dtype", "float_bits"), [("float32", 32), ("float64", 64)])
@pytest.mark.parametrize("index", ["int8", "int16"])
@pytest.mark.parametrize("keep", [1.0, 0.5])
def test_size_is_that_of_the_paper(dtype: str, float_bits: int, index: str, keep: float) -> None:
    """A scale of f bits and |F| indices of b bits for each of the n_b blocks."""
    x = oracles.field("noise", (64, 40)).astype(dtype)
    a = hb.compress(x, codec=hb.BlockCodec((8, 8), index_dtype=index, keep=keep))
    blocks, kept = 8 * 5, int(64 * keep)
    assert 8 * a.nbytes == blocks * (float_bits + 8 * np.dtype(index).itemsize * kept)
    assert a.ratio == x.nbytes / a.nbytes
