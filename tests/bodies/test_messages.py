"""One update of a message, against its definition; draws that depend on nothing but their key."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcblaz.bodies.messages import (
    ROOT_TWO,
    TINY,
    damped_odds,
    draw,
    most_odds,
    odds_alike,
    odds_any,
    odds_distance,
    product,
)

WEIGHT = st.floats(1e-6, 1e6)


def pair(odds: float) -> np.ndarray:
    return np.array([1, odds]) / (1 + odds)


@given(WEIGHT, WEIGHT, WEIGHT, WEIGHT, WEIGHT)
def test_odds_are_those_of_the_vectors(field: float, back: float, w01: float, w10: float, w11: float) -> None:
    known = np.array([1, field / back])
    table = np.array([[1, w01], [w10, w11]])
    told = known @ table
    assert odds_any(field, back, w01, w10, w11) == pytest.approx(told[1] / told[0], rel=1e-12)
    most = (known[:, None] * table).max(axis=0)
    assert most_odds(field, back, w01, w10, w11) == pytest.approx(most[1] / most[0], rel=1e-12)
    assert odds_alike(field, back, w01) == odds_any(field, back, w01, w01, 1.0)


@given(WEIGHT, WEIGHT, st.floats(0, 0.99))
def test_distances_and_mixtures(a: float, b: float, damping: float) -> None:
    assert odds_distance(a, b, ROOT_TWO, 1.0) == pytest.approx(np.linalg.norm(pair(a) - pair(b)), rel=1e-6, abs=1e-15)
    mixed = (1 - damping) * pair(a) + damping * pair(b)
    assert pair(damped_odds(a, b, damping, 1.0)) == pytest.approx(mixed, rel=1e-9)


def test_what_is_possible_stays_so() -> None:
    assert product(1e-200, 1e-200) == TINY and product(TINY, 0.5) == TINY
    assert product(0.0, 1.0) == 0.0 and product(1e-300, 0.0) == 0.0
    assert product(0.25, 0.5) == 0.125
    assert TINY * TINY > 0


def test_draws_are_uniform_and_keyed() -> None:
    with np.errstate(over="ignore"):
        words = [
            [int(draw(np.uint64(s), np.uint64(i), np.uint64(k))) for k in range(2000)]
            for s, i in ((0, 1), (0, 2), (1, 1))
        ]
        again = [int(draw(np.uint64(0), np.uint64(1), np.uint64(k))) for k in range(2000)]
    assert again == words[0]
    assert len({word for row in words for word in row}) == 6000
    for row in words:
        assert abs(np.mean(row) / 2**64 - 0.5) < 0.03
        for bit in (0, 31, 63):
            assert abs(np.mean([word >> bit & 1 for word in row]) - 0.5) < 0.05
    assert abs(np.corrcoef(words[0], words[1])[0, 1]) < 0.1
