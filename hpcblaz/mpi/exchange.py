"""Messages between neighbours: sent and received at once, of any length, and to nobody else."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from hpcblaz.mpi.comm import _TAG, Communicator

__all__ = ["exchange", "exchange_unsized"]

Bytes = npt.NDArray[np.uint8]


def exchange(
    comm: Communicator,
    outgoing: Mapping[int, Any],
    incoming: Mapping[int, int],
    meanwhile: Callable[[], None] | None = None,
) -> dict[int, Bytes]:
    """Send bytes to some ranks, and receive what others send to this one.

    Every rank calls it; a rank waits for those only that it has messages with. All receives are posted before the first
    send, and nothing blocks before all are posted, so there is no order in which ranks could wait for each other.

    Parameters
    ----------
    comm : Communicator
    outgoing : mapping of int to bytes-like
        What each rank is to get: C-contiguous, of any type without Python objects. It may be this rank itself. Empty
        ones are not sent.
    incoming : mapping of int to int
        How many bytes come from each rank: exactly what that rank has under this rank's number.
    meanwhile : callable, optional
        Called while the messages are under way; must not communicate. What it raises is raised when all have arrived.

    Returns
    -------
    dict of int to numpy.ndarray
        uint8, shape (n,), for every key of `incoming`; writable.

    See Also
    --------
    exchange_unsized : Where only the sender knows how many bytes there are.

    Examples
    --------
    >>> import numpy as np
    >>> from hpcblaz.mpi import world
    >>> from hpcblaz.mpi.exchange import exchange
    >>> comm = world()
    >>> after, before = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
    >>> got = exchange(comm, {after: np.full(3, comm.rank, np.uint8)}, {before: 3})
    >>> got[before].tolist() == [before] * 3
    True
    """
    received = {rank: np.empty(size, np.uint8) for rank, size in incoming.items()}
    requests = []
    for rank, target in received.items():
        if rank != comm.rank:
            requests += [comm._comm.Irecv([part, comm._mpi.BYTE], rank, _TAG) for part in comm._chunks(target)]
    flat = {rank: np.frombuffer(data, np.uint8) for rank, data in outgoing.items() if memoryview(data).nbytes}
    for rank, data in flat.items():  # kept until all is sent
        if rank != comm.rank:
            requests += [comm._comm.Isend([part, comm._mpi.BYTE], rank, _TAG) for part in comm._chunks(data)]
        else:
            received[rank][...] = data
    try:
        if meanwhile is not None:
            meanwhile()
    finally:  # buffers must outlive their messages
        if requests:
            comm._mpi.Request.Waitall(requests)
    return received


def exchange_unsized(
    comm: Communicator,
    outgoing: Mapping[int, Any],
    senders: list[int],
    meanwhile: Callable[[], None] | None = None,
) -> dict[int, Bytes]:
    """Send bytes to some ranks, and receive from others that alone know how many there are.

    Two rounds of messages: the lengths, of 8 bytes each, and what is to be sent.

    Parameters
    ----------
    comm : Communicator
    outgoing : mapping of int to bytes-like
        As for :func:`exchange`.
    senders : list of int
        The ranks that have this rank's number in `outgoing`.
    meanwhile : callable, optional
        As for :func:`exchange`.

    Returns
    -------
    dict of int to numpy.ndarray
        uint8, shape (n,), for each of `senders`.

    Examples
    --------
    >>> from hpcblaz.mpi import world
    >>> from hpcblaz.mpi.exchange import exchange_unsized
    >>> comm = world()
    >>> after, before = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size
    >>> exchange_unsized(comm, {after: b"x" * comm.rank}, [before])[before].size == before
    True
    """
    lengths = {rank: np.array([memoryview(data).nbytes], np.int64) for rank, data in outgoing.items()}
    found = exchange(comm, lengths, dict.fromkeys(senders, 8))
    return exchange(comm, outgoing, {rank: int(found[rank].view(np.int64)[0]) for rank in senders}, meanwhile)
