"""Parts of pairwise models: a rank's variables, and the variables at the other ends of their edges."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from hpcblaz.backend.messages import Graph, arrange_pairs
from hpcblaz.bp.models import PairwiseModel
from hpcblaz.bp.partitioned_plans import EdgeChunk, LocalPlan, RankAgreement, digest
from hpcblaz.bp.plans import Prepared, prepare
from hpcblaz.bp.ragged import Floats, Integers, offsets_of, ranges
from hpcblaz.mpi import Communicator

__all__ = ["PairwisePart", "PairwisePlan"]

_CHUNK = 1 << 16  # edges whose tables are looked at together


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
        return np.asarray(self.numbers[self.owners == self.rank])

    @property
    def cardinalities(self) -> Integers:
        """How many states each of them has."""
        return np.asarray(self.model.cardinalities[self.owners == self.rank])

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
        arranged = (levels, order, offsets, sent.astype(np.uint32), reverse, targets)
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
        hearers = (np.arange(len(numbers) - messages + 1), sources[reverse[messages:]])
        heard = targets[:messages].copy()
        heard[cut] = sources[cut]  # nobody here listens: a unit listens to itself, which changes nothing
        identity = np.arange(count + 1)
        graph = Graph(offsets[: count + 1], heard, identity, identity[:-1])
        model = (offsets[: count + 1], *plan.model[1:])
        local = replace(plan, model=model, graph=graph, numbers=numbers[:messages].astype(np.uint32))
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
            edges_of=plan.numbers.astype(np.int64),
        )


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
