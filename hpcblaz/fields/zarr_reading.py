"""Zarr stores to compressed arrays: every rank reads the chunks of its part, and decodes none of whole blocks."""

import json
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hpcblaz.backend.blocks import MAX_AXES, BlockGrid
from hpcblaz.backend.payload import Numerics
from hpcblaz.errors import FileFormatError, HpcblazError, LayoutError, StorageError
from hpcblaz.fields.array import CompressedArray
from hpcblaz.fields.boxes import Box, Held, chunks_sharing, exponents_of, held_part, put_together
from hpcblaz.fields.codec import BlockCodec, Codec, with_block_shape
from hpcblaz.fields.scalars import ErrorBound
from hpcblaz.fields.zarr_store import Cells, chunk_name, zarr_module
from hpcblaz.mpi import Communicator, Layout
from hpcblaz.mpi.atomic import storage_errors


class _Piece(NamedTuple):
    """A chunk that was read."""

    number: int
    box: Box
    record: CompressedArray


class _Facts(NamedTuple):
    """What a rank knows of the chunks that it has read, and tells the others; all chunks are known to some rank."""

    kinds: list[tuple[Any, ...]]  # of one chunk; more than one where chunks differ
    precisions: frozenset[str]
    exponents: tuple[int, int] | None
    max_abs: float
    magnitude: float
    promise: float | None  # None if a chunk has none
    errors: list[tuple[int, float, float, float]]  # number, L2 error, and the certified errors of its values


def open_store(
    path: str | os.PathLike[str], variable: str | None, layout: Layout | None, comm: Communicator
) -> CompressedArray:
    """Return an array of a store, compressed as it is; see :func:`hpcblaz.open`. A collective call."""
    with comm.together():
        array = _find(Path(path), variable)
        codec = _codec_of(array, path)
        stamp = _stamp(array, path)
        wanted = _wanted(array, codec, layout, comm)
        # Without the ranks of the layout to ask, and of more axes than an array has, all is read
        asks = wanted is None or (wanted.rank, wanted.size) == (comm.rank, comm.size)
        split = wanted if asks and 1 <= array.ndim <= MAX_AXES else None
        box = Box((0,) * array.ndim, tuple(array.shape)) if split is None else Box.of(split.slices)
        ways = None if wanted is None else wanted.splits, split is None
        pieces = list(_records(array, box, path))
        if _stamp(array, path) != stamp:
            raise StorageError(f"expected {path} to stay as it is, got another store: it was replaced meanwhile")
    facts = _merged(comm.gather_objects((stamp, ways, _facts_of(pieces, split))), path)
    with comm.together():
        part = _joined(array, pieces, facts, box, codec)
    attributes = json.loads(json.dumps(dict(array.attrs), default=str), parse_constant=str)  # files take no NaN
    if comm.allgather([float(part is None)]).any():
        with comm.together(), storage_errors("read", Path(path)):
            values = array[box.slices]
        errors = _worst([entry[2:] for entry in facts.errors])
        result = _again(_compressed(codec, values, split, comm), *errors)._replace(attributes=attributes)
    else:
        result = _array_of(part, facts, split, attributes)
    if wanted is None or wanted is split:
        return result
    with comm.together():
        own = put_together([held_part(result)], Box.of(wanted.slices), result._numerics, result.codec)
    return result._replace(
        blocks=own.blocks,
        numerics=own.numerics,
        missing=own.missing,
        layout=wanted,
        promise=result._promise,
        attributes=attributes,
    )


def _compressed(codec: Any, values: Any, layout: Layout | None, comm: Communicator) -> CompressedArray:
    """Return values compressed with the codec of a store; with a layout, ranks that have parts do it together."""
    if layout is not None:
        return codec.compress(values, layout)  # type: ignore[no-any-return]
    with comm.together():
        return codec.compress(values)  # type: ignore[no-any-return]


def _array_of(part: Any, facts: _Facts, layout: Layout | None, attributes: dict[str, Any]) -> CompressedArray:
    codec, dtype, factor, offset, _ = facts.kinds[0]
    return CompressedArray(
        part.blocks,
        part.numerics,
        codec,
        dtype,
        ErrorBound(facts.max_abs, _worst([(0.0, entry[1]) for entry in facts.errors])[1]),
        magnitude=facts.magnitude,
        factor=factor,
        offset=offset,
        layout=layout,
        promise=facts.promise,
        attributes=attributes,
        missing=part.missing,
    )


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


def _records(array: Any, box: Box, path: Any) -> Iterator[_Piece]:
    """Yield the compressed chunks that have cells of a box; those that were never written are all fill value."""
    codec = _inner_codecs(array)[0]
    counts = [-(-n // c) for n, c in zip(array.shape, array.chunks, strict=True)]
    for index, chunk in chunks_sharing(array.shape, array.chunks, box):
        with storage_errors("read", Path(path)):
            try:
                record: CompressedArray | None = _stored(array, codec, index, chunk, path)
            except (HpcblazError, ValueError) as error:  # ValueError: checksums of shards are Zarr's own
                name = f" {chunk_name(array, array.path, index)}" if array.shards is None else ""
                raise FileFormatError(f"{path}: {error}, in the chunk{name} from cell {chunk.first} on") from None
        if record is None:
            record = codec.compress(np.full(chunk.extents, array.fill_value, array.dtype))
        if record.dtype != array.dtype.newbyteorder("="):
            raise FileFormatError(f"{path}: expected chunks of {array.dtype}, got {record.dtype}: it is damaged")
        if record.shape not in (chunk.extents, codec.field_shape(chunk.extents)):  # its end was fill value
            record = _again(codec.compress(array[chunk.slices]), record.error.max_abs, record.error.l2)
        number = int(np.ravel_multi_index(index, counts)) if counts else 0
        yield _Piece(number, chunk, record)


def _stored(array: Any, codec: Any, index: Cells, chunk: Box, path: Any) -> CompressedArray | None:
    """Return a chunk as it is stored; None if it was never written."""
    if array.shards is None:  # its file is the record
        try:
            return codec.record(Path(path, chunk_name(array, array.path, index)).read_bytes())  # type: ignore[no-any-return]
        except FileNotFoundError:
            return None
    with codec.taking_records() as records:
        array[chunk.slices]
    return records[0] if records else None


def _stamp(array: Any, path: Any) -> tuple[Any, ...]:
    """Return what is the same for all ranks that read one store, and as long as it is not replaced."""
    with storage_errors("read", Path(path)):
        status = os.stat(Path(path, array.path, "zarr.json"))
    return array.shape, array.chunks, array.dtype.str, status.st_size, status.st_mtime_ns


def _wanted(array: Any, codec: Any, layout: Layout | None, comm: Communicator) -> Layout | None:
    """Return the layout to read with; None for the whole array."""
    shape = codec.field_shape(tuple(array.shape))
    sides = with_block_shape(codec.codec, len(shape)).block_shape
    if layout is None:
        return Layout(shape, comm, block_shape=sides) if comm.size > 1 else None
    if (layout.global_shape, layout.block_shape) != (shape, sides):
        raise LayoutError(
            f"expected a layout of shape {shape} in blocks of {sides}, as in the store, got {layout.global_shape} in "
            f"blocks of {layout.block_shape}"
        )
    return layout


def _facts_of(pieces: list[_Piece], layout: Layout | None) -> _Facts:
    """Return what this rank has read; the errors of a chunk are told by the rank that owns its first cell."""
    records = [piece.record for piece in pieces]
    promises = [record._promise for record in records]
    exponents = [exponents_of(record._blocks) for record in records]
    kinds: list[tuple[Any, ...]] = []
    for piece in pieces:
        record = piece.record
        kind = (record.codec, record.dtype, record._factor, record._offset, record.shape == piece.box.extents)
        kinds += [kind] if kind not in kinds else []
    return _Facts(
        kinds,
        frozenset(record._numerics.precision for record in records),
        _least(exponents),
        max((record._field_error.max_abs for record in records), default=0.0),
        max((record._magnitude for record in records), default=0.0),
        None if None in promises else max((promise for promise in promises if promise is not None), default=0.0),
        [
            (piece.number, piece.record._field_error.l2, piece.record.error.max_abs, piece.record.error.l2)
            for piece in pieces
            if layout is None or layout.owner(piece.box.first) == layout.rank
        ],
    )


def _least(pairs: list[tuple[int, int]]) -> tuple[int, int] | None:
    return (min(pair[0] for pair in pairs), min(pair[1] for pair in pairs)) if pairs else None


def _merged(found: list[tuple[tuple[Any, ...], tuple[Any, ...], _Facts]], path: Any) -> _Facts:
    """Return what all ranks know together: the same as one rank that reads all chunks."""
    stamps, ways, facts = zip(*found, strict=True)
    if any(way != ways[0] for way in ways):
        raise LayoutError(f"expected the same layout on all ranks, got the splits {[way[0] for way in ways]}")
    if any(stamp != stamps[0] for stamp in stamps):
        raise StorageError(f"expected one store {path} on all ranks, got different ones: it was replaced meanwhile")
    kinds: list[tuple[Any, ...]] = []
    for one in facts:
        kinds += [kind for kind in one.kinds if kind not in kinds]
    return _Facts(
        kinds,
        frozenset().union(*(one.precisions for one in facts)),
        _least([one.exponents for one in facts if one.exponents is not None]),
        max(one.max_abs for one in facts),
        max(one.magnitude for one in facts),
        None if any(one.promise is None for one in facts) else max(one.promise for one in facts),
        sorted({entry[0]: entry for one in facts for entry in one.errors}.values()),
    )


def _joined(array: Any, pieces: list[_Piece], facts: _Facts, box: Box, codec: Any) -> Held | None:
    """Return a part of the array that chunks make up, without loss; None if that is impossible."""
    if len(facts.kinds) != 1 or not facts.kinds[0][-1] or facts.exponents is None:
        return None
    own: Codec = facts.kinds[0][0]
    sides = own.block_shape or ()
    aligned = all(c >= n or c % side == 0 for c, n, side in zip(array.chunks, array.shape, sides, strict=True))
    mixed = isinstance(own, BlockCodec) and len(facts.precisions) > 1
    if not aligned or mixed or sides != with_block_shape(codec.codec, len(sides)).block_shape:
        return None
    like = Numerics(BlockGrid(box.extents, sides), own.transform, max(facts.precisions))  # of two the longer one
    try:
        held = [held_part(piece.record, piece.box.first) for piece in pieces]
        return put_together(held, box, like, own, facts.exponents)
    except LayoutError:  # steps too different for one array
        return None


def _worst(errors: list[tuple[float, float]]) -> tuple[float, float]:
    """Return the largest error, and the L2 error of all, of parts that have these."""
    l2 = math.hypot(*(error[1] for error in errors)) * (1 + 2.0**-50)
    return max((error[0] for error in errors), default=0.0), l2


def _again(a: CompressedArray, most: float, l2: float) -> CompressedArray:
    """Return what was made of decoded values, which had errors already: those of both count."""
    error = a._field_error
    return a._replace(field_error=ErrorBound(error.max_abs + most, error.l2 + l2), magnitude=a._magnitude + most)
