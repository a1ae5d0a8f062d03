"""Measurements of compressed fields on a GPU, beside a copy on the device and beside CuPy on the raw values.

All is measured in one run on one card. Times lie between CUDA events on the current stream, so what the host does in
between counts, and so does the waiting of a call that returns a number. They are medians; the first call of each, which
compiles and loads kernels, is a number of its own.
"""

import gc
import importlib
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np

from hpcblaz.backend import gpu
from hpcblaz.backend.gpu_launch import SIMULATED, kernel_times
from hpcblaz.fields import statistics
from hpcblaz.fields.array import CompressedArray
from hpcblaz.fields.benchmark import BLOCK, TINY, Report, Settings
from hpcblaz.fields.codec import BlockCodec
from hpcblaz.fields.compress import compress
from hpcblaz.fields.gpu_peers import answers, field, formulations
from hpcblaz.fields.gpu_timing import DeviceRow, Times, empty_pool, free_bytes, held_bytes, times_of, used_bytes
from hpcblaz.fields.timing import Row, faster, higher, lower

TOPICS = COMPRESSION, OPERATION, ERROR, KERNEL, MEMORY = (
    "GPU compression", "GPU operations", "GPU errors", "GPU kernels", "GPU memory",
)  # fmt: skip
SIDES = (512, 1024)
RELATIVE = 1e-3
INT8 = BlockCodec(BLOCK, index_dtype="int8")
_ROOM = 4.5  # in fields: two, an array for their sum, one decompressed, and what is compressed
_QUERY = "--query-gpu=name,driver_version,clocks.max.sm,clocks.max.mem,power.limit"

Call = Callable[[], Any]


def run(settings: Settings, sides: Sequence[int] | None = None, names: Sequence[str] | None = None) -> Report:
    """Measure everything on the current card.

    Parameters
    ----------
    settings : Settings
        How often, and who is told what is being measured.
    sides : sequence of int, optional
        Cells along each axis of the fields; those for which the card has too little memory are left out, with a reason.
        Default: 512 and 1024; 128 if quick; 8 in the simulator.
    names : sequence of str, optional
        The operations. Default: all.

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
    if sides is None:
        sides = (8,) if SIMULATED else (128,) if settings.quick else SIDES
    for side in sides:
        needed, free = int(_ROOM * 4 * side**3), free_bytes()
        if needed > free:
            report.absent.append(f"{side}^3: {needed / 1e9:.1f} GB are needed on the card, {free / 1e9:.1f} are free")
            continue
        settings.say(f"GPU: {side}^3")
        try:
            _Measurement(side, settings, report, names).run()
        except MemoryError as error:  # of CuPy, too; minutes of work would be lost
            report.absent.append(f"{side}^3, in part: {error}")
    report.rows.sort(key=lambda row: TOPICS.index(row.topic))
    return report


def card() -> dict[str, Any]:
    """Return what the numbers depend on: card, driver, runtime, clocks, and versions."""
    xp = gpu.array_module()
    found: dict[str, Any] = {"card": gpu.describe(0 if SIMULATED else xp.cuda.Device().id)}
    for package in ("cupy", "numba_cuda"):
        try:
            found[package] = importlib.import_module(package).__version__
        except (ImportError, AttributeError):
            found[package] = None
    if not SIMULATED:
        found["compute capability"] = xp.cuda.Device().compute_capability
        found["driver"] = xp.cuda.runtime.driverGetVersion()
        found["runtime"] = xp.cuda.runtime.runtimeGetVersion()
    try:
        command = ["nvidia-smi", _QUERY, "--format=csv,noheader"]
        found["nvidia-smi"] = subprocess.run(command, capture_output=True, text=True, timeout=30).stdout.strip() or None
    except (OSError, subprocess.TimeoutExpired):
        found["nvidia-smi"] = None
    return found


class _Measurement:
    """All rows of one size."""

    def __init__(self, side: int, settings: Settings, report: Report, names: Sequence[str] | None) -> None:
        self.case = f"{side}^3 float32"
        self.repeats = 1 if SIMULATED else settings.many
        self.report = report
        self.names = names
        self.x = field(side, 0.0)
        self.y = gpu.array_module().empty_like(self.x)
        self.window = (slice(side // 3, side // 3 + 16),) * 3
        self.tolerance = RELATIVE * (float(self.x.max()) - float(self.x.min()))
        self.copy = times_of(lambda: gpu.array_module().copyto(self.y, self.x), self.repeats)
        self.bandwidth = 2 * self.x.nbytes / self.copy.median

    def run(self) -> None:
        """Measure."""
        x, gigabytes = self.x, self.bandwidth / 1e9
        row = higher(COMPRESSION, self.case, "device copy", "GB/s moved", gigabytes, "copy", gigabytes)
        self.add(row, self.copy, 2 * x.nbytes)
        int8 = partial(compress, x, codec=INT8, device="gpu")
        self.codec(f"{self.case}, int8 4x4x4", int8, (0.5, None), (0.8, None))
        within = partial(compress, x, tolerance=self.tolerance, device="gpu")
        a = self.codec(f"{self.case}, tolerance 1e-3", within, (0.25, 0.35), (0.5, 0.7))
        self.y[...] = field(len(x), 1.0)
        self.operations(a, compress(self.y, tolerance=self.tolerance, device="gpu"))

    def add(self, row: Row, times: Times, moved: int) -> None:
        """Append a row, with its times and bytes."""
        rate = moved / times.median
        share = rate / self.bandwidth
        values = asdict(row)
        values["note"] = "; ".join(
            filter(
                None, (f"{1e3 * times.median:.3g} ms, {rate / 1e9:.3g} GB/s, {100 * share:.3g} % of a copy", row.note)
            )
        )
        self.report.rows.append(DeviceRow(**values, seconds=times.median, first_seconds=times.first, bytes_moved=moved,
                                          gigabytes_per_second=rate / 1e9, share_of_copy=share))  # fmt: skip

    def codec(
        self, case: str, call: Call, floors: Sequence[float | None], aims: Sequence[float | None]
    ) -> CompressedArray:
        """Measure one form of compression, and return what it makes."""
        x, rows = self.x, self.report.rows
        times = times_of(call, self.repeats)
        a: CompressedArray = times.result
        back = times_of(a.decompress, self.repeats)
        size, worst = a.nbytes, max(_worst(back.result, x), TINY)
        for what, taken, floor, aim in zip(("compress", "decompress"), (times, back), floors, aims, strict=True):
            rate = (x.nbytes + size) / taken.median / 1e9
            row = higher(COMPRESSION, case, what, "GB/s moved", rate, "copy", self.bandwidth / 1e9, target=floor,
                         aim=aim, note=f"first call {taken.first:.2g} s")  # fmt: skip
            self.add(row, taken, x.nbytes + size)
        whole = back.median
        del back
        box = times_of(lambda: a[self.window], self.repeats)
        self.add(faster(COMPRESSION, case, "16^3 window", box.median, "all of it", whole), box, box.result.nbytes)
        rows.append(lower(COMPRESSION, case, "size", "bits a value", 8 * size / x.size, "raw", 32.0))
        rows.append(lower(ERROR, case, "worst error", "", worst, "bound", a.error.max_abs, target=1.0))
        goal = 1.0 if a.codec != INT8 else None  # its error is measured, not asked for
        rows.append(lower(ERROR, case, "over tolerance", "", worst, "1e-3 of the range", self.tolerance, target=goal))
        del times, box
        rows.append(_memory_row(case, call, x))
        with kernel_times(gpu.array_module()) as kernels:
            call()
        for name, seconds in kernels.items():
            rows.append(faster(KERNEL, case, name, seconds, "copy of the field", self.copy.median))
        return a

    def operations(self, a: CompressedArray, b: CompressedArray) -> None:
        """Measure operations beside CuPy's on the raw values, and hold the answers against their bounds."""
        x, y = self.x, self.y
        out = gpu.array_module().empty_like(x)
        span = float(max(x.max(), y.max()) - min(x.min(), y.min()))
        exact = answers(x, y, span)
        ways = formulations(x.reshape(-1), y.reshape(-1), out.reshape(-1), span)
        similarity = partial(statistics.structural_similarity, data_range=span)
        both = a.nbytes + b.nbytes
        operations: list[tuple[str, Call, int, float | None, float | None]] = [
            ("mean", a.mean, a.nbytes, 20.0, None),
            ("variance", a.variance, a.nbytes, 1.0, 3.0),
            ("norm", a.norm, a.nbytes, 1.0, 3.0),
            ("dot", lambda: statistics.dot(a, b), both, 1.0, 3.0),
            ("covariance", lambda: statistics.covariance(a, b), both, None, None),
            ("cosine similarity", lambda: statistics.cosine_similarity(a, b), both, None, None),
            ("structural similarity", lambda: similarity(a, b), both, None, None),
            ("a + b", lambda: a + b, both, None, None),
        ]
        for name, ours, moved, target, aim in operations:
            if self.names is not None and name not in self.names:
                continue
            times = times_of(ours, self.repeats)
            if name == "a + b":
                moved += times.result.nbytes
                error, bound = _worst(times.result.decompress(), x, y), times.result.error.max_abs
            else:
                error, bound = abs(float(times.result) - exact[name]), times.result.error
            best, theirs = self.fastest(name, ways)
            if theirs is None:  # nothing to compare with, and fastest has said so
                row = faster(OPERATION, self.case, name, times.median, "a copy", self.copy.median)
            else:
                row = faster(OPERATION, self.case, name, times.median, "CuPy on raw", theirs, target=target, aim=aim,
                             note=best)  # fmt: skip
            self.add(row, times, moved)
            error, bound = max(error, TINY), max(bound, TINY)
            self.report.rows.append(lower(ERROR, self.case, name, "", error, "bound", bound, target=1.0))

    def fastest(self, name: str, ways: dict[str, dict[str, Call]]) -> tuple[str, float | None]:
        """Return CuPy's fastest way to an answer, and its seconds; name those for which a library is missing."""
        found = {}
        for way, call in ways[name].items():
            try:
                found[way] = times_of(call, self.repeats).median
            except (ImportError, OSError, RuntimeError) as error:  # such as cuBLAS
                self.report.absent.append(f"{self.case}, {name} by {way}: {' '.join(str(error).split())[:200]}")
        best = min(found, key=lambda way: found[way], default="")
        return best, found.get(best)


def _worst(values: Any, x: Any, y: Any = 0.0) -> float:
    """Return the largest difference of values to x + y, in double precision, a plane at a time."""
    others = y if isinstance(y, type(x)) else [y] * len(x)
    planes = zip(values, x, others, strict=True)
    return max(float(abs(v.astype(np.float64) - u.astype(np.float64) - w).max()) for v, u, w in planes)


def _memory_row(case: str, call: Call, x: Any) -> Row:
    """Return the peak memory of compress beyond its input and output, as a percentage of the input.

    CuPy's pool is emptied before. It keeps all that it takes from the card, so what it holds after the call beyond
    what was in use before is the most that the call had at a time, pieces that nothing fitted into included; the size
    of the result is subtracted. What is in use before, such as the input and tables of the grid, is not counted. The
    simulator has no pool, and nothing is measured there.
    """
    gc.collect()
    empty_pool()
    before = used_bytes()
    a = call()
    extra = max(0, held_bytes() - before - a.nbytes)
    return lower(MEMORY, case, "beyond input and output", "% of the input", 100 * extra / x.nbytes, "limit", 5.0,
                 target=None if SIMULATED else 1.0, note="no pool to measure" if SIMULATED else "")  # fmt: skip
