"""Runs every test marked `mpi`, of the whole suite, under mpirun on several ranks."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from hpcblaz.errors import CommunicatorError
from hpcblaz.mpi.spawn import find_mpirun, run_ranks

TESTS = Path(__file__).resolve().parents[1]
# Under mpirun on one rank: what uses most of MPI. A plain pytest runs all of them on one rank, without MPI
ONE_RANK = [TESTS / "mpi" / name for name in ("test_comm.py", "test_fields_mpi.py", "test_storage_mpi.py")]
TIMEOUT = 900  # seconds, on cores that other tests use, too; a rank gives up and shows where it hangs a little earlier


def launch(ranks: int, arguments: list[str], timeout: float) -> tuple[int | None, str]:
    """Run Python on several ranks; return mpirun's exit status (None: timed out) and all that was printed."""
    try:
        find_mpirun()
    except CommunicatorError as error:
        pytest.skip(str(error))
    if importlib.util.find_spec("mpi4py") is None:
        pytest.skip("no mpi4py: pip install 'hpcblaz[mpich]'")
    environment = {"HPCBLAZ_TEST_INSIDE_MPIRUN": "1", "HPCBLAZ_TEST_TIMEOUT": str(0.8 * timeout)}
    done = run_ranks(arguments, ranks, timeout=timeout, environment=environment, merge=True)
    return done.status, done.output


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_the_mpi_tests_pass(ranks: int) -> None:
    options = ["-q", "-p", "no:cacheprovider", "--capture=sys", "-m", "mpi"]
    options += map(str, [TESTS] if ranks > 1 else ONE_RANK)
    status, output = launch(ranks, ["-m", "pytest", *options], TIMEOUT)
    assert status == 0, f"mpirun -n {ranks}: exit status {status} (None: over {TIMEOUT} s)\n{output}"
    assert output.count(" passed") == ranks, output


def test_a_rank_that_hangs_shows_where() -> None:
    """The alarm that conftest.py sets is what makes a deadlock of the suite above readable."""
    code = (
        "import faulthandler, os, sys, time; from hpcblaz.mpi import world; comm = world(); "
        "faulthandler.dump_traceback_later(3, exit=True, file=sys.__stderr__); "
        "comm.rank and comm.barrier(); comm.rank or time.sleep(300)"
    )
    status, output = launch(2, ["-c", code], 300)
    assert status not in (0, None), output
    assert "Timeout (0:00:03)!" in output
