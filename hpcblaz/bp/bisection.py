"""Cutting a graph in two: coarser and coarser graphs, a cut of the coarsest, and its refinement on the way back.

References
----------
G. Karypis, V. Kumar, "A Fast and High Quality Multilevel Scheme for Partitioning Irregular Graphs", 1998; C. Fiduccia,
R. Mattheyses, "A Linear-Time Heuristic for Improving Network Partitions", 1982.
"""

import heapq
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpcblaz.bp.ragged import Integers, offsets_of

_COARSE = 160  # vertices of the coarsest graph
_SEEDS = 8  # cuts of it that are tried
_ROUNDS = 4  # of proposals, a matching
_SHRINKS = 0.95  # a matching that leaves more vertices than this share is the last one
_SLACK = 0.02  # how much heavier than asked for a part may be
_PASSES = 4  # of refinement, a level
_PATIENCE = 200  # moves without a better cut, after which a pass ends
_MOST_MOVES = 20_000

Sides = NDArray[np.bool_]


class Graph(NamedTuple):
    """A graph with weights of vertices, and of edges: each edge at both of its ends."""

    offsets: Integers
    neighbours: Integers
    strengths: Integers
    weights: Integers

    @property
    def size(self) -> int:
        """Number of vertices."""
        return len(self.weights)

    @property
    def sources(self) -> Integers:
        """The vertex at which each entry of `neighbours` is."""
        return np.repeat(np.arange(self.size), np.diff(self.offsets))


def bisect(offsets: Integers, neighbours: Integers, strengths: Integers, weights: Integers, share: float) -> Sides:
    """Return which vertices are in the second part of two.

    Parameters
    ----------
    offsets, neighbours, strengths : numpy.ndarray of int64
        Where the neighbours of each vertex begin, the neighbours, and what it costs to cut the edge to each.
    weights : numpy.ndarray of int64
        Of the vertices.
    share : float
        Of the weight that is to be in the first part.

    Returns
    -------
    numpy.ndarray of bool

    Examples
    --------
    >>> offsets, ones = np.array([0, 1, 3, 5, 6]), np.ones(6, np.int64)
    >>> bisect(offsets, np.array([1, 0, 2, 1, 3, 2]), ones, ones[:4], 0.5).tolist() in (
    ...     [False, False, True, True], [True, True, False, False])
    True
    """
    graphs, maps = [Graph(offsets, neighbours, strengths, weights)], []
    most = max(1, int(weights.sum()) // 20)  # no coarse vertex may be too heavy to be moved
    while graphs[-1].size > _COARSE:
        coarse = _matching(graphs[-1], most)
        if int(coarse.max(initial=0)) + 1 > _SHRINKS * graphs[-1].size:
            break
        maps.append(coarse)
        graphs.append(_contracted(graphs[-1], coarse))
    wanted = share * float(weights.sum())
    sides = _first_cut(graphs[-1], wanted)
    for graph, coarse in zip(graphs[-2::-1], maps[::-1], strict=True):
        sides = _refined(graph, sides[coarse], wanted)
    return sides


def _matching(graph: Graph, most: int) -> Integers:
    """Return the number of the coarse vertex of each vertex: pairs along strong edges, and those that stay alone."""
    offsets, neighbours, strengths, weights = graph
    sources = graph.sources
    mate = np.full(graph.size, -1, np.int64)
    low, high = np.minimum(sources, neighbours), np.maximum(sources, neighbours)
    noise = (low * 2654435761 + high * 40503 + (low ^ high) * 97) % 65521
    keys = np.minimum(strengths, 2**40) * 65536 + noise + 1
    fits = weights[sources] + weights[neighbours] <= most
    for _ in range(_ROUNDS):
        free = mate < 0
        usable = np.where(free[sources] & free[neighbours] & fits, keys, 0)
        if not usable.any():
            break
        best = np.zeros(graph.size, np.int64)
        filled = np.diff(offsets) > 0
        best[filled] = np.maximum.reduceat(usable, offsets[:-1][filled])
        chosen = np.flatnonzero((usable > 0) & (usable == best[sources]))
        wish = np.full(graph.size, -1, np.int64)
        wish[sources[chosen[::-1]]] = neighbours[chosen[::-1]]  # the first of equals
        wishing = np.flatnonzero(wish >= 0)
        mutual = wishing[wish[wish[wishing]] == wishing]
        mate[mutual] = wish[mutual]
    first = np.where(mate < 0, np.arange(graph.size), np.minimum(mate, np.arange(graph.size)))
    _, number = np.unique(first, return_inverse=True)
    return number.astype(np.int64)


def _contracted(graph: Graph, coarse: Integers) -> Graph:
    """Return the graph of coarse vertices."""
    count = int(coarse.max()) + 1
    sources, targets = coarse[graph.sources], coarse[graph.neighbours]
    kept = sources != targets
    keys, group = np.unique(sources[kept] * count + targets[kept], return_inverse=True)
    strengths = np.bincount(group, graph.strengths[kept], keys.size).astype(np.int64)
    weights = np.bincount(coarse, graph.weights, count).astype(np.int64)
    return Graph(offsets_of(np.bincount(keys // count, minlength=count)), keys % count, strengths, weights)


def _first_cut(graph: Graph, wanted: float) -> Sides:
    """Return the best of some cuts, each grown around a vertex."""
    best: tuple[float, float] | None = None
    found = np.zeros(graph.size, np.bool_)
    for start in np.linspace(0, graph.size - 1, min(_SEEDS, graph.size)).astype(np.int64).tolist():
        sides = _refined(graph, _grown(graph, start, wanted), wanted)
        off = abs(float(graph.weights[~sides].sum()) - wanted)
        quality = (_cut(graph, sides) * (1.0 if off <= _room(graph, wanted) else 1e6) + off * 1e-6, off)
        if best is None or quality < best:
            best, found = quality, sides
    return found


def _grown(graph: Graph, start: int, wanted: float) -> Sides:
    """Return a cut whose first part is a vertex, and again and again the vertex that is joined to it most strongly."""
    sides = np.ones(graph.size, np.bool_)
    offsets, neighbours = graph.offsets.tolist(), graph.neighbours.tolist()
    strengths, weights = graph.strengths.tolist(), graph.weights.tolist()
    pull = [0] * graph.size
    heap = [(0, start)]
    untouched = iter(range(graph.size))
    weight = 0.0
    while weight < wanted:
        if not heap:  # another component
            other = next((v for v in untouched if sides[v]), None)
            if other is None:
                break
            heap.append((0, other))
        _, v = heapq.heappop(heap)
        if not sides[v]:
            continue
        if weight + weights[v] / 2 > wanted and weight:
            break
        sides[v] = False
        weight += weights[v]
        for i in range(offsets[v], offsets[v + 1]):
            w = neighbours[i]
            if sides[w]:
                pull[w] += strengths[i]
                heapq.heappush(heap, (-pull[w], w))
    return sides


def _cut(graph: Graph, sides: Sides) -> float:
    return float(graph.strengths[sides[graph.sources] != sides[graph.neighbours]].sum()) / 2


def _room(graph: Graph, wanted: float) -> float:
    """Return by how much a part may be heavier or lighter than wanted."""
    total = float(graph.weights.sum())
    return max(_SLACK * min(wanted, total - wanted), 0.5 * float(np.median(graph.weights)) if graph.size else 0.0)


def _refined(graph: Graph, sides: Sides, wanted: float) -> Sides:
    """Return a better cut: vertices change sides one by one, those first that make it shorter by most."""
    sides = sides.copy()
    for _ in range(_PASSES):
        if not _pass(graph, sides, wanted):
            break
    return sides


def _pass(graph: Graph, sides: Sides, wanted: float) -> bool:
    """Move vertices, and take back the moves after the best cut; return whether there was a better one."""
    sources = graph.sources
    across = sides[sources] != sides[graph.neighbours]
    gain = np.bincount(sources, np.where(across, graph.strengths, -graph.strengths), graph.size)
    edge = np.zeros(graph.size, np.bool_)
    edge[sources[across]] = True
    room, weight = _room(graph, wanted), float(graph.weights[~sides].sum())
    if abs(weight - wanted) > room:
        edge[:] = True  # balance comes first
    heap = [(-float(gain[v]), v) for v in np.flatnonzero(edge).tolist()]
    heapq.heapify(heap)
    moved: list[int] = []
    locked: set[int] = set()
    state = start = (max(0.0, abs(weight - wanted) - room), 0.0)
    best, kept = start, 0
    while heap and len(moved) - kept < _PATIENCE and len(moved) < _MOST_MOVES:
        key, v = heapq.heappop(heap)
        if v in locked or -key != gain[v]:
            continue
        change = float(graph.weights[v]) * (1 if sides[v] else -1)
        excess = abs(weight + change - wanted)
        if excess > room and excess >= abs(weight - wanted):
            continue
        weight += change
        sides[v] = not sides[v]
        locked.add(v)
        moved.append(v)
        state = (max(0.0, excess - room), state[1] - float(gain[v]))
        for i in range(graph.offsets[v], graph.offsets[v + 1]):
            w = int(graph.neighbours[i])
            if w not in locked:
                gain[w] += graph.strengths[i] * (2 if sides[w] != sides[v] else -2)
                heapq.heappush(heap, (-float(gain[w]), w))
        if state < best:
            best, kept = state, len(moved)
    for v in moved[kept:]:
        sides[v] = not sides[v]
    return best < start
