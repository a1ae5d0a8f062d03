"""How ranks talk: collectives on host memory, and failing together.

Every method of a communicator but `rank` and `size` is collective: all ranks call it, in the same order, from their
main thread. One rank needs no MPI: `SerialCommunicator` has the same methods.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from hpcblaz import errors
from hpcblaz.errors import CommunicatorError, DtypeError, HpcblazError, LayoutError, PeerError, ShapeError
from hpcblaz.mpi.launch import check_world_size, load_mpi, mpi_is_loaded, read_launch
from hpcblaz.mpi.layout import Layout

__all__ = ["Communicator", "SerialCommunicator", "communicator", "world"]

CHUNK_BYTES = 2**30  # some MPI libraries refuse a message of 2^31 elements
_TAG = 18498  # of our messages; the MPI standard allows up to 32767 everywhere


class Communicator:
    """The ranks of an mpi4py communicator.

    Parameters
    ----------
    comm : mpi4py.MPI.Intracomm
        Used as it is, not duplicated: leave no wildcard receive open on it while hpcblaz works.
    chunk_bytes : int, default 2**30
        Longest single message, in bytes. Below 2**31.

    Raises
    ------
    CommunicatorError
        If `comm` is no usable communicator, or is the world of a process that its launcher did not connect.

    Examples
    --------
    >>> from hpcblaz.mpi import world
    >>> comm = world()
    >>> comm.allgather([comm.rank, 0.5]).shape == (comm.size, 2)
    True
    """

    def __init__(self, comm: Any, *, chunk_bytes: int = CHUNK_BYTES) -> None:
        if not 0 < chunk_bytes < 2**31:
            raise CommunicatorError(f"chunk_bytes: expected 1 to 2**31 - 1, got {chunk_bytes}")
        mpi = load_mpi()
        if not isinstance(comm, mpi.Comm) or not comm or comm.Is_inter():
            raise CommunicatorError(f"comm: expected an mpi4py intracommunicator, got {comm!r}")
        if mpi.Comm.Compare(comm, mpi.COMM_WORLD) == mpi.IDENT:
            check_world_size(comm.Get_size())
        self._mpi = mpi
        self._comm = comm
        self._rank: int = comm.Get_rank()
        self._size: int = comm.Get_size()
        self._chunk_bytes = chunk_bytes

    @property
    def rank(self) -> int:
        """Number of this rank, from 0."""
        return self._rank

    @property
    def size(self) -> int:
        """Number of ranks."""
        return self._size

    def __repr__(self) -> str:
        return f"{type(self).__name__}(rank={self.rank}, size={self.size})"

    def barrier(self) -> None:
        """Wait until every rank is here."""
        self._comm.Barrier()

    def broadcast(self, value: Any, root: int = 0) -> Any:
        """Return the root's object on every rank.

        Parameters
        ----------
        value : picklable
            Looked at on the root only.
        root : int, default 0
            The rank that gives.

        Returns
        -------
        object
            The root's own object there, a copy elsewhere.
        """
        result = self._comm.bcast(value, root)
        return value if self.rank == root else result

    def gather_objects(self, value: Any) -> list[Any]:
        """Return every rank's object, in the order of the ranks, on every rank.

        Parameters
        ----------
        value : picklable

        Returns
        -------
        list of length `size`
        """
        return list(self._comm.allgather(value))

    def allgather(self, vector: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Return every rank's numbers on every rank.

        Sums over the first axis of the answer are the same bits on every rank.

        Parameters
        ----------
        vector : array_like of float64, shape (n,)
            The same `n` on every rank.

        Returns
        -------
        numpy.ndarray of float64, shape (size, n)
            Row k is rank k's.

        Raises
        ------
        ShapeError
            If `vector` is not 1-D.
        """
        own = np.ascontiguousarray(_vector(vector))
        result = np.empty((self.size, own.size))
        self._comm.Allgather([own, self._mpi.DOUBLE], [result, self._mpi.DOUBLE])
        return result

    def agree(self, error: BaseException | None) -> None:
        """Fail everywhere if any rank failed.

        Parameters
        ----------
        error : BaseException or None
            What went wrong on this rank, if anything did.

        Raises
        ------
        BaseException
            On a rank that failed: its own `error`, with a note that says which rank it was.
        HpcblazError
            On the other ranks: an error of the class of hpcblaz that the lowest failing rank's error belongs to
            (`PeerError` if none), whose text names that rank and its error.

        Examples
        --------
        >>> from hpcblaz.mpi import world
        >>> world().agree(None)
        """
        if not self._any(error is not None):
            return
        reports = self.gather_objects(None if error is None else _describe(error))
        failing = [rank for rank, report in enumerate(reports) if report is not None]
        if error is not None:
            note = f"on rank {self.rank} of {self.size}; failing ranks: {', '.join(map(str, failing))}"
            if note not in getattr(error, "__notes__", ()):
                error.add_note(note)
            raise error
        kind, text = reports[failing[0]]
        others = f" (ranks {', '.join(map(str, failing[1:]))} failed too)" if failing[1:] else ""
        raise getattr(errors, kind)(f"rank {failing[0]}: {text}{others}")

    @contextmanager
    def together(self) -> Iterator[None]:
        """Leave a ``with`` block together: if it fails on any rank, it raises on every rank (see `agree`).

        The block itself must not communicate: a rank that fails half-way would leave the others waiting.

        Examples
        --------
        >>> from hpcblaz.mpi import world
        >>> with world().together():
        ...     number = int("3")
        """
        error: BaseException | None = None
        try:
            yield
        except (Exception, SystemExit) as caught:  # noqa: BLE001  agree() raises it
            error = caught
        self.agree(error)

    def gather(self, local_array: npt.ArrayLike, layout: Layout, root: int = 0) -> npt.NDArray[Any] | None:
        """Put the ranks' parts together on one rank.

        Parameters
        ----------
        local_array : array_like, shape `layout.local_shape`
            This rank's part, on the host, of any dtype without Python objects, any strides, any byte order.
        layout : Layout
            Of this communicator.
        root : int, default 0
            The rank that receives.

        Returns
        -------
        numpy.ndarray, shape `layout.global_shape`, or None
            The whole array, with the parts' dtype, on the root; None elsewhere.

        Raises
        ------
        LayoutError, ShapeError, DtypeError
            On every rank, if a layout, part or dtype does not fit.

        Examples
        --------
        >>> import numpy as np
        >>> from hpcblaz.mpi import Layout, world
        >>> comm = world()
        >>> layout = Layout((9,), comm, block_shape=(2,))
        >>> whole = comm.gather(layout.local(np.arange(9)), layout)
        >>> comm.rank != 0 or bool((whole == np.arange(9)).all())
        True
        """
        with self.together():
            self._check_layout(layout, root)
            local = np.asarray(local_array)
            if local.shape != layout.local_shape:
                raise ShapeError(f"local_array: expected this rank's part {layout.local_shape}, got {local.shape}")
            _check_dtype(local.dtype)
        dtypes = self.gather_objects(local.dtype)
        for rank, dtype in enumerate(dtypes):
            if dtype != dtypes[0]:
                raise DtypeError(
                    f"local_array: expected one dtype on all ranks, got {dtypes[0]} on rank 0 "
                    f"and {dtype} on rank {rank}; convert the parts first"
                )
        whole: npt.NDArray[Any] | None = None
        with self.together():
            if self.rank == root:
                whole = np.empty(layout.global_shape, local.dtype)
            else:
                local = np.ascontiguousarray(local)
        if whole is None:
            self._send(local, root)
            return None
        for rank in range(self.size):
            target = whole[layout.slices_of(rank)]
            if rank == root:
                target[...] = local
            elif target.flags.c_contiguous:
                self._receive(target, rank)
            else:
                part = np.empty(target.shape, target.dtype)
                self._receive(part, rank)
                target[...] = part
        return whole

    def scatter(
        self, global_array: Any, layout: Layout, root: int = 0, dtype: npt.DTypeLike | None = None
    ) -> npt.NDArray[Any]:
        """Hand each rank its part of an array that one rank holds.

        Parameters
        ----------
        global_array : array of shape `layout.global_shape`
            Looked at on the root only. Anything on the host with ``shape`` and ``dtype`` that takes a tuple of
            slices; it is read part by part, so that a file need not fit into memory.
        layout : Layout
            Of this communicator.
        root : int, default 0
            The rank that holds the array.
        dtype : dtype, optional
            To convert to, on the root. Default: the array's own.

        Returns
        -------
        numpy.ndarray, shape `layout.local_shape`
            This rank's part, C-contiguous and writable.

        Raises
        ------
        LayoutError, ShapeError, DtypeError
            On every rank, if layout, array or dtype do not fit. What reading the array raises, on every rank too.

        Examples
        --------
        >>> import numpy as np
        >>> from hpcblaz.mpi import Layout, world
        >>> comm = world()
        >>> layout = Layout((9,), comm, block_shape=(2,))
        >>> comm.scatter(np.zeros(9) if comm.rank == 0 else None, layout).shape == layout.local_shape
        True
        """
        kind: np.dtype[Any] | None = None
        with self.together():
            self._check_layout(layout, root)
            if self.rank == root:
                kind = _dtype_to_send(global_array, layout, dtype)
        kind = self.broadcast(kind, root)
        with self.together():
            local = np.empty(layout.local_shape, kind)
        error: BaseException | None = None
        if self.rank == root:
            for rank in range(self.size):
                part: npt.NDArray[Any] | None = None
                if error is None:
                    try:
                        part = np.ascontiguousarray(global_array[layout.slices_of(rank)], dtype=kind)
                    except Exception as caught:  # noqa: BLE001  agree() raises it, once no rank waits any more
                        error = caught
                if rank != root:
                    self._send(np.array([part is not None]), rank)
                    if part is not None:
                        self._send(part, rank)
                elif part is not None:
                    local[...] = part
        else:
            follows = np.empty(1, np.bool_)
            self._receive(follows, root)
            if follows[0]:
                self._receive(local, root)
        self.agree(error)
        return local

    def _check_layout(self, layout: Layout, root: int) -> None:
        if not 0 <= root < self.size:
            raise CommunicatorError(f"root: expected 0 <= root < {self.size}, got {root}")
        if (layout.rank, layout.size) != (self.rank, self.size):
            raise LayoutError(
                f"layout: expected one made for rank {self.rank} of {self.size}, got rank {layout.rank} of "
                f"{layout.size}; pass this communicator as its comm"
            )

    def _any(self, flag: bool) -> bool:
        result = np.array([flag], np.int32)
        self._comm.Allreduce(self._mpi.IN_PLACE, [result, self._mpi.INT32_T], self._mpi.MAX)
        return bool(result[0])

    def _send(self, array: npt.NDArray[Any], rank: int) -> None:
        for chunk in self._chunks(array):
            self._comm.Send([chunk, self._mpi.BYTE], rank, _TAG)

    def _receive(self, array: npt.NDArray[Any], rank: int) -> None:
        for chunk in self._chunks(array):
            self._comm.Recv([chunk, self._mpi.BYTE], rank, _TAG)

    def _chunks(self, array: npt.NDArray[Any]) -> Iterator[npt.NDArray[np.uint8]]:
        """Yield the bytes of a C-contiguous array; none at all for an empty one."""
        flat = array.reshape(-1).view(np.uint8)
        for i in range(math.ceil(flat.size / self._chunk_bytes)):
            yield flat[i * self._chunk_bytes : (i + 1) * self._chunk_bytes]


class SerialCommunicator(Communicator):
    """One rank, without MPI.

    Examples
    --------
    >>> from hpcblaz.mpi import SerialCommunicator
    >>> SerialCommunicator().allgather([1.0, 2.0])
    array([[1., 2.]])
    """

    def __init__(self) -> None:
        self._rank, self._size, self._chunk_bytes = 0, 1, CHUNK_BYTES

    def barrier(self) -> None:
        """Return at once."""

    def broadcast(self, value: Any, root: int = 0) -> Any:
        """Return `value`."""
        return value

    def gather_objects(self, value: Any) -> list[Any]:
        """Return ``[value]``."""
        return [value]

    def allgather(self, vector: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Return a copy of `vector` as an array of one row."""
        return _vector(vector)[np.newaxis].copy()

    def agree(self, error: BaseException | None) -> None:
        """Raise `error`, if there is one."""
        if error is not None:
            raise error


def communicator(comm: Any = None) -> Communicator:
    """Return the communicator that a user's argument stands for.

    Parameters
    ----------
    comm : None, mpi4py.MPI.Intracomm or Communicator
        None is one rank without MPI, also under ``mpirun``; see `world` for all ranks.

    Returns
    -------
    Communicator

    Raises
    ------
    CommunicatorError
        If `comm` is something else.

    Examples
    --------
    >>> from hpcblaz.mpi import communicator
    >>> communicator(None)
    SerialCommunicator(rank=0, size=1)
    """
    if comm is None:
        return SerialCommunicator()
    if isinstance(comm, Communicator):
        return comm
    if not mpi_is_loaded():
        raise CommunicatorError(f"comm: expected None, an mpi4py communicator or a Communicator, got {comm!r}")
    return Communicator(comm)


def scatter(array: Any, layout: Layout, root: int = 0, dtype: npt.DTypeLike | None = None) -> npt.NDArray[Any]:
    """Hand each rank of a layout its part of an array that one rank holds: `Communicator.scatter` of its communicator.

    A collective call.

    Parameters
    ----------
    array : array of shape `layout.global_shape`
        Looked at on the root only; it is read part by part, so it can be a memory map or a dataset of a file.
    layout : Layout
    root : int, default 0
        The rank that holds the array.
    dtype : dtype, optional
        To convert to, on the root. Default: the array's own.

    Returns
    -------
    numpy.ndarray, shape `layout.local_shape`

    Raises
    ------
    LayoutError, ShapeError, DtypeError
        On every rank, if layout, array or dtype do not fit.

    Examples
    --------
    >>> import numpy as np, hpcblaz as hb
    >>> layout = hb.Layout((9, 8))
    >>> hb.scatter(np.zeros((9, 8)), layout).shape
    (9, 8)
    """
    return communicator(layout.comm).scatter(array, layout, root, dtype)


def world() -> Communicator:
    """Return the communicator of all ranks that were started together.

    MPI is initialised only if a launcher started several ranks. A process started directly, or one that is alone,
    gets a `SerialCommunicator`, unless somebody imported ``mpi4py.MPI`` before.

    Returns
    -------
    Communicator

    Raises
    ------
    CommunicatorError
        If several ranks were started, and MPI is missing or does not connect them.

    Examples
    --------
    >>> from hpcblaz.mpi import world
    >>> 0 <= world().rank < world().size
    True
    """
    launch = read_launch()
    if not mpi_is_loaded() and (launch is None or launch.size == 1):
        return SerialCommunicator()
    comm = load_mpi().COMM_WORLD
    check_world_size(comm.Get_size())
    return Communicator(comm) if comm.Get_size() > 1 else SerialCommunicator()


def _describe(error: BaseException) -> tuple[str, str]:
    """Return the name of the class of hpcblaz.errors that a peer should raise, and the text."""
    if isinstance(error, HpcblazError):
        kind = next(base for base in type(error).__mro__ if base.__module__ == errors.__name__)
        return kind.__name__, str(error)
    return PeerError.__name__, f"{type(error).__name__}: {error}"


def _vector(vector: npt.ArrayLike) -> npt.NDArray[np.float64]:
    result = np.asarray(vector, dtype=np.float64)
    if result.ndim != 1:
        raise ShapeError(f"vector: expected one axis, got shape {result.shape}")
    return result


def _check_dtype(dtype: np.dtype[Any]) -> None:
    if dtype.hasobject:
        raise DtypeError(f"array: expected a dtype of plain numbers, got {dtype}; convert it, or use gather_objects")


def _dtype_to_send(array: Any, layout: Layout, dtype: npt.DTypeLike | None) -> np.dtype[Any]:
    shape = getattr(array, "shape", None)
    if shape is None or tuple(shape) != layout.global_shape:
        raise ShapeError(
            f"global_array: expected an array of shape {layout.global_shape} on the root, "
            f"got {type(array).__name__ if shape is None else tuple(shape)}"
        )
    own = np.dtype(array.dtype)
    result = own if dtype is None else np.dtype(dtype)
    _check_dtype(result)
    if not np.can_cast(own, result, "same_kind"):
        raise DtypeError(f"dtype: expected one that {own} converts to without loss of kind, got {result}")
    return result
