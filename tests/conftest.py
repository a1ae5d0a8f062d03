"""What all tests share: communicators, array modules, real data, and behaving well as one rank of several."""

from __future__ import annotations

import faulthandler
import importlib
import os
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from hpcblaz.mpi import Communicator, world
from hpcblaz.mpi.launch import read_launch

LAUNCH = read_launch()
RANKS = LAUNCH.size if LAUNCH else 1
INSIDE_MPIRUN = "HPCBLAZ_TEST_INSIDE_MPIRUN" in os.environ or RANKS > 1
TIMEOUT = float(os.environ.get("HPCBLAZ_TEST_TIMEOUT", "900"))  # seconds a rank may take before it is given up

TESTS = Path(__file__).parent
# Whole files are dealt out to the processes of a run of all tests, in this order; the rest follows. What takes long
# must not come last, and the tests under mpirun and Slurm shall find the kernels compiled, by the tests before them.
FIRST = ("backend/test_simulator.py", "backend/", "fields/", "slurm/", "mpi/test_launch.py", "mpi/", "cli/")

collect_ignore = ["mpi/test_launch.py"] if INSIDE_MPIRUN else []  # no mpirun inside mpirun

settings.register_profile("default", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, database=None, print_blob=True)
# Every rank must draw the same examples, however slow it is, or they meet in different collectives.
settings.register_profile(
    "mpi", deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("mpi" if INSIDE_MPIRUN else "ci" if os.environ.get("CI") else "default")


def is_shared_out(config: pytest.Config) -> bool:
    """Say whether several processes shall run the tests: all of them are wanted, and nothing else was said."""
    named = config.args_source is pytest.Config.ArgsSource.ARGS
    other = INSIDE_MPIRUN or "PYTEST_XDIST_WORKER" in os.environ or os.path.exists("/proc/driver/nvidia/version")
    return not (named or other or config.option.usepdb or config.option.collectonly)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Let a plain ``pytest`` use all cores: one process more than there are, as some wait for others or for Slurm."""
    if is_shared_out(config) and getattr(config.option, "numprocesses", 0) is None:
        config.option.numprocesses = min(len(os.sched_getaffinity(0)), 8) + 1
        config.option.dist = "loadfile"
        config.option.loadscopereorder = False


def pytest_report_header(config: pytest.Config) -> str | None:
    if is_shared_out(config) and not config.pluginmanager.has_plugin("xdist"):
        return "one process, which takes twice as long: pytest-xdist is not installed (pip install 'hpcblaz[test]')"
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def place(item: pytest.Item) -> int:
        path = item.path.relative_to(TESTS).as_posix() if item.path.is_relative_to(TESTS) else ""
        return next((i for i, start in enumerate(FIRST) if path.startswith(start)), len(FIRST))

    items.sort(key=place)


def pytest_configure(config: pytest.Config) -> None:
    if RANKS > 1 and sys.__stderr__ is not None:
        faulthandler.dump_traceback_later(TIMEOUT, exit=True, file=sys.__stderr__)


def pytest_unconfigure(config: pytest.Config) -> None:
    faulthandler.cancel_dump_traceback_later()


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Let all ranks agree on the verdict of an MPI test, so that none goes on alone to the next one."""
    if RANKS == 1 or pyfuncitem.get_closest_marker("mpi") is None:
        return (yield)
    result, error = None, None
    try:
        result = yield
    except BaseException as caught:  # noqa: BLE001  agree() raises it
        error = caught
    world().agree(error)
    return result


@pytest.fixture(scope="session")
def comm() -> Communicator:
    """All ranks of this run, one without mpirun."""
    return world()


@pytest.fixture(params=["numpy", pytest.param("cupy", marks=pytest.mark.gpu)])
def xp(request: pytest.FixtureRequest) -> Any:
    """The array module: numpy, and cupy where there is a GPU."""
    if request.param == "numpy":
        return importlib.import_module("numpy")
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    try:
        devices = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        pytest.skip(f"no usable GPU: {error}")
    if devices == 0:
        pytest.skip("no GPU")
    return cupy


@pytest.fixture(scope="session")
def data_directory() -> Path:
    """The folder of real fields, beside the checkout."""
    path = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not path.is_dir():
        pytest.skip(f"no real data: {path} is not there")
    return path
