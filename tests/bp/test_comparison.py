"""Comparisons of answers: the measures are what their definitions say, and what does not match is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcblaz.bp import (
    Answers,
    compare,
    exact,
    infer,
    ising,
    read_answers,
    write_assignment,
    write_log_partition,
    write_marginals,
)
from hpcblaz.errors import ConfigurationError, FileFormatError, ModelError

PNG = b"\x89PNG\r\n\x1a\n"


@st.composite
def two_marginals(draw: st.DrawFn) -> tuple[list[int], list[np.ndarray], list[np.ndarray]]:
    """Offsets, and two distributions of each variable, some of them with zeros."""
    cards = draw(st.lists(st.integers(1, 5), min_size=1, max_size=6))
    sides: list[list[np.ndarray]] = [[], []]
    for states in cards:
        for side in sides:
            weights = draw(st.lists(st.integers(0, 50), min_size=states, max_size=states).filter(any))
            side.append(np.array(weights) / sum(weights))
    return [0, *np.cumsum(cards).tolist()], sides[0], sides[1]


@given(two_marginals())
def test_the_measures_are_their_definitions(given_: tuple[Any, Any, Any]) -> None:
    offsets, ones, others = given_
    one, other = (np.array(offsets), np.concatenate(ones)), (np.array(offsets), np.concatenate(others))
    found, back, same = compare(one, other), compare(other, one), compare(one, one)
    for values in (found, back, same):
        assert values.mean_absolute is not None and values.kl is not None and values.kl_reverse is not None
        assert values.hellinger is not None and values.largest_absolute is not None
    for v, (p, q) in enumerate(zip(ones, others, strict=True)):
        assert found.mean_absolute[v] == pytest.approx(abs(p - q).mean())
        assert found.largest_absolute[v] == abs(p - q).max()
        assert found.hellinger[v] == pytest.approx(math.sqrt(max(0.0, 1 - np.sqrt(p * q).sum())), abs=1e-7)
        possible = p > 0
        if (q[possible] == 0).any():
            assert found.kl[v] == math.inf
        else:
            expected = sum(float(x * math.log(x / y)) for x, y in zip(p[possible], q[possible], strict=True))
            assert found.kl[v] == pytest.approx(expected, abs=1e-12)
        assert found.kl[v] >= abs(p - q).sum() ** 2 / 2 - 1e-12  # Pinsker
    np.testing.assert_array_equal(found.kl, back.kl_reverse)
    np.testing.assert_array_equal(found.hellinger, back.hellinger)
    assert not same.kl.any() and not same.hellinger.any() and not same.largest_absolute.any()
    assert found.summary()["infinite_kl"] == np.isinf(found.kl).sum()


def test_results_are_compared_in_all_they_share() -> None:
    model = ising(5, 2.0, seed=3)
    truth, found = exact(model), infer(model, tolerance=1e-10, precision="float64")
    result = compare(found, truth)
    assert result.mean_absolute is not None and truth.marginals is not None
    np.testing.assert_allclose(result.mean_absolute, abs(found.marginals - truth.marginals)[::2])
    assert result.log10_partition == pytest.approx((found.log_partition - truth.log_partition) / math.log(10))
    assert result.disagreements is None and result.score is None
    assert set(result.summary()) == {
        "variables", "mean_absolute_difference", "largest_absolute_difference", "largest_at_variable",
        "mean_hellinger", "largest_hellinger", "mean_kl", "largest_kl", "infinite_kl", "mean_kl_reverse",
        "largest_kl_reverse", "infinite_kl_reverse", "log10_partition_difference",
    }  # fmt: skip
    assert compare(found, truth.marginals).log10_partition is None
    best, map_found = exact(model, "map"), infer(model, task="map")
    result = compare(map_found, best)
    assert result.score == pytest.approx(map_found.score - best.score, abs=1e-9) and result.mean_absolute is None
    assert best.assignment is not None
    other = best.assignment.copy()
    other[[2, 7]] ^= 1
    assert compare(best, other).disagreements.tolist() == [2, 7]  # type: ignore[union-attr]
    assert compare(-math.inf, -math.inf).log10_partition == 0


def test_files(tmp_path: Path) -> None:
    offsets, marginals = [0, 2, 5], [0.25, 0.75, 0.0, 0.5, 0.5]
    write_marginals(tmp_path / "a.MAR", offsets, marginals)
    write_log_partition(tmp_path / "a.PR", -3.0)
    write_assignment(tmp_path / "a.MAP", [1, 0])
    (tmp_path / "a.MPE").write_text("MPE\n1\n2 1 1\n")
    (tmp_path / "not").write_text("MARKOV\n1\n2\n0\n")
    assert compare(read_answers(tmp_path / "a.MAR"), (offsets, marginals)).summary()["mean_absolute_difference"] == 0
    assert compare(read_answers(tmp_path / "a.PR"), -3.0).log10_partition == pytest.approx(0, abs=1e-14)
    found = compare(read_answers(tmp_path / "a.MAP"), read_answers(tmp_path / "a.MPE"))
    assert found.disagreements is not None and found.disagreements.tolist() == [1]
    with pytest.raises(FileFormatError, match="line 1: expected MAR, PR, MAP or MPE, got 'MARKOV'"):
        read_answers(tmp_path / "not")


def test_the_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    model = ising(6, 3.0, seed=1)
    compare(infer(model, "lbp"), exact(model)).plot(tmp_path / "c.png", ("lbp", "exact"))
    assert (tmp_path / "c.png").read_bytes()[:8] == PNG
    with pytest.raises(ConfigurationError, match="without: compare marginals"):
        compare(1.0, 2.0).plot(tmp_path / "d.png")
    assert not (tmp_path / "d.png").exists()


@pytest.mark.parametrize(
    ("a", "b", "error", "reason"),
    [
        (([0, 2], [0.5, 0.5]), ([0, 2, 4], [0.5] * 4), ModelError, "the same variables, got 1 variables and 2"),
        (([0, 2, 5], [0.5] * 5), ([0, 3, 5], [0.5] * 5), ModelError, "the same states, got 2 and 3 of variable 0"),
        (([0, 2], [0.5, 0.5]), np.array([0.5]), ModelError, "marginals of 2 states, got 1"),
        (([0, 2], [0.5, 0.5]), np.array([0.7, 0.7]), ModelError, "the sum 1"),
        (([0, 2], [0.5, 0.5]), np.array([np.nan, 0.5]), ModelError, "the sum 1"),
        (([0, 2], [0.5, 0.5]), np.array([1.5, -0.5]), ModelError, "the sum 1"),
        (([1, 2], [0.5, 0.5]), np.array([0.5, 0.5]), ModelError, "begin at 0 and grow"),
        (np.array([0.5, 0.5]), np.array([0.5, 0.5]), ConfigurationError, "how many states"),
        (1.0, [0, 1], ConfigurationError, "log partition and assignment"),
        ([0, 1], [0, 1, 1], ModelError, "got 2 and 3"),
        ("words", 1.0, ConfigurationError, "got str"),
        ([[0.5, 0.5], [1.0]], 1.0, ConfigurationError, "flat array"),
        (Answers(), 1.0, ConfigurationError, "nothing and log partition"),
    ],
)
def test_what_does_not_match_is_refused(a: Any, b: Any, error: type[Exception], reason: str) -> None:
    with pytest.raises(error, match=reason):
        compare(a, b)
