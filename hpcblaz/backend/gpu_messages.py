"""Messages of belief propagation on a GPU: what :mod:`hpcblaz.backend.messages` does, a unit a thread.

Messages, what would replace them, and the arrays of the plan stay on the card. What is counted on the way is kept in a
small table there (see the template ``message_tally``), and is fetched once for all times that messages were sent in one
call. Every operation is rounded as on the CPU, and random choices are drawn from the same counter, so that both send
the same messages, but for rounding where one of them adds in another order.
"""

import copy
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcblaz.backend import gpu
from hpcblaz.backend.compile import cuda_kernel
from hpcblaz.backend.gpu_launch import SIMULATED, launch
from hpcblaz.backend.message_plans import Integers, Plan
from hpcblaz.bodies.records import TILE

_WAVES = 32  # tiles of threads for each multiprocessor
_AT_ONCE = 2  # of them that surely run at the same time, whatever registers they need
_QUEUED = 4 if SIMULATED else 16  # times that all messages are sent, at most, before the host looks
_DIGIT = 8  # bits of a key that are looked at at a time


class GpuPropagation:
    """The messages of a plan, and what would replace them, on the current card.

    It does what :class:`hpcblaz.backend.messages.Propagation` does, with arrays of CuPy. One message at a time has
    no place here: queues are for the CPU.

    Parameters
    ----------
    plan : Plan
        Arrays of the host.
    messages : numpy.ndarray of the plan's precision, shape (plan.places[-1],)
        What to begin with.
    maximise : bool
        Largest products instead of their sums.
    damping : float
        How much of the old message stays.
    tolerance : float
        Residuals up to it are none.

    Attributes
    ----------
    messages : cupy.ndarray
        The messages that were sent.

    Raises
    ------
    MissingDependencyError, DeviceError
        If there is no card, or what drives it is not installed.
    """

    def __init__(self, plan: Plan, messages: NDArray[Any], maximise: bool, damping: float, tolerance: float) -> None:
        xp = gpu.array_module()
        self.plan = plan
        self._real = np.dtype(plan.precision).type
        self._kernels = cuda_kernel("message_schedules", (1, 1, 1, 1), "identity", plan.precision, plan.family, True)
        self._model = (*(xp.asarray(array) for array in _without_trouble(plan)), *_scratch(plan, xp))
        self._graph = tuple(xp.asarray(array) for array in plan.graph)
        self._levels, self._numbers = xp.asarray(plan.levels), xp.asarray(plan.numbers)
        self._widest = int(np.diff(plan.levels).max(initial=0))
        self._processors = 1 if SIMULATED else int(xp.cuda.Device().attributes["MultiProcessorCount"])
        self._stamps = xp.full(plan.units, -1, np.int32)
        self._heard = xp.empty(plan.units, np.int64)
        self._depths: Any = None
        self._tolerance, self._none = self._real(tolerance), self._real(0)
        self.maximise = bool(maximise)
        self.damping = damping
        self._begin(messages)

    def afresh(self, messages: NDArray[Any]) -> "GpuPropagation":
        """Return other messages under the same rules, without damping."""
        other = copy.copy(self)
        other.damping = 0.0
        other._begin(messages)
        return other

    def _begin(self, messages: NDArray[Any]) -> None:
        xp = gpu.array_module()
        self.messages = xp.array(messages)
        self._fresh: Any = None
        self._residuals: Any = None
        self._nothing = xp.empty(0, self._real)  # in place of what is not to be kept
        self._stamps[...] = -1
        self._stamp = 0
        self._trouble = 0
        self._unread: Any = None  # a tally on the card whose measures are those of the residuals
        self._measured: tuple[int, float] | None = None

    @property
    def fresh(self) -> Any:
        """The messages that would be sent now, after `compute`; `flood` and `sweep` leave them behind."""
        if self._fresh is None:
            self._fresh = gpu.array_module().empty_like(self.messages)
        return self._fresh

    @property
    def residuals(self) -> Any:
        """How far each message is from the fresh one, likewise."""
        if self._residuals is None:
            self._residuals = gpu.array_module().full(self.count, np.inf, self._real)
        return self._residuals

    @property
    def count(self) -> int:
        """Number of messages."""
        return len(self.plan.numbers)

    @property
    def tolerance(self) -> float:
        """Residuals up to it are none."""
        return float(self._tolerance)

    @property
    def trouble(self) -> int | None:
        """A unit (of factors: a variable) whose states are all impossible, if one was met."""
        if self._unread is not None:
            self.measure()
        return self._trouble - 1 if self._trouble else None

    def compute(self) -> None:
        """Compute all fresh messages and residuals."""
        self._unread, self._measured = self._tally(1), None
        self._compute(False, self.fresh, self.residuals, self._none, self._unread, self._kernels.FIRST)

    def measure(self) -> tuple[int, float]:
        """Return how many residuals are above the tolerance, and the largest (NaN if there is one)."""
        if self._measured is None:
            if self._unread is None:
                self._unread = self._tally(1)
                self._measure(self._unread, self._kernels.FIRST)
            self._read(self._unread, 1)
        found: tuple[int, float] = self._measured or (0, 0.0)
        return found

    def measure_anew(self) -> tuple[int, float]:
        """Return what `measure` does, of residuals that are computed from the messages as they are."""
        if self._residuals is not None:
            self.compute()
        else:
            self._unread, self._measured = self._tally(1), None
            self._compute(False, self._nothing, self._nothing, self._none, self._unread, self._kernels.FIRST)
        return self.measure()

    def flood(self, rounds: int) -> tuple[int, Integers, NDArray[np.float64]]:
        """Send all messages at once, up to so many times; return how often, and each time's measures.

        It comes back after 16 times, whether all have converged or not.
        """
        rounds = min(rounds, _QUEUED)
        tally = self._tally(rounds)
        here, there = self.messages, self.fresh
        for i in range(rounds):
            self.messages = here
            self._compute(False, there, self._nothing, self._real(self.damping), tally, self._kernels.FIRST + i)
            here, there = there, here
        done, left, largest, _ = self._read(tally, rounds)
        self.messages, self._fresh = (here, there) if (rounds - done) % 2 == 0 else (there, here)
        return done, left, largest

    def sweep(self, sweeps: int, backward: bool) -> tuple[int, Integers, NDArray[np.float64]]:
        """Send messages level by level, up to so many times, forward and backward in turn, all in one kernel.

        Return how often, 16 times at most, and the measures of each time, taken as messages were sent.
        """
        sweeps = min(sweeps, _QUEUED)
        tally = self._tally(sweeps)
        arguments = (
            self._model, self._levels, np.int64(sweeps), np.int64(backward), self.messages, self._nothing,
            self._real(self.damping), np.int64(self.maximise), self._tolerance, tally,
            gpu.zeros(1, np.dtype(np.int64)),
        )  # fmt: skip
        self._launch("sweep", arguments, min(self._widest, TILE * _AT_ONCE * self._processors), True)
        done, left, largest, _ = self._read(tally, sweeps)
        return done, left, largest

    def send_drawn(self, share: float, seed: int) -> int:
        """Send each message above the tolerance with some probability; compute what follows; return how many."""
        return int(self.send_drawn_often(1, share, share, seed, 1, 1)[1].sum())

    def send_drawn_often(
        self, rounds: int, low: float, high: float, seed: int, before: int, left: int
    ) -> tuple[int, Integers, Integers, NDArray[np.float64]]:
        """Do several times what `send_drawn` does, until none is above the tolerance.

        Parameters
        ----------
        rounds : int
            Up to so many times, and up to 16.
        low, high : float
            The share where the number of residuals above the tolerance did not fall by a tenth the time before, and
            where it did.
        seed : int
            Of the draws.
        before, left : int
            What that number was before, and is now.

        Returns
        -------
        done : int
            How often.
        sent, left : numpy.ndarray of int64, shape (done,)
            How many messages each time, and how many residuals were above the tolerance after it.
        largest : numpy.ndarray of float64, shape (done,)
            The largest residual after it.
        """
        rounds = min(rounds, _QUEUED)
        tally = self._tally(rounds, before, left)
        least, least_falling = (np.uint64(min(2**63, max(0, round((1.0 - x) * 2.0**63)))) for x in (low, high))
        for i in range(rounds):
            stamp, column = np.int32(self._stamp + 1 + i), self._kernels.FIRST + i
            arguments = (
                self._model, self._graph, np.uint64(seed), stamp, self._numbers, least, least_falling, self.messages,
                self.fresh, self.residuals, self._real(self.damping), self._tolerance, self._stamps, tally,
                np.int64(column),
            )  # fmt: skip
            self._launch("send_drawn", arguments, self.count)
            self._follow(stamp, tally, column)
        done, now, largest, sent = self._read(tally, rounds)
        self._stamp += done
        return done, sent, now, largest

    def send_largest(self, most: int) -> int:
        """Send the messages of the largest residuals, those above the tolerance; compute what follows.

        Of equal residuals, those of the first messages count as larger.
        """
        chosen = self._choose(self.residuals, most)
        tally = self._tally(1)
        self._stamp += 1
        stamp, column = np.int32(self._stamp), self._kernels.FIRST
        arguments = (
            self._model, self._graph, stamp, chosen, self.messages, self.fresh, self.residuals,
            self._real(self.damping), self._tolerance, self._stamps, tally, np.int64(column),
        )  # fmt: skip
        self._launch("send_chosen", arguments, self.count)
        self._follow(stamp, tally, column)
        return int(self._read(tally, 1)[3].sum())

    def splash(self, most: int, depth: int) -> int:
        """Send all messages around the variables with the largest residuals; compute what follows; return how many.

        Units send in the order of their distance from the nearest of these variables, the farthest first, up to
        `depth`, and then back; those of one distance send at the same time. So the order is not that of the CPU, which
        takes one tree after the other, but it is the same in every run.
        """
        xp = gpu.array_module()
        if self._depths is None:
            self._depths = xp.empty(self.plan.units, np.int32)
        keys = gpu.zeros(len(self.plan.graph.listener_offsets) - 1, np.dtype(f"i{np.dtype(self._real).itemsize}"))
        self._launch("variable_keys", (self._graph[1], self.residuals, keys), self.count)
        keys = keys.view(self._real)
        chosen = self._choose(keys, most)
        tally = self._tally(1)
        self._stamp += 1
        stamp, column = np.int32(self._stamp), self._kernels.FIRST
        arguments = (
            self._model, self._graph, stamp, chosen, keys, np.int64(depth), self.messages, self.fresh, self._nothing,
            self._real(self.damping), np.int64(self.maximise), self._tolerance, self._depths, self._stamps, tally,
            np.int64(column), gpu.zeros(2, np.dtype(np.int64)),
        )  # fmt: skip
        self._launch("splash", arguments, min(self.plan.units, TILE * _AT_ONCE * self._processors), True)
        self._follow(stamp, tally, column)
        return int(self._read(tally, 1)[3].sum())

    def gather(self, values: Any, entries: Any, packed: Any) -> None:
        """Pack entries of an array, by their numbers (int64), into another one."""
        self._launch("gather", (values, entries, packed), len(entries))

    def take_in(self, arrived: Any, first: int, slots: Any, hearers: tuple[Any, Any], stamp: np.int32) -> None:
        """Put what others tell behind the first entries of the messages, and stamp the units that hear a change.

        Entry i is of the message slots[i] among them, whose units `hearers` has as offsets and numbers (all int64).
        """
        arguments = (arrived, np.int64(first), slots, *hearers, stamp, self.messages, self._stamps)
        self._launch("take_in", arguments, len(arrived))

    def _choose(self, keys: Any, most: int) -> Any:
        """Return what the kernels take as the least of so many largest keys."""
        count = len(keys)
        chosen = gpu.array_module().asarray(np.array([0, 0, min(most, count)], np.int64))
        histogram = gpu.zeros(1 << _DIGIT, np.dtype(np.int64))
        widths = (8 * keys.dtype.itemsize, -(-count.bit_length() // _DIGIT) * _DIGIT)
        for by_number, width in enumerate(widths):
            for shift in range(width - _DIGIT, -1, -_DIGIT):
                digit = (np.int64(by_number), np.int64(shift), chosen, histogram)
                self._launch("count_digits", (keys, *digit), count)
                self._launch("choose_digit", digit, 1)
        return chosen

    def _compute(self, listed: bool, out: Any, residuals: Any, damping: Any, tally: Any, column: int) -> None:
        arguments = (
            self._model, np.int64(listed), self._heard, self.messages, out, residuals, damping,
            np.int64(self.maximise), self._tolerance, tally, np.int64(column),
        )  # fmt: skip
        self._launch("compute", arguments, self.plan.units)

    def _compute_listed(self, units: Any, tally: Any) -> None:
        """Compute what some units would send, undamped; the tally says how many units."""
        arguments = (
            self._model, np.int64(1), units, self.messages, self.fresh, self._nothing, self._none,
            np.int64(self.maximise), self._tolerance, tally, np.int64(self._kernels.FIRST),
        )  # fmt: skip
        self._launch("compute", arguments, self.plan.units)

    def _measure(self, tally: Any, column: int) -> None:
        self._launch("measure", (self.residuals, self._tolerance, tally, np.int64(column)), self.count)

    def _follow(self, stamp: np.int32, tally: Any, column: int) -> None:
        """Compute again what units with a stamp send, and measure."""
        arguments = (self._stamps, stamp, self._heard, tally, np.int64(column))
        self._launch("list_heard", arguments, -(-self.plan.units // self._kernels.EACH))
        self._compute(True, self.fresh, self.residuals, self._none, tally, column)
        self._measure(tally, column)

    def _tally(self, rounds: int, before: int = 1, left: int = 1) -> Any:
        """Return an empty tally on the card."""
        kernels = self._kernels
        tally = np.zeros((kernels.TROUBLE + 1, kernels.FIRST + rounds), np.int64)
        tally[kernels.LEFT, : kernels.FIRST] = before, left
        tally[kernels.TROUBLE, 0] = self._trouble
        return gpu.array_module().asarray(tally)

    def _read(self, tally: Any, rounds: int) -> tuple[int, Integers, NDArray[np.float64], Integers]:
        """Return how often messages were sent, and each time's measures and numbers of them, once they are there."""
        kernels = self._kernels
        found = gpu.asnumpy(tally)
        self._trouble = int(found[kernels.TROUBLE, 0])
        times = found[:, kernels.FIRST :]
        none = np.flatnonzero(times[kernels.LEFT] == 0)
        done = int(none[0]) + 1 if none.size else rounds
        bits = times[kernels.LARGEST, :done].astype(np.int32 if self._real is np.float32 else np.int64)
        left, largest = times[kernels.LEFT, :done].copy(), bits.view(self._real).astype(np.float64)
        self._unread, self._measured = None, (int(left[-1]), float(largest[-1]))
        return done, left, largest, times[kernels.SENT, :done].copy()

    def _launch(self, name: str, arguments: tuple[Any, ...], items: int, together: bool = False) -> None:
        """Queue a kernel, about a thread for each of some items; `together`: all of its threads run at a time."""
        most = 1 if SIMULATED and together else _WAVES * self._processors
        tiles = max(1, min(-(-items // TILE), most))
        launch(gpu.array_module(), getattr(self._kernels, name), arguments, tiles, 0, together and tiles > 1)


def _without_trouble(plan: Plan) -> tuple[NDArray[Any], ...]:
    """Return the arrays of a model that kernels take: trouble is noted in tallies."""
    return plan.model if plan.family == "binary" else plan.model[:-1]


def _scratch(plan: Plan, xp: Any) -> tuple[Any, ...]:
    """Return what the units of a model work on; see the templates ``pairwise_messages`` and ``factor_messages``."""
    if plan.family == "binary":
        return ()
    size, count, real = int(plan.places[-1]), len(plan.numbers), np.dtype(plan.precision)
    if plan.family == "pairwise":
        return xp.empty(size, real), xp.empty(len(plan.model[4]), real), xp.empty(size, real)
    return xp.empty(size, real), xp.empty(size, real), xp.empty(count, real), xp.empty(count, np.int32)
