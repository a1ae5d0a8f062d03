"""Messages of many members of a batch at once: drivers of the CPU.

Members are models of one shape. Each thread has a *tile* of them, in the columns of its arrays. A member that is done
leaves its column to the next one; when none is left to come, tiles are narrowed. What is computed for a member does not
depend on its column, nor on the number of threads.
"""

import math
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcblaz.backend.compile import kernel
from hpcblaz.backend.threads import run, thread_count

_WIDEST = 128  # columns of a tile of a large model
_NUMBERS = 1 << 15  # that a row of a round should have at least, of a small model
_STEP = 16  # columns that a vector has
_ROUND_SECONDS = 0.05  # compiled loops come back about so often where there is a time limit
_MOST_ROUNDS = 1 << 16

RUNNING, CONVERGED, VALID, ITERATIONS, TIME, CONTRADICTION = range(6)


@dataclass(frozen=True, eq=False)
class BatchPlan:
    """What is computed.

    Parameters
    ----------
    family : {'batch_odds', 'batch_vectors'}
    precision : {'float32', 'float64'}
    model : tuple of numpy.ndarray
        As the template of the family has it.
    initial : numpy.ndarray of the precision, shape (rows,)
        The messages of a member that say nothing.
    unaries : numpy.ndarray of the precision, shape (members, states or variables)
    tables : numpy.ndarray of the precision, shape (entries,) or (members, entries)
    bounds : (float, float)
        Of odds.
    """

    family: str
    precision: str
    model: tuple[NDArray[Any], ...]
    initial: NDArray[Any]
    unaries: NDArray[Any]
    tables: NDArray[Any]
    bounds: tuple[float, float]

    @property
    def members(self) -> int:
        """Number of members."""
        return len(self.unaries)


@dataclass(frozen=True)
class BatchRule:
    """How it is computed, and when it is over.

    Parameters
    ----------
    flooding : bool
        All messages at once, not one factor after the other.
    both_ways : bool
        If not flooding: through the factors forward, then backward, which counts as two iterations.
    until_valid : bool
        Until the beliefs break no parity, not until messages do not change.
    maximise : bool
        Largest products instead of their sums.
    damping, tolerance : float
    most : int
        Iterations of a member.
    deadline : float or None
        Of `time.perf_counter`.
    """

    flooding: bool
    both_ways: bool
    until_valid: bool
    maximise: bool
    damping: float
    tolerance: float
    most: int
    deadline: float | None


@dataclass(eq=False)
class BatchOutcome:
    """What became of each member.

    Attributes
    ----------
    beliefs : numpy.ndarray, shape (members, states or variables)
    status : numpy.ndarray of int64
        CONVERGED, VALID, ITERATIONS, TIME or CONTRADICTION.
    iterations, trouble : numpy.ndarray of int64
        `trouble` is 1 more than a variable with no possible state.
    residuals : numpy.ndarray of float64
    """

    beliefs: NDArray[Any]
    status: NDArray[np.int64]
    iterations: NDArray[np.int64]
    trouble: NDArray[np.int64]
    residuals: NDArray[np.float64] = field(repr=False)


def propagate(plan: BatchPlan, rule: BatchRule, members: Sequence[int]) -> BatchOutcome:
    """Send messages until every member of a list is done, or a limit is reached."""
    count = plan.members
    outcome = BatchOutcome(
        np.empty_like(plan.unaries),
        np.full(count, RUNNING, np.int64),
        np.zeros(count, np.int64),
        np.zeros(count, np.int64),
        np.full(count, np.inf),
    )
    pending = deque(members)
    workers = min(thread_count(), -(-len(pending) // _STEP))
    if workers:
        share = -(-len(pending) // workers)
        widest = max(_WIDEST, _NUMBERS // max(1, len(plan.initial)))
        width = min(share, widest)
        width = min(share, -(-width // _STEP) * _STEP)
        run([_Tile(plan, rule, pending, width, outcome).work for _ in range(workers)])
    return outcome


class _Tile:
    """Members in the columns of arrays, and what is done to them on one thread."""

    def __init__(
        self, plan: BatchPlan, rule: BatchRule, pending: deque[int], width: int, outcome: BatchOutcome
    ) -> None:
        self._plan, self._rule, self._pending, self._outcome = plan, rule, pending, outcome
        self._kernels = kernel("batch_schedules", (1, 1, 1, 1), "identity", plan.precision, plan.family)
        real = np.dtype(plan.precision).type
        self._bounds = np.array(plan.bounds, real)
        self._numbers = (real(rule.damping), real(rule.tolerance))
        own = plan.tables.ndim == 2
        self._messages = np.repeat(plan.initial[:, None], width, axis=1)
        self._other = self._spare()
        self._unaries = np.ones((plan.unaries.shape[1], width), real)
        self._beliefs = np.empty_like(self._unaries)
        self._tables = np.ones((plan.tables.shape[-1], width), real) if own else plan.tables[:, None]
        self._worst, self._trouble = np.empty(width, real), np.zeros(width, np.int64)
        self._active, self._done = np.zeros((2, width), np.bool_)
        self._members = np.full(width, -1)
        self._begun = np.zeros(width, np.int64)
        self._round = 0
        self._measured = not rule.until_valid
        self._pace = 0.0

    def work(self) -> None:
        """Work until no member is left."""
        self._refill()
        while self._active.any():
            self._advance()
            self._refill()
            self._narrow()

    def _spare(self) -> NDArray[Any]:
        """Return room for messages beside those that are sent, where it is needed."""
        needed = self._rule.flooding or not self._rule.until_valid
        return np.empty_like(self._messages if needed else self._messages[:0])

    def _advance(self) -> None:
        rule = self._rule
        each = 2 if rule.both_ways and not rule.flooding else 1
        left = rule.most - int((self._round - self._begun[self._active]).max())
        rounds = max(1, min(_MOST_ROUNDS, left // each))
        if rule.deadline is not None:
            rounds = max(1, min(rounds, int(_ROUND_SECONDS / self._pace) if self._pace else 1))
        began = time.perf_counter()
        done = self._kernels.advance(
            self._plan.model, self._unaries, self._tables, self._messages, self._other, self._beliefs, self._worst,
            self._trouble, self._active, self._done, rounds, rule.flooding, rule.both_ways, rule.until_valid,
            *self._numbers, rule.maximise, self._bounds,
        )  # fmt: skip
        now = time.perf_counter()
        self._pace = (now - began) / done
        if rule.flooding and done & 1:
            self._messages, self._other = self._other, self._messages
        self._round += done * each
        self._retire(self._done, VALID if rule.until_valid else CONVERGED)
        over = self._active & (self._round - self._begun + each > rule.most)
        late = self._active & (rule.deadline is not None and now >= rule.deadline)
        if over.any() or late.any():
            self._look(True)
            self._retire(over, ITERATIONS)
            self._retire(late & ~over, TIME)

    def _look(self, always: bool) -> None:
        self._kernels.look(
            self._plan.model, self._unaries, self._messages, self._beliefs, self._trouble, self._active, self._done,
            self._bounds, always,
        )  # fmt: skip

    def _retire(self, chosen: NDArray[np.bool_], status: int) -> None:
        outcome = self._outcome
        for lane in np.flatnonzero(chosen).tolist():
            member = int(self._members[lane])
            outcome.beliefs[member] = self._beliefs[:, lane]
            outcome.status[member] = CONTRADICTION if self._trouble[lane] else status
            outcome.trouble[member] = self._trouble[lane]
            outcome.iterations[member] = self._round - self._begun[lane]
            measured = self._measured and self._round > self._begun[lane]
            outcome.residuals[member] = self._worst[lane] if measured else np.nan
            self._active[lane] = False

    def _refill(self) -> None:
        """Put the next members into the columns that are free; those that are valid at once are done at once."""
        while self._pending and not self._active.all():
            for lane in np.flatnonzero(~self._active).tolist():
                try:
                    member = self._pending.popleft()
                except IndexError:  # another thread was faster
                    break
                self._members[lane], self._begun[lane], self._trouble[lane] = member, self._round, 0
                self._active[lane] = True
                self._unaries[:, lane] = self._plan.unaries[member]
                if self._round:
                    self._messages[:, lane] = self._plan.initial
                if self._plan.tables.ndim == 2:
                    self._tables[:, lane] = self._plan.tables[member]
            if not self._rule.until_valid:
                return
            fresh = self._active & (self._begun == self._round)
            self._look(False)
            self._retire(self._done & fresh, VALID)

    def _narrow(self) -> None:
        """Give up the columns that are free, if they are half of all or more."""
        lanes = np.flatnonzero(self._active)
        width = math.ceil(len(lanes) / _STEP) * _STEP
        if not len(lanes) or 2 * width > len(self._active):
            return
        spare = np.flatnonzero(~self._active)[: width - len(lanes)]
        lanes = np.sort(np.concatenate([lanes, spare]))
        for name in ("_messages", "_unaries", "_tables"):
            source = getattr(self, name)
            if source.shape[1] > 1:
                setattr(self, name, np.take(source, lanes, axis=1))
        self._other, self._beliefs = self._spare(), np.empty_like(self._unaries)
        for name in ("_worst", "_trouble", "_active", "_done", "_members", "_begun"):
            setattr(self, name, getattr(self, name)[lanes])
