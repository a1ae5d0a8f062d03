"""What only a process of its own can show: the memory that compressing takes, and how long a start takes."""

import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median

import numpy as np

from hpcblaz.errors import HpcblazError
from hpcblaz.fields.compress import compress

_ROOT = Path(__file__).resolve().parents[2]  # the folder that holds the package


def peak_memory(shape: tuple[int, ...], relative: float = 1e-3) -> tuple[float, float, float]:
    """Measure in a new process what compressing a float32 field takes beyond the field and its compressed form.

    Parameters
    ----------
    shape : tuple of int
        Of the field, three axes.
    relative : float, default 1e-3
        Tolerance as a fraction of the range.

    Returns
    -------
    tuple of float
        Bytes beyond both, bytes of the field, and bytes of the compressed form.
    """
    code = f"from hpcblaz.fields import processes; print(*processes._extra_memory({tuple(shape)!r}, {relative!r}))"
    extra, raw, compressed = _python(["-c", code]).split()
    return float(extra), float(raw), float(compressed)


def start_time(arguments: Sequence[str], repeats: int) -> float:
    """Return the median time in seconds that ``python *arguments`` takes, once all kernels are on disk."""
    _python(arguments)
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        _python(arguments)
        times.append(time.perf_counter() - begin)
    return median(times)


def _python(arguments: Sequence[str]) -> str:
    path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path}, check=False
    )
    if done.returncode:
        raise HpcblazError(
            f"expected python {' '.join(arguments)} to run, got exit code {done.returncode}: {done.stderr[-2000:]}"
        )
    return done.stdout


def _extra_memory(shape: tuple[int, int, int], relative: float) -> tuple[int, int, int]:
    planes, rows, columns = shape
    compress(np.linspace(0, 1, 32**3, dtype=np.float32).reshape(32, 32, 32), relative=relative)  # compiles
    field = np.empty(shape, np.float32)
    rng = np.random.default_rng(0)
    y, z = np.linspace(0, 12, rows, dtype=np.float32), np.linspace(0, 19, columns, dtype=np.float32)
    plane = np.sin(y)[:, None] * np.cos(z)
    for i in range(planes):  # by planes, so that making the field takes no memory to speak of
        field[i] = np.float32(np.sin(6 * i / planes)) * plane + 1e-3 * rng.standard_normal((rows, columns), np.float32)
    before = _peak_after_reset()
    compressed = compress(field, relative=relative)
    return _peak() - before - compressed.nbytes, field.nbytes, compressed.nbytes


def _peak_after_reset() -> int:
    with suppress(OSError):  # not Linux, or not allowed: the peak so far has to do
        Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> int:
    """Return the greatest resident memory of this process so far, in bytes."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
