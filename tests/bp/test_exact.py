"""Exact answers: those that come of trying every assignment."""

from __future__ import annotations

import numpy as np
import pytest
from bp_models import brute_force, factor_graphs
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcblaz.bp import FactorGraph, chain, exact, ising, ldpc, plan_elimination, tree
from hpcblaz.errors import ModelError, ResourceError


@settings(max_examples=300)
@given(factor_graphs())
def test_all_answers_are_those_of_brute_force(model: FactorGraph) -> None:
    log_partition, marginals, best = brute_force(model)
    found = exact(model, "logz")
    if marginals is None:
        assert found.log_partition == -np.inf
        for task in ("marginals", "map"):
            with pytest.raises(ModelError, match="possible"):
                exact(model, task)  # type: ignore[arg-type]
        return
    np.testing.assert_allclose(found.log_partition, log_partition, rtol=1e-12, atol=1e-10)
    solution = exact(model)
    np.testing.assert_allclose(solution.log_partition, log_partition, rtol=1e-12, atol=1e-10)
    assert solution.marginals is not None
    np.testing.assert_allclose(solution.marginals, marginals, rtol=1e-9, atol=1e-12)
    likeliest = exact(model, "map")
    np.testing.assert_allclose(likeliest.score, best, rtol=1e-12, atol=1e-10)
    assert likeliest.assignment is not None and model.score(likeliest.assignment) == likeliest.score


@given(factor_graphs(max_arity=2), st.data())
def test_evidence(model: FactorGraph, data: st.DataObject) -> None:
    chosen = data.draw(st.lists(st.integers(0, model.variables - 1), unique=True))
    evidence = {v: data.draw(st.integers(0, int(model.cardinalities[v]) - 1)) for v in chosen}
    log_partition, marginals, _ = brute_force(model.clamp(evidence))
    np.testing.assert_allclose(exact(model, "logz", evidence).log_partition, log_partition, rtol=1e-12, atol=1e-10)
    if marginals is not None:
        for given_model in (model, model.to_pairwise()):
            solution = exact(given_model, evidence=evidence)
            np.testing.assert_allclose(solution.marginals, marginals, rtol=1e-9, atol=1e-12)


def test_a_chain_is_a_product_of_matrices() -> None:
    model = chain(2000, coupling=10.0, seed=1, states=3)
    forward, scale = np.exp(model.log_unary(0)), 0.0
    for edge in range(1999):
        forward = forward @ np.exp(model.log_table(edge)) * np.exp(model.log_unary(edge + 1))
        scale += np.log(forward.sum())
        forward = forward / forward.sum()
    solution = exact(model)
    np.testing.assert_allclose(solution.log_partition, scale, rtol=1e-12)
    np.testing.assert_allclose(solution.marginal(1999), forward, rtol=1e-9)
    assert solution.plan.width == 1 and plan_elimination(tree(500, 1.0)).width == 1


def test_a_grid_by_rows() -> None:
    model = ising((6, 40), coupling=3.0, seed=2)
    solution = exact(model, "logz")
    assert solution.plan.width <= 8
    assert plan_elimination(ising(20, 1.0)).width == 20  # as least fill alone would not find
    turned = ising((6, 40), coupling=3.0, seed=2).to_factor_graph()
    backwards = FactorGraph.from_tables(
        turned.cardinalities,
        [(turned.scope(f)[::-1], turned.log_table(f).T) for f in reversed(range(turned.factors))],
        log=True,
    )
    np.testing.assert_allclose(exact(backwards, "logz").log_partition, solution.log_partition, rtol=1e-12)


def test_the_likeliest_word_of_a_code_is_one_of_the_code() -> None:
    model = ldpc(24, 2, 4, noise=0.9, seed=3)
    assert np.isfinite(exact(model, "map").score)


def test_costs_are_told_and_refused_before_work_begins() -> None:
    model = ising(27, coupling=1.0)
    plan = plan_elimination(model)
    assert plan.complete and 27 <= plan.width <= 50 and plan.log2_largest == plan.width + 1
    with pytest.raises(ResourceError, match=rf"2\^{plan.width + 1}\.0 entries over {plan.width + 1} variables"):
        exact(model)
    with pytest.raises(ResourceError, match="MiB at most"):
        exact(ising(10, 1.0), limit=1000)
    pairs = [([a, b], np.ones((2, 2))) for a in range(90) for b in range(a)]
    with pytest.raises(ResourceError, match="at least"):
        exact(FactorGraph.from_tables([2] * 90, pairs))
    seen = {v: 0 for v in range(0, 729, 2)}  # what has been observed is no longer in any table
    assert np.isfinite(exact(model, evidence=seen).log_partition)


def test_zeros_make_models_smaller() -> None:
    equal = [([v, v + 1], np.eye(5)) for v in range(200)]
    model = FactorGraph.from_tables([5] * 201, [([0], [0, 0, 1, 0, 0]), *equal])
    solution = exact(model)
    assert solution.plan.cliques == [] and solution.log_partition == 0
    assert solution.marginal(200).tolist() == [0, 0, 1, 0, 0]


def test_contradictions_are_named() -> None:
    model = FactorGraph.from_tables([2, 2, 2], [([0, 1], np.eye(2)), ([1, 2], np.eye(2))])
    with pytest.raises(ModelError, match=r"variable [012] are impossible"):
        exact(model, evidence={0: 0, 2: 1})
    assert exact(model, "logz", {0: 0, 2: 1}).log_partition == -np.inf
    odd = np.array([[0, 1], [1, 0]])  # three variables, all different, of two states: no single table shows it
    triangle = FactorGraph.from_tables([2, 2, 2], [([0, 1], odd), ([1, 2], odd), ([0, 2], odd)])
    with pytest.raises(ModelError, match="got none"):
        exact(triangle)


def test_weights_far_beyond_the_range_of_floats() -> None:
    model = FactorGraph.from_tables([2, 2], [([0], [1e4, -1e4]), ([0, 1], [[-2e4, 0], [3e4, 1]])], log=True)
    solution = exact(model)
    np.testing.assert_allclose(solution.log_partition, 2e4)
    assert solution.marginal(0).tolist() == [0, 1] and solution.marginal(1).tolist() == [1, 0]


def test_refusals() -> None:
    model = FactorGraph.from_tables([2], [])
    with pytest.raises(ModelError, match="task"):
        exact(model, "everything")  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="task='marginals'"):
        exact(model, "map").marginal(0)
    assert exact(FactorGraph.from_tables([], [([], 2.0)]), "logz").log_partition == np.log(2.0)
    assert exact(model).marginal(0).tolist() == [0.5, 0.5]
