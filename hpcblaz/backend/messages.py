"""Messages of belief propagation and the order in which they are sent: drivers of the CPU.

A unit (a variable of a pairwise model, or a factor) computes the messages that it sends from those that it was told.
The templates ``binary_messages``, ``pairwise_messages`` and ``factor_messages`` say what a message is, and
``schedules`` when one is sent. No answer depends on the number of threads: they share only work whose items do not
meet.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpcblaz.backend.compile import kernel
from hpcblaz.backend.threads import map_ranges

_MESSAGES_A_THREAD = 1 << 16  # fewer are not worth another thread
_SHARE_LISTED = 4  # one unit in so many is recomputed: all of them, in vectors, take no longer

Integers = NDArray[np.int64]


class Graph(NamedTuple):
    """Who sends and who listens.

    Unit u sends messages offsets[u] to offsets[u + 1]; message k tells variables[k]; the units that hear what variable
    v is told are listeners[listener_offsets[v]] and on.
    """

    offsets: Integers
    variables: NDArray[np.uint32]
    listener_offsets: Integers
    listeners: Integers


@dataclass(frozen=True, eq=False)
class Plan:
    """What is computed: arrays of a model, in the order of its units.

    Parameters
    ----------
    family : {'binary', 'pairwise', 'factors'}
    precision : {'float32', 'float64'}
        Float64 unless `family` is binary.
    model : tuple of numpy.ndarray
        As the template of the family has it.
    graph : Graph
    levels : numpy.ndarray of int64
        Where the units of each level begin, and where the last one ends. Those of one level are no neighbours.
    numbers : numpy.ndarray of int64
        The number that each message has in the model, whatever the order.
    places : numpy.ndarray of int64
        Where each message begins, and where the last one ends.
    room : int
        The most numbers that a unit works on.
    """

    family: str
    precision: str
    model: tuple[NDArray[Any], ...]
    graph: Graph
    levels: Integers
    numbers: Integers
    places: Integers
    room: int

    @property
    def units(self) -> int:
        """Number of units."""
        return len(self.graph.offsets) - 1


def arrange_pairs(edges: Integers, variables: int) -> tuple[Any, ...]:
    """Return the order of variables and messages; see the template ``arrangement``."""
    return tuple(_arrangement().arrange_pairs(edges, variables))


def arrange_factors(factor_offsets: Integers, scopes: Integers, variables: int) -> tuple[Any, ...]:
    """Return the order of factors and messages; see the template ``arrangement``."""
    return tuple(_arrangement().arrange_factors(factor_offsets, scopes, variables))


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
    messages, fresh : numpy.ndarray
        The messages that were sent, and those that would be sent now. What `flood` and `sweep` do leaves the fresh ones
        behind; `compute` brings them up to date.
    residuals : numpy.ndarray, shape (messages,)
        How far a message is from the fresh one: the Euclidean norm of the difference of normalised vectors.
    """

    def __init__(self, plan: Plan, messages: NDArray[Any], maximise: bool, damping: float, tolerance: float) -> None:
        real = np.dtype(plan.precision).type
        self.plan = plan
        self.messages = messages
        self.fresh = np.empty_like(messages)
        count = len(plan.numbers)
        self.residuals = np.full(count, np.inf, real)
        self._bits = self.residuals.view(np.int32 if plan.precision == "float32" else np.int64)
        self._kernels = kernel("schedules", (1, 1, 1, 1), "identity", plan.precision, plan.family)
        self._damping, self._none, self._tolerance = real(damping), real(0), real(tolerance)
        self._rule = (bool(maximise), plan.room)
        self._stamps = np.full((2, plan.units), -1, np.int64)
        self._stamp = 0
        self._marked = np.empty(plan.units, np.int64)

    def afresh(self, messages: NDArray[Any]) -> "Propagation":
        """Return other messages under the same rules, without damping."""
        return Propagation(self.plan, messages, self.maximise, 0.0, float(self._tolerance))

    @property
    def maximise(self) -> bool:
        """Largest products instead of their sums."""
        return self._rule[0]

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
        return len(self.residuals)

    @property
    def trouble(self) -> int | None:
        """A unit (of factors: a variable) whose states are all impossible, if one was met."""
        found = 0 if self.plan.family == "binary" else int(self.plan.model[-1][0])
        return found - 1 if found else None

    def compute(self) -> None:
        """Compute all fresh messages and residuals, on all threads."""

        def work(start: int, stop: int) -> None:
            self._kernels.compute(
                self.plan.model, start, stop, self.messages, self.fresh, self.residuals, self._none, *self._rule
            )

        units = self.plan.units
        map_ranges(work, units, max(1, _MESSAGES_A_THREAD * units // max(1, len(self.messages))))

    def measure(self) -> tuple[int, float]:
        """Return how many residuals are above the tolerance, and the largest (NaN if there is one)."""

        def work(start: int, stop: int) -> tuple[int, int]:
            found: tuple[int, int] = self._kernels.measure(self.residuals, self._bits, start, stop, self._tolerance)
            return found

        parts = map_ranges(work, self.count, _MESSAGES_A_THREAD)
        return sum(int(left) for left, _ in parts), self._largest(max((int(bits) for _, bits in parts), default=0))

    def flood(self, rounds: int) -> tuple[int, Integers, NDArray[np.float64]]:
        """Send all messages at once, up to so many times; return how often, and each time's measures."""
        if len(self.messages) >= 2 * _MESSAGES_A_THREAD:
            return self._flood_on_threads(rounds)
        left, bits = np.empty(rounds, np.int64), np.empty(rounds, self._bits.dtype)
        maximise, room = self._rule
        done = self._kernels.flood(
            self.plan.model, rounds, self.messages, self.fresh, self.residuals, self._bits, self._damping, maximise,
            room, self._tolerance, left, bits,
        )  # fmt: skip
        if done & 1:
            self.messages, self.fresh = self.fresh, self.messages
        return done, left[:done], self._all_largest(bits[:done])

    def sweep(self, sweeps: int, backward: bool) -> tuple[int, Integers, NDArray[np.float64]]:
        """Send messages level by level, up to so many times, forward and backward in turn.

        Return how often, and the measures of each time, taken as messages were sent.
        """
        left, bits = np.empty(sweeps, np.int64), np.empty(sweeps, self._bits.dtype)
        maximise, room = self._rule
        done = self._kernels.sweep(
            self.plan.model, self.plan.levels, sweeps, int(backward), self.messages, self.residuals, self._bits,
            self._damping, maximise, room, self._tolerance, left, bits,
        )  # fmt: skip
        return done, left[:done], self._all_largest(bits[:done])

    def send_drawn(self, share: float, seed: int) -> int:
        """Send each message above the tolerance with some probability; compute what follows; return how many."""
        least = np.uint64(min(2**63, max(0, round((1.0 - share) * 2.0**63))))
        sent, count = self._kernels.send_drawn(
            self.plan.model, self.plan.graph, np.uint64(seed), np.uint64(self._next()), self.plan.numbers, least,
            self.messages, self.fresh, self.residuals, self._damping, self._tolerance, self._stamps[0], self._marked,
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
            self._damping, self._tolerance, self._stamps[0], self._marked,
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
        tree = np.empty(self.plan.units, np.int64)
        sent, count = self._kernels.splash(
            self.plan.model, graph, self._next(), roots, depth, self.messages, self.residuals, self._damping,
            *self._rule, self._stamps, tree, self._marked,
        )  # fmt: skip
        self._recompute(int(count))
        return int(sent)

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
                self.plan.model, self._marked, start, stop, self.messages, self.fresh, self.residuals, self._none,
                *self._rule,
            )  # fmt: skip

        each = len(self.messages) // max(1, self.plan.units) + 1
        map_ranges(work, count, max(1, _MESSAGES_A_THREAD // each))

    def _flood_on_threads(self, rounds: int) -> tuple[int, Integers, NDArray[np.float64]]:
        left, largest = np.empty(rounds, np.int64), np.empty(rounds)
        units = self.plan.units
        for i in range(rounds):

            def work(start: int, stop: int) -> tuple[int, int]:
                self._kernels.compute(
                    self.plan.model, start, stop, self.messages, self.fresh, self.residuals, self._damping, *self._rule
                )
                offsets = self.plan.graph.offsets
                first, last = int(offsets[start]), int(offsets[stop])
                found: tuple[int, int] = self._kernels.measure(self.residuals, self._bits, first, last, self._tolerance)
                return found

            parts = map_ranges(work, units, max(1, _MESSAGES_A_THREAD * units // len(self.messages)))
            self.messages, self.fresh = self.fresh, self.messages
            left[i] = sum(int(part) for part, _ in parts)
            largest[i] = self._largest(max(int(bits) for _, bits in parts))
            if left[i] == 0:
                return i + 1, left[: i + 1], largest[: i + 1]
        return rounds, left, largest

    def _largest(self, bits: int) -> float:
        return float(np.array([bits], self._bits.dtype).view(self.residuals.dtype)[0])

    def _all_largest(self, bits: NDArray[Any]) -> NDArray[np.float64]:
        return bits.view(self.residuals.dtype).astype(np.float64)


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
                p.messages,
                p.fresh,
                p.residuals,
                p._damping,
                *p._rule,
                p._tolerance,
            )
        )


def beliefs(plan: Plan, messages: NDArray[Any], states: int, variables: int) -> tuple[Any, Any]:
    """Return the normalised beliefs of all variables, one after the other, and the logs of what they were divided by.

    Of a plan that is not binary; units of a pairwise plan are its variables.
    """
    out, logs = np.empty(states), np.empty(variables)
    kernel(_MODULES[plan.family], (1, 1, 1, 1), "identity", plan.precision, plan.family).beliefs(
        plan.model, messages, out, logs
    )
    return out, logs


def free_energy(plan: Plan, messages: NDArray[Any]) -> float:
    """Return the sum of the logs of what the beliefs of all edges, or of all factors, would be divided by."""
    kernels = kernel(_MODULES[plan.family], (1, 1, 1, 1), "identity", plan.precision, plan.family)
    if plan.family == "factors":
        return float(kernels.free_energy(plan.model, messages, plan.room))
    cavities, logs = np.empty_like(messages), np.empty(len(plan.numbers))
    return float(kernels.free_energy(plan.model, messages, cavities, logs, plan.room))


_MODULES = {"pairwise": "pairwise_messages", "factors": "factor_messages"}


def _arrangement() -> Any:
    return kernel("arrangement", (1, 1, 1, 1), "identity", "float64", "binary")
