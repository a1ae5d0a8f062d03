"""What is to be compressed: checked, contiguous, with its missing cells found and filled."""

import math
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hpcblaz.backend import gpu
from hpcblaz.backend.dispatch import drivers
from hpcblaz.backend.payload import Numerics
from hpcblaz.errors import DtypeError, LayoutError, ShapeError, UnsupportedOperationError
from hpcblaz.fields.arithmetic import is_array
from hpcblaz.fields.codec import BlockCodec, Codec, grid_of, with_block_shape
from hpcblaz.fields.filling import fill
from hpcblaz.fields.missing import CellSet, Missing, find, stack
from hpcblaz.fields.streaming import slab_bounds
from hpcblaz.mpi import Communicator, Layout

_EXACT_IN_SINGLE = ("float16", "float32", "int8", "uint8", "int16", "uint16")
SUPPORTED = (*_EXACT_IN_SINGLE, "float64", "int32", "uint32", "int64", "uint64")


class Sliceable(Protocol):
    """What is read by slices: a variable of a file, or anything like it."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its extents."""

    @property
    def dtype(self) -> Any:
        """Type of its values."""

    def __getitem__(self, slices: Any, /) -> Any:
        """Return the values of a box of cells."""


class Input:
    """A checked, C-contiguous input with all that the codec has to know of it.

    Its values are finite: missing cells hold numbers between the least and the greatest of the others.
    """

    def __init__(
        self,
        values: Any,
        missing: Missing | None,
        codec: Codec,
        dtype: np.dtype[Any],
        layout: Layout | None,
        device: str,
    ) -> None:
        self.values = values
        self.shape = tuple(values.shape)
        self.wide = values.dtype
        self.codec = codec
        self.dtype = dtype
        self.layout = layout
        self.device = device
        self.drivers = drivers(device)
        self.grid = grid_of(codec, self.shape)
        self._extent = self._range()
        if missing is not None or self._extent is None:
            self.values, self.missing = self._without_missing(missing)
            self._extent = self._range() if self.valid else (math.inf, -math.inf)
        else:
            self.missing = None

    @classmethod
    def of(
        cls, x: ArrayLike | Sliceable, codec: Codec, layout: Layout | None, device: str, fill_value: float | None = None
    ) -> "Input":
        """Return the source of an array; raise DtypeError, ShapeError, LayoutError or CodecError if it is none."""
        array = _array_of(x)
        backend = drivers(device)
        if gpu.is_device_array(array):
            array = backend.asarray(array)
        if array.dtype.newbyteorder("=").name not in SUPPORTED:
            raise DtypeError(
                f"expected dtype float16, float32, float64 or an integer type, got {array.dtype}: "
                "convert with x.astype(...), or compress real and imaginary parts separately"
            )
        dtype = array.dtype.newbyteorder("=")
        if array.ndim == 0:
            raise ShapeError("expected an array of 1 to 4 axes, got a single number: wrap it as np.array([x])")
        codec = with_block_shape(codec, array.ndim)
        _check_layout(array, codec, layout)
        if isinstance(codec, BlockCodec):
            codec.mask(codec.block_shape or ())
        flags, value = _declared(x, array, dtype, fill_value)
        if dtype.name in ("int64", "uint64"):
            _check_exact(array if flags is None else array[~flags])
        wide = np.float32 if dtype.name in _EXACT_IN_SINGLE else np.float64
        if isinstance(array, np.ndarray):  # in order on the host: cards have one byte order
            array = backend.asarray(np.ascontiguousarray(array, dtype=wide))
        values = backend.array_module().ascontiguousarray(array, dtype=wide)
        missing = None
        if flags is not None and flags.any():
            kind = "fill" if math.isfinite(value) else {math.inf: "+inf", -math.inf: "-inf"}.get(value, "nan")
            cells = CellSet.of(np.ascontiguousarray(backend.asnumpy(flags)))
            missing = Missing.of(values.shape, {kind: cells}, value if kind == "fill" else None)
        return cls(values, missing, codec, dtype, layout, device)

    def _range(self) -> tuple[float, float] | None:
        if not self.values.size:
            return math.inf, -math.inf
        extent: tuple[float, float] | None = self.drivers.value_range(
            self.values, self.numerics(self.values.dtype.name)
        )
        return extent

    def _without_missing(self, declared: Missing | None) -> tuple[Any, Missing | None]:
        """Return the values with numbers in place of what is missing, and what that is."""
        xp, drivers = self.drivers.array_module(), self.drivers
        shape = tuple(self.values.shape)
        low = (0,) * len(shape)
        values = self.values.copy()
        sets = {} if declared is None else dict(declared.sets)
        if self._extent is None:
            for kind, flags in find(values, xp, drivers.asnumpy).items():
                cells = CellSet.of(flags)
                for other in (declared.sets if declared is not None else {}).values():
                    cells = cells.without(other)  # declared cells keep their kind
                sets[kind] = sets[kind].union(cells) if kind in sets else cells
        missing = Missing.of(shape, sets, None if declared is None else declared.fill_value)
        if missing is not None:
            fill(values, missing.window(low, shape), self.grid, xp, drivers.asarray)
        return values, missing

    @property
    def extent(self) -> tuple[float, float]:
        """Least and greatest number of this rank; (inf, -inf) if there is none."""
        return self._extent or (math.inf, -math.inf)

    @property
    def valid(self) -> int:
        """Cells of this rank that hold numbers."""
        return self.grid.size - (self.missing.count if self.missing is not None else 0)

    def pieces(self) -> "Iterator[Input]":
        """Yield the slabs that are compressed one after the other: here the whole is one."""
        yield self

    def numerics(self, precision: str) -> Numerics:
        """Return how blocks are computed with in a precision."""
        return Numerics(self.grid, self.codec.transform, precision)

    def global_extent(self, comm: Communicator) -> tuple[float, float]:
        """Return the least and greatest number of the whole field, (0, 0) if there is none."""
        extents = comm.allgather(np.array(self.extent))
        low, high = float(extents[:, 0].min()), float(extents[:, 1].max())
        return (low, high) if low <= high else (0.0, 0.0)

    @property
    def cells(self) -> int:
        """Cells of the whole field."""
        return math.prod(self.layout.global_shape) if self.layout is not None else self.grid.size


class StreamedInput(Input):
    """An input that is read slab by slab, twice: for its range and its missing cells, and to be compressed."""

    def __init__(
        self, x: Any, codec: Codec, layout: Layout | None, device: str, fill_value: float | None, first: Input
    ) -> None:
        self._x = x
        self._fill_value = fill_value
        self._wanted = codec
        self.shape = tuple(int(n) for n in x.shape)
        self.wide = first.wide
        self.codec = first.codec
        self.dtype = first.dtype
        self.layout = layout
        self.device = device
        self.drivers = drivers(device)
        self.grid = grid_of(self.codec, self.shape)
        found, extents = [], []
        for piece in self.pieces():
            found.append((piece.missing, piece.shape))
            extents.append(piece.extent)
        self.missing = stack(self.shape, found)
        self._extent = min(low for low, _ in extents), max(high for _, high in extents)

    @classmethod
    def of(
        cls, x: Any, codec: Codec, layout: Layout | None, device: str, fill_value: float | None = None
    ) -> "StreamedInput":
        """Return the source of an array that is read by slices; raise as :meth:`Input.of` does."""
        first = Input.of(x[(slice(0, 0),) * len(x.shape)], codec, None, device, fill_value)
        _check_layout(x, first.codec, layout)
        return cls(x, codec, layout, device, fill_value, first)

    def pieces(self) -> Iterator[Input]:
        """Yield the slabs of the input, read one after the other."""
        for start, stop in slab_bounds(self.grid):
            yield Input.of(self._x[start:stop], self._wanted, None, self.device, self._fill_value)


def is_lazy(x: Any) -> bool:
    """Say whether an input is to be read slab by slab: a variable of a file, or anything else that is no array yet."""
    if isinstance(x, (np.ndarray, np.generic)) or is_array(x) or gpu.is_device_array(x):
        return False
    return all(hasattr(x, name) for name in ("shape", "dtype", "__getitem__")) and len(x.shape) > 0


def _array_of(x: Any) -> Any:
    if is_array(x):
        raise UnsupportedOperationError(
            "expected an array, got a CompressedArray: decompress it first, or keep it as it is"
        )
    try:
        return x if gpu.is_device_array(x) else np.asarray(x)
    except ValueError as error:
        raise DtypeError(f"expected an array of numbers, got {type(x).__name__}: {error}") from None


def _check_layout(array: Any, codec: Codec, layout: Layout | None) -> None:
    if layout is None:
        return
    if layout.block_shape != codec.block_shape:
        raise LayoutError(
            f"expected a layout of the codec's block shape {codec.block_shape}, got {layout.block_shape}: "
            "pass block_shape= to Layout"
        )
    if array.shape != layout.local_shape:
        raise ShapeError(
            f"expected this rank's part of shape {layout.local_shape}, got {array.shape}: "
            "layout.local(x) cuts it out of a whole array"
        )


def _check_exact(array: Any) -> None:
    if array.size and max(-int(array.min()), int(array.max())) > 2**53:
        raise DtypeError(
            "expected integers of at most 2**53 in magnitude, which float64 holds exactly, "
            f"got {int(array.min())} to {int(array.max())}"
        )


def _declared(
    x: Any, array: Any, dtype: np.dtype[Any], fill_value: float | None
) -> tuple[NDArray[np.bool_] | None, float | int]:
    """Return flags of the cells that are said to be missing, None if there are none, and what they are to hold."""
    value: float | int = math.nan
    flags: Any = None
    if fill_value is not None:
        value = _as_dtype(fill_value, dtype)
        flags = array == dtype.type(value)
    if isinstance(x, np.ma.MaskedArray) and np.ma.is_masked(x):
        if fill_value is None and dtype.kind in "iu":
            value = int(np.ma.default_fill_value(dtype)) if x.fill_value is None else int(x.fill_value)
            value = _as_dtype(value, dtype)
        mask = np.ma.getmaskarray(x)
        flags = mask if flags is None else flags | mask
    return flags, value


def _as_dtype(fill_value: float, dtype: np.dtype[Any]) -> float | int:
    """Return a fill value as a number of the array's type."""
    try:
        with np.errstate(over="ignore"):
            held = np.asarray(fill_value).astype(dtype)
        same = dtype.kind == "f" or (np.ndim(fill_value) == 0 and int(held) == fill_value)
    except (TypeError, ValueError, OverflowError):
        same = False
    if not same:
        raise DtypeError(f"expected a fill_value that {dtype} holds, got {fill_value!r}")
    value: float | int = held.item()
    if math.isinf(value) and not math.isinf(float(fill_value)):
        raise DtypeError(f"expected a fill_value that {dtype} holds, got {fill_value!r}")
    return value
