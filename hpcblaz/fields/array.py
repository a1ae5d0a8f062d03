"""CompressedArray: a field that stays compressed."""

import math
import os
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import Any, NoReturn, overload

import numpy as np
from numpy.typing import DTypeLike, NDArray

from hpcblaz.backend import gpu
from hpcblaz.backend.dispatch import choose_device, drivers_of
from hpcblaz.backend.payload import Blocks, Numerics
from hpcblaz.errors import DtypeError, UnsupportedOperationError
from hpcblaz.fields import blockwise, statistics
from hpcblaz.fields.blockwise import BlockField
from hpcblaz.fields.codec import UNIT_ROUNDOFF, Codec, half_unit
from hpcblaz.fields.missing import Missing
from hpcblaz.fields.operators import Operators
from hpcblaz.fields.reductions import Axes
from hpcblaz.fields.saving import save
from hpcblaz.fields.scalars import CertifiedFloat, ErrorBound
from hpcblaz.fields.window import Window
from hpcblaz.mpi import Communicator, Layout, communicator


class CompressedArray(Operators):
    """A field of 1 to 4 axes, compressed, with bounds of its error; what :func:`hpcblaz.compress` returns.

    The field is ``factor * payload + offset``: the payload are integer coefficients of blocks, and scalar arithmetic
    changes the other two. Arrays are immutable; operations return new ones.

    With a layout, every rank holds its own part, and every rank calls every operation: answers are those of the
    whole field, the same on all ranks.

    Attributes
    ----------
    shape : tuple of int
        Shape of the whole field.
    dtype : numpy.dtype
        Type of the values that :meth:`decompress` returns.
    codec : ToleranceCodec or BlockCodec
        With the block shape filled in.
    layout : Layout or None
        How the field is split over ranks.
    device : str
        Where the array lives: 'cpu', or 'gpu:0' and so on. Answers that are arrays are there too, of CuPy.
    error : ErrorBound
        Bounds of the difference to the original data.

    See Also
    --------
    hpcblaz.compress : Compress an array.

    Examples
    --------
    >>> import numpy as np, hpcblaz as hb
    >>> x = np.random.default_rng(0).normal(size=(64, 64, 64)).astype(np.float32)
    >>> a = hb.compress(x, tolerance=1e-2)
    >>> m = (2 * a + 1).mean()
    >>> bool(abs(float(m) - (2 * x.astype(float) + 1).mean()) <= m.error)
    True
    """

    def __init__(
        self,
        blocks: Blocks,
        numerics: Numerics,
        codec: Codec,
        dtype: np.dtype[Any],
        field_error: ErrorBound,
        *,
        magnitude: float,
        factor: float = 1.0,
        offset: float = 0.0,
        layout: Layout | None = None,
        promise: float | None = None,
        attributes: Mapping[str, Any] | None = None,
        missing: Missing | None = None,
    ) -> None:
        self._blocks = blocks
        self._numerics = numerics
        self._codec = codec
        self._dtype = np.dtype(dtype)
        self._field_error = field_error
        self._magnitude = magnitude
        self._factor = factor
        self._offset = offset
        self._layout = layout
        self._promise = promise
        self._attributes = dict(attributes or {})
        self._missing = missing

    def _replace(self, **changes: Any) -> "CompressedArray":
        """Return a copy with some constructor arguments changed; promise and attributes of the original lapse."""
        arguments: dict[str, Any] = {
            "blocks": self._blocks,
            "numerics": self._numerics,
            "codec": self._codec,
            "dtype": self._dtype,
            "field_error": self._field_error,
            "magnitude": self._magnitude,
            "factor": self._factor,
            "offset": self._offset,
            "layout": self._layout,
            "promise": None,
            "missing": self._missing,
        }
        return CompressedArray(**(arguments | changes))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the whole field."""
        return self._layout.global_shape if self._layout is not None else self._numerics.grid.shape

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of values of the whole field."""
        return math.prod(self.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the decompressed values."""
        return self._dtype

    @property
    def codec(self) -> Codec:
        """The codec, with its block shape filled in."""
        return self._codec

    @property
    def layout(self) -> Layout | None:
        """How the field is split over ranks; None if it is not."""
        return self._layout

    @property
    def device(self) -> str:
        """Where the array lives: 'cpu', or 'gpu:' and the number of the card."""
        return gpu.device_of(self._blocks)

    def to_device(self, device: str) -> "CompressedArray":
        """Return the array on another device; compressed bytes are moved, and nothing is decoded.

        Parameters
        ----------
        device : {'cpu', 'gpu'}
            The host, or the current card.

        Raises
        ------
        ConfigurationError
            If `device` is anything else.
        DeviceError, MissingDependencyError
            If there is no GPU, or what drives it is not installed.

        Examples
        --------
        >>> import numpy as np, hpcblaz as hb
        >>> a = hb.compress(np.linspace(0, 1, 100), tolerance=1e-3)
        >>> a.to_device("cpu").device
        'cpu'
        """
        move = gpu.to_device if choose_device(device) == "gpu" else gpu.to_host
        return self._replace(blocks=move(self._blocks), promise=self._promise, attributes=self._attributes)

    @property
    def nbytes(self) -> int:
        """Bytes of the payload that this process holds, with the places of its missing cells."""
        return self._blocks.nbytes + (self._missing.nbytes if self._missing is not None else 0)

    @property
    def ratio(self) -> float:
        """Bytes of the values that this process holds, uncompressed, over `nbytes`."""
        size = self._numerics.grid.size
        return size * self._dtype.itemsize / self.nbytes if size else 1.0

    @property
    def local(self) -> "CompressedArray":
        """The part of this rank, as an array of its own; the array itself if it is not split."""
        return (
            self
            if self._layout is None
            else self._replace(layout=None, promise=self._promise, attributes=self._attributes)
        )

    def missing(self) -> NDArray[np.bool_]:
        """Return which cells of this rank's part are missing: bool, of its shape, in host memory."""
        shape = self._numerics.grid.shape
        if self._missing is None:
            return np.zeros(shape, np.bool_)
        return self._missing.window((0,) * len(shape), shape)

    def count(self) -> int:
        """Return how many cells of the whole field hold numbers; with a layout, a collective call."""
        missing = self._missing.count if self._missing is not None else 0
        return self.size - int(self._comm.allgather(np.array([missing])).sum())

    @property
    def attributes(self) -> dict[str, Any]:
        """What the file that the array was loaded from holds beside it (a copy); results of operations have none."""
        return dict(self._attributes)

    @cached_property
    def error(self) -> ErrorBound:
        """Bounds of the difference between the decompressed values and the original data.

        They include what rounding to `dtype` adds. Missing cells are exact.
        """
        max_abs, l2 = self._field_error.max_abs, self._field_error.l2
        root = math.sqrt(self.size)
        if self._dtype.kind in "iu":  # rounding moves a value by a half, and doubles an error at most: x is an integer
            bound = float(math.floor(max_abs + 0.5))
            l2 = min(2 * l2, l2 + 0.5 * root)
        else:
            added = self._rounding(max_abs)
            bound = max_abs + added
            l2 += root * added
        if self._promise is not None:
            bound = min(bound, self._promise)
        return ErrorBound(bound, min(l2, root * bound * (1 + 2.0**-50)))

    def _rounding(self, max_abs: float) -> float:
        """Return what decoding with factor and offset, and the conversion to dtype, may add to an error."""
        largest = self._magnitude + max_abs
        precision = self._evaluation.precision
        added = 0.0
        if abs(self._factor) != 1.0 or self._offset != 0.0:
            least = 2.0**-149 if precision == "float32" else 2.0**-1074
            added = 4 * UNIT_ROUNDOFF[precision] * (largest + abs(self._offset)) + 2 * least
        if self._magnitude > float(np.finfo(self._dtype).max) or largest > float(np.finfo(precision).max):
            return math.inf
        if self._dtype.itemsize < np.dtype(precision).itemsize:
            added += half_unit(self._dtype, largest)
        return added

    @cached_property
    def _evaluation(self) -> Numerics:
        """What values are decoded with: double precision where factor or values could leave single precision."""
        ordinary = self._factor == 0 or 2.0**-60 < abs(self._factor) < 2.0**60
        if ordinary and self._magnitude + self._field_error.max_abs < 2.0**120:
            return self._numerics
        return replace(self._numerics, precision="float64")

    @cached_property
    def _comm(self) -> Communicator:
        return communicator(self._layout.comm if self._layout is not None else None)

    # Values

    def decompress(self) -> NDArray[Any]:
        """Return the values; with a layout, those of this rank's part.

        Returns
        -------
        numpy.ndarray (or cupy.ndarray, on a GPU)
            Of `dtype`, in C order, of `shape` (or the layout's local shape). Missing cells are as they were.
        """
        shape = self._numerics.grid.shape
        return self._raw((0,) * len(shape), shape)

    @property
    def _drivers(self) -> Any:
        return drivers_of(self._blocks)

    def __getitem__(self, index: Any) -> Any:
        """Return the values at a basic index, decoding only the blocks that it touches.

        With a layout this is a collective call: every rank gets the values of the whole field.
        """
        with self._comm.together():
            window = Window.of(index, self.shape)
        if self._layout is None:
            return self._values(window, window.low, window.high)
        part = window.part(self._layout)
        piece = None if part is None else (part, self._drivers.stage(self._raw(*part.local)))
        pieces = [entry for entry in self._comm.gather_objects(piece) if entry is not None]
        shape = tuple(high - low for low, high in zip(window.low, window.high, strict=True))
        whole = np.empty(shape, self._dtype)
        for found, values in pieces:
            whole[found.place] = values
        return window.take(self._drivers.asarray(whole))

    def _values(self, window: Window, low: tuple[int, ...], high: tuple[int, ...]) -> Any:
        return window.take(self._raw(low, high))

    def _raw(self, low: tuple[int, ...], high: tuple[int, ...]) -> NDArray[Any]:
        drivers = self._drivers
        values = self._to_dtype(drivers.decode(self._blocks, self._evaluation, self._factor, self._offset, low, high))
        if self._missing is not None:
            self._missing.put(values, low, high, drivers.asarray)
        return values

    def _to_dtype(self, values: NDArray[Any]) -> NDArray[Any]:
        xp = self._drivers.array_module()
        if self._dtype.kind in "iu":
            limits = np.iinfo(self._dtype)
            values = xp.clip(xp.rint(values), limits.min, limits.max)
            top = values >= float(limits.max)  # float64 cannot hold the largest 64-bit integers
            converted: NDArray[Any] = xp.where(top, 0, values).astype(self._dtype)
            converted[top] = limits.max
            return converted
        limit = float(np.finfo(self._dtype).max)
        if self._magnitude <= limit < self._magnitude + self._field_error.max_abs:
            values = xp.clip(values, -limit, limit)  # the original is not beyond the limit
        return values.astype(self._dtype, copy=False)

    def __array__(self, dtype: DTypeLike | None = None, copy: bool | None = None) -> NDArray[Any]:
        """Decompress into host memory, for ``np.asarray``."""
        if copy is False:
            raise ValueError("expected copy to be allowed: a compressed array has no values to share")
        values: NDArray[Any] = self._drivers.asnumpy(self.decompress())
        return values if dtype is None else values.astype(dtype, copy=False)

    def gather(self, root: int = 0) -> NDArray[Any] | None:
        """Return the whole decompressed field on one rank, None on the others.

        Parameters
        ----------
        root : int, default 0
            The rank that gets the field.
        """
        values = self.decompress()
        if self._layout is None:
            return values
        whole = self._comm.gather(self._drivers.stage(values), self._layout, root)
        return None if whole is None else self._drivers.asarray(whole)

    def astype(self, dtype: DTypeLike) -> "CompressedArray":
        """Return the same field with another type of decompressed values; the payload is shared.

        Raises
        ------
        DtypeError
            If `dtype` is not float16, float32 or float64.
        """
        target = np.dtype(dtype)
        if target.name not in ("float16", "float32", "float64"):
            raise DtypeError(f"expected float16, float32 or float64, got {target}: decompress to get other types")
        if target == self._dtype:
            return self
        return self._replace(dtype=target, missing=None if self._missing is None else self._missing.with_dtype(target))

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        attributes: Mapping[str, Any] | None = None,
        chunks: tuple[int, ...] | None = None,
    ) -> None:
        """Write the array to a file or a Zarr store; see :func:`hpcblaz.save`."""
        save(self, path, attributes=attributes, chunks=chunks)

    def __len__(self) -> int:
        return self.shape[0]

    def __iter__(self) -> NoReturn:
        raise UnsupportedOperationError("expected an index or a slice, got an iteration: iterate over a.decompress()")

    def __repr__(self) -> str:
        sides = "x".join(map(str, self._codec.block_shape or ()))
        kind = type(self._codec).__name__
        place = f", rank {self._layout.rank} of {self._layout.size}" if self._layout is not None else ""
        place += f", {self.device}" if self.device != "cpu" else ""
        return (
            f"CompressedArray(shape={self.shape}, dtype={self._dtype}, {kind} {sides} {self._codec.transform}, "
            f"ratio={self.ratio:.3g}, max_abs_error={self.error.max_abs:.3g}{place})"
        )

    # Statistics

    @overload
    def sum(self, axis: None = None) -> CertifiedFloat: ...
    @overload
    def sum(self, axis: Axes) -> "CompressedArray": ...
    def sum(self, axis: Axes | None = None) -> "CertifiedFloat | CompressedArray":
        """Return the sum of all values, or the field of sums along axes; see :func:`hpcblaz.total`."""
        return statistics.total(self, axis)

    @overload
    def mean(self, axis: None = None) -> CertifiedFloat: ...
    @overload
    def mean(self, axis: Axes) -> "CompressedArray": ...
    def mean(self, axis: Axes | None = None) -> "CertifiedFloat | CompressedArray":
        """Return the mean of all values, or the field of means along axes; see :func:`hpcblaz.mean`."""
        return statistics.mean(self, axis)

    def variance(self, ddof: int = 0) -> CertifiedFloat:
        """Return the variance of all values, divided by n - ddof."""
        return statistics.variance(self, ddof=ddof)

    def std(self, ddof: int = 0) -> CertifiedFloat:
        """Return the standard deviation of all values."""
        return statistics.standard_deviation(self, ddof=ddof)

    def norm(self) -> CertifiedFloat:
        """Return the 2-norm of all values."""
        return statistics.norm(self)

    def block_mean(self) -> BlockField:
        """Return the mean of each block of this rank: a coarse field."""
        return blockwise.block_mean(self)

    def block_variance(self) -> BlockField:
        """Return the variance within each block of this rank."""
        return blockwise.block_variance(self)

    def block_std(self) -> BlockField:
        """Return the standard deviation within each block of this rank."""
        return blockwise.block_standard_deviation(self)
