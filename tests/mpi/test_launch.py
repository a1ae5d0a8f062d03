"""Runs every test marked `mpi`, of the whole suite, under mpirun on several ranks."""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT = 300  # seconds; a rank gives up and shows where it hangs a little earlier
CLEARED = ("PMI", "MPI_", "OMPI_", "PRTE_", "HYDRA_", "SLURM_")


def mpirun() -> str:
    beside = Path(sys.executable).parent / "mpirun"
    found = str(beside) if beside.exists() else shutil.which("mpirun")
    if found is None:
        pytest.skip("no mpirun: pip install 'hpcblaz[mpich]'")
    if importlib.util.find_spec("mpi4py") is None:
        pytest.skip("no mpi4py: pip install 'hpcblaz[mpich]'")
    return found


def launch(ranks: int, arguments: list[str], timeout: float) -> tuple[int | None, str]:
    """Run Python on several ranks; return mpirun's exit status (None: timed out) and all that was printed."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(CLEARED)} | {
        "HPCBLAZ_TEST_INSIDE_MPIRUN": "1",
        "HPCBLAZ_TEST_TIMEOUT": str(0.8 * timeout),
        "HYDRA_LAUNCHER": "fork",  # MPICH: on this machine, also inside a Slurm job
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",  # Open MPI: more ranks than cores
        "OMPI_MCA_rmaps_base_oversubscribe": "1",
    }
    process = subprocess.Popen(
        [mpirun(), "-n", str(ranks), sys.executable, *arguments],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    with process:
        try:
            output = process.communicate(timeout=timeout)[0]
            return process.returncode, output
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return None, process.communicate()[0]


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_the_mpi_tests_pass(ranks: int) -> None:
    options = ["-q", "-p", "no:cacheprovider", "--capture=sys", "-m", "mpi", "tests"]
    status, output = launch(ranks, ["-m", "pytest", *options], TIMEOUT)
    assert status == 0, f"mpirun -n {ranks}: exit status {status} (None: over {TIMEOUT} s)\n{output}"
    assert output.count(" passed") == ranks, output


def test_a_rank_that_hangs_shows_where() -> None:
    """The alarm that conftest.py sets is what makes a deadlock of the suite above readable."""
    code = (
        "import faulthandler, os, sys, time; from hpcblaz.mpi import world; comm = world(); "
        "faulthandler.dump_traceback_later(3, exit=True, file=sys.__stderr__); "
        "comm.rank and comm.barrier(); comm.rank or time.sleep(60)"
    )
    status, output = launch(2, ["-c", code], 60)
    assert status not in (0, None), output
    assert "Timeout (0:00:03)!" in output
