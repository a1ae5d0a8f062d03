"""Decoded values of a rank's part with some cells of its neighbours around it."""

from typing import TYPE_CHECKING, Any, NamedTuple

from hpcblaz.backend.dispatch import drivers_of
from hpcblaz.fields.gaps import decode_window

if TYPE_CHECKING:
    from hpcblaz.fields.array import CompressedArray

Cell = tuple[int, ...]


class Neighbourhood(NamedTuple):
    """Values in double precision, and the index of their first cell in the whole field."""

    values: Any
    low: Cell


def with_halo(a: "CompressedArray", below: int, above: int) -> Neighbourhood:
    """Return the values of this rank's part, and up to so many cells below and above it along every axis.

    A collective call: parts of neighbours are exchanged. There is nothing beyond the faces of the field, and nothing
    around an empty part.
    """
    shape = a._numerics.grid.shape
    if a.layout is None:
        return Neighbourhood(decode_window(a, (0,) * a.ndim, shape), (0,) * a.ndim)
    drivers = drivers_of(a._blocks)
    low, high = _extended(a, a.layout.rank, below, above)
    values = drivers.array_module().zeros(tuple(h - o for o, h in zip(low, high, strict=True)))
    sent: dict[int, tuple[tuple[Cell, Cell], Any]] = {}
    for rank in range(a._comm.size):
        box = _common(_extended(a, rank, below, above), _extended(a, a.layout.rank, 0, 0))
        if box is not None:
            local = (tuple(cell - o for cell, o in zip(end, a.layout.offset, strict=True)) for end in box)
            piece = decode_window(a, *local)
            sent[rank] = (box, piece if rank == a.layout.rank else drivers.asnumpy(piece))
    own = sent.pop(a.layout.rank, None)
    for pieces in a._comm.gather_objects(sent):
        if a.layout.rank in pieces:
            _place(values, low, pieces[a.layout.rank], drivers)
    if own is not None:
        _place(values, low, own, drivers)
    return Neighbourhood(values, low)


def _place(values: Any, low: Cell, piece: tuple[tuple[Cell, Cell], Any], drivers: Any) -> None:
    box, found = piece
    place = tuple(slice(b - o, e - o) for b, e, o in zip(*box, low, strict=True))
    values[place] = drivers.asarray(found)


def _extended(a: "CompressedArray", rank: int, below: int, above: int) -> tuple[Cell, Cell]:
    """Return first cell and end of a rank's part with its halo."""
    slices = a.layout.slices_of(rank) if a.layout is not None else ()
    if any(part.start == part.stop for part in slices):
        return tuple(part.start for part in slices), tuple(part.stop for part in slices)
    low = tuple(max(0, part.start - below) for part in slices)
    return low, tuple(min(n, part.stop + above) for part, n in zip(slices, a.shape, strict=True))


def _common(first: tuple[Cell, Cell], second: tuple[Cell, Cell]) -> tuple[Cell, Cell] | None:
    low = tuple(map(max, first[0], second[0]))
    high = tuple(map(min, first[1], second[1]))
    return (low, high) if all(o < h for o, h in zip(low, high, strict=True)) else None
