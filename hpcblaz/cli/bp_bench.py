"""``hpcblaz bp bench``: messages a second, memory, how many models converge how soon, and how good answers are."""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

from hpcblaz.backend.threads import thread_count
from hpcblaz.bp.benchmark import Settings, run
from hpcblaz.bp.benchmark_pictures import draw_convergence, draw_quality
from hpcblaz.bp.tokens import write_text
from hpcblaz.cli import bp_bench_gpu
from hpcblaz.cli.bench import machine
from hpcblaz.cli.bp_bench_tables import markdown, tables
from hpcblaz.cli.console import Console
from hpcblaz.errors import ConfigurationError, StorageError
from hpcblaz.fields.pictures import require_matplotlib
from hpcblaz.mpi import world

_PRINT = Path("-")


def register(actions: Any) -> None:
    """Add the action."""
    parser = actions.add_parser(
        "bench",
        help="measure the schedules",
        description="Measure messages a second, memory, how many models converge how soon, and how far answers are "
        "from exact ones, schedule by schedule, beside other programs in the same run.",
    )
    parser.add_argument("--quick", action="store_true", help="small models and few of them: a trial in seconds")
    parser.add_argument("--gpu", action="store_true", help="only measure messages a second, on a GPU")
    parser.add_argument("--threads", type=int, metavar="N", help="default: 2, or what there is")
    parser.add_argument(
        "--time-limit", type=float, default=3.0, metavar="S", help="seconds a model may take; default: 3"
    )
    parser.add_argument("--baseline", type=Path, metavar="FILE.cpp", help="also compile and measure this program")
    parser.add_argument(
        "--pgmax", type=Path, metavar="PYTHON", help="also measure PGMax, with a Python that has it and jax < 0.5"
    )
    parser.add_argument("--protein", type=Path, metavar="DIR", help="also measure the pairwise models in this folder")
    parser.add_argument(
        "--uai", type=Path, metavar="DIR", help="also compare answers with the exact ones (.MAR, .PR) in this folder"
    )
    parser.add_argument("--plot", type=Path, metavar="DIR", help="draw bp_schedules.png and bp_quality.png there")
    parser.add_argument("--report", type=Path, metavar="FILE.md", help="write the tables there, as Markdown")
    parser.add_argument(
        "--json", type=Path, nargs="?", const=_PRINT, metavar="FILE", help="write all numbers to FILE, or print them"
    )
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    console = Console(world())
    _check(arguments, console)
    if arguments.gpu:
        _save(console, bp_bench_gpu.measure(console, arguments.quick, arguments.json != _PRINT), arguments.json)
        return 0
    begin = time.perf_counter()
    threads = min(2, thread_count()) if arguments.threads is None else arguments.threads
    settings = Settings(
        quick=arguments.quick,
        threads=threads,
        time_limit=arguments.time_limit,
        baseline=arguments.baseline,
        pgmax=arguments.pgmax,
        protein=arguments.protein,
        uai=arguments.uai,
        say=lambda text: print(f"... {text}", file=sys.stderr),
    )
    head = machine() | {"threads": threads}
    found = run(settings)
    head["seconds"] = time.perf_counter() - begin
    document = {"machine": head, "time_limit": arguments.time_limit} | found
    where = (
        f"{head['cpu']}, {head['cores']} cores, {threads} threads, load {head['load']} at the start; a model may take "
        f"{arguments.time_limit:g} s; measured in {head['seconds']:.0f} s"
    )
    peers = "; ".join(f"{name}: {version}" for name, version in found["peers"].items())
    if arguments.json != _PRINT:
        for title, rows in tables(found):
            console.line(f"{title}:")
            console.line()
            console.table(rows)
            console.line()
        console.line(where + (f"; {peers}" if peers else ""))
    _save(console, document, arguments.json)
    if arguments.report is not None:
        parts = [markdown(title, rows) for title, rows in tables(found)]
        write_text(arguments.report, "\n".join([where + (f"; {peers}" if peers else "") + ".", "", *parts]))
    if arguments.plot is not None:
        draw_convergence(found["cases"], arguments.plot / "bp_schedules.png")
        if any(row["error"] is not None for row in found["quality"]):
            draw_quality(found["quality"], arguments.plot / "bp_quality.png")
    return 0


def _save(console: Console, document: dict[str, Any], path: Path | None) -> None:
    """Print the document, or write it to a file."""
    if path == _PRINT:
        console.data(document)
    elif path is not None:
        write_text(path, json.dumps(document, indent=1) + "\n")


def _check(arguments: argparse.Namespace, console: Console) -> None:
    """Raise what can be known before minutes of work."""
    if console.comm.size != 1:
        raise ConfigurationError(f"expected one process, got {console.comm.size} ranks: run bench without mpirun")
    if not arguments.time_limit > 0:
        raise ConfigurationError(f"expected --time-limit to be positive, got {arguments.time_limit}")
    for name in ("baseline", "pgmax"):
        path = getattr(arguments, name)
        if path is not None and not path.is_file():
            raise StorageError(f"expected a file for --{name}, got {path}: it is not there")
    for name in ("protein", "uai", "plot"):
        path = getattr(arguments, name)
        if path is not None and not path.is_dir():
            raise StorageError(f"expected a folder for --{name}, got {path}: it is not there")
    for path in (arguments.json, arguments.report):
        if path not in (None, _PRINT) and not path.absolute().parent.is_dir():
            raise StorageError(f"expected a folder to write {path} to, got none: make {path.absolute().parent}")
    if arguments.plot is not None:
        require_matplotlib("--plot")
