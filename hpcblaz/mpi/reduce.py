"""Collective operations on arrays whose messages are compressed, with a bound of the error.

Each rank rounds its values once to multiples of a step that all ranks share. From there on there are only integers:
they are added without error, however they travel, and packed with few bits for every hop. So the error of a sum is the
sum of the errors of the roundings, and every rank gets the same bits. docs/collectives.md has the mathematics.

Every function is collective: all ranks call it, in the same order. Errors are raised on every rank or on none.
"""

import time
from typing import Any

from hpcblaz.errors import CommunicatorError
from hpcblaz.mpi.channels import Running, channels_of
from hpcblaz.mpi.collective import Part, Reduction, steps
from hpcblaz.mpi.comm import communicator, world

__all__ = [
    "Pending", "Reduction", "allgather", "allreduce", "bcast", "iallgather", "iallreduce", "ibcast",
    "ireduce_scatter", "reduce_scatter",
]  # fmt: skip


_PATIENCE = 100  # looks for messages, some microseconds each, before the core is offered to others


class Pending:
    """An operation that goes on while its rank does other things, whenever a method of a pending operation is called.

    Give it back its time with :meth:`test` now and then, and its end with :meth:`wait`. Its input must not change
    before that. Operations may end in any order, but every rank has to wait for, or test, each of them.
    """

    def __init__(self, running: Running | None, result: Reduction | None = None) -> None:
        self._running, self._result = running, result

    def test(self) -> bool:
        """Go on as far as that is possible without waiting; return whether the operation has ended."""
        if self._running is not None and not self._running.finished:
            self._running.channels.advance()
        return self._running is None or self._running.finished

    def wait(self) -> Reduction:
        """Return the result, once it is there.

        Raises
        ------
        HpcblazError
            What the operation has to say, on every rank.
        """
        if self._running is not None and self._result is None:
            idle = 0
            while not self._running.finished:
                idle = 0 if self._running.channels.advance() else idle + 1
                if idle > _PATIENCE:
                    time.sleep(0)  # ranks may have to share a core
            if self._running.error is not None:
                raise self._running.error
            self._result = self._running.result
        if self._result is None:
            raise CommunicatorError("expected an operation with a result, got none")
        return self._result


def allreduce(
    array: Any, *, tolerance: float | None = None, relative: float | None = None, comm: Any = None,
    algorithm: str | None = None,
) -> Reduction:  # fmt: skip
    """Return the sum of every rank's array, on every rank, with a bound of its error.

    Parameters
    ----------
    array : array_like of float16, float32 or float64
        Of one shape and dtype on all ranks; NumPy's, or on a GPU. Cells that are not finite on some rank are not
        finite in the sum either, as IEEE arithmetic has it.
    tolerance : float, optional
        No value of the result is farther than this from the sum of the original values.
    relative : float, optional
        In its place: that as a fraction of the range that a sum can have, the number of ranks times the largest range
        of a rank's values.
    comm : Communicator or mpi4py.MPI.Intracomm, optional
        Default: all ranks that were started together.
    algorithm : {'ring', 'halving'}, optional
        Which way the messages take; the result is the same to the bit. Default: recursive halving for short arrays, a
        ring for long ones.

    Returns
    -------
    Reduction
        Its values are the same bits on every rank.

    Raises
    ------
    ShapeError, DtypeError, ToleranceError, ConfigurationError, CommunicatorError
        On every rank, if an array or an argument does not fit on some rank.

    References
    ----------
    R. Thakur, R. Rabenseifner, W. Gropp, "Optimization of Collective Communication Operations in MPICH", 2005, for
    ring and halving.

    Examples
    --------
    >>> import numpy as np, hpcblaz as hb
    >>> from hpcblaz.mpi import world
    >>> found = hb.allreduce(np.ones(1000, np.float32), tolerance=1e-3)
    >>> bool(abs(found.values - world().size).max() <= found.max_abs_error <= 1e-3)
    True
    """
    return iallreduce(array, tolerance=tolerance, relative=relative, comm=comm, algorithm=algorithm).wait()


def iallreduce(
    array: Any, *, tolerance: float | None = None, relative: float | None = None, comm: Any = None,
    algorithm: str | None = None,
) -> Pending:  # fmt: skip
    """Begin :func:`allreduce`, and return what waits for its result."""
    return _begin("allreduce", array, 0, tolerance, relative, comm, algorithm)


def reduce_scatter(
    array: Any, *, tolerance: float | None = None, relative: float | None = None, comm: Any = None,
    algorithm: str | None = None,
) -> Reduction:  # fmt: skip
    """Return a part of the sum of every rank's array: of its first axis, what ``numpy.array_split`` gives this rank.

    Parameters
    ----------
    array, tolerance, relative, comm, algorithm
        As for :func:`allreduce`; the array has at least one axis.

    Returns
    -------
    Reduction

    Examples
    --------
    >>> import numpy as np, hpcblaz as hb
    >>> from hpcblaz.mpi import world
    >>> x = np.arange(12.0).reshape(6, 2)
    >>> found = hb.reduce_scatter(x, tolerance=1e-3)
    >>> part = np.array_split(world().size * x, world().size)[world().rank]
    >>> bool(abs(found.values - part).max(initial=0) <= 1e-3)
    True
    """
    return ireduce_scatter(array, tolerance=tolerance, relative=relative, comm=comm, algorithm=algorithm).wait()


def ireduce_scatter(
    array: Any, *, tolerance: float | None = None, relative: float | None = None, comm: Any = None,
    algorithm: str | None = None,
) -> Pending:  # fmt: skip
    """Begin :func:`reduce_scatter`, and return what waits for its result."""
    return _begin("reduce_scatter", array, 0, tolerance, relative, comm, algorithm)


def allgather(
    array: Any, *, tolerance: float | None = None, relative: float | None = None, comm: Any = None,
    algorithm: str | None = None,
) -> Reduction:  # fmt: skip
    """Return every rank's array one after the other along the first axis, on every rank.

    Parameters
    ----------
    array, tolerance, relative, comm, algorithm
        As for :func:`allreduce`; the first extent may be another on every rank.

    Returns
    -------
    Reduction
        Its values are the same bits on every rank, of their own arrays too.

    Examples
    --------
    >>> import numpy as np, hpcblaz as hb
    >>> from hpcblaz.mpi import world
    >>> hb.allgather(np.ones((2, 3)), tolerance=1e-3).values.shape == (2 * world().size, 3)
    True
    """
    return iallgather(array, tolerance=tolerance, relative=relative, comm=comm, algorithm=algorithm).wait()


def iallgather(
    array: Any, *, tolerance: float | None = None, relative: float | None = None, comm: Any = None,
    algorithm: str | None = None,
) -> Pending:  # fmt: skip
    """Begin :func:`allgather`, and return what waits for its result."""
    return _begin("allgather", array, 0, tolerance, relative, comm, algorithm)


def bcast(
    array: Any, *, root: int = 0, tolerance: float | None = None, relative: float | None = None, comm: Any = None,
    algorithm: str | None = None,
) -> Reduction:  # fmt: skip
    """Return the root's array on every rank.

    Parameters
    ----------
    array : array_like of float16, float32 or float64
        Its values are looked at on the root only. A rank that passes an array on a GPU gets its result there.
    root : int, default 0
    tolerance, relative, comm, algorithm
        As for :func:`allreduce`; 'ring' is a chain, 'halving' a binomial tree.

    Returns
    -------
    Reduction
        Its values are the same bits on every rank, the root included.

    Examples
    --------
    >>> import numpy as np, hpcblaz as hb
    >>> from hpcblaz.mpi import world
    >>> x = np.linspace(0, 1, 100) if world().rank == 0 else None
    >>> hb.bcast(x, tolerance=1e-3).values.shape
    (100,)
    """
    return ibcast(
        array, root=root, tolerance=tolerance, relative=relative, comm=comm, algorithm=algorithm
    ).wait()  # fmt: skip


def ibcast(
    array: Any, *, root: int = 0, tolerance: float | None = None, relative: float | None = None, comm: Any = None,
    algorithm: str | None = None,
) -> Pending:  # fmt: skip
    """Begin :func:`bcast`, and return what waits for its result."""
    return _begin("bcast", array, root, tolerance, relative, comm, algorithm)


def _begin(
    kind: str,
    array: Any,
    root: int,
    tolerance: float | None,
    relative: float | None,
    comm: Any,
    algorithm: str | None,
) -> Pending:
    ranks = world() if comm is None else communicator(comm)
    part = Part(kind, array, root, tolerance, relative, algorithm, ranks)
    if ranks.size == 1:
        if part.error is not None:
            raise part.error
        return Pending(None, Reduction(part.original.copy(), 0.0, 0.0, "none"))
    channels = channels_of(ranks)
    running = Running(channels)
    running.begin(steps(part, channels, running))
    return Pending(running)
