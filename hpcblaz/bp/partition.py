"""Which rank gets what: vertices of a graph dealt out so that few edges are cut and all parts weigh about the same.

Every result is the same wherever it is computed: on any rank, in any run.
"""

import importlib
import importlib.util
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcblaz.bp.bisection import bisect
from hpcblaz.bp.models import FactorGraph, PairwiseModel
from hpcblaz.bp.ragged import Integers, offsets_of, ranges
from hpcblaz.errors import ConfigurationError, MissingDependencyError

__all__ = ["METHODS", "PartitionReport", "grid_splits", "partition", "partition_graph", "report_partition"]

METHODS = ("auto", "metis", "bisection", "blocks")


@dataclass(frozen=True)
class PartitionReport:
    """How good a partition is.

    Attributes
    ----------
    parts : int
    cut : int
        Edges whose ends are in different parts. Of a factor graph: pairs of a variable and a part with one of its
        factors, beside the first part.
    edges : int
        In all.
    balance : float
        The weight of the heaviest part, divided by the mean.
    halo : tuple of int
        By part, how many messages it hears from others at a time.
    messages : tuple of int
        By part, how many messages it sends, to itself and others.
    neighbours : tuple of int
        By part, how many other parts it hears from.
    """

    parts: int
    cut: int
    edges: int
    balance: float
    halo: tuple[int, ...]
    messages: tuple[int, ...]
    neighbours: tuple[int, ...]


def partition(model: FactorGraph | PairwiseModel, parts: int, method: str = "auto") -> Integers:
    """Return which part gets each variable of a pairwise model, or each factor of a factor graph.

    Parameters
    ----------
    model : FactorGraph or PairwiseModel
        A FactorGraph without factors of more than two variables is dealt out by variables, as the pairwise model that
        it is.
    parts : int
    method : {'auto', 'metis', 'bisection', 'blocks'}
        'metis' needs pymetis, and is taken by 'auto' where it is installed; 'bisection' is built in; 'blocks' are runs
        of equal weight in the order of the numbers.

    Returns
    -------
    numpy.ndarray of int64, shape (variables,) or (factors,)

    Raises
    ------
    ConfigurationError
        If `parts` is not positive, or there is no such method.
    MissingDependencyError
        If 'metis' is asked for and pymetis is not installed.

    Examples
    --------
    >>> from hpcblaz.bp import chain
    >>> partition(chain(6, coupling=1.0), 2, "bisection").tolist() in ([0, 0, 0, 1, 1, 1], [1, 1, 1, 0, 0, 0])
    True
    """
    if isinstance(model, FactorGraph):
        if model.arity > 2:
            return partition_factors(model.factor_offsets, model.scopes, model.cardinalities, parts, method)
        model = model.to_pairwise()
    return partition_variables(model.edges, model.cardinalities, parts, method)


def partition_variables(edges: Integers, cardinalities: Integers, parts: int, method: str = "auto") -> Integers:
    """Return which part gets each variable of a pairwise model; see `partition`."""
    sizes = cardinalities[edges].prod(axis=1)
    weights = 1 + np.bincount(edges.ravel(), np.repeat(sizes, 2), cardinalities.size).astype(np.int64)
    return partition_graph(edges, weights, parts, method, cardinalities[edges].sum(axis=1))


def partition_factors(
    factor_offsets: Integers, scopes: Integers, cardinalities: Integers, parts: int, method: str = "auto"
) -> Integers:
    """Return which part gets each factor; see `partition`."""
    arity = np.diff(factor_offsets)
    factors = arity.size
    logarithms = np.zeros(factors)
    filled = arity > 0
    if filled.any():
        logarithms[filled] = np.add.reduceat(np.log2(cardinalities[scopes]), factor_offsets[:-1][filled])
    work = np.exp2(np.minimum(logarithms, 40)).astype(np.int64) * np.maximum(1, arity)
    factor_of_edge = np.repeat(np.arange(factors), arity)
    edges = np.stack([factor_of_edge, factors + scopes], axis=1)
    weights = np.concatenate([work, np.zeros(cardinalities.size, np.int64)])
    return partition_graph(edges, weights, parts, method, cardinalities[scopes])[:factors]


def partition_graph(
    edges: Integers, weights: Integers, parts: int, method: str = "auto", strengths: Integers | None = None
) -> Integers:
    """Return which part gets each vertex of a graph.

    Parameters
    ----------
    edges : numpy.ndarray of int64, shape (edges, 2)
    weights : numpy.ndarray of int64, shape (vertices,)
        What each vertex weighs.
    parts : int
    method : str
        As for `partition`.
    strengths : numpy.ndarray of int64, shape (edges,), optional
        What it costs to cut each edge. Default: 1.

    Returns
    -------
    numpy.ndarray of int64, shape (vertices,)

    Raises
    ------
    ConfigurationError, MissingDependencyError
        As `partition`.
    """
    if parts < 1:
        raise ConfigurationError(f"parts: expected 1 or more, got {parts}")
    if method not in METHODS:
        raise ConfigurationError(f"method: expected one of {', '.join(METHODS)}, got {method!r}")
    if parts == 1 or weights.size <= 1:
        return np.zeros(weights.size, np.int64)
    if method == "blocks":
        ends = np.cumsum(weights)
        return np.minimum(parts - 1, (ends - weights / 2) * parts // max(1, int(ends[-1]))).astype(np.int64)
    strengths = np.ones(len(edges), np.int64) if strengths is None else strengths
    offsets, neighbours, values = _adjacency(edges, strengths, weights.size)
    if method == "metis" or (method == "auto" and importlib.util.find_spec("pymetis") is not None):
        return _metis(offsets, neighbours, values, weights, parts)
    return _recursive(offsets, neighbours, values, weights, parts)


def grid_splits(rows: int, columns: int, parts: int) -> tuple[int, int]:
    """Return into how many bands of rows and of columns a grid is cut, so that few edges are.

    Parameters
    ----------
    rows, columns, parts : int

    Examples
    --------
    >>> grid_splits(3000, 3000, 4), grid_splits(10, 1000, 4), grid_splits(3000, 3000, 2)
    ((2, 2), (1, 4), (2, 1))
    """
    ways = [(n, parts // n) for n in range(1, parts + 1) if parts % n == 0]
    return min(ways, key=lambda way: ((way[0] - 1) * columns + (way[1] - 1) * rows, -way[0]))


def report_partition(model: FactorGraph | PairwiseModel, owners: Integers, parts: int) -> PartitionReport:
    """Return how good a partition of a model is.

    Parameters
    ----------
    model : FactorGraph or PairwiseModel
    owners : numpy.ndarray of int64
        As `partition` returns it.
    parts : int

    Examples
    --------
    >>> from hpcblaz.bp import ising
    >>> model = ising((4, 8), coupling=1.0)
    >>> report = report_partition(model, np.arange(32) % 8 // 4, 2)
    >>> report.cut, report.halo, report.neighbours
    (4, (4, 4), (1, 1))
    """
    if isinstance(model, FactorGraph):
        if model.arity > 2:
            return _report_factors(model, owners, parts)
        model = model.to_pairwise()
    ends = owners[model.edges]
    cut = ends[ends[:, 0] != ends[:, 1]]
    pairs = np.concatenate([cut, cut[:, ::-1]])
    sizes = model.cardinalities[model.edges].prod(axis=1)
    loads = np.bincount(ends.ravel(), np.repeat(sizes, 2), parts)
    sent = np.bincount(ends.ravel(), minlength=parts)
    return _report(parts, len(cut), len(model.edges), loads, sent, pairs[:, 0], pairs[:, 1])


def _report_factors(model: FactorGraph, owners: Integers, parts: int) -> PartitionReport:
    owner = owners[model.factor_of_edge]
    work = np.diff(model.table_offsets) * np.maximum(1, np.diff(model.factor_offsets))
    keys = np.unique(model.scopes * parts + owner)  # which parts have a factor of which variable
    variables, places = keys // parts, keys % parts
    starts = offsets_of(np.bincount(variables, minlength=model.variables))
    # Every message goes to all parts that have its variable, but its own
    counts = np.diff(starts)[model.scopes]
    hearing = places[ranges(starts[:-1][model.scopes], counts)]
    sender = np.repeat(owner, counts)
    heard = hearing != sender
    cut = int(keys.size - np.unique(variables).size)
    loads = np.bincount(owners, work, parts)
    sent = np.bincount(owner, minlength=parts)
    return _report(parts, cut, model.edges, loads, sent, hearing[heard], sender[heard])


def _report(
    parts: int, cut: int, edges: int, loads: NDArray[Any], sent: Integers, hearing: Integers, sender: Integers
) -> PartitionReport:
    halo = np.bincount(hearing, minlength=parts)
    pairs = np.unique(hearing * parts + sender)
    neighbours = np.bincount(pairs // parts, minlength=parts)
    mean = float(loads.mean()) if parts else 0.0
    return PartitionReport(
        parts,
        cut,
        edges,
        float(loads.max(initial=0) / mean) if mean else 1.0,
        tuple(halo.tolist()),
        tuple(sent.tolist()),
        tuple(neighbours.tolist()),
    )


def _adjacency(edges: Integers, strengths: Integers, count: int) -> tuple[Integers, Integers, Integers]:
    """Return where the neighbours of each vertex begin, the neighbours, and what their edges cost."""
    sources = edges.T.ravel()
    order = np.argsort(sources, kind="stable")
    neighbours = edges[:, ::-1].T.ravel()[order]
    return offsets_of(np.bincount(sources, minlength=count)), neighbours, np.tile(strengths, 2)[order]


def _metis(offsets: Integers, neighbours: Integers, strengths: Integers, weights: Integers, parts: int) -> Integers:
    try:
        pymetis = importlib.import_module("pymetis")
    except ImportError as error:
        raise MissingDependencyError.needs("partitions by METIS", "pymetis", "metis") from error
    scale = max(1, math.ceil(float(weights.sum()) / 2**30))  # METIS counts in 32 bits
    _, found = pymetis.part_graph(
        parts,
        adjacency=pymetis.CSRAdjacency(offsets, neighbours),
        vweights=weights // scale,
        eweights=strengths,
        options=pymetis.Options(seed=0),
    )
    return np.asarray(found, np.int64)


def _recursive(offsets: Integers, neighbours: Integers, strengths: Integers, weights: Integers, parts: int) -> Integers:
    """Cut in two, and each half again."""
    owners = np.zeros(weights.size, np.int64)
    todo = [(np.arange(weights.size), 0, parts)]
    while todo:
        vertices, first, count = todo.pop()
        if count == 1 or vertices.size == 0:
            owners[vertices] = first
            continue
        inner_offsets, inner, inner_strengths = _induced(offsets, neighbours, strengths, vertices)
        half = count // 2
        second = bisect(inner_offsets, inner, inner_strengths, weights[vertices], half / count)
        todo += [(vertices[~second], first, half), (vertices[second], first + half, count - half)]
    return owners


def _induced(
    offsets: Integers, neighbours: Integers, strengths: Integers, vertices: Integers
) -> tuple[Integers, Integers, Integers]:
    """Return the graph of some vertices, ascending."""
    if vertices.size == len(offsets) - 1:
        return offsets, neighbours, strengths
    place = np.full(len(offsets) - 1, -1, np.int64)
    place[vertices] = np.arange(vertices.size)
    degrees = np.diff(offsets)[vertices]
    at = ranges(offsets[:-1][vertices], degrees)
    found = place[neighbours[at]]
    kept = found >= 0
    sources = np.repeat(np.arange(vertices.size), degrees)[kept]
    return offsets_of(np.bincount(sources, minlength=vertices.size)), found[kept], strengths[at][kept]
