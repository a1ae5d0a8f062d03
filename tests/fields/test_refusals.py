"""What cannot be compressed is refused with what was expected, what came, and what to do."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import oracles
import pytest

import hpcblaz as hb
from hpcblaz.errors import (
    CodecError,
    DtypeError,
    HpcblazError,
    LayoutError,
    ShapeError,
    ToleranceError,
    UnsupportedOperationError,
)

X = oracles.field("noise", (20, 21)).astype(np.float32)


def refusal(cls: type[HpcblazError], x: Any, **options: Any) -> str:
    """Return the text of the error that compressing raises."""
    with pytest.raises(cls) as caught:
        hb.compress(x, **options)
    assert type(caught.value) is cls
    text = str(caught.value)
    assert "expected" in text and "got" in text
    return text


@pytest.mark.parametrize("value", [0, 0.0, -1e-3, float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", ["tolerance", "relative", "psnr", "rate"])
def test_targets_that_are_not_positive(name: str, value: float) -> None:
    assert refusal(ToleranceError, X, **{name: value}) == f"expected {name} to be positive and finite, got {value!r}"


@pytest.mark.parametrize("value", ["1e-3", b"1", [1.0], np.array([1.0]), 1j, np.complex64(1), True, object()])
def test_targets_that_are_no_numbers(value: Any) -> None:
    assert "expected tolerance to be a number, got" in refusal(ToleranceError, X, tolerance=value)


def test_targets_of_any_real_type() -> None:
    for value in (1, np.float32(0.5), np.float16(0.25), np.array(0.125), np.int64(2)):
        assert hb.compress(X, tolerance=value).error.max_abs <= float(value)


def test_not_exactly_one_target() -> None:
    text = "expected one of tolerance=, relative=, psnr= and rate=, got"
    assert refusal(ToleranceError, X) == f"{text} none"
    assert refusal(ToleranceError, X, tolerance=1, relative=1) == f"{text} tolerance and relative"
    assert refusal(ToleranceError, X, tolerance=1, psnr=1, rate=3) == f"{text} tolerance and psnr and rate"
    codec = hb.BlockCodec((8, 8))
    assert "expected no tolerance with a BlockCodec, whose size is fixed" in _text(
        CodecError, X, tolerance=1, codec=codec
    )


def _text(cls: type[HpcblazError], x: Any, **options: Any) -> str:
    with pytest.raises(cls) as caught:
        hb.compress(x, **options)
    return str(caught.value)


@pytest.mark.parametrize("codec", ["dct", 3, hb.ToleranceCodec])
def test_codecs_that_are_none(codec: Any) -> None:
    assert "expected codec to be a ToleranceCodec or a BlockCodec, got" in refusal(
        CodecError, X, tolerance=1, codec=codec
    )


@pytest.mark.parametrize(
    ("dtype", "case"),
    [
        ("float16", oracles.DCT_2D),
        ("float32", oracles.DCT_2D),
        ("float64", oracles.DCT_2D),
        ("int16", oracles.DCT_2D),
        ("int64", oracles.DCT_2D),
    ],
)
def test_a_tolerance_that_is_too_small_names_one_that_is_not(dtype: str, case: oracles.Case) -> None:
    x = (X * (1e12 if dtype == "int64" else 1000)).astype(dtype)
    for tolerance in (1e-300, 1e-60, 1e-30):
        text = refusal(ToleranceError, x, tolerance=tolerance, codec=case.codec)
        smallest = float(re.search(r"the smallest usable is about (\S+)$", text)[1])  # type: ignore[index]
        assert f"got {tolerance:g}" in text
        a = hb.compress(x, tolerance=smallest, codec=case.codec)
        assert oracles.errors_of(x, a)[0] <= smallest < 1e-4 * float(np.abs(x).max())


@pytest.mark.parametrize(
    "dtype", ["complex64", "complex128", "bool", "U3", "S2", "M8[s]", "m8[s]", "O", "i4,f4", "longdouble"]
)
def test_types_that_are_not_supported(dtype: str) -> None:
    if np.dtype(dtype) == np.float64:
        pytest.skip("long double is double here")
    x = np.zeros((3, 3), dtype)
    assert "expected dtype float16, float32, float64 or an integer type, got" in refusal(DtypeError, x, tolerance=1)


def test_things_that_are_no_arrays() -> None:
    for thing in (None, "text", [1, "a"], {"a": 1}, [1, None]):
        with pytest.raises((DtypeError, ShapeError), match="expected"):
            hb.compress(thing, tolerance=1)  # type: ignore[arg-type]
    assert "expected an array of numbers, got list" in refusal(DtypeError, [[1, 2], [3]], tolerance=1)
    assert "integers of at most 2**53" in refusal(DtypeError, np.array([2**53 + 1, 0]), tolerance=1)
    assert "integers of at most 2**53" in refusal(DtypeError, np.array([2**64 - 1], np.uint64), tolerance=1)
    assert "integers of at most 2**53" in refusal(DtypeError, np.array([-(2**63)]), tolerance=1)
    a = hb.compress(X, tolerance=1)
    assert "expected an array, got a CompressedArray" in refusal(UnsupportedOperationError, a, tolerance=1)


def test_numbers_of_axes() -> None:
    assert "1 to 4 axes, got a single number" in refusal(ShapeError, 3.0, tolerance=1)
    assert "1 to 4 axes, got 5: reshape it" in refusal(ShapeError, np.zeros((1,) * 5), tolerance=1)
    codec = hb.BlockCodec((2,) * 5)
    assert "1 to 4 axes, got 5" in refusal(ShapeError, np.zeros((1,) * 5), codec=codec)


def test_block_shapes_that_do_not_fit() -> None:
    for sides, text in (
        ((8,), "for each of the 2 axes"),
        ((8, 8, 8), "for each of the 2 axes"),
        ((8, 3), "sides out of"),
        ((32, 4), "sides out of"),
    ):
        assert text in refusal(CodecError, X, tolerance=1, codec=hb.ToleranceCodec(sides))
        assert text in refusal(CodecError, X, codec=hb.BlockCodec(sides))


def test_values_too_large() -> None:
    huge = np.array([[1e200, 1.0]])
    assert "expected values of at most 1e150" in refusal(DtypeError, huge, tolerance=1e190)
    assert "expected values of at most 1e150" in refusal(DtypeError, huge, codec=hb.BlockCodec((8, 8)))
    both = np.array([[1.7e308, -1.7e308]])
    assert "expected a range that float64 holds" in refusal(ToleranceError, both, relative=0.1)
    assert "expected a rate of at least" in refusal(ToleranceError, X, rate=0.01)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"transform": "fft"}, "expected transform to be one of"),
        ({"block_shape": 8}, "expected block_shape to be a sequence of integers, got 8"),
        ({"block_shape": (8.5, 8)}, "expected block_shape to be a sequence of integers"),
        ({"block_shape": "88"}, "expected block_shape to be a sequence of integers"),
    ],
)
@pytest.mark.parametrize("codec", [hb.ToleranceCodec, hb.BlockCodec])
def test_codec_options(codec: Any, options: dict[str, Any], text: str) -> None:
    with pytest.raises(CodecError, match=text):
        codec(**options)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"index_dtype": "uint8"}, "expected index_dtype to be int8, int16 or int32, got 'uint8'"),
        ({"index_dtype": "int64"}, "got 'int64'"),
        ({"index_dtype": "nonsense"}, "got 'nonsense'"),
        ({"keep": 0}, "expected keep to be a fraction"),
        ({"keep": 1.5}, "expected keep to be a fraction"),
        ({"keep": float("nan")}, "expected keep to be a fraction"),
        ({"keep": "half"}, "expected keep to be a fraction"),
        ({"keep": [[1, 0]]}, "expected keep to be a boolean mask"),
        ({"keep": np.zeros((8, 8), bool)}, "expected keep to be a boolean mask with a true entry"),
    ],
)
def test_options_of_the_block_codec(options: dict[str, Any], text: str) -> None:
    with pytest.raises(CodecError, match=text):
        hb.BlockCodec(**options)


def test_masks() -> None:
    with pytest.raises(CodecError, match=r"expected a mask of the block shape \(8, 8\), got shape \(4, 4\)"):
        hb.compress(X, codec=hb.BlockCodec((8, 8), keep=np.ones((4, 4), bool)))
    mask = np.ones((8, 8), bool)
    codec = hb.BlockCodec((8, 8), keep=mask)
    mask[...] = False  # the codec has its own
    assert codec.mask((8, 8)).all()
    assert codec == hb.BlockCodec((8, 8), keep=np.ones((8, 8), bool))
    assert hash(codec) == hash(hb.BlockCodec((8, 8), keep=np.ones((8, 8), bool)))
    assert codec != hb.BlockCodec((8, 8), keep=0.5)
    assert codec != "codec"
    assert hb.BlockCodec((8, 8), keep=1e-9).mask((8, 8)).sum() == 1
    assert hb.BlockCodec((8, 8), keep=0.25).mask((8, 8))[0, 0]
    assert hb.BlockCodec((8, 8), keep=0.25).mask((8, 8)).sum() == 16


def test_layouts_that_do_not_fit() -> None:
    layout = hb.Layout((20, 21), block_shape=(8, 8))
    with pytest.raises(LayoutError, match=r"expected a layout of the codec's block shape \(4, 8\), got \(8, 8\)"):
        hb.compress(X, tolerance=1, codec=hb.ToleranceCodec((4, 8)), layout=layout)
    with pytest.raises(ShapeError, match=r"expected this rank's part of shape \(20, 21\), got \(10, 21\)"):
        hb.compress(X[:10], tolerance=1, layout=layout)
    planned = hb.Layout((20, 21), block_shape=(8, 8), rank=1, size=2)
    with pytest.raises(LayoutError, match="expected a layout of the communicator's rank 0 of 1, got rank 1 of 2"):
        hb.compress(planned.local(X), tolerance=1, layout=planned)
