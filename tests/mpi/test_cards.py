"""Run by `pytest` on one rank, and by test_launch.py under mpirun on several."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from hpcblaz.errors import ConfigurationError, DeviceError
from hpcblaz.mpi import (
    Communicator,
    CudaSupport,
    SerialCommunicator,
    cards,
    communicator,
    cuda_aware,
    device_number,
    local_rank,
)

STEP = {"SLURM_STEP_ID": "0", "SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8"}
BATCH = {"SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NTASKS": "8"}  # of the batch script's own shell
# Not all that a launcher sets: MPI itself may still read that, at its end.
PREFIXES = ("OMPI_", "MV2_", "SLURM_", "PALS_", "MPI_LOCAL", "PMI_SIZE", "HPCBLAZ_CUDA", "MPICH_GPU", "MPIR_CVAR")


@pytest.fixture
def clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """No launcher, no setting, no MPI that is in use, and nothing decided."""
    for name in list(os.environ):
        if name.startswith(PREFIXES):
            monkeypatch.delenv(name)
    monkeypatch.setitem(sys.modules, "mpi4py.MPI", None)
    cards._decide.cache_clear()
    yield monkeypatch
    cards._decide.cache_clear()


def use(patch: pytest.MonkeyPatch, *, initialised: bool = True, finalised: bool = False, **functions: Any) -> None:
    """Pretend that mpi4py has loaded a library with these functions."""
    mpi = SimpleNamespace(Is_initialized=lambda: initialised, Is_finalized=lambda: finalised, __file__="MPI.so")
    patch.setitem(sys.modules, "mpi4py.MPI", mpi)
    patch.setattr(ctypes, "CDLL", lambda path: SimpleNamespace(**functions) if path == "MPI.so" else None)


def gpu_query(answer: int, status: int = 0) -> Any:
    """MPICH's MPIX_GPU_query_support."""

    def function(kind: int, flag: Any) -> int:
        assert kind == 0
        flag._obj.value = answer
        return status

    return function


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, 0),
        (BATCH, 0),
        ({"SLURM_LOCALID": "3"}, 0),
        ({"OMPI_COMM_WORLD_SIZE": "8", "OMPI_COMM_WORLD_LOCAL_RANK": "2"}, 2),
        (BATCH | {"OMPI_COMM_WORLD_SIZE": "8", "OMPI_COMM_WORLD_LOCAL_RANK": "2"}, 2),
        ({"MV2_COMM_WORLD_SIZE": "8", "MV2_COMM_WORLD_LOCAL_RANK": "4"}, 4),
        ({"PMI_SIZE": "8", "MPI_LOCALNRANKS": "4", "MPI_LOCALRANKID": "3"}, 3),
        ({"PMI_SIZE": "8", "PALS_LOCAL_RANKID": "1"}, 1),
        (STEP | {"SLURM_LOCALID": "1"}, 1),
        (STEP | {"SLURM_LOCALID": "1", "PMI_SIZE": "8"}, 1),  # srun --mpi=pmi2
        # mpirun in a job starts one process a node through srun, and these start the ranks
        (STEP | {"SLURM_LOCALID": "0", "PMI_SIZE": "8", "MPI_LOCALNRANKS": "4", "MPI_LOCALRANKID": "3"}, 3),
        (STEP | {"SLURM_LOCALID": "0", "OMPI_COMM_WORLD_SIZE": "8", "OMPI_COMM_WORLD_LOCAL_RANK": "3"}, 3),
        # what makes no sense, or belongs to another launcher, is as good as nothing
        ({"PMI_SIZE": "8", "MPI_LOCALRANKID": "8"}, 0),
        ({"PMI_SIZE": "8", "MPI_LOCALRANKID": "x"}, 0),
        ({"PMI_SIZE": "8", "OMPI_COMM_WORLD_LOCAL_RANK": "2"}, 0),
        (STEP | {"SLURM_LOCALID": "1", "OMPI_COMM_WORLD_SIZE": "8"}, 0),
    ],
)
def test_the_local_rank_is_read_from_the_environment(
    clean: pytest.MonkeyPatch, environment: dict[str, str], expected: int
) -> None:
    for name, value in environment.items():
        clean.setenv(name, value)
    assert local_rank(SerialCommunicator()) == expected


def test_one_process_takes_the_first_card(clean: pytest.MonkeyPatch) -> None:
    assert [device_number(SerialCommunicator(), visible) for visible in (1, 2, 8)] == [0, 0, 0]


def test_cards_are_dealt_in_turn(clean: pytest.MonkeyPatch) -> None:
    clean.setenv("PMI_SIZE", "8")
    numbers = []
    for local in range(8):
        clean.setenv("MPI_LOCALRANKID", str(local))
        numbers.append([device_number(SerialCommunicator(), visible) for visible in (1, 3, 8)])
    assert numbers == [[0, local % 3, local] for local in range(8)]


@pytest.mark.mpi
def test_local_ranks_number_the_ranks_of_the_node(comm: Communicator) -> None:
    node = comm.gather_objects(os.uname().nodename)
    numbers = comm.gather_objects(local_rank(comm))
    here = [number for number, name in zip(numbers, node, strict=True) if name == os.uname().nodename]
    assert sorted(here) == list(range(len(here)))
    for visible in (1, 2, comm.size, comm.size + 1):
        assert comm.gather_objects(device_number(comm, visible)) == [number % visible for number in numbers]


@pytest.mark.mpi
def test_mpi_is_asked_if_one_rank_is_not_told(comm: Communicator, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = local_rank(comm)
    if comm.rank == comm.size - 1:
        for name in ("OMPI_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_RANK", "MPI_LOCALRANKID", "SLURM_LOCALID"):
            monkeypatch.delenv(name, raising=False)
    elif comm.size > 1:
        monkeypatch.setattr(cards, "_launched_local_rank", lambda: 77)  # must not be used then
    assert local_rank(comm) == expected


@pytest.mark.mpi
def test_parts_of_the_world_do_not_share_its_first_card(comm: Communicator) -> None:
    mpi = pytest.importorskip("mpi4py.MPI", reason="mpi4py is not installed", exc_type=ImportError)
    if cards._launched_local_rank() < 0:
        return
    half = mpi.COMM_WORLD.Split(comm.rank % 2)
    for part in (communicator(half), communicator(mpi.COMM_SELF), communicator(None)):
        assert local_rank(part) == cards._launched_local_rank()
    half.Free()


@pytest.mark.mpi
def test_a_rank_without_a_card_fails_everywhere(comm: Communicator) -> None:
    with pytest.raises(DeviceError, match="expected at least one CUDA device, got 0"):
        device_number(comm, 0 if comm.rank == comm.size - 1 else 2)


def test_the_setting_decides_first(clean: pytest.MonkeyPatch) -> None:
    use(clean, MPIX_Query_cuda_support=lambda: 1)
    clean.setenv("MPICH_GPU_SUPPORT_ENABLED", "1")
    clean.setenv("HPCBLAZ_CUDA_AWARE_MPI", "0")
    assert cuda_aware() == CudaSupport(False, "HPCBLAZ_CUDA_AWARE_MPI=0")
    assert str(cuda_aware()) == "no: HPCBLAZ_CUDA_AWARE_MPI=0"
    cards._decide.cache_clear()
    use(clean, MPIX_Query_cuda_support=lambda: 0)
    clean.setenv("MPICH_GPU_SUPPORT_ENABLED", "0")
    clean.setenv("HPCBLAZ_CUDA_AWARE_MPI", "1")
    assert str(cuda_aware()) == "yes: HPCBLAZ_CUDA_AWARE_MPI=1"


def test_a_setting_that_makes_no_sense_is_refused(clean: pytest.MonkeyPatch) -> None:
    clean.setenv("HPCBLAZ_CUDA_AWARE_MPI", "perhaps")
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="HPCBLAZ_CUDA_AWARE_MPI: expected 0 or 1, got 'perhaps'"):
            cuda_aware()


@pytest.mark.parametrize("answer", [0, 1])
def test_the_library_is_asked_before_the_environment(clean: pytest.MonkeyPatch, answer: int) -> None:
    clean.setenv("MV2_USE_CUDA", "1")
    use(clean, MPIX_Query_cuda_support=lambda: answer)
    assert cuda_aware() == CudaSupport(bool(answer), "MPIX_Query_cuda_support says so")
    cards._decide.cache_clear()
    use(clean, MPIX_GPU_query_support=gpu_query(answer), MPIX_Query_cuda_support=os.abort)
    assert cuda_aware() == CudaSupport(bool(answer), "MPIX_GPU_query_support says so")


def test_a_switch_that_is_off_overrules_how_the_library_was_built(clean: pytest.MonkeyPatch) -> None:
    use(clean, MPIX_Query_cuda_support=lambda: 1)
    clean.setenv("OMPI_MCA_opal_cuda_support", "False")
    assert cuda_aware() == CudaSupport(False, "OMPI_MCA_opal_cuda_support=false")


@pytest.mark.parametrize(
    "setting", ["MPICH_GPU_SUPPORT_ENABLED=1", "MV2_USE_CUDA=1", "OMPI_MCA_opal_cuda_support=true"]
)
@pytest.mark.parametrize("functions", [None, {}, {"MPIX_GPU_query_support": gpu_query(1, status=5)}])
def test_the_environment_decides_where_the_library_does_not(
    clean: pytest.MonkeyPatch, setting: str, functions: dict[str, Any] | None
) -> None:
    if functions is not None:
        use(clean, **functions)
    clean.setenv(*setting.split("="))
    assert cuda_aware() == CudaSupport(True, setting)


def test_without_evidence_the_host_is_used(clean: pytest.MonkeyPatch) -> None:
    clean.setenv("MPIR_CVAR_ENABLE_GPU", "1")  # means something in a library built for GPUs only
    assert str(cuda_aware()) == "no: the environment does not say so; host memory is used on the way"
    use(clean)
    assert cuda_aware() == (
        False,
        "neither the MPI library nor the environment says so; host memory is used on the way",
    )


@pytest.mark.parametrize("state", [{"initialised": False}, {"finalised": True}])
def test_a_library_that_is_not_in_use_is_not_asked(clean: pytest.MonkeyPatch, state: dict[str, bool]) -> None:
    use(clean, **state, MPIX_GPU_query_support=os.abort, MPIX_Query_cuda_support=os.abort)
    assert not cuda_aware().supported


def test_it_is_decided_once_and_once_more_when_mpi_is_there(clean: pytest.MonkeyPatch) -> None:
    assert not cuda_aware().supported
    clean.setenv("MPICH_GPU_SUPPORT_ENABLED", "1")
    assert not cuda_aware().supported
    answers = iter([1])
    use(clean, MPIX_Query_cuda_support=lambda: next(answers))
    assert cuda_aware().supported and cuda_aware().supported


@pytest.mark.mpi
def test_ranks_agree_on_the_real_library(comm: Communicator) -> None:
    """Also: asking does not end the process."""
    cards._decide.cache_clear()
    answers = comm.gather_objects(tuple(cuda_aware()))
    assert answers == [answers[0]] * comm.size
