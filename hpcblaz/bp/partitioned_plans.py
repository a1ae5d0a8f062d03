"""Parts of models as the kernels take them: what a rank sends itself, and behind it a tail of what it is told.

A rank computes the messages of its own units, in the order of `plan.numbers`. What its units hear from units of others
stands behind them, sorted by the rank that sends it, so that what comes in is copied in one piece. Products are taken
in the order of the message numbers of the whole model, on every rank as on one: they are the same bits.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from hpcblaz.backend.messages import Graph, Plan, arrange_factors, arrange_pairs
from hpcblaz.bp.models import FactorGraph, PairwiseModel
from hpcblaz.bp.plans import Agreement, Prepared, prepare
from hpcblaz.bp.ragged import Floats, Integers, offsets_of, ranges
from hpcblaz.mpi import Communicator
from hpcblaz.mpi.links import Links, totals

__all__ = ["EdgeChunk", "FactorPart", "LocalPlan", "PairwisePart", "Part", "RankAgreement"]

_MIX = tuple(
    np.uint64(word) for word in (0x9E3779B97F4A7C15, 0xD1B54A32D192ED03, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)  # odd words, of SplitMix64 and the like
_CHUNK = 1 << 16  # edges whose tables are looked at together


class RankAgreement(Agreement):
    """Agreement of all ranks."""

    def __init__(self, comm: Communicator) -> None:
        self._comm = comm

    def every(self, flag: bool) -> bool:
        """Return whether it is so on every rank."""
        return not totals(self._comm, [0], [not flag]).largest[0]

    def largest(self, value: float) -> float:
        """Return the largest value of all ranks."""
        return float(self._comm.allgather([value]).max())


class EdgeChunk(NamedTuple):
    """Edges with tables of one shape: the message to the second variable of each, and the logarithms of the tables."""

    messages: Integers
    log_tables: Floats


class Part(Protocol):
    """What a rank has of a model."""

    @property
    def variables(self) -> Integers:
        """The global numbers of the variables that this rank answers for, ascending."""

    @property
    def cardinalities(self) -> Integers:
        """How many states each of them has."""

    @property
    def messages(self) -> int:
        """How many messages this rank sends."""

    def prepare(self, precision: str, comm: Communicator) -> "LocalPlan":
        """Return the plan of this part; a collective call."""

    def impossible(self) -> int | None:
        """Return a variable whose states are all impossible by themselves, if there is one."""

    def halo(self) -> tuple[int, int]:
        """Return how many messages this rank hears from others, and from how many of them."""

    def fingerprint(self) -> int:
        """Return a number whose sum over all ranks, modulo 2^64, tells models apart; not whom a part belongs to."""


def digest(keys: Integers, rows: Floats, lengths: Integers) -> int:
    """Return a sum, modulo 2^64, over rows of numbers with keys: their order does not matter.

    Examples
    --------
    >>> one = digest(np.array([1, 2]), np.array([0.5, 1.0, 2.0]), np.array([1, 2]))
    >>> one == digest(np.array([2, 1]), np.array([1.0, 2.0, 0.5]), np.array([2, 1]))
    True
    """
    inside = ranges(np.zeros(len(keys), np.int64), lengths).astype(np.uint64)
    with np.errstate(over="ignore"):
        words = rows.view(np.uint64) ^ (np.repeat(keys, lengths).astype(np.uint64) * _MIX[0] + inside * _MIX[1])
        for shift, factor in ((30, _MIX[2]), (27, _MIX[3])):
            words = (words ^ (words >> np.uint64(shift))) * factor
        return int((words ^ (words >> np.uint64(31))).sum(dtype=np.uint64))


@dataclass(frozen=True, eq=False)
class LocalPlan:
    """The plan of a part.

    Parameters
    ----------
    plan : Plan
        Of the units of this rank; `numbers` are those of the whole model.
    numbers : numpy.ndarray of int64
        Of all messages, the tail too.
    outgoing : dict of int to numpy.ndarray of int64
        By rank, which messages it hears.
    incoming : dict of int to slice
        By rank, which messages of the tail it sends.
    hearers : tuple of numpy.ndarray
        Offsets and units: those that hear each message of the tail.
    unit_variables : numpy.ndarray of int64
        Of a factor plan: the global number of each variable of this rank; otherwise that of each unit, and behind them
        those of others whose messages are heard.
    owned : numpy.ndarray of int64
        Which of those this rank answers for, in the order of their global numbers.
    log_scale : float
        As in `Prepared`, of what this rank counts.
    """

    plan: Plan
    numbers: Integers
    outgoing: dict[int, Integers]
    incoming: dict[int, slice]
    hearers: tuple[Integers, Integers]
    unit_variables: Integers
    owned: Integers
    log_scale: float

    @property
    def count(self) -> int:
        """Number of messages that this rank sends."""
        return len(self.plan.numbers)

    @cached_property
    def boundary(self) -> Integers:
        """The units that others hear, ascending."""
        heard = np.concatenate([*self.outgoing.values(), np.zeros(0, np.int64)])
        return np.unique(np.searchsorted(self.plan.graph.offsets, heard, "right") - 1)

    @property
    def entries(self) -> int:
        """How many numbers all messages have, the tail too."""
        return int(self.plan.places[len(self.numbers)])

    def uniform(self) -> NDArray[Any]:
        """Return messages that say nothing."""
        if self.plan.family == "binary":
            return np.ones(len(self.numbers), self.plan.precision)
        sizes = np.diff(self.plan.places)
        return np.repeat(1.0 / sizes, sizes)

    def links(self, comm: Communicator, lengths: Integers | None = None) -> Links:
        """Return how messages are exchanged, or other rows of numbers, one for each message.

        Parameters
        ----------
        comm : Communicator
        lengths : numpy.ndarray of int64, optional
            Of the rows. Default: those of the messages.
        """
        starts = self.plan.places if lengths is None else offsets_of(lengths)
        outgoing = {r: ranges(starts[slots], starts[slots + 1] - starts[slots]) for r, slots in self.outgoing.items()}
        incoming = {r: slice(int(starts[s.start]), int(starts[s.stop])) for r, s in self.incoming.items()}
        return Links(comm, outgoing, incoming)


@dataclass(frozen=True, eq=False)
class PairwisePart:
    """The variables of a rank, their edges, and the variables at the other ends of these.

    Parameters
    ----------
    model : PairwiseModel
        Variables and edges in the order of their global numbers. Variables of other ranks have no weights.
    numbers : numpy.ndarray of int64
        Global numbers of the variables of `model`.
    owners : numpy.ndarray of int64
        Their ranks.
    edges : numpy.ndarray of int64
        Global numbers of the edges of `model`.
    rank : int
    """

    model: PairwiseModel
    numbers: Integers
    owners: Integers
    edges: Integers
    rank: int

    @cached_property
    def variables(self) -> Integers:
        """The global numbers of the variables of this rank, ascending."""
        return self.numbers[self.owners == self.rank]

    @property
    def cardinalities(self) -> Integers:
        """How many states each of them has."""
        return self.model.cardinalities[self.owners == self.rank]

    @property
    def messages(self) -> int:
        """How many messages this rank sends."""
        return int((self.owners[self.model.edges] == self.rank).sum())

    def impossible(self) -> int | None:
        """Return a variable whose states are all impossible by themselves, if there is one."""
        if not self.model.variables:
            return None
        largest = np.maximum.reduceat(self.model.log_unaries, self.model.unary_offsets[:-1])
        found = np.flatnonzero(np.isneginf(largest))
        return int(self.numbers[found[0]]) if found.size else None

    def halo(self) -> tuple[int, int]:
        """Return how many messages this rank hears from others, and from how many of them."""
        senders = np.unique(self.owners)
        return 2 * len(self.model.edges) - self.messages, int((senders != self.rank).sum())

    def fingerprint(self) -> int:
        """Return this rank's share of a sum that tells models apart."""
        model, mine = self.model, self.owners == self.rank
        own = np.flatnonzero(mine)
        cards = model.cardinalities[own]
        found = digest(2 * self.numbers[own], model.log_unaries[ranges(model.unary_offsets[:-1][own], cards)], cards)
        counted = np.flatnonzero(mine[model.edges[:, 0]])
        tables = model.table_of[counted]
        sizes = np.diff(model.table_offsets)[tables]
        rows = model.log_tables[ranges(model.table_offsets[:-1][tables], sizes)]
        return found + digest(2 * self.edges[counted] + 1, rows, sizes)

    def prepare(self, precision: str, comm: Communicator) -> "PairwisePlan":
        """Return the plan of this part; a collective call."""
        model, mine = self.model, self.owners == self.rank
        count = int(mine.sum())
        inner = np.cumsum(mine) - 1  # among the variables of this rank
        within = model.edges[mine[model.edges].all(axis=1)]
        levels, ordered, *_ = arrange_pairs(np.ascontiguousarray(inner[within]), count)
        others = np.flatnonzero(~mine)
        order = np.concatenate([np.flatnonzero(mine)[ordered], others[np.argsort(self.owners[others], kind="stable")]])
        position = np.empty(model.variables, np.int64)
        position[order] = np.arange(order.size)
        sources = position[model.edges].ravel()
        sent = np.argsort(sources, kind="stable")
        offsets = offsets_of(np.bincount(sources, minlength=order.size))
        place = np.empty(sent.size, np.int64)
        place[sent] = np.arange(sent.size)
        reverse = place[sent ^ 1].astype(np.uint32)
        targets = sources[sent ^ 1].astype(np.uint32)
        arranged = (levels, order, offsets, sent, reverse, targets)
        prepared = prepare(model, precision, arranged, RankAgreement(comm))
        return self._restricted(prepared, count)

    def _restricted(self, prepared: Prepared, count: int) -> "PairwisePlan":
        """Return the plan of the units of this rank: those of others stand behind them, and compute nothing."""
        plan, order = prepared.plan, prepared.variable_of
        offsets, targets = plan.graph.offsets, plan.graph.variables
        messages = int(offsets[count])
        reverse = plan.model[1].astype(np.int64)
        sources = np.repeat(np.arange(order.size), np.diff(offsets))
        owners = self.owners[order]
        numbers = 2 * self.edges[plan.numbers >> 1] + (plan.numbers & 1)
        abroad = owners[targets[:messages]]
        cut = np.flatnonzero(abroad != self.rank)
        outgoing = {}
        for rank in np.unique(abroad[cut]).tolist():
            # As the other rank has its tail: by the variable that sends, then by the message
            slots = cut[abroad[cut] == rank]
            keys = np.lexsort((numbers[slots], self.numbers[order[sources[slots]]]))
            outgoing[rank] = slots[keys]
        tail = owners[sources[messages:]]
        incoming = {
            rank: slice(
                messages + int(np.searchsorted(tail, rank)), messages + int(np.searchsorted(tail, rank, "right"))
            )
            for rank in np.unique(tail).tolist()
        }
        hearers = (np.arange(sent_by_others(messages, numbers) + 1), sources[reverse[messages:]])
        heard = targets[:messages].copy()
        heard[cut] = sources[cut]  # nobody here listens: a unit listens to itself, which changes nothing
        identity = np.arange(count + 1)
        graph = Graph(offsets[: count + 1], heard, identity, identity[:-1])
        model = (offsets[: count + 1], *plan.model[1:])
        local = replace(plan, model=model, graph=graph, numbers=numbers[:messages])
        return PairwisePlan(
            plan=local,
            numbers=numbers,
            outgoing=outgoing,
            incoming=incoming,
            hearers=hearers,
            unit_variables=self.numbers[order],
            owned=np.argsort(order[:count], kind="stable"),
            log_scale=0.0,
            part=self,
            order=order,
            edges_of=plan.numbers,
        )


def sent_by_others(messages: int, numbers: Integers) -> int:
    """Return how many messages stand behind those of this rank."""
    return len(numbers) - messages


@dataclass(frozen=True, eq=False)
class PairwisePlan(LocalPlan):
    """The plan of a part of a pairwise model, and what its answers need beside it.

    Parameters
    ----------
    part : PairwisePart
    order : numpy.ndarray of int64
        Which variable of the part each unit is; those of other ranks come last.
    edges_of : numpy.ndarray of int64
        Numbers of the messages within the part.
    """

    part: PairwisePart
    order: Integers
    edges_of: Integers

    def log_unaries(self) -> Floats:
        """Return the logarithms of the weights of all units of this rank, one unit after the other."""
        model, mine = self.part.model, self.order[: self.plan.units]
        return np.asarray(model.log_unaries[ranges(model.unary_offsets[:-1][mine], model.cardinalities[mine])])

    def states(self) -> Integers:
        """Return how many states each unit of this rank has."""
        return self.part.model.cardinalities[self.order[: self.plan.units]]

    def states_of_senders(self) -> Integers:
        """Return how many states the sender of each message has, the tail too."""
        model = self.part.model
        return model.cardinalities[model.edges.ravel()[self.edges_of]]

    def edge_chunks(self) -> Iterator[EdgeChunk]:
        """Yield the edges that this rank counts: those whose first variable is its own."""
        model = self.part.model
        forth = np.flatnonzero((self.edges_of[: self.count] & 1) == 0)
        edges = self.edges_of[forth] >> 1
        shapes = model.cardinalities[model.edges[edges]].reshape(-1, 2)
        keys = shapes[:, 0] * (int(model.cardinalities.max(initial=1)) + 1) + shapes[:, 1]
        for key in np.unique(keys):
            alike = np.flatnonzero(keys == key)
            rows, columns = shapes[alike[0]].tolist()
            for start in range(0, alike.size, max(1, _CHUNK // (rows * columns))):
                some = alike[start : start + max(1, _CHUNK // (rows * columns))]
                begins = model.table_offsets[model.table_of[edges[some]]]
                entries = begins[:, None] + np.arange(rows * columns)
                yield EdgeChunk(forth[some], model.log_tables[entries].reshape(-1, rows, columns))


@dataclass(frozen=True, eq=False)
class FactorPart:
    """The factors of a rank, and what their variables are told by factors of others.

    Parameters
    ----------
    model : FactorGraph
        The factors of this rank, and for each message of others a factor of its variable alone, in the order of the
        message numbers of the whole model.
    numbers : numpy.ndarray of int64
        Global numbers of the variables of `model`, ascending.
    answers : numpy.ndarray of bool
        Whether this rank answers for a variable.
    owners : numpy.ndarray of int64
        The rank of each factor of `model`.
    messages_of : numpy.ndarray of int64
        The number that each entry of the scopes of `model` has in the whole model.
    rank : int
    """

    model: FactorGraph
    numbers: Integers
    answers: NDArray[np.bool_]
    owners: Integers
    messages_of: Integers
    rank: int

    @cached_property
    def variables(self) -> Integers:
        """The global numbers of the variables that this rank answers for, ascending."""
        return self.numbers[self.answers]

    @property
    def cardinalities(self) -> Integers:
        """How many states each of them has."""
        return self.model.cardinalities[self.answers]

    @property
    def messages(self) -> int:
        """How many messages this rank sends."""
        return int(np.diff(self.model.factor_offsets)[self.owners == self.rank].sum())

    def impossible(self) -> int | None:
        """Return nothing: messages show it."""
        return None

    def halo(self) -> tuple[int, int]:
        """Return how many messages this rank hears from others, and from how many of them."""
        senders = self.owners[self.owners != self.rank]
        return senders.size, np.unique(senders).size

    def fingerprint(self) -> int:
        """Return this rank's share of a sum that tells models apart."""
        model, own = self.model, np.flatnonzero((self.owners == self.rank) & (np.diff(self.model.factor_offsets) > 0))
        sizes = np.diff(model.table_offsets)[own]
        rows = model.log_tables[ranges(model.table_offsets[:-1][own], sizes)]
        return digest(self.messages_of[model.factor_offsets[:-1][own]], rows, sizes)

    def prepare(self, precision: str, comm: Communicator) -> "FactorPlan":
        """Return the plan of this part; a collective call."""
        with comm.together():
            return self._prepare(precision)

    def _prepare(self, precision: str) -> "FactorPlan":
        model, mine = self.model, self.owners == self.rank
        sizes = np.diff(model.factor_offsets)
        own = np.flatnonzero(mine)
        scopes = model.scopes[ranges(model.factor_offsets[:-1][own], sizes[own])]
        levels, ordered, *_ = arrange_factors(offsets_of(sizes[own]), scopes, model.variables)
        others = np.flatnonzero(~mine)
        order = np.concatenate([own[ordered], others[np.argsort(self.owners[others], kind="stable")]])
        offsets = offsets_of(sizes[order])
        numbers = ranges(model.factor_offsets[:-1][order], sizes[order])
        place = np.empty(numbers.size, np.int64)
        place[numbers] = np.arange(numbers.size)
        entries = np.argsort(model.scopes, kind="stable")
        told_offsets = offsets_of(np.bincount(model.scopes, minlength=model.variables))
        told = place[entries]
        rank_of = np.empty(order.size, np.int64)
        rank_of[order] = np.arange(order.size)
        listeners = rank_of[model.factor_of_edge[entries]]
        arranged = (levels, order, offsets, numbers, told_offsets, told, listeners)
        return self._restricted(prepare(model, precision, arranged), own.size)

    def _restricted(self, prepared: Prepared, count: int) -> "FactorPlan":
        plan, order_numbers = prepared.plan, prepared.plan.numbers
        offsets, targets = plan.graph.offsets, plan.graph.variables
        messages = int(offsets[count])
        told_offsets, listeners = plan.graph.listener_offsets, plan.graph.listeners
        told_by = np.repeat(np.arange(self.model.variables), np.diff(told_offsets))
        here = listeners < count
        heard = offsets_of(np.bincount(told_by[here], minlength=self.model.variables))
        local = listeners[here]
        owner_of_message = self.owners[self.model.factor_of_edge[order_numbers]]
        outgoing, incoming = {}, {}
        numbers = self.messages_of[order_numbers]
        for rank in np.unique(owner_of_message[messages:]).tolist():
            from_there = messages + np.flatnonzero(owner_of_message[messages:] == rank)
            incoming[rank] = slice(int(from_there[0]), int(from_there[-1]) + 1)
            asked = np.zeros(self.model.variables, np.bool_)
            asked[targets[from_there]] = True
            slots = np.flatnonzero(asked[targets[:messages]])
            outgoing[rank] = slots[np.argsort(numbers[slots])]
        tail = targets[messages:].astype(np.int64)
        hearing = np.diff(heard)[tail]
        hearers = (offsets_of(hearing), local[ranges(heard[:-1][tail], hearing)])
        graph = Graph(offsets[: count + 1], targets[:messages], heard, local)
        model = (offsets[: count + 1], *plan.model[1:])
        return FactorPlan(
            plan=replace(plan, model=model, graph=graph, numbers=numbers[:messages]),
            numbers=numbers,
            outgoing=outgoing,
            incoming=incoming,
            hearers=hearers,
            unit_variables=self.numbers,
            owned=np.flatnonzero(self.answers),
            log_scale=prepared.log_scale,
            part=self,
        )


@dataclass(frozen=True, eq=False)
class FactorPlan(LocalPlan):
    """The plan of a part of a factor graph.

    Parameters
    ----------
    part : FactorPart
    """

    part: FactorPart
