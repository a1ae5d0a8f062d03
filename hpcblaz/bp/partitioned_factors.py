"""Parts of factor graphs: a rank's factors, and what their variables are told by factors of others."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hpcblaz.backend.messages import Graph, arrange_factors
from hpcblaz.bp.models import FactorGraph
from hpcblaz.bp.partitioned_plans import LocalPlan, digest
from hpcblaz.bp.plans import Prepared, prepare
from hpcblaz.bp.ragged import Integers, offsets_of, ranges
from hpcblaz.mpi import Communicator

__all__ = ["FactorPart", "FactorPlan"]


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
        entries = np.lexsort((place, model.scopes))  # in the order in which they are sent, those of others last
        told_offsets = offsets_of(np.bincount(model.scopes, minlength=model.variables))
        told = place[entries]
        rank_of = np.empty(order.size, np.int64)
        rank_of[order] = np.arange(order.size)
        listeners = rank_of[model.factor_of_edge[entries]]
        arranged = (levels, order, offsets, numbers.astype(np.uint32), told_offsets, told, listeners)
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
            plan=replace(plan, model=model, graph=graph, numbers=numbers[:messages].astype(np.uint32)),
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
