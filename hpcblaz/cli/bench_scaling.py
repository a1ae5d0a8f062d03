"""``hpcblaz bench scaling``: compression and statistics on more and more ranks, each with the same number of cells."""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hpcblaz.cli.console import Console
from hpcblaz.errors import ConfigurationError
from hpcblaz.fields import scaling_benchmark
from hpcblaz.fields.pictures import picture, require_matplotlib
from hpcblaz.fields.scaling_benchmark import CHECKED, EQUAL, difference
from hpcblaz.mpi.atomic import storage_errors
from hpcblaz.mpi.spawn import find_mpirun

OPTIONS = ("ranks", "plot")  # beside --json and --quick
_SIDE, _QUICK_SIDE = 128, 32
_COLORS = ("#0b6e99", "#c8c8c8")  # computing; in MPI

Run = dict[str, Any]


def run(arguments: argparse.Namespace, console: Console, head: dict[str, Any]) -> int:
    """Measure on every number of ranks, print the tables, and write what was asked for.

    Returns
    -------
    int
        0, also if answers differ: the tables say so.

    Raises
    ------
    ConfigurationError
        If numbers of ranks make no sense, or an option is for something else.
    CommunicatorError
        If ranks cannot be started.
    MissingDependencyError, StorageError
        If a picture cannot be drawn, or a file cannot be written.
    """
    counts = sorted(set((1, *(arguments.ranks or (1, 2, 4)))))
    if counts[0] < 1:
        raise ConfigurationError(f"expected numbers of ranks of at least 1, got {counts[0]}")
    find_mpirun()
    if arguments.plot is not None:
        require_matplotlib("--plot")
    side, repeats = (_QUICK_SIDE, 2) if arguments.quick else (_SIDE, 7)
    begin = time.perf_counter()
    runs = []
    for ranks in counts:
        print(f"... {ranks} ranks", file=sys.stderr)
        runs.append(scaling_benchmark.run(ranks, side, repeats))
    settings = {"quick": arguments.quick, "side": side, "repeats": repeats, "threads": 1, "cores": head["cores"]}
    _print(console, runs, settings)
    console.line()
    console.line(
        f"{head['cpu']}, {head['cores']} cores, load {head['load']} at the start; measured in "
        f"{time.perf_counter() - begin:.0f} s"
    )
    if arguments.json is not None:
        document = {"machine": head, "settings": settings, "runs": runs, "differences": differences(runs)}
        with storage_errors("write", arguments.json):
            arguments.json.write_text(json.dumps(document, indent=1) + "\n")
    if arguments.plot is not None:
        draw(runs, arguments.plot)
    return 0


def differences(runs: Sequence[Run]) -> dict[str, list[float | None]]:
    """Return by operation how far the answers of each run are from those of one rank; None for fields that differ."""
    first = runs[0]["answers"]
    found: dict[str, list[float | None]] = {}
    for name, answer in first.items():
        apart = [difference(one["answers"][name], answer) for one in runs]
        found[name] = [None if value == float("inf") else value for value in apart]
    return found


def _print(console: Console, runs: Sequence[Run], settings: dict[str, Any]) -> None:
    first, more = runs[0], runs[1:]
    trial = "QUICK TRIAL, " if settings["quick"] else ""
    console.line(f"Weak scaling, {trial}{settings['side']}^3 cells of float32 on every rank, one thread a rank.")
    crowded = [one["ranks"] for one in runs if one["ranks"] > settings["cores"]]
    for ranks in crowded:
        best = settings["cores"] / ranks
        console.line(
            f"{ranks} ranks share {settings['cores']} cores: times are at best {1 / best:.2g} times as long, and "
            f"efficiencies at most {best:.0%}. Look at computing, the time of the processor outside MPI."
        )
    console.line()
    console.table([["milliseconds", *(_ranks(one) for one in runs), *(f"eff. {one['ranks']}" for one in more)]] + [
        [name, *(f"{1e3 * one['operations'][name]['seconds']:.2f}" for one in runs),
         *(f"{_efficiency(first, one, name, 'seconds'):.0%}" for one in more)]
        for name in first["operations"]
    ])  # fmt: skip
    console.line()
    console.table([["computing, ms", *(_ranks(one) for one in runs), *(f"eff. {one['ranks']}" for one in more)]] + [
        [name, *(f"{1e3 * one['operations'][name]['computing']:.2f}" for one in runs),
         *(f"{_efficiency(first, one, name, 'computing'):.0%}" for one in more)]
        for name in first["operations"]
    ])  # fmt: skip
    console.line()
    console.line("In MPI: share of the time, waiting for other ranks included. Bytes: sent by all ranks.")
    titles = [f"{what}, {one['ranks']}" for what in ("in MPI", "bytes", "apart") for one in more]
    apart = differences(runs)
    console.table([["ranks", *titles]] + [
        [name, *(f"{one['operations'][name]['in_mpi']:.0%}" for one in more),
         *(f"{one['operations'][name]['bytes_sent']:.0f}" for one in more),
         *(_apart(value) for value in apart[name][1:])]
        for name in first["operations"]
    ])  # fmt: skip
    console.line()
    shape = " x ".join(map(str, CHECKED))
    wrong = [name for name, values in apart.items() if any(value is None or value > EQUAL for value in values)]
    console.line(
        f"Answers are compared with those of one rank on one field of {shape} cells, the same for any number of ranks: "
        + (f"MORE THAN {EQUAL:g} APART are {', '.join(wrong)}." if wrong else f"all within a relative {EQUAL:g}.")
    )


def _ranks(one: Run) -> str:
    return f"{one['ranks']} rank{'s' if one['ranks'] > 1 else ''}"


def _efficiency(first: Run, one: Run, name: str, key: str) -> float:
    taken = float(one["operations"][name][key])
    return float(first["operations"][name][key]) / taken if taken else 1.0


def _apart(value: float | None) -> str:
    if value is None:
        return "OTHER BITS"
    return "none" if value == 0 else f"{value:.1e}"


def draw(runs: Sequence[Run], path: Path) -> None:
    """Draw the time of each operation against the number of ranks, computing and in MPI.

    Parameters
    ----------
    runs : sequence of dict
        As :func:`hpcblaz.fields.scaling_benchmark.run` returns them.
    path : pathlib.Path
        The picture; its suffix says the format.
    """
    names = list(runs[0]["operations"])
    columns = 5
    rows = -(-len(names) // columns)
    with picture(path, 8.5, 1.9 * rows, "--plot") as figure:
        grid = figure.subplots(rows, columns, squeeze=False).reshape(-1)
        for axes in grid[len(names) :]:
            axes.set_visible(False)
        for axes, name in zip(grid, names, strict=False):
            places = range(len(runs))
            times = [1e3 * one["operations"][name]["seconds"] for one in runs]
            shares = [one["operations"][name]["in_mpi"] for one in runs]
            computing = [t * (1 - share) for t, share in zip(times, shares, strict=True)]
            axes.bar(places, computing, color=_COLORS[0], label="computing")
            waiting = [t * share for t, share in zip(times, shares, strict=True)]
            axes.bar(places, waiting, bottom=computing, color=_COLORS[1], label="in MPI, waiting included")
            axes.set_xticks(places, [str(one["ranks"]) for one in runs])
            axes.set_title(name, fontsize=8)
        grid[0].set_ylabel("milliseconds")
        grid[len(names) - 1].set_xlabel("ranks")
        figure.legend(*grid[0].get_legend_handles_labels(), loc="lower right")
