"""Fields to look at, compressed or plain: their values slab by slab, slice by slice, with the bounds of their error."""

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpcblaz.backend.dispatch import drivers_of
from hpcblaz.errors import DtypeError, ShapeError
from hpcblaz.fields.array import CompressedArray
from hpcblaz.fields.scalars import ErrorBound
from hpcblaz.mpi import Layout

SLAB_CELLS = 1 << 18  # cells that are decoded at a time, where a row of blocks is no larger

Values = NDArray[np.float64]
Field = CompressedArray | NDArray[Any]


class Source(NamedTuple):
    """A field to look at.

    Parameters
    ----------
    name : str
        What tables and pictures call it.
    field : CompressedArray or numpy.ndarray
        The whole field; of a plain one every rank has (or maps) all of it.
    layout : Layout, optional
        How the field is split over ranks.
    attributes : mapping, optional
        Such as ``units``, and ``dimensions``: the names of the axes.
    """

    name: str
    field: Field
    layout: Layout | None = None
    attributes: Mapping[str, Any] = {}

    @classmethod
    def of(cls, name: str, field: Field, layout: Layout | None = None) -> "Source":
        """Return a source of an array.

        Raises
        ------
        DtypeError
            If it holds something other than real numbers that a float64 can hold.
        """
        if isinstance(field, CompressedArray):
            return cls(name, field, field.layout, field.attributes)
        if field.dtype.kind not in "iuf" or field.dtype.itemsize > 8:
            raise DtypeError(f"{name}: expected integers or floats of at most 64 bits, got {field.dtype}")
        return cls(name, field, layout)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the whole field."""
        return self.field.shape

    @property
    def error(self) -> ErrorBound:
        """Bounds of the difference between these values and the data that they stand for; a plain field has none."""
        return self.field.error if isinstance(self.field, CompressedArray) else ErrorBound(0.0, 0.0)

    @property
    def block_shape(self) -> tuple[int, ...]:
        """Sides of a block; 1 along each axis of a plain field."""
        sides = self.field.codec.block_shape if isinstance(self.field, CompressedArray) else None
        return sides or (1,) * len(self.shape)

    @property
    def own(self) -> Field:
        """What this rank has of the field."""
        if isinstance(self.field, CompressedArray):
            return self.field.local
        return self.field if self.layout is None else self.layout.local(self.field)

    def take(self, index: tuple[Any, ...]) -> Values:
        """Return what a basic index takes from the whole field; a collective call, with one answer on all ranks."""
        return _doubles(self.name, _on_host(self.field, index))


def slabs(*sources: Source) -> Iterator[tuple[Values, ...]]:
    """Yield what this rank has of some fields of one shape and layout, a few rows of blocks at a time.

    Parameters
    ----------
    *sources : Source

    Yields
    ------
    tuple of numpy.ndarray
        Values of the same cells of every field, as float64.

    Raises
    ------
    ShapeError
        If shapes differ.
    """
    shapes = {source.shape for source in sources}
    if len(shapes) != 1:
        raise ShapeError(f"expected fields of one shape, got {' and '.join(map(str, shapes))}")
    owns = [source.own for source in sources]
    shape = owns[0].shape
    if not math.prod(shape):
        return
    if not shape:  # a single number
        yield tuple(_doubles(source.name, own[()]) for source, own in zip(sources, owns, strict=True))
        return
    side = math.lcm(*[source.block_shape[0] for source in sources])
    rows = max(1, SLAB_CELLS // (side * math.prod(shape[1:]))) * side
    for start in range(0, shape[0], rows):
        yield tuple(
            _doubles(source.name, _on_host(own, slice(start, start + rows)))
            for source, own in zip(sources, owns, strict=True)
        )


def slab_cells(*sources: Source) -> int:
    """Return how many cells a slab has at most."""
    shape = sources[0].shape
    side = math.lcm(*[source.block_shape[0] for source in sources]) if shape else 1
    return max(SLAB_CELLS, side * math.prod(shape[1:]))


def _on_host(field: Field, index: Any) -> Any:
    values = field[index]
    return drivers_of(field._blocks).asnumpy(values) if isinstance(field, CompressedArray) else values


def _doubles(name: str, values: Any) -> Values:
    doubles = np.ascontiguousarray(values, np.float64).reshape(np.shape(values))
    values = np.asarray(values)
    if values.dtype.kind in "iu" and values.dtype.itemsize == 8 and values.size and np.abs(doubles).max() > 2.0**53:
        raise DtypeError(f"{name}: expected integers up to 2**53, which a float64 holds, got larger ones")
    return doubles
