"""Fields to look at, compressed or plain: their values slab by slab, slice by slice, with the bounds of their error."""

import math
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from hpcblaz.backend.dispatch import drivers_of
from hpcblaz.errors import DtypeError, ShapeError
from hpcblaz.fields.array import CompressedArray
from hpcblaz.fields.scalars import ErrorBound
from hpcblaz.fields.window import Window
from hpcblaz.mpi import Layout

SLAB_CELLS = 1 << 18  # cells that are decoded at a time, where a row of blocks is no larger

Values = NDArray[np.float64]


class PlainField(Protocol):
    """Values that are not compressed: an array, or a field in a file that reads what slices ask for."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the whole field."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""

    def __getitem__(self, slices: tuple[slice, ...], /) -> Any:
        """Return the values of a box of cells."""


class FieldView(NamedTuple):
    """A field to look at, compressed or plain.

    Parameters
    ----------
    name : str
        What tables and pictures call it.
    field : CompressedArray or PlainField
        The whole field; of a plain one every rank can read all of it.
    layout : Layout, optional
        How the field is split over ranks.
    attributes : mapping, optional
        Such as ``units``, and ``dims``: the names of the axes.
    fill_value : float, optional
        The number that stands for a missing one in a plain field; NaN does without being declared.
    """

    name: str
    field: CompressedArray | PlainField
    layout: Layout | None = None
    attributes: Mapping[str, Any] = MappingProxyType({})
    fill_value: float | None = None

    @classmethod
    def of(
        cls,
        name: str,
        field: CompressedArray | PlainField,
        layout: Layout | None = None,
        attributes: Mapping[str, Any] = MappingProxyType({}),
        fill_value: float | None = None,
    ) -> "FieldView":
        """Return a view of a field; a compressed one has layout and attributes of its own.

        Raises
        ------
        DtypeError
            If it holds something other than real numbers that a float64 can hold.
        """
        if isinstance(field, CompressedArray):
            nested = field.attributes.get("attrs")  # of a variable that came with dims, coordinates and attributes
            return cls(name, field, field.layout, {**(nested if isinstance(nested, dict) else {}), **field.attributes})
        if field.dtype.kind not in "iuf" or field.dtype.itemsize > 8:
            raise DtypeError(f"{name}: expected integers or floats of at most 64 bits, got {field.dtype}")
        return cls(name, field, layout, attributes, fill_value)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the whole field."""
        return self.field.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values as they are stored."""
        return self.field.dtype

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
    def own(self) -> tuple[slice, ...]:
        """Which cells of the field this rank has."""
        return self.layout.slices if self.layout is not None else tuple(map(slice, (0,) * len(self.shape), self.shape))

    def read(self, cells: tuple[slice, ...]) -> Values:
        """Return values of cells that this rank has, as float64, with NaN where one is missing."""
        if isinstance(self.field, CompressedArray):
            offset = self.layout.offset if self.layout is not None else (0,) * len(self.shape)
            local = tuple(slice(c.start - o, c.stop - o) for c, o in zip(cells, offset, strict=True))
            doubles = self._doubles(drivers_of(self.field._blocks).asnumpy(self.field.local[local]))
            if self.field._missing is not None:
                window = tuple(c.start for c in local), tuple(c.stop for c in local)
                doubles[self.field._missing.window(*window)] = np.nan
            return doubles
        return self._doubles(self.field[cells])

    def take(self, index: tuple[Any, ...]) -> Values:
        """Return what a basic index takes from the whole field; a collective call, with one answer on all ranks."""
        if isinstance(self.field, CompressedArray):
            doubles = self._doubles(drivers_of(self.field._blocks).asnumpy(self.field[index]))
            own = None if self.field._missing is None else self.field._missing.fill_value
            for value in {one for one in self.field._comm.gather_objects(own) if one is not None}:
                doubles = np.where(doubles == value, np.nan, doubles)
            return doubles
        window = Window.of(index, self.shape)
        values: Values = window.take(self._doubles(self.field[tuple(map(slice, window.low, window.high))]))
        return values

    def _doubles(self, values: Any) -> Values:
        values = np.asarray(values)
        doubles: Values = values.astype(np.float64)
        wide = values.dtype.kind in "iu" and values.dtype.itemsize == 8
        if wide and values.size and np.abs(doubles).max() > 2.0**53:
            raise DtypeError(f"{self.name}: expected integers up to 2**53, which a float64 holds, got larger ones")
        if self.fill_value is not None:
            doubles[values == self.fill_value] = np.nan
        return doubles


def slabs(*views: FieldView) -> Iterator[tuple[Values, ...]]:
    """Yield what this rank has of some fields of one shape and layout, a few rows of blocks at a time.

    Parameters
    ----------
    *views : FieldView

    Yields
    ------
    tuple of numpy.ndarray
        Values of the same cells of every field, as float64.

    Raises
    ------
    ShapeError
        If shapes differ.
    """
    shapes = {view.shape for view in views}
    if len(shapes) != 1:
        raise ShapeError(f"expected fields of one shape, got {' and '.join(map(str, shapes))}")
    box = views[0].own
    shape = tuple(cells.stop - cells.start for cells in box)
    if not math.prod(shape):
        return
    if not shape:  # a single number
        yield tuple(view.read(()) for view in views)
        return
    side = math.lcm(*[view.block_shape[0] for view in views])
    rows = max(1, SLAB_CELLS // (side * math.prod(shape[1:]))) * side
    for start in range(box[0].start, box[0].stop, rows):
        slab = (slice(start, min(start + rows, box[0].stop)), *box[1:])
        yield tuple(view.read(slab) for view in views)


def slab_cells(*views: FieldView) -> int:
    """Return how many cells a slab has at most."""
    shape = views[0].shape
    side = math.lcm(*[view.block_shape[0] for view in views]) if shape else 1
    return max(SLAB_CELLS, side * math.prod(shape[1:]))
