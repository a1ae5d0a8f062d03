"""Batches: each member has the answers that it has alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcblaz import bp
from hpcblaz.backend.message_batches import BatchRule, propagate
from hpcblaz.bp.batch_plans import gather_members, prepare_batch
from hpcblaz.errors import ConfigurationError, ModelError

TIGHT = {"float32": 1e-7, "float64": 1e-13}
CLOSE = {"float32": 1e-6, "float64": 1e-10}


def triples(variables: int, states: int, seed: int, zeros: float = 0.0) -> bp.FactorGraph:
    """Return a model of random factors of three variables."""
    rng = np.random.default_rng(seed)
    factors: list[tuple[list[int], Any]] = [([v], rng.uniform(0.2, 1, states)) for v in range(variables)]
    for _ in range(variables // 2):
        table = rng.uniform(0.5, 1.5, (states,) * 3)
        table[rng.random(table.shape) < zeros] = 0
        factors.append((rng.choice(variables, 3, replace=False).tolist(), table))
    return bp.FactorGraph.from_tables([states] * variables, factors)


def parities(bits: int, seed: int, odd: bool = False) -> bp.FactorGraph:
    """Return a model of parities of three to five bits, some of them odd."""
    rng = np.random.default_rng(seed)
    factors: list[tuple[list[int], Any]] = [([v], [0.6, 0.4]) for v in range(bits)]
    for i in range(bits // 2):
        size = 3 + i % 3
        ones = np.indices((2,) * size).sum(axis=0) % 2
        factors.append((rng.choice(bits, size, replace=False).tolist(), (ones == (odd and i % 2)) * 1.0))
    return bp.FactorGraph.from_tables([2] * bits, factors)


MODELS: dict[str, Callable[[int], bp.FactorGraph | bp.PairwiseModel]] = {
    "odds": lambda seed: bp.ising(5, 1.5, seed),
    "odds of a factor graph": lambda seed: bp.ising(4, 1.5, seed).to_factor_graph(),
    "tree": lambda seed: bp.tree(20, 3.0, seed),
    "vectors": lambda seed: bp.potts(4, 3, 1.0, seed),
    "factors": lambda seed: triples(12, 2, seed),
    "factors with zeros": lambda seed: triples(12, 3, seed, 0.1),
    "parities": lambda seed: parities(16, seed),
    "odd parities": lambda seed: parities(16, seed, True),
}


def unaries_of(model: bp.FactorGraph | bp.PairwiseModel, members: int, seed: int) -> np.ndarray:
    states = int(model.cardinalities.sum())
    return np.random.default_rng(seed).normal(0, 1, (members, states))


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("schedule", ["lbp", "sweep"])
@pytest.mark.parametrize("name", MODELS)
def test_members_have_the_answers_that_they_have_alone(name: str, schedule: str, precision: str) -> None:
    model = MODELS[name](1)
    logs = unaries_of(model, 21, 2)
    options: dict[str, Any] = {"tolerance": TIGHT[precision], "max_iterations": 3000, "damping": 0.2}
    found = bp.infer_batch(model, logs, schedule=schedule, precision=precision, **options)
    members = gather_members(model, logs, None, None)
    assert found.converged.sum() > 10
    for i in np.flatnonzero(found.converged):
        options["tolerance"] = 1e-13
        alone = bp.infer(members.member(i), "lbp", precision="float64", **options)
        assert alone.converged
        np.testing.assert_allclose(found.marginals[i], alone.marginals, rtol=0, atol=CLOSE[precision])
        if np.diff(np.sort(found.marginals[i].reshape(model.variables, -1), axis=1)[:, -2:], axis=1).min() > 1e-5:
            np.testing.assert_array_equal(found.assignment[i], alone.assignment)


@pytest.mark.parametrize("schedule", ["lbp", "sweep"])
@pytest.mark.parametrize("name", MODELS)
def test_largest_products_are_those_of_a_member_alone(name: str, schedule: str) -> None:
    model = MODELS[name](3)
    logs = unaries_of(model, 9, 4)
    options: dict[str, Any] = {"tolerance": 1e-12, "max_iterations": 500, "precision": "float64", "task": "map"}
    found = bp.infer_batch(model, logs, schedule=schedule, **options)
    members = gather_members(model, logs, None, None)
    compared = 0
    for i in np.flatnonzero(found.converged):
        alone = bp.infer(members.member(i), "lbp", **options)
        if alone.converged:
            compared += 1
            np.testing.assert_allclose(found.beliefs[i], alone.beliefs, rtol=0, atol=1e-9)
            np.testing.assert_array_equal(found.assignment[i], alone.assignment)
    assert compared > 1
    with pytest.raises(ConfigurationError, match="marginals"):
        _ = found.marginals


@settings(deadline=None, max_examples=25)
@given(
    st.sampled_from(sorted(MODELS)),
    st.integers(0, 10**6),
    st.integers(1, 20),
    st.integers(1, 3),
    st.sampled_from(["lbp", "sweep"]),
)
def test_a_member_does_not_depend_on_the_others(
    name: str, seed: int, members: int, threads: int, schedule: str
) -> None:
    model = MODELS[name](seed % 7)
    logs = unaries_of(model, members, seed)
    options: dict[str, Any] = {"schedule": schedule, "max_iterations": 50, "contradictions": "report"}
    together = bp.infer_batch(model, logs, threads=threads, **options)
    for i in {0, members // 2, members - 1}:
        alone = bp.infer_batch(model, logs[i : i + 1], threads=1, **options)
        np.testing.assert_array_equal(together.beliefs[i], alone.beliefs[0])
        assert together.status[i] == alone.status[0] and together.iterations[i] == alone.iterations[0]


@pytest.mark.parametrize("name", ["odds", "vectors", "parities"])
def test_a_tile_is_refilled_and_narrowed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpcblaz.backend.message_batches._WIDEST", 32)
    monkeypatch.setattr("hpcblaz.backend.message_batches._NUMBERS", 1)
    model = MODELS[name](1)
    logs = unaries_of(model, 150, 7)
    logs[:5] *= 0.1  # which converge sooner
    found = bp.infer_batch(model, logs, tolerance=1e-6, threads=2)
    assert len(set(found.iterations.tolist())) > 2
    for i in range(0, 150, 10):
        one = bp.infer_batch(model, logs[i : i + 1], tolerance=1e-6)
        np.testing.assert_array_equal(found.marginals[i], one.marginals[0])


@pytest.mark.parametrize("name", ["odds", "vectors", "factors"])
def test_members_may_have_tables_of_their_own(name: str) -> None:
    model = MODELS[name](0)
    tables = model.log_tables + np.random.default_rng(0).normal(0, 0.2, (18, model.log_tables.size))
    logs = unaries_of(model, 18, 1)
    found = bp.infer_batch(model, logs, log_tables=tables, tolerance=1e-12, precision="float64")
    members = gather_members(model, logs, None, tables)
    assert found.converged.all()
    for i in (0, 7, 17):
        alone = bp.infer(members.member(i), "lbp", tolerance=1e-13, precision="float64")
        np.testing.assert_allclose(found.marginals[i], alone.marginals, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", MODELS)
def test_evidence_is_certain(name: str) -> None:
    model = MODELS[name](2)
    evidence = [{0: 1}, {}, {3: 0, 5: 1}]
    found = bp.infer_batch(model, evidence=evidence, tolerance=1e-12, precision="float64", damping=0.1)
    assert found.converged.all()
    for i, seen in enumerate(evidence):
        alone = bp.infer(model.clamp(seen), "lbp", tolerance=1e-13, precision="float64", damping=0.1)
        np.testing.assert_allclose(found.marginals[i], alone.marginals, rtol=0, atol=1e-10)
        for variable, state in seen.items():
            row = found.marginals[i, found.offsets[variable] : found.offsets[variable + 1]]
            assert row.tolist() == np.eye(len(row))[state].tolist()
            assert found.assignment[i, variable] == state


def test_contradictions_are_reported_or_raised() -> None:
    equal = bp.PairwiseModel.from_tables([[1, 1]] * 3, [[0, 1], [1, 2]], [np.eye(2)], table_of=[0, 0])
    evidence: list[dict[int, int]] = [{0: 0}, {0: 0, 2: 1}, {}]
    found = bp.infer_batch(equal, evidence=evidence, contradictions="report")
    assert found.status.tolist() == ["converged", "contradiction", "converged"]
    assert found.impossible.tolist()[::2] == [-1, -1] and found.impossible[1] >= 0
    assert np.isnan(found.marginals[1]).all() and (found.assignment[1] == -1).all()
    assert found.assignment[0].tolist() == [0, 0, 0]
    with pytest.raises(ModelError, match="member 1, in which every state of variable"):
        bp.infer_batch(equal, evidence=evidence)
    nothing = np.zeros((2, 18))
    nothing[1, 4:6] = -np.inf
    with pytest.raises(ModelError, match="member 1, in which every state of variable 2"):
        bp.infer_batch(bp.ising(3, 1.0), nothing)


def test_limits_are_told() -> None:
    model = bp.ising(10, 3.5, 1)
    logs = unaries_of(model, 20, 0) * 0.1
    few = bp.infer_batch(model, logs, schedule="lbp", max_iterations=3)
    assert set(few.status) == {"iterations"} and set(few.iterations.tolist()) == {3}
    alone = bp.infer(gather_members(model, logs, None, None).member(4), "lbp", max_iterations=3)
    np.testing.assert_allclose(few.marginals[4], alone.marginals, atol=1e-5)
    assert (few.residuals > 1e-4).all() and not few.converged.any()
    late = bp.infer_batch(model, logs, schedule="lbp", tolerance=1e-30, time_limit=0.05, max_iterations=2**39)
    assert set(late.status) == {"time"}


def test_what_is_not_a_number_has_not_converged() -> None:
    model = bp.ising(4, 1.0)
    for some in (model, bp.potts(4, 3, 1.0)):
        prepared = prepare_batch(gather_members(some, unaries_of(some, 3, 0), None, None), "float32")
        prepared.plan.unaries[1, 4] = np.nan
        for flooding in (False, True):
            rule = BatchRule(flooding, not flooding, False, False, 0.0, 1e-4, 100, None)
            outcome = propagate(prepared.plan, rule, range(3))
            assert outcome.status[[0, 2]].tolist() == [1, 1]
            if some is not model:  # odds are kept within bounds
                assert outcome.status[1] != 1


def test_models_of_nothing() -> None:
    lonely = bp.PairwiseModel.from_tables([[1, 3]], np.zeros((0, 2), int), [])
    found = bp.infer_batch(lonely, [[0, 0], [np.log(3), 0]])
    np.testing.assert_allclose(found.marginals, [[0.25, 0.75], [0.5, 0.5]], atol=1e-7)
    assert found.converged.all()
    empty = bp.infer_batch(bp.ising(3, 1.0), np.zeros((0, 18)))
    assert len(empty) == 0 and empty.marginals.shape == (0, 18) and empty.assignment.shape == (0, 9)


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({}, ModelError, "got none of them"),
        ({"log_unaries": np.zeros((2, 5))}, ModelError, "shape"),
        ({"log_unaries": np.full((2, 18), np.nan)}, ModelError, "nan"),
        ({"log_unaries": np.zeros((2, 18)), "evidence": [{}]}, ModelError, "2 of log_unaries, 1 of evidence"),
        ({"evidence": [{9: 0}]}, ModelError, "variables from 0 to 8"),
        ({"evidence": [{}], "schedule": "rbp"}, ConfigurationError, "sweep, lbp"),
        ({"evidence": [{}], "task": "logz"}, ConfigurationError, "marginals, map"),
        ({"evidence": [{}], "stop": "valid"}, ConfigurationError, "more than parities"),
        ({"evidence": [{}], "damping": 1.0}, ConfigurationError, "damping"),
        ({"evidence": [{}], "tolerance": 0.0}, ConfigurationError, "tolerance"),
        ({"evidence": [{}], "max_iterations": 0}, ConfigurationError, "max_iterations"),
        ({"evidence": [{}], "time_limit": 0}, ConfigurationError, "time_limit"),
    ],
)
def test_what_makes_no_sense_is_refused(options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        bp.infer_batch(bp.ising(3, 1.0), **options)
