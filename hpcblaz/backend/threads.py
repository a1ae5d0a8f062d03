"""How many threads this process may use, and running work on them.

The compiled kernels release the interpreter lock, so plain Python threads run them side by side. The default number
of threads is the process's fair share of its node: available cores divided by the ranks on the node.
"""

from __future__ import annotations

import os
import re
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from functools import partial
from typing import TypeVar

from hpcblaz.errors import ConfigurationError

__all__ = ["default_thread_count", "map_ranges", "run", "set_thread_count", "thread_count", "threads"]

Result = TypeVar("Result")

CHUNKS_PER_THREAD = 4  # enough to even out ranges of unequal cost, few enough to cost nothing
_FIRST_SPECIAL_STEP = 0xFFFFFFF0  # Slurm numbers the batch script's own and other special "steps" from here up


class _Pool:
    """The shared executor, made at first need and grown when more threads are asked for."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Start afresh: a forked child inherits the executor object, but none of its threads."""
        self._lock = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None
        self._workers = 0

    def submit(self, function: Callable[[], None], copies: int) -> list[Future[None]]:
        with self._lock:
            if self._executor is None or self._workers < copies:
                if self._executor is not None:
                    self._executor.shutdown(wait=False)
                self._executor = ThreadPoolExecutor(copies, thread_name_prefix="hpcblaz")
                self._workers = copies
            return [self._executor.submit(function) for _ in range(copies)]


class _Worker(threading.local):
    """Per thread: whether it is inside a parallel call already."""

    busy = False


class _Settings:
    """What `set_thread_count` was told, and the default once it has been worked out."""

    requested: int | None = None
    default: int | None = None


_pool = _Pool()
_worker = _Worker()
_settings = _Settings()
_scoped: ContextVar[int | None] = ContextVar("hpcblaz_threads", default=None)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.forget)


def thread_count() -> int:
    """Return the number of threads a parallel call made here would use.

    Returns
    -------
    int
        That of the innermost `threads` block, else that of `set_thread_count`, else `default_thread_count`.
        At least 1.

    Examples
    --------
    >>> from hpcblaz.backend.threads import thread_count, threads
    >>> with threads(3):
    ...     thread_count()
    3
    """
    chosen = _scoped.get() or _settings.requested
    if chosen is not None:
        return chosen
    if _settings.default is None:
        _settings.default = default_thread_count()
    return _settings.default


def set_thread_count(count: int | None) -> None:
    """Set the number of threads of this process, from now on.

    Parameters
    ----------
    count : int or None
        At least 1; it may exceed the number of cores. None goes back to the default, worked out anew.

    Raises
    ------
    ConfigurationError
        If `count` is below 1 or no integer.

    Examples
    --------
    >>> from hpcblaz.backend.threads import set_thread_count, thread_count
    >>> set_thread_count(2)
    >>> thread_count()
    2
    >>> set_thread_count(None)
    """
    _settings.requested = None if count is None else _checked(count)
    _settings.default = None


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Use `count` threads inside a ``with`` block, in the calling thread only.

    Parameters
    ----------
    count : int
        At least 1.

    Raises
    ------
    ConfigurationError
        If `count` is below 1 or no integer.

    Examples
    --------
    >>> from hpcblaz.backend.threads import map_ranges, threads
    >>> with threads(2):
    ...     sum(map_ranges(lambda start, stop: stop - start, 100))
    100
    """
    token = _scoped.set(_checked(count))
    try:
        yield
    finally:
        _scoped.reset(token)


def default_thread_count(environment: Mapping[str, str] | None = None) -> int:
    """Work out this process's fair share of its node's cores.

    The cores are those of the affinity mask. They are divided by the ranks on this node, unless the mask is a rank's
    own share already (the launcher bound the rank to its cores). ``SLURM_CPUS_PER_TASK`` and ``NUMBA_NUM_THREADS``
    cap the outcome. ``HPCBLAZ_NUM_THREADS`` replaces it, up to the number of cores.

    Parameters
    ----------
    environment : mapping of str to str, optional
        Default: ``os.environ``.

    Returns
    -------
    int
        At least 1.

    Raises
    ------
    ConfigurationError
        If ``HPCBLAZ_NUM_THREADS`` is set to something other than a positive integer.

    Examples
    --------
    >>> from hpcblaz.backend.threads import default_thread_count
    >>> default_thread_count({"HPCBLAZ_NUM_THREADS": "1"})
    1
    """
    environment = os.environ if environment is None else environment
    cores = _available_cores()
    wanted = environment.get("HPCBLAZ_NUM_THREADS", "").strip()
    if wanted:
        if _positive(wanted) is None:
            raise ConfigurationError(
                f"HPCBLAZ_NUM_THREADS: expected a positive integer, got {wanted!r}; correct it or unset it"
            )
        return min(int(wanted), cores)
    per_task = _positive(environment.get("SLURM_CPUS_PER_TASK"))
    ranks = _ranks_on_node(environment)
    node = _positive(environment.get("SLURM_CPUS_ON_NODE")) or os.cpu_count() or cores
    bound = cores < node and cores in (node // ranks, per_task)
    share = cores if bound else cores // ranks
    for cap in (per_task, _positive(environment.get("NUMBA_NUM_THREADS"))):
        if cap is not None:
            share = min(share, cap)
    return max(1, share)


def map_ranges(function: Callable[[int, int], Result], count: int, minimum_chunk: int = 1) -> list[Result]:
    """Call ``function(start, stop)`` on disjoint ranges that cover ``range(count)``, in parallel.

    Idle threads take the next range, so ranges may cost unequal time. The bounds depend on the number of threads:
    a caller whose answer must not (a sum of floats) has to make each item's result independent of its range.
    A call from inside a parallel call runs inline.

    Parameters
    ----------
    function : callable
        Takes two ints, ``0 <= start < stop <= count``. It should release the interpreter lock.
    count : int
        Number of items. With 0, nothing is called.
    minimum_chunk : int, default 1
        Least number of items a range should have (one range may have fewer when `count` is smaller).

    Returns
    -------
    list
        The results in the order of the ranges.

    Raises
    ------
    Exception
        Whatever `function` raises, that of the first failing range; ranges not yet begun are left out.

    Examples
    --------
    >>> from hpcblaz.backend.threads import map_ranges, threads
    >>> with threads(1):
    ...     map_ranges(lambda start, stop: (start, stop), 10)
    [(0, 10)]
    """
    if count <= 0:
        return []
    workers = 1 if _worker.busy else thread_count()
    chunks = min(count // max(1, minimum_chunk), CHUNKS_PER_THREAD * workers)
    if workers == 1 or chunks <= 1:
        return [function(0, count)]
    bounds = [count * i // chunks for i in range(chunks + 1)]
    return _execute([partial(function, bounds[i], bounds[i + 1]) for i in range(chunks)], workers)


def run(tasks: Iterable[Callable[[], Result]]) -> list[Result]:
    """Call every task, in parallel, and return their results in order.

    Parameters
    ----------
    tasks : iterable of callables without arguments
        They should release the interpreter lock.

    Returns
    -------
    list
        One result a task.

    Raises
    ------
    Exception
        Whatever the first failing task raises; tasks not yet begun are left out.

    Examples
    --------
    >>> from hpcblaz.backend.threads import run
    >>> run([lambda: 1, lambda: 2])
    [1, 2]
    """
    calls = list(tasks)
    workers = 1 if _worker.busy else thread_count()
    if workers == 1 or len(calls) <= 1:
        return [call() for call in calls]
    return _execute(calls, workers)


def _execute(calls: list[Callable[[], Result]], workers: int) -> list[Result]:
    """Run the calls on `workers` threads, the calling one among them."""
    pending = deque(range(len(calls)))
    results: dict[int, Result] = {}
    failures: dict[int, BaseException] = {}

    def work() -> None:
        _worker.busy = True
        try:
            while True:
                try:
                    i = pending.popleft()
                except IndexError:
                    return
                try:
                    results[i] = calls[i]()
                except BaseException as error:  # noqa: BLE001  kept for the caller, who raises it
                    failures[i] = error
                    pending.clear()
        finally:
            _worker.busy = False

    helpers = _pool.submit(work, min(workers, len(calls)) - 1)
    work()
    for helper in helpers:
        if not helper.cancel():  # one that never began is not worth waiting for
            helper.result()
    if failures:
        raise failures[min(failures)]
    return [results[i] for i in range(len(calls))]


def _checked(count: int) -> int:
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ConfigurationError(f"number of threads: expected an integer of at least 1, got {count!r}")
    return count


def _positive(text: str | None) -> int | None:
    """Return the integer that `text` spells if it is positive, else None."""
    text = (text or "").strip()
    return int(text) if re.fullmatch(r"0*[1-9][0-9]*", text) else None


def _available_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _ranks_on_node(environment: Mapping[str, str]) -> int:
    """Return the number of ranks on this node, as the launcher tells it; 1 without a launcher."""
    for name in ("MPI_LOCALNRANKS", "OMPI_COMM_WORLD_LOCAL_SIZE", "MV2_COMM_WORLD_LOCAL_SIZE"):
        ranks = _positive(environment.get(name))
        if ranks is not None:
            return ranks
    step = _positive(environment.get("SLURM_STEP_ID")) or 0
    if "SLURM_STEP_ID" not in environment or step >= _FIRST_SPECIAL_STEP:
        return 1  # a batch script's own shell: one process, whatever the job's number of tasks
    text = environment.get("SLURM_STEP_TASKS_PER_NODE") or environment.get("SLURM_NTASKS_PER_NODE") or ""
    nodes = _tasks_per_node(text)
    node = int(environment.get("SLURM_NODEID", "0") or 0)
    if not nodes:
        return 1
    return nodes[node] if node < len(nodes) else max(nodes)


def _tasks_per_node(text: str) -> list[int]:
    """Expand Slurm's short form: ``"2(x3),1"`` is ``[2, 2, 2, 1]``. Text that is none gives an empty list."""
    counts: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([1-9][0-9]*)(?:\(x([1-9][0-9]*)\))?\s*", part)
        if match is None:
            return []
        counts += [int(match[1])] * int(match[2] or 1)
    return counts
