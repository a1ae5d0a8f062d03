"""In which order variables are eliminated, and what it costs: known before any table is made."""

import heapq
import math
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpcblaz.bp.models import FactorGraph, PairwiseModel
from hpcblaz.bp.ragged import Floats, Integers, sums
from hpcblaz.errors import ResourceError

_HOPELESS = 64.0  # log2 of the entries of a table beyond which no order is looked for any more
_EASY = 2.0**21  # entries of all tables, below which looking for a better order takes longer than using this one


class Reduced(NamedTuple):
    """A model without what is impossible: states that no assignment can have, and variables that have one state left.

    Attributes
    ----------
    states : list of numpy.ndarray of int64
        The states that each variable may have; none is left of some if the model is contradictory.
    scopes : list of tuple of int
        Of the factors, variables with several states only.
    tables : list of numpy.ndarray of float64
        Logarithms, an axis a variable.
    constant : float
        The sum of the logarithms of factors of no variable.
    contradiction : int or None
        A variable all of whose states are impossible.
    """

    states: list[Integers]
    scopes: list[tuple[int, ...]]
    tables: list[Floats]
    constant: float
    contradiction: int | None


class Clique(NamedTuple):
    """Variables that are eliminated together, and those that their tables still have then.

    Attributes
    ----------
    own : tuple of int
        The variables that are eliminated here.
    separator : tuple of int
        Their neighbours, in the order in which they are eliminated later.
    parent : int
        The clique that has them; -1 if there are none.
    """

    own: tuple[int, ...]
    separator: tuple[int, ...]
    parent: int


@dataclass(frozen=True)
class EliminationPlan:
    """How a model is solved exactly, and what that costs.

    Parameters
    ----------
    cliques : list of Clique
        In the order of elimination: parents come after their children.
    log2_largest : float
        Logarithm of the entries of the largest table.
    log2_total : float
        Logarithm of the entries of all tables, each of which is computed with a few times.
    log2_messages : float
        Logarithm of the entries of what cliques tell their parents, all of which are kept.
    width : int
        Variables of the largest clique, less one.
    complete : bool
        Whether an order has been found; otherwise the sizes are lower bounds, and there are no cliques.

    Examples
    --------
    >>> from hpcblaz.bp import ising
    >>> plan = plan_elimination(ising(6, coupling=1.0))
    >>> plan.width, plan.log2_largest
    (6, 7.0)
    """

    cliques: list[Clique]
    log2_largest: float
    log2_total: float
    log2_messages: float
    width: int
    complete: bool = True

    @property
    def peak_bytes(self) -> float:
        """About how much memory it takes: three tables of the largest size, and all messages."""
        return 8 * (3 * math.exp2(self.log2_largest) + math.exp2(self.log2_messages))

    def require(self, limit: float) -> None:
        """Raise ResourceError if it takes more memory than a limit, in bytes."""
        if self.peak_bytes > limit:
            least = "" if self.complete else "at least "
            raise ResourceError(
                f"expected to need {limit / 2**20:.3g} MiB at most, got {least}{self.peak_bytes / 2**20:.3g} MiB: a "
                f"table of 2^{self.log2_largest:.1f} entries over {self.width + 1} variables, and "
                f"2^{self.log2_total:.1f} entries in all: raise the limit, give evidence, or use belief propagation"
            )


def reduce_model(model: FactorGraph) -> Reduced:
    """Leave out of a model what zeros make impossible.

    Parameters
    ----------
    model : FactorGraph

    Returns
    -------
    Reduced
    """
    possible = [np.ones(n, bool) for n in model.cardinalities]
    scopes = [tuple(int(v) for v in model.scope(f)) for f in range(model.factors)]
    tables = [model.log_table(f) for f in range(model.factors)]
    factors_of: list[list[int]] = [[] for _ in possible]
    for factor, scope in enumerate(scopes):
        for variable in scope:
            factors_of[variable].append(factor)
    zeros = sums((model.log_tables == -np.inf).astype(np.int64), model.table_offsets)
    waiting = [factor for factor in range(model.factors) if zeros[factor]]
    queued = set(waiting)
    while waiting:
        factor = waiting.pop()
        queued.discard(factor)
        scope = scopes[factor]
        alive: NDArray[Any] = np.greater(tables[factor], -np.inf)
        for axis, variable in enumerate(scope):
            others = tuple(i for i in range(len(scope)) if i != axis)
            alive = np.logical_and(alive, np.expand_dims(possible[variable], others))
        for axis, variable in enumerate(scope):
            left = np.asarray(alive.any(axis=tuple(i for i in range(len(scope)) if i != axis)))
            if left.sum() < possible[variable].sum():
                possible[variable] = left
                for other in factors_of[variable]:
                    if other not in queued:
                        queued.add(other)
                        waiting.append(other)
    states = [np.flatnonzero(p) for p in possible]
    contradiction = next((v for v, s in enumerate(states) if not s.size), None)
    constant, kept_scopes, kept_tables = 0.0, [], []
    for scope, table in zip(scopes, tables, strict=True):
        if contradiction is not None:
            break
        if any(states[v].size < n for v, n in zip(scope, table.shape, strict=True)):
            table = table[np.ix_(*(states[v] for v in scope))]
        kept = tuple(v for v in scope if states[v].size > 1)
        if kept:
            kept_scopes.append(kept)
            kept_tables.append(table.reshape([states[v].size for v in kept]))
        else:
            constant += float(table.sum())  # of one entry
    return Reduced(states, kept_scopes, kept_tables, constant, contradiction)


def plan_elimination(model: FactorGraph | PairwiseModel, reduced: Reduced | None = None) -> EliminationPlan:
    """Find an order of elimination.

    Always next is a variable whose neighbours lack the fewest edges between them, weighted by states (min-fill). If the
    tables become large, ties are broken in other ways, the order of numbers is tried too, and the best one is taken.

    Parameters
    ----------
    model : FactorGraph or PairwiseModel
    reduced : Reduced, optional
        The model as from `reduce_model`, if that is known.

    Returns
    -------
    EliminationPlan
    """
    if reduced is None:
        reduced = reduce_model(model.to_factor_graph())
    weights = {v: math.log2(s.size) for v, s in enumerate(reduced.states) if s.size > 1}
    neighbours: dict[int, set[int]] = {v: set() for v in weights}
    for scope in reduced.scopes:
        for variable in scope:
            neighbours[variable].update(scope)
    for variable, others in neighbours.items():
        others.discard(variable)
    dense = _degeneracy(neighbours)
    if dense + 1 > _HOPELESS:  # some clique has so many variables in every order, of two states at least
        return EliminationPlan([], dense + 1.0, dense + 1.0, 0.0, dense, complete=False)
    best: _Order | None = None
    for steps in _candidates(neighbours, weights):
        found = _follow(steps, weights, math.inf if best is None else best.total)
        if found is not None and (best is None or found.total < best.total):
            best = found
        if best is not None and best.total <= _EASY:
            break
    if best is None:
        return EliminationPlan([], _HOPELESS, _HOPELESS, 0.0, dense, complete=False)
    cliques = _cliques(best.order, best.scopes)
    total = sum(2.0 ** sum(weights[v] for v in c.own + c.separator) for c in cliques)
    messages = sum(2.0 ** sum(weights[v] for v in c.separator) for c in cliques)
    width = max((len(scope) for scope in best.scopes), default=-1)
    return EliminationPlan(cliques, best.largest, math.log2(max(1.0, total)), math.log2(max(1.0, messages)), width)


class _Order(NamedTuple):
    """Variables in the order of elimination, with their neighbours of then, and the sizes of tables."""

    order: list[int]
    scopes: list[set[int]]
    largest: float  # log2
    total: float


def _candidates(neighbours: dict[int, set[int]], weights: dict[int, float]) -> Iterator[Iterator[tuple[int, set[int]]]]:
    """Yield orders to try: by least fill with ties broken in several ways, and as variables are numbered."""
    count = len(neighbours)
    yield _min_fill(neighbours, weights, 0)
    yield _numbered(neighbours)  # for grids and models of time
    for seed in range(1, 8 if count <= 500 else 4 if count <= 2000 else 1):
        yield _min_fill(neighbours, weights, seed)


def _follow(steps: Iterator[tuple[int, set[int]]], weights: dict[int, float], most: float) -> _Order | None:
    """Eliminate variables in an order; None if that takes more than what is known to do."""
    found = _Order([], [], 0.0, 0.0)
    largest, total = 0.0, 0.0
    for variable, others in steps:
        size = weights[variable] + sum(weights[v] for v in others)
        largest = max(largest, size)
        if size > _HOPELESS:
            return None
        total += 2.0**size
        if total > most:
            return None
        found.order.append(variable)
        found.scopes.append(others)
    return found._replace(largest=largest, total=total)


def _degeneracy(neighbours: dict[int, set[int]]) -> int:
    """Return the greatest least degree that is met when variables of least degree are taken away: at most the width."""
    degrees = {v: len(others) for v, others in neighbours.items()}
    heap = [(degree, v) for v, degree in degrees.items()]
    heapq.heapify(heap)
    gone: set[int] = set()
    greatest = 0
    while heap:
        degree, variable = heapq.heappop(heap)
        if variable in gone or degree != degrees[variable]:
            continue
        greatest = max(greatest, degree)
        gone.add(variable)
        for other in neighbours[variable]:
            if other not in gone:
                degrees[other] -= 1
                heapq.heappush(heap, (degrees[other], other))
    return greatest


def _min_fill(graph: dict[int, set[int]], weights: dict[int, float], seed: int) -> Iterator[tuple[int, set[int]]]:
    """Yield the variables in order, each with its neighbours of then; next is always that of least fill."""
    chance = Random(seed)
    neighbours = {v: set(others) for v, others in graph.items()}
    keys = {v: (_fill(neighbours, weights, v), chance.random()) for v in neighbours}
    heap = [(key, v) for v, key in keys.items()]
    heapq.heapify(heap)
    while heap:
        key, variable = heapq.heappop(heap)
        if keys.get(variable) != key:
            continue
        del keys[variable]
        around, changed = _eliminate(neighbours, variable)
        for v in changed:
            keys[v] = (_fill(neighbours, weights, v), chance.random())
            heapq.heappush(heap, (keys[v], v))
        yield variable, around


def _numbered(graph: dict[int, set[int]]) -> Iterator[tuple[int, set[int]]]:
    """Yield the variables as they are numbered, each with its neighbours of then."""
    neighbours = {v: set(others) for v, others in graph.items()}
    for variable in sorted(graph):
        yield variable, _eliminate(neighbours, variable)[0]


def _eliminate(neighbours: dict[int, set[int]], variable: int) -> tuple[set[int], set[int]]:
    """Join the neighbours of a variable and take it away; return them, and all whose surroundings have changed."""
    around = neighbours.pop(variable)
    changed = set(around)
    for a in around:
        neighbours[a].discard(variable)
    for a in around:
        new = around - neighbours[a]
        new.discard(a)
        for b in new:
            changed |= neighbours[a] & neighbours[b]
            neighbours[a].add(b)
            neighbours[b].add(a)
    return around, changed


def _fill(neighbours: dict[int, set[int]], weights: dict[int, float], variable: int) -> float:
    """Return the edges that the neighbours of a variable lack between them, each by the logarithms of its states."""
    around = neighbours[variable]
    missing = 0.0
    for a in around:
        lacking = around - neighbours[a]
        if len(lacking) > 1:  # more than the variable itself
            missing += weights[a] * (sum(weights[b] for b in lacking) - weights[a])
    return missing


def _cliques(order: list[int], scopes: list[set[int]]) -> list[Clique]:
    """Return a tree of cliques: a variable joins the clique of one before it if that has all of its neighbours."""
    place = {v: i for i, v in enumerate(order)}
    separators = [tuple(sorted(scope, key=place.__getitem__)) for scope in scopes]
    member = list(range(len(order)))  # the clique, named by its first variable, that eliminates each variable
    own: dict[int, list[int]] = {}
    for i, separator in enumerate(separators):
        if member[i] == i:
            own[i] = []
        own[member[i]].append(i)
        if separator:
            parent = place[separator[0]]
            if member[parent] == parent and len(separator) == len(separators[parent]) + 1:
                member[parent] = member[i]
    names = sorted(own, key=lambda name: own[name][-1])
    number = {name: k for k, name in enumerate(names)}
    cliques = []
    for name in names:
        separator = separators[own[name][-1]]
        parent = number[member[place[separator[0]]]] if separator else -1
        cliques.append(Clique(tuple(order[i] for i in own[name]), separator, parent))
    return cliques
