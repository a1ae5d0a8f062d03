"""Kernels of the GPU, queued on the current stream of CuPy, or run by Numba's simulator; and how long they took."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from types import ModuleType
from typing import Any

from hpcblaz.backend import cuda_build
from hpcblaz.bodies.records import TILE
from hpcblaz.errors import DeviceError

SIMULATED = os.environ.get("NUMBA_ENABLE_CUDASIM", "0") not in ("", "0")
_LEAST_CAPABILITY = (8, 0)  # kernels need more shared memory than older cards have
_WITHOUT_ASKING = 48 << 10  # bytes of shared memory that every kernel may have

Kernel = Callable[..., None]

_loaded: dict[tuple[Any, ...], Any] = {}
_notes: list[tuple[str, Any, Any]] | None = None  # name, begin and end of kernels, while somebody wants to know


def launch(
    xp: ModuleType, kernel: Kernel, arguments: tuple[Any, ...], tiles: int, shared: int, together: bool = False
) -> None:
    """Queue a kernel, a tile of 128 threads for each of `tiles`, on the current stream.

    Parameters
    ----------
    xp : module
        CuPy; NumPy in the simulator.
    kernel : function
        Of a module that :func:`hpcblaz.backend.compile.cuda_kernel` has returned.
    arguments : tuple
        Arrays of `xp` in C order, NumPy scalars, and tuples of them.
    tiles : int
        Tiles of threads.
    shared : int
        Bytes of shared memory for the columns of each.
    together : bool
        All tiles run at the same time, and may wait for each other; the driver refuses more than the card has room for.
    """
    begin = None if _notes is None else _now(xp)
    if SIMULATED:
        from numba import cuda

        cuda.jit(kernel)[tiles, TILE, 0, shared](*arguments)
    else:
        _run(xp, kernel, arguments, tiles, shared, together)
    if _notes is not None:
        _notes.append((kernel.__name__, begin, _now(xp)))


def _run(xp: ModuleType, kernel: Kernel, arguments: tuple[Any, ...], tiles: int, shared: int, together: bool) -> None:
    """Queue the machine code of a kernel, which is made and loaded if it is not there yet."""
    device = xp.cuda.Device().id
    flat = cuda_build.flatten(arguments)
    key = (device, kernel, together, tuple(getattr(argument, "dtype", None) for argument in flat))
    if key not in _loaded:
        code = cuda_build.build(kernel, arguments, _architecture(xp, device))
        function = xp.RawModule(path=str(code.path), enable_cooperative_groups=together).get_function(code.entry)
        if shared + code.shared_bytes > _WITHOUT_ASKING:
            function.max_dynamic_shared_size_bytes = shared
        _loaded[key] = function
    _loaded[key]((tiles,), (TILE,), tuple(flat), shared_mem=shared)


@cache
def _architecture(xp: ModuleType, device: int) -> tuple[int, int]:
    text = xp.cuda.Device(device).compute_capability
    found = int(text[:-1]), int(text[-1])
    if found < _LEAST_CAPABILITY:
        raise DeviceError(f"expected a card of compute capability 8.0 or newer, got {found[0]}.{found[1]}: use the CPU")
    return found


@contextmanager
def kernel_times(xp: ModuleType) -> Iterator[dict[str, float]]:
    """Yield a dictionary that has, once the context is left, the seconds that each kernel took in it, by name."""
    global _notes
    times: dict[str, float] = {}
    notes: list[tuple[str, Any, Any]] = []
    _notes = notes
    try:
        yield times
    finally:
        _notes = None
    for name, begin, end in notes:
        if SIMULATED:
            seconds = end - begin
        else:
            end.synchronize()
            seconds = 1e-3 * xp.cuda.get_elapsed_time(begin, end)
        times[name] = times.get(name, 0.0) + seconds


def _now(xp: ModuleType) -> Any:
    """Return the time of the simulator, or an event on the current stream."""
    if SIMULATED:
        return time.perf_counter()
    event = xp.cuda.Event()
    event.record()
    return event
