"""``hpcblaz bench fields``: sizes, errors, speeds and bounds beside zfp, SZ3 and NumPy, measured in one run."""

import argparse
import importlib.metadata
import json
import os
import platform
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hpcblaz._version import __version__
from hpcblaz.backend.threads import thread_count
from hpcblaz.cli import bench_collectives
from hpcblaz.cli.console import Console
from hpcblaz.errors import ConfigurationError, FileFormatError, StorageError
from hpcblaz.fields import gpu_benchmark
from hpcblaz.fields.benchmark import BOUND, SIZE, SPEED, Report, Settings
from hpcblaz.fields.benchmark import run as measure
from hpcblaz.fields.compress import compress
from hpcblaz.fields.pictures import COLORS, picture, require_matplotlib
from hpcblaz.fields.sample_fields import sines
from hpcblaz.fields.saving import save
from hpcblaz.fields.timing import Row
from hpcblaz.mpi import world
from hpcblaz.mpi.atomic import storage_errors

_PACKAGES = ("numpy", "numba", "zfpy", "pysz", "threadpoolctl")
_EXACT = 1e12  # a bound this many times the error: the answer is right to the last digits


def register(subparsers: Any) -> None:
    """Add the verb to the command line."""
    parser = subparsers.add_parser(
        "bench",
        help="measure against zfp, SZ3 and NumPy",
        description="Measure sizes, errors, speeds and bounds beside zfp, SZ3 and NumPy, all in one run and taking "
        "turns. What is not installed (pip install 'hpcblaz[bench]') is named and left out.",
    )
    parser.add_argument("what", choices=["fields", "collectives"], help="what to measure")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers to FILE")
    parser.add_argument("--gpu", action="store_true", help="measure on the GPU, beside copies on it and CuPy")
    parser.add_argument("--quick", action="store_true", help="small fields and few repeats: a trial in half a minute")
    parser.add_argument("--threads", type=int, metavar="N", help="threads of operations and of NumPy (default: 2)")
    parser.add_argument("--against", type=Path, metavar="OLD.json", help="show how every ratio changed since OLD.json")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="draw sizes and speeds")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Measure, print the table, and write what was asked for.

    Returns
    -------
    int
        0, whether targets are met or not.

    Raises
    ------
    ConfigurationError
        If there are several ranks.
    StorageError, FileFormatError, MissingDependencyError
        If a file cannot be written or read, or a picture cannot be drawn; found out before anything is measured.
    """
    console = Console(world())
    if console.comm.size != 1:
        raise ConfigurationError(f"expected one process, got {console.comm.size} ranks: run bench without mpirun")
    for path in (arguments.json, arguments.plot):  # before minutes of work
        if path is not None and not path.absolute().parent.is_dir():
            raise StorageError(f"expected a folder to write {path} to, got none: make {path.absolute().parent}")
    if arguments.what == "collectives":
        return bench_collectives.run(arguments, console, machine())
    old = None if arguments.against is None else _read(arguments.against)
    if arguments.plot is not None:
        if arguments.gpu:
            raise ConfigurationError("expected --plot without --gpu, got both: only CPU results are drawn")
        require_matplotlib("--plot")
    begin = time.perf_counter()
    threads = min(2, thread_count()) if arguments.threads is None else arguments.threads
    settings = Settings(quick=arguments.quick, threads=threads, say=lambda text: print(f"... {text}", file=sys.stderr))
    head = machine()
    if arguments.gpu:
        head |= gpu_benchmark.card()
        report = gpu_benchmark.run(settings)
    else:
        report = _on_cpu(settings)
    lines = table(report, settings)
    seconds = time.perf_counter() - begin
    head["load at the end"] = _load()
    loads = f"load {head['load']} at the start, {head['load at the end']} at the end"
    lines += ["", f"{head['cpu']}, {head['cores']} cores, {loads}; measured in {seconds:.0f} s"]
    if not arguments.gpu and max(head["load"], head["load at the end"] - settings.threads) > 0.5:
        lines += ["Something else is running here: ratios suffer less than speeds, and both are worth measuring again."]
    if old is not None:
        lines += ["", *changes(report.rows, old)]
    for line in lines:
        console.line(line)
    if arguments.json is not None:
        with storage_errors("write", arguments.json):
            arguments.json.write_text(json.dumps(document(report, settings, head), indent=1) + "\n")
    if arguments.plot is not None:
        draw(report.rows, arguments.plot)
    return 0


def _on_cpu(settings: Settings) -> Report:
    """Measure what runs without a GPU."""
    with TemporaryDirectory(prefix="hpcblaz-bench-") as folder:
        path = Path(folder) / "field.hbz"
        save(compress(sines(64), relative=1e-3), path)
        settings.start_name, settings.start = "hpcblaz stats, 64^3", ("-m", "hpcblaz.cli.main", "stats", str(path))
        return measure(settings)


def machine() -> dict[str, Any]:
    """Return what the numbers depend on: processor, cores, load, date, and versions (None where not installed)."""
    versions: dict[str, str | None] = {"hpcblaz": __version__}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "cpu": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load": _load(),
        "python": platform.python_version(),
        **versions,
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def _load() -> float:
    """Return how many threads have been running on the machine during the last minute."""
    return round(os.getloadavg()[0], 2)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def document(report: Report, settings: Settings, head: dict[str, Any]) -> dict[str, Any]:
    """Return all numbers as JSON has them.

    ``rows`` have the fields of :class:`~hpcblaz.fields.timing.Row`, and ``met``: whether the target is met, or None.
    """
    return {
        "machine": head,
        "settings": {
            "quick": settings.quick,
            "threads": settings.threads,
            "side": settings.side,
            "repeats": [settings.repeats, settings.many],
        },
        "absent": report.absent,
        "rows": [asdict(row) | {"met": row.met} for row in report.rows],
    }


def _read(path: Path) -> dict[tuple[str, ...], float]:
    """Return the ratios of an earlier run."""
    try:
        with storage_errors("read", path):
            rows = json.loads(path.read_text())["rows"]
        return {(r["topic"], r["case"], r["quantity"], r["peer"]): float(r["ratio"]) for r in rows}
    except (ValueError, KeyError, TypeError) as error:
        raise FileFormatError(f"expected what 'hpcblaz bench --json' writes in {path}, got {error!r}") from error


def changes(rows: Sequence[Row], old: dict[tuple[str, ...], float]) -> list[str]:
    """Return how every ratio changed, as lines of text."""
    cells = []
    for row in rows:
        before = old.get(row.key)
        if before is None or before <= 0:
            change = "new"
        else:
            factor = row.ratio / before if row.better == "higher" else before / row.ratio
            change = f"{before:.3g} -> {row.ratio:.3g}"
            change += "" if 0.995 < factor < 1.005 else f"  {'better' if factor > 1 else 'WORSE'} by {_percent(factor)}"
        cells.append([row.case, row.quantity, f"to {row.peer}", change])
    gone = len(set(old) - {row.key for row in rows})
    return ["CHANGES", *_aligned(cells), *([f"{gone} rows of the earlier run are not in this one"] if gone else [])]


def _percent(factor: float) -> str:
    return f"{100 * (max(factor, 1 / factor) - 1):.1f} %"


def table(report: Report, settings: Settings) -> list[str]:
    """Return the rows by topic, as lines of text, with what falls short and what is absent at the end."""
    where = f"{settings.threads} threads for operations and NumPy, one for compression"
    if report.rows and all(row.topic in gpu_benchmark.TOPICS for row in report.rows):
        where = "one GPU"
    lines = [f"Fields, {'QUICK TRIAL, ' if settings.quick else ''}{where}. "
             "x: ours over theirs; for operations: how many times faster."]  # fmt: skip
    for topic in dict.fromkeys(row.topic for row in report.rows):
        rows = [row for row in report.rows if row.topic == topic]
        lines += ["", topic.upper(), *(_bound_table(rows) if topic == BOUND else _peer_table(rows))]
    judged = [row for row in report.rows if row.met is not None]
    short = [row for row in judged if not row.met]
    lines += ["", f"{len(judged) - len(short)} of {len(judged)} targets met."]
    if short:
        lines += ["Short of the target:"]
        lines += _aligned([[f"  {r.case}", r.quantity, f"x{r.ratio:.3g}", f"wanted {_wish(r)}", r.peer] for r in short])
    lines += [f"Left out: {text}" for text in report.absent]
    return lines


def _wish(row: Row) -> str:
    return f"{'<=' if row.better == 'lower' else '>='} {row.target:g}" + (f", aim {row.aim:g}" if row.aim else "")


def _peer_table(rows: Sequence[Row]) -> list[str]:
    """One line for a case and quantity, with the peers side by side."""
    names = list(dict.fromkeys(row.peer for row in rows))
    cells = []
    for case, quantity in dict.fromkeys((row.case, row.quantity) for row in rows):
        found = {row.peer: row for row in rows if (row.case, row.quantity) == (case, quantity)}
        first = next(iter(found.values()))
        cells.append([case, quantity, f"{first.ours:.4g} {first.unit}"])
        for name in names:
            row = found.get(name)
            cells[-1].append(f"{name} {row.theirs:.4g}" if row else "")
            cells[-1].append(f"x{row.ratio:.3g}{_mark(row)}" if row else "")
        cells[-1].append(first.note)
    return _aligned(cells)


def _mark(row: Row) -> str:
    return {None: "", True: " ok", False: " SHORT"}[row.met]


def _bound_table(rows: Sequence[Row]) -> list[str]:
    """One line for an operation, with the fields side by side: bound over actual error."""
    cases = list(dict.fromkeys(row.case for row in rows))
    cells = [["bound / actual error", *cases]]
    for quantity in dict.fromkeys(row.quantity for row in rows):
        found = {row.case: row for row in rows if row.quantity == quantity}
        cells.append([quantity, *(_tightness(found[c]) if c in found else "" for c in cases)])
    return _aligned(cells)


def _tightness(row: Row) -> str:
    return "exact" if row.ratio > _EXACT else f"{row.ratio:.3g}{_mark(row)}"


def _aligned(cells: Iterable[Sequence[str]]) -> list[str]:
    table = [list(row) for row in cells]
    if not table:
        return []
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in table]


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw bits a value against the tolerance for every field, and the speeds of compression.

    Parameters
    ----------
    rows : sequence of Row
    path : Path
        The picture; its suffix says the format.

    Raises
    ------
    MissingDependencyError
        If matplotlib is not installed.
    """
    curves = _curves(rows)
    with picture(path, max(9.0, 3.0 * len(curves)), 6.6, "--plot") as figure:
        _draw_figure(figure, curves, rows)


def _draw_figure(figure: Any, curves: dict[str, Any], rows: Sequence[Row]) -> None:
    columns = 2 * max(1, len(curves))
    grid = figure.add_gridspec(2, columns, height_ratios=(1, 1.1))
    top = None
    most = 1.08 * max((y for lines in curves.values() for points in lines.values() for _, y in points), default=1.0)
    for i, (name, lines) in enumerate(curves.items()):
        axes = figure.add_subplot(grid[0, 2 * i : 2 * i + 2], sharey=top)
        for codec, points in lines.items():
            axes.semilogx(*zip(*sorted(points), strict=True), "o-", color=COLORS[codec], label=codec, markersize=4)
        axes.set_title(name, fontsize=10)
        axes.set_xlabel("tolerance / range")
        axes.invert_xaxis()
        axes.grid(alpha=0.3)
        if top is None:
            top = axes
            axes.set_ylabel("bits a value")
            axes.legend(frameon=False)
        axes.set_ylim(0, most)
    for i, quantity in enumerate(("compress", "decompress")):
        axes = figure.add_subplot(grid[1, i * columns // 2 : (i + 1) * columns // 2])
        _draw_bars(axes, [row for row in rows if row.topic == SPEED and row.quantity == quantity])
        axes.set_title(f"{quantity}, one thread", fontsize=10)
        axes.set_ylabel("GB/s of uncompressed values")


def _curves(rows: Sequence[Row]) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """Return for every field and codec the points (tolerance over range, bits a value)."""
    curves: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for row in rows:
        name, comma, relative = row.case.rpartition(", ")
        if row.topic == SIZE and comma:
            lines = curves.setdefault(name, {})
            ours = (float(relative), row.ours)
            if ours not in lines.setdefault("hpcblaz", []):
                lines["hpcblaz"].append(ours)
            if row.peer in COLORS:
                lines.setdefault(row.peer, []).append((float(relative), row.theirs))
    return curves


def _draw_bars(axes: Any, rows: Sequence[Row]) -> None:
    cases = list(dict.fromkeys(row.case for row in rows))
    names = ["hpcblaz", *dict.fromkeys(row.peer for row in rows if row.peer in COLORS)]
    width = 0.8 / len(names)
    for i, case in enumerate(cases):
        speeds = {"hpcblaz": next(row.ours for row in rows if row.case == case)}
        speeds |= {row.peer: row.theirs for row in rows if row.case == case and row.peer in names}
        for k, (name, speed) in enumerate(speeds.items()):
            bar = axes.bar(i + (k - (len(speeds) - 1) / 2) * width, speed, width, color=COLORS[name])
            axes.bar_label(bar, fmt="%.2g", fontsize=8)
    axes.set_xticks(range(len(cases)), [case.replace(", ", "\n") for case in cases], fontsize=9)
    axes.margins(y=0.12)
