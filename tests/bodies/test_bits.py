from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba import njit

from hpcblaz.bodies import bits

WORDS = st.integers(0, 2**32 - 1)
EDGES = [0, 1, 2, 3, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF]


@njit
def compiled_bit_length(value: Any) -> Any:
    return bits.bit_length(value)


@njit
def compiled_magnitude_bits(value: Any) -> Any:
    return bits.magnitude_bits(value)


@njit
def compiled_low_bits(width: Any) -> Any:
    return bits.low_bits(width)


@njit
def compiled_shift_left(word: Any, count: Any) -> Any:
    return bits.shift_left(word, count)


@njit
def compiled_shift_right(word: Any, count: Any) -> Any:
    return bits.shift_right(word, count)


@njit
def compiled_sign_extend(word: Any, unused: Any) -> Any:
    return bits.sign_extend(word, unused)


def both(name: str) -> list[Any]:
    return [
        pytest.param(getattr(bits, name), id="interpreted"),
        pytest.param(globals()[f"compiled_{name}"], id="compiled"),
    ]


@pytest.mark.parametrize("function", both("bit_length"))
def test_bit_length(function: Callable[..., Any]) -> None:
    for value in [*EDGES, *(2**k for k in range(33)), *(2**k - 1 for k in range(34))]:
        assert function(value) == value.bit_length()


@given(value=st.integers(0, 2**33 - 1))
def test_bit_length_of_any_value(value: int) -> None:
    assert bits.bit_length(value) == compiled_bit_length(value) == value.bit_length()


@pytest.mark.parametrize("function", both("magnitude_bits"))
@given(value=st.integers(-(2**31), 2**31 - 1))
def test_magnitude_bits(function: Callable[..., Any], value: int) -> None:
    word = np.uint32(value & 0xFFFFFFFF)
    expected = value if value >= 0 else -value - 1
    assert int(function(word)) == expected


@pytest.mark.parametrize("function", both("low_bits"))
def test_low_bits(function: Callable[..., Any]) -> None:
    for width in range(33):
        assert int(function(width)) == 2**width - 1
        assert int(function(np.int64(width))) == 2**width - 1


@pytest.mark.parametrize("word", EDGES)
def test_shifts(word: int) -> None:
    for count in range(32):
        for function in (bits.shift_left, compiled_shift_left):
            assert int(function(np.uint32(word), count)) == (word << count) & 0xFFFFFFFF
        for function in (bits.shift_right, compiled_shift_right):
            assert int(function(np.uint32(word), count)) == word >> count


@given(value=WORDS, unused=st.integers(0, 31))
def test_sign_extend(value: int, unused: int) -> None:
    width = 32 - unused
    low = value & (2**width - 1)
    expected = low - 2**width if low >> (width - 1) else low
    assert int(bits.sign_extend(np.uint32(value), unused)) == expected
    assert int(compiled_sign_extend(np.uint32(value), unused)) == expected
