"""Compressed arrays to Zarr stores: every rank writes chunks, and the store appears whole or not at all."""

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hpcblaz.errors import CodecError, LayoutError
from hpcblaz.fields.boxes import (
    Box,
    Held,
    array_of,
    chunks_sharing,
    held_part,
    keeper,
    packed,
    put_together,
    ranks_sharing,
    unpacked,
)
from hpcblaz.fields.codec import BlockCodec
from hpcblaz.fields.dumping import agreed_header, dumps, header_of
from hpcblaz.fields.zarr_store import (
    Cells,
    chunk_name,
    chunk_shape_for,
    chunk_shape_of,
    codec_options,
    create_array,
    zarr_module,
)
from hpcblaz.mpi import Communicator, communicator
from hpcblaz.mpi.atomic import AtomicFolder
from hpcblaz.mpi.pairwise import exchange_in_turn

if TYPE_CHECKING:
    from hpcblaz.fields.array import CompressedArray


class _Chunk(NamedTuple):
    """A chunk with cells of this rank, the rank that writes it, and the ranks that have cells of it."""

    place: Cells
    box: Box
    writer: int
    ranks: tuple[int, ...]


def save_store(
    a: "CompressedArray", path: str | os.PathLike[str], attributes: Mapping[str, Any] | None, chunks: Cells | None
) -> None:
    """Write an array as a Zarr store of its own; chunks are cut out of the payload, and nothing is decoded.

    With a layout this is a collective call. A chunk with cells of several ranks is written by the one that owns most
    of it; the others send it theirs, compressed. Rank 0 gives the store its name when all chunks are on the disk.
    """
    comm = communicator(a.layout.comm if a.layout is not None else None)
    with comm.together():
        if a.layout is not None and a.layout.size != comm.size:
            raise LayoutError(
                f"expected a layout with the communicator of its {a.layout.size} ranks, got one of {comm.size}: "
                "pass comm= to Layout, or save a.local"
            )
        zarr_module()
        chunk = _chunk_of(a, chunks)
        header = header_of(a, attributes, {})
        a = a.to_device("cpu")
        own = held_part(a)
        plan = list(_plan(a, chunk, own.box))
    headers = comm.gather_objects((header, chunk))
    stored = agreed_header([one for one, _ in headers])
    with comm.together():
        for rank, (_, other) in enumerate(headers):
            if other != chunk:
                raise LayoutError(f"expected the same chunks on all ranks, got {other} on rank {rank} and {chunk}")
        fill_values = {one.parts[0].fill_value for one, _ in headers} - {None}
        if len(fill_values) > 1:
            raise CodecError(f"expected one number for missing values in a store, got {sorted(fill_values)} on ranks")
        options = codec_options(a.codec, _stored_tolerance(a), next(iter(fill_values), None))
    folder: AtomicFolder | None = None
    try:
        with comm.together():
            if comm.rank == 0:
                folder = AtomicFolder(path)
                create_array(
                    folder.temporary, "", shape=a.shape, chunks=chunk, dtype=a.dtype, codec=options,
                    attributes=stored.attributes,
                )  # fmt: skip
        name, place = comm.broadcast(None if folder is None else (str(folder.path), str(folder.temporary)))
        received = _exchange(a, own, plan, comm)
        with comm.together():
            shared = folder or AtomicFolder(name, temporary=Path(place))
            array = zarr_module().open_array(place, mode="r")
            for one in plan:
                if one.writer == comm.rank:
                    held = [own, *(received[one.place, rank] for rank in one.ranks if rank != comm.rank)]
                    whole = put_together(held, one.box, own.numerics, a.codec)
                    shared.write(chunk_name(array, "", one.place), dumps(array_of(a, whole), attributes={}))
            shared.sync_names()
        with comm.together():
            if folder is not None:
                folder.commit(synced=True)
    finally:
        if folder is not None:
            folder.discard()


def _chunk_of(a: "CompressedArray", chunks: Cells | None) -> Cells:
    """Return the shape of the chunks, or raise LayoutError if they would cut blocks."""
    sides = a._numerics.grid.block_shape
    if chunks is not None:
        chunk = tuple(int(n) for n in chunks)
    elif a.layout is not None and min(a.layout.shape_of(0)) > 0:
        chunk = chunk_shape_for(a.layout)
    else:
        chunk = chunk_shape_of(a.shape, sides)
    same = len(chunk) == a.ndim and min(chunk) >= 1
    if not same or not all(c >= n or c % side == 0 for c, n, side in zip(chunk, a.shape, sides, strict=True)):
        raise LayoutError(f"expected chunks of whole blocks of {sides}, got {chunk}")
    return chunk


def _stored_tolerance(a: "CompressedArray") -> float:
    """Return the tolerance that the store declares: what others write into it is compressed with it."""
    tolerance = a.error.max_abs
    if isinstance(a.codec, BlockCodec) or 0 < tolerance < math.inf:
        return tolerance
    return float(np.finfo(np.float64).tiny if tolerance == 0 else np.finfo(np.float64).max)


def _plan(a: "CompressedArray", chunk: Cells, own: Box) -> Iterator[_Chunk]:
    """Yield the chunks with cells of this rank, in the same order on all of them."""
    for index, box in chunks_sharing(a.shape, chunk, own):
        sharing = [(0, box.size)] if a.layout is None else ranks_sharing(a.layout, box)
        yield _Chunk(index, box, keeper(sharing), tuple(rank for rank, _ in sharing))


def _exchange(a: "CompressedArray", own: Held, plan: list[_Chunk], comm: Communicator) -> dict[tuple[Cells, int], Held]:
    """Bring pieces of chunks to the ranks that write these; return what this rank got, by chunk and sender."""

    def pieces(rank: int) -> list[bytes]:
        theirs = [one for one in plan if one.writer == rank]
        return [packed(a, put_together([own], one.box.common(own.box), own.numerics, a.codec)) for one in theirs]

    counts = [sum(one.writer == rank for one in plan) for rank in range(comm.size)]
    found = exchange_in_turn(comm, counts, pieces)
    result: dict[tuple[Cells, int], Held] = {}
    with comm.together():
        for rank, buffers in found.items():
            shared = [one for one in plan if one.writer == comm.rank and rank in one.ranks]
            place = Box.of(a.layout.slices_of(rank)) if a.layout is not None else own.box
            for one, buffer in zip(shared, buffers, strict=True):
                result[one.place, rank] = unpacked(buffer, one.box.common(place).first)
    return result
