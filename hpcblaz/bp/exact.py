"""Exact answers by elimination: what belief propagation approximates, for models of small width.

Cliques are visited from the leaves of their tree to the roots, and each tells its parent what is left of its table
when its own variables are summed over; on the way back each is told what all others know. Tables are logarithms, and
sums are taken relative to the greatest entry of each, so that neither zeros nor huge and tiny weights do harm.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from hpcblaz.bp.elimination import Clique, EliminationPlan, Reduced, plan_elimination, reduce_model
from hpcblaz.bp.models import FactorGraph, PairwiseModel
from hpcblaz.bp.ragged import Floats, Integers, offsets_of
from hpcblaz.errors import ModelError

__all__ = ["ExactSolution", "exact"]

_SMALL = 2**12  # entries of a table that is cheap beside the work of finding it
_TASKS = ("marginals", "map", "logz")
_Operand = tuple[tuple[int, ...], Floats]


@dataclass(frozen=True, eq=False)
class ExactSolution:
    """Exact answers.

    Parameters
    ----------
    log_partition : float
        Natural logarithm of the sum of the scores of all assignments, exponentiated; -inf if none is possible; NaN if
        it was not asked for.
    marginals : numpy.ndarray of float64, shape (states of all variables,), or None
        The probability of each state of each variable, one variable after the other.
    offsets : numpy.ndarray of int64, shape (variables + 1,)
        Where the marginals of each variable begin.
    assignment : numpy.ndarray of int64, shape (variables,), or None
        A most probable one.
    score : float
        Of that assignment; NaN without one.
    plan : EliminationPlan
        What it has cost.
    """

    log_partition: float
    marginals: Floats | None
    offsets: Integers
    assignment: Integers | None
    score: float
    plan: EliminationPlan

    def marginal(self, variable: int) -> Floats:
        """Return the probabilities of the states of a variable.

        Raises
        ------
        ModelError
            If they were not asked for.
        """
        if self.marginals is None:
            raise ModelError("expected a solution with marginals, got one without: ask for task='marginals'")
        return self.marginals[self.offsets[variable] : self.offsets[variable + 1]]


def exact(
    model: FactorGraph | PairwiseModel,
    task: Literal["marginals", "map", "logz"] = "marginals",
    evidence: Mapping[int, int] | None = None,
    limit: float = 2**31,
    report: Callable[[EliminationPlan], object] | None = None,
) -> ExactSolution:
    """Solve a model exactly.

    Parameters
    ----------
    model : FactorGraph or PairwiseModel
    task : {'marginals', 'map', 'logz'}
        Probabilities of all states with the logarithm of the partition function; a most probable assignment; or that
        logarithm alone.
    evidence : mapping of int to int, optional
        The state of each variable that has been observed.
    limit : float
        How many bytes it may take.
    report : callable, optional
        Called with the plan, which says what it costs, before anything is computed or refused.

    Returns
    -------
    ExactSolution

    Raises
    ------
    ResourceError
        If it takes more memory than the limit, before anything is computed; the text says how much.
    ModelError
        If evidence is not in the model, or no assignment is possible (but for 'logz').

    Examples
    --------
    >>> from hpcblaz.bp import FactorGraph
    >>> model = FactorGraph.from_tables([2, 2], [([0], [1, 3]), ([0, 1], [[2, 1], [0, 1]])])
    >>> exact(model).marginal(1).round(3).tolist()
    [0.333, 0.667]
    >>> exact(model, "map").assignment.tolist(), exact(model, "map", evidence={1: 0}).assignment.tolist()
    ([1, 1], [0, 0])
    """
    if task not in _TASKS:
        raise ModelError(f"expected a task {', '.join(_TASKS)}, got {task!r}")
    graph = model.to_factor_graph()
    if evidence:
        graph = graph.clamp(evidence)
    reduced = reduce_model(graph)
    offsets = offsets_of(graph.cardinalities)
    plan = plan_elimination(graph, reduced)
    if report is not None:
        report(plan)
    if reduced.contradiction is not None:
        if task != "logz":
            raise ModelError(
                f"expected a model with a possible assignment, got one in which all states of variable "
                f"{reduced.contradiction} are impossible: weights or evidence contradict each other"
            )
        return ExactSolution(-np.inf, None, offsets, None, np.nan, plan)
    plan.require(limit)
    tree = _Tree(reduced, plan.cliques)
    log_partition = tree.upward(maximise=task == "map") + reduced.constant
    if task != "logz" and log_partition == -np.inf:
        raise ModelError("expected a model with a possible assignment, got none: weights or evidence contradict")
    if task == "map":
        assignment = tree.traceback()
        return ExactSolution(np.nan, None, offsets, assignment, float(graph.score(assignment)), plan)
    marginals = tree.downward(offsets) if task == "marginals" else None
    return ExactSolution(log_partition, marginals, offsets, None, np.nan, plan)


class _Tree:
    """The cliques of a model, the factors that each has, and what they have told each other."""

    def __init__(self, reduced: Reduced, cliques: list[Clique]) -> None:
        self._states = reduced.states
        self._cliques = cliques
        self._place: dict[int, int] = {}  # of each variable in the order of elimination
        self._home: dict[int, int] = {}  # the clique that eliminates it
        for number, clique in enumerate(cliques):
            for variable in clique.own:
                self._home[variable] = number
        for variable in _order(cliques):
            self._place[variable] = len(self._place)
        self._factors: list[list[_Operand]] = [[] for _ in cliques]
        self._children: list[list[int]] = [[] for _ in cliques]
        for number, clique in enumerate(cliques):
            if clique.parent >= 0:
                self._children[clique.parent].append(number)
        for scope, table in zip(reduced.scopes, reduced.tables, strict=True):
            axes = sorted(range(len(scope)), key=lambda axis: self._place[scope[axis]])
            sorted_scope = tuple(scope[axis] for axis in axes)
            self._factors[self._home[sorted_scope[0]]].append((sorted_scope, table.transpose(axes)))
        self._up: list[Floats] = []

    def upward(self, maximise: bool) -> float:
        """Let every clique tell its parent; return what is left at the roots: the log partition, or the best score."""
        self._up = []
        left = 0.0
        for number, clique in enumerate(self._cliques):
            table = self._assemble(number, self._operands(number))
            shape = tuple(self._size(v) for v in clique.separator)
            told = _reduce(table.reshape(-1, max(1, math.prod(shape))), maximise).reshape(shape)
            self._up.append(told)
            if clique.parent < 0:
                left += float(told)
        return left

    def downward(self, offsets: Integers) -> Floats:
        """Let every clique know of all others, and return the probabilities of all states of all variables."""
        marginals = np.zeros(int(offsets[-1]))
        for variable, states in enumerate(self._states):
            if states.size == 1:
                marginals[offsets[variable] + states[0]] = 1.0
        down: dict[int, Floats] = {}
        for number in reversed(range(len(self._cliques))):
            clique = self._cliques[number]
            operands = self._operands(number)
            if clique.parent >= 0:
                operands.append((clique.separator, down.pop(number)))
            belief = self._assemble(number, operands)
            belief -= belief.max()
            np.exp(belief, out=belief)
            belief /= belief.sum()
            scope = clique.own + clique.separator
            own = _sum_to(belief, scope, clique.own)
            for variable in clique.own:
                place = offsets[variable] + self._states[variable]
                marginals[place] = _sum_to(own, clique.own, (variable,))
            for child in self._children[number]:
                with np.errstate(divide="ignore"):
                    known = np.log(_sum_to(belief, scope, self._cliques[child].separator))
                told = self._up[child]
                down[child] = np.where(known == -np.inf, -np.inf, known - np.where(told == -np.inf, 0.0, told))
                self._up[child] = np.zeros(0)
        return marginals

    def traceback(self) -> Integers:
        """Choose states from the roots to the leaves, each the best of what its parents have chosen."""
        chosen = np.array([states[0] for states in self._states], np.int64)
        at: dict[int, int] = {}  # numbers among the states that are possible
        for number in reversed(range(len(self._cliques))):
            clique = self._cliques[number]
            operands = []
            for scope, table in self._operands(number):
                index: Any = tuple(at.get(v, slice(None)) if v in clique.separator else slice(None) for v in scope)
                operands.append((tuple(v for v in scope if v not in clique.separator), table[index]))
            table = _product(operands, clique.own, tuple(self._size(v) for v in clique.own), self._place)
            best = np.unravel_index(int(table.argmax()), table.shape)
            for variable, state in zip(clique.own, best, strict=True):
                at[variable] = int(state)
                chosen[variable] = self._states[variable][state]
        return chosen

    def _operands(self, number: int) -> list[_Operand]:
        """Return the factors of a clique, and what its children have told it."""
        told = [(self._cliques[child].separator, self._up[child]) for child in self._children[number]]
        return self._factors[number] + told

    def _assemble(self, number: int, operands: Sequence[_Operand]) -> Floats:
        scope = self._cliques[number].own + self._cliques[number].separator
        return _product(operands, scope, tuple(self._size(v) for v in scope), self._place)

    def _size(self, variable: int) -> int:
        return int(self._states[variable].size)


def _order(cliques: Sequence[Clique]) -> list[int]:
    """Return an order of all variables in which those of each clique stand as in it: own ones, then the separator."""
    return [variable for clique in cliques for variable in clique.own]


def _product(
    operands: Sequence[_Operand], scope: tuple[int, ...], shape: tuple[int, ...], place: Mapping[int, int]
) -> Floats:
    """Add tables of logarithms, so that few additions are as large as the result."""
    lengths = dict(zip(scope, shape, strict=True))
    small = max(_SMALL, math.prod(shape) // 64)
    parts: list[tuple[tuple[int, ...], list[_Operand]]] = []
    for operand in sorted(operands, key=lambda operand: operand[1].size, reverse=True):
        for number, (have, members) in enumerate(parts):
            union = {*have, *operand[0]}
            if len(union) == len(have) or math.prod(lengths[v] for v in union) <= small:
                parts[number] = (tuple(sorted(union, key=place.__getitem__)), [*members, operand])
                break
        else:
            parts.append((operand[0], [operand]))
    result = np.empty(shape)
    if not parts:
        result[...] = 0.0
    for number, (have, members) in enumerate(parts):
        part = _spread(_total(have, members, tuple(lengths[v] for v in have)), have, scope)
        if number:
            result += part
        else:
            result[...] = part
    return result


def _total(scope: tuple[int, ...], operands: Sequence[_Operand], shape: tuple[int, ...]) -> Floats:
    """Return the sum of tables over some of the variables of a scope."""
    if len(operands) == 1:
        return operands[0][1]
    total = np.zeros(shape)
    for variables, table in operands:
        total += _spread(table, variables, scope)
    return total


def _spread(table: Floats, have: tuple[int, ...], want: tuple[int, ...]) -> Floats:
    """Return a table with axes of length one for the variables that it lacks."""
    if have == want:
        return table
    lengths = dict(zip(have, table.shape, strict=True))
    return table.reshape([lengths.get(v, 1) for v in want])


def _reduce(table: Floats, maximise: bool) -> Floats:
    """Return the logarithm of the sum, or the maximum, of each column; the table is used up."""
    greatest: Floats = table.max(axis=0)
    if maximise:
        return greatest
    base = np.where(greatest == -np.inf, 0.0, greatest)
    table -= base
    np.exp(table, out=table)
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(table.sum(axis=0)) + base)


def _sum_to(table: NDArray[Any], have: tuple[int, ...], want: tuple[int, ...]) -> Floats:
    """Return the sums over all variables but some; neighbouring axes are summed over together, the first ones first."""
    kept = set(want)
    result = table
    lengths = list(table.shape)
    axis = 0
    while axis < len(lengths):
        if have[axis] in kept:
            axis += 1
            continue
        end = axis
        while end < len(lengths) and have[end] not in kept:
            end += 1
        before, inside = math.prod(lengths[:axis]), math.prod(lengths[axis:end])
        result = result.reshape(before, inside, -1).sum(axis=1)
        have = have[:axis] + have[end:]
        lengths = lengths[:axis] + lengths[end:]
    return result.reshape(lengths)
