"""Graphical models: factor graphs, and models whose factors have two variables at most.

All tables hold natural logarithms, with -inf for zero. Models do not change: what changes one returns another, which
shares the arrays that stay.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hpcblaz.bp.checks import (
    assignment_array,
    check_cardinalities,
    check_edges,
    check_offsets,
    check_scopes,
    check_variables,
    compact,
    evidence_arrays,
    integer_array,
    log_array,
    table_sizes,
)
from hpcblaz.bp.merging import merge
from hpcblaz.bp.ragged import Floats, Integers, offsets_of, ranges, steps_of, sums
from hpcblaz.errors import ModelError

__all__ = ["FactorGraph", "PairwiseModel"]


@dataclass(frozen=True, eq=False)
class FactorGraph:
    """A product of tables, each over some of the variables.

    The probability of an assignment is proportional to the product of the entries that it chooses.

    Parameters
    ----------
    cardinalities : numpy.ndarray of int64, shape (variables,)
        How many states each variable has, at least one.
    factor_offsets : numpy.ndarray of int64, shape (factors + 1,)
        Where the scope of each factor begins in `scopes`.
    scopes : numpy.ndarray of int64, shape (edges,)
        The variables of the factors, one factor after the other; none twice in a factor. A factor of no variable is a
        constant.
    table_offsets : numpy.ndarray of int64, shape (factors + 1,)
        Where the table of each factor begins in `log_tables`.
    log_tables : numpy.ndarray of float64, shape (entries,)
        Natural logarithms, -inf where a table is zero; in C order, the states of the last variable fastest.

    Raises
    ------
    ModelError
        If the arrays do not make a model.

    Examples
    --------
    >>> import numpy as np
    >>> model = FactorGraph.from_tables([2, 3], [([0], [0.25, 0.75]), ([0, 1], [[1, 0, 2], [3, 1, 0]])])
    >>> model.variables, model.factors, model.edges
    (2, 2, 3)
    >>> round(float(np.exp(model.score([1, 0]))), 6)
    2.25
    >>> model.clamp({0: 1}).score([[0, 2], [1, 1]]).tolist() == [-np.inf, np.log(0.75)]
    True
    """

    cardinalities: Integers
    factor_offsets: Integers
    scopes: Integers
    table_offsets: Integers
    log_tables: Floats

    def __post_init__(self) -> None:
        given: dict[str, NDArray[Any]] = {}
        for name in ("cardinalities", "factor_offsets", "scopes", "table_offsets"):
            given[name] = integer_array(name, getattr(self, name), (None,))
        given["log_tables"] = log_array("log_tables", self.log_tables, (None,))
        for name, array in given.items():
            object.__setattr__(self, name, array)
        check_cardinalities(self.cardinalities)
        check_offsets("factor_offsets", self.factor_offsets, self.scopes.size, "scopes")
        check_offsets("table_offsets", self.table_offsets, self.log_tables.size, "log_tables")
        if self.factor_offsets.size != self.table_offsets.size:
            raise ModelError(f"expected as many scopes as tables, got {self.factors} and {self.table_offsets.size - 1}")
        check_variables("scopes", self.scopes, self.variables)
        check_scopes(self.factor_of_edge, self.scopes, self.variables)
        expected = table_sizes(self.scopes, self.factor_offsets, self.cardinalities)
        wrong = np.flatnonzero(np.diff(self.table_offsets) != expected)
        if wrong.size:
            factor = int(wrong[0])
            raise ModelError(
                f"expected {expected[factor]} entries in the table of factor {factor}, over the variables "
                f"{self.scope(factor).tolist()}, got {np.diff(self.table_offsets)[factor]}"
            )

    @classmethod
    def from_tables(
        cls, cardinalities: ArrayLike, factors: Iterable[tuple[Sequence[int], ArrayLike]], log: bool = False
    ) -> "FactorGraph":
        """Make a model of a list of scopes and tables.

        Parameters
        ----------
        cardinalities : array_like of int, shape (variables,)
        factors : iterable of (sequence of int, array_like)
            The variables of each factor, and its table: an axis a variable.
        log : bool
            Whether the tables are logarithms.

        Returns
        -------
        FactorGraph

        Raises
        ------
        ModelError
            If a table has another shape than its variables have, or an entry that is no weight.
        """
        cards = integer_array("cardinalities", cardinalities, (None,))
        check_cardinalities(cards)
        scopes, tables = [], []
        for number, (scope, table) in enumerate(factors):
            variables = integer_array(f"the variables of factor {number}", scope, (None,))
            check_variables(f"the variables of factor {number}", variables, cards.size)
            shape = tuple(int(n) for n in cards[variables])
            scopes.append(variables)
            tables.append(log_array(f"the table of factor {number}", table, shape, log).ravel())
        return cls(
            cards,
            offsets_of(np.array([scope.size for scope in scopes], np.int64)),
            np.concatenate([*scopes, np.zeros(0, np.int64)]),
            offsets_of(np.array([table.size for table in tables], np.int64)),
            np.concatenate([*tables, np.zeros(0)]),
        )

    @property
    def variables(self) -> int:
        """Number of variables."""
        return int(self.cardinalities.size)

    @property
    def factors(self) -> int:
        """Number of factors."""
        return int(self.factor_offsets.size) - 1

    @property
    def edges(self) -> int:
        """Number of pairs of a factor and one of its variables."""
        return int(self.scopes.size)

    @property
    def arity(self) -> int:
        """The most variables that a factor has."""
        return int(np.diff(self.factor_offsets).max(initial=0))

    @cached_property
    def degrees(self) -> Integers:
        """How many factors each variable is in: int64, shape (variables,)."""
        return np.bincount(self.scopes, minlength=self.variables).astype(np.int64)

    @cached_property
    def factor_of_edge(self) -> Integers:
        """Which factor each entry of `scopes` belongs to: int64, shape (edges,)."""
        return np.repeat(np.arange(self.factors, dtype=np.int64), np.diff(self.factor_offsets))

    @cached_property
    def steps(self) -> Integers:
        """How far apart in its table two neighbouring states of each entry of `scopes` are: int64, shape (edges,)."""
        return steps_of(self.scopes, self.factor_offsets, self.cardinalities)

    def scope(self, factor: int) -> Integers:
        """Return the variables of a factor."""
        return self.scopes[self.factor_offsets[factor] : self.factor_offsets[factor + 1]]

    def log_table(self, factor: int) -> Floats:
        """Return the table of a factor, an axis a variable; it shares the memory of the model."""
        shape = self.cardinalities[self.scope(factor)]
        return self.log_tables[self.table_offsets[factor] : self.table_offsets[factor + 1]].reshape(shape)

    @cached_property
    def kept(self) -> dict[str, Any]:
        """What was worked out from the model and may be asked for again; not a part of it."""
        return {}

    def score(self, assignment: ArrayLike) -> Any:
        """Return the logarithm of the product of the entries that an assignment chooses.

        Parameters
        ----------
        assignment : array_like of int, shape (variables,) or (..., variables)
            A state of each variable.

        Returns
        -------
        numpy.float64 or numpy.ndarray of float64, shape (...)
            -inf if the assignment is impossible.

        Raises
        ------
        ModelError
            If a state is not there.
        """
        states = assignment_array(assignment, self.cardinalities)
        entries = self.table_offsets[:-1] + sums(self.steps * states[..., self.scopes], self.factor_offsets)
        return self.log_tables[entries].sum(axis=-1)

    def clamp(self, evidence: Mapping[int, int]) -> "FactorGraph":
        """Return the model in which some variables have been observed.

        All states but those seen are impossible in it: their entries are -inf. Its shapes are the same, but that a
        variable in no factor gets one.

        Parameters
        ----------
        evidence : mapping of int to int
            The state of each variable that has been observed.

        Returns
        -------
        FactorGraph

        Raises
        ------
        ModelError
            If a variable or a state is not there.
        """
        variables, states = evidence_arrays(evidence, self.cardinalities)
        if not variables.size:
            return self
        seen = np.full(self.variables, -1, np.int64)
        seen[variables] = states
        edges = np.flatnonzero(seen[self.scopes] >= 0)
        factors = self.factor_of_edge[edges]
        sizes = np.diff(self.table_offsets)[factors]
        inside = ranges(np.zeros(edges.size, np.int64), sizes)
        cards = np.repeat(self.cardinalities[self.scopes[edges]], sizes)
        state = inside // np.repeat(self.steps[edges], sizes) % cards
        entries = inside + np.repeat(self.table_offsets[factors], sizes)
        tables = self.log_tables.copy()
        tables[entries[state != np.repeat(seen[self.scopes[edges]], sizes)]] = -np.inf
        model = replace(self, log_tables=tables)
        lonely = {int(v): _only(int(self.cardinalities[v]), int(seen[v])) for v in variables if not self.degrees[v]}
        return model.weigh(lonely, log=True) if lonely else model

    def weigh(self, weights: Mapping[int, ArrayLike], log: bool = False) -> "FactorGraph":
        """Return the model with a factor more for some variables: soft evidence.

        Parameters
        ----------
        weights : mapping of int to array_like
            By variable, a weight of each of its states.
        log : bool
            Whether the weights are logarithms.

        Returns
        -------
        FactorGraph

        Raises
        ------
        ModelError
            If a variable is not there, or has another number of states.
        """
        added = FactorGraph.from_tables(self.cardinalities, [([v], w) for v, w in weights.items()], log)
        return FactorGraph(
            self.cardinalities,
            np.concatenate([self.factor_offsets, added.factor_offsets[1:] + self.edges]),
            np.concatenate([self.scopes, added.scopes]),
            np.concatenate([self.table_offsets, added.table_offsets[1:] + self.log_tables.size]),
            np.concatenate([self.log_tables, added.log_tables]),
        )

    def to_factor_graph(self) -> "FactorGraph":
        """Return the model itself."""
        return self

    def to_pairwise(self) -> "PairwiseModel":
        """Return the same model with one table for each pair of variables; constants go to the first variable.

        Returns
        -------
        PairwiseModel
            Scores are the same up to rounding. Each edge goes as the first factor of its variables does.

        Raises
        ------
        ModelError
            If a factor has more than two variables, or there are constants and no variable.
        """
        merged = merge(self.cardinalities, self.factor_offsets, self.scopes, self.table_offsets, self.log_tables)
        return PairwiseModel(self.cardinalities, *merged)


@dataclass(frozen=True, eq=False)
class PairwiseModel:
    """A weight for each state of each variable, and a table for each edge between two of them.

    Parameters
    ----------
    cardinalities : numpy.ndarray of int64, shape (variables,)
        How many states each variable has, at least one.
    unary_offsets : numpy.ndarray of int64, shape (variables + 1,)
        Where the weights of each variable begin in `log_unaries`.
    log_unaries : numpy.ndarray of float64, shape (states of all variables,)
        Natural logarithms, -inf for zero.
    edges : numpy.ndarray of int64, shape (edges, 2)
        Two variables each; every pair once, in any order.
    table_of : numpy.ndarray of uint32 (int64 beyond its range), shape (edges,)
        Which table each edge has: tables may be shared.
    table_offsets : numpy.ndarray of uint32 (int64 beyond its range), shape (tables + 1,)
        Where each table begins in `log_tables`.
    log_tables : numpy.ndarray of float64, shape (entries,)
        Natural logarithms in C order: the first axis are the states of ``edges[:, 0]``, the second of ``edges[:, 1]``.

    Raises
    ------
    ModelError
        If the arrays do not make a model.

    Examples
    --------
    >>> import numpy as np
    >>> same = [[3, 1], [1, 3]]
    >>> model = PairwiseModel.from_tables([[0.4, 0.6]] * 3, [[0, 1], [1, 2]], [same], table_of=[0, 0])
    >>> model.variables, model.tables, model.degrees.tolist()
    (3, 1, [1, 2, 1])
    >>> round(float(np.exp(model.score([1, 1, 0]))), 6)
    0.432
    """

    cardinalities: Integers
    unary_offsets: Integers
    log_unaries: Floats
    edges: Integers
    table_of: NDArray[Any]
    table_offsets: NDArray[Any]
    log_tables: Floats

    def __post_init__(self) -> None:
        given: dict[str, NDArray[Any]] = {}
        for name in ("cardinalities", "unary_offsets", "table_of", "table_offsets"):
            given[name] = integer_array(name, getattr(self, name), (None,))
        given["edges"] = integer_array("edges", self.edges, (None, 2))
        for name in ("log_unaries", "log_tables"):
            given[name] = log_array(name, getattr(self, name), (None,))
        for name, array in given.items():
            object.__setattr__(self, name, array)
        check_cardinalities(self.cardinalities)
        check_offsets("unary_offsets", self.unary_offsets, self.log_unaries.size, "log_unaries")
        if not np.array_equal(np.diff(self.unary_offsets), self.cardinalities):
            raise ModelError("expected a unary weight for each state of each variable, got other unary_offsets")
        check_offsets("table_offsets", self.table_offsets, self.log_tables.size, "log_tables")
        check_variables("edges", self.edges, self.variables)
        if self.table_of.size != len(self.edges):
            raise ModelError(f"expected a table of each of {len(self.edges)} edges, got table_of {self.table_of.size}")
        check_edges(self.edges, self.table_of, self.cardinalities, self.table_offsets)
        for name in ("table_of", "table_offsets"):
            object.__setattr__(self, name, compact(getattr(self, name)))

    @classmethod
    def from_tables(
        cls,
        unaries: Sequence[ArrayLike] | NDArray[Any],
        edges: ArrayLike,
        tables: Sequence[ArrayLike] | NDArray[Any],
        table_of: ArrayLike | None = None,
        log: bool = False,
    ) -> "PairwiseModel":
        """Make a model of weights and tables.

        Parameters
        ----------
        unaries : sequence of array_like, or array_like of shape (variables, states)
            The weights of the states of each variable.
        edges : array_like of int, shape (edges, 2)
        tables : sequence of array_like of two axes, or array_like of shape (tables, states, states)
        table_of : array_like of int, shape (edges,), optional
            Which table each edge has. Default: one table an edge, in their order.
        log : bool
            Whether weights and tables are logarithms.

        Returns
        -------
        PairwiseModel

        Raises
        ------
        ModelError
            If an entry is no weight, or sizes do not match.
        """
        pairs = integer_array("edges", edges, (None, 2))
        if table_of is None:
            if len(tables) != len(pairs):
                raise ModelError(f"expected a table for each of {len(pairs)} edges, got {len(tables)}: give table_of")
            table_of = np.arange(len(pairs))
        cards, log_unaries = _flatten("unaries", unaries, 1, log)
        sizes, log_tables = _flatten("tables", tables, 2, log)
        model = cls(
            cards[:, 0],
            offsets_of(cards[:, 0]),
            log_unaries,
            pairs,
            integer_array("table_of", table_of, (None,)),
            offsets_of(sizes.prod(axis=1)),
            log_tables,
        )
        wrong = np.flatnonzero((sizes[model.table_of] != model.cardinalities[model.edges]).any(axis=1))
        if wrong.size:
            edge = int(wrong[0])
            raise ModelError(
                f"expected a table of shape {tuple(model.cardinalities[model.edges[edge]].tolist())} for edge {edge}, "
                f"got {tuple(sizes[model.table_of[edge]].tolist())}"
            )
        return model

    @property
    def variables(self) -> int:
        """Number of variables."""
        return int(self.cardinalities.size)

    @property
    def tables(self) -> int:
        """Number of tables, shared ones once."""
        return int(self.table_offsets.size) - 1

    @property
    def factors(self) -> int:
        """Number of factors: a unary one of each variable, and one of each edge."""
        return self.variables + len(self.edges)

    @cached_property
    def degrees(self) -> Integers:
        """How many edges each variable has: int64, shape (variables,)."""
        return np.bincount(self.edges.ravel(), minlength=self.variables).astype(np.int64)

    @cached_property
    def kept(self) -> dict[str, Any]:
        """What was worked out from the model and may be asked for again; not a part of it."""
        return {}

    def log_unary(self, variable: int) -> Floats:
        """Return the weights of a variable; they share the memory of the model."""
        return self.log_unaries[self.unary_offsets[variable] : self.unary_offsets[variable + 1]]

    def log_table(self, edge: int) -> Floats:
        """Return the table of an edge, two axes; it shares the memory of the model."""
        table = self.table_of[edge]
        shape = self.cardinalities[self.edges[edge]]
        return self.log_tables[self.table_offsets[table] : self.table_offsets[table + 1]].reshape(shape)

    def score(self, assignment: ArrayLike) -> Any:
        """Return the logarithm of the product of the entries that an assignment chooses.

        Parameters
        ----------
        assignment : array_like of int, shape (variables,) or (..., variables)

        Returns
        -------
        numpy.float64 or numpy.ndarray of float64, shape (...)

        Raises
        ------
        ModelError
            If a state is not there.
        """
        states = assignment_array(assignment, self.cardinalities)
        first, second = self.edges.T
        entries = self.table_offsets[self.table_of] + states[..., first] * self.cardinalities[second]
        unaries = self.log_unaries[self.unary_offsets[:-1] + states].sum(axis=-1)
        return unaries + self.log_tables[entries + states[..., second]].sum(axis=-1)

    def clamp(self, evidence: Mapping[int, int]) -> "PairwiseModel":
        """Return the model in which some variables have been observed: weights of other states are -inf.

        Parameters
        ----------
        evidence : mapping of int to int

        Returns
        -------
        PairwiseModel
            Of the same shapes.

        Raises
        ------
        ModelError
            If a variable or a state is not there.
        """
        variables, states = evidence_arrays(evidence, self.cardinalities)
        kept = self.unary_offsets[variables] + states
        unaries = self.log_unaries.copy()
        unaries[ranges(self.unary_offsets[variables], self.cardinalities[variables])] = -np.inf
        unaries[kept] = self.log_unaries[kept]
        return replace(self, log_unaries=unaries)

    def weigh(self, weights: Mapping[int, ArrayLike], log: bool = False) -> "PairwiseModel":
        """Return the model with other weights of some variables, multiplied by these: soft evidence.

        Parameters
        ----------
        weights : mapping of int to array_like
        log : bool
            Whether the weights are logarithms.

        Returns
        -------
        PairwiseModel

        Raises
        ------
        ModelError
            If a variable is not there, or has another number of states.
        """
        unaries = self.log_unaries.copy()
        check_variables("weights", integer_array("the variables of weights", list(weights), (None,)), self.variables)
        for variable, values in weights.items():
            shape = (int(self.cardinalities[variable]),)
            place = slice(self.unary_offsets[variable], self.unary_offsets[variable + 1])
            unaries[place] += log_array(f"the weights of variable {variable}", values, shape, log)
        return replace(self, log_unaries=unaries)

    def to_pairwise(self) -> "PairwiseModel":
        """Return the model itself."""
        return self

    def to_factor_graph(self) -> FactorGraph:
        """Return the same model with a factor of each variable, and then one of each edge.

        Returns
        -------
        FactorGraph
        """
        count, edges = self.variables, len(self.edges)
        sizes = np.diff(self.table_offsets)[self.table_of]
        entries = ranges(self.table_offsets[:-1][self.table_of], sizes)
        return FactorGraph(
            self.cardinalities,
            offsets_of(np.repeat([1, 2], [count, edges])),
            np.concatenate([np.arange(count), self.edges.ravel()]),
            offsets_of(np.concatenate([self.cardinalities, sizes])),
            np.concatenate([self.log_unaries, self.log_tables[entries]]),
        )


def _only(states: int, state: int) -> Floats:
    """Return the logarithms of weights of which one is 1 and the others are 0."""
    weights = np.full(states, -np.inf)
    weights[state] = 0.0
    return weights


def _flatten(name: str, arrays: Any, axes: int, log: bool) -> tuple[Integers, Floats]:
    """Return the shapes of arrays, and all their entries as logarithms."""
    if isinstance(arrays, np.ndarray) and arrays.ndim == axes + 1:
        shapes = np.tile(np.array(arrays.shape[1:], np.int64), (len(arrays), 1))
        return shapes, log_array(name, arrays, arrays.shape, log).ravel()
    parts = [log_array(f"entry {i} of {name}", array, (None,) * axes, log) for i, array in enumerate(arrays)]
    shapes = np.array([part.shape for part in parts], np.int64).reshape(len(parts), axes)
    return shapes, np.concatenate([*(part.ravel() for part in parts), np.zeros(0)])
