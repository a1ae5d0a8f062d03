"""Models to try things on: grids, chains, trees and random graphs with random couplings.

Every random number comes from ``numpy.random.default_rng(seed)``: first the weights of the variables, in their order,
then, where the graph is random, its edges, and last one coupling an edge, in their order. In grids variables are
numbered row by row, and all edges along rows come before all edges along columns.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcblaz.bp.checks import generator, positive
from hpcblaz.bp.models import PairwiseModel
from hpcblaz.bp.ragged import Integers
from hpcblaz.errors import ModelError

__all__ = ["chain", "grid_edges", "ising", "potts", "random_regular", "tree"]

_ATTEMPTS = 10_000  # rounds of repairing a random graph


def ising(size: int | Sequence[int], coupling: float, seed: int = 0) -> PairwiseModel:
    """Return a grid of binary variables with random weights and couplings.

    A variable has the weights u and 1 - u, with u uniform in [0, 1]. An edge has e^(l C) where its ends are equal and
    e^(-l C) where not, with l uniform in [-0.5, 0.5]. The greater C, the harder is the model for belief propagation.

    Parameters
    ----------
    size : int or (int, int)
        Side of a square, or rows and columns.
    coupling : float
        C.
    seed : int

    Returns
    -------
    PairwiseModel
        One table an edge.

    Raises
    ------
    ModelError
        If the size is no positive number, or the coupling no number.

    References
    ----------
    Van der Merwe et al., "Message Scheduling for Performant, Many-Core Belief Propagation", 2019: the models of its
    experiments. The random numbers are not those of its programs.

    Examples
    --------
    >>> model = ising(100, coupling=2.5, seed=0)
    >>> model.variables, len(model.edges)
    (10000, 19800)
    """
    rng = generator(seed)
    rows, columns = sides_of(size)
    weights = rng.random(rows * columns)
    unaries = np.stack([weights, 1 - weights], axis=1)
    return _coupled(unaries, grid_edges(rows, columns), coupling, rng)


def potts(size: int | Sequence[int], states: int, coupling: float, seed: int = 0) -> PairwiseModel:
    """Return a grid as of `ising`, of variables with more states: their weights are uniform in [0, 1].

    Parameters
    ----------
    size : int or (int, int)
    states : int
        Of every variable.
    coupling : float
    seed : int

    Returns
    -------
    PairwiseModel

    Raises
    ------
    ModelError
        If an argument is not positive, or the coupling no number.

    Examples
    --------
    >>> potts((4, 5), states=3, coupling=1.0).cardinalities.tolist() == [3] * 20
    True
    """
    rng = generator(seed)
    rows, columns = sides_of(size)
    unaries = rng.random((rows * columns, positive("states", states)))
    return _coupled(unaries, grid_edges(rows, columns), coupling, rng)


def chain(length: int, coupling: float, seed: int = 0, states: int = 2) -> PairwiseModel:
    """Return a chain with the random weights and couplings of `potts`.

    Parameters
    ----------
    length : int
        Number of variables.
    coupling : float
    seed : int
    states : int

    Returns
    -------
    PairwiseModel

    Raises
    ------
    ModelError
        If an argument is not positive, or the coupling no number.

    Examples
    --------
    >>> chain(4, coupling=10.0).edges.tolist()
    [[0, 1], [1, 2], [2, 3]]
    """
    return potts((1, positive("length", length)), states, coupling, seed)


def tree(variables: int, coupling: float, seed: int = 0, states: int = 2) -> PairwiseModel:
    """Return a random tree: each variable but the first is joined to one before it, all equally likely.

    Parameters
    ----------
    variables : int
    coupling : float
    seed : int
    states : int

    Returns
    -------
    PairwiseModel
        With the random weights and couplings of `potts`.

    Raises
    ------
    ModelError
        If an argument is not positive, or the coupling no number.

    Examples
    --------
    >>> tree(100, coupling=1.0).edges.shape
    (99, 2)
    """
    rng = generator(seed)
    count = positive("variables", variables)
    unaries = rng.random((count, positive("states", states)))
    later = np.arange(1, count)
    edges = np.stack([rng.integers(0, later), later], axis=1) if count > 1 else np.zeros((0, 2), np.int64)
    return _coupled(unaries, edges, coupling, rng)


def random_regular(variables: int, degree: int, coupling: float, seed: int = 0, states: int = 2) -> PairwiseModel:
    """Return a random graph in which every variable has the same number of edges.

    Parameters
    ----------
    variables : int
    degree : int
        Edges of each variable; `variables` times `degree` is even.
    coupling : float
    seed : int
    states : int

    Returns
    -------
    PairwiseModel
        With the random weights and couplings of `potts`.

    Raises
    ------
    ModelError
        If there is no such graph, or none is found.

    Examples
    --------
    >>> set(random_regular(20, 3, coupling=1.0).degrees.tolist())
    {3}
    """
    rng = generator(seed)
    count = positive("variables", variables)
    if not (isinstance(degree, (int, np.integer)) and 0 <= degree < count and count * degree % 2 == 0):
        raise ModelError(
            f"expected a degree from 0 to {count - 1} with an even number of ends, got {degree} for {count} variables"
        )
    unaries = rng.random((count, positive("states", states)))
    if 2 * degree < count:
        edges = _regular_edges(count, int(degree), rng)
    else:  # of a dense graph the edges that are missing make a sparse one
        missing = _regular_edges(count, count - 1 - int(degree), rng)
        joined = ~np.eye(count, dtype=bool)
        joined[missing[:, 0], missing[:, 1]] = joined[missing[:, 1], missing[:, 0]] = False
        edges = np.argwhere(np.triu(joined))
    return _coupled(unaries, edges, coupling, rng)


def grid_edges(rows: int, columns: int) -> Integers:
    """Return the edges of a grid, first those along rows, then those along columns.

    Parameters
    ----------
    rows, columns : int

    Returns
    -------
    numpy.ndarray of int64, shape (edges, 2)

    Examples
    --------
    >>> grid_edges(2, 2).tolist()
    [[0, 1], [2, 3], [0, 2], [1, 3]]
    """
    at = np.arange(rows * columns, dtype=np.int64).reshape(rows, columns)
    along = np.stack([at[:, :-1].ravel(), at[:, 1:].ravel()], axis=1)
    across = np.stack([at[:-1].ravel(), at[1:].ravel()], axis=1)
    return np.concatenate([along, across])


def _coupled(unaries: NDArray[Any], edges: Integers, coupling: float, rng: np.random.Generator) -> PairwiseModel:
    if not math.isfinite(coupling):
        raise ModelError(f"expected a finite coupling, got {coupling}")
    strengths = rng.uniform(-0.5, 0.5, len(edges)) * coupling
    signs = 2 * np.eye(unaries.shape[1]) - 1
    with np.errstate(divide="ignore"):
        logarithms = np.log(unaries)
    tables = strengths[:, None, None] * signs
    return PairwiseModel.from_tables(logarithms, edges, tables, log=True)


def _regular_edges(count: int, degree: int, rng: np.random.Generator) -> Integers:
    """Return the edges of a random graph: ends are paired at random, and pairs that cannot be are mixed with others."""
    ends = rng.permutation(np.repeat(np.arange(count, dtype=np.int64), degree)).reshape(-1, 2)
    for _ in range(_ATTEMPTS):
        low, high = ends.min(axis=1), ends.max(axis=1)
        keys = low * count + high
        order = np.argsort(keys, kind="stable")
        bad = low == high
        bad[order[1:]] |= keys[order[1:]] == keys[order[:-1]]
        wrong = np.flatnonzero(bad)
        if not wrong.size:
            return ends
        chosen = np.union1d(wrong, rng.integers(0, len(ends), wrong.size + 1))
        ends[chosen] = rng.permutation(ends[chosen].ravel()).reshape(-1, 2)
    raise ModelError(f"expected to find a graph of {count} variables of degree {degree}, got none: try another seed")


def sides_of(size: int | Sequence[int]) -> tuple[int, int]:
    """Return rows and columns of a grid, from its side or from both."""
    sides = (size, size) if isinstance(size, (int, np.integer)) else tuple(size)
    if len(sides) != 2:
        raise ModelError(f"expected the side of a grid, or its rows and columns, got {size}")
    return positive("rows", sides[0]), positive("columns", sides[1])
