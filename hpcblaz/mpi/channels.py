"""Operations of a communicator that are under way, each apart from the others and from the user's messages."""

from collections.abc import Generator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcblaz.mpi.comm import Communicator
from hpcblaz.mpi.launch import load_mpi

_TAGS = 16384  # the MPI standard allows tags up to 32767 everywhere
_keyvals: list[int] = []


class Channels:
    """Duplicates of a communicator: one for messages and the beginnings of operations, one for their ends.

    Every rank begins operations in one order, at once, and ends them in that order as well, whatever order their
    messages arrive in: so the collective calls of a duplicate are in one order on all ranks.

    Parameters
    ----------
    comm : Communicator
        Of several ranks.
    """

    def __init__(self, comm: Communicator) -> None:
        self.mpi = load_mpi()
        self.begin = comm._comm.Dup()
        self._end = comm._comm.Dup()
        self.end = Communicator(self._end)
        self.running: list[Running] = []
        self._count = 0

    def next_tag(self) -> int:
        """Return the tag of the messages of one more operation."""
        self._count += 1
        return self._count % _TAGS

    def free(self) -> None:
        """Give the duplicates back."""
        self.begin.Free()
        self._end.Free()

    def gather(self, own: NDArray[np.float64]) -> "Generator[bool, None, NDArray[np.float64]]":
        """Gather every rank's numbers, of one length, without blocking: of the first operation that is under way."""
        result = np.empty((self.end.size, own.size))
        request = self._end.Iallgather([own, self.mpi.DOUBLE], [result, self.mpi.DOUBLE])
        while not request.Test():
            yield False
        return result

    def greatest(self, own: NDArray[np.float64]) -> "Generator[bool, None, NDArray[np.float64]]":
        """Return the greatest of every rank's numbers, one by one, without waiting: the beginning of an operation."""
        result = np.empty_like(own)
        request = self.begin.Iallreduce([own, self.mpi.DOUBLE], [result, self.mpi.DOUBLE], self.mpi.MAX)
        while not request.Test():
            yield False
        return result

    def advance(self) -> bool:
        """Do what can be done for all operations without waiting, first come, first served."""
        moved = False
        for operation in list(self.running):
            moved = operation.advance() or moved
        return moved


class Running:
    """An operation that is under way: its steps, and in the end its result or its error."""

    def __init__(self, channels: Channels) -> None:
        self.channels = channels
        self._steps: Generator[bool, None, Any] = iter(())  # type: ignore[assignment]
        self.finished = False
        self.result: Any = None
        self.error: BaseException | None = None
        channels.running.append(self)

    def begin(self, steps: Generator[bool, None, Any]) -> None:
        """Take the first of the steps, which yield whether anything was done, and return the result."""
        self._steps = steps
        self.advance()

    @property
    def is_first(self) -> bool:
        """Whether all operations that began before have ended."""
        return self.channels.running[0] is self

    def advance(self) -> bool:
        """Go on until there is something to wait for; return whether anything was done."""
        try:
            return next(self._steps)
        except StopIteration as stop:
            self.result = stop.value
        except BaseException as error:  # noqa: BLE001  raised again by whoever asks for the result
            self.error = error
        self.finished = True
        self.channels.running.remove(self)
        return True


def channels_of(comm: Communicator) -> Channels:
    """Return the channels of a communicator of several ranks: a collective call the first time."""
    mpi = load_mpi()
    if not _keyvals:
        _keyvals.append(mpi.Comm.Create_keyval(delete_fn=_forget))
    found = comm._comm.Get_attr(_keyvals[0])
    if found is None:
        found = Channels(comm)
        comm._comm.Set_attr(_keyvals[0], found)
    return found  # type: ignore[no-any-return]


def _forget(comm: Any, keyval: int, channels: Channels) -> None:
    """Free the duplicates together with the communicator; those of the world go when MPI is finalised."""
    mpi = load_mpi()
    if comm != mpi.COMM_WORLD and comm != mpi.COMM_SELF:
        channels.free()
