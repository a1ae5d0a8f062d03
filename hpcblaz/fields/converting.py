"""From files to Zarr stores whose fields are compressed, chunk by chunk: neither need fit in memory."""

import importlib
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcblaz.backend.blocks import MAX_AXES, default_block_shape
from hpcblaz.errors import CodecError, ShapeError, ToleranceError
from hpcblaz.fields.codec import BlockCodec, Codec, ToleranceCodec
from hpcblaz.fields.dumping import dumps
from hpcblaz.fields.open_field import Field, candidates, choose, has_variables, open_dataset, open_field, raw_field
from hpcblaz.fields.zarr_store import (
    chunk_name,
    chunk_shape_of,
    chunks_of,
    codec_options,
    consolidate,
    create_array,
    without_advice,
    zarr_module,
)
from hpcblaz.mpi import Communicator
from hpcblaz.mpi.atomic import AtomicFolder

CHUNK_CELLS = 1 << 22  # 16 MiB of float32, 32 MiB of float64
_LOSSLESS = 0.499  # no error of an integer is below a half and not zero

Cells = tuple[int, ...]


@dataclass(frozen=True)
class Converted:
    """What became of a variable. Errors are those of the values that the file stands for, scaled if it scales them."""

    variable: str
    shape: Cells
    dtype: str
    chunks: Cells
    tolerance: float | None
    input_bytes: int
    output_bytes: int
    missing: int
    max_abs_error: float
    l2_error: float
    seconds: float

    @property
    def ratio(self) -> float:
        """Bytes of the values over bytes of the chunks."""
        return self.input_bytes / self.output_bytes if self.output_bytes else 1.0

    @property
    def bits_per_value(self) -> float | None:
        """Bits of the chunks a value."""
        cells = math.prod(self.shape)
        return 8 * self.output_bytes / cells if cells else None


def convert(
    path: str | os.PathLike[str],
    store: str | os.PathLike[str],
    variables: Sequence[str],
    comm: Communicator,
    *,
    target: Mapping[str, float],
    codec: Codec,
    shape: Sequence[int] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Converted]:
    """Write a file as a Zarr store with some of its variables compressed; all else stays as it is.

    A collective call: chunks are dealt out to the ranks, and errors are raised on every rank or on none. The store
    takes its name when it is complete.

    Parameters
    ----------
    path, store : str or os.PathLike
    variables : sequence of str
        Which to compress; empty for the only field that there is.
    comm : Communicator
    target : mapping
        One of ``tolerance``, ``relative`` and ``psnr``; nothing for a BlockCodec.
    codec : ToleranceCodec or BlockCodec
    shape : sequence of int, optional
        Of a raw file.
    progress : callable, optional
        Called with the chunks done and those of this rank.

    Returns
    -------
    list of Converted
        One for each variable.

    Raises
    ------
    ToleranceError
        If the target is the size (``rate``), which no chunk by itself can keep to.
    HpcblazError
        As reading, compressing and writing do.
    """
    with comm.together():
        dataset = open_dataset(path) if has_variables(path) else None
        fields = _fields(path, variables, dataset, shape)
        if "rate" in target:
            raise ToleranceError(
                "expected --tolerance, --relative or --psnr for a store, got --rate: a chunk does not know how many "
                "bits the others need; use --index-dtype for a size that is known"
            )
    folder: AtomicFolder | None = None
    try:
        with comm.together():
            if comm.rank == 0:
                folder = AtomicFolder(store)
                _write_rest(folder.temporary, dataset, [name for name, _ in fields])
        place = comm.broadcast(None if folder is None else str(folder.temporary))
        shared = folder or AtomicFolder(store, temporary=Path(place))
        work = _Work(comm, shared, codec, target, progress, len(fields))
        found = [work.convert(name, one) for name, one in fields]
        with comm.together():
            if folder is not None:
                consolidate(folder.temporary)
                folder.commit()
        return found
    finally:
        if folder is not None:
            folder.discard()
        if dataset is not None:
            dataset.close()


def _fields(
    path: str | os.PathLike[str], variables: Sequence[str], dataset: Any, shape: Sequence[int] | None
) -> list[tuple[str, Field]]:
    """Return the fields to compress, as they are stored, with the names that they get."""
    if dataset is None:
        fields = [open_field(path, name, shape) for name in (variables or [None])]  # type: ignore[list-item]
        stem = Path(path).name.split(".")[0] or "field"  # where a file holds one field, without a name
        names = [stem if one.name == str(Path(path)) else one.name.strip("/").replace("/", "_") for one in fields]
        return list(zip(names, fields, strict=True))
    names = list(dict.fromkeys(variables)) or [choose(candidates(dataset), dataset.variables, None, path)]
    return [(choose([], dataset.variables, name, path), raw_field(dataset, name)) for name in names]


def _write_rest(folder: Path, dataset: Any, names: list[str]) -> None:
    """Begin the store: all variables but some, and the attributes of the dataset."""
    if dataset is None:
        zarr_module().create_group(str(folder), zarr_format=3)
        return
    rest = dataset.drop_vars(names)
    for variable in rest.variables.values():
        variable.encoding = {} if "_FillValue" in variable.attrs else {"_FillValue": None}  # and none is made up
    with without_advice():
        rest.to_zarr(str(folder), mode="w", zarr_format=3, consolidated=False)


def block_shape_of(shape: Cells) -> Cells:
    """Return the block shape for a chunk: no sides along extents of one, nor along axes that are joined."""
    last = shape[-MAX_AXES:] if len(shape) <= MAX_AXES else (1, *shape[1 - MAX_AXES :])
    sides = iter(default_block_shape(max(1, sum(n > 1 for n in last))))
    return tuple(next(sides) if n > 1 else 1 for n in last)


class _Work:
    """Compresses variables one after the other, each rank its chunks."""

    def __init__(
        self,
        comm: Communicator,
        folder: AtomicFolder,
        codec: Codec,
        target: Mapping[str, float],
        progress: Callable[[int, int], None] | None,
        variables: int,
    ) -> None:
        self._comm, self._folder, self._codec, self._target = comm, folder, codec, target
        self._progress, self._variables, self._number = progress, variables, 0

    def convert(self, name: str, one: Field) -> Converted:
        start = time.perf_counter()
        comm = self._comm
        with comm.together():
            if not one.shape:
                raise ShapeError(f"expected a field with axes, got the single number {name!r}: leave it as it is")
            sides = self._codec.block_shape or block_shape_of(one.shape)
            aligned = (1,) * (len(one.shape) - len(sides)) + sides
            if len(aligned) != len(one.shape):
                raise CodecError(f"expected block sides for {len(one.shape)} axes of {name!r}, got {sides}")
            chunk = chunk_shape_of(one.shape, aligned, CHUNK_CELLS)
            scale = abs(float(np.asarray(one.attributes.get("scale_factor", 1.0)).reshape(-1)[0])) or 1.0
        passes = 1 if "tolerance" in self._target or isinstance(self._codec, BlockCodec) else 2
        tolerance = self._tolerance(one, chunk, scale, passes)
        with comm.together():
            codec = _with_sides(self._codec, sides)
            stored = tolerance
            if stored is not None and one.dtype.kind in "iu":
                stored = max(stored, _LOSSLESS)  # integers come back exactly: there is no need to be nearer
            options = codec_options(codec, stored, one.fill_value)
            if comm.rank == 0:
                create_array(
                    self._folder.temporary,
                    name,
                    shape=one.shape,
                    chunks=chunk,
                    dtype=one.dtype,
                    codec=options,
                    dimensions=one.dims,
                    attributes=_stored_attributes(one),
                )
        comm.barrier()
        sums = np.zeros(4)  # bytes, missing cells, largest error, square of the 2-norm
        with comm.together():
            array = zarr_module().open_array(str(self._folder.temporary), path=name, mode="r")
            encoder = array.metadata.codecs[0]
            for index, values in self._chunks(one, chunk, passes - 1, passes):
                a = encoder.compress(values)
                record = dumps(a)
                self._folder.write(chunk_name(array, name, index), record)
                gone = 0 if a._missing is None else a._missing.count
                sums = np.array(
                    [sums[0] + len(record), sums[1] + gone, max(sums[2], a.error.max_abs), sums[3] + a.error.l2**2]
                )
        self._number += 1
        total = comm.allgather(sums)
        size = math.prod(one.shape) * one.dtype.itemsize
        return Converted(
            name,
            one.shape,
            one.dtype.name,
            chunk,
            None if tolerance is None else tolerance * scale,
            size,
            int(total[:, 0].sum()),
            int(total[:, 1].sum()),
            float(total[:, 2].max()) * scale,
            math.sqrt(float(total[:, 3].sum())) * scale * (1 + 2.0**-40),
            float(comm.allgather([time.perf_counter() - start]).max()),
        )

    def _tolerance(self, one: Field, chunk: Cells, scale: float, passes: int) -> float | None:
        """Return the tolerance of the values as they are stored; of a range, which takes a pass over all values."""
        if isinstance(self._codec, BlockCodec):
            return None
        if passes == 1:
            return self._target["tolerance"] / scale
        low, high = math.inf, -math.inf
        with self._comm.together():
            for _, values in self._chunks(one, chunk, 0, passes):
                numbers = values[np.isfinite(values) & (values != one.fill_value)].astype(np.float64)
                if numbers.size:
                    low, high = min(low, float(numbers.min())), max(high, float(numbers.max()))
        extents = self._comm.allgather([low, high])
        low, high = float(extents[:, 0].min()), float(extents[:, 1].max())
        if not low < high:  # constant, or nothing: exact with any tolerance
            return 1.0
        if "relative" in self._target:
            return self._target["relative"] * (high - low)
        return float((high - low) * 10 ** (-self._target["psnr"] / 20))

    def _chunks(self, one: Field, chunk: Cells, number: int, passes: int) -> Iterator[tuple[Cells, NDArray[Any]]]:
        """Yield the index and the values of this rank's chunks."""
        count = math.prod(-(-n // c) for n, c in zip(one.shape, chunk, strict=True) if c)
        mine = -(-count // self._comm.size)
        rank, size = self._comm.rank, self._comm.size
        for position, (index, first, extents) in enumerate(chunks_of(one.shape, tuple(max(1, c) for c in chunk))):
            if position % size != rank or not math.prod(extents):
                continue
            yield index, one[tuple(slice(f, f + n) for f, n in zip(first, extents, strict=True))]
            if self._progress is not None:
                share = (self._number * passes + number) * mine + position // size + 1
                self._progress(share, self._variables * passes * mine)


def _with_sides(codec: Codec, sides: Cells) -> Codec:
    if isinstance(codec, ToleranceCodec):
        return ToleranceCodec(sides, codec.transform)
    return BlockCodec(sides, codec.transform, codec.index_dtype, codec.keep)


def _stored_attributes(one: Field) -> dict[str, Any]:
    """Return the attributes of a variable as xarray has them in a store: the fill value in its own encoding."""
    attributes = dict(one.attributes)
    if "_FillValue" in attributes:
        coder = importlib.import_module("xarray.backends.zarr").FillValueCoder
        value = np.nan if one.fill_value is None else attributes["_FillValue"]
        attributes["_FillValue"] = coder.encode(one.dtype.type(value), one.dtype)
    return attributes
