"""Zarr stores to compressed arrays: chunks become one array without loss, where they end with blocks."""

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hpcblaz.backend.blocks import MAX_AXES, BlockGrid
from hpcblaz.backend.payload import Numerics
from hpcblaz.errors import FileFormatError, HpcblazError, LayoutError
from hpcblaz.fields.codec import BlockCodec, empty_blocks
from hpcblaz.fields.missing import join
from hpcblaz.fields.regroup import regroup
from hpcblaz.fields.scalars import ErrorBound
from hpcblaz.fields.streaming import assemble, tile_rows
from hpcblaz.fields.zarr_store import Cells, chunks_of, exponents_of, zarr_module

if TYPE_CHECKING:
    from hpcblaz.fields.array import CompressedArray

Pieces = list[tuple[Cells, Cells, "CompressedArray"]]  # first cell, extents, record


def open_store(path: str | os.PathLike[str], variable: str | None = None) -> "CompressedArray":
    """Return an array of a store, compressed as it is; see :func:`hpcblaz.open`."""
    array = _find(Path(path), variable)
    codec = _codec_of(array, path)
    shape, chunk = array.shape, array.chunks
    pieces = list(_records(array, path))
    joined = _joined(pieces, shape, chunk) if 1 <= len(shape) <= MAX_AXES else None
    if joined is None:
        joined = _again(codec, array[...], [record for _, _, record in pieces])
    attributes = json.loads(json.dumps(dict(array.attrs), default=str), parse_constant=str)  # files take no NaN
    return joined._replace(attributes=attributes, promise=joined._promise)


def is_compressed_store(path: str | os.PathLike[str], variable: str | None = None) -> bool:
    """Say whether a path is a store with an array, of this name if one is given, that hpcblaz compressed."""
    if not os.path.isdir(path):
        return False
    try:
        return _is_ours(_find(Path(path), variable))
    except FileFormatError:
        return False


def _find(path: Path, variable: str | None) -> Any:
    """Return an array of a store, that of a name, or the only one that hpcblaz compressed."""
    zarr = zarr_module()
    try:
        node = zarr.open(str(path), mode="r")
    except Exception as error:  # noqa: BLE001  damaged metadata fails in many ways
        raise FileFormatError(f"expected {path} to be a Zarr store, got: {type(error).__name__}: {error}") from None
    if not isinstance(node, zarr.Group):
        if variable is not None:
            raise FileFormatError(f"{path}: expected a group with the variable {variable!r}, got a single array")
        return node
    names = sorted(name for name, _ in node.arrays())
    if variable is None:
        compressed = [name for name in names if _is_ours(node[name])]
        if len(compressed) != 1:
            raise FileFormatError(
                f"{path}: expected the name of a variable, got none: choose one of {', '.join(compressed or names)}"
            )
        variable = compressed[0]
    if variable not in names:
        raise FileFormatError(f"{path}: expected one of the variables {', '.join(names)}, got {variable!r}")
    return node[variable]


def _inner_codecs(array: Any) -> list[Any]:
    """Return the codecs of an array, those within shards in place of the shards."""
    codecs = list(getattr(array.metadata, "codecs", ()))
    while codecs and type(codecs[0]).__name__ == "ShardingCodec":
        codecs = list(codecs[0].codecs)
    return codecs


def _is_ours(array: Any) -> bool:
    return any(type(codec).__name__ == "FieldCodec" for codec in _inner_codecs(array))


def _codec_of(array: Any, path: Any) -> Any:
    codecs = _inner_codecs(array)
    if not _is_ours(array):
        raise FileFormatError(f"{path}: expected an array that hpcblaz compressed, got one with the codecs {codecs}")
    if len(codecs) != 1:
        raise FileFormatError(
            f"{path}: expected the codec hpcblaz alone, got {codecs}: read it with zarr, and compress it"
        )
    return codecs[0]


def _records(array: Any, path: Any) -> Iterator[tuple[Cells, Cells, "CompressedArray"]]:
    """Yield the compressed chunks of an array; those that were never written are all fill value."""
    codec = _inner_codecs(array)[0]
    for _, first, extents in chunks_of(array.shape, array.chunks):
        if not math.prod(extents):
            continue
        with codec.taking_records() as records:
            try:
                array[_slices(first, extents)]
            except HpcblazError as error:
                raise FileFormatError(f"{path}: {error}, in the chunk from cell {first} on") from None
        if records and records[0].dtype != array.dtype.newbyteorder("="):
            raise FileFormatError(f"{path}: expected chunks of {array.dtype}, got {records[0].dtype}: it is damaged")
        record = records[0] if records else codec.compress(np.full(extents, array.fill_value, array.dtype))
        if record.shape not in (extents, codec.field_shape(extents)):  # its end was fill value
            record = _again(codec, array[_slices(first, extents)], [record])
        yield first, extents, record


def _joined(
    pieces: list[tuple[Cells, Cells, "CompressedArray"]], shape: Cells, chunk: Cells
) -> "CompressedArray | None":
    """Return the array that chunks make up, without loss; None if that is impossible."""
    if not pieces:
        return None
    records = [record for _, _, record in pieces]
    a = records[0]
    sides = a._numerics.grid.block_shape
    aligned = all(c >= n or c % side == 0 for c, n, side in zip(chunk, shape, sides, strict=True))
    same = all(
        record.codec == a.codec
        and record.dtype == a.dtype
        and record.shape == extents
        and (record._factor, record._offset) == (a._factor, a._offset)
        for _, extents, record in pieces
    )
    if not (aligned and same):
        return None
    precision = "float64" if any(r._numerics.precision == "float64" for r in records) else "float32"
    if isinstance(a.codec, BlockCodec) and any(r._numerics.precision != precision for r in records):
        return None
    promises = [record._promise for record in records if record._promise is not None]
    numerics = Numerics(BlockGrid(shape, sides), a.codec.transform, precision)
    exponents = [exponents_of(record._blocks) for record in records]
    least = (min(pair[0] for pair in exponents), min(pair[1] for pair in exponents))
    stacked = all(c >= n for c, n in zip(chunk[1:], shape[1:], strict=True))  # chunks are slabs, of whole tiles
    if stacked and len(set(exponents)) == 1 and chunk[0] % tile_rows(numerics.grid) == 0:
        empty = empty_blocks(a.codec, numerics) if isinstance(a.codec, BlockCodec) else None
        blocks = assemble([(record._numerics.grid, record._blocks) for record in records], numerics, empty)
    else:
        parts = ((record._blocks, record._numerics, first) for first, _, record in pieces)
        try:
            blocks = regroup(parts, numerics, (0,) * len(shape), a.codec, least)
        except LayoutError:  # steps too different for one array
            return None
    return a._replace(
        blocks=blocks,
        numerics=numerics,
        missing=join(shape, ((record._missing, extents, first) for first, extents, record in pieces)),
        magnitude=max(record._magnitude for record in records),
        field_error=ErrorBound(
            max(record._field_error.max_abs for record in records),
            math.hypot(*(record._field_error.l2 for record in records)) * (1 + 2.0**-50),
        ),
        promise=max(promises) if len(promises) == len(records) else None,
    )


def _slices(first: Cells, extents: Cells) -> tuple[slice, ...]:
    return tuple(slice(f, f + n) for f, n in zip(first, extents, strict=True))


def _again(codec: Any, values: Any, records: list["CompressedArray"]) -> "CompressedArray":
    """Return values that were decoded from some records, compressed again; the errors of both count."""
    a: CompressedArray = codec.compress(values)
    most = max((record.error.max_abs for record in records), default=0.0)
    l2 = math.hypot(*(record.error.l2 for record in records)) * (1 + 2.0**-50)
    error = a._field_error
    return a._replace(field_error=ErrorBound(error.max_abs + most, error.l2 + l2), magnitude=a._magnitude + most)
