"""Schedules on many ranks: what each sends, and when they tell each other.

A schedule takes one step after the other. Its state is a few numbers, so that it can be written down and taken up
again.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

from hpcblaz.bp.rank_propagation import RankPropagation, Sent
from hpcblaz.bp.schedules import BLOCK, BLOCKS, DAMPING, FALLING, HALVED, UPDATES, Options

__all__ = ["Found", "Schedule", "schedule_on_ranks"]

_BAND = 0.1  # residuals down to this share of the largest one are sent between two exchanges
_BUDGET = 0.25  # and as many messages at most, as a share of all of a rank


class Found(NamedTuple):
    """What all ranks have found together."""

    updates: int
    left: int
    largest: float


Report = Callable[[Sent], Found]


class Schedule(ABC):
    """One step after the other.

    Parameters
    ----------
    propagation : RankPropagation
        Or what has the methods that the schedule needs.
    report : callable
        Adds up what all ranks have sent and found; called once a step.
    options : Options
    messages : int
        Of all ranks.
    variables : int
        Of all ranks.
    local_sweeps : int
        How many sweeps, or as much other work, are done between two exchanges.
    state : dict
        What was noted before.
    """

    def __init__(
        self,
        propagation: RankPropagation,
        report: Report,
        options: Options,
        messages: int,
        variables: int,
        local_sweeps: int,
        state: dict[str, Any],
    ) -> None:
        self.propagation, self.report, self.options = propagation, report, options
        self.messages, self.variables, self.local_sweeps = messages, variables, local_sweeps
        self.state: dict[str, Any] = {**self.first(), **state}

    def first(self) -> dict[str, Any]:
        """Return the state at the beginning."""
        return {}

    def begin(self) -> None:  # noqa: B027 - most schedules need none
        """Do what comes before the first step, and after a restart."""

    @abstractmethod
    def step(self) -> bool:
        """Send; return whether nothing is found that changes any more."""

    def again(self) -> None:  # noqa: B027 - most schedules need none
        """Go on after all messages were computed anew, and some were found to change."""


class _Flood(Schedule):
    def step(self) -> bool:
        updates = 0
        for _ in range(self.local_sweeps - 1):
            updates += self.propagation.flood_alone().updates
        sent = self.propagation.flood_all()
        return self.report(sent._replace(updates=updates + sent.updates)).left == 0


class _Sweep(Schedule):
    def first(self) -> dict[str, Any]:
        return {"backward": False}

    def step(self) -> bool:
        sent, _ = self.propagation.sweep_all(self.local_sweeps, self.state["backward"])
        self.state["backward"] ^= bool(self.local_sweeps & 1)  # the same on all ranks, also where one was done early
        return self.report(sent).left == 0


class _Selected(Schedule):
    """Of residuals that are up to date."""

    def first(self) -> dict[str, Any]:
        return {"before": 0, "left": None}

    def begin(self) -> None:
        sent = self.propagation.compute_all()
        if self.state["left"] is None:
            self.state["left"] = self.report(sent).left

    @abstractmethod
    def choose(self) -> Sent:
        """Send what this schedule chooses."""

    def step(self) -> bool:
        sent = self.choose()
        for _ in range(self.local_sweeps - 1):
            more = self.choose()
            sent = more._replace(updates=sent.updates + more.updates)
        self.state["before"] = self.state["left"]
        self.state["left"] = self.report(sent).left
        return bool(self.state["left"] == 0)


class _Drawn(_Selected):
    def choose(self) -> Sent:
        fell = self.state["left"] < FALLING * self.state["before"]
        return self.propagation.draw_all(self.options.high if fell else self.options.low, self.options.seed)


class _Largest(_Selected):
    def choose(self) -> Sent:
        return self.propagation.send_largest_all(max(1, round(self.options.share * self.messages)))


class _Splash(_Selected):
    def choose(self) -> Sent:
        most = max(1, round(self.options.share * self.variables))
        return self.propagation.splash_all(most, self.options.depth)


class _InOrder(Schedule):
    """Each rank in the order of its own residuals, down to a share of the largest one of all ranks."""

    by_unit = False

    def first(self) -> dict[str, Any]:
        return {"largest": None, "updates": 0}

    def begin(self) -> None:
        sent = self.propagation.compute_all()
        if self.state["largest"] is None:
            self.state["largest"] = self.report(sent).largest

    def again(self) -> None:
        self.state["largest"] = None
        self.begin()

    def step(self) -> bool:
        most = max(1, round(_BUDGET * self.local_sweeps * self.propagation.count))
        sent = self.propagation.send_in_order(most, _BAND * self.state["largest"], self.by_unit)
        found = self.report(sent)
        self.state["largest"] = found.largest
        self.state["updates"] += found.updates
        return found.left == 0


class _Auto(_InOrder):
    """Sweeps while they halve what is left, then the largest residuals first, then with damping."""

    by_unit = True

    def first(self) -> dict[str, Any]:
        progress = {"backward": False, "sweeping": True, "sweeps": 0, "lefts": [], "most": [], "damped": 0}
        return super().first() | progress

    def begin(self) -> None:
        if not self.state["sweeping"]:
            super().begin()

    def again(self) -> None:
        if not self.state["sweeping"]:
            super().again()

    def step(self) -> bool:
        return self._sweep() if self.state["sweeping"] else self._in_order()

    def _sweep(self) -> bool:
        state = self.state
        before = state["sweeps"]
        sent, _ = self.propagation.sweep_all(self.local_sweeps, state["backward"])
        state["backward"] ^= bool(self.local_sweeps & 1)
        found = self.report(sent)
        state["sweeps"] += self.local_sweeps
        if found.left and state["sweeps"] // BLOCK > before // BLOCK:
            lefts, most = state["lefts"], state["most"]
            lefts.append(found.left)
            most.append(found.largest)
            if len(lefts) >= BLOCKS and lefts[-1] > HALVED * lefts[-2] and not most[-1] <= HALVED * most[-2]:
                state["sweeping"] = False
                self.begin()
        return found.left == 0

    def _in_order(self) -> bool:
        state = self.state
        done = super().step()
        if state["updates"] >= UPDATES * self.messages and state["damped"] < len(DAMPING):
            self.propagation.damping = max(self.propagation.damping, DAMPING[state["damped"]])
            state["damped"] += 1
            state["updates"] = 0
        return done


class _Queue(_InOrder):
    by_unit = False


_SCHEDULES: dict[str, type[Schedule]] = {
    "auto": _Auto,
    "sweep": _Sweep,
    "lbp": _Flood,
    "rnbp": _Drawn,
    "rbp": _Largest,
    "splash": _Splash,
    "queue": _Queue,
}


def schedule_on_ranks(name: str, *arguments: Any) -> Schedule:
    """Return a schedule by its name; `arguments` are those of `Schedule`."""
    return _SCHEDULES[name](*arguments)
