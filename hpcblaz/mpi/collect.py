"""Bring what ranks hold to one rank, a piece at a time, however much it is; and wait without using a core."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hpcblaz.mpi.comm import Communicator

__all__ = ["collect", "wait_idly"]

_PAUSE = 0.01  # seconds between two looks
PIECE_BYTES = 2**24  # the root holds no more than this of another rank

Take = Callable[[int, int, int, npt.NDArray[np.uint8]], None]


def collect(comm: Communicator, arrays: Sequence[npt.NDArray[Any]], take: Take | None, root: int = 0) -> None:
    """Hand the bytes of every rank's arrays to a function on one rank, piece by piece, in the order of the ranks.

    A collective call. If `take` fails, the error is raised on every rank, once no rank waits any more.

    Parameters
    ----------
    comm : Communicator
    arrays : sequence of numpy.ndarray
        C-contiguous; as many on every rank, of any size.
    take : callable or None
        Looked at on the root only. Called with the rank, the number of the array, the position of the piece in it in
        bytes, and the piece: uint8, shape (n,), which is overwritten after the call.
    root : int, default 0
        The rank that collects.

    Examples
    --------
    >>> import numpy as np
    >>> from hpcblaz.mpi import world
    >>> from hpcblaz.mpi.collect import collect
    >>> sizes = []
    >>> collect(world(), [np.zeros(3)], lambda rank, number, position, piece: sizes.append(piece.size))
    >>> sizes == [24] * len(sizes)
    True
    """
    flat = [array.reshape(-1).view(np.uint8) for array in arrays]
    sizes = comm.allgather([float(array.size) for array in flat])
    if comm.rank != root:
        for array in flat:
            for start in range(0, array.size, PIECE_BYTES):
                comm._send(array[start : start + PIECE_BYTES], root)
        comm.agree(None)
        return
    error: BaseException | None = None
    buffer = np.empty(int(min(PIECE_BYTES, sizes.max(initial=0))), np.uint8)
    for rank, row in enumerate(sizes):
        for number, size in enumerate(row.astype(np.int64)):
            for start in range(0, int(size), PIECE_BYTES):
                stop = min(int(size), start + PIECE_BYTES)
                if rank == root:
                    piece = flat[number][start:stop]
                else:
                    piece = buffer[: stop - start]
                    comm._receive(piece, rank)
                if error is None and take is not None:
                    try:
                        take(rank, number, start, piece)
                    except Exception as caught:  # noqa: BLE001  agree() raises it
                        error = caught
    comm.agree(error)


def wait_idly(comm: Communicator) -> None:
    """Wait until every rank is here, and leave the cores to those that are not.

    A collective call, for waits of seconds: MPI's own barrier keeps a core busy, to be quick.

    Parameters
    ----------
    comm : Communicator

    Examples
    --------
    >>> from hpcblaz.mpi import world
    >>> from hpcblaz.mpi.collect import wait_idly
    >>> wait_idly(world())
    """
    if comm.size > 1:
        request = comm._comm.Ibarrier()
        while not request.Test():
            time.sleep(_PAUSE)
