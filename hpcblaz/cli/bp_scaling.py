"""``hpcblaz bp scaling``: rounds of messages on more and more ranks, and a prediction for many."""

import argparse
import sys
from typing import Any

from hpcblaz.bp.scaling_benchmark import Model, fit, grid_for, measure
from hpcblaz.cli.bench import machine
from hpcblaz.cli.console import Console, integers
from hpcblaz.errors import ConfigurationError
from hpcblaz.mpi import world
from hpcblaz.mpi.spawn import find_mpirun

_SIDE, _QUICK_SIDE = 1000, 60
_PREDICTED = (1, 4, 16, 64, 256, 1024)
_LARGE = (10_000, 10_000)


def register(actions: Any) -> None:
    """Add the action."""
    parser = actions.add_parser(
        "scaling",
        help="measure inference on more and more ranks",
        description="Measure rounds of messages of an Ising grid on more and more ranks of one thread, with the same "
        "grid for all (strong) and the same for each (weak), fit a model, and predict 1,024 ranks.",
    )
    parser.add_argument("--ranks", type=integers, default=(1, 2, 4), metavar="N,N", help="default: 1,2,4")
    parser.add_argument("--side", type=int, metavar="N", help=f"of the grid; default: {_SIDE}")
    parser.add_argument("--schedule", choices=("lbp", "rnbp", "sweep"), default="lbp", help="default: lbp")
    parser.add_argument("--quick", action="store_true", help="a small grid: a trial in seconds")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    console = Console(world())
    if console.comm.size != 1:
        raise ConfigurationError(f"expected one process, got {console.comm.size} ranks: run scaling without mpirun")
    counts = sorted({1, *arguments.ranks})
    if counts[0] < 1:
        raise ConfigurationError(f"expected numbers of ranks of at least 1, got {counts[0]}")
    side = arguments.side or (_QUICK_SIDE if arguments.quick else _SIDE)
    if side < 2 * counts[-1]:
        raise ConfigurationError(f"--side: expected at least {2 * counts[-1]}, got {side}")
    find_mpirun()
    rounds, repeats = (5, 2) if arguments.quick else (30, 5)
    head = machine()
    strong, weak = [], []
    for ranks in counts:
        print(f"... {ranks} ranks", file=sys.stderr)
        strong.append(measure(ranks, grid_for(side, ranks, False), arguments.schedule, rounds, repeats))
        weak.append(strong[0] if ranks == 1 else measure(
            ranks, grid_for(side, ranks, True), arguments.schedule, rounds, repeats))  # fmt: skip
    model = fit([*strong, *weak[1:]], head["cores"])
    predicted = [{"ranks": ranks, "seconds": model.seconds(_LARGE, ranks)} for ranks in _PREDICTED]
    if arguments.json:
        console.data(
            {
                "machine": head,
                "schedule": arguments.schedule,
                "rounds": rounds,
                "strong": strong,
                "weak": weak,
                "model": vars(model),
                "predicted_size": list(_LARGE),
                "predicted": predicted,
            }
        )
        return 0
    _print(console, strong, weak, model, head)
    return 0


def _print(console: Console, strong: Any, weak: Any, model: Model, head: dict[str, Any]) -> None:
    for title, runs in (("Strong scaling: one grid", strong), ("Weak scaling: as large a grid on each rank", weak)):
        console.line(f"{title}, one thread a rank.")
        first = runs[0]
        rows = [["ranks", "grid", "round, ms", "M updates/s", "speed", "in MPI", "bytes sent", "bytes a message"]]
        for one in runs:
            speed = one["updates_per_second"] / first["updates_per_second"]
            rows.append(
                [
                    *(str(one["ranks"]), " x ".join(map(str, one["size"])), f"{1e3 * one['seconds']:.3g}"),
                    *(f"{one['updates_per_second'] / 1e6:.1f}", f"{speed:.2f}", f"{one['in_mpi']:.0%}"),
                    *(f"{one['bytes_sent']:.0f}", f"{one['bytes_per_message']:.1f}"),
                ]
            )
        console.table(rows)
        console.line()
    console.line(
        f"Fitted: {1e9 * model.computation:.3g} ns a message, {1e6 * model.latency:.3g} us a wait, "
        f"{1e9 * model.transfer:.3g} ns a byte."
    )
    alone = model.seconds(_LARGE, 1)
    rows = [["ranks", "round, ms", "speed", "efficiency"]]
    for ranks in _PREDICTED:
        taken = model.seconds(_LARGE, ranks)
        rows.append([str(ranks), f"{1e3 * taken:.3g}", f"{alone / taken:.1f}", f"{alone / taken / ranks:.0%}"])
    console.line(f"Predicted for a grid of {_LARGE[0]} x {_LARGE[1]}, where each rank has a core:")
    console.table(rows)
    console.line()
    console.line(f"{head['cpu']}, {head['cores']} cores, load {head['load']} at the start.")
    crowded = [one["ranks"] for one in strong if one["ranks"] > head["cores"]]
    if crowded:
        console.line(f"{', '.join(map(str, crowded))} ranks shared {head['cores']} cores: they are not in the fit.")
