from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from hpcblaz.bodies.records import FIXED_WORDS, LANES, STRIPS, TILE, header_limit, read_widths, strips_of, write_widths

WIDTHS = st.sampled_from([1, 2, 16, 64, 4096]).flatmap(
    lambda size: (
        st.lists(st.integers(0, 32), min_size=size - 1, max_size=size - 1)
        if size <= 64
        else st.integers(0, 2**32).map(lambda seed: np.random.default_rng(seed).integers(0, 33, size - 1).tolist())
    )
)


@njit
def compiled_write(words: Any, position: Any, widths: Any, size: Any) -> Any:
    return write_widths(words, position, widths, size)


@njit
def compiled_read(words: Any, position: Any, widths: Any, size: Any) -> Any:
    return read_widths(words, position, widths, size)


def limit(size: int) -> int:
    return (size + 31) // 32 + (3 * size + 7) // 8


@pytest.mark.parametrize(
    ("write", "read"),
    [
        pytest.param(write_widths, read_widths, id="interpreted"),
        pytest.param(compiled_write, compiled_read, id="compiled"),
        pytest.param(write_widths, compiled_read, id="written interpreted, read compiled"),
    ],
)
@settings(max_examples=60)
@given(rest=WIDTHS, position=st.integers(0, 5))
def test_widths_survive(write: Callable[..., Any], read: Callable[..., Any], rest: list[int], position: int) -> None:
    size = len(rest) + 1
    widths = np.array([99, *rest], np.int64)  # the first is not looked at
    words = np.full(position + limit(size) + 4, 0xDEADBEEF, np.uint32)
    end = write(words, position, widths, size)
    assert position < end <= position + limit(size)
    assert (words[:position] == 0xDEADBEEF).all()
    assert (words[position + limit(size) + 1 :] == 0xDEADBEEF).all()
    found = np.full(size, -1, np.int64)
    assert read(words, position, found, size) == end
    assert found.tolist() == [0, *rest]


@pytest.mark.parametrize("width", range(33))
def test_every_width_in_every_row_survives(width: int) -> None:
    widths = np.full(64, width, np.int64)
    words = np.zeros(limit(64) + 1, np.uint32)
    found = np.zeros(64, np.int64)
    assert read_widths(words, 0, found, 64) == 2  # no bits at all: the bitmap alone
    end = write_widths(words, 0, widths, 64)
    assert read_widths(words, 0, found, 64) == end
    assert found.tolist() == [0] + [width] * 63


def test_strips_and_limits() -> None:
    assert [strips_of(n) for n in (0, 1, LANES, LANES + 1, TILE)] == [0, 1, 1, 2, STRIPS]
    assert TILE == LANES * STRIPS
    for blocks in (1, 5, 128):
        for size in (1, 16, 4096):
            strips = strips_of(blocks)
            widths = np.full(size, 32, np.int64)
            words = np.zeros(limit(size) + 1, np.uint32)
            spent = write_widths(words, 0, widths, size)
            assert FIXED_WORDS + strips + (blocks + 3) // 4 + strips * spent <= header_limit(blocks, size)
