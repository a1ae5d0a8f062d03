"""Random graphical models for tests, and all that can be found by trying every assignment."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from hypothesis import strategies as st

from hpcblaz.bp import FactorGraph


def assignments(cardinalities: Any) -> Any:
    """Return every assignment, one a row."""
    return np.array(list(itertools.product(*(range(n) for n in cardinalities))), np.int64).reshape(
        -1, len(cardinalities)
    )


@st.composite
def factor_graphs(draw: st.DrawFn, max_arity: int = 4, max_variables: int = 6) -> FactorGraph:
    """Small models with zeros, variables of one state, factors of none, several components and equal scopes."""
    count = draw(st.integers(1, max_variables))
    cards = draw(st.lists(st.integers(1, 3), min_size=count, max_size=count))
    scopes = draw(
        st.lists(
            st.lists(st.integers(0, count - 1), min_size=0, max_size=min(max_arity, count), unique=True), max_size=7
        )
    )
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    zeros = draw(st.sampled_from([0.0, 0.2, 0.5]))
    spread = draw(st.sampled_from([0.1, 3.0, 300.0]))  # e^300 and e^-300 do not fit one product of floats
    factors = []
    for scope in scopes:
        shape = [cards[v] for v in scope]
        table = np.where(rng.random(shape) < zeros, -np.inf, rng.uniform(-spread, spread, shape))
        factors.append((scope, table))
    return FactorGraph.from_tables(cards, factors, log=True)


def brute_force(model: FactorGraph) -> tuple[float, Any, float]:
    """Return log Z, the marginals one after the other (None if nothing is possible), and the best score."""
    states = assignments(model.cardinalities)
    scores = np.asarray(model.score(states))
    best = float(scores.max())
    if best == -np.inf:
        return -np.inf, None, best
    weights = np.exp(scores - best)
    marginals = [
        weights[states[:, v] == s].sum() / weights.sum() for v, n in enumerate(model.cardinalities) for s in range(n)
    ]
    return float(np.log(weights.sum()) + best), np.array(marginals), best
