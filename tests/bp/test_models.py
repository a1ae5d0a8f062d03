"""Models: what they refuse, and that every way from one to another keeps all scores."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from bp_models import assignments, factor_graphs
from hypothesis import given
from hypothesis import strategies as st

from hpcblaz.bp import FactorGraph, PairwiseModel
from hpcblaz.errors import ModelError

GRAPH = FactorGraph.from_tables([2, 3, 1], [([1, 0], np.arange(6).reshape(3, 2)), ([2], [0.5]), ([], 3.0)])
PAIRS = PairwiseModel.from_tables(np.ones((3, 2)), [[0, 1], [2, 1]], [[[1, 2], [3, 4]]], table_of=[0, 0])


def log_product(model: FactorGraph, states: Any) -> float:
    total = 0.0
    for factor in range(model.factors):
        total += float(model.log_table(factor)[tuple(states[v] for v in model.scope(factor))])
    return total


@given(factor_graphs())
def test_score_is_the_product_of_the_entries(model: FactorGraph) -> None:
    states = assignments(model.cardinalities)
    expected = [log_product(model, row) for row in states]
    np.testing.assert_allclose(model.score(states), expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(model.score(states[0]), expected[0], rtol=1e-12, atol=1e-12)


@given(factor_graphs(max_arity=2))
def test_pairwise_models_and_back_have_the_same_scores(model: FactorGraph) -> None:
    states = assignments(model.cardinalities)
    pairwise = model.to_pairwise()
    np.testing.assert_allclose(pairwise.score(states), model.score(states), rtol=1e-12, atol=1e-12)
    back = pairwise.to_factor_graph()
    np.testing.assert_allclose(back.score(states), model.score(states), rtol=1e-12, atol=1e-12)
    assert back.factors == pairwise.factors and pairwise.to_pairwise() is pairwise


@given(factor_graphs(max_arity=2), st.data())
def test_evidence_leaves_what_was_seen(model: FactorGraph, data: st.DataObject) -> None:
    states = assignments(model.cardinalities)
    chosen = data.draw(st.lists(st.integers(0, model.variables - 1), unique=True))
    evidence = {v: data.draw(st.integers(0, int(model.cardinalities[v]) - 1)) for v in chosen}
    allowed = np.all([states[:, v] == s for v, s in evidence.items()] or [np.ones(len(states), bool)], axis=0)
    expected = np.where(allowed, model.score(states), -np.inf)
    np.testing.assert_allclose(model.clamp(evidence).score(states), expected, rtol=1e-12, atol=1e-12)
    pairwise = model.to_pairwise().clamp(evidence)
    np.testing.assert_allclose(pairwise.score(states), expected, rtol=1e-12, atol=1e-12)
    assert np.array_equal(pairwise.table_offsets, model.to_pairwise().table_offsets)


def test_evidence_keeps_shapes_and_shares_what_stays() -> None:
    model = GRAPH.clamp({1: 2})
    assert model.scopes is GRAPH.scopes and np.array_equal(model.table_offsets, GRAPH.table_offsets)
    assert GRAPH.clamp({}) is GRAPH
    alone = FactorGraph.from_tables([2, 2], [([0], [1, 1])])
    assert alone.clamp({1: 0}).factors == 2
    assert np.isneginf(alone.clamp({1: 0}).score([0, 1])) and alone.clamp({1: 0}).score([0, 0]) == 0


@pytest.mark.parametrize("model", [GRAPH, PAIRS])
def test_soft_evidence_is_a_weight(model: FactorGraph | PairwiseModel) -> None:
    states = assignments(model.cardinalities)
    weights = np.log([0.2, 0.7])
    expected = model.score(states) + weights[states[:, 0]]
    np.testing.assert_allclose(model.weigh({0: [0.2, 0.7]}).score(states), expected, rtol=1e-12)
    np.testing.assert_allclose(model.weigh({0: weights}, log=True).score(states), expected, rtol=1e-12)
    with pytest.raises(ModelError, match="shape"):
        model.weigh({0: [1, 2, 3]})
    for variable in (7, -1, 0.5):
        with pytest.raises(ModelError, match="variable"):
            model.weigh({variable: [1, 2]})  # type: ignore[dict-item]


def test_properties() -> None:
    assert (GRAPH.variables, GRAPH.factors, GRAPH.edges, GRAPH.arity) == (3, 3, 3, 2)
    assert GRAPH.degrees.tolist() == [1, 1, 1] and GRAPH.steps.tolist() == [2, 1, 1]
    assert GRAPH.log_table(0).shape == (3, 2) and np.shares_memory(GRAPH.log_table(0), GRAPH.log_tables)
    assert (PAIRS.variables, PAIRS.tables, PAIRS.factors) == (3, 1, 5) and PAIRS.degrees.tolist() == [1, 2, 1]
    assert np.exp(PAIRS.log_table(1)).round(6).tolist() == [[1, 2], [3, 4]]
    assert PAIRS.log_unary(2).tolist() == [0, 0]


def test_arrays_are_taken_without_copies() -> None:
    tables = np.zeros(6)
    model = FactorGraph(np.array([2, 3]), np.array([0, 2]), np.array([0, 1]), np.array([0, 6]), tables)
    assert model.log_tables is tables


def test_constants_go_to_the_first_variable() -> None:
    model = FactorGraph.from_tables([2], [([], 5.0), ([], 2.0)])
    np.testing.assert_allclose(model.to_pairwise().score([1]), np.log(10))
    with pytest.raises(ModelError, match="constant"):
        FactorGraph.from_tables([], [([], 5.0)]).to_pairwise()
    empty = FactorGraph.from_tables([], [])
    assert empty.score([]) == 0 and empty.to_pairwise().score([]) == 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cardinalities": [2, 0, 1]}, "to have a state"),
        ({"cardinalities": [2.0, 3.0, 1.0]}, "integers"),
        ({"factor_offsets": [0, 2, 3]}, "as many scopes as tables"),
        ({"factor_offsets": [0, 2, 3, 4]}, "from 0 to 3"),
        ({"factor_offsets": [0, 3, 2, 3]}, "never to fall"),
        ({"factor_offsets": [[0]]}, "shape"),
        ({"scopes": [1, 5, 2]}, "variables from 0 to 2"),
        ({"scopes": [1, -1, 2]}, "variables from 0 to 2"),
        ({"scopes": [1, 1, 2]}, "1 twice in factor 0"),
        ({"scopes": [1, 2, 0]}, "3 entries in the table of factor 0"),
        ({"log_tables": np.full(8, np.nan)}, "finite or -inf, got nan"),
        ({"log_tables": np.full(8, np.inf)}, "finite or -inf, got inf"),
        ({"log_tables": np.zeros(5)}, "table_offsets"),
        ({"log_tables": "tables"}, "numbers"),
    ],
)
def test_factor_graphs_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        replace(GRAPH, **changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"unary_offsets": [0, 1, 4, 6]}, "unary weight"),
        ({"edges": [[0, 1], [1, 0]]}, "two between 0 and 1"),
        ({"edges": [[0, 1], [2, 2]]}, "edge 1 of 2 alone"),
        ({"edges": [[0, 1], [2, 3]]}, "variables from 0 to 2"),
        ({"edges": [0, 1]}, "shape"),
        ({"edges": [[0, 1], [2]]}, "different lengths"),
        ({"table_of": [0, 1]}, "table_of from 0 to 0"),
        ({"table_of": [0]}, "each of 2 edges"),
        ({"log_unaries": np.full(6, np.nan)}, "log_unaries"),
        ({"log_tables": np.zeros(6), "table_offsets": [0, 6]}, r"shape \(2, 2\)"),
    ],
)
def test_pairwise_models_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        replace(PAIRS, **changes)


def test_a_shared_table_has_one_shape() -> None:
    with pytest.raises(ModelError, match="share a table"):
        PairwiseModel.from_tables([np.ones(2), np.ones(3), np.ones(2)], [[0, 1], [1, 2]], [np.ones((2, 3))], [0, 0])
    with pytest.raises(ModelError, match=r"shape \(2, 3\).*\(3, 2\)"):
        PairwiseModel.from_tables([np.ones(2), np.ones(3)], [[0, 1]], [np.ones((3, 2))])


def test_tables_refused() -> None:
    for bad, words in (([1, -1], "0 or greater"), ([1, np.nan], "0 or greater"), ([1], "shape"), ("ab", "numbers")):
        with pytest.raises(ModelError, match=words):
            FactorGraph.from_tables([2], [([0], bad)])
    with pytest.raises(ModelError, match="give table_of"):
        PairwiseModel.from_tables(np.ones((3, 2)), [[0, 1], [1, 2]], [np.ones((2, 2))])
    with pytest.raises(ModelError, match="fit in memory"):
        FactorGraph([2] * 60, [0, 60], list(range(60)), [0, 4], np.zeros(4))
    with pytest.raises(ModelError, match="64 variables of a factor at most, got 65 of factor 0"):
        FactorGraph([1] * 65, [0, 65], list(range(65)), [0, 1], np.zeros(1))
    with pytest.raises(ModelError, match="two variables at most, got 3 of factor 0"):
        FactorGraph.from_tables([2, 2, 2], [([0, 1, 2], np.ones((2, 2, 2)))]).to_pairwise()


def test_evidence_and_assignments_refused() -> None:
    for model, bad in itertools.product((GRAPH, PAIRS), ({3: 0}, {-1: 0}, {0: 2}, {0: -1}, {0: 0.5})):
        with pytest.raises(ModelError):
            model.clamp(bad)  # type: ignore[arg-type]
    for model, states in itertools.product(
        (GRAPH, PAIRS), ([0, 0], [2, 0, 0], [0, -1, 0], [0.0, 0.0, 0.0], 0, [[0, 0, 0], [0]])
    ):
        with pytest.raises(ModelError):
            model.score(states)
