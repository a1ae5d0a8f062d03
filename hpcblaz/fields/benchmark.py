"""Measurements of compressed fields beside zfp, SZ3 and NumPy, as rows of a table.

Both sides are measured in one run and take turns. Speeds are gigabytes (1e9) of uncompressed values a second.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpcblaz.backend.threads import default_thread_count
from hpcblaz.errors import HpcblazError
from hpcblaz.fields import blockwise, extremes, peers, processes, snapshots, statistics
from hpcblaz.fields.array import CompressedArray
from hpcblaz.fields.codec import BlockCodec
from hpcblaz.fields.compress import compress
from hpcblaz.fields.sample_fields import SampleField, sample_fields, sines
from hpcblaz.fields.timing import Row, controls_blas, faster, higher, limited, lower, race

SIZE, ERROR, SPEED, OPERATION, BOUND, PROCESS = (
    "size", "error", "speed of compression", "operations", "bounds", "process",
)  # fmt: skip
BLOCK = (4, 4, 4)
TINY = 1e-300  # keeps ratios positive where a measured error is zero

Say = Callable[[str], None]
Array = NDArray[Any]


@dataclass
class Settings:
    """How large and how often.

    Parameters
    ----------
    quick : bool
        Small fields and few repeats: a trial, whose numbers are not those that targets are meant for.
    threads : int
        For operations and NumPy; compression is measured on one.
    side : int, optional
        Cells along each axis of the field for speeds. Default: 256, or 128 if quick.
    memory_shape : tuple of int, optional
        Field for the peak memory. Default: (512, 512, 256), or (256, 256, 128) if quick.
    tolerances : tuple of float
        As fractions of the range of a field.
    start_name : str
        What is started.
    start : sequence of str
        Its arguments of Python.
    say : callable
        Told what is being measured.
    """

    quick: bool = False
    threads: int = 2
    side: int = 0
    memory_shape: tuple[int, ...] = ()
    tolerances: tuple[float, ...] = (1e-2, 1e-3, 1e-4)
    start_name: str = "import, compress 64^3"
    start: Sequence[str] = (
        "-c",
        "import numpy, hpcblaz; hpcblaz.compress(numpy.ones((64, 64, 64), 'f4'), tolerance=1e-3)",
    )
    say: Say = lambda text: None

    def __post_init__(self) -> None:
        self.side = self.side or (128 if self.quick else 256)
        self.memory_shape = self.memory_shape or ((256, 256, 128) if self.quick else (512, 512, 256))

    @property
    def repeats(self) -> int:
        """Turns of compressors."""
        return 3 if self.quick else 5

    @property
    def many(self) -> int:
        """Turns of what takes milliseconds."""
        return 5 if self.quick else 11


@dataclass
class Report:
    """All rows, and what was left out, in words."""

    rows: list[Row] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)


def run(settings: Settings, fields: Sequence[SampleField] | None = None) -> Report:
    """Measure everything.

    Parameters
    ----------
    settings : Settings
    fields : sequence of SampleField, optional
        Default: all sample fields that are installed.

    Returns
    -------
    Report
    """
    report = Report()
    codecs = peers.codecs(report.absent)
    if not controls_blas():
        report.absent.append("threadpoolctl: NumPy's BLAS takes as many threads as its environment says")
    for sample in sample_fields(settings.quick, report.absent) if fields is None else fields:
        settings.say(f"size, error and bounds: {sample.name}")
        with limited(settings.threads):
            report.rows += sizes_and_errors(sample, codecs, settings.tolerances)
            report.rows += bounds(sample)
    report.rows += geometric_means(report.rows)
    settings.say(f"speed of compression: {settings.side}^3")
    report.rows += speeds(settings, codecs)
    settings.say(f"operations: {settings.side}^3")
    report.rows += operations(settings)
    report.rows += snapshot_rows(settings)
    settings.say("memory and start")
    for name, measure in (("peak memory", memory_rows), ("second start", start_rows)):
        try:
            report.rows += measure(settings)
        except HpcblazError as error:  # minutes of work would be lost
            report.absent.append(f"{name}: {error}")
    order = (SIZE, ERROR, SPEED, OPERATION, BOUND, PROCESS)
    report.rows.sort(key=lambda row: order.index(row.topic))
    return report


def sizes_and_errors(sample: SampleField, codecs: Sequence[peers.Codec], tolerances: Sequence[float]) -> list[Row]:
    """Return bits a value and the worst error over the tolerance, of all compressors."""
    rows = []
    x = sample.values
    for relative in tolerances:
        case = f"{sample.name}, {relative:g}"
        tolerance = relative * float(np.ptp(x))
        a = compress(x, tolerance=tolerance)
        bits, worst = 8 * a.nbytes / x.size, _worst(a.decompress(), x)
        others = []
        for codec in codecs:
            stream = codec.compress(x, tolerance)
            theirs = 8 * codec.nbytes(stream) / x.size
            target = 0.9 if codec.name == "zfpy" else None
            rows.append(lower(SIZE, case, "bits a value", "bit", bits, codec.name, theirs, target=target))
            others.append(f"{codec.name} {_worst(codec.decompress(stream, x), x) / tolerance:.3f}")
            if codec.name == "zfpy":
                loose = _loosened(codec, x, tolerance, stream)
                rows.append(lower(SIZE, case, "bits a value", "bit", bits, "zfpy loosened", loose))
        if not codecs:
            rows.append(lower(SIZE, case, "bits a value", "bit", bits, "uncompressed", 8.0 * x.itemsize))
        rows.append(
            lower(
                ERROR, case, "worst error", "unit of the field", worst, "tolerance", tolerance, target=1.0,
                note=", ".join(others),
            )
        )  # fmt: skip
    return rows


def _loosened(codec: peers.Codec, x: Array, tolerance: float, stream: Any) -> float:
    """Return zfp's bits a value with the largest power of two times the tolerance that still keeps to the tolerance.

    zfp's own errors are well below what it is asked for; a user who measures them can ask for more.
    """
    for doublings in range(1, 8):
        looser = codec.compress(x, tolerance * 2.0**doublings)
        if _worst(codec.decompress(looser, x), x) > tolerance:
            break
        stream = looser
    return 8 * codec.nbytes(stream) / x.size


def _worst(values: Array, x: Array) -> float:
    """Return the largest difference, in double precision."""
    return max(float(np.abs(v.astype(np.float64) - w).max()) for v, w in zip(values, x, strict=True)) or TINY


def geometric_means(rows: Sequence[Row]) -> list[Row]:
    """Return the geometric means of the sizes in `rows` for each peer."""
    found = []
    for peer in dict.fromkeys(row.peer for row in rows if row.topic == SIZE):
        pairs = [(row.ours, row.theirs) for row in rows if row.topic == SIZE and row.peer == peer]
        ours, theirs = np.exp(np.mean(np.log(pairs), axis=0))
        target = 0.6 if peer == "zfpy" else None
        found.append(
            lower(SIZE, "all of them", "geometric mean", "bit", float(ours), peer, float(theirs), target=target)
        )
    return found


def speeds(settings: Settings, codecs: Sequence[peers.Codec]) -> list[Row]:
    """Return speeds of compression and decompression on one thread, and how far off a plain copy they are."""
    x = sines(settings.side)
    gigabytes, span = x.nbytes / 1e9, float(np.ptp(x))
    copy = np.zeros_like(x)
    rows: list[Row] = []
    with limited(1):
        for relative in settings.tolerances:
            tolerance = relative * span
            case = f"sines {settings.side}^3, {relative:g}"
            a = compress(x, tolerance=tolerance)
            streams = [codec.compress(x, tolerance) for codec in codecs]
            forward: dict[str, Callable[[], Any]] = {
                "ours": lambda t=tolerance: compress(x, tolerance=t),  # type: ignore[misc]
                "copy": lambda: np.copyto(copy, x),
            }
            back: dict[str, Callable[[], Any]] = {"ours": a.decompress, "copy": lambda: np.copyto(copy, x)}
            for codec, stream in zip(codecs, streams, strict=True):
                forward[codec.name] = lambda c=codec, t=tolerance: c.compress(x, t)  # type: ignore[misc]
                back[codec.name] = lambda c=codec, s=stream: c.decompress(s, x)  # type: ignore[misc]
            for quantity, calls in (("compress", forward), ("decompress", back)):
                times = race(calls, settings.repeats)
                rows += _speed_rows(case, quantity, gigabytes, times)
        rows += _fixed_speeds(settings, x, copy)
    return rows


def _speed_rows(case: str, quantity: str, gigabytes: float, times: dict[str, float]) -> list[Row]:
    rows = []
    for peer, seconds in times.items():
        goal = {"target": 5.0, "aim": 10.0} if peer == "zfpy" else {}
        name = "plain copy" if peer == "copy" else peer
        if peer != "ours":
            rows.append(
                higher(SPEED, case, quantity, "GB/s", gigabytes / times["ours"], name, gigabytes / seconds, **goal)
            )
    return rows


def _fixed_speeds(settings: Settings, x: Array, copy: Array) -> list[Row]:
    """Return speeds of the form with 8-bit indices in blocks of 4x4x4."""
    codec = BlockCodec(block_shape=BLOCK, index_dtype="int8")
    a = compress(x, codec=codec)
    case, gigabytes = f"sines {settings.side}^3, int8 4x4x4", x.nbytes / 1e9
    calls = {
        "compress": lambda: compress(x, codec=codec),
        "decompress": a.decompress,
        "copy": lambda: np.copyto(copy, x),
    }
    times = race(calls, settings.repeats)
    rows = [higher(SPEED, case, "compress", "GB/s", gigabytes / times["compress"], "wanted", 3.0, target=1.0)]
    for quantity in ("compress", "decompress"):
        rows.append(
            higher(SPEED, case, quantity, "GB/s", gigabytes / times[quantity], "plain copy", gigabytes / times["copy"])
        )
    return rows


class Operation(NamedTuple):
    """An operation of two fields: on compressed arrays, in NumPy, and how fast it should be relative to NumPy."""

    name: str
    ours: Callable[[CompressedArray, CompressedArray], Any]
    theirs: list[peers.Formulation]
    target: float | None = None
    aim: float | None = None


def operations(settings: Settings, relative: float = 1e-3) -> list[Row]:
    """Return times of operations beside NumPy on uncompressed arrays, and beside decompression and then NumPy."""
    n = settings.side
    x, y = sines(n), sines(n, seed=1, phase=0.4)
    span = float(max(np.ptp(x), np.ptp(y)))
    a, b = compress(x, tolerance=relative * span), compress(y, tolerance=relative * span)
    case = f"sines {n}^3, {relative:g}"
    rows: list[Row] = []
    with limited(settings.threads):
        for operation in _operations(x.shape, span):
            rows += _operation_rows(operation, a, b, x, y, case, settings)
    return rows


def _operations(shape: tuple[int, ...], span: float) -> list[Operation]:
    ways = peers.formulations(BLOCK, span)
    plane, box = shape[0] // 2, (slice(8, 40),) * 3
    return [
        Operation("mean", lambda a, b: a.mean(), ways["mean"], 20.0),
        Operation("dot", statistics.dot, ways["dot"], 0.5, 1.0),
        Operation("norm", lambda a, b: a.norm(), ways["norm"], 0.5, 1.0),
        Operation("cosine similarity", statistics.cosine_similarity, ways["cosine similarity"], 0.5, 1.0),
        Operation("variance", lambda a, b: a.variance(), ways["variance"], 1.0),
        Operation("covariance", statistics.covariance, ways["covariance"], 1.0),
        Operation("SSIM", lambda a, b: statistics.structural_similarity(a, b, data_range=span), ways["SSIM"]),
        Operation("Wasserstein", blockwise.wasserstein_distance, ways["Wasserstein"]),
        Operation("max", lambda a, b: extremes.maximum(a), [peers.Formulation("np.max", lambda x, y: float(x.max()))]),
        Operation("a + b", lambda a, b: a + b, [peers.Formulation("np.add", lambda x, y: x + y)], 0.5),
        Operation("2 * a", lambda a, b: 2 * a, [peers.Formulation("np.multiply", lambda x, y: 2 * x)]),
        Operation("a plane, a[i]", lambda a, b: a[plane], [peers.Formulation("copy", lambda x, y: x[plane].copy())]),
        Operation("a box of 32^3", lambda a, b: a[box], [peers.Formulation("copy", lambda x, y: x[box].copy())]),
    ]


_OF_TWO = ("dot", "cosine similarity", "covariance", "SSIM", "Wasserstein", "a + b")


def _operation_rows(
    operation: Operation, a: CompressedArray, b: CompressedArray, x: Array, y: Array, case: str, settings: Settings
) -> list[Row]:
    ways = {way.name: way.function for way in operation.theirs}

    def after_decompression(way: Callable[[Any, Any], Any]) -> Any:
        values = a.decompress()
        return way(values, b.decompress() if operation.name in _OF_TWO else values)

    calls: dict[str, Callable[[], Any]] = {"ours": lambda: operation.ours(a, b)}
    for name, way in ways.items():
        calls[name] = lambda way=way: way(x, y)  # type: ignore[misc]
    times = race(calls, settings.many)
    best = min(ways, key=lambda name: times[name])
    late = race({"ours": calls["ours"], "late": lambda: after_decompression(ways[best])}, settings.repeats)
    common = {"threads": settings.threads, "note": best}
    return [
        faster(
            OPERATION, case, operation.name, times["ours"], "NumPy", times[best],
            target=operation.target, aim=operation.aim, **common,
        ),
        faster(
            OPERATION, case, operation.name, late["ours"], "decompress, NumPy", late["late"], target=1.0, **common
        ),
    ]  # fmt: skip


def snapshot_rows(settings: Settings, count: int = 32, relative: float = 1e-3) -> list[Row]:
    """Return times of the Gram matrix and the distances of snapshots beside NumPy on their uncompressed values."""
    n = settings.side // 2
    x = np.stack([sines(n, seed=seed, phase=0.05 * seed).ravel() for seed in range(count)])
    arrays = [compress(row.reshape(n, n, n), relative=relative) for row in x]
    wide = x.astype(np.float64)
    case = f"{count} of sines {n}^3, {relative:g}"
    rows = []
    with limited(settings.threads):
        calls = {
            "gram": lambda: snapshots.gram(arrays),
            "distances": lambda: snapshots.pairwise_distances(arrays),
            "X @ X.T, float32": lambda: x @ x.T,
            "X @ X.T, float64": lambda: wide @ wide.T,
        }
        times = race(calls, settings.repeats)
        single, double = "X @ X.T, float32", "X @ X.T, float64"
        pairs = (("gram", single, 1.0), ("gram", double, 1.0), ("distances", double, None))
        for name, peer, target in pairs:
            rows.append(
                faster(
                    OPERATION, case, name, times[name], f"NumPy {peer}", times[peer],
                    target=target, threads=settings.threads,
                )
            )  # fmt: skip
    return rows


def bounds(sample: SampleField, relative: float = 1e-3) -> list[Row]:
    """Return how much larger the bound of each operation is than its actual error, and whether all of them hold.

    The second operand is the field moved by one cell along its first axis. The answers on the original data are
    computed in double precision.
    """
    x = sample.values
    y = np.roll(x, 1, axis=0)
    span = float(np.ptp(x))
    a, b = compress(x, tolerance=relative * span), compress(y, tolerance=relative * span)
    case, rows, worst = sample.name, [], 0.0
    for quantity, bound, actual in _bounds_and_errors(a, b, x.astype(np.float64), y.astype(np.float64), span):
        most, used = float(np.max(actual)), float(np.max(actual / np.maximum(bound, TINY)))
        worst = max(worst, used)
        largest = max(float(np.max(bound)), TINY)
        most = max(most, largest * 2.0**-52)
        rows.append(lower(BOUND, case, quantity, "unit of the answer", largest, "error", most))
    rows.append(lower(BOUND, case, "all of them hold", "worst error / bound", max(worst, TINY), "1", 1.0, target=1.0))
    return rows


def _bounds_and_errors(
    a: CompressedArray, b: CompressedArray, x: Array, y: Array, span: float
) -> list[tuple[str, Any, Any]]:
    """Return name, bound and actual error of every certified operation."""
    block = a.codec.block_shape or BLOCK
    e, f = a.decompress() - x, (2 * a + 3).decompress() - (2 * x + 3)
    plus, minus = a + b, a - b
    found: list[tuple[str, Any, Any]] = [
        ("values", a.error.max_abs, np.abs(e).max()),
        ("values, 2-norm", a.error.l2, np.sqrt(np.vdot(e, e))),
        ("2 * a + 3", (2 * a + 3).error.max_abs, np.abs(f).max()),
        ("a + b", plus.error.max_abs, np.abs(plus.decompress() - (x + y)).max()),
        ("a - b", minus.error.max_abs, np.abs(minus.decompress() - (x - y)).max()),
    ]
    ways = peers.formulations(block, span)
    exact = {name: ways[name][-1].function(x, y) for name in ways}
    exact["sum"] = float(x.sum())
    exact["standard deviation"] = math.sqrt(exact["variance"])
    answers = {
        "mean": a.mean(),
        "sum": a.sum(),
        "variance": a.variance(),
        "standard deviation": a.std(),
        "norm": a.norm(),
        "dot": statistics.dot(a, b),
        "covariance": statistics.covariance(a, b),
        "cosine similarity": statistics.cosine_similarity(a, b),
        "SSIM": statistics.structural_similarity(a, b, data_range=span),
        "Wasserstein": blockwise.wasserstein_distance(a, b),
    }
    found += [(name, answer.error, abs(float(answer) - exact[name])) for name, answer in answers.items()]
    means = peers.block_means(x, block)
    variances = _block_variances(x, means, block)
    for name, answer, truth in (
        ("block mean", a.block_mean(), means),
        ("block variance", a.block_variance(), variances),
        ("block standard deviation", a.block_std(), np.sqrt(variances)),
    ):
        found.append((name, answer.error, np.abs(answer.values - truth)))
    return found


def _block_variances(x: Array, means: Array, block: tuple[int, ...]) -> Array:
    for axis, side in enumerate(block):
        means = np.repeat(means, side, axis=axis)
    means = means[tuple(slice(side) for side in x.shape)]
    return peers.block_means((x - means) ** 2, block)


def memory_rows(settings: Settings) -> list[Row]:
    """Return the peak memory of compression beyond the field and its compressed form."""
    extra, raw, compressed = processes.peak_memory(settings.memory_shape)
    mebi = 2.0**20
    case, quantity = "x".join(map(str, settings.memory_shape)) + " float32, 1e-3", "memory beyond raw + compressed"
    note = f"raw {raw / mebi:.0f} MiB, compressed {compressed / mebi:.1f} MiB"
    found = max(extra, 4096) / mebi  # a page, where nothing was found: ratios are positive
    common = {"threads": default_thread_count(), "note": note}
    return [lower(PROCESS, case, quantity, "MiB", found, "allowed", 64.0, target=1.0, **common)]


def start_rows(settings: Settings) -> list[Row]:
    """Return the time of a second start."""
    start = processes.start_time(settings.start, settings.repeats)
    return [lower(PROCESS, settings.start_name, "second start", "s", start, "allowed", 2.0, target=1.0)]
