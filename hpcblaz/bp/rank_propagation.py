"""The messages of a rank, and those that it is told by others."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpcblaz.backend.messages import Propagation, Queue
from hpcblaz.bp.partitioned_plans import LocalPlan
from hpcblaz.bp.ragged import Integers, ranges
from hpcblaz.mpi import Communicator
from hpcblaz.mpi.links import totals

__all__ = ["RankPropagation", "Sent"]

_FEW = 1 << 14  # keys that are looked at one by one, of all ranks together
_BITS = 11  # of a residual, that a histogram looks at


class Sent(NamedTuple):
    """What was sent and found on this rank: message updates, residuals above the tolerance, and the largest one."""

    updates: int
    left: int
    largest: float


class RankPropagation(Propagation):
    """The messages of a rank, and what would replace them; every method but `measure` is a collective call.

    Parameters
    ----------
    local : LocalPlan
    comm : Communicator
    messages : numpy.ndarray
        What to begin with, the tail too; the tail is what others have in its place.
    maximise, damping, tolerance
        As for Propagation.
    """

    def __init__(
        self, local: LocalPlan, comm: Communicator, messages: NDArray[Any], maximise: bool, damping: float,
        tolerance: float,
    ) -> None:  # fmt: skip
        super().__init__(local.plan, messages, maximise, damping, tolerance)
        self.local, self.comm = local, comm
        self._links = local.links(comm)
        tail = np.arange(len(local.numbers) - local.count)
        self._first, self._slot_of = local.count, tail
        if local.plan.family != "binary":
            self._first = int(local.places[local.count])
            self._slot_of = np.repeat(tail, np.diff(local.places[local.count : len(local.numbers) + 1]))

    def put(self, messages: NDArray[Any]) -> None:
        """Replace all messages, the tail too."""
        self.messages[...] = messages

    def flood_all(self) -> Sent:
        """Send all messages of all ranks at once; what others hear is on its way while the rest is computed."""
        if self.plan.family == "factors" or self.damping > 0:
            sent = self.flood_alone()
            self.tell()
            return sent
        boundary = self.local.boundary
        self._kernels.compute_listed(
            self.plan.model, boundary, 0, len(boundary), self.messages, self.fresh, self._nothing, self._tolerance,
            *self._rule,
        )  # fmt: skip
        self._links.begin(self.fresh)
        sent = self.flood_alone()
        self._links.finish(self.messages)
        return sent

    def flood_alone(self) -> Sent:
        """Send all messages of this rank at once, to units of this rank; no collective call."""
        if not self.count:
            return Sent(0, 0, 0.0)
        tail = self.messages[self._first :]
        _, left, largest = super().flood(1)
        self.messages[self._first :] = tail
        return Sent(self.count, int(left[-1]), float(largest[-1]))

    def sweep_all(self, sweeps: int, backward: bool) -> tuple[Sent, int]:
        """Sweep over this rank, so many times at most, and then tell the others; return how often, too."""
        sent, done = Sent(0, 0, 0.0), 0
        if self.count:
            factors = self.plan.family == "factors"
            for _ in range(sweeps if factors else 1):
                # What a factor is told by others counts as sent last, so there is only one way to sweep
                some, left, largest = super().sweep(1 if factors else sweeps, backward and not factors)
                done += some
                sent = Sent(done * self.count, int(left[-1]), float(largest[-1]))
        self.tell()
        return sent, done

    def tell(self) -> None:
        """Tell others what they hear, and take what they tell."""
        self._links.begin(self.messages)
        self._links.finish(self.messages)

    def compute_all(self) -> Sent:
        """Compute all fresh messages and residuals."""
        self.compute()
        left, largest = self.measure()
        return Sent(0, left, largest)

    def confirm_all(self) -> Sent:
        """Look at all messages anew, without keeping what would replace them."""
        return Sent(0, *self.measure_anew())

    def draw_all(self, share: float, seed: int) -> Sent:
        """Send each message above the tolerance with some probability, as one rank alone would."""
        return self._sent(self.send_drawn(share, seed))

    def send_largest_all(self, most: int) -> Sent:
        """Send the messages of the largest residuals of all ranks."""
        own = self._own_share(self.residuals, most)
        return self._sent(self.send_largest(own) if self.count else self._send_none())

    def splash_all(self, most: int, depth: int) -> Sent:
        """Send all messages around the variables with the largest residuals of all ranks, in trees within ranks."""
        graph = self.plan.graph
        keys = np.zeros(len(graph.listener_offsets) - 1, self.residuals.dtype)
        np.maximum.at(keys, graph.variables, self.residuals)
        own = self._own_share(keys, most)
        return self._sent(self.splash(own, depth) if len(keys) else self._send_none())

    def send_in_order(self, most: int, least: float, by_unit: bool) -> Sent:
        """Send in the order of the residuals of this rank, as long as they are above `least`, and then tell the others.

        The fresh messages are up to date, and stay so.
        """
        sent = 0
        if self.count:
            tolerance = self._tolerance
            self._tolerance = max(tolerance, type(tolerance)(least))
            try:
                sent = Queue(self, by_unit).send(most)
            finally:
                self._tolerance = tolerance
        self._recompute(0)
        return self._sent(sent)

    def _sent(self, sent: int) -> Sent:
        return Sent(sent, *self.measure())

    def _send_none(self) -> int:
        self._recompute(0)
        return 0

    def _recompute(self, count: int) -> None:
        """Compute again what the marked units send, and what follows from what others tell meanwhile."""
        self._links.begin(self.messages)
        if count:
            super()._recompute(count)
        changed = self._links.finish_changed(self.messages)
        slots = np.unique(self._slot_of[changed - self._first])
        starts, units = self.local.hearers
        hearing = np.unique(units[ranges(starts[slots], starts[slots + 1] - starts[slots])])
        if hearing.size:
            self._marked[: hearing.size] = hearing
            super()._recompute(hearing.size)

    def _own_share(self, keys: NDArray[Any], most: int) -> int:
        """Return how many of the so many largest keys of all ranks are of this rank; of equals, low ranks have more.

        The least of them is found from histograms of the bits of all keys, the highest ones first: floats that are not
        negative are in the order of their bits, and NaN is the largest of all.
        """
        width = 8 * keys.dtype.itemsize
        keys = keys[~(keys <= self._tolerance)]  # others are not sent
        if most * self.comm.size <= _FEW:
            return self._own_share_of_few(keys, most)
        bits = keys.view(np.dtype(f"u{keys.dtype.itemsize}")) & ((1 << (width - 1)) - 1)
        own, wanted = 0, most
        for stop in range(width, 0, -_BITS):
            shift = max(0, stop - _BITS)
            digits = (bits >> shift).astype(np.int64) & ((1 << (stop - shift)) - 1)
            counts: Integers = np.bincount(digits, minlength=1 << _BITS)
            above = np.cumsum(totals(self.comm, counts, []).sums[::-1])[::-1]  # of each digit and those above it
            if wanted >= above[0]:
                return own + bits.size
            digit = int(np.flatnonzero(above > wanted)[-1])
            beyond = int(above[digit + 1]) if digit + 1 < above.size else 0
            own += int(counts[digit + 1 :].sum())
            wanted -= beyond
            bits = bits[digits == digit]
        equal = self.comm.allgather([float(bits.size)])[:, 0].astype(np.int64)
        before = int(equal[: self.comm.rank].sum())
        return own + min(bits.size, max(0, wanted - before))

    def _own_share_of_few(self, keys: NDArray[Any], most: int) -> int:
        """Return the same, where all ranks can have the largest keys of each."""
        own = np.full(most, -1.0)
        largest = np.where(np.isnan(keys), np.inf, keys)
        largest = np.partition(largest, -most)[-most:] if largest.size > most else largest
        own[: largest.size] = largest
        rows = self.comm.allgather(own)
        least = np.partition(rows.ravel(), -most)[-most]
        if least < 0:
            return int(keys.size)
        above, equal = (rows > least).sum(axis=1), (rows == least).sum(axis=1)
        left = most - int(above.sum()) - int(equal[: self.comm.rank].sum())
        return int(above[self.comm.rank]) + min(int(equal[self.comm.rank]), max(0, left))
