"""Weights of schemes in files: they come back as they were, in the bytes that their form takes."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcblaz import nn
from hpcblaz.errors import FileFormatError, HpcblazError
from hpcblaz.nn.packing import _gaps, _narrow, _pack, _places, _unpack, _widen

SCHEMES = [
    "Prune(0.02, per_layer=True)", "Prune(0.3)+Quantize(float16)", "Prune(0.5)+Quantize(bfloat16)", "Quantize(ternary)",
    "Prune(0.1)+Quantize(int4)", "Quantize(int8)", "Quantize(int8, affine=True)", "Quantize(int4, False, affine=True)",
    "FilterPrune(0.5)+Quantize(int8)",
]  # fmt: skip


@pytest.mark.parametrize("text", SCHEMES)
def test_files_come_back(text: str, tmp_path: Path) -> None:
    network, scheme = nn.lenet((1, 12, 12)), nn.parse_scheme(text)
    path = tmp_path / "weights"
    size = nn.save_packed(path, network, scheme)
    assert size == path.stat().st_size == nn.nbytes(network, scheme)
    expected = nn.compressed(network, scheme)
    found = nn.load_packed(path, network, scheme)
    assert set(found.parameters) == set(expected.parameters)
    for name, x in expected.parameters.items():
        np.testing.assert_array_equal(found.parameters[name], x)


def test_bytes_are_those_of_the_form() -> None:
    network = nn.mlp(200, (200,), 200)
    dense = 4 * 2 * 200 * 200  # biases are zero, and take nothing
    for text, share in (
        ("Quantize(float16)", 1 / 2), ("Quantize(int8)", 1 / 4), ("Quantize(int4)", 1 / 8),
        ("Quantize(ternary, False)", 1 / 16), ("Prune(0.01)+Quantize(float16)", 0.01 * 3 / 4),
        ("Prune(0.5)+Quantize(int8)", 5 / 32),
    ):  # fmt: skip
        size = nn.nbytes(network, nn.parse_scheme(text))
        assert share * dense <= size < share * dense + 6000, (text, size)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 5000), max_size=30, unique=True))
def test_gaps(places: list[int]) -> None:
    array = np.array(sorted(places), np.int64)
    np.testing.assert_array_equal(_places(_gaps(array)), array)


@settings(max_examples=50, deadline=None)
@given(st.sampled_from([2, 4]), st.data())
def test_integers_of_few_bits(bits: int, data: Any) -> None:
    limit = 2 ** (bits - 1)
    codes = np.array(data.draw(st.lists(st.integers(-limit, limit - 1), min_size=1, max_size=20)), np.int8)
    packed = _narrow(codes, bits)
    assert packed.size == -(-codes.size * bits // 8)
    np.testing.assert_array_equal(_widen(packed, bits, len(codes)), codes)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "uint16", "int8"])
@pytest.mark.parametrize("count", [0, 1, 7, 900])
def test_any_array_of_zeros_and_others(dtype: str, count: int) -> None:
    x = np.zeros((30, 30), dtype)
    x.reshape(-1)[np.random.default_rng(0).permutation(900)[:count]] = 3
    parts, form = _pack(x, True)
    arrays = {f"w{end}": part for end, part in parts.items()}
    again = _unpack(arrays, "w", form, 900) if form else arrays["w"]
    np.testing.assert_array_equal(again, x)
    assert again.dtype == x.dtype


def test_damaged_files(tmp_path: Path) -> None:
    network, scheme = nn.mlp(20, (20,), 4), nn.parse_scheme("Prune(0.2)+Quantize(int4)")
    path = tmp_path / "weights"
    nn.save_packed(path, network, scheme)
    data = path.read_bytes()
    random = np.random.default_rng(0)
    for _ in range(100):
        wrong = bytearray(data)
        wrong[random.integers(len(data))] ^= 1 << int(random.integers(8))
        path.write_bytes(wrong)
        with contextlib.suppress(HpcblazError):  # names of spare arrays and the like may change without harm
            nn.load_packed(path, network, scheme)
    path.write_bytes(data)
    for other, changed in ((nn.mlp(20, (21,), 4), scheme), (network, nn.Quantize("int8", leave=["dense1.weight"]))):
        with pytest.raises(FileFormatError, match="expected"):
            nn.load_packed(path, other, changed)
    nn.save_weights(path, network)
    with pytest.raises(FileFormatError, match="packed"):
        nn.load_packed(path, network, scheme)
