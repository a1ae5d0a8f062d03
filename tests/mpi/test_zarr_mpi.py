"""Zarr stores that all ranks write and read together; run under mpirun by test_launch.py."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hpcblaz as hb
from hpcblaz.errors import CodecError, FileFormatError, HpcblazError, LayoutError, StorageError
from hpcblaz.fields.read_counts import counting_reads
from hpcblaz.mpi import Communicator, Layout

zarr = pytest.importorskip("zarr", reason="zarr is not installed: pip install 'hpcblaz[io]'")

from hpcblaz.fields.zarr_codec import FieldCodec  # noqa: E402  needs zarr

pytestmark = pytest.mark.mpi

SIDES = (4, 4, 4)
CODECS: dict[str, Any] = {
    "packed": {"tolerance": 1e-2},
    "fixed": {"codec": hb.BlockCodec(SIDES, index_dtype="int16", keep=0.4)},
}
KINDS = pytest.mark.parametrize("kind", CODECS)
# Parts of unlike length, ranks without any, and a field with no cells
SHAPES = [(22, 13, 9), (3, 3, 3), (4, 0, 5), (40, 8, 4)]


@pytest.fixture
def folder(comm: Communicator) -> Iterator[Path]:
    """One folder for all ranks."""
    with tempfile.TemporaryDirectory() as own:
        yield Path(comm.broadcast(own))
        comm.barrier()


def whole(shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    x = np.random.default_rng(7).normal(size=shape).astype(np.float32).cumsum(0)
    x[1:3, :2, 1:], x[-1:, -1:, -1:] = np.nan, -999
    return x


def compressed(shape: tuple[int, ...], kind: str, layout: Layout | None) -> hb.CompressedArray:
    x = whole(shape)
    part = x if layout is None else layout.local(x)
    return hb.compress(part, layout=layout, fill_value=-999, **CODECS[kind])


def layouts(comm: Communicator, shape: tuple[int, ...]) -> list[Layout]:
    ways = [None, (1, 1, comm.size), (1, comm.size, 1)] + ([(2, 2, 1)] if comm.size == 4 else [])
    return [Layout(shape, comm, block_shape=SIDES, splits=way) for way in ways]


def contents(store: Path) -> dict[str, bytes]:
    return {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("*") if path.is_file()}


@KINDS
@pytest.mark.parametrize("shape", SHAPES)
def test_a_store_is_the_same_whoever_writes_it(
    comm: Communicator, folder: Path, shape: tuple[int, ...], kind: str
) -> None:
    layout = layouts(comm, shape)[0]
    a = 2 * compressed(shape, kind, layout) + 1
    for number, chunks in enumerate([(12, 8, 12), (40, 8, 12), None]):
        path, one = folder / f"{number}.zarr", folder / "one.zarr"
        a.save(path, chunks=chunks, attributes={"units": "K"})
        a.save(folder / "a.hbz", attributes={"units": "K"})
        if comm.rank == 0:
            used = zarr.open_array(str(path), mode="r").chunks
            hb.load(folder / "a.hbz").save(one, chunks=used)
            assert contents(path) == contents(one)
            array = zarr.open_array(str(path), mode="r")
            np.testing.assert_array_equal(array[...], hb.load(folder / "a.hbz").decompress())
            assert sorted(name for name in os.listdir(folder) if name.startswith(".")) == []
        comm.barrier()


@KINDS
@pytest.mark.parametrize("shape", SHAPES)
def test_any_ranks_read_what_any_wrote(comm: Communicator, folder: Path, shape: tuple[int, ...], kind: str) -> None:
    path = folder / "a.zarr"
    ways = layouts(comm, shape)
    for layout, chunks in [(ways[0], None), (ways[-1], (12, 8, 8))]:
        a = compressed(shape, kind, layout)
        a.save(path, chunks=chunks, attributes={"units": "K"})
        one = hb.open(path)
        values = one.decompress()
        np.testing.assert_array_equal(values[layout.slices], a.decompress())
        assert one.error.max_abs == a.error.max_abs or not a.size
        assert one.error.l2 >= a.error.l2 and one.attributes == {"units": "K"}
        for other in [comm, ways[1], ways[-1]]:
            b = hb.open(path, layout=other)
            if isinstance(other, Layout) or comm.size > 1:
                assert b.layout is not None
                np.testing.assert_array_equal(b.decompress(), values[b.layout.slices])
            assert (b.error, b.attributes, b.dtype, b.codec) == (one.error, one.attributes, one.dtype, one.codec)
            if b.count():
                mean, expected = b.mean(), one.mean()
                assert abs(float(mean) - float(expected)) <= 1e-6 and mean.error >= 0
        part = hb.open(path, layout=Layout(shape, rank=1, size=5, block_shape=SIDES))  # planned, without these ranks
        np.testing.assert_array_equal(part.decompress(), values[part.layout.slices])  # type: ignore[union-attr]
        assert part.error == one.error
        comm.barrier()


@pytest.mark.parametrize("shards", [None, (16, 16, 8)], ids=["chunks", "shards"])
@pytest.mark.parametrize("chunks", [(8, 8, 4), (6, 8, 4)], ids=["whole", "cut"])
def test_what_zarr_wrote(comm: Communicator, folder: Path, chunks: tuple[int, ...], shards: Any) -> None:
    """Chunks in shards, and chunks that cut blocks: these are decoded, and compressed anew by all ranks together."""
    if shards is not None and chunks[0] == 6:
        shards = (12, 16, 8)
    path, x = folder / "a.zarr", whole((30, 21, 9))
    if comm.rank == 0:
        array = zarr.create_array(
            str(path), shape=x.shape, dtype=x.dtype, chunks=chunks, shards=shards, fill_value=np.nan,
            compressors=None, serializer=FieldCodec(tolerance=1e-2, block_shape=SIDES, missing_value=-999),
        )  # fmt: skip
        array[...] = x
    comm.barrier()
    one = hb.open(path)
    values = one.decompress()
    for layout in layouts(comm, x.shape):
        b = hb.open(path, layout=layout)
        np.testing.assert_array_equal(b.decompress(), values[layout.slices])
        assert b.error.max_abs == pytest.approx(one.error.max_abs) and b.count() == one.count()
        assert b.error.l2 == pytest.approx(one.error.l2, rel=0.1)  # what stands in for missing cells differs
        gone = ~np.isfinite(x[layout.slices]) | (x[layout.slices] == -999)
        np.testing.assert_array_equal(b.missing(), gone)
        part = x[layout.slices][~gone].astype(float)
        assert np.abs(b.decompress()[~gone] - part).max(initial=0) <= b.error.max_abs
    comm.barrier()


def test_a_rank_reads_its_chunks_only(comm: Communicator, folder: Path) -> None:
    shape, path = (64, 8, 8), folder / "a.zarr"
    layout = Layout(shape, comm, block_shape=SIDES)
    compressed(shape, "packed", layout).save(path, chunks=(4, 8, 8))
    sizes = {file.parent.parent.name: file.stat().st_size for file in path.rglob("*") if file.parent.name == "0"}
    with counting_reads() as counts:
        a = hb.open(path, layout=layout)
    own = range(layout.slices[0].start // 4, math.ceil(layout.slices[0].stop / 4))
    assert counts.chunks == len(own) and counts.bytes_decoded == 0
    assert counts.bytes_read == sum(sizes[str(number)] for number in own)
    assert a.layout == layout
    a.save(folder / "a.hbz")
    with counting_reads() as counts:
        hb.load(folder / "a.hbz", layout)
    assert counts.chunks == 1 and 0 < counts.bytes_read < 1.1 * a.nbytes
    assert hb.open(path)[0, 0, 0] == hb.load(folder / "a.hbz")[0, 0, 0]
    comm.barrier()


def test_damage_that_one_rank_meets_is_everybodys(comm: Communicator, folder: Path) -> None:
    path = folder / "a.zarr"
    compressed((64, 8, 8), "packed", Layout((64, 8, 8), comm, block_shape=SIDES)).save(path, chunks=(4, 8, 8))
    if comm.rank == 0:
        chunk = path / "c/15/0/0"
        chunk.write_bytes(chunk.read_bytes()[:-40])
    comm.barrier()
    layout = Layout((64, 8, 8), comm, block_shape=SIDES, splits=(comm.size, 1, 1))
    with pytest.raises(FileFormatError, match=r"in the chunk c/15/0/0 from cell \(60, 0, 0\)"):
        hb.open(path, layout=layout)
    comm.barrier()


def test_what_does_not_fit_is_refused_by_all(comm: Communicator, folder: Path) -> None:
    shape = (22, 13, 9)
    layout = Layout(shape, comm, block_shape=SIDES)
    a, path = compressed(shape, "packed", layout), folder / "a.zarr"
    a.save(path)
    comm.barrier()
    before = contents(path)
    with pytest.raises(LayoutError, match="expected chunks of whole blocks"):
        a.save(path, chunks=(6, 4, 4))
    with pytest.raises(StorageError, match="there is no such file"):
        a.save(folder / "missing" / "a.zarr")
    with pytest.raises(StorageError, match="attributes"):
        a.save(path, attributes={"x": object()} if comm.rank == comm.size - 1 else {})
    with pytest.raises(LayoutError, match="as in the store"):
        hb.open(path, layout=Layout((8, 8, 8), comm))
    with pytest.raises(FileFormatError, match="expected a group with the variable 'x'"):
        hb.open(path, "x", comm)
    if comm.size > 1:
        with pytest.raises(CodecError, match="agree on all ranks, got other factor on rank 1"):
            a._replace(factor=1.0 + comm.rank).save(path)
        with pytest.raises(LayoutError, match="expected the same layout on all ranks"):
            hb.open(path, layout=layouts(comm, shape)[2 if comm.rank else 1])
        with pytest.raises(LayoutError, match="expected the same chunks on all ranks"):
            a.save(path, chunks=(4 * (1 + comm.rank), 4, 4))
    comm.barrier()
    assert contents(path) == before and os.listdir(folder) == ["a.zarr"]


@KINDS
def test_a_rank_that_cannot_cut_its_piece_stops_all(
    comm: Communicator, folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for a piece that does not come."""
    shape, path = (22, 13, 9), folder / "a.zarr"
    a = compressed(shape, kind, Layout(shape, comm, block_shape=SIDES))
    a.save(path)
    before = contents(path)

    def fail(*arguments: Any) -> None:
        raise MemoryError("no room")

    if comm.rank == comm.size - 1:
        monkeypatch.setattr("hpcblaz.fields.zarr_writing.put_together", fail)
    with pytest.raises((MemoryError, HpcblazError), match="no room"):
        a.save(path, chunks=(24, 16, 12))
    comm.barrier()
    assert contents(path) == before and os.listdir(folder) == ["a.zarr"]


def test_parts_with_other_steps(comm: Communicator, folder: Path) -> None:
    """A sum may take other steps on one rank than on another; chunks that have cells of both take the smaller ones."""
    shape = (22, 13, 9)
    a = compressed(shape, "packed", Layout(shape, comm, block_shape=SIDES))
    shift = 2 * comm.rank
    blocks = a._blocks
    moved = a._replace(
        blocks=type(blocks)(blocks.words, blocks.offsets, blocks.exponent + shift, blocks.mean_exponent + shift)
    )
    moved.save(folder / "a.zarr", chunks=(24, 4, 4))
    moved.save(folder / "a.hbz")
    np.testing.assert_array_equal(hb.open(folder / "a.zarr").decompress(), hb.load(folder / "a.hbz").decompress())
    b = hb.open(folder / "a.zarr", layout=moved.layout)
    np.testing.assert_array_equal(b.decompress(), moved.decompress())
    comm.barrier()
