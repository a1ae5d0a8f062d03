"""Numbers that neighbours send each other again and again: who gets which is settled once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from hpcblaz.errors import CommunicatorError
from hpcblaz.mpi.comm import _TAG, Communicator

__all__ = ["Links", "PackedLinks", "Totals", "totals"]

Integers = npt.NDArray[np.int64]


class Links:
    """Which entries of an array go to which rank, and where those that come in belong.

    Every rank of the communicator has one, and calls :meth:`begin` and :meth:`finish` in turn; a rank waits for its
    neighbours only. Buffers are made at first use and kept.

    Parameters
    ----------
    comm : Communicator
    outgoing : mapping of int to numpy.ndarray of int64
        By rank, the indices of the entries that it gets, in the order in which it expects them.
    incoming : mapping of int to slice
        By rank, where its entries are put: as many as that rank has under this rank's number.

    Examples
    --------
    >>> import numpy as np
    >>> from hpcblaz.mpi import world
    >>> from hpcblaz.mpi.links import Links
    >>> comm = world()
    >>> others = [rank for rank in range(comm.size) if rank != comm.rank]
    >>> links = Links(comm, {r: np.array([0]) for r in others}, {r: slice(1 + r, 2 + r) for r in others})
    >>> values = np.zeros(1 + comm.size)
    >>> values[0] = comm.rank
    >>> links.begin(values)
    >>> links.finish(values)
    >>> values[1:].tolist() == [r if r in others else 0 for r in range(comm.size)]
    True
    """

    def __init__(self, comm: Communicator, outgoing: Mapping[int, Integers], incoming: Mapping[int, slice]) -> None:
        self.comm = comm
        self._outgoing = {rank: indices for rank, indices in sorted(outgoing.items()) if len(indices)}
        self._incoming = {rank: place for rank, place in sorted(incoming.items()) if place.stop > place.start}
        self._buffers: dict[np.dtype[Any], tuple[dict[int, Any], dict[int, Any]]] = {}
        self._requests: list[Any] | None = None
        self._dtype = np.dtype(np.uint8)

    @property
    def neighbours(self) -> int:
        """Number of ranks that this one sends to or hears from."""
        return len(set(self._outgoing) | set(self._incoming))

    @property
    def sent(self) -> int:
        """How many entries are sent at a time."""
        return sum(len(indices) for indices in self._outgoing.values())

    @property
    def received(self) -> int:
        """How many entries come in at a time."""
        return sum(place.stop - place.start for place in self._incoming.values())

    def begin(self, values: npt.NDArray[Any]) -> None:
        """Send what others get of an array; it may be changed at once.

        Parameters
        ----------
        values : numpy.ndarray, one axis
            Of one dtype on all ranks.

        Raises
        ------
        CommunicatorError
            If the last exchange has not been finished.
        """
        if self._requests is not None:
            raise CommunicatorError("expected finish() after begin(), got begin() again")
        comm, self._dtype = self.comm, values.dtype
        if values.dtype not in self._buffers:
            self._buffers[values.dtype] = (
                {rank: np.empty(len(indices), values.dtype) for rank, indices in self._outgoing.items()},
                {rank: np.empty(place.stop - place.start, values.dtype) for rank, place in self._incoming.items()},
            )
        outgoing, incoming = self._buffers[values.dtype]
        self._requests = []
        for rank, buffer in incoming.items():
            self._requests += [comm._comm.Irecv([part, comm._mpi.BYTE], rank, _TAG) for part in comm._chunks(buffer)]
        for rank, buffer in outgoing.items():
            np.take(values, self._outgoing[rank], out=buffer)
            self._requests += [comm._comm.Isend([part, comm._mpi.BYTE], rank, _TAG) for part in comm._chunks(buffer)]

    def wait(self) -> None:
        """Wait until all that was begun has arrived."""
        if self._requests is None:
            raise CommunicatorError("expected begin() before finish(), got none")
        if self._requests:
            self.comm._mpi.Request.Waitall(self._requests)
        self._requests = None

    def finish(self, values: npt.NDArray[Any]) -> None:
        """Wait for what others have sent, and put it where it belongs.

        Parameters
        ----------
        values : numpy.ndarray, one axis
            Of the dtype that was sent.
        """
        self.wait()
        for rank, buffer in self._buffers[self._dtype][1].items():
            values[self._incoming[rank]] = buffer

    def finish_changed(self, values: npt.NDArray[Any]) -> Integers:
        """As :meth:`finish`; return the places whose entries are not what they were."""
        self.wait()
        changed = []
        for rank, buffer in self._buffers[self._dtype][1].items():
            place = self._incoming[rank]
            changed.append(place.start + np.flatnonzero(values[place] != buffer))
            values[place] = buffer
        return np.concatenate([*changed, np.zeros(0, np.int64)])


class PackedLinks:
    """What :class:`Links` does, for entries that are packed already, on the host or on a card.

    Parameters
    ----------
    comm : Communicator
    outgoing, incoming : mapping of int to int
        How many entries each rank gets, and how many it sends; they stand in the order of the ranks.

    Examples
    --------
    >>> import numpy as np
    >>> from hpcblaz.mpi import world
    >>> from hpcblaz.mpi.links import PackedLinks
    >>> comm = world()
    >>> counts = {rank: 1 for rank in range(comm.size) if rank != comm.rank}
    >>> links = PackedLinks(comm, counts, counts)
    >>> arrived = np.empty(len(counts))
    >>> links.begin(np.full(len(counts), float(comm.rank)), arrived)
    >>> links.wait()
    >>> arrived.tolist() == list(counts)
    True
    """

    def __init__(self, comm: Communicator, outgoing: Mapping[int, int], incoming: Mapping[int, int]) -> None:
        self.comm = comm
        self._outgoing, self._incoming = _places(outgoing), _places(incoming)
        self.sent, self.received = sum(outgoing.values()), sum(incoming.values())
        self._requests: list[Any] | None = None

    def begin(self, packed: Any, arrived: Any) -> None:
        """Send entries, and receive others, both of one dtype: neither array may be touched before :meth:`wait`.

        Parameters
        ----------
        packed, arrived : array, shapes (sent,) and (received,)
            Of NumPy, or of CuPy if MPI takes arrays on cards (see :func:`hpcblaz.mpi.cuda_aware`) and nothing that is
            queued there has to do with them any more.

        Raises
        ------
        CommunicatorError
            If the last exchange has not been finished.
        """
        if self._requests is not None:
            raise CommunicatorError("expected wait() after begin(), got begin() again")
        comm = self.comm
        self._requests = []
        for rank, place in self._incoming.items():
            chunks = comm._chunks(arrived[place])
            self._requests += [comm._comm.Irecv([part, comm._mpi.BYTE], rank, _TAG) for part in chunks]
        for rank, place in self._outgoing.items():
            chunks = comm._chunks(packed[place])
            self._requests += [comm._comm.Isend([part, comm._mpi.BYTE], rank, _TAG) for part in chunks]

    def wait(self) -> None:
        """Wait until all that was begun has been sent, and has arrived."""
        if self._requests is None:
            raise CommunicatorError("expected begin() before wait(), got none")
        if self._requests:
            self.comm._mpi.Request.Waitall(self._requests)
        self._requests = None


def _places(counts: Mapping[int, int]) -> dict[int, slice]:
    """Return where the entries of each rank stand."""
    found, at = {}, 0
    for rank, count in sorted(counts.items()):
        if count:
            found[rank] = slice(at, at + count)
        at += count
    return found


class Totals:
    """What all ranks have together: sums of integers, and the largest of others.

    Attributes
    ----------
    sums, largest : numpy.ndarray of int64
    """

    def __init__(self, sums: Integers, largest: Integers) -> None:
        self.sums, self.largest = sums, largest


def totals(comm: Communicator, sums: npt.ArrayLike, largest: npt.ArrayLike) -> Totals:
    """Return sums and largest values of all ranks' integers, in the time of one reduction.

    Parameters
    ----------
    comm : Communicator
    sums, largest : array_like of int64, one axis
        As many on every rank.

    Examples
    --------
    >>> from hpcblaz.mpi import world
    >>> from hpcblaz.mpi.links import totals
    >>> comm = world()
    >>> found = totals(comm, [1, comm.rank], [comm.rank])
    >>> found.sums[0] == comm.size, found.largest[0] == comm.size - 1
    (np.True_, np.True_)
    """
    added, most = np.array(sums, np.int64), np.array(largest, np.int64)
    if comm.size > 1:
        mpi = comm._mpi
        kind = mpi.INT64_T
        mpi.Request.Waitall(
            [
                comm._comm.Iallreduce(mpi.IN_PLACE, [added, kind], mpi.SUM),
                comm._comm.Iallreduce(mpi.IN_PLACE, [most, kind], mpi.MAX),
            ]
        )
    return Totals(added, most)
