from __future__ import annotations

import os
import threading
import time
import warnings
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcblaz.backend import threads as module
from hpcblaz.backend.threads import default_thread_count, map_ranges, run, set_thread_count, thread_count, threads
from hpcblaz.errors import ConfigurationError


@pytest.fixture(autouse=True)
def _default_again() -> Iterator[None]:
    set_thread_count(None)
    yield
    set_thread_count(None)


@pytest.fixture
def node(monkeypatch: pytest.MonkeyPatch) -> object:
    def pretend(available: int, node: int) -> None:
        monkeypatch.setattr(module, "_available_cores", lambda: available)
        monkeypatch.setattr(os, "cpu_count", lambda: node)

    return pretend


STEP = {"SLURM_STEP_ID": "0", "SLURM_PROCID": "0"}


@pytest.mark.parametrize(
    ("available", "cores", "environment", "expected"),
    [
        (16, 16, {}, 16),
        (16, 16, {"MPI_LOCALNRANKS": "4"}, 4),
        (16, 16, {"OMPI_COMM_WORLD_LOCAL_SIZE": "3"}, 5),
        (2, 2, {"MPI_LOCALNRANKS": "4"}, 1),  # oversubscribed
        (4, 16, {"MPI_LOCALNRANKS": "4"}, 4),  # bound to its share: not divided again
        (8, 16, {"MPI_LOCALNRANKS": "4"}, 2),  # a smaller machine, shared by all
        (32, 64, STEP | {"SLURM_CPUS_ON_NODE": "32", "SLURM_STEP_TASKS_PER_NODE": "4"}, 8),  # part of a node, shared
        (8, 64, STEP | {"SLURM_CPUS_ON_NODE": "32", "SLURM_STEP_TASKS_PER_NODE": "4"}, 8),  # and bound in it
        (4, 64, STEP | {"SLURM_CPUS_PER_TASK": "4", "SLURM_STEP_TASKS_PER_NODE": "8"}, 4),
        (16, 16, STEP | {"SLURM_STEP_TASKS_PER_NODE": "8(x2),1", "SLURM_NODEID": "1"}, 2),
        (16, 16, STEP | {"SLURM_STEP_TASKS_PER_NODE": "8(x2),1", "SLURM_NODEID": "2"}, 16),
        (16, 16, STEP | {"SLURM_NTASKS_PER_NODE": "4"}, 4),
        (16, 16, STEP | {"SLURM_STEP_TASKS_PER_NODE": "rubbish"}, 16),
        (16, 16, {"SLURM_PROCID": "0", "SLURM_NTASKS_PER_NODE": "4"}, 16),  # the batch script's own shell
        (16, 16, {"SLURM_STEP_ID": "4294967291", "SLURM_NTASKS_PER_NODE": "4"}, 16),
        (16, 16, STEP | {"SLURM_STEP_TASKS_PER_NODE": "1", "MPI_LOCALNRANKS": "4"}, 4),  # mpirun through srun
        (16, 16, {"SLURM_CPUS_PER_TASK": "3"}, 3),
        (16, 16, {"NUMBA_NUM_THREADS": "5", "MPI_LOCALNRANKS": "2"}, 5),
        (16, 16, {"NUMBA_NUM_THREADS": "12", "MPI_LOCALNRANKS": "2"}, 8),
        (16, 16, {"HPCBLAZ_NUM_THREADS": "2"}, 2),
        (16, 16, {"HPCBLAZ_NUM_THREADS": "12", "MPI_LOCALNRANKS": "4", "NUMBA_NUM_THREADS": "1"}, 12),
        (16, 16, {"HPCBLAZ_NUM_THREADS": "99"}, 16),
        (16, 16, {"HPCBLAZ_NUM_THREADS": " "}, 16),
    ],
)
def test_default_is_the_share_of_the_node(
    node: object, available: int, cores: int, environment: dict[str, str], expected: int
) -> None:
    node(available, cores)  # type: ignore[operator]
    assert default_thread_count(environment) == expected


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5"])
def test_a_senseless_variable_is_refused(value: str) -> None:
    with pytest.raises(ConfigurationError, match=r"HPCBLAZ_NUM_THREADS: expected a positive integer, got"):
        default_thread_count({"HPCBLAZ_NUM_THREADS": value})


def test_setting_and_scoping(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HPCBLAZ_NUM_THREADS", "1")
    set_thread_count(None)
    assert thread_count() == 1
    set_thread_count(5)
    assert thread_count() == 5
    with threads(2):
        assert thread_count() == 2
        with pytest.raises(KeyError), threads(3):
            assert thread_count() == 3
            raise KeyError
        assert thread_count() == 2
    assert thread_count() == 5
    set_thread_count(None)
    assert thread_count() == 1


@pytest.mark.parametrize("count", [0, -1, 1.5, True, "2"])
def test_senseless_counts_are_refused(count: int) -> None:
    with pytest.raises(ConfigurationError, match="at least 1, got"):
        set_thread_count(count)
    with pytest.raises(ConfigurationError, match="at least 1, got"), threads(count):
        pass


@given(count=st.integers(0, 500), chunk=st.integers(1, 600), workers=st.integers(1, 5))
def test_ranges_cover_every_item_once_in_order(count: int, chunk: int, workers: int) -> None:
    with threads(workers):
        ranges = map_ranges(lambda start, stop: (start, stop), count, chunk)
    assert [i for start, stop in ranges for i in range(start, stop)] == list(range(count))
    assert all(stop - start >= min(chunk, count) for start, stop in ranges)


def test_one_thread_calls_inline_and_once() -> None:
    with threads(1):
        assert map_ranges(lambda start, stop: (start, stop, threading.current_thread()), 100) == [
            (0, 100, threading.current_thread())
        ]
        assert run([threading.current_thread] * 3) == [threading.current_thread()] * 3


def test_work_is_spread_over_the_threads() -> None:
    barrier = threading.Barrier(3, timeout=30)
    with threads(3):
        assert len(set(run([barrier.wait] * 3))) == 3  # passes only if all three run at once
        assert run([lambda i=i: i * i for i in range(20)]) == [i * i for i in range(20)]  # type: ignore[misc]


def test_the_first_failure_is_raised_and_the_pool_lives_on() -> None:
    def fail(start: int, stop: int) -> None:
        if start > 0:
            raise ValueError(f"range at {start}")

    with threads(2):
        with pytest.raises(ValueError, match="range at"):
            map_ranges(fail, 1000)
        assert sum(map_ranges(lambda start, stop: stop - start, 1000)) == 1000


def test_a_call_inside_a_call_runs_inline() -> None:
    def outer() -> bool:
        here = threading.current_thread()
        return all(thread is here for thread in map_ranges(lambda start, stop: threading.current_thread(), 100))

    with threads(2):
        assert run([outer] * 8) == [True] * 8


def test_callers_on_several_threads_share_the_pool() -> None:
    totals: list[int] = []

    def caller(workers: int) -> None:
        for _ in range(50):
            with threads(workers):
                totals.append(sum(map_ranges(lambda start, stop: stop - start, 1000)))

    callers = [threading.Thread(target=caller, args=(workers,)) for workers in (2, 3, 4)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join(60)
    assert totals == [1000] * 150


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_makes_its_own_pool() -> None:
    barrier = threading.Barrier(2, timeout=30)
    with threads(2):
        run([barrier.wait] * 2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: forking with threads
            child = os.fork()
        if child == 0:
            status = 1
            try:
                status = 0 if len(set(run([threading.Barrier(2, timeout=30).wait] * 2))) == 2 else 1
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_overhead_is_small() -> None:
    with threads(2):
        best = float("inf")
        for _ in range(300):
            begin = time.perf_counter()
            map_ranges(lambda start, stop: None, 1000)
            best = min(best, time.perf_counter() - begin)
    assert best < 1e-3  # aimed at 50 microseconds; room for a busy machine
