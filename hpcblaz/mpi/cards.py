"""Which card a rank takes, and whether MPI reads and writes the memory of cards."""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from typing import NamedTuple

from hpcblaz.errors import ConfigurationError, DeviceError
from hpcblaz.mpi.comm import Communicator
from hpcblaz.mpi.launch import read_launch

__all__ = ["CudaSupport", "cuda_aware", "device_number", "local_rank"]

# What each launcher (named as `read_launch` does) calls the number of a rank on its node. Only the variables of the
# launcher that started the ranks count: mpirun in a batch script hands SLURM_LOCALID=0 of that script to every rank.
_LOCAL_VARIABLES = {
    "Open MPI's mpirun": ("OMPI_COMM_WORLD_LOCAL_RANK",),
    "MVAPICH's mpirun": ("MV2_COMM_WORLD_LOCAL_RANK",),
    "mpirun": ("MPI_LOCALRANKID", "PALS_LOCAL_RANKID"),
    "srun": ("SLURM_LOCALID",),
}
_SETTING = "HPCBLAZ_CUDA_AWARE_MPI"
# Of Cray MPICH, MVAPICH2 and Open MPI before 5. MPICH's own MPIR_CVAR_ENABLE_GPU is part of what the library answers.
_SWITCHES = ("MPICH_GPU_SUPPORT_ENABLED", "MV2_USE_CUDA", "OMPI_MCA_opal_cuda_support")
_ON = ("1", "t", "true", "y", "yes", "enabled")
_OFF = ("0", "f", "false", "n", "no", "disabled")
_MPIX_GPU_SUPPORT_CUDA = 0  # in mpi.h of MPICH and what descends from it


class CudaSupport(NamedTuple):
    """Whether MPI takes pointers to the memory of a CUDA device, and how that is known."""

    supported: bool
    reason: str

    def __str__(self) -> str:
        return f"{'yes' if self.supported else 'no'}: {self.reason}"


def local_rank(comm: Communicator) -> int:
    """Return the number of this process among those of its node.

    A collective call. If every rank's launcher tells, the number counts all the processes that it started on the
    node, also where `comm` holds some of them only: they share the cards. Else MPI counts the ranks of `comm`.

    Parameters
    ----------
    comm : Communicator

    Returns
    -------
    int
        From 0. It is 0 for a process that was started directly.

    Examples
    --------
    >>> from hpcblaz.mpi import local_rank, world
    >>> comm = world()
    >>> 0 <= local_rank(comm) < comm.size
    True
    """
    told = _launched_local_rank()
    if comm.size == 1:
        return max(told, 0)
    # A wrapper script may clear the environment of some ranks: what follows is for all of them or for none.
    if comm.allgather([told]).min() >= 0:
        return told
    node = comm._comm.Split_type(comm._mpi.COMM_TYPE_SHARED, comm.rank)
    try:
        return int(node.Get_rank())
    finally:
        node.Free()


def device_number(comm: Communicator, visible: int) -> int:
    """Return the number of the card that this rank takes: the cards of a node are dealt out in turn.

    A collective call. ``CUDA_VISIBLE_DEVICES`` and Slurm's binding (``--gpus-per-task``) limit what a rank sees
    already: a rank that sees one card takes that one.

    Parameters
    ----------
    comm : Communicator
    visible : int
        How many cards this process sees; it may differ between ranks.

    Returns
    -------
    int
        At least 0 and below `visible`.

    Raises
    ------
    DeviceError
        On every rank, if a rank sees no card.

    Examples
    --------
    >>> from hpcblaz.mpi import device_number, world
    >>> device_number(world(), 1)
    0
    """
    with comm.together():
        if visible < 1:
            raise DeviceError(
                f"visible: expected at least one CUDA device, got {visible}: ask the batch system for GPUs "
                "(Slurm: --gpus-per-node), look at CUDA_VISIBLE_DEVICES and nvidia-smi, or use the CPU"
            )
    return local_rank(comm) % visible


def cuda_aware() -> CudaSupport:
    """Tell whether arrays on a card can be handed to MPI as they are.

    This initialises neither MPI nor CUDA. It is decided once before MPI is initialised, from the environment alone,
    and once more after, because only then the library can be asked. An explicit ``HPCBLAZ_CUDA_AWARE_MPI`` (0 or 1)
    decides; then a switch of an MPI library that is off, as ``OMPI_MCA_opal_cuda_support=false``; then what the
    library answers; then such a switch that is on.

    Returns
    -------
    CudaSupport
        If nothing says so, it is not supported: a wrong yes ends in a segmentation fault.

    Raises
    ------
    ConfigurationError
        If ``HPCBLAZ_CUDA_AWARE_MPI`` is neither 0 nor 1.

    Examples
    --------
    >>> from hpcblaz.mpi import cuda_aware
    >>> cuda_aware().supported in (True, False)
    True
    """
    mpi = sys.modules.get("mpi4py.MPI")
    usable = mpi is not None and mpi.Is_initialized() and not mpi.Is_finalized()
    return _decide(usable, getattr(mpi, "__file__", None))


@functools.cache
def _decide(usable: bool, extension: str | None) -> CudaSupport:
    wanted = os.environ.get(_SETTING, "").strip()
    if wanted not in ("", "0", "1"):
        raise ConfigurationError(f"{_SETTING}: expected 0 or 1, got {wanted!r}; correct it or unset it")
    if wanted:
        return CudaSupport(wanted == "1", f"{_SETTING}={wanted}")
    switches = {name: os.environ.get(name, "").strip().lower() for name in _SWITCHES}
    for name, value in switches.items():
        if value in _OFF:
            return CudaSupport(False, f"{name}={value}")
    answer = _ask_library(extension) if usable else None
    if answer is not None:
        return answer
    for name, value in switches.items():
        if value in _ON:
            return CudaSupport(True, f"{name}={value}")
    silent = "neither the MPI library nor the environment says so" if usable else "the environment does not say so"
    return CudaSupport(False, f"{silent}; host memory is used on the way")


def _ask_library(extension: str | None) -> CudaSupport | None:
    """Ask the library that mpi4py's extension is linked to. If it is not initialised, MPICH ends the process."""
    try:
        library = ctypes.CDLL(extension)  # loaded already; ctypes.CDLL(None) does not show the names of MPICH
    except OSError:
        return None
    # First, because the other one of MPICH before 4, also in Cray MPICH, fails an assertion and ends the process.
    if hasattr(library, "MPIX_GPU_query_support"):
        flag = ctypes.c_int(0)
        failed = library.MPIX_GPU_query_support(_MPIX_GPU_SUPPORT_CUDA, ctypes.byref(flag))
        return None if failed else CudaSupport(bool(flag.value), "MPIX_GPU_query_support says so")
    if hasattr(library, "MPIX_Query_cuda_support"):
        return CudaSupport(bool(library.MPIX_Query_cuda_support()), "MPIX_Query_cuda_support says so")
    return None


def _launched_local_rank() -> int:
    """Return what the launcher says, or -1."""
    launch = read_launch()
    if launch is not None:
        for name in _LOCAL_VARIABLES.get(launch.launcher, ()):
            value = os.environ.get(name, "")
            if value.isdigit() and int(value) < launch.size:
                return int(value)
    return -1
