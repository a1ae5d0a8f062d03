"""Messages of belief propagation and the order in which they are sent: drivers of the CPU.

A unit (a variable of a pairwise model, or a factor) computes the messages that it sends from those that it was told.
The templates ``binary_messages``, ``pairwise_messages`` and ``factor_messages`` say what a message is, and
``schedules`` when one is sent. No answer depends on the number of threads: they share only work whose items do not
meet.
"""

from functools import cached_property, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcblaz.backend.compile import kernel
from hpcblaz.backend.message_plans import Graph, Integers, Plan, arrange_factors, arrange_pairs, beliefs, free_energy
from hpcblaz.backend.threads import map_ranges, run, thread_count

__all__ = ["Graph", "Plan", "Propagation", "Queue", "arrange_factors", "arrange_pairs", "beliefs", "free_energy"]

_MESSAGES_A_THREAD = 1 << 16  # fewer are not worth another thread that has to be called
_MESSAGES_A_PART = 1 << 13  # nor fewer another part of what threads do together without being called again
_PARTS_A_THREAD = 4
_SHARE_LISTED = 4  # one unit in so many is recomputed: all of them, in vectors, take no longer


class Propagation:
    """The messages of a plan, and what would replace them.

    Parameters
    ----------
    plan : Plan
    messages : numpy.ndarray of the plan's precision, shape (plan.places[-1],)
        What to begin with; it is written to.
    maximise : bool
        Largest products instead of their sums.
    damping : float
        How much of the old message stays.
    tolerance : float
        Residuals up to it are none.

    Attributes
    ----------
    messages : numpy.ndarray
        The messages that were sent.
    """

    def __init__(self, plan: Plan, messages: NDArray[Any], maximise: bool, damping: float, tolerance: float) -> None:
        real = np.dtype(plan.precision).type
        self.plan = plan
        self.messages = messages
        self._kernels = kernel("schedules", (1, 1, 1, 1), "identity", plan.precision, plan.family)
        self._damping, self._none, self._tolerance = real(damping), real(0), real(tolerance)
        self._rule = (bool(maximise), plan.room)
        self._stamp = 0
        self._nothing = np.empty(0, plan.precision)  # in place of what is not to be kept

    def afresh(self, messages: NDArray[Any]) -> "Propagation":
        """Return other messages under the same rules, without damping."""
        return Propagation(self.plan, messages, self.maximise, 0.0, self.tolerance)

    @cached_property
    def fresh(self) -> NDArray[Any]:
        """The messages that would be sent now, of the shape of `messages`, after `compute`.

        What `flood` and `sweep` do leaves them behind.
        """
        return np.empty_like(self.messages)

    @cached_property
    def residuals(self) -> NDArray[Any]:
        """How far each message is from the fresh one: the Euclidean norm of the difference of normalised vectors."""
        return np.full(self.count, np.inf, self.plan.precision)

    @cached_property
    def cavities(self) -> NDArray[Any]:
        """What variables tell factors, a place for each message back; empty if the units are variables."""
        return np.empty_like(self.messages) if self.plan.family == "factors" else self._nothing

    @property
    def maximise(self) -> bool:
        """Largest products instead of their sums."""
        return self._rule[0]

    @property
    def tolerance(self) -> float:
        """Residuals up to it are none."""
        return float(self._tolerance)

    @property
    def damping(self) -> float:
        """How much of the old message stays."""
        return float(self._damping)

    @damping.setter
    def damping(self, value: float) -> None:
        self._damping = type(self._damping)(value)

    @property
    def count(self) -> int:
        """Number of messages."""
        return len(self.plan.numbers)

    @property
    def trouble(self) -> int | None:
        """A unit (of factors: a variable) whose states are all impossible, if one was met."""
        found = 0 if self.plan.family == "binary" else int(self.plan.model[-1][0])
        return found - 1 if found else None

    def compute(self) -> None:
        """Compute all fresh messages and residuals, on all threads."""
        self._all_at_once(1, self.fresh, self.residuals, self._none)

    def measure(self) -> tuple[int, float]:
        """Return how many residuals are above the tolerance, and the largest (NaN if there is one)."""
        bits = self.residuals.view(np.int32 if self.plan.precision == "float32" else np.int64)

        def work(start: int, stop: int) -> tuple[int, int]:
            found: tuple[int, int] = self._kernels.measure(self.residuals, bits, start, stop, self._tolerance)
            return found

        parts = map_ranges(work, self.count, _MESSAGES_A_THREAD)
        largest = np.array([max((int(most) for _, most in parts), default=0)], bits.dtype)
        return sum(int(left) for left, _ in parts), float(largest.view(self.residuals.dtype)[0])

    def measure_anew(self) -> tuple[int, float]:
        """Return what `measure` does, of residuals that are computed from the messages as they are.

        They are kept if others were: a schedule that needs none does without their memory.
        """
        if "residuals" in self.__dict__:
            self.compute()
            return self.measure()
        _, left, largest = self._all_at_once(1, self._nothing, self._nothing, self._none)
        return int(left[0]), float(largest[0])

    def flood(self, rounds: int) -> tuple[int, Integers, NDArray[np.float64]]:
        """Send all messages at once, up to so many times; return how often, and each time's measures."""
        fresh = self.fresh
        done, left, largest = self._all_at_once(rounds, fresh, self._nothing, self._damping)
        if done & 1:
            self.messages, self.fresh = fresh, self.messages
        return done, left, largest

    def sweep(self, sweeps: int, backward: bool) -> tuple[int, Integers, NDArray[np.float64]]:
        """Send messages level by level, up to so many times, forward and backward in turn.

        Return how often, and the measures of each time, taken as messages were sent.
        """
        left, largest = np.empty(sweeps, np.int64), np.empty(sweeps)
        done = self._kernels.sweep(
            self.plan.model, self.plan.levels, int(backward), self.cavities, self.messages, self._nothing,
            self._tolerance, self._damping, *self._rule, left, largest,
        )  # fmt: skip
        return done, left[:done], largest[:done]

    def send_drawn(self, share: float, seed: int) -> int:
        """Send each message above the tolerance with some probability; compute what follows; return how many."""
        least = np.uint64(min(2**63, max(0, round((1.0 - share) * 2.0**63))))
        sent, count = self._kernels.send_drawn(
            self.plan.model, self.plan.graph, np.uint64(seed), np.uint64(self._next()), self.plan.numbers, least,
            self.messages, self.fresh, self.residuals, self._damping, self._tolerance, self._heard, self._marked,
        )  # fmt: skip
        self._recompute(int(count))
        return int(sent)

    def send_largest(self, most: int) -> int:
        """Send the messages of the largest residuals, those above the tolerance; compute what follows."""
        most = min(most, self.count)
        listed = np.argpartition(-self.residuals, most - 1)[:most]
        listed.sort()
        sent, count = self._kernels.send_listed(
            self.plan.model, self.plan.graph, self._next(), listed, self.messages, self.fresh, self.residuals,
            self._damping, self._tolerance, self._heard, self._marked,
        )  # fmt: skip
        self._recompute(int(count))
        return int(sent)

    def splash(self, most: int, depth: int) -> int:
        """Send all messages around the variables with the largest residuals, as trees; compute what follows."""
        graph = self.plan.graph
        keys = np.empty(len(graph.listener_offsets) - 1, self.residuals.dtype)
        self._kernels.variable_keys(graph, self.residuals, keys)
        most = min(most, len(keys))
        roots = np.argpartition(-keys, most - 1)[:most]
        roots.sort()
        roots = roots[~(keys[roots] <= self._tolerance)]
        sent, count = self._kernels.splash(
            self.plan.model, graph, self._next(), roots, depth, self.messages, self.residuals, self._tolerance,
            self._damping, *self._rule, self._trees, self._heard, self._tree, self._marked,
        )  # fmt: skip
        self._recompute(int(count))
        return int(sent)

    @cached_property
    def _heard(self) -> NDArray[np.uint32]:
        """The stamp of the last step in which each unit was told something, 0 if there was none."""
        return np.zeros(self.plan.units, np.uint32)

    @cached_property
    def _trees(self) -> Integers:
        """The stamp of the last tree that each unit was in."""
        return np.full(self.plan.units, -1, np.int64)

    @cached_property
    def _tree(self) -> NDArray[np.uint32]:
        """Room for the units of a tree."""
        return np.empty(self.plan.units, np.uint32)

    @cached_property
    def _marked(self) -> NDArray[np.uint32]:
        """Room for the units that have to compute again."""
        return np.empty(self.plan.units, np.uint32)

    def _next(self) -> int:
        self._stamp += 1
        return self._stamp

    def _recompute(self, count: int) -> None:
        """Compute again what the marked units send."""
        if count * _SHARE_LISTED > self.plan.units:
            self.compute()
            return

        def work(start: int, stop: int) -> None:
            self._kernels.compute_listed(
                self.plan.model, self._marked, start, stop, self.messages, self.fresh, self.residuals, self._tolerance,
                *self._rule,
            )  # fmt: skip

        each = len(self.messages) // max(1, self.plan.units) + 1
        map_ranges(work, count, max(1, _MESSAGES_A_THREAD // each))

    def _all_at_once(
        self, rounds: int, out: NDArray[Any], residuals: NDArray[Any], damping: Any
    ) -> tuple[int, Integers, NDArray[np.float64]]:
        """Compute all messages, so many times, on all threads; return how often, and each time's measures."""
        plan, workers = self.plan, thread_count()
        parts = max(1, min(_PARTS_A_THREAD * workers, len(self.messages) // _MESSAGES_A_PART)) if workers > 1 else 1
        shares = np.arange(parts + 1)
        units = plan.units * shares // parts
        variables = (len(plan.graph.listener_offsets) - 1) * shares // parts
        counters = np.zeros(2, np.int64)
        above, largest = np.zeros((rounds, parts), np.int64), np.zeros((rounds, parts))
        work = partial(
            self._kernels.flood, plan.model, counters, units, variables, above, largest, self.cavities, self.messages,
            out, residuals, self._tolerance, damping, *self._rule,
        )  # fmt: skip
        done = run([work] * min(workers, parts))[0]
        return done, above[:done].sum(axis=1), largest[:done].max(axis=1, initial=0.0)


class Queue:
    """The messages, or the units, of a propagation in the order of their residuals.

    Parameters
    ----------
    propagation : Propagation
        Its fresh messages are up to date, and stay so.
    by_unit : bool
        A unit sends at a time all of its messages that change; otherwise one message is sent at a time.
    """

    def __init__(self, propagation: Propagation, by_unit: bool) -> None:
        self._propagation = propagation
        self._by_unit = by_unit
        count = propagation.plan.units if by_unit else propagation.count
        self._heap, self._place = np.empty((2, count), np.int32)
        self._keys = np.empty(count, propagation.residuals.dtype)
        kernels = propagation._kernels
        if by_unit:
            kernels.build_unit_heap(propagation.plan.graph, self._heap, self._place, self._keys, propagation.residuals)
        else:
            kernels.build_heap(self._heap, self._place, self._keys, propagation.residuals)

    def send(self, most: int) -> int:
        """Send so many messages (by units: or a few more), or as many as are above the tolerance; return how many."""
        if not len(self._heap):
            return 0
        p = self._propagation
        loop = p._kernels.unit_queue if self._by_unit else p._kernels.queue
        return int(
            loop(
                p.plan.model,
                p.plan.graph,
                most,
                self._heap,
                self._place,
                self._keys,
                p.cavities,
                p.messages,
                p.fresh,
                p.residuals,
                p._damping,
                *p._rule,
                p._tolerance,
            )
        )
