"""Run by `pytest` on one rank, and by test_launch.py under mpirun on several."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hpcblaz.errors import (
    CommunicatorError,
    DtypeError,
    HpcblazError,
    LayoutError,
    MissingDependencyError,
    PeerError,
    ShapeError,
    ToleranceError,
)
from hpcblaz.mpi import Communicator, Layout, SerialCommunicator, communicator, library_info, world
from hpcblaz.mpi.launch import Launch, check_world_size, read_launch

STEP = {"SLURM_STEP_ID": "0", "SLURM_PROCID": "1"}
ROOT = Path(__file__).resolve().parents[2]


class OwnError(ToleranceError):
    def __init__(self, first: int, second: int) -> None:
        super().__init__(f"{first} and {second}")


@pytest.fixture
def chunked(comm: Communicator) -> Communicator:
    """All ranks, with messages cut into pieces of 24 bytes."""
    if comm.size == 1:
        return comm
    return Communicator(comm._comm, chunk_bytes=24)


def example(shape: tuple[int, ...], dtype: str) -> np.ndarray[Any, Any]:
    return np.random.default_rng(len(shape)).integers(0, 100, shape).astype(dtype)


@pytest.mark.mpi
def test_rank_and_size(comm: Communicator) -> None:
    assert comm.gather_objects(comm.rank) == list(range(comm.size))
    assert repr(comm).endswith(f"(rank={comm.rank}, size={comm.size})")
    assert communicator(comm) is comm
    comm.barrier()


@pytest.mark.mpi
def test_allgather(comm: Communicator) -> None:
    rows = comm.allgather([comm.rank, 0.1])
    assert rows.dtype == np.float64
    np.testing.assert_array_equal(rows, [[rank, 0.1] for rank in range(comm.size)])
    strided = np.arange(6, dtype=">f4")[::-2]
    np.testing.assert_array_equal(comm.allgather(strided), [[5, 3, 1]] * comm.size)
    assert comm.allgather([]).shape == (comm.size, 0)
    with pytest.raises(ShapeError, match=r"one axis, got shape \(1, 2\)"):
        comm.allgather([[1, 2]])


@pytest.mark.mpi
def test_allgather_gives_a_copy(comm: Communicator) -> None:
    vector = np.ones(3)
    comm.allgather(vector)[...] = 0
    assert vector.sum() == 3


@pytest.mark.mpi
def test_broadcast(comm: Communicator) -> None:
    last = comm.size - 1
    assert comm.broadcast({"from": comm.rank}, root=last) == {"from": last}
    mine = object() if comm.size == 1 else [comm.rank]
    got = comm.broadcast(mine)
    assert (got is mine) if comm.rank == 0 else (got == [0])


@pytest.mark.mpi
def test_agreeing_that_all_is_well(comm: Communicator) -> None:
    comm.agree(None)
    with comm.together():
        pass


@pytest.mark.mpi
@pytest.mark.parametrize("failing", [0, 1, 3])
@pytest.mark.parametrize(
    ("error", "peer", "text"),
    [
        (ToleranceError("expected more than 0, got 0"), ToleranceError, "expected more than 0, got 0"),
        (OwnError(1, 2), ToleranceError, "1 and 2"),
        (MissingDependencyError.needs("this", "that", "io"), MissingDependencyError, "this needs that"),
        (KeyError("k"), PeerError, "KeyError: 'k'"),
        (SystemExit(3), PeerError, "SystemExit: 3"),
    ],
)
def test_one_rank_fails_and_all_raise(
    comm: Communicator, failing: int, error: BaseException, peer: type[Exception], text: str
) -> None:
    failing %= comm.size
    with pytest.raises((HpcblazError, KeyError, SystemExit)) as caught, comm.together():
        if comm.rank == failing:
            raise error
    if comm.rank == failing:
        assert caught.value is error
        if comm.size > 1:
            assert f"on rank {failing} of {comm.size}; failing ranks: {failing}" in error.__notes__
    else:
        assert type(caught.value) is peer
        assert str(caught.value).startswith(f"rank {failing}: {text}")


@pytest.mark.mpi
def test_several_ranks_fail(comm: Communicator) -> None:
    error = ShapeError(f"own {comm.rank}") if comm.rank != comm.size - 1 else None
    if comm.size == 1:
        return
    with pytest.raises(ShapeError) as caught:
        comm.agree(error)
    if error is not None:
        assert caught.value is error
    elif comm.size == 2:
        assert str(caught.value) == "rank 0: own 0"
    else:
        others = ", ".join(str(rank) for rank in range(1, comm.size - 1))
        assert str(caught.value) == f"rank 0: own 0 (ranks {others} failed too)"


@pytest.mark.mpi
@pytest.mark.parametrize("dtype", ["<f4", ">f8", "i1", "?", "c16", "M8[s]"])
@pytest.mark.parametrize("shape", [(17,), (9, 7), (5, 6, 7), (3, 4, 5, 6), (2, 0, 3), (1, 1)])
def test_scatter_and_gather_are_inverse(chunked: Communicator, shape: tuple[int, ...], dtype: str) -> None:
    whole = example(shape, dtype)
    layout = Layout(shape, chunked, block_shape=(2,) * len(shape))
    root = chunked.size - 1
    local = chunked.scatter(whole if chunked.rank == root else None, layout, root)
    assert local.dtype == whole.dtype
    assert local.flags.c_contiguous
    assert local.flags.writeable
    np.testing.assert_array_equal(local, layout.local(whole))
    back = chunked.gather(local, layout, 0)
    if chunked.rank == 0:
        assert back is not None
        assert back.dtype == whole.dtype
        np.testing.assert_array_equal(back, whole)
    else:
        assert back is None


@pytest.mark.mpi
def test_every_split_is_gathered(chunked: Communicator) -> None:
    whole = example((10, 9), "f4")
    for splits in [(chunked.size, 1), (1, chunked.size)]:
        layout = Layout(whole.shape, chunked, block_shape=(2, 2), splits=splits)
        back = chunked.gather(layout.local(np.asfortranarray(whole)), layout)
        if back is not None:
            np.testing.assert_array_equal(back, whole)


@pytest.mark.mpi
def test_strided_and_read_only_parts_are_gathered(chunked: Communicator) -> None:
    whole = example((12, 10), "f8")
    layout = Layout(whole.shape, chunked, block_shape=(2, 2))
    wide = np.repeat(layout.local(whole), 2, axis=1)[:, ::2]
    wide.flags.writeable = False
    for part in (wide, np.frombuffer(layout.local(whole).tobytes()).reshape(layout.local_shape)):
        back = chunked.gather(part, layout)
        if back is not None:
            np.testing.assert_array_equal(back, whole)


@pytest.mark.mpi
def test_scatter_converts_and_reads_part_by_part(chunked: Communicator) -> None:
    whole = example((12, 10), ">i4")
    layout = Layout(whole.shape, chunked, block_shape=(2, 2))
    read: list[object] = []

    class File:
        shape, dtype = whole.shape, whole.dtype

        def __getitem__(self, slices: tuple[slice, ...]) -> Any:
            read.append(slices)
            return whole[slices]

    local = chunked.scatter(File() if chunked.rank == 0 else None, layout, dtype=np.float32)
    assert local.dtype == np.float32
    np.testing.assert_array_equal(local, layout.local(whole))
    assert read == ([layout.slices_of(rank) for rank in range(chunked.size)] if chunked.rank == 0 else [])


@pytest.mark.mpi
def test_a_failing_read_fails_everywhere(chunked: Communicator) -> None:
    layout = Layout((12, 10), chunked, block_shape=(2, 2))
    last = layout.slices_of(chunked.size - 1)

    class File:
        shape, dtype = (12, 10), np.dtype("f4")

        def __getitem__(self, slices: tuple[slice, ...]) -> Any:
            if slices == last:
                raise OSError("disk gone")
            return np.zeros(self.shape, self.dtype)[slices]

    with pytest.raises((OSError, PeerError), match="disk gone"):
        chunked.scatter(File() if chunked.rank == 0 else None, layout)


@pytest.mark.mpi
def test_what_does_not_fit_is_refused_on_every_rank(comm: Communicator) -> None:
    layout = Layout((8, 8), comm, block_shape=(2, 2))
    part = np.zeros(layout.local_shape)
    last = comm.rank == comm.size - 1
    with pytest.raises(ShapeError, match="this rank's part"):
        comm.gather(np.zeros(3) if last else part, layout)
    with pytest.raises(DtypeError, match="plain numbers, got object"):
        comm.gather(part.astype(object) if last else part, layout)
    if comm.size > 1:
        with pytest.raises(DtypeError, match=f"got float64 on rank 0 and float32 on rank {comm.size - 1}"):
            comm.gather(part.astype("f4") if last else part, layout)
    with pytest.raises(LayoutError, match="pass this communicator"):
        comm.gather(part, Layout((8, 8), block_shape=(2, 2), rank=0, size=comm.size + 1))
    with pytest.raises(CommunicatorError, match="0 <= root <"):
        comm.gather(part, layout, root=comm.size)
    root = comm.rank == 0
    with pytest.raises(ShapeError, match=r"shape \(8, 8\) on the root, got \(3,\)"):
        comm.scatter(np.zeros(3) if root else None, layout)
    with pytest.raises(ShapeError, match="on the root, got NoneType"):
        comm.scatter(None, layout)
    with pytest.raises(DtypeError, match="without loss of kind, got int32"):
        comm.scatter(np.zeros((8, 8)) if root else None, layout, dtype=np.int32)


@pytest.mark.mpi
def test_the_message_length_must_be_sensible(comm: Communicator) -> None:
    for chunk_bytes in (0, 2**31):
        with pytest.raises(CommunicatorError, match="chunk_bytes: expected"):
            Communicator(None, chunk_bytes=chunk_bytes)


@pytest.mark.mpi
def test_mpi4py_communicators_are_wrapped(comm: Communicator) -> None:
    mpi = pytest.importorskip("mpi4py.MPI", reason="mpi4py is not installed", exc_type=ImportError)
    wrapped = communicator(mpi.COMM_WORLD)
    assert (wrapped.rank, wrapped.size) == (comm.rank, comm.size)
    assert Layout((8,), mpi.COMM_WORLD, block_shape=(2,)).size == comm.size
    alone = communicator(mpi.COMM_SELF)
    assert (alone.rank, alone.size) == (0, 1)
    np.testing.assert_array_equal(alone.allgather([1, 2]), [[1, 2]])
    with pytest.raises(CommunicatorError, match="intracommunicator"):
        communicator(mpi.COMM_NULL)
    half = mpi.COMM_WORLD.Split(comm.rank % 2)
    assert communicator(half).gather_objects(comm.rank) == list(range(comm.rank % 2, comm.size, 2))
    half.Free()


@pytest.mark.mpi
def test_other_objects_are_no_communicators(comm: Communicator) -> None:
    assert isinstance(communicator(None), SerialCommunicator)
    with pytest.raises(CommunicatorError, match="expected"):
        communicator(SimpleNamespace(rank=0, size=1))


@pytest.mark.mpi
def test_library_info(comm: Communicator) -> None:
    info = library_info()
    assert pickle.loads(pickle.dumps(info)) == info
    if comm.size > 1:
        assert info["size"] == info["launched_size"] == comm.size
        assert info["library"]


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, None),
        ({"PMI_SIZE": "4", "MPI_LOCALNRANKS": "4"}, Launch("mpirun", 4)),
        ({"OMPI_COMM_WORLD_SIZE": "3"}, Launch("Open MPI's mpirun", 3)),
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}, None),  # a batch script's own shell
        ({"SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_STEP_ID": "4294967291"}, None),
        (STEP | {"SLURM_NTASKS": "4"}, Launch("srun", 4)),
        (STEP | {"SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "4"}, Launch("srun", 4)),
        (STEP | {"SLURM_NTASKS": "4", "PMI_SIZE": "4"}, Launch("srun", 4)),  # srun --mpi=pmi2
        # mpirun in a job of 8 tasks starts one process a node through srun, and these start the ranks
        (
            STEP | {"SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "2", "PMI_SIZE": "2", "MPI_LOCALNRANKS": "1"},
            Launch("mpirun", 2),
        ),
    ],
)
def test_the_launcher_is_read_from_the_environment(environment: dict[str, str], expected: Launch | None) -> None:
    assert read_launch(environment) == expected


def test_singletons_are_refused() -> None:
    step = STEP | {"SLURM_NTASKS": "4"}
    check_world_size(4, step)
    check_world_size(1, {"SLURM_NTASKS": "4", "SLURM_PROCID": "0"})
    check_world_size(2, {"SLURM_NTASKS": "4", "PMI_SIZE": "2", "MPI_LOCALNRANKS": "2"})
    with pytest.raises(CommunicatorError, match=r"expected 4 connected ranks, .* MPI sees 1: .*srun --mpi=pmi2"):
        check_world_size(1, step)
    with pytest.raises(CommunicatorError, match="mpirun belongs to another MPI"):
        check_world_size(1, {"PMI_SIZE": "4", "MPI_LOCALNRANKS": "4"})


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("PMI", "MPI_", "SLURM_", "OMPI_"))}
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=ROOT,
        env=clean | environment,
    )


def test_importing_and_one_rank_leave_mpi_alone() -> None:
    done = python("import sys, hpcblaz.mpi as m; print(m.world(), 'mpi4py' in sys.modules)")
    assert done.stdout.strip() == "SerialCommunicator(rank=0, size=1) False", done.stderr


def test_tasks_that_srun_did_not_connect_are_refused() -> None:
    pytest.importorskip("mpi4py", reason="mpi4py is not installed")
    done = python("import hpcblaz.mpi as m; m.world()", **STEP, SLURM_NTASKS="4")
    assert "CommunicatorError: expected 4 connected ranks, which srun started, but MPI sees 1" in done.stderr


def test_several_ranks_without_mpi4py_are_told_what_to_install() -> None:
    done = python("import sys; sys.modules['mpi4py'] = None; import hpcblaz.mpi as m; m.world()", PMI_SIZE="2")
    assert "CommunicatorError: expected mpi4py" in done.stderr
    assert "pip install 'hpcblaz[mpich]'" in done.stderr


def test_world_without_a_launcher_is_serial(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("PMI", "MPI_", "SLURM_", "OMPI_")):
            monkeypatch.delenv(name)
    assert isinstance(world(), SerialCommunicator)
