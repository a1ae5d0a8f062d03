"""Halos: which cells of whom lie around a rank's part, in pure integers, and how they get there.

A halo can be wider than the parts, so that it reaches beyond the nearest neighbours, and beyond the whole array along
periodic axes. Corners are part of it. Nothing here knows what the cells hold.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from hpcblaz.errors import DtypeError, LayoutError, ShapeError
from hpcblaz.mpi.comm import Communicator
from hpcblaz.mpi.exchange import exchange
from hpcblaz.mpi.layout import Layout

__all__ = ["Halo", "HaloPlan", "Transfer", "check_alike", "exchange_boxes", "exchange_halo", "plan_halo"]

Cells = tuple[int, ...]
Width = int | Sequence[int | tuple[int, int]]


class Halo(NamedTuple):
    """How many cells around a part: below and above it along each axis, and which axes are periodic."""

    below: Cells
    above: Cells
    periodic: tuple[bool, ...]

    @classmethod
    def of(cls, ndim: int, width: Width, periodic: bool | Sequence[bool] = False) -> Halo:
        """Return the halo of a user's arguments.

        Parameters
        ----------
        ndim : int
            Axes of the array.
        width : int, or sequence of int or pair of int
            Cells on all sides; or for each axis those on both sides, or those (below, above).
        periodic : bool or sequence of bool
            Of all axes, or of each.

        Raises
        ------
        ShapeError
            If there is not one entry for each axis, or a width is no integer of at least 0.

        Examples
        --------
        >>> from hpcblaz.mpi.halo import Halo
        >>> Halo.of(2, [1, (0, 3)], periodic=[True, False])
        Halo(below=(1, 0), above=(1, 3), periodic=(True, False))
        """
        entries = list(width) if isinstance(width, (tuple, list, np.ndarray)) else [width] * ndim
        flags = list(periodic) if isinstance(periodic, (tuple, list, np.ndarray)) else [periodic] * ndim
        if len(entries) != ndim or len(flags) != ndim:
            raise ShapeError(
                f"expected width and periodic to have one entry for each of the {ndim} axes, got {width!r} and "
                f"{periodic!r}"
            )
        if not all(isinstance(flag, (bool, np.bool_)) for flag in flags):
            raise ShapeError(f"expected periodic to be True or False, for all axes or for each, got {periodic!r}")
        pairs = [entry if isinstance(entry, (tuple, list, np.ndarray)) else (entry, entry) for entry in entries]
        try:
            sides = [tuple(operator.index(n) for n in pair) for pair in pairs]
        except TypeError:
            sides = []
        if not sides or any(len(pair) != 2 or min(pair) < 0 for pair in sides):
            raise ShapeError(
                f"expected a width of at least 0 cells, or one or a pair (below, above) for each axis, got {width!r}"
            )
        return cls(tuple(b for b, _ in sides), tuple(a for _, a in sides), tuple(bool(flag) for flag in flags))


class Transfer(NamedTuple):
    """A box of cells that one rank gets from another, or from itself.

    Parameters
    ----------
    rank : int
        The other rank.
    low, high : tuple of int
        First cell and end of the box in the whole array: cells that the sender owns.
    place : tuple of int
        Where its first cell belongs in the receiver's neighbourhood.
    """

    rank: int
    low: Cells
    high: Cells
    place: Cells

    @property
    def shape(self) -> Cells:
        """Extents of the box."""
        return tuple(h - o for o, h in zip(self.low, self.high, strict=True))

    @property
    def target(self) -> tuple[slice, ...]:
        """Slices of the receiver's neighbourhood."""
        return tuple(slice(p, p + n) for p, n in zip(self.place, self.shape, strict=True))


class HaloPlan(NamedTuple):
    """What a rank's part and its halo are made of.

    Parameters
    ----------
    low : tuple of int
        Index of the first cell of the neighbourhood in the whole array; beyond it along periodic axes.
    shape : tuple of int
        Of the neighbourhood: the part and its halo.
    inner : tuple of slice
        Where the part is in it.
    incoming : tuple of Transfer
        Boxes that fill the neighbourhood, each cell once; those of this rank itself among them.
    outgoing : tuple of Transfer
        Boxes of this rank that others get, in the order in which these have them.
    """

    low: Cells
    shape: Cells
    inner: tuple[slice, ...]
    incoming: tuple[Transfer, ...]
    outgoing: tuple[Transfer, ...]


def plan_halo(layout: Layout, halo: Halo) -> HaloPlan:
    """Plan which boxes go to which rank, without MPI and without asking anybody.

    The work and the plan grow with the number of neighbours, not with the number of ranks.

    Parameters
    ----------
    layout : Layout
    halo : Halo
        The same on all ranks. There is nothing beyond the faces of axes that are not periodic, and nothing around an
        empty part.

    Returns
    -------
    HaloPlan
        Of `layout.rank`.

    Examples
    --------
    >>> from hpcblaz.mpi import Layout
    >>> from hpcblaz.mpi.halo import Halo, plan_halo
    >>> plan = plan_halo(Layout((12,), block_shape=(4,), rank=1, size=3), Halo.of(1, 1))
    >>> plan.low, plan.shape
    ((3,), (6,))
    >>> [(box.rank, box.low, box.high) for box in plan.incoming]
    [(0, (3,), (4,)), (1, (4,), (8,)), (2, (8,), (9,))]
    """
    axes = [_Axis(layout, halo, axis) for axis in range(layout.ndim)]
    own = _coordinates(layout.rank, layout.splits)
    incoming = _boxes(layout, [axis.sources(part) for axis, part in zip(axes, own, strict=True)])
    outgoing = _boxes(layout, [axis.targets(part) for axis, part in zip(axes, own, strict=True)])
    reach = [axis.reach(part) for axis, part in zip(axes, own, strict=True)]
    empty = not all(layout.local_shape)
    low = layout.offset if empty else tuple(first for first, _ in reach)
    shape = layout.local_shape if empty else tuple(end - first for first, end in reach)
    begins = [o - first for o, first in zip(layout.offset, low, strict=True)]
    inner = tuple(slice(b, b + n) for b, n in zip(begins, layout.local_shape, strict=True))
    others = tuple(box for box in outgoing if box.rank != layout.rank)
    return HaloPlan(low, shape, inner, incoming, others)


class _Axis:
    """The parts of one axis, and their neighbourhoods."""

    def __init__(self, layout: Layout, halo: Halo, axis: int) -> None:
        self.extent = layout.global_shape[axis]
        self.periodic = halo.periodic[axis]
        self.below, self.above = halo.below[axis], halo.above[axis]
        stride = 1
        for parts in layout.splits[axis + 1 :]:
            stride *= parts
        self.parts = [layout.slices_of(stride * part)[axis] for part in range(layout.splits[axis])]

    def reach(self, part: int) -> tuple[int, int]:
        """Return first cell and end of the neighbourhood of a part; none around an empty one."""
        own = self.parts[part]
        if own.start == own.stop:
            return own.start, own.stop
        low, high = own.start - self.below, own.stop + self.above
        return (low, high) if self.periodic else (max(0, low), min(self.extent, high))

    def segments(self, receiver: int, sender: int) -> list[tuple[int, int, int]]:
        """Return the runs of cells that one part gets of another: first, end, and place in the neighbourhood."""
        low, high = self.reach(receiver)
        theirs = self.parts[sender]
        found = []
        rounds = range(low // self.extent, (high - 1) // self.extent + 1) if high > low else ()
        for number in rounds:
            shift = number * self.extent
            first, end = max(low, theirs.start + shift), min(high, theirs.stop + shift)
            if first < end:
                found.append((first - shift, end - shift, first - low))
        return found

    def sources(self, part: int) -> list[tuple[int, int, int, int]]:
        """Return what a part gets: the part that sends it, and the run."""
        return [(other, *run) for other in range(len(self.parts)) for run in self.segments(part, other)]

    def targets(self, part: int) -> list[tuple[int, int, int, int]]:
        """Return what others get of a part: the part that gets it, and the run."""
        return [(other, *run) for other in range(len(self.parts)) for run in self.segments(other, part)]


def _boxes(layout: Layout, axes: list[list[tuple[int, int, int, int]]]) -> tuple[Transfer, ...]:
    """Return the boxes of runs along all axes, ordered by rank and place: both sides have the same order."""
    boxes = []
    for runs in itertools.product(*axes):
        rank = 0
        for (part, _, _, _), parts in zip(runs, layout.splits, strict=True):
            rank = rank * parts + part
        boxes.append(
            Transfer(
                rank, tuple(low for _, low, _, _ in runs), tuple(high for *_, high, _ in runs),
                tuple(place for *_, place in runs),
            )
        )  # fmt: skip
    return tuple(sorted(boxes, key=lambda box: (box.rank, box.place)))


def _coordinates(rank: int, splits: Cells) -> Cells:
    coordinates = []
    for parts in reversed(splits):
        rank, part = divmod(rank, parts)
        coordinates.append(part)
    return tuple(reversed(coordinates))


def check_alike(comm: Communicator, halo: Halo, dtype: npt.DTypeLike, way: int = 0) -> None:
    """Raise LayoutError on all ranks unless all have asked for the same halo: otherwise messages would not meet.

    Parameters
    ----------
    comm : Communicator
    halo : Halo
    dtype : dtype
        Of the values.
    way : int, default 0
        A number that stands for how they are exchanged.
    """
    kind = np.dtype(dtype)
    rows = comm.allgather([*halo.below, *halo.above, *halo.periodic, kind.num, kind.itemsize, way])
    if (rows != rows[0]).any():
        raise LayoutError(
            f"expected one width, one periodic, one dtype and one way to exchange on all ranks, got {halo}, {kind} and "
            f"way {way} on rank {comm.rank}, and others elsewhere: pass the same arguments on every rank"
        )


def exchange_boxes(
    comm: Communicator,
    plan: HaloPlan,
    cut: Callable[[Transfer], npt.NDArray[Any]],
    dtype: npt.DTypeLike,
    meanwhile: Callable[[], None] | None = None,
) -> list[tuple[Transfer, npt.NDArray[Any]]]:
    """Send the boxes of a plan to the ranks that need them, and return what this rank gets of others.

    Every rank calls it; messages go between neighbours, one to each.

    Parameters
    ----------
    comm : Communicator
        Of the layout of the plan.
    plan : HaloPlan
    cut : callable
        Returns the values of an outgoing box, of its shape and of `dtype`. If it fails on a rank, all ranks raise.
    dtype : dtype
        Of all values, without Python objects.
    meanwhile : callable, optional
        Called while the messages are under way, as by :func:`~hpcblaz.mpi.exchange.exchange`.

    Returns
    -------
    list of (Transfer, numpy.ndarray)
        Incoming boxes of other ranks, and their values.
    """
    kind = np.dtype(dtype)
    outgoing: dict[int, Any] = {}
    with comm.together():
        for rank, boxes in itertools.groupby(plan.outgoing, key=lambda box: box.rank):
            pieces = [np.ascontiguousarray(cut(box), dtype=kind).reshape(-1) for box in boxes]
            outgoing[rank] = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
    others = [box for box in plan.incoming if box.rank != comm.rank]
    sizes: dict[int, int] = {}
    for box in others:
        sizes[box.rank] = sizes.get(box.rank, 0) + int(np.prod(box.shape)) * kind.itemsize
    messages = {rank: message.view(kind) for rank, message in exchange(comm, outgoing, sizes, meanwhile).items()}
    found, used = [], dict.fromkeys(messages, 0)
    for box in others:
        begin, count = used[box.rank], int(np.prod(box.shape))
        found.append((box, messages[box.rank][begin : begin + count].reshape(box.shape)))
        used[box.rank] = begin + count
    return found


def exchange_halo(
    comm: Communicator, part: npt.ArrayLike, layout: Layout, width: Width, *, periodic: bool | Sequence[bool] = False
) -> npt.NDArray[Any]:
    """Return this rank's part of an array with cells of its neighbours around it.

    A collective call; messages go between neighbours only.

    Parameters
    ----------
    comm : Communicator
        Of the layout.
    part : array_like, shape `layout.local_shape`
        In host memory, of one dtype on all ranks, without Python objects.
    layout : Layout
    width : int, or sequence of int or pair of int
        Cells on all sides; or for each axis those on both sides, or those (below, above). The same on all ranks.
    periodic : bool or sequence of bool, default False
        Whether cells beyond the faces are those from the other end, for all axes or for each. Otherwise there are none.

    Returns
    -------
    numpy.ndarray
        Of the dtype of `part`.

    Raises
    ------
    ShapeError, DtypeError, LayoutError
        If part, widths or flags do not fit the layout, or differ between ranks.

    Examples
    --------
    >>> import numpy as np
    >>> from hpcblaz.mpi import Layout, world
    >>> from hpcblaz.mpi.halo import exchange_halo
    >>> comm = world()
    >>> layout = Layout((9, 4), comm, block_shape=(2, 2))
    >>> x = np.arange(36).reshape(9, 4)
    >>> around = exchange_halo(comm, layout.local(x), layout, 1, periodic=True)
    >>> around.shape == tuple(n + 2 for n in layout.local_shape)
    True
    """
    with comm.together():
        if (layout.rank, layout.size) != (comm.rank, comm.size):
            raise LayoutError(
                f"layout: expected one made for rank {comm.rank} of {comm.size}, got rank {layout.rank} of "
                f"{layout.size}; pass this communicator as its comm"
            )
        halo = Halo.of(layout.ndim, width, periodic)
        plan = plan_halo(layout, halo)
        values = np.asarray(part)
        values = values.astype(values.dtype.newbyteorder("="), copy=False)
        if values.shape != layout.local_shape:
            raise ShapeError(f"part: expected this rank's part {layout.local_shape}, got {values.shape}")
        if values.dtype.hasobject:
            raise DtypeError(f"part: expected a dtype of plain numbers, got {values.dtype}; convert it")
        result = np.empty(plan.shape, values.dtype)
    check_alike(comm, halo, values.dtype)

    def cut(box: Transfer) -> npt.NDArray[Any]:
        ends = zip(box.low, box.high, layout.offset, strict=True)
        return values[tuple(slice(low - first, high - first) for low, high, first in ends)]

    def place_own() -> None:
        for box in plan.incoming:
            if box.rank == layout.rank:
                result[box.target] = cut(box)

    for box, found in exchange_boxes(comm, plan, cut, values.dtype, place_own):
        result[box.target] = found
    return result
