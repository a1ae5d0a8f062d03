"""Models as graphs of networkx, and back."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from bp_models import assignments, factor_graphs
from hypothesis import given, settings

from hpcblaz.bp import FactorGraph, from_networkx, to_networkx
from hpcblaz.errors import MissingDependencyError, ModelError

networkx = pytest.importorskip("networkx", reason="networkx is not installed")


@settings(max_examples=40)
@given(factor_graphs())
def test_factor_graphs_and_back(model: FactorGraph) -> None:
    states = assignments(model.cardinalities)
    graph = to_networkx(model)
    assert graph.number_of_nodes() == model.variables + model.factors and graph.number_of_edges() == model.edges
    back = from_networkx(graph)
    np.testing.assert_allclose(back.to_factor_graph().score(states), model.score(states))


@settings(max_examples=40)
@given(factor_graphs(max_arity=2))
def test_pairwise_models_and_back(model: FactorGraph) -> None:
    states = assignments(model.cardinalities)
    pairwise = model.to_pairwise()
    graph = to_networkx(pairwise)
    assert graph.number_of_nodes() == model.variables and graph.number_of_edges() == len(pairwise.edges)
    np.testing.assert_allclose(from_networkx(graph).score(states), model.score(states), rtol=1e-12, atol=1e-10)


def test_graphs_of_others() -> None:
    graph = networkx.Graph()
    graph.add_nodes_from("ab", log_unary=[0.0, 1.0])
    graph.add_edge("b", "a", log_table=[[2.0, 0.0], [0.0, 2.0]])
    assert from_networkx(graph).score([1, 1]) == 4
    bad: list[tuple[dict[str, Any], str]] = [
        ({"log_table": [[0.0, 1.0], [2.0, 3.0]]}, "'first'"),
        ({"log_table": [[0.0, 1.0], [2.0, 3.0]], "first": "c"}, "one of them"),
        ({"log_table": [[0.0, 1.0]], "first": "a"}, "shape"),
        ({}, "'log_table'"),
    ]
    for attributes, words in bad:
        graph.remove_edge("a", "b")
        graph.add_edge("a", "b", **attributes)
        with pytest.raises(ModelError, match=words):
            from_networkx(graph)
    with pytest.raises(ModelError, match="'log_unary'"):
        from_networkx(networkx.path_graph(3))
    with pytest.raises(ModelError, match="multigraph"):
        from_networkx(networkx.MultiGraph())
    factors = to_networkx(FactorGraph.from_tables([2, 2], [([0, 1], np.ones((2, 2)))]))
    factors.remove_edge(("factor", 0), 1)
    with pytest.raises(ModelError, match="joined to the variables of its scope"):
        from_networkx(factors)


def test_without_networkx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "networkx", None)
    with pytest.raises(MissingDependencyError, match=r"hpcblaz\[bp\]"):
        to_networkx(FactorGraph.from_tables([2], []))
