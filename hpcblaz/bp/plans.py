"""Models as the kernels take them: in the order in which messages are computed, and scaled against overflow."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcblaz.backend.message_plans import BinaryTables, Graph, Plan, arrange_factors, arrange_pairs
from hpcblaz.bodies.messages import TINY
from hpcblaz.bp.models import FactorGraph, PairwiseModel
from hpcblaz.bp.ragged import Floats, Integers, offsets_of, ranges
from hpcblaz.errors import ModelError

_LARGEST_LOG = {"float32": 80.0, "float64": 690.0}  # of odds and their products
_NEGLIGIBLE_LOG = {"float32": 20.0, "float64": 40.0}  # weights so far below another one are lost in rounding


@dataclass(frozen=True, eq=False)
class Prepared:
    """A model and the plan of its messages.

    Parameters
    ----------
    model : FactorGraph or PairwiseModel
        The second if no factor has more than two variables.
    plan : Plan
    variable_of : numpy.ndarray of int64, shape (variables,)
        Which variable the plan's variable i is.
    log_scale : float
        Log of what the tables of the plan were divided by, in all.
    """

    model: FactorGraph | PairwiseModel
    plan: Plan
    variable_of: Integers
    log_scale: float

    def uniform(self) -> NDArray[Any]:
        """Return messages that say nothing."""
        if self.plan.family == "binary":
            return np.ones(len(self.plan.numbers), self.plan.precision)
        sizes = np.diff(self.plan.places)
        return np.repeat(1.0 / sizes, sizes)

    def to_plan(self, vectors: Floats) -> NDArray[Any]:
        """Return the plan's messages from vectors in the order of the model; see `from_plan`.

        Raises
        ------
        ModelError
            If they are of a model of other shapes.
        """
        cards = self.model.cardinalities[self._told()]
        offsets = offsets_of(cards)
        if vectors.shape != (offsets[-1],):
            raise ModelError(
                f"expected messages of {offsets[-1]} numbers in all to begin with, got {vectors.size}: begin with a "
                "result of a model of the same shapes"
            )
        if self.plan.family == "binary":
            pairs = np.maximum(vectors.reshape(-1, 2)[self.plan.numbers], 1e-30)
            model = self.model.to_pairwise()
            most = np.exp(_reach(model)[self.plan.numbers & 1, model.table_of[self.plan.numbers >> 1]])
            return np.clip(pairs[:, 1] / pairs[:, 0], 1 / most, most).astype(self.plan.precision)
        # What was impossible need not be so in another model
        return np.maximum(vectors[ranges(offsets[:-1][self.plan.numbers], cards[self.plan.numbers])], 1e-30)

    def from_plan(self, messages: NDArray[Any]) -> Floats:
        """Return messages as vectors of sum 1, one after the other in the order of the model."""
        numbers = self.plan.numbers
        if self.plan.family == "binary":
            vectors = np.empty((len(numbers), 2))
            odds = messages.astype(np.float64)
            vectors[numbers, 0] = 1 / (1 + odds)
            vectors[numbers, 1] = odds / (1 + odds)
            return vectors.ravel()
        place = np.empty(len(numbers), np.int64)
        place[numbers] = np.arange(len(numbers))
        return messages[ranges(self.plan.places[:-1][place], np.diff(self.plan.places)[place])]

    def _told(self) -> Integers:
        """Return the variable that each message tells, in the order of the model."""
        if isinstance(self.model, FactorGraph):
            return self.model.scopes
        return np.ascontiguousarray(self.model.edges[:, ::-1]).ravel()


class Agreement:
    """What those that prepare parts of one model have to agree on; one alone agrees with itself."""

    def every(self, flag: bool) -> bool:
        """Return whether it is so for all of them."""
        return flag

    def largest(self, value: float) -> float:
        """Return the largest value of all of them."""
        return value


def prepare(
    model: FactorGraph | PairwiseModel,
    precision: str,
    arranged: tuple[Any, ...] | None = None,
    agreement: Agreement | None = None,
) -> Prepared:
    """Return a model with a plan of the fastest family that it fits.

    Parameters
    ----------
    model : FactorGraph or PairwiseModel
    precision : {'float32', 'float64'}
        Of odds, if they cannot overflow in it. Other messages are float64.
    arranged : tuple, optional
        The order of units and messages, as `arrange_pairs` returns it, or for a FactorGraph `arrange_factors`. A
        FactorGraph that comes with it stays one.
    agreement : Agreement, optional
        With those that prepare other parts of the model.

    Raises
    ------
    ModelError
        If all states of a variable are impossible by themselves.
    """
    agreement = agreement or Agreement()
    if isinstance(model, FactorGraph):
        if model.arity > 2 or not model.variables or arranged is not None:
            return _factors(model, arranged)
        model = model.to_pairwise()
    binary = bool((model.cardinalities == 2).all())
    largest = _largest_unaries(model, binary)
    impossible = np.flatnonzero(np.isneginf(largest))
    if impossible.size:
        raise impossible_variable(int(impossible[0]))
    levels, order, offsets, numbers, reverse, targets = arranged or arrange_pairs(model.edges, model.variables)
    identity = np.arange(model.variables + 1)
    graph = Graph(offsets, targets, identity, identity[:-1])
    rest = (graph, levels, numbers)
    if agreement.every(binary):
        for kind in ("float32", "float64") if precision == "float32" else ("float64",):
            arrays = _odds(model, order, offsets, numbers, kind, agreement)
            if agreement.every(arrays is not None) and arrays is not None:
                room = max(1024, int(np.diff(offsets).max(initial=0)))
                plan = Plan("binary", kind, (offsets, reverse, *arrays), *rest, room)
                return Prepared(model, plan, order, 0.0)
    return _pairs(model, order, reverse, rest, largest)


def _largest_unaries(model: PairwiseModel, binary: bool) -> Floats:
    """Return the largest log weight of each variable."""
    if binary:
        pairs = model.log_unaries.reshape(-1, 2)
        return np.maximum(pairs[:, 0], pairs[:, 1])
    return np.asarray(np.maximum.reduceat(model.log_unaries, model.unary_offsets[:-1]))


def impossible_variable(variable: int) -> ModelError:
    """Return the error of a contradiction."""
    return ModelError(
        f"expected a model with a possible assignment, got one in which every state of variable {variable} is "
        "impossible: look at the evidence and at the zeros of its tables"
    )


def _odds(
    model: PairwiseModel,
    order: Integers,
    offsets: Integers,
    numbers: NDArray[np.uint32],
    precision: str,
    agreement: Agreement,
) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """Return unaries and weights as odds, or None if there is a zero or products of odds might overflow."""
    tables = BinaryTables(model.log_tables, model.table_of)
    finite, alike, widest = tables.look()
    if not agreement.every(finite):
        return None
    widest = agreement.largest(widest)
    told, most = tables.farthest_told(offsets, numbers)
    pairs = model.log_unaries.reshape(-1, 2)
    unaries = (pairs[:, 1] - pairs[:, 0])[order]
    # Beyond that, one state is certain but for rounding, whatever a variable is told
    certain = told + (2 * widest + _NEGLIGIBLE_LOG[precision])
    np.minimum(unaries, certain, out=unaries)
    np.negative(certain, out=certain)
    np.maximum(unaries, certain, out=unaries)
    np.abs(unaries, out=certain)
    told += certain
    # Distances of messages take the product of two
    if max(float(told.max(initial=0.0)) + widest, 2 * most) > _LARGEST_LOG[precision]:
        return None
    np.exp(unaries, out=unaries)
    odds = unaries.astype(precision)
    del unaries, told, certain  # before the largest arrays are made
    return odds, tables.weights(numbers, alike, precision)


def _relative(model: PairwiseModel) -> Floats:
    """Return the logs of the entries (0, 1), (1, 0) and (1, 1) of each table, over that of (0, 0)."""
    corners = np.ascontiguousarray(model.log_tables.reshape(-1, 4).T)
    relative: Floats = corners[1:] - corners[0]
    return relative


def _reach(model: PairwiseModel) -> Floats:
    """Return the largest log odds of messages over each table, to the second variable of an edge and to the first."""
    forth, back, both = _relative(model)
    reach: Floats = np.maximum(abs(np.stack([forth, back])), abs(both - np.stack([back, forth])))
    return reach


def _weights(logs: Floats, offsets: Integers) -> tuple[Floats, Floats]:
    """Return rows of weights, the largest of each 1, and its log; zeros stay zeros, and nothing else becomes one."""
    filled = np.diff(offsets) > 0
    largest = np.full(len(filled), -np.inf)
    if filled.any():
        largest[filled] = np.maximum.reduceat(logs, offsets[:-1][filled])
    divisors = np.where(np.isneginf(largest), 0.0, largest)
    weights = np.exp(logs - np.repeat(divisors, np.diff(offsets)))
    weights[(weights < TINY) & ~np.isneginf(logs)] = TINY
    return weights, divisors


def _pairs(
    model: PairwiseModel, order: Integers, reverse: NDArray[np.uint32], rest: tuple[Any, ...], largest: Floats
) -> Prepared:
    graph, levels, numbers = rest
    cards = model.cardinalities[order]
    state_offsets = offsets_of(cards)
    states = ranges(model.unary_offsets[:-1][order], cards)
    unaries, _ = _weights(model.log_unaries[states], state_offsets)
    places = offsets_of(cards[graph.variables])
    tables, scales = _weights(model.log_tables, model.table_offsets)
    # Every table again with its axes swapped: rows are the states of who sends
    columns = np.ones(model.tables, np.int64)
    columns[model.table_of] = model.cardinalities[model.edges[:, 1]]
    sizes = np.diff(model.table_offsets)
    inside = ranges(np.zeros(model.tables, np.int64), sizes)
    wide = np.repeat(columns, sizes)
    swapped = np.empty_like(tables)
    begins = np.repeat(model.table_offsets[:-1], sizes)
    swapped[begins + inside % wide * np.repeat(sizes // columns, sizes) + inside // wide] = tables
    table = model.table_of[numbers >> 1]
    tables_at = model.table_offsets[:-1][table] + (numbers & 1) * tables.size
    both = np.concatenate([tables, swapped])
    most = int(cards.max(initial=1))
    room = max(2 * most, int((np.diff(graph.offsets) * cards).max(initial=0)))
    arrays = (
        graph.offsets, reverse, graph.variables, state_offsets, unaries, places, tables_at, both, np.zeros(1, np.int64),
    )  # fmt: skip
    plan = Plan("pairwise", "float64", arrays, graph, levels, numbers, room)
    return Prepared(model, plan, order, float(scales[model.table_of].sum() + largest.sum()))


def _factors(model: FactorGraph, arranged: tuple[Any, ...] | None) -> Prepared:
    constants = np.flatnonzero(np.diff(model.factor_offsets) == 0)
    zero = constants[np.isneginf(model.log_tables[model.table_offsets[constants]])]
    if zero.size:
        raise ModelError(
            f"expected a model with a possible assignment, got one in which all are impossible: factor {zero[0]}, a "
            "constant, is 0"
        )
    levels, order, offsets, numbers, told_offsets, told, listeners = arranged or arrange_factors(
        model.factor_offsets, model.scopes, model.variables
    )
    variables = model.scopes[numbers].astype(np.uint32)
    sizes = np.diff(model.table_offsets)[order]
    tables_at = offsets_of(sizes)
    tables, scales = _weights(model.log_tables[ranges(model.table_offsets[:-1][order], sizes)], tables_at)
    places = offsets_of(model.cardinalities[variables])
    widths = np.diff(places[offsets])
    room = max(1, int(widths.max(initial=1)), model.arity)
    arrays = (
        offsets, variables, model.cardinalities, places, tables_at, tables, told_offsets, told, np.zeros(1, np.int64),
    )  # fmt: skip
    graph = Graph(offsets, variables, told_offsets, listeners)
    plan = Plan("factors", "float64", arrays, graph, levels, numbers, room)
    return Prepared(model, plan, np.arange(model.variables), float(scales.sum()))
