"""Who owns what: a block-aligned split of an array over ranks, in pure integers.

Nothing here needs MPI: a layout of a thousand ranks can be planned on a laptop.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Sequence
from typing import Any

from hpcblaz.backend.blocks import default_block_shape
from hpcblaz.errors import LayoutError

__all__ = ["Layout"]


class Layout:
    """Which part of a global array each rank owns.

    Every axis is cut into blocks, and the blocks of an axis are dealt out in contiguous runs that differ by at most
    one block, so no block is ever shared. Ranks are numbered over the grid of parts in C order (the last axis
    fastest). A rank that gets no block owns an empty part: some extent of it is zero.

    Parameters
    ----------
    global_shape : sequence of int
        Extents of the whole array, one or more axes; zero is allowed.
    comm : optional
        None (one rank), an mpi4py communicator, a `hpcblaz.mpi.Communicator`, or anything with integer ``rank`` and
        ``size``. It is kept, and never called.
    block_shape : sequence of int, optional
        Extents of a block. Default: the codec's default for that many axes.
    splits : sequence of int, optional
        Number of parts along each axis; their product is the number of ranks. Default: the split whose largest
        part is smallest, and of equal ones that which cuts the leading axes most (whole slabs are contiguous).
    rank, size : int, optional
        In place of `comm`, to plan without MPI. `rank` defaults to 0.

    Raises
    ------
    LayoutError
        If the shapes, `splits`, `rank` and `size` do not fit together.

    Notes
    -----
    Layouts are immutable, compare equal when all their integers do (`comm` is not looked at), and can be pickled,
    which leaves `comm` behind.

    Examples
    --------
    >>> from hpcblaz.mpi import Layout
    >>> layout = Layout((10, 8), block_shape=(4, 4), rank=1, size=2)
    >>> layout.splits, layout.offset, layout.local_shape
    ((1, 2), (0, 4), (10, 4))
    >>> layout.owner((9, 3))
    0
    """

    __slots__ = ("_block_shape", "_comm", "_global_shape", "_rank", "_size", "_splits")

    def __init__(
        self,
        global_shape: Sequence[int],
        comm: Any = None,
        *,
        block_shape: Sequence[int] | None = None,
        splits: Sequence[int] | None = None,
        rank: int | None = None,
        size: int | None = None,
    ) -> None:
        self._global_shape = _integers("global_shape", global_shape, 0)
        if not self._global_shape:
            raise LayoutError("global_shape: expected at least one axis, got (); reshape a 0-d array to (1,)")
        axes = len(self._global_shape)
        self._block_shape = _integers(
            "block_shape", default_block_shape(axes) if block_shape is None else block_shape, 1
        )
        if len(self._block_shape) != axes:
            raise LayoutError(
                f"block_shape: expected one extent for each of the {axes} axes of {self._global_shape}, "
                f"got {self._block_shape}"
            )
        self._comm = comm
        self._rank, self._size = _rank_and_size(comm, rank, size)
        if splits is None:
            self._splits = _best_splits(self._global_shape, self._block_shape, self._size)
        else:
            self._splits = _integers("splits", splits, 1)
        if len(self._splits) != axes or math.prod(self._splits) != self._size:
            raise LayoutError(
                f"splits: expected {axes} numbers, one for each axis, whose product is the number of ranks, "
                f"{self._size}; got {self._splits}. Leave splits out to have it chosen"
            )

    @property
    def global_shape(self) -> tuple[int, ...]:
        """Extents of the whole array."""
        return self._global_shape

    @property
    def block_shape(self) -> tuple[int, ...]:
        """Extents of a block; the last block of an axis may be cut short by the array's end."""
        return self._block_shape

    @property
    def splits(self) -> tuple[int, ...]:
        """Number of parts along each axis."""
        return self._splits

    @property
    def rank(self) -> int:
        """The rank this layout was made on."""
        return self._rank

    @property
    def size(self) -> int:
        """Number of ranks."""
        return self._size

    @property
    def comm(self) -> Any:
        """The communicator as it was given, or None."""
        return self._comm

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self._global_shape)

    @property
    def local_shape(self) -> tuple[int, ...]:
        """Extents of this rank's part."""
        return self.shape_of(self._rank)

    @property
    def offset(self) -> tuple[int, ...]:
        """Global index of the first cell of this rank's part."""
        return self.offset_of(self._rank)

    @property
    def slices(self) -> tuple[slice, ...]:
        """Slices of the global array that cut out this rank's part."""
        return self.slices_of(self._rank)

    def slices_of(self, rank: int) -> tuple[slice, ...]:
        """Return the slices of the global array that cut out a rank's part.

        Parameters
        ----------
        rank : int
            ``0 <= rank < size``.

        Returns
        -------
        tuple of slice
            One for each axis, with plain int bounds inside the array.

        Raises
        ------
        LayoutError
            If there is no such rank.

        Examples
        --------
        >>> from hpcblaz.mpi import Layout
        >>> Layout((10,), block_shape=(4,), size=2).slices_of(1)
        (slice(8, 10, None),)
        """
        if not 0 <= rank < self._size:
            raise LayoutError(f"rank: expected 0 <= rank < {self._size}, got {rank}")
        slices = []
        for extent, block, parts in zip(
            reversed(self._global_shape), reversed(self._block_shape), reversed(self._splits), strict=True
        ):
            rank, part = divmod(rank, parts)
            start, stop = (min(first * block, extent) for first in _run_of_blocks(extent, block, parts, part))
            slices.append(slice(start, stop))
        return tuple(reversed(slices))

    def shape_of(self, rank: int) -> tuple[int, ...]:
        """Return the extents of a rank's part (see `slices_of`)."""
        return tuple(part.stop - part.start for part in self.slices_of(rank))

    def offset_of(self, rank: int) -> tuple[int, ...]:
        """Return the global index of the first cell of a rank's part (see `slices_of`)."""
        return tuple(part.start for part in self.slices_of(rank))

    def owner(self, index: Sequence[int]) -> int:
        """Return the rank that owns a cell.

        Parameters
        ----------
        index : sequence of int
            Global index, one number for each axis, not negative.

        Returns
        -------
        int
            The one rank whose `slices_of` contain the cell.

        Raises
        ------
        LayoutError
            If the index is not inside the array.

        Examples
        --------
        >>> from hpcblaz.mpi import Layout
        >>> Layout((10,), block_shape=(4,), size=2).owner((8,))
        1
        """
        cell = _integers("index", index, 0)
        if len(cell) != self.ndim or any(i >= n for i, n in zip(cell, self._global_shape, strict=True)):
            raise LayoutError(f"index: expected a cell inside an array of shape {self._global_shape}, got {cell}")
        rank = 0
        for i, extent, block, parts in zip(cell, self._global_shape, self._block_shape, self._splits, strict=True):
            each, longer = divmod(-(-extent // block), parts)
            number = i // block
            if number < longer * (each + 1):
                part = number // (each + 1)
            else:
                part = longer + (number - longer * (each + 1)) // each
            rank = rank * parts + part
        return rank

    def local(self, array: Any) -> Any:
        """Return the view of a global array that this rank owns.

        Parameters
        ----------
        array : array of shape `global_shape`
            NumPy, CuPy, or anything with ``shape`` that takes a tuple of slices.

        Returns
        -------
        array of shape `local_shape`
            A view where the array's slicing gives views.

        Raises
        ------
        LayoutError
            If the array has another shape.

        Examples
        --------
        >>> import numpy as np
        >>> from hpcblaz.mpi import Layout
        >>> Layout((10,), block_shape=(4,), rank=1, size=2).local(np.arange(10))
        array([8, 9])
        """
        if tuple(array.shape) != self._global_shape:
            raise LayoutError(
                f"array: expected the global shape {self._global_shape}, got {tuple(array.shape)}; "
                "pass the whole array, not this rank's part"
            )
        return array[self.slices]

    def _key(self) -> tuple[object, ...]:
        return self._global_shape, self._block_shape, self._splits, self._rank, self._size

    def __eq__(self, other: object) -> bool:
        return self._key() == other._key() if isinstance(other, Layout) else NotImplemented

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        return (
            f"Layout({self._global_shape}, block_shape={self._block_shape}, splits={self._splits}, "
            f"rank={self._rank}, size={self._size})"
        )

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, self._key()


def _rebuild(shape: tuple[int, ...], block: tuple[int, ...], splits: tuple[int, ...], rank: int, size: int) -> Layout:
    return Layout(shape, block_shape=block, splits=splits, rank=rank, size=size)


def _integers(name: str, values: Sequence[int], least: int) -> tuple[int, ...]:
    try:
        result = tuple(operator.index(value) for value in values)
    except TypeError as error:
        raise LayoutError(f"{name}: expected a sequence of integers, got {values!r}") from error
    if any(value < least for value in result):
        raise LayoutError(f"{name}: expected integers of at least {least}, got {result}")
    return result


def _rank_and_size(comm: Any, rank: int | None, size: int | None) -> tuple[int, int]:
    if comm is not None:
        if rank is not None or size is not None:
            raise LayoutError("expected either comm or rank and size, got both; leave one out")
        rank, size = getattr(comm, "rank", None), getattr(comm, "size", None)
        if not isinstance(rank, int) or not isinstance(size, int):
            raise LayoutError(
                f"comm: expected None, a communicator, or an object with integer rank and size; got {comm!r}"
            )
    (size,) = _integers("size", (1 if size is None else size,), 1)
    (rank,) = _integers("rank", (0 if rank is None else rank,), 0)
    if rank >= size:
        raise LayoutError(f"rank: expected 0 <= rank < {size}, got {rank}")
    return rank, size


def _run_of_blocks(extent: int, block: int, parts: int, part: int) -> tuple[int, int]:
    """Return the first block of a part of an axis, and the first one after it."""
    each, longer = divmod(-(-extent // block), parts)
    first = part * each + min(part, longer)
    return first, first + each + (part < longer)


def _best_splits(shape: tuple[int, ...], block_shape: tuple[int, ...], size: int) -> tuple[int, ...]:
    def cost(splits: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
        share = 1
        for extent, block, parts in zip(shape, block_shape, splits, strict=True):
            first, stop = _run_of_blocks(extent, block, parts, 0)  # no part is longer than the first
            share *= min(extent, (stop - first) * block)
        return share, tuple(-parts for parts in splits)

    return min(_factorisations(size, len(shape)), key=cost)


def _factorisations(number: int, factors: int) -> Iterator[tuple[int, ...]]:
    """Yield every ordered way to write `number` as a product of so many positive factors."""
    if factors == 1:
        yield (number,)
        return
    small = [d for d in range(1, math.isqrt(number) + 1) if number % d == 0]
    for first in sorted({*small, *(number // d for d in small)}):
        for rest in _factorisations(number // first, factors - 1):
            yield (first, *rest)
