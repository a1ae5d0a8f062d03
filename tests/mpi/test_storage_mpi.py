"""Files written by all ranks together, and read by any number; run under mpirun by test_launch.py."""

from __future__ import annotations

import errno
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hpcblaz as hb
from hpcblaz.errors import CodecError, FileFormatError, LayoutError, ShapeError, StorageError
from hpcblaz.fields.hdf5 import write_hdf5
from hpcblaz.fields.readers import open_array, write_array
from hpcblaz.fields.storage import read_header
from hpcblaz.mpi import Communicator, Layout
from hpcblaz.mpi.collect import collect, wait_idly

CODECS = {
    "packed": {"tolerance": 1e-2},
    "fixed": {"codec": hb.BlockCodec((4, 4, 4), index_dtype="int8", keep=0.4)},
}
SHAPES = [(22, 13, 9), (3, 3, 3), (4, 0, 5), (40, 4, 4)]


@pytest.fixture
def folder(comm: Communicator) -> Iterator[Path]:
    """One folder for all ranks."""
    with tempfile.TemporaryDirectory() as own:
        yield Path(comm.broadcast(own))
        comm.barrier()


def whole(shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    return np.random.default_rng(7).normal(size=shape).astype(np.float32).cumsum(0)


def compressed(comm: Communicator, shape: tuple[int, ...], kind: str, splits: Any = None) -> hb.CompressedArray:
    layout = Layout(shape, comm, block_shape=(4, 4, 4), splits=splits)
    return hb.compress(layout.local(whole(shape)), layout=layout, **CODECS[kind])


@pytest.mark.mpi
@pytest.mark.parametrize("kind", CODECS)
@pytest.mark.parametrize("shape", SHAPES)
def test_any_number_of_ranks_reads(comm: Communicator, folder: Path, shape: tuple[int, ...], kind: str) -> None:
    path = folder / "a.hbz"
    for splits in ((comm.size, 1, 1), (1, 1, comm.size)):
        a = compressed(comm, shape, kind, splits)
        a.save(path, attributes={"splits": splits})
        assert len(read_header(path).parts) == comm.size
        one = hb.load(path)
        assert one.layout is None and one.attributes == {"splits": list(splits)}
        assert one.error == a.error
        values = one.decompress()
        np.testing.assert_array_equal(values[a.layout.slices if a.layout is not None else ...], a.decompress())
        again = hb.load(path, comm)
        np.testing.assert_array_equal(again.decompress(), a.decompress())
        if comm.size > 1:
            assert again.layout == a.layout
        else:
            assert again.layout is None
        for size in (1, 2, 3, 5):
            for rank in range(size):
                part = hb.load(path, Layout(shape, rank=rank, size=size, block_shape=(4, 4, 4)))
                np.testing.assert_array_equal(part.decompress(), values[part.layout.slices])  # type: ignore[union-attr]
        other = hb.load(path, Layout(shape, comm, block_shape=(4, 4, 4), splits=(1, comm.size, 1)))
        np.testing.assert_array_equal(other.gather() if comm.rank == 0 else other.gather() or values, values)
        comm.barrier()


@pytest.mark.mpi
def test_one_rank_writes_and_all_read(comm: Communicator, folder: Path) -> None:
    path = folder / "a.hbz"
    x = whole(SHAPES[0])
    if comm.rank == 0:
        hb.compress(x, tolerance=1e-2).save(path)
    comm.barrier()
    a = hb.load(path, comm)
    assert (a.layout.size if a.layout is not None else 1) == comm.size
    mean = a.mean()
    assert abs(mean - x.mean(dtype=float)) <= mean.error
    assert comm.gather_objects(float(mean)) == [float(mean)] * comm.size
    assert abs((a - a).norm()) == 0


@pytest.mark.mpi
def test_parts_with_other_steps_are_put_together(comm: Communicator, folder: Path) -> None:
    """A sum may take other steps on one rank than on another."""
    path = folder / "a.hbz"
    a = compressed(comm, SHAPES[0], "packed")
    blocks = a._blocks
    shift = 2 if comm.rank == comm.size - 1 and comm.size > 1 else 0
    moved = a._replace(
        blocks=type(blocks)(blocks.words, blocks.offsets, blocks.exponent + shift, blocks.mean_exponent + 2 * shift)
    )
    moved.save(path)
    values = hb.load(path).decompress()
    np.testing.assert_array_equal(values[a.layout.slices if a.layout is not None else ...], moved.decompress())


@pytest.mark.mpi
def test_all_ranks_fail_together(comm: Communicator, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    a = compressed(comm, SHAPES[0], "packed")
    path = folder / "a.hbz"
    a.save(path)
    before = path.read_bytes()
    with pytest.raises(StorageError):
        a.save(folder / "missing" / "a.hbz")

    def fail(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite" if comm.size > 2 else "fsync", fail)
        with pytest.raises(StorageError, match="disk is full"):
            a.save(path)
    with pytest.raises(StorageError, match="attributes"):
        a.save(path, attributes={"x": object()} if comm.rank == comm.size - 1 else {})
    comm.barrier()
    assert path.read_bytes() == before and os.listdir(folder) == ["a.hbz"]
    if comm.size > 1:
        with pytest.raises(CodecError, match="agree on all ranks, got other factor on rank 1"):
            a._replace(factor=1.0 + comm.rank).save(path)
        with pytest.raises(LayoutError, match="as in the file"):
            hb.load(path, Layout((8, 8, 8), comm))
    comm.barrier()
    if comm.rank == 0:
        path.write_bytes(before[:-3])
    comm.barrier()
    with pytest.raises(FileFormatError, match="truncated"):
        hb.load(path, comm)


@pytest.mark.mpi
def test_damage_that_one_rank_meets_is_everybodys(comm: Communicator, folder: Path) -> None:
    path = folder / "a.hbz"
    compressed(comm, SHAPES[0], "packed").save(path)
    if comm.rank == 0:
        section = read_header(path).parts[-1].sections["words"]
        content = bytearray(path.read_bytes())
        content[section.offset] ^= 1
        path.write_bytes(content)
    comm.barrier()
    with pytest.raises(FileFormatError, match=f"words of part {comm.size - 1}"):
        hb.load(path, comm)


@pytest.mark.mpi
@pytest.mark.parametrize("name", ["x.npy", "x.f32", "x.f64"])
def test_plain_arrays(comm: Communicator, folder: Path, name: str) -> None:
    x = whole(SHAPES[0])
    for splits in ((comm.size, 1, 1), (1, comm.size, 1)):
        layout = Layout(x.shape, comm, splits=splits)
        write_array(folder / name, layout.local(x), layout)
        np.testing.assert_array_equal(open_array(folder / name, x.shape), x)
        comm.barrier()
    assert os.listdir(folder) == [name]


@pytest.mark.mpi
def test_collect(comm: Communicator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hpcblaz.mpi.collect.PIECE_BYTES", 16)
    arrays = [np.arange(comm.rank * 5), np.full((2, 3), comm.rank, np.int16), np.zeros(0)]
    root = comm.size - 1
    found: dict[tuple[int, int], bytes] = {}

    def take(rank: int, number: int, position: int, piece: np.ndarray[Any, Any]) -> None:
        assert position == len(found.get((rank, number), b"")) and 0 < piece.size <= 16
        found[rank, number] = found.get((rank, number), b"") + piece.tobytes()

    collect(comm, arrays, take, root)
    if comm.rank == root:
        for rank in range(comm.size):
            assert found.get((rank, 0), b"") == np.arange(rank * 5).tobytes()
            assert found[rank, 1] == np.full((2, 3), rank, np.int16).tobytes()
            assert (rank, 2) not in found

    def refuse(rank: int, number: int, position: int, piece: np.ndarray[Any, Any]) -> None:
        raise StorageError("expected room, got none")

    with pytest.raises(StorageError, match="expected room"):
        collect(comm, arrays, refuse, root)
    comm.barrier()


@pytest.mark.mpi
def test_waiting_idly(comm: Communicator) -> None:
    """Nobody goes on before the last rank is there, and those who wait use no core."""
    comm.barrier()
    used = time.process_time()
    begin = time.monotonic()
    if comm.rank == comm.size - 1:
        time.sleep(0.3)
    wait_idly(comm)
    assert time.monotonic() - begin > 0.25
    assert time.process_time() - used < 0.2


@pytest.mark.mpi
@pytest.mark.parametrize("shape", [SHAPES[0], (4, 0, 5)])
def test_hdf5(comm: Communicator, folder: Path, shape: tuple[int, ...]) -> None:
    h5py = pytest.importorskip("h5py", reason="h5py is not installed: pip install 'hpcblaz[io]'")
    path, x = folder / "x.h5", whole(shape)
    for splits in ((comm.size, 1, 1), (1, comm.size, 1)):
        layout = Layout(x.shape, comm, splits=splits)
        write_hdf5(path, layout.local(x), layout, name="run/density", attributes={"units": "kg", "odd": [1]})
        with h5py.File(path, "r") as file:
            np.testing.assert_array_equal(file["run/density"][...], x)
            assert file["run/density"].dtype == x.dtype and dict(file["run/density"].attrs) == {"units": "kg"}
        comm.barrier()
    with pytest.raises(StorageError):
        write_hdf5(folder / "missing" / "x.h5", layout.local(x), layout)
    with pytest.raises(ShapeError, match="this rank's part"):
        write_hdf5(path, np.zeros(3), layout)
    comm.barrier()
    assert os.listdir(folder) == ["x.h5"]
