"""Schedules: the same for any number of threads, sound about convergence, and reproducible."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from bp.reference import grid_edges, propagate, random_pairwise

from hpcblaz.backend import messages as backend
from hpcblaz.bp import FactorGraph, PairwiseModel, infer, ising
from hpcblaz.bp.plans import prepare
from hpcblaz.bp.schedules import SCHEDULES
from hpcblaz.errors import ModelError


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("kind", ["binary", "pairwise", "factors"])
def test_threads_change_nothing(schedule: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(1)
    model: Any = random_pairwise(rng, np.full(144, 3 if kind == "pairwise" else 2), grid_edges(12, 12), 0.6)
    if kind == "factors":
        triples = [([i, i + 1, i + 2], rng.normal(0, 0.3, (2, 2, 2))) for i in range(0, 140, 3)]
        pairs = [([int(a), int(b)], model.log_table(e)) for e, (a, b) in enumerate(model.edges)]
        model = FactorGraph.from_tables(model.cardinalities, triples + pairs, log=True)
    results = [infer(model, schedule, threads=2, seed=5)]  # too small to share
    monkeypatch.setattr(backend, "_MESSAGES_A_THREAD", 16)
    monkeypatch.setattr(backend, "_MESSAGES_A_PART", 16)
    results += [infer(model, schedule, threads=threads, seed=5) for threads in (1, 2, 3)]
    assert all(result.converged for result in results)
    for result in results[1:]:
        assert (result.vectors == results[0].vectors).all()
        assert result.updates == results[0].updates
        assert (result.history.unconverged[-1], result.residual) == (0, results[0].residual)


def test_seeds_make_the_choices() -> None:
    model = ising(20, 2.0, 0)
    first, again, other = (infer(model, "rnbp", seed=seed, low=0.3, high=0.6) for seed in (3, 3, 4))
    assert (first.vectors == again.vectors).all() and first.updates == again.updates
    assert first.updates != other.updates
    np.testing.assert_allclose(first.marginals, other.marginals, atol=2e-3)


def test_the_order_of_edges_does_not_change_the_choices() -> None:
    """Choices go by the number of a message in the model: with other neighbours in memory they stay what they are."""
    rng = np.random.default_rng(0)
    edges = grid_edges(6, 6)
    tables = rng.normal(0, 0.4, (len(edges), 2, 2))
    unaries = rng.normal(0, 0.4, (36, 2))
    names = rng.permutation(36)
    plain = PairwiseModel.from_tables(unaries, edges, tables, log=True)
    renamed = PairwiseModel.from_tables(unaries[np.argsort(names)], names[edges], tables, log=True)
    options = {"schedule": "rnbp", "low": 0.5, "high": 0.5, "max_iterations": 3, "precision": "float64"}
    a, b = infer(plain, **options), infer(renamed, **options)
    assert a.updates == b.updates
    np.testing.assert_allclose(a.vectors, b.vectors, rtol=0, atol=1e-12)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_converged_means_that_every_message_is(schedule: str) -> None:
    model = ising(6, 2.0, 1)
    result = infer(model, schedule, tolerance=1e-4, precision="float64")
    assert result.converged
    again = infer(model, "lbp", tolerance=1e-12, precision="float64", initial=result, max_iterations=1)
    assert again.history.residual[0] <= 1e-4
    np.testing.assert_allclose(result.beliefs, propagate(model.to_factor_graph(), 60), atol=1e-3)


def test_auto_converges_where_others_do_not() -> None:
    model = ising(60, 3.0, 0)
    assert infer(model, "lbp", max_iterations=400).status == "iterations"
    assert infer(model, "sweep", max_iterations=400).status == "iterations"
    result = infer(model, "auto", max_iterations=400)
    assert result.converged and result.residual <= 1e-4
    assert result.iterations < 200
    assert infer(model, "auto", max_iterations=400).updates == result.updates


def test_auto_damps_where_nothing_else_helps() -> None:
    # A frustrated triangle: undamped messages go round for ever
    edges = [[0, 1], [1, 2], [2, 0]]
    tables = 4.0 * np.array([[-1.0, 1.0], [1.0, -1.0]])[None].repeat(3, axis=0)
    model = PairwiseModel.from_tables([[0.3, 0.0], [0.0, 0.1], [0.0, 0.0]], edges, tables, log=True)
    assert infer(model, "sweep", max_iterations=3000).status == "iterations"
    assert infer(model, "auto", max_iterations=3000).converged


def test_limits_are_kept() -> None:
    model = ising(30, 3.0, 2)
    for schedule in SCHEDULES:
        result = infer(model, schedule, tolerance=1e-9, max_iterations=3)
        assert result.status == "iterations"
        assert 3 <= result.iterations <= 6
        assert np.isfinite(result.residual) and result.residual > 1e-9
    late = infer(model, "lbp", tolerance=1e-9, time_limit=1e-3, max_iterations=2**30)
    assert late.status == "time"
    assert (np.diff(late.history.updates) >= 0).all() and (np.diff(late.history.seconds) >= 0).all()


def test_a_warm_start_goes_on() -> None:
    model = ising(20, 2.0, 3)
    cold = infer(model, "sweep", tolerance=1e-6, precision="float64")
    warm = infer(model, "sweep", tolerance=1e-6, precision="float64", initial=cold)
    assert warm.iterations <= 2 < cold.iterations
    np.testing.assert_allclose(warm.marginals, cold.marginals, atol=1e-6)
    observed = model.clamp({0: 1, 210: 0})
    changed = infer(observed, "sweep", tolerance=1e-6, precision="float64", initial=cold)
    np.testing.assert_allclose(changed.marginals, infer(observed, "auto", tolerance=1e-6).marginals, atol=1e-4)
    with pytest.raises(ModelError, match="begin with a result of a model of the same shapes"):
        infer(ising(21, 2.0, 3), initial=cold)


def test_a_warm_start_forgets_what_was_impossible() -> None:
    rng = np.random.default_rng(0)
    model = random_pairwise(rng, np.full(9, 3), grid_edges(3, 3), 0.5)
    before = infer(model.clamp({0: 0, 4: 2}), tolerance=1e-10)
    after = infer(model.clamp({0: 1}), tolerance=1e-10, initial=before)
    np.testing.assert_allclose(after.marginals, infer(model.clamp({0: 1}), tolerance=1e-10).marginals, atol=1e-8)


def test_levels_hold_no_neighbours() -> None:
    rng = np.random.default_rng(2)
    pairs = np.unique(np.sort(rng.integers(0, 40, (90, 2)), axis=1), axis=0)
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    for edges in (grid_edges(5, 8), pairs):
        plan = prepare(random_pairwise(rng, np.full(40, 3), edges), "float64").plan
        level = np.repeat(np.arange(len(plan.levels) - 1), np.diff(plan.levels))
        offsets, targets = plan.graph.offsets, plan.graph.variables.astype(np.int64)
        sources = np.repeat(np.arange(40), np.diff(offsets))
        assert (level[sources] != level[targets]).all()
        back = plan.model[1].astype(np.int64)
        assert (targets[back] == sources).all() and (back[back] == np.arange(back.size)).all()
    assert len(prepare(random_pairwise(rng, np.full(40, 2), grid_edges(5, 8)), "float64").plan.levels) == 5 + 8


def test_auto_takes_the_better_of_two_fixed_points() -> None:
    # Neighbours like to be equal and evidence is weak: there is a fixed point of either state
    rng = np.random.default_rng(1)
    edges = grid_edges(8, 8)
    found = []
    for _ in range(12):
        unaries = np.stack([rng.normal(0, 0.3, 64), np.zeros(64)], axis=1)
        tables = 2.0 * np.eye(2)[None]
        model = PairwiseModel.from_tables(unaries, edges, tables, table_of=np.zeros(len(edges), np.int64), log=True)
        sweep, queue, auto = (infer(model, schedule) for schedule in ("sweep", "queue", "auto"))
        assert auto.converged and auto.residual <= 1e-4
        assert auto.log_partition >= max(sweep.log_partition, queue.log_partition) - 1e-5
        found.append(sweep.log_partition - queue.log_partition)
        swept, best = infer(model, "sweep", "map"), infer(model, task="map")
        assert not swept.converged or best.score >= swept.score
    assert min(found) < -0.01 and max(found) > 0.01  # or there was nothing to choose
