"""What a signal does: end a verb with its files cleaned up, or ask long work to stop where it can be continued."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_ONCE = 1.0  # seconds: one Ctrl-C may come twice, from the terminal and passed on by mpirun

Handler = Callable[[int, FrameType | None], Any]


class Terminated(BaseException):
    """SIGTERM, raised where the program is: what is half done is cleaned up on the way out, as after Ctrl-C."""


class StopRequest:
    """Says whether a signal has asked to stop. A second one, a second later or more, ends the program at once.

    Examples
    --------
    >>> import os
    >>> with stop_on_signals() as asked:
    ...     before = asked()
    ...     os.kill(os.getpid(), signal.SIGTERM)
    ...     before, asked()
    (False, True)
    """

    def __init__(self) -> None:
        self._asked: float | None = None  # when

    def __call__(self) -> bool:
        """Return whether to stop."""
        return self._asked is not None

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Take note of a signal; raise for the second one."""
        now = time.monotonic()
        if self._asked is not None and now - self._asked > _ONCE:
            _end(number, frame)
        self._asked = now if self._asked is None else self._asked


@contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Let SIGTERM and Ctrl-C ask for a stop, within a ``with`` block; the work asks the request between its steps."""
    request = StopRequest()
    with _handlers(dict.fromkeys(_SIGNALS, request.handle)):
        yield request


@contextmanager
def end_on_signals() -> Iterator[None]:
    """Let SIGTERM raise :class:`Terminated` within a ``with`` block; Ctrl-C raises KeyboardInterrupt by itself."""
    with _handlers({signal.SIGTERM: _end}):
        yield


def _end(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt if number == signal.SIGINT else Terminated


@contextmanager
def _handlers(handlers: dict[signal.Signals, Handler]) -> Iterator[None]:
    """Install handlers, and put back those that were there; only a main thread can, and others leave it alone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
