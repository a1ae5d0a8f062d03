"""Measurements of compressed fields on a GPU, beside a copy on the device and beside CuPy on the raw values.

All is measured in one run on one card. Times of kernels are those between CUDA events; a call that returns a number
waits for it, so the waiting counts.
"""

import importlib
import math
import statistics as stats
import subprocess
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from hpcblaz.backend import gpu
from hpcblaz.fields import statistics
from hpcblaz.fields.array import CompressedArray
from hpcblaz.fields.benchmark import Report, Settings
from hpcblaz.fields.codec import BlockCodec
from hpcblaz.fields.compress import compress
from hpcblaz.fields.timing import Row, faster, higher, lower

COMPRESSION, KERNEL, OPERATION, MEMORY = "GPU compression", "GPU kernels", "GPU operations", "GPU memory"
SIDES = (512, 1024)
RELATIVE = 1e-3
_ROOM = 3  # a field, its neighbour in operations, and what is made of them
_SMI = [
    "nvidia-smi",
    "--query-gpu=name,driver_version,clocks.max.sm,clocks.max.mem,power.limit",
    "--format=csv,noheader",
]

Call = Callable[[], Any]


def run(settings: Settings, sides: tuple[int, ...] = SIDES) -> Report:
    """Measure everything on the current card.

    Parameters
    ----------
    settings : Settings
        How often, and who is told what is being measured.
    sides : tuple of int
        Cells along each axis of the fields; those for which the card has too little memory are left out, with a reason.

    Returns
    -------
    Report

    Raises
    ------
    DeviceError, MissingDependencyError
        If there is no card, or what drives it is not installed.
    """
    gpu.array_module()
    report = Report()
    for side in sides:
        needed, free = _ROOM * 4 * side**3, _free_bytes()
        if needed > free:
            report.absent.append(f"{side}^3: {needed / 1e9:.1f} GB are needed on the card, {free / 1e9:.1f} are free")
            continue
        settings.say(f"GPU: {side}^3")
        report.rows += _measure(side, 1 if gpu.SIMULATED else settings.repeats)
    report.rows.sort(key=lambda row: (COMPRESSION, OPERATION, KERNEL, MEMORY).index(row.topic))
    return report


def card() -> dict[str, Any]:
    """Return what the numbers depend on: card, driver, runtime, clocks, and versions."""
    xp = gpu.array_module()
    found: dict[str, Any] = {"card": gpu.describe(0 if gpu.SIMULATED else xp.cuda.Device().id)}
    for package in ("cupy", "numba.cuda"):
        try:
            found[package] = importlib.import_module(package).__version__
        except (ImportError, AttributeError):
            found[package] = None
    if not gpu.SIMULATED:
        found["driver"] = xp.cuda.runtime.driverGetVersion()
        found["runtime"] = xp.cuda.runtime.runtimeGetVersion()
    try:
        found["nvidia-smi"] = subprocess.run(_SMI, capture_output=True, text=True, timeout=30).stdout.strip() or None
    except (OSError, subprocess.TimeoutExpired):
        found["nvidia-smi"] = None
    return found


def field(side: int, phase: float) -> Any:
    """Return a smooth float32 field with a little noise, made on the card, a slab at a time."""
    xp = gpu.array_module()
    whole = xp.empty((side, side, side), np.float32)
    axis = xp.arange(side, dtype=np.float32) * np.float32(12.0 / side)
    plane = xp.sin(axis[:, None] + phase) * xp.cos(2 * axis[None, :])
    noise = xp.random.RandomState(7).standard_normal((side, side)).astype(np.float32) * np.float32(1e-3)
    for i in range(side):
        whole[i] = plane * math.cos(18.0 * i / side + phase) + noise * math.cos(i)
    return whole


def _measure(side: int, repeats: int) -> list[Row]:
    """Return the rows of one size."""
    x = field(side, 0.0)
    case = f"{side}^3 float32"
    y = x.copy()
    copy = _seconds(lambda: np.copyto(y, x) if gpu.SIMULATED else y.__setitem__(..., x), repeats)
    bandwidth = 2 * x.nbytes / copy
    span = float(x.max()) - float(x.min())
    rows: list[Row] = []
    for name, floors, aims, make in (
        ("tolerance 1e-3", (0.25, 0.35), (0.5, 0.7), lambda v: compress(v, tolerance=RELATIVE * span, device="gpu")),
        ("int8 4x4x4", (0.5, None), (0.8, None), lambda v: compress(v, codec=BlockCodec((4, 4, 4)), device="gpu")),
    ):
        call = partial(make, x)
        before = _used_bytes()
        first = _clock(call)
        rows.append(_memory_row(f"{case}, {name}", call, x, before))
        a = call()
        moved = x.nbytes + a.nbytes
        times = (_seconds(call, repeats), _seconds(a.decompress, repeats))
        for what, seconds, floor, aim in zip(("compress", "decompress"), times, floors, aims, strict=True):
            note = (
                f"{1e3 * seconds:.3g} ms; first call {first:.1f} s" if what == "compress" else f"{1e3 * seconds:.3g} ms"
            )
            rows.append(
                higher(COMPRESSION, f"{case}, {name}", what, "GB/s moved", moved / seconds / 1e9, "copy",
                       bandwidth / 1e9, target=floor, aim=aim, note=note)
            )  # fmt: skip
        rows.append(
            lower(COMPRESSION, f"{case}, {name}", "size", "bits a value", 8 * a.nbytes / x.size, "raw", 32.0)
        )  # fmt: skip
        worst = float(abs(a.decompress() - x).max())
        rows.append(
            lower(COMPRESSION, f"{case}, {name}", "worst error", "", worst, "bound", a.error.max_abs, target=1.0)
        )
        window = (slice(side // 3, side // 3 + 16),) * 3
        rows.append(
            faster(COMPRESSION, f"{case}, {name}", "16^3 window", _seconds(partial(a.__getitem__, window), repeats),
                   "all of it", times[1])
        )  # fmt: skip
        rows += _kernel_rows(f"{case}, {name}", call, bandwidth, x.nbytes)
    y = field(side, 1.0)
    a, b = (compress(v, tolerance=RELATIVE * span, device="gpu") for v in (x, y))
    return rows + _operation_rows(case, x, y, a, b, repeats, bandwidth)


def _memory_row(case: str, call: Call, x: Any, before: int) -> Row:
    """Return what compress allocates of CuPy's pool beyond its result, with the pool emptied before, over the input."""
    _empty_pool()
    a = call()
    extra = max(0, _held_bytes() - before - a.nbytes)
    return lower(MEMORY, case, "beyond input and output", "% of the input", 100 * extra / x.nbytes, "limit", 5.0,
                 target=1.0)  # fmt: skip


def _kernel_rows(case: str, call: Call, bandwidth: float, raw: int) -> list[Row]:
    """Return how long each kernel of a call takes, beside a copy of the raw values."""
    with gpu.kernel_times() as times:
        call()
    floor = 2 * raw / bandwidth
    return [faster(KERNEL, case, name, seconds, "copy of the field", floor) for name, seconds in times.items()]


def _operation_rows(
    case: str, x: Any, y: Any, a: CompressedArray, b: CompressedArray, repeats: int, bandwidth: float
) -> list[Row]:
    """Return the rows of operations beside CuPy's on the raw values; answers are checked against their bounds."""
    xp = gpu.array_module()
    out = xp.empty_like(x)
    fx, fy = x.reshape(-1), y.reshape(-1)

    def norm() -> float:
        return math.sqrt(float(xp.vdot(fx, fx)))

    def covariance() -> float:
        return float(xp.vdot(fx, fy) / x.size - x.mean() * y.mean())

    operations: list[tuple[str, Call, Call, float | None, float | None]] = [
        ("mean", lambda: statistics.mean(a), lambda: float(x.mean()), 20.0, None),
        ("variance", lambda: statistics.variance(a), lambda: float(x.var()), 1.0, 3.0),
        ("norm", lambda: statistics.norm(a), norm, 1.0, 3.0),
        ("dot", lambda: statistics.dot(a, b), lambda: float(xp.vdot(fx, fy)), 1.0, 3.0),
        ("covariance", lambda: statistics.covariance(a, b), covariance, None, None),
        ("cosine similarity", lambda: statistics.cosine_similarity(a, b),
         lambda: float(xp.vdot(fx, fy)) / norm() / math.sqrt(float(xp.vdot(fy, fy))), None, None),
        ("a + b", lambda: a + b, lambda: xp.add(x, y, out), None, None),
    ]  # fmt: skip
    exact = _answers(x, y)
    rows = []
    for name, ours, theirs, target, aim in operations:
        answer, note = ours(), ""
        if name in exact:
            note = f"error {abs(float(answer) - exact[name]):.2g}, bound {answer.error:.2g}"
            if abs(float(answer) - exact[name]) > answer.error:
                note += ": BROKEN"
        times = _seconds(ours, repeats), _seconds(theirs, repeats)
        rows.append(faster(OPERATION, case, name, times[0], "CuPy on raw", times[1], target=target, aim=aim, note=note))
    seconds = _seconds(lambda: statistics.structural_similarity(a, b), repeats)
    return [*rows, faster(OPERATION, case, "structural similarity", seconds, "a copy", 2 * x.nbytes / bandwidth)]


def _answers(x: Any, y: Any) -> dict[str, float]:
    """Return the answers in double precision, a slab at a time."""
    n, sums = x.size, np.zeros(5)
    for u, v in zip(x, y, strict=True):
        u, v = u.astype(np.float64), v.astype(np.float64)
        sums += [float(s.sum()) for s in (u, v, u * u, v * v, u * v)]
    mean_x, mean_y = sums[:2] / n
    return {
        "mean": mean_x,
        "variance": sums[2] / n - mean_x * mean_x,
        "norm": math.sqrt(sums[2]),
        "dot": float(sums[4]),
        "covariance": sums[4] / n - mean_x * mean_y,
        "cosine similarity": sums[4] / math.sqrt(sums[2]) / math.sqrt(sums[3]),
    }


def _seconds(call: Call, repeats: int) -> float:
    """Return the median time of a call on the card, after one that is not counted."""
    call()
    times = []
    for _ in range(repeats):
        if gpu.SIMULATED:
            times.append(_clock(call))
            continue
        cuda = gpu.array_module().cuda
        begin, end = cuda.Event(), cuda.Event()
        begin.record()
        call()
        end.record()
        end.synchronize()
        times.append(1e-3 * cuda.get_elapsed_time(begin, end))
    return float(max(stats.median(times), 1e-9))


def _clock(call: Call) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin


def _free_bytes() -> int:
    if gpu.SIMULATED:
        return 1 << 62
    _empty_pool()
    return int(gpu.array_module().cuda.Device().mem_info[0])


def _empty_pool() -> None:
    if not gpu.SIMULATED:
        gpu.array_module().get_default_memory_pool().free_all_blocks()


def _used_bytes() -> int:
    return 0 if gpu.SIMULATED else int(gpu.array_module().get_default_memory_pool().used_bytes())


def _held_bytes() -> int:
    return 0 if gpu.SIMULATED else int(gpu.array_module().get_default_memory_pool().total_bytes())
