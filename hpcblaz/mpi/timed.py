"""What communication costs: a communicator that counts the time in MPI's functions and the bytes that are sent."""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hpcblaz.mpi.comm import Communicator

__all__ = ["TimedCommunicator", "Traffic"]

_TO_ONE = frozenset({"Send", "Isend", "send"})
_TO_ALL = frozenset({"Allgather", "Allreduce", "allgather"})
_FROM_ROOT = frozenset({"bcast"})


@dataclass
class Traffic:
    """What has been spent on communication since it was last cleared.

    Parameters
    ----------
    seconds : float
        In MPI's functions, waiting for other ranks included.
    cpu_seconds : float
        Of the processor, in the same functions: MPI libraries wait by looking again and again.
    bytes_sent : int
        By this rank, counted once for each rank that gets them, whatever way the library sends them.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    bytes_sent: int = 0

    def clear(self) -> None:
        """Begin anew."""
        self.seconds = self.cpu_seconds = 0.0
        self.bytes_sent = 0


class TimedCommunicator(Communicator):
    """A communicator that counts what its ranks' communication costs.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm
        As for :class:`Communicator`.

    Attributes
    ----------
    traffic : Traffic
        Of this rank.

    Examples
    --------
    >>> from hpcblaz.mpi import world
    >>> from hpcblaz.mpi.timed import TimedCommunicator
    >>> comm = world()
    >>> if comm.size > 1:
    ...     timed = TimedCommunicator(comm._comm)
    ...     _ = timed.allgather([1.0])
    ...     assert timed.traffic.bytes_sent == 8 * (comm.size - 1)
    """

    def __init__(self, comm: Any) -> None:
        super().__init__(comm)
        self.traffic = Traffic()
        self._comm = _Timed(comm, self)
        self._mpi = _Module(self._mpi, self)


class _Timed:
    """An object of MPI whose functions are timed."""

    def __init__(self, inner: Any, owner: TimedCommunicator) -> None:
        self._inner, self._owner = inner, owner

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._inner, name)
        return self._timed(name, value) if callable(value) else value

    def _timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        owner = self._owner

        def call(*arguments: Any, **more: Any) -> Any:
            owner.traffic.bytes_sent += _sent(name, arguments, owner.rank, owner.size)
            begin, cpu = time.perf_counter(), time.process_time()
            try:
                return function(*arguments, **more)
            finally:
                owner.traffic.seconds += time.perf_counter() - begin
                owner.traffic.cpu_seconds += time.process_time() - cpu

        return call


class _Module:
    """The module of MPI, with timed functions of its requests."""

    def __init__(self, inner: Any, owner: TimedCommunicator) -> None:
        self._inner = inner
        self.Request = _Timed(inner.Request, owner)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def _sent(name: str, arguments: tuple[Any, ...], rank: int, size: int) -> int:
    """Return the bytes that a call sends."""
    if name in _TO_ONE:
        return _length(arguments[0])
    if name in _TO_ALL:
        # In place of a sent buffer that is overwritten there is a marker, and the buffer comes second
        buffer = next((entry for entry in arguments if isinstance(entry, (list, tuple))), arguments[0])
        return _length(arguments[0] if name == "allgather" else buffer) * (size - 1)
    if name in _FROM_ROOT and rank == (arguments[1] if len(arguments) > 1 else 0):
        return _length(arguments[0]) * (size - 1)
    return 0


def _length(message: Any) -> int:
    """Return the bytes of a message: a buffer with its type, as upper-case functions take it, or any object."""
    if isinstance(message, list) and message and hasattr(message[0], "nbytes"):
        return int(message[0].nbytes)
    return len(pickle.dumps(message, pickle.HIGHEST_PROTOCOL))
