"""Answers of belief propagation: exact on trees, equal to a plain implementation on loops, sound with zeros."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from bp.reference import enumerate_all, grid_edges, propagate, random_pairwise, tree_edges
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcblaz.bp import FactorGraph, PairwiseModel, infer
from hpcblaz.bp.schedules import SCHEDULES
from hpcblaz.errors import ConfigurationError, ModelError

EXACT: dict[str, Any] = {"tolerance": 1e-13, "precision": "float64"}
BINARY = np.full(9, 2)
MIXED = np.array([2, 3, 4, 1, 2, 3, 2, 5, 2])


def tree(kind: str, seed: int) -> PairwiseModel | FactorGraph:
    rng = np.random.default_rng(seed)
    if kind == "binary":
        return random_pairwise(rng, BINARY, tree_edges(rng, 9), 2.0)
    if kind == "pairwise":
        return random_pairwise(rng, MIXED, tree_edges(rng, 9), 2.0)
    scopes = [[0, 1, 2], [2, 3], [4, 3, 5], [5, 6, 7, 8], [1], [8], []]
    tables = [rng.gamma(0.5, size=tuple(MIXED[scope])) for scope in scopes]
    return FactorGraph.from_tables(MIXED, list(zip(scopes, tables, strict=True)))


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("kind", ["binary", "pairwise", "factors"])
def test_trees_are_exact(kind: str, schedule: str) -> None:
    for seed in range(4):
        model = tree(kind, seed)
        marginals, log_z, best = enumerate_all(model)
        result = infer(model, schedule, **EXACT)
        assert result.prepared.plan.family == kind
        assert result.converged and result.residual <= 1e-13
        np.testing.assert_allclose(result.marginals, marginals, rtol=0, atol=1e-10)
        assert result.log_partition == pytest.approx(log_z, abs=1e-10)
        found = infer(model, schedule, "map", **EXACT)
        assert found.score == pytest.approx(best, abs=1e-10)
        assert found.score == model.score(found.assignment)


def test_a_sweep_of_a_tree_is_forward_and_backward() -> None:
    rng = np.random.default_rng(0)
    names = rng.permutation(3000)  # the numbering does not follow the tree
    model = random_pairwise(rng, np.full(3000, 2), np.stack([names[:-1], names[1:]], axis=1))
    result = infer(model, "sweep", **EXACT)
    assert result.converged and result.iterations == 2
    forward, backward = np.ones((3000, 2)), np.ones((3000, 2))
    unaries = np.exp(model.log_unaries.reshape(-1, 2))[names]
    tables = np.exp(model.log_tables.reshape(-1, 2, 2))
    scale = 0.0
    for i in range(1, 3000):
        message = (forward[i - 1] * unaries[i - 1]) @ tables[i - 1]
        scale += np.log(message.sum())
        forward[i] = message / message.sum()
    for i in range(2998, -1, -1):
        message = tables[i] @ (backward[i + 1] * unaries[i + 1])
        backward[i] = message / message.sum()
    marginals = forward * unaries * backward
    np.testing.assert_allclose(
        result.marginals.reshape(-1, 2)[names], marginals / marginals.sum(axis=1, keepdims=True), rtol=0, atol=1e-10
    )
    assert result.log_partition == pytest.approx(scale + np.log((forward[-1] * unaries[-1]).sum()), rel=1e-12)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("kind", ["binary", "unlike", "pairwise", "factors"])
@pytest.mark.parametrize("task", ["marginals", "map"])
def test_fixed_points_are_those_of_a_plain_implementation(kind: str, schedule: str, task: str) -> None:
    rng = np.random.default_rng(7)
    edges = grid_edges(4, 4)
    if kind == "binary":  # all tables alike on the diagonal: one weight an edge
        couplings = rng.uniform(-0.6, 0.6, len(edges))
        tables = couplings[:, None, None] * np.array([[1, -1], [-1, 1]])
        model: Any = PairwiseModel.from_tables(rng.normal(size=(16, 2)), edges, tables, log=True)
    elif kind == "unlike":
        model = random_pairwise(rng, np.full(16, 2), edges, 0.4)
    elif kind == "pairwise":
        model = random_pairwise(rng, rng.integers(1, 5, 16), edges, 0.4)
    else:
        cards = rng.integers(1, 4, 12)
        scopes = [[0, 1, 2], [2, 3, 4], [4, 5, 0], [6, 7], [7, 8, 1], [9, 10, 11, 3], [11, 6], [5], [8, 9]]
        model = FactorGraph.from_tables(cards, [(s, rng.normal(0, 0.5, tuple(cards[s]))) for s in scopes], log=True)
    expected = propagate(model.to_factor_graph(), 300, task == "map")
    assert abs(expected - propagate(model.to_factor_graph(), 301, task == "map")).max() < 1e-12
    result = infer(model, schedule, task, damping=0.2 if schedule == "lbp" else 0.0, **EXACT)
    assert result.converged
    np.testing.assert_allclose(result.beliefs, expected, rtol=0, atol=1e-8)


def test_rounds_of_lbp_are_those_of_a_plain_implementation() -> None:
    rng = np.random.default_rng(3)
    for cards in (np.full(9, 2), rng.integers(2, 4, 9)):
        model = random_pairwise(rng, cards, grid_edges(3, 3))
        result = infer(model, "lbp", max_iterations=5, damping=0.25, **EXACT)
        assert (result.status, result.iterations) == ("iterations", 5.0)
        expected = propagate(model.to_factor_graph(), 5, damping=0.25)
        np.testing.assert_allclose(result.beliefs, expected, rtol=0, atol=1e-12)


def test_bethe_is_the_free_energy_of_the_beliefs() -> None:
    rng = np.random.default_rng(5)
    edges = grid_edges(3, 3)
    for cards in (np.full(9, 2), np.array([2, 3, 2, 4, 2, 3, 1, 2, 3])):
        model = random_pairwise(rng, cards, edges, 0.5)
        by_edges = infer(model, **EXACT)
        assert by_edges.log_partition == pytest.approx(_log_z_of(model, by_edges), abs=1e-9)
        # The same through messages of factors of three variables, one of which is constant
        graph = model.to_factor_graph()
        extra = FactorGraph.from_tables(cards, [([0, 1, 2], np.ones(tuple(cards[:3])))])
        joined = FactorGraph(
            cards,
            np.concatenate([graph.factor_offsets, extra.factor_offsets[1:] + graph.edges]),
            np.concatenate([graph.scopes, extra.scopes]),
            np.concatenate([graph.table_offsets, extra.table_offsets[1:] + graph.log_tables.size]),
            np.concatenate([graph.log_tables, extra.log_tables]),
        )
        by_factors = infer(joined, **EXACT)
        assert by_factors.prepared.plan.family == "factors"
        assert by_factors.log_partition == pytest.approx(by_edges.log_partition, abs=1e-9)


def _log_z_of(model: PairwiseModel, result: Any) -> float:
    """Return the Bethe free energy, from marginals of variables and of edges."""
    energy, at = 0.0, 0
    into: dict[tuple[int, int], np.ndarray] = {}
    for a, b in model.edges:
        for source, target in ((a, b), (b, a)):
            size = int(model.cardinalities[target])
            into[int(source), int(target)] = result.vectors[at : at + size]
            at += size
    for v in range(model.variables):
        belief = result.marginal(v)
        entropy = -(belief * np.log(belief)).sum()
        energy += (belief * model.log_unary(v)).sum() + (1 - model.degrees[v]) * entropy
    for e, (a, b) in enumerate(model.edges):
        table = np.exp(model.log_table(e))
        joint = table * (result.marginal(a) / into[int(b), int(a)])[:, None] * result.marginal(b) / into[int(a), int(b)]
        joint /= joint.sum()
        energy += (joint * (model.log_table(e) - np.log(joint))).sum()
    return float(energy)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["pairwise", "factors"]), st.sampled_from(SCHEDULES))
def test_zeros_are_exact_on_trees(seed: int, kind: str, schedule: str) -> None:
    rng = np.random.default_rng(seed)
    model: Any = tree(kind, seed)
    tables = np.where(rng.random(model.log_tables.size) < 0.3, -np.inf, model.log_tables)
    model = type(model)(**{**vars_of(model), "log_tables": tables})
    evidence = {int(v): int(rng.integers(model.cardinalities[v])) for v in rng.choice(9, 2, replace=False)}
    model = model.clamp(evidence)
    scores_best = enumerate_scores(model)
    if np.isneginf(scores_best):
        with pytest.raises(ModelError, match=r"impossible"):
            infer(model, schedule, max_iterations=50, **EXACT)
        return
    marginals, log_z, best = enumerate_all(model)
    result = infer(model, schedule, **EXACT)
    assert result.converged
    np.testing.assert_allclose(result.marginals, marginals, rtol=0, atol=1e-10)
    assert ((result.marginals == 0) == (marginals == 0)).all()
    assert result.log_partition == pytest.approx(log_z, abs=1e-9)
    assert infer(model, schedule, "map", **EXACT).score == pytest.approx(best, abs=1e-9)


def vars_of(model: Any) -> dict[str, Any]:
    return {name: getattr(model, name) for name in model.__dataclass_fields__}


def enumerate_scores(model: Any) -> float:
    return float(model.score(np.array(list(itertools.product(*(range(c) for c in model.cardinalities))))).max())


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["float32", "float64"]), st.floats(0.1, 60.0))
def test_evidence_and_strong_tables_of_binary_variables(seed: int, precision: str, spread: float) -> None:
    rng = np.random.default_rng(seed)
    model = random_pairwise(rng, np.full(8, 2), tree_edges(rng, 8), spread).clamp({3: 1, 5: 0})
    marginals, log_z, _ = enumerate_all(model)
    result = infer(model, tolerance=1e-6, precision=precision)
    assert result.converged
    np.testing.assert_allclose(
        result.marginals, marginals, rtol=0, atol=1e-10 if result.precision == "float64" else 2e-5
    )
    assert result.marginal(3).tolist() == [0.0, 1.0]
    assert result.log_partition == pytest.approx(log_z, rel=1e-4, abs=1e-4)


def test_many_weak_messages_do_not_underflow() -> None:
    rng = np.random.default_rng(0)
    leaves = 3000
    edges = np.stack([np.zeros(leaves, np.int64), np.arange(1, leaves + 1)], axis=1)
    model = random_pairwise(rng, np.full(leaves + 1, 2), edges)
    tables = np.exp(model.log_tables.reshape(-1, 2, 2))
    sent = np.log(np.einsum("eij,ej->ei", tables, np.exp(model.log_unaries.reshape(-1, 2)[1:])))
    logs = model.log_unary(0) + sent.sum(axis=0)
    expected = np.exp(logs - np.logaddexp(*logs))
    for precision in ("float32", "float64"):
        result = infer(model, precision=precision)
        assert result.converged
        np.testing.assert_allclose(result.marginal(0), expected, atol=1e-5)
        assert result.log_partition == pytest.approx(np.logaddexp(*logs), rel=1e-6)


@pytest.mark.parametrize("schedule", ["sweep", "lbp", "auto", "queue"])
def test_variables_with_many_neighbours(schedule: str) -> None:
    """What a variable knows without one neighbour is a product of all others, of which some may be impossible."""
    rng = np.random.default_rng(0)
    leaves, states = 200, 3
    tables = rng.gamma(0.5, size=(leaves, states, states))
    tables[:5, 1] = 0  # five neighbours say that state 1 of the hub is impossible, and one that state 2 is
    tables[7, 2] = 0
    edges = np.stack([np.zeros(leaves, np.int64), np.arange(1, leaves + 1)], axis=1)
    model = PairwiseModel.from_tables(np.ones((leaves + 1, states)), edges, tables)
    told = tables.sum(axis=2)
    triple = FactorGraph.from_tables([states] * (leaves + 1), [([0, 1, 2], np.ones((states,) * 3))])
    graph = model.to_factor_graph()
    joined = FactorGraph(
        graph.cardinalities,
        np.concatenate([graph.factor_offsets, triple.factor_offsets[1:] + graph.edges]),
        np.concatenate([graph.scopes, triple.scopes]),
        np.concatenate([graph.table_offsets, triple.table_offsets[1:] + graph.log_tables.size]),
        np.concatenate([graph.log_tables, triple.log_tables]),
    )
    for each in (model, joined):
        result = infer(each, schedule, tolerance=1e-10)
        assert result.converged
        assert result.marginal(0).tolist() == [1.0, 0.0, 0.0]
        np.testing.assert_allclose(result.marginal(9), tables[8, 0] / tables[8, 0].sum(), rtol=0, atol=1e-12)
        assert result.log_partition == pytest.approx(np.log(told[:, 0]).sum(), abs=1e-9)


def test_contradictions_are_named() -> None:
    never = [[0, 0], [0, 0]]
    with pytest.raises(ModelError, match="every state of variable 2 is impossible"):
        infer(PairwiseModel.from_tables([[1, 1], [1, 1], [0, 0]], [[0, 1]], [[[1, 2], [3, 4]]]))
    with pytest.raises(ModelError, match=r"every state of variable [01] is impossible"):
        infer(PairwiseModel.from_tables([[1, 1]] * 2, [[0, 1]], [never]))
    unlike = [[0, 1], [1, 0]]
    model = PairwiseModel.from_tables([[1, 1]] * 3, [[0, 1], [1, 2]], [unlike, unlike])
    for schedule in SCHEDULES:
        with pytest.raises(ModelError, match=r"every state of variable [012] is impossible"):
            infer(model.clamp({0: 0, 2: 1}), schedule)
    assert infer(model.clamp({0: 0}), "lbp").assignment.tolist() == [0, 1, 0]


def test_models_of_nothing() -> None:
    empty = infer(FactorGraph.from_tables([], []))
    assert (empty.status, empty.marginals.size, empty.assignment.size, empty.log_partition) == ("converged", 0, 0, 0.0)
    constant = infer(FactorGraph.from_tables([], [([], 3.0)]))
    assert constant.log_partition == pytest.approx(np.log(3))
    lonely = infer(FactorGraph.from_tables([2, 3], [([1], [1, 1, 2])]))
    assert lonely.marginals.tolist() == [0.5, 0.5, 0.25, 0.25, 0.5]
    assert lonely.log_partition == pytest.approx(np.log(8))
    for schedule in SCHEDULES:
        assert infer(PairwiseModel.from_tables([[1, 3]], [], []), schedule).marginals == pytest.approx([0.25, 0.75])


def test_bad_options_are_refused() -> None:
    model = PairwiseModel.from_tables([[1, 3]] * 2, [[0, 1]], [[[1, 2], [3, 4]]])
    bad: list[dict[str, Any]] = [
        {"schedule": "fast"}, {"task": "mode"}, {"precision": "float16"}, {"tolerance": 0.0}, {"tolerance": np.nan},
        {"damping": 1.0}, {"damping": -0.1}, {"max_iterations": 0}, {"max_iterations": 2.5}, {"time_limit": 0.0},
        {"seed": -1}, {"seed": 2**64}, {"low": 0.0}, {"high": 1.1}, {"share": np.nan}, {"depth": -1}, {"threads": 0},
    ]  # fmt: skip
    for options in bad:
        with pytest.raises(ConfigurationError):
            infer(model, **options)
    result = infer(model, task="map")
    with pytest.raises(ConfigurationError, match="marginals"):
        _ = result.marginals
    with pytest.raises(ConfigurationError, match="log Z"):
        _ = result.log_partition
    with pytest.raises(ModelError, match="from 0 to 1"):
        infer(model).marginal(2)
