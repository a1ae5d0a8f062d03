"""What belief propagation computes: arrays of a model in the order of its units, and what can be read off messages."""

from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpcblaz.backend.compile import kernel
from hpcblaz.errors import ModelError

Integers = NDArray[np.int64]

_MODULES = {"binary": "binary_messages", "pairwise": "pairwise_messages", "factors": "factor_messages"}
_PLACES = {"pairwise": 5, "factors": 3}  # where a model has them
_MOST_MESSAGES = 2**32 - 2  # their numbers have 32 bits


class Graph(NamedTuple):
    """Who sends and who listens.

    Unit u sends messages offsets[u] to offsets[u + 1]; message k tells variables[k]; the units that hear what variable
    v is told are listeners[listener_offsets[v]] and on.
    """

    offsets: Integers
    variables: NDArray[np.uint32]
    listener_offsets: Integers
    listeners: Integers


@dataclass(frozen=True, eq=False)
class Plan:
    """What is computed: arrays of a model, in the order of its units.

    Parameters
    ----------
    family : {'binary', 'pairwise', 'factors'}
    precision : {'float32', 'float64'}
        Float64 unless `family` is binary.
    model : tuple of numpy.ndarray
        As the template of the family has it.
    graph : Graph
    levels : numpy.ndarray of int64
        Where the units of each level begin, and where the last one ends. Those of one level are no neighbours.
    numbers : numpy.ndarray of uint32
        The number that each message has in the model, whatever the order.
    room : int
        The most numbers that a unit works on.
    """

    family: str
    precision: str
    model: tuple[NDArray[Any], ...]
    graph: Graph
    levels: Integers
    numbers: NDArray[np.uint32]
    room: int

    @property
    def units(self) -> int:
        """Number of units."""
        return len(self.graph.offsets) - 1

    @property
    def most_told(self) -> int:
        """How many messages a variable is told at the most."""
        offsets = self.graph.listener_offsets if self.family == "factors" else self.graph.offsets
        return int(np.diff(offsets).max(initial=0))

    @property
    def places(self) -> Integers:
        """Where each message begins, and where the last one ends."""
        if self.family == "binary":
            return np.arange(len(self.numbers) + 1)
        places: Integers = self.model[_PLACES[self.family]]
        return places


def arrange_pairs(edges: Integers, variables: int) -> tuple[Any, ...]:
    """Return the order of variables and messages; see the template ``arrangement``.

    Raises
    ------
    ModelError
        If there are more messages than 32 bits can count.
    """
    _check_count(2 * len(edges))
    return tuple(_arrangement().arrange_pairs(edges, variables))


def arrange_factors(factor_offsets: Integers, scopes: Integers, variables: int) -> tuple[Any, ...]:
    """Return the order of factors and messages; see the template ``arrangement``.

    Raises
    ------
    ModelError
        If there are more messages than 32 bits can count.
    """
    _check_count(len(scopes))
    return tuple(_arrangement().arrange_factors(factor_offsets, scopes, variables))


class BinaryTables(NamedTuple):
    """Tables of two by two, as logarithms of all their entries: edge e has table table_of[e]."""

    log_tables: NDArray[np.float64]
    table_of: NDArray[Any]

    def look(self) -> tuple[bool, bool, float]:
        """Return whether all entries are finite, whether all tables are 1 where states are alike, and the widest ratio.

        Ratios are those of an entry and the entry (0, 0), as logarithms.
        """
        finite, alike, widest = _arrangement().look_at_tables(self.log_tables)
        return bool(finite), bool(alike), float(widest)

    def farthest_told(self, offsets: Integers, numbers: NDArray[np.uint32]) -> tuple[NDArray[np.float64], float]:
        """Return the largest log of the product of the odds that each unit can be told, and that of any message."""
        told = np.empty(len(offsets) - 1)
        most = _arrangement().farthest_told(self.log_tables, self.table_of, offsets, numbers, told)
        return told, float(most)

    def weights(self, numbers: NDArray[np.uint32], alike: bool, precision: str) -> NDArray[Any]:
        """Return the weights of the messages: a row if all tables are alike where states are, otherwise three."""
        weights = np.empty((1 if alike else 3, len(numbers)), precision)
        for row, others in enumerate((0,) if alike else (1, 0, 2)):
            by_table = np.empty(len(self.log_tables) // 4)
            _arrangement().relative(self.log_tables, row, by_table)
            np.exp(by_table, out=by_table)
            _arrangement().spread(by_table, self.table_of, numbers, weights[row], weights[others])
        return weights


def beliefs(plan: Plan, messages: NDArray[Any], states: int, variables: int) -> tuple[Any, Any]:
    """Return the normalised beliefs of all variables, one after the other, and the logs of what they were divided by.

    Of a plan that is not binary; units of a pairwise plan are its variables.
    """
    out, logs = np.empty(states), np.empty(variables)
    _answers(plan).beliefs(plan.model, messages, out, logs)
    return out, logs


def log_odds_told(plan: Plan, messages: NDArray[Any], order: Integers) -> NDArray[np.float64]:
    """Return the logarithm of the product of the odds that each variable is told, of a binary plan.

    Parameters
    ----------
    plan : Plan
    messages : numpy.ndarray
    order : numpy.ndarray of int64
        Which variable each unit is.
    """
    told = np.empty(plan.units)
    _answers(plan).odds_told(plan.model, messages, order, told)
    np.log(told, out=told)
    return told


def free_energy(plan: Plan, messages: NDArray[Any]) -> float:
    """Return the sum of the logs of what the beliefs of all edges, or of all factors, would be divided by.

    Of a plan that is not binary.
    """
    if plan.family == "factors":
        return float(_answers(plan).free_energy(plan.model, messages, plan.room))
    cavities, logs = np.empty_like(messages), np.empty(len(plan.numbers))
    return float(_answers(plan).free_energy(plan.model, messages, cavities, logs, plan.room))


def binary_free_energy(
    plan: Plan, messages: NDArray[Any], tables: BinaryTables, order: Integers, logs: NDArray[np.float64]
) -> float:
    """Return the sum of the logs of what the beliefs of all edges would be divided by, of a binary plan.

    Messages count as weights of 1 for state 0, and of their odds for state 1.

    Parameters
    ----------
    plan : Plan
    messages : numpy.ndarray
    tables : BinaryTables
    order : numpy.ndarray of int64
        Which variable each unit is.
    logs : numpy.ndarray of float64, shape (variables, 2)
        Beliefs, not normalised.
    """
    return float(
        _answers(plan).free_energy(plan.model, messages, *tables, plan.graph.variables, plan.numbers, order, logs)
    )


def _check_count(messages: int) -> None:
    if messages > _MOST_MESSAGES:
        raise ModelError(f"expected {_MOST_MESSAGES} messages at most, got {messages}: divide the model among ranks")


def _answers(plan: Plan) -> Any:
    return kernel(_MODULES[plan.family], (1, 1, 1, 1), "identity", plan.precision, plan.family)


_arrangement = partial(kernel, "arrangement", (1, 1, 1, 1), "identity", "float64", "binary")
