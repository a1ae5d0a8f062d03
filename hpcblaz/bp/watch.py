"""When an inference has to stop, and what it was like on the way."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

_ROUND_SECONDS = 0.02  # compiled loops come back about so often
_MOST_ROUNDS = 1024


@dataclass(eq=False)
class Watch:
    """A stopwatch, a limit, and a record.

    Parameters
    ----------
    messages : int
        Number of messages of the model.
    most : int
        Message updates after which it is over.
    time_limit : float or None
        Seconds after which it is over.
    """

    messages: int
    most: int
    time_limit: float | None
    updates: int = 0
    seconds: list[float] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    left: list[int] = field(default_factory=list)
    largest: list[float] = field(default_factory=list)
    _start: float = field(default_factory=time.perf_counter)
    _last: float = 0.0
    _pace: float = 1e-8  # seconds a message update

    def elapsed(self) -> float:
        """Return the seconds since the start."""
        return time.perf_counter() - self._start

    def resume(self, updates: int, seconds: float, record: Mapping[str, list[Any]]) -> None:
        """Go on with what was counted and recorded before, seconds of earlier runs included but for the limit."""
        self.updates = updates
        self._start -= seconds
        self._last = self.elapsed()
        if self.time_limit is not None:
            self.time_limit += seconds
        for name, values in record.items():
            getattr(self, name)[:] = values

    def over(self) -> str | None:
        """Return which limit has been reached: 'iterations', 'time', or none."""
        if self.updates >= self.most:
            return "iterations"
        return "time" if self.time_limit is not None and self.elapsed() >= self.time_limit else None

    def rounds(self) -> int:
        """Return for how many times all messages a compiled loop may be left alone."""
        allowed = -(-(self.most - self.updates) // max(1, self.messages))
        return max(1, min(_MOST_ROUNDS, int(_ROUND_SECONDS / (self._pace * max(1, self.messages))), allowed))

    def sends(self) -> int:
        """Return for how many messages, sent one by one, a compiled loop may be left alone."""
        return max(1, min(int(_ROUND_SECONDS / self._pace), self.most - self.updates))

    def note(self, sent: int, left: NDArray[np.int64] | int, largest: NDArray[np.float64] | float) -> None:
        """Record one round, or several of equal length, which sent so many messages in all."""
        now = self.elapsed()
        lefts, most = np.atleast_1d(left), np.atleast_1d(largest)
        parts = np.arange(1, lefts.size + 1) / lefts.size
        self.seconds += (self._last + (now - self._last) * parts).tolist()
        self.counts += (self.updates + np.rint(sent * parts)).astype(np.int64).tolist()
        self.left += lefts.tolist()
        self.largest += most.tolist()
        if sent:
            self._pace = max(1e-10, (now - self._last) / sent)
        self.updates += sent
        self._last = now
