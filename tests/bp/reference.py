"""Loopy belief propagation and enumeration, as plainly as they can be written: what the engine is compared with."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcblaz.bp import FactorGraph, PairwiseModel

Model = FactorGraph | PairwiseModel


def enumerate_all(model: Model) -> tuple[NDArray[Any], float, float]:
    """Return marginals, log Z and the best score, from all assignments."""
    cards = model.cardinalities
    assignments = np.array(list(itertools.product(*(range(c) for c in cards))), np.int64).reshape(-1, cards.size)
    scores = model.score(assignments)
    best = scores.max()
    weights = np.exp(scores - best)
    marginals = [np.bincount(assignments[:, v], weights, int(cards[v])) / weights.sum() for v in range(cards.size)]
    return np.concatenate(marginals), float(best + np.log(weights.sum())), float(best)


def propagate(model: FactorGraph, rounds: int, maximise: bool = False, damping: float = 0.0) -> NDArray[Any]:
    """Return the beliefs of all variables after so many rounds in which all messages are sent at once."""
    cards = model.cardinalities
    edges = [(f, i) for f in range(model.factors) for i in range(len(model.scope(f)))]
    told = {edge: np.full(cards[model.scope(edge[0])[edge[1]]], 1.0) for edge in edges}
    told = {edge: message / message.sum() for edge, message in told.items()}
    about: dict[int, list[tuple[int, int]]] = {v: [] for v in range(cards.size)}
    for f, i in edges:
        about[int(model.scope(f)[i])].append((f, i))
    tables = [np.exp(model.log_table(f)) for f in range(model.factors)]
    told.update({(f, 0): tables[f] / tables[f].sum() for f, i in edges if tables[f].ndim == 1})  # known from the start

    def product(v: int, but: int | None) -> NDArray[Any]:
        result = np.ones(cards[v])
        for f, i in about[v]:
            if f != but:
                result = result * told[f, i]
                result = result / result.sum()
        return result

    for _ in range(rounds):
        fresh = {}
        for f in range(model.factors):
            scope = model.scope(f)
            if len(scope) == 1:
                continue
            known = [product(int(v), f) for v in scope]
            for i in range(len(scope)):
                table = tables[f]
                for j, message in enumerate(known):
                    if j != i:
                        table = table * message.reshape([-1 if a == j else 1 for a in range(len(scope))])
                axes = tuple(a for a in range(len(scope)) if a != i)
                message = table.max(axis=axes) if maximise else table.sum(axis=axes)
                fresh[f, i] = (1 - damping) * message / message.sum() + damping * told[f, i]
        told.update(fresh)
    beliefs = [product(v, None) for v in range(cards.size)]
    return np.concatenate([belief / belief.sum() for belief in beliefs])


def random_pairwise(rng: np.random.Generator, cards: NDArray[Any], edges: Any, spread: float = 1.0) -> PairwiseModel:
    """Return a model with log-normal weights."""
    return PairwiseModel.from_tables(
        [rng.normal(0, spread, c) for c in cards],
        edges,
        [rng.normal(0, spread, (cards[a], cards[b])) for a, b in edges],
        log=True,
    )


def tree_edges(rng: np.random.Generator, variables: int) -> NDArray[Any]:
    """Return the edges of a random tree whose numbering says nothing about its shape."""
    names = rng.permutation(variables)
    return np.array([(names[i], names[rng.integers(i)]) for i in range(1, variables)], np.int64).reshape(-1, 2)


def grid_edges(rows: int, columns: int) -> NDArray[Any]:
    at = np.arange(rows * columns).reshape(rows, columns)
    return np.concatenate([np.c_[at[:, :-1].ravel(), at[:, 1:].ravel()], np.c_[at[:-1].ravel(), at[1:].ravel()]])
