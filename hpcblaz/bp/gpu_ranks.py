"""The messages of a rank on its card, and those that it is told by others. Docs: docs/bp_ranks.md."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcblaz.backend import gpu
from hpcblaz.backend.gpu_messages import GpuPropagation
from hpcblaz.bp.partitioned_plans import LocalPlan
from hpcblaz.bp.ragged import ranges
from hpcblaz.bp.rank_propagation import RankPropagation, Sent
from hpcblaz.mpi import Communicator, cuda_aware
from hpcblaz.mpi.links import PackedLinks

__all__ = ["GPU_RANK_SCHEDULES", "AnyRankPropagation", "GpuRankPropagation"]

GPU_RANK_SCHEDULES = ("lbp", "rnbp")


class GpuRankPropagation(GpuPropagation):
    """What `RankPropagation` does for the schedules that have a place here, with messages on the current card.

    What others hear is packed on the card, and one copy takes it to the host, or MPI takes it from the card. What
    arrives goes the same way back.

    Parameters
    ----------
    local : LocalPlan
    comm : Communicator
    messages, maximise, damping, tolerance
        As for `RankPropagation`.
    """

    def __init__(
        self, local: LocalPlan, comm: Communicator, messages: NDArray[Any], maximise: bool, damping: float,
        tolerance: float,
    ) -> None:  # fmt: skip
        super().__init__(local.plan, messages, maximise, damping, tolerance)
        xp = gpu.array_module()
        self.local, self.comm = local, comm
        places, dtype = local.places, np.dtype(local.plan.precision)
        lengths = np.diff(places)
        tail = np.arange(len(local.numbers) - local.count)
        self._first = int(places[local.count])
        self._slots = xp.asarray(np.repeat(tail, lengths[local.count : len(local.numbers)]))
        self._hearers = tuple(xp.asarray(array) for array in local.hearers)
        outgoing = dict(sorted(local.outgoing.items()))
        slots = np.concatenate([*outgoing.values(), np.zeros(0, np.int64)])
        self._abroad = xp.asarray(ranges(places[slots], lengths[slots]))
        self._boundary = xp.asarray(local.boundary)
        self._links = PackedLinks(
            comm,
            {rank: int(lengths[some].sum()) for rank, some in outgoing.items()},
            {rank: int(places[some.stop] - places[some.start]) for rank, some in local.incoming.items()},
        )
        self._packed, self._arrived = xp.empty(self._links.sent, dtype), xp.empty(self._links.received, dtype)
        self._by_host = not cuda_aware().supported
        if self._by_host:
            self._to_send, self._received = (gpu.staging(n, dtype) for n in (self._links.sent, self._links.received))

    def put(self, messages: NDArray[Any]) -> None:
        """Replace all messages, the tail too."""
        self.messages[...] = gpu.asarray(messages)

    def flood_all(self) -> Sent:
        """Send all messages of all ranks at once; what others hear is on its way while the rest is computed."""
        if self.plan.family == "factors" or self.damping > 0:
            sent = self.flood_alone()
            self._begin_telling(self.messages)
        else:
            tally = self._tally(1)
            tally[self._kernels.HEARD, self._kernels.FIRST] = len(self._boundary)
            self._compute_listed(self._boundary, tally)
            self._begin_telling(self.fresh)
            sent = self.flood_alone()
        self._hear()
        self.messages[self._first : self._first + len(self._arrived)] = self._arrived
        return sent

    def flood_alone(self) -> Sent:
        """Send all messages of this rank at once, to units of this rank; no collective call."""
        if not self.count:
            return Sent(0, 0, 0.0)
        tail = self.messages[self._first :]
        _, left, largest = self.flood(1)
        self.messages[self._first :] = tail
        return Sent(self.count, int(left[-1]), float(largest[-1]))

    def compute_all(self) -> Sent:
        """Compute all fresh messages and residuals."""
        self.compute()
        return Sent(0, *self.measure())

    def confirm_all(self) -> Sent:
        """Look at all messages anew, without keeping what would replace them."""
        return Sent(0, *self.measure_anew())

    def draw_all(self, share: float, seed: int) -> Sent:
        """Send each message above the tolerance with some probability, as one rank alone would."""
        return Sent(self.send_drawn(share, seed), *self.measure())

    def _follow(self, stamp: np.int32, tally: Any, column: int) -> None:
        """Tell others, and compute again what the units send that heard something, here or from others."""
        self._begin_telling(self.messages)
        self._hear()
        self.take_in(self._arrived, self._first, self._slots, self._hearers, stamp)
        super()._follow(stamp, tally, column)

    def _begin_telling(self, values: Any) -> None:
        """Pack what others hear, and send it."""
        self.gather(values, self._abroad, self._packed)
        if self._by_host:
            gpu.fetch(self._packed, self._to_send)
            self._links.begin(self._to_send, self._received)
        else:
            gpu.wait()
            self._links.begin(self._packed, self._arrived)

    def _hear(self) -> None:
        """Wait for what others tell: then it is on the card."""
        self._links.wait()
        if self._by_host:
            gpu.put(self._received, self._arrived)


AnyRankPropagation = RankPropagation | GpuRankPropagation
