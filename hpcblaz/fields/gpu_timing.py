"""Times between CUDA events, and the memory that CuPy's pool holds; the simulator has times only."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from hpcblaz.backend import gpu
from hpcblaz.backend.gpu_launch import SIMULATED
from hpcblaz.fields.timing import Row

Call = Callable[[], Any]


@dataclass(frozen=True)
class DeviceRow(Row):
    """A row of something that was timed on a card.

    Parameters
    ----------
    seconds, first_seconds : float
        Median, and the first call, which compiles.
    bytes_moved : int
        What has to be read and written at least: raw and compressed bytes.
    gigabytes_per_second, share_of_copy : float
        The same in a second, and over what a copy on the device moves in a second.
    """

    seconds: float = 0.0
    first_seconds: float = 0.0
    bytes_moved: int = 0
    gigabytes_per_second: float = 0.0
    share_of_copy: float = 0.0


class Times(NamedTuple):
    """Median and first time of a call in seconds, and what the first call returned."""

    median: float
    first: float
    result: Any


def times_of(call: Call, repeats: int) -> Times:
    """Return the times of a call on the card; the first call is apart, and one more is not counted."""
    begin = time.perf_counter()
    result = call()
    if not SIMULATED:
        gpu.array_module().cuda.get_current_stream().synchronize()
    first = time.perf_counter() - begin
    if SIMULATED:
        return Times(max(first, 1e-9), first, result)
    xp, taken = gpu.array_module(), []
    for _ in range(repeats + 1):
        start, end = xp.cuda.Event(), xp.cuda.Event()
        start.record()
        call()
        end.record()
        end.synchronize()
        taken.append(1e-3 * xp.cuda.get_elapsed_time(start, end))
    return Times(max(statistics.median(taken[1:]), 1e-9), first, result)


def free_bytes() -> int:
    """Return the bytes that are free on the card, once CuPy's pool has given back what it can."""
    if SIMULATED:
        return 1 << 62
    empty_pool()
    return int(gpu.array_module().cuda.Device().mem_info[0])


def empty_pool() -> None:
    """Have CuPy's pool give back what is not in use."""
    if not SIMULATED:
        gpu.array_module().get_default_memory_pool().free_all_blocks()


def held_bytes() -> int:
    """Return the bytes that CuPy's pool has taken from the card."""
    return 0 if SIMULATED else int(gpu.array_module().get_default_memory_pool().total_bytes())


def used_bytes() -> int:
    """Return the bytes of CuPy's pool that are in use."""
    return 0 if SIMULATED else int(gpu.array_module().get_default_memory_pool().used_bytes())
