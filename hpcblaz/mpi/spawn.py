"""Starting ranks of one's own: a program that is run under mpirun on this machine, for benchmarks and tests."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from hpcblaz.errors import CommunicatorError

_ROOT = Path(__file__).resolve().parents[2]  # the folder that holds the package
# What launchers tell their ranks: to an mpirun that is started by one of them it would say that it is a rank itself.
_CLEARED = ("PMI", "MPI_", "OMPI_", "PRTE_", "HYDRA_", "SLURM_")
_SETTINGS = {
    "HYDRA_LAUNCHER": "fork",  # MPICH: on this machine, also inside a Slurm job
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",  # Open MPI: more ranks than cores
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
}


class Finished(NamedTuple):
    """What became of a program: mpirun's exit status, None if it took too long, and what was printed."""

    status: int | None
    output: str
    errors: str


def find_mpirun() -> str:
    """Return the mpirun of this environment, or else of the PATH.

    Raises
    ------
    CommunicatorError
        If there is none.
    """
    beside = Path(sys.executable).parent / "mpirun"
    found = str(beside) if beside.exists() else shutil.which("mpirun")
    if found is None:
        raise CommunicatorError("expected mpirun, got none: pip install 'hpcblaz[mpich]'")
    return found


def run_ranks(
    arguments: Sequence[str],
    ranks: int,
    *,
    timeout: float,
    prefixes: Sequence[Sequence[str]] = (),
    environment: Mapping[str, str] | None = None,
    merge: bool = False,
) -> Finished:
    """Run ``python *arguments`` on several ranks of this machine, and wait for it.

    Parameters
    ----------
    arguments : sequence of str
        Of this Python.
    ranks : int
        How many.
    timeout : float
        Seconds after which all ranks are killed.
    prefixes : sequence of sequence of str, optional
        A command for each rank that is put before its own, such as one that enters a network namespace.
    environment : mapping of str to str, optional
        Variables to set beside those of this process.
    merge : bool, default False
        What goes to the standard error is part of `output`, in its place.

    Returns
    -------
    Finished

    Raises
    ------
    CommunicatorError
        If there is no mpirun.

    Examples
    --------
    >>> from hpcblaz.mpi.spawn import run_ranks
    >>> run_ranks(["-c", "print(1)"], 2, timeout=60).output.split()  # doctest: +SKIP
    ['1', '1']
    """
    command = [find_mpirun()]
    for number, prefix in enumerate(prefixes):
        command += [":"] if number else []
        command += ["-n", "1", *prefix, sys.executable, *arguments]
    if not prefixes:
        command += ["-n", str(ranks), sys.executable, *arguments]
    inherited = {key: value for key, value in os.environ.items() if not key.startswith(_CLEARED)}
    path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
    process = subprocess.Popen(
        command,
        env=inherited | {"PYTHONPATH": path} | _SETTINGS | dict(environment or {}),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT if merge else subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            output, errors = process.communicate(timeout=timeout)
            return Finished(process.returncode, output, errors or "")
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, errors = process.communicate()
            return Finished(None, output, errors or "")
