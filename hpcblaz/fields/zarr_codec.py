"""The codec ``hpcblaz`` of Zarr format 3: every chunk is a compressed array with its own header and checksums.

Zarr finds it by its entry point, so that what reads or writes Zarr needs hpcblaz installed and nothing else.
"""

import asyncio
import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from zarr.abc.codec import ArrayBytesCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer, NDBuffer

from hpcblaz.backend.blocks import MAX_AXES, BlockGrid
from hpcblaz.errors import CodecError, FileFormatError
from hpcblaz.fields.array import CompressedArray
from hpcblaz.fields.codec import BlockCodec, Codec, ToleranceCodec, with_block_shape
from hpcblaz.fields.compress import compress
from hpcblaz.fields.dumping import dumps
from hpcblaz.fields.inputs import SUPPORTED
from hpcblaz.fields.read_counts import count_read
from hpcblaz.fields.storage import loads
from hpcblaz.mpi import Layout

NAME = "hpcblaz"
_OPTIONS = ("tolerance", "block_shape", "transform", "index_dtype", "keep", "missing_value")
_taken: ContextVar[list[CompressedArray] | None] = ContextVar("taken", default=None)


@contextmanager
def taking_records() -> Iterator[list[CompressedArray]]:
    """Collect the records of the chunks that this thread has Zarr read, in place of their values.

    So they are found wherever Zarr keeps them, in shards or not, and nothing is decompressed.
    """
    records: list[CompressedArray] = []
    token = _taken.set(records)
    try:
        yield records
    finally:
        _taken.reset(token)


@dataclass(frozen=True)
class FieldCodec(ArrayBytesCodec):
    """Chunks as compressed arrays, for ``serializer=`` of :func:`zarr.create_array`.

    Parameters
    ----------
    tolerance : float, optional
        Largest absolute error of a value. Without it chunks have the form of :class:`hpcblaz.BlockCodec`.
    block_shape : sequence of int, optional
        As for :class:`hpcblaz.ToleranceCodec`; of the last four axes of a chunk, if it has more.
    transform : {'dct', 'haar', 'identity'}, default 'dct'
    index_dtype : {'int8', 'int16', 'int32'}, optional
    keep : float, optional
        As for :class:`hpcblaz.BlockCodec`.
    missing_value : int or float, optional
        A number that stands for a missing one, beside NaN.

    Raises
    ------
    CodecError
        If options contradict each other.

    Examples
    --------
    >>> import numpy as np, zarr  # doctest: +SKIP
    >>> z = zarr.create_array({}, shape=(64, 64), chunks=(32, 32), dtype="f4", fill_value=np.nan,
    ...                       serializer=FieldCodec(tolerance=1e-3), compressors=None)  # doctest: +SKIP
    """

    tolerance: float | None = None
    block_shape: tuple[int, ...] | None = None
    transform: str = "dct"
    index_dtype: str | None = None
    keep: float | None = None
    missing_value: float | int | None = None
    is_fixed_size = False

    def __post_init__(self) -> None:
        if self.block_shape is not None:
            object.__setattr__(self, "block_shape", tuple(int(n) for n in self.block_shape))
        fixed = self.index_dtype is not None or self.keep is not None
        if fixed == (self.tolerance is not None):
            raise CodecError(
                "expected either a tolerance or the index_dtype and keep of a block codec, got "
                f"{'both' if fixed else 'neither'}"
            )
        if self.tolerance is not None and not (self.tolerance > 0 and math.isfinite(self.tolerance)):
            raise CodecError(f"expected a tolerance that is positive and finite, got {self.tolerance!r}")
        self.codec  # noqa: B018  its options are checked

    @property
    def codec(self) -> Codec:
        """The codec of a chunk."""
        if self.tolerance is not None:
            return ToleranceCodec(self.block_shape, self.transform)
        keep = 1.0 if self.keep is None else self.keep
        return BlockCodec(self.block_shape, self.transform, self.index_dtype or "int8", keep)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """Return the codec of a store's metadata."""
        configuration = data.get("configuration", {})
        unknown = sorted(set(configuration) - set(_OPTIONS))
        if data.get("name") != NAME or unknown:
            raise CodecError(f"expected the codec {NAME} with some of {', '.join(_OPTIONS)}, got {data}")
        return cls(**configuration)

    def to_dict(self) -> dict[str, Any]:
        """Return what the metadata of a store says."""
        options = {name: getattr(self, name) for name in _OPTIONS if getattr(self, name) is not None}
        if self.block_shape is not None:
            options["block_shape"] = list(self.block_shape)
        return {"name": NAME, "configuration": options}

    @staticmethod
    def field_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape that a chunk is compressed with; see :func:`field_shape`."""
        return field_shape(shape)

    @staticmethod
    def taking_records() -> AbstractContextManager[list[CompressedArray]]:
        """Return a context in which Zarr reads records in place of values; see :func:`taking_records`."""
        return taking_records()

    def validate(self, *, shape: tuple[int, ...], dtype: Any, chunk_grid: Any) -> None:
        """Raise CodecError where no chunk could be compressed."""
        native = dtype.to_native_dtype()
        if native.newbyteorder("=").name not in SUPPORTED:
            raise CodecError(f"expected dtype float16, float32, float64 or an integer type, got {native}")
        chunk = getattr(chunk_grid, "chunk_shape", shape)
        extents = field_shape(tuple(chunk))
        BlockGrid(extents, with_block_shape(self.codec, len(extents)).block_shape or ())

    def compute_encoded_size(self, input_byte_length: int, _chunk_spec: ArraySpec) -> int:
        """Raise NotImplementedError, as Zarr asks of codecs whose size depends on the values."""
        raise NotImplementedError

    def _encode_sync(self, chunk_array: NDBuffer, chunk_spec: ArraySpec) -> Buffer | None:
        values = trimmed(chunk_array.as_numpy_array(), chunk_spec.fill_value)
        record = dumps(self.compress(values))
        return chunk_spec.prototype.buffer.from_bytes(record)

    def compress(self, values: NDArray[Any], layout: Layout | None = None) -> CompressedArray:
        """Return a chunk, or this rank's part of a field, compressed; of more than four axes the first are joined."""
        return compress(
            values.reshape(field_shape(values.shape)),
            tolerance=self.tolerance,
            codec=self.codec,
            fill_value=self.missing_value,
            layout=layout,
            device="cpu",
        )

    @staticmethod
    def record(data: Any) -> CompressedArray:
        """Return the compressed array that the bytes of a chunk are."""
        count_read(chunks=1, bytes_read=memoryview(data).nbytes)
        return loads(data)

    def _decode_sync(self, chunk_bytes: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        record = self.record(chunk_bytes.as_buffer_like())
        taken = _taken.get()
        if taken is not None:
            taken.append(record)
            return chunk_spec.prototype.nd_buffer.create(
                shape=chunk_spec.shape, dtype=chunk_spec.dtype.to_native_dtype(), order=chunk_spec.order
            )
        values = expanded(record, chunk_spec.shape, chunk_spec.dtype.to_native_dtype(), chunk_spec.fill_value)
        count_read(bytes_decoded=values.nbytes)
        return chunk_spec.prototype.nd_buffer.from_numpy_array(values)

    async def _encode_single(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> Buffer | None:
        return await asyncio.to_thread(self._encode_sync, chunk_data, chunk_spec)

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        return await asyncio.to_thread(self._decode_sync, chunk_data, chunk_spec)


def field_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape of 1 to 4 axes that a chunk is compressed with: leading axes of more are joined."""
    joined = len(shape) - MAX_AXES + 1
    return shape if 1 <= len(shape) <= MAX_AXES else (math.prod(shape[: max(0, joined)]), *shape[max(0, joined) :])


def trimmed(values: NDArray[Any], fill_value: Any) -> NDArray[Any]:
    """Return a chunk without the cells beyond the array, which Zarr sets to its fill value.

    Cut off is what is nothing but that value at the upper end of an axis; one cell is left.
    """
    if values.ndim > MAX_AXES or not values.size or fill_value is None:
        return values
    filler = np.asarray(fill_value).astype(values.dtype)
    for axis in range(values.ndim):
        others = tuple(i for i in range(values.ndim) if i != axis)
        n = values.shape[axis]
        while n > 1 and _equal(values.take([n - 1], axis=axis), filler):
            n -= 1
        if n < values.shape[axis] and not others:
            values = values[:n]
        elif n < values.shape[axis]:
            values = values[tuple(slice(0, n) if i == axis else slice(None) for i in range(values.ndim))]
    return values


def _equal(values: NDArray[Any], filler: NDArray[Any]) -> bool:
    return bool((np.isnan(values) if filler != filler else values == filler).all())


def expanded(record: CompressedArray, shape: tuple[int, ...], dtype: np.dtype[Any], fill_value: Any) -> NDArray[Any]:
    """Return the values of a chunk from a record that may be shorter along some axes.

    Raises
    ------
    FileFormatError
        If the record is of another type, or larger than the chunk.
    """
    if record.dtype != dtype.newbyteorder("="):
        raise FileFormatError(f"expected a chunk of {dtype}, got one of {record.dtype}: the store is damaged")
    if record.shape == field_shape(shape):
        return record.decompress().reshape(shape)
    if len(record.shape) != len(shape) or any(n > m for n, m in zip(record.shape, shape, strict=True)):
        raise FileFormatError(f"expected a chunk of shape {shape}, got {record.shape}: the store is damaged")
    values = np.full(shape, fill_value, dtype)
    values[tuple(slice(0, n) for n in record.shape)] = record.decompress()
    return values
