"""``hpcblaz bp bench``: messages a second, and how many models converge how soon, schedule by schedule."""

import argparse
import sys
from pathlib import Path
from typing import Any

from hpcblaz.backend.threads import thread_count
from hpcblaz.bp.benchmark import Settings, run
from hpcblaz.cli import bp_bench_gpu
from hpcblaz.cli.bench import machine
from hpcblaz.cli.console import Console
from hpcblaz.errors import ConfigurationError, StorageError
from hpcblaz.mpi import world


def register(actions: Any) -> None:
    """Add the action."""
    parser = actions.add_parser(
        "bench",
        help="measure the schedules",
        description="Measure messages a second, and how many models converge how soon, schedule by schedule.",
    )
    parser.add_argument("--quick", action="store_true", help="small models and few of them: a trial in seconds")
    parser.add_argument("--gpu", action="store_true", help="only measure messages a second, on a GPU")
    parser.add_argument("--threads", type=int, metavar="N", help="default: 2, or what there is")
    parser.add_argument(
        "--time-limit", type=float, default=3.0, metavar="S", help="seconds a model may take; default: 3"
    )
    parser.add_argument("--baseline", type=Path, metavar="FILE.cpp", help="also compile and measure this program")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    console = Console(world())
    if console.comm.size != 1:
        raise ConfigurationError(f"expected one process, got {console.comm.size} ranks: run bench without mpirun")
    if arguments.gpu:
        return bp_bench_gpu.measure(console, arguments.quick, bool(arguments.json))
    if not arguments.time_limit > 0:
        raise ConfigurationError(f"expected --time-limit to be positive, got {arguments.time_limit}")
    if arguments.baseline is not None and not arguments.baseline.is_file():
        raise StorageError(f"expected a file of C++ for --baseline, got {arguments.baseline}: it is not there")
    threads = min(2, thread_count()) if arguments.threads is None else arguments.threads
    settings = Settings(
        quick=arguments.quick,
        threads=threads,
        time_limit=arguments.time_limit,
        baseline=arguments.baseline,
        say=lambda text: print(f"... {text}", file=sys.stderr),
    )
    head = machine() | {"threads": threads}
    found = run(settings)
    if arguments.json:
        console.data({"machine": head} | found)
        return 0
    console.table(
        [
            ["model", "schedule", "precision", "million messages a second"],
            *(
                [r["model"], r["schedule"], r["precision"], f"{r['messages_per_second'] / 1e6:.0f}"]
                for r in found["rates"]
            ),
        ]
    )
    console.line()
    console.table(
        [
            ["models", "schedule", "converged", "median ms", "of these, messages", "iterations"],
            *(
                [
                    case["models"],
                    case["who"],
                    f"{case['converged']}/{case['of']}",
                    _milliseconds(case["seconds"]),
                    _milliseconds(case["propagation_seconds"]),
                    "" if case["iterations"] is None else f"{case['iterations']:.1f}",
                ]
                for case in found["cases"]
            ),
        ]
    )
    console.line()
    console.line(f"{head['cpu']}, {head['cores']} cores, {threads} threads, load {head['load']} at the start")
    return 0


def _milliseconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{1e3 * seconds:.3g}"
