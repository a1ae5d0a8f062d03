"""Parts of models as the kernels take them: what a rank sends itself, and behind it a tail of what it is told.

A rank computes the messages of its own units, in the order of `plan.numbers`. What its units hear from units of others
stands behind them, sorted by the rank that sends it, so that what comes in is copied in one piece. Products are taken
in the order of the message numbers of the whole model, on every rank as on one: they are the same bits.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from hpcblaz.backend.messages import Plan
from hpcblaz.bp.plans import Agreement
from hpcblaz.bp.ragged import Floats, Integers, offsets_of, ranges
from hpcblaz.mpi import Communicator
from hpcblaz.mpi.links import Links, totals

__all__ = ["EdgeChunk", "LocalPlan", "Part", "RankAgreement", "digest"]

_MIX = tuple(
    np.uint64(word) for word in (0x9E3779B97F4A7C15, 0xD1B54A32D192ED03, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)  # odd words, of SplitMix64 and the like


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
    numbers : numpy.ndarray of integers
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
    numbers: NDArray[Any]
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
        return np.unique(np.searchsorted(self.plan.graph.offsets, self.abroad, "right") - 1)

    @cached_property
    def places(self) -> Integers:
        """Where each message begins, the tail too, and where the last one ends."""
        return np.arange(len(self.numbers) + 1) if self.plan.family == "binary" else self.plan.places

    @property
    def entries(self) -> int:
        """How many numbers all messages have, the tail too."""
        return int(self.places[len(self.numbers)])

    def uniform(self) -> NDArray[Any]:
        """Return messages that say nothing."""
        if self.plan.family == "binary":
            return np.ones(len(self.numbers), self.plan.precision)
        sizes = np.diff(self.places)
        return np.repeat(1.0 / sizes, sizes)

    @cached_property
    def abroad(self) -> Integers:
        """The messages that others hear, rank by rank; one that two ranks hear is there twice."""
        return np.concatenate([*self.outgoing.values(), np.zeros(0, np.int64)])

    def cut_links(self, comm: Communicator, width: int) -> Links:
        """Return how rows of so many numbers are exchanged: those of `abroad`, and then those of the tail."""
        outgoing, at = {}, 0
        for rank, slots in self.outgoing.items():
            outgoing[rank] = np.arange(at * width, (at + len(slots)) * width)
            at += len(slots)
        shift = at - self.count
        incoming = {r: slice((s.start + shift) * width, (s.stop + shift) * width) for r, s in self.incoming.items()}
        return Links(comm, outgoing, incoming)

    def links(self, comm: Communicator, lengths: Integers | None = None) -> Links:
        """Return how messages are exchanged, or other rows of numbers, one for each message.

        Parameters
        ----------
        comm : Communicator
        lengths : numpy.ndarray of int64, optional
            Of the rows. Default: those of the messages.
        """
        if lengths is None and self.plan.family == "binary":
            return Links(comm, self.outgoing, self.incoming)
        starts = self.places if lengths is None else offsets_of(lengths)
        outgoing = {r: ranges(starts[slots], starts[slots + 1] - starts[slots]) for r, slots in self.outgoing.items()}
        incoming = {r: slice(int(starts[s.start]), int(starts[s.stop])) for r, s in self.incoming.items()}
        return Links(comm, outgoing, incoming)
