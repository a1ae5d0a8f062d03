"""Buffers of any size from every rank to every other, a pair of ranks at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hpcblaz.errors import ShapeError
from hpcblaz.mpi.comm import Communicator

__all__ = ["exchange_in_turn"]

_TAG = 18500  # beside that of other messages: those of one pair of ranks arrive in the order in which they were sent
_FAILED = -1

Buffer = npt.NDArray[np.uint8]


def exchange_in_turn(
    comm: Communicator, counts: Sequence[int], make: Callable[[int], Sequence[Any]]
) -> dict[int, list[Buffer]]:
    """Send buffers to other ranks, and return those that they sent.

    A collective call. The buffers for a rank are made when it is their turn and forgotten once they have arrived, so
    that a rank holds those for one other rank, and all that it receives. If `make` fails on a rank, the error is
    raised on every rank, once no rank waits any more.

    Parameters
    ----------
    comm : Communicator
    counts : sequence of int, length `comm.size`
        How many buffers go to each rank; that for this rank itself is not looked at.
    make : callable
        Called with the number of a rank; returns the buffers for it: as many bytes-like objects as were announced.

    Returns
    -------
    dict of int to list of numpy.ndarray
        By the rank that sent them, in the order in which it made them: uint8, one axis each.

    Examples
    --------
    >>> from hpcblaz.mpi import world
    >>> from hpcblaz.mpi.pairwise import exchange_in_turn
    >>> comm = world()
    >>> found = exchange_in_turn(comm, [1] * comm.size, lambda rank: [b"from %d to %d" % (comm.rank, rank)])
    >>> all(bytes(buffers[0]) == b"from %d to %d" % (rank, comm.rank) for rank, buffers in found.items())
    True
    """
    table = comm.allgather([float(count) for count in counts]).astype(np.int64)
    received: dict[int, list[Buffer]] = {}
    error: BaseException | None = None
    for distance in range(1, comm.size):
        to, source = (comm.rank + distance) % comm.size, (comm.rank - distance) % comm.size
        buffers: list[Buffer] = []
        lengths = np.full(table[comm.rank, to], _FAILED, np.int64)
        if lengths.size and error is None:
            try:
                buffers = [np.frombuffer(buffer, np.uint8) for buffer in make(to)]
                if len(buffers) != lengths.size:
                    raise ShapeError(f"make: expected {lengths.size} buffers for rank {to}, got {len(buffers)}")
                lengths[:] = [buffer.size for buffer in buffers]
            except Exception as caught:  # noqa: BLE001  agree() raises it, once no rank waits any more
                error, buffers = caught, []
        pending = [request for buffer in [lengths, *buffers] for request in _start(comm, buffer, to)]
        announced = np.empty(table[source, comm.rank], np.int64)
        _receive(comm, announced, source)
        if announced.size and (announced != _FAILED).all():
            received[source] = [np.empty(length, np.uint8) for length in announced]
            for buffer in received[source]:
                _receive(comm, buffer, source)
        for request in pending:
            request.Wait()
    comm.agree(error)
    return received


def _start(comm: Communicator, array: npt.NDArray[Any], rank: int) -> list[Any]:
    """Begin to send an array, and return the requests to wait for."""
    return [comm._comm.Isend([chunk, comm._mpi.BYTE], rank, _TAG) for chunk in comm._chunks(array)]


def _receive(comm: Communicator, array: npt.NDArray[Any], rank: int) -> None:
    for chunk in comm._chunks(array):
        comm._comm.Recv([chunk, comm._mpi.BYTE], rank, _TAG)
