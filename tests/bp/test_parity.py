"""Parities without tables: they are what their tables say, and codes are decoded with them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hpcblaz import bp
from hpcblaz.bp.parity import force, neighbours, parities_of
from hpcblaz.errors import ConfigurationError, ModelError

CHECKS = bp.parity_checks(60, column_weight=3, row_weight=6, seed=0)


def received(words: int, noise: float, seed: int = 1) -> np.ndarray:
    return bp.channel(np.zeros((words, 60), int), noise, seed=seed)


@pytest.mark.parametrize("schedule", ["lbp", "sweep"])
@pytest.mark.parametrize("task", ["marginals", "map"])
def test_decoding_is_inference_with_tables(task: str, schedule: str) -> None:
    ratios = received(12, 0.7)
    options: dict[str, Any] = {"task": task, "tolerance": 1e-12, "precision": "float64", "max_iterations": 500}
    found = bp.decode(CHECKS, ratios, schedule=schedule, stop="converged", **options)
    compared = 0
    for i in np.flatnonzero(found.converged):
        alone = bp.infer(bp.code_model(CHECKS, ratios[i]), "lbp", **options)
        if alone.converged:
            compared += 1
            np.testing.assert_allclose(found.beliefs[i], alone.beliefs, rtol=0, atol=1e-10)
            np.testing.assert_array_equal(found.assignment[i], alone.assignment)
    assert compared > 3


def test_what_is_valid_is_a_code_word() -> None:
    checks = bp.ParityChecks.from_rows(60, CHECKS)
    ratios = received(100, 0.75)
    found = bp.decode(checks, ratios, max_iterations=20, threads=2)
    valid = found.status == "valid"
    assert 20 < valid.sum() < 100 and set(found.status[~valid]) == {"iterations"}
    broken = checks.broken(found.assignment)
    assert (broken[valid] == 0).all() and (broken[~valid] > 0).all()
    assert found.iterations[~valid].tolist() == [20] * int((~valid).sum())
    assert (found.iterations[valid] < 20).any() and np.isnan(found.residuals).all()
    clean = bp.decode(checks, np.full((3, 60), 2.0))
    assert clean.iterations.tolist() == [0, 0, 0] and set(clean.status) == {"valid"} and clean.assignment.sum() == 0


def test_other_code_words_are_found_as_well() -> None:
    word = np.zeros(6, int)
    word[[0, 1, 3, 4]] = 1
    checks = bp.ParityChecks.from_rows(6, [[0, 1, 2], [3, 4, 5], [2, 5]])
    assert checks.broken(word) == 0
    ratios = 4.0 * (1 - 2 * word)[None] * np.array([1, 1, -0.1, 1, 1, 1])
    found = bp.decode(checks, ratios)
    assert found.assignment.tolist() == [word.tolist()] and found.iterations[0] > 0


def test_checks_of_many_bits_need_no_table() -> None:
    rng = np.random.default_rng(0)
    bits = 300
    checks = bp.ParityChecks.from_rows(bits, rng.permuted(np.tile(np.arange(bits), (6, 1)), axis=1).reshape(-1, 50))
    ratios = bp.channel(np.zeros((40, bits), int), 0.42, seed=3)
    before = checks.broken((ratios < 0).astype(int))
    found = bp.decode(checks, ratios)
    assert (before > 0).sum() > 10
    assert (found.status == "valid").all() and found.assignment.sum() == 0
    for task in ("marginals", "map"):
        extreme = bp.decode(checks, ratios * 1e6, task=task, stop="converged", max_iterations=30)
        assert np.isfinite(extreme.beliefs).all() and np.isfinite(extreme.residuals).all()


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_lost_bits_are_found_from_the_others(precision: str) -> None:
    rng = np.random.default_rng(5)
    ratios = np.where(rng.random((30, 60)) < 0.25, 0.0, np.inf)
    found = bp.decode(CHECKS, ratios, precision=precision, stop="converged")
    known = np.where(np.isinf(ratios), 0, -1).astype(np.int8)
    forced, trouble = force(known, np.arange(0, 181, 6), CHECKS.ravel(), np.zeros(30, int))
    assert not trouble.any() and (forced >= known).all() and (forced > known).any()
    np.testing.assert_array_equal(found.marginals[:, ::2][forced == 0], 1.0)
    assert (found.marginals[:, ::2][forced == -1] == 0.5).all()


def test_bits_that_contradict_checks() -> None:
    ratios = np.full((3, 4), np.inf)
    ratios[1, 3] = -np.inf
    ratios[2, 1:] = 0.0
    found = bp.decode([[0, 1], [1, 2], [2, 3]], ratios, contradictions="report")
    assert found.status.tolist() == ["valid", "contradiction", "valid"]
    assert found.impossible[1] in (2, 3) and found.assignment[[0, 2]].sum() == 0
    with pytest.raises(ModelError, match="member 1"):
        bp.decode([[0, 1], [1, 2], [2, 3]], ratios)


def test_tables_that_are_parities_are_recognised() -> None:
    even = (np.indices((2, 2, 2)).sum(axis=0) % 2 == 0) * 1.0
    almost = even.copy()
    almost[0, 0, 0] = 2
    wide = np.ones((2, 3))
    factors: list[tuple[list[int], Any]] = [
        ([0], [1, 0]), ([0, 1, 2], 3 * even), ([0, 1, 2], 1 - even), ([0, 1, 2], almost), ([0, 1, 2], even + 0.1),
        ([0, 1], [[0, 2], [2, 0]]), ([0, 1], [[0, 0], [0, 0]]), ([0, 3], wide), ([], 2.0),
    ]  # fmt: skip
    model = bp.FactorGraph.from_tables([2, 2, 2, 3], factors)
    assert parities_of(model).tolist() == [-1, 0, 1, -1, -1, 1, -1, -1, -1]


def test_who_else_tells_a_variable() -> None:
    offsets, others, told_offsets, told = neighbours(np.array([1, 0, 1, 1]), 3)
    assert offsets.tolist() == [0, 2, 2, 4, 6] and others.tolist() == [2, 3, 0, 3, 0, 2]
    assert told_offsets.tolist() == [0, 1, 4, 4] and told.tolist() == [1, 0, 2, 3]


@pytest.mark.parametrize(
    ("call", "error", "text"),
    [
        (lambda: bp.ParityChecks.from_rows(3, [[0]]), ModelError, "two bits or more"),
        (lambda: bp.ParityChecks.from_rows(3, [[0, 0]]), ModelError, "once in a factor"),
        (lambda: bp.ParityChecks.from_rows(3, [[0, 3]]), ModelError, "from 0 to 2"),
        (lambda: bp.ParityChecks.from_rows(3, [[0, 1]]).broken([0, 1]), ModelError, "shape"),
        (lambda: bp.ParityChecks.from_rows(3, [[0, 1]]).broken([0, 1, 2]), ModelError, "0 or 1"),
        (lambda: bp.decode([[0, 1]], [1.0, 2.0]), ModelError, "words, bits"),
        (lambda: bp.decode([[0, 1]], [["a", "b"]]), ModelError, "numbers"),
        (lambda: bp.decode([[0, 1]], [[1.0, np.nan]]), ModelError, "NaN for bit 1 of word 0"),
        (lambda: bp.decode(bp.ParityChecks.from_rows(3, [[0, 1]]), [[1.0, 1.0]]), ModelError, "3 bits, got 2"),
        (lambda: bp.decode([[0, 1]], [[1.0, 1.0]], stop="never"), ConfigurationError, "stop"),
    ],
)
def test_what_makes_no_sense_is_refused(call: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        call()
