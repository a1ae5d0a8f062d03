"""``hpcblaz demo``: compresses two fields on all ranks of the job, and checks every answer on the original data."""

import argparse
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpcblaz.backend import cpu
from hpcblaz.backend.blocks import BlockGrid
from hpcblaz.backend.payload import Numerics, PackedBlocks
from hpcblaz.bodies.records import LANES
from hpcblaz.cli.console import Console, number, payload_bytes, seconds
from hpcblaz.cli.picture import Panel, write_picture
from hpcblaz.errors import HpcblazError, MissingDependencyError
from hpcblaz.fields import statistics
from hpcblaz.fields.array import CompressedArray
from hpcblaz.fields.compress import compress
from hpcblaz.fields.sample_fields import air_temperature
from hpcblaz.fields.scalars import CertifiedFloat
from hpcblaz.mpi import Communicator, Layout, world
from hpcblaz.mpi.collect import wait_idly

_RELATIVE = 1e-3
_SHIFT = 5  # cells, of the copy along the first axis
_REPEATS = 3
_NOISE = np.float32(1e-3)

Values = NDArray[np.float32]


class _Field(NamedTuple):
    """A field of the demonstration: this rank's parts of it and of its shifted copy, and a slice of it on rank 0."""

    name: str
    unit: str
    layout: Layout
    values: Values
    shifted: Values
    plane: Values | None


class _Statistic(NamedTuple):
    """A statistic of compressed arrays, of NumPy arrays, and of sums over the ranks."""

    name: str
    compressed: Callable[[CompressedArray, CompressedArray], CertifiedFloat]
    plain: Callable[[Values, Values], Any]


_STATISTICS = (
    _Statistic("mean", lambda a, b: statistics.mean(a), lambda x, y: x.mean()),
    _Statistic("variance", lambda a, b: statistics.variance(a), lambda x, y: x.var()),
    _Statistic("norm", lambda a, b: statistics.norm(a), lambda x, y: np.linalg.norm(x)),
    _Statistic("dot", statistics.dot, lambda x, y: np.dot(x.ravel(), y.ravel())),
    _Statistic(
        "cosine",
        statistics.cosine_similarity,
        lambda x, y: np.dot(x.ravel(), y.ravel()) / (np.linalg.norm(x) * np.linalg.norm(y)),
    ),
)


def register(subparsers: Any) -> None:
    """Add the verb."""
    parser = subparsers.add_parser(
        "demo",
        help="compress two fields, and check every answer against the original data",
        description="Compress a real and a synthetic field on all ranks of the job, compute on them without "
        "decompressing, check every answer and its bound against the original data, and draw a picture.",
    )
    parser.add_argument("--output", metavar="PNG", default="hpcblaz-demo.png", help="default: hpcblaz-demo.png")
    parser.add_argument("--size", type=int, default=256, metavar="N", help="side of the synthetic field, default: 256")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the verb."""
    console = Console(world())
    comm = console.comm
    start = time.perf_counter()
    found: dict[str, Any] = {"ranks": comm.size, "compile_seconds": _compile(comm), "fields": [], "missing": []}
    panels: list[Panel] = []
    for source in (_air_temperature, _sines):
        try:
            field = source(comm, arguments.size)
        except MissingDependencyError as error:
            found["missing"].append(str(error))
            continue
        report, panel = _examine(field, comm)
        found["fields"].append(report)
        panels.append(panel)
    try:
        with comm.together():
            if comm.rank == 0:
                write_picture(arguments.output, panels)
        found["picture"] = arguments.output
    except MissingDependencyError as error:
        found["picture"] = None
        found["missing"].append(str(error))
    found["holds"] = all(report["holds"] for report in found["fields"])
    found["total_seconds"] = seconds(comm, start)
    if arguments.json:
        console.data(found)
    else:
        _print(console, found)
    return 0 if found["holds"] else 1


def _compile(comm: Communicator) -> float:
    """Compile the kernels, or load them, and return the seconds that took.

    Two ranks compile half of the kernels each; then all ranks find all of them compiled.
    """
    start = time.perf_counter()
    halves = [_warm_encoder, _warm_statistics]
    error: HpcblazError | None = None
    try:
        for half in halves[comm.rank :: min(comm.size, 2)] if comm.rank < 2 else []:
            half()
    except HpcblazError as caught:
        error = caught
    wait_idly(comm)
    comm.agree(error)
    with comm.together():
        for half in halves:
            half()
    return seconds(comm, start)


def _warm_encoder() -> None:
    compress(np.zeros((5, 4, 4), np.float32) + np.arange(4, dtype=np.float32), tolerance=0.1)


def _warm_statistics() -> None:
    numerics = Numerics(BlockGrid((4, 4, 4), (4, 4, 4)), "dct", "float32")
    record = np.array([0, 0, 0, 7, 0, 0, 0], np.uint32)  # of one block of zeros, see docs/format.md
    words = np.concatenate([record, np.zeros(2 * LANES, np.uint32)])
    blocks = PackedBlocks(words, np.array([0, len(record)]), 0, 0)
    cpu.decode(blocks, numerics, 1.0, 0.0)
    cpu.total(blocks, numerics)
    cpu.moments(blocks, numerics, 0.0)
    for squares in (False, True):
        cpu.products(blocks, 0.0, blocks, 0.0, numerics, squares)


def _air_temperature(comm: Communicator, size: int) -> _Field:
    whole: Values | None = None
    try:
        with comm.together():
            if comm.rank == 0:
                whole = air_temperature()
    except MissingDependencyError as error:
        package = error.name or "iris_sample_data and netCDF4"
        raise MissingDependencyError.needs("the field of air temperature", package, "data") from error
    shape = comm.broadcast(whole.shape if whole is not None else None)
    layout = Layout(shape, comm)
    values = comm.scatter(whole, layout)
    shifted = comm.scatter(None if whole is None else np.roll(whole, -_SHIFT, 0), layout)
    plane = None if whole is None else whole[shape[0] // 4]
    return _Field("A1B air temperature", "K", layout, values, shifted, plane)


def _sines(comm: Communicator, size: int) -> _Field:
    layout = Layout((size, size, size), comm)
    plane = _part_of_sines(size, range(size // 4, size // 4 + 1), ...)[0] if comm.rank == 0 else None
    rows = range(layout.slices[0].start, layout.slices[0].stop)
    shifted = [(row + _SHIFT) % size for row in rows]
    return _Field(
        f"sines with noise, {size}^3",
        "1",
        layout,
        _part_of_sines(size, rows, layout.slices[1:]),
        _part_of_sines(size, shifted, layout.slices[1:]),
        plane,
    )


def _part_of_sines(size: int, rows: Any, rest: Any) -> Values:
    """Return some planes of sin(x) cos(2y) sin(3z) + 0.3 sin(7x + 5y) + N(0, 1e-3); each has noise of its own seed."""
    angles = np.linspace(0, 2 * np.pi, size, dtype=np.float32)
    flat = np.cos(2 * angles)[:, None] * np.sin(3 * angles)[None, :]
    planes = []
    for row in rows:
        x = angles[row]
        noise = np.random.default_rng(row).standard_normal((size, size), np.float32)
        plane = np.sin(x) * flat + np.float32(0.3) * np.sin(7 * x + 5 * angles)[:, None] + _NOISE * noise
        planes.append(plane[rest])
    return np.stack(planes) if planes else np.zeros((0, *np.zeros((size, size))[rest].shape), np.float32)


def _examine(field: _Field, comm: Communicator) -> tuple[dict[str, Any], Panel]:
    """Compress a field, and compare every answer with the original data."""
    begin = time.perf_counter()
    a = compress(field.values, relative=_RELATIVE, layout=field.layout)
    compress_seconds = seconds(comm, begin)
    begin = time.perf_counter()
    b = compress(field.shifted, relative=_RELATIVE, layout=field.layout)
    compress_seconds = min(compress_seconds, seconds(comm, begin))
    decoded, decompress_seconds = _fastest(a.decompress, comm)
    error = np.abs(decoded.astype(np.float64) - field.values).max(initial=0.0)
    largest = float(comm.allgather([error]).max())
    tolerance = a.error.max_abs if a._promise is None else a._promise
    truth = _truth(field.values, field.shifted, comm)
    answers = {one.name: _compare(one, field, a, b, truth[one.name], comm) for one in _STATISTICS}
    size = a.size * a.dtype.itemsize
    payload = payload_bytes(a, comm)
    report = {
        "name": field.name,
        "unit": field.unit,
        "shape": list(a.shape),
        "dtype": a.dtype.name,
        "bytes": size,
        "payload_bytes": payload,
        "ratio": size / payload,
        "tolerance": tolerance,
        "largest_error": largest,
        "compress_seconds": compress_seconds,
        "decompress_seconds": decompress_seconds,
        "statistics": answers,
        "holds": largest <= tolerance and all(answer["holds"] for answer in answers.values()),
    }
    decoded_plane = a[a.shape[0] // 4]
    return report, Panel(field.name, field.unit, field.plane, decoded_plane, tolerance, size / payload)


def _truth(x: Values, y: Values, comm: Communicator) -> dict[str, float]:
    """Return the statistics of the original data, in double precision, over all ranks."""
    wide, other = x.astype(np.float64).ravel(), y.astype(np.float64).ravel()
    squares = [float(np.sum(wide * wide)), float(np.sum(other * other)), float(np.sum(wide * other))]
    xx, yy, xy, total, count = _sums(comm, [*squares, float(np.sum(wide)), float(x.size)])
    mean = total / count
    (spread,) = _sums(comm, [float(np.sum((wide - mean) ** 2))])
    return {
        "mean": mean,
        "variance": spread / count,
        "norm": math.sqrt(xx),
        "dot": xy,
        "cosine": xy / math.sqrt(xx * yy),
    }


def _sums(comm: Communicator, values: list[float]) -> list[float]:
    return [math.fsum(column) for column in comm.allgather(values).T]


def _compare(
    statistic: _Statistic, field: _Field, a: CompressedArray, b: CompressedArray, truth: float, comm: Communicator
) -> dict[str, Any]:
    answer, took = _fastest(lambda: statistic.compressed(a, b), comm)
    x, y = field.values, field.shifted
    two = statistic.name in ("dot", "cosine")
    _, plain = _fastest(lambda: statistic.plain(x, y), comm)
    _, decoded = _fastest(lambda: statistic.plain(a.decompress(), b.decompress() if two else y), comm)
    error = abs(float(answer) - truth)
    return {
        "value": float(answer),
        "bound": answer.error,
        "true_error": error,
        "seconds": took,
        "numpy_seconds": plain,
        "decompress_numpy_seconds": decoded,
        "holds": error <= answer.error,
    }


def _fastest(call: Callable[[], Any], comm: Communicator) -> tuple[Any, float]:
    """Return the result of a call, and the least of some times on the slowest rank; all ranks begin together."""
    times = []
    for _ in range(_REPEATS):
        comm.barrier()
        begin = time.perf_counter()
        result = call()
        times.append(seconds(comm, begin))
    return result, min(times)


def _print(console: Console, found: dict[str, Any]) -> None:
    ranks = found["ranks"]
    console.line(f"hpcblaz on {ranks} rank{'s' if ranks > 1 else ''}: compress, and compute without decompressing")
    if found["compile_seconds"] > 1:
        console.line(f"kernels compiled in {found['compile_seconds']:.1f} s; the next run finds them")
    for report in found["fields"]:
        console.line()
        _print_field(console, report)
    console.line()
    if any(report["holds"] is False for report in found["fields"]):
        console.line("NOT every answer lies within its bound: please report this, with the output of hpcblaz info")
    else:
        count = sum(len(report["statistics"]) for report in found["fields"])
        console.line(f"All {count} answers lie within their bounds, and every value within its tolerance.")
    for text in found["missing"]:
        console.line(f"left out: {text}")
    if found["picture"] is not None:
        console.line(f"picture: {found['picture']}")
    console.line(f"total time: {found['total_seconds']:.1f} s")


def _print_field(console: Console, report: dict[str, Any]) -> None:
    shape = " x ".join(map(str, report["shape"]))
    unit = "" if report["unit"] == "1" else " " + report["unit"]
    speed = report["bytes"] / 1e9
    console.line(f"{report['name']}: {shape} {report['dtype']}")
    console.line(
        f"  {report['bytes'] / 1e6:.2f} MB -> {report['payload_bytes'] / 1e6:.2f} MB, ratio {report['ratio']:.1f}; "
        f"compressed at {speed / report['compress_seconds']:.2f} GB/s, "
        f"decompressed at {speed / report['decompress_seconds']:.2f} GB/s"
    )
    console.line(
        f"  largest error of a value: {number(report['largest_error'], 4)}{unit}, "
        f"tolerance: {number(report['tolerance'], 4)}{unit} ({_RELATIVE:g} of the range)"
    )
    rows = [["statistic", "value", "bound of error", "true error", "compressed", "NumPy", "decompress+NumPy"]]
    for name, answer in report["statistics"].items():
        times = [f"{1e3 * answer[key]:.2f} ms" for key in ("seconds", "numpy_seconds", "decompress_numpy_seconds")]
        value = number(answer["value"], 8)
        rows.append([name, value, number(answer["bound"], 2), number(answer["true_error"], 2), *times])
    console.table(rows)
