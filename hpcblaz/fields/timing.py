"""Rows of a benchmark, and times that are fair to both sides."""

import importlib
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Literal

from hpcblaz.backend.threads import threads

_SHORTEST = 2e-4  # seconds; what takes less is called several times in a row

Call = Callable[[], Any]


@dataclass(frozen=True)
class Row:
    """One quantity of this package and of a peer.

    Parameters
    ----------
    topic : str
        What the row belongs to.
    case : str
        The field, and the tolerance as a fraction of its range.
    quantity, unit : str
        What was measured.
    ours : float
        The number of this package.
    peer : str
        What it is compared with: another package, or the limit that the project set itself.
    theirs : float
        The number of the peer.
    ratio : float
        Ours over theirs for sizes, errors and rates; theirs over ours for times, that is, how many times faster.
    better : {'lower', 'higher'}
        Which way the ratio is better.
    target : float, optional
        What the project wants the ratio to be, or better.
    aim : float, optional
        What it would like.
    threads : int
        That both sides may use.
    note : str
        How it was measured, where that is not clear.
    """

    topic: str
    case: str
    quantity: str
    unit: str
    ours: float
    peer: str
    theirs: float
    ratio: float
    better: Literal["lower", "higher"]
    target: float | None = None
    aim: float | None = None
    threads: int = 1
    note: str = ""

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None if there is none."""
        if self.target is None:
            return None
        return self.ratio <= self.target if self.better == "lower" else self.ratio >= self.target

    @property
    def key(self) -> tuple[str, str, str, str]:
        """What the same row has in another run."""
        return self.topic, self.case, self.quantity, self.peer


def lower(topic: str, case: str, quantity: str, unit: str, ours: float, peer: str, theirs: float, **more: Any) -> Row:
    """Return the row of a size or an error: the ratio is ours over theirs, and lower is better."""
    return Row(topic, case, quantity, unit, ours, peer, theirs, ours / theirs, "lower", **more)


def higher(topic: str, case: str, quantity: str, unit: str, ours: float, peer: str, theirs: float, **more: Any) -> Row:
    """Return the row of a rate: the ratio is ours over theirs, and higher is better."""
    return Row(topic, case, quantity, unit, ours, peer, theirs, ours / theirs, "higher", **more)


def faster(topic: str, case: str, quantity: str, ours: float, peer: str, theirs: float, **more: Any) -> Row:
    """Return the row of two times in seconds, shown in milliseconds: the ratio is theirs over ours."""
    return Row(topic, case, quantity, "ms", 1e3 * ours, peer, 1e3 * theirs, theirs / ours, "higher", **more)


def race(calls: Mapping[str, Call], repeats: int) -> dict[str, float]:
    """Return the median time of each call, in seconds.

    All calls take turns, so that what else the machine does slows down all of them. Each is called once before, for
    compilation and caches, and short ones several times a turn.

    Parameters
    ----------
    calls : mapping of str to callable
    repeats : int
        Turns.
    """
    loops = {}
    for name, call in calls.items():
        call()
        loops[name] = max(1, min(1000, round(_SHORTEST / _seconds(call, 1))))
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            times[name].append(_seconds(call, loops[name]))
    return {name: statistics.median(taken) for name, taken in times.items()}


def _seconds(call: Call, loops: int) -> float:
    begin = time.perf_counter()
    for _ in range(loops):
        result = call()
    taken = time.perf_counter() - begin
    del result  # outside the time, for every call alike
    return max(taken / loops, 1e-9)


@contextmanager
def limited(count: int) -> Iterator[None]:
    """Let this package and, where threadpoolctl is installed, NumPy's BLAS use `count` threads."""
    with ExitStack() as stack:
        stack.enter_context(threads(count))
        control = _threadpoolctl()
        if control is not None:
            stack.enter_context(control.threadpool_limits(limits=count, user_api="blas"))
        yield


def controls_blas() -> bool:
    """Say whether the threads of NumPy's BLAS can be limited."""
    return _threadpoolctl() is not None


def _threadpoolctl() -> Any:
    try:
        return importlib.import_module("threadpoolctl")
    except ImportError:
        return None
