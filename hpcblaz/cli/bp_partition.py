"""``hpcblaz bp partition``: how well a model can be dealt out to ranks."""

import argparse
import time
from typing import Any

from hpcblaz.bp.partition import METHODS, partition, report_partition
from hpcblaz.bp.readers import read_model
from hpcblaz.cli.bp_describe import show
from hpcblaz.cli.console import Console
from hpcblaz.mpi import world


def register(actions: Any) -> None:
    """Add the action."""
    parser = actions.add_parser(
        "partition",
        help="say how well a model can be dealt out to ranks",
        description="Deal out a model, and say how many messages ranks would tell each other.",
    )
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--parts", type=int, required=True, metavar="N", help="number of ranks")
    parser.add_argument("--method", choices=METHODS, default="auto", help="default: auto")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    console = Console(world())
    found: dict[str, Any] = {}
    with console.comm.together():
        if console.comm.rank == 0:
            model = read_model(arguments.model)
            begin = time.perf_counter()
            owners = partition(model, arguments.parts, arguments.method)
            seconds = time.perf_counter() - begin
            report = report_partition(model, owners, arguments.parts)
            found = {
                "model": arguments.model,
                "parts": report.parts,
                "edges": report.edges,
                "cut": report.cut,
                "cut_share": report.cut / report.edges if report.edges else 0.0,
                "balance": report.balance,
                "messages": list(report.messages),
                "halo": list(report.halo),
                "neighbours": list(report.neighbours),
                "seconds": seconds,
            }
    show(console, arguments, found)
    return 0
