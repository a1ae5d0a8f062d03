"""Basic indices: what part of a field they need, and what they take from it."""

import operator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcblaz.errors import UnsupportedOperationError
from hpcblaz.mpi import Layout


@dataclass(frozen=True)
class Part:
    """What one rank has of a window: cells of its own array, and their place in the window."""

    local: tuple[tuple[int, ...], tuple[int, ...]]
    place: tuple[slice, ...]


@dataclass(frozen=True)
class Window:
    """The smallest box of cells that holds all that a basic index asks for.

    Parameters
    ----------
    low, high : tuple of int
        First cell of the box, and the cell after its last.
    rest : tuple
        The index to take from the box.
    """

    low: tuple[int, ...]
    high: tuple[int, ...]
    rest: tuple[Any, ...]

    @classmethod
    def of(cls, index: Any, shape: tuple[int, ...]) -> "Window":
        """Return the window of an index of integers, slices, Ellipsis and None.

        Raises
        ------
        IndexError
            If the index does not fit the shape.
        UnsupportedOperationError
            If the index is an array or a list.
        """
        entries = list(index) if isinstance(index, tuple) else [index]
        used = sum(1 for entry in entries if entry is not None and entry is not Ellipsis)
        if sum(1 for entry in entries if entry is Ellipsis) > 1:
            raise IndexError("expected at most one Ellipsis in an index")
        if used > len(shape):
            raise IndexError(f"expected at most {len(shape)} indices, got {used}")
        if Ellipsis not in [entry for entry in entries if isinstance(entry, type(Ellipsis))]:
            entries.append(Ellipsis)
        low: list[int] = []
        high: list[int] = []
        rest: list[Any] = []
        for entry in entries:
            if entry is None:
                rest.append(None)
            elif entry is Ellipsis:
                for _ in range(len(shape) - used):
                    n = shape[len(low)]
                    low.append(0)
                    high.append(n)
                    rest.append(slice(None))
            else:
                first, last, taken = _along(entry, shape[len(low)], len(low))
                low.append(first)
                high.append(last)
                rest.append(taken)
        return cls(tuple(low), tuple(high), tuple(rest))

    def take(self, box: NDArray[Any]) -> Any:
        """Return what the index asks for from the values of the box."""
        return box[self.rest]

    def part(self, layout: Layout) -> Part | None:
        """Return what the layout's rank has of the box; None if nothing."""
        begin = [max(first, o) for first, o in zip(self.low, layout.offset, strict=True)]
        end = [min(h, o + n) for h, o, n in zip(self.high, layout.offset, layout.local_shape, strict=True)]
        if any(b >= e for b, e in zip(begin, end, strict=True)):
            return None
        local_low = tuple(b - o for b, o in zip(begin, layout.offset, strict=True))
        local_high = tuple(e - o for e, o in zip(end, layout.offset, strict=True))
        place = tuple(slice(b - first, e - first) for b, e, first in zip(begin, end, self.low, strict=True))
        return Part((local_low, local_high), place)


def _along(entry: Any, n: int, axis: int) -> tuple[int, int, Any]:
    """Return first cell, end, and the remaining index along one axis."""
    if isinstance(entry, slice):
        cells = range(*entry.indices(n))
        if not cells:
            return 0, 0, slice(0, 0)
        if cells.step > 0:
            return cells[0], cells[-1] + 1, slice(0, None, cells.step)
        return cells[-1], cells[0] + 1, slice(None, None, cells.step)
    if isinstance(entry, (bool, np.bool_)) or (isinstance(entry, (list, np.ndarray)) and np.ndim(entry) > 0):
        raise UnsupportedOperationError(
            f"expected integers and slices in an index, got {type(entry).__name__}: take a slice, then index its values"
        )
    try:
        i = operator.index(entry)
    except TypeError:
        raise IndexError(f"expected integers and slices in an index, got {entry!r}") from None
    if not -n <= i < n:
        raise IndexError(f"expected an index from {-n} to {n - 1} along axis {axis}, got {i}")
    i %= n
    return i, i + 1, 0
