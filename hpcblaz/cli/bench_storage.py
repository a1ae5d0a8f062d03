"""``hpcblaz bench storage``: files and stores that several ranks write and others read, beside raw Zarr."""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from hpcblaz.cli.console import Console
from hpcblaz.errors import ConfigurationError
from hpcblaz.fields.storage_benchmark import Read, Settings, Written
from hpcblaz.fields.storage_benchmark import run as measure
from hpcblaz.mpi.atomic import storage_errors

OPTIONS = ("ranks",)  # beside --json and --quick
_MEGA = 1e6


def run(arguments: argparse.Namespace, console: Console, head: dict[str, Any]) -> int:
    """Measure, print tables in Markdown, and write the numbers if a file for them is named.

    Parameters
    ----------
    arguments : argparse.Namespace
        Of ``hpcblaz bench``.
    console : Console
    head : dict
        What the numbers depend on.

    Returns
    -------
    int
        0.

    Raises
    ------
    ConfigurationError
        If there is no rank to write, or what cannot be had is asked for.
    CommunicatorError, MissingDependencyError
        If ranks cannot be started or fail, or Zarr is not installed.
    StorageError
        If the file cannot be written.
    """
    ranks = (4,) if arguments.ranks is None else arguments.ranks
    if len(ranks) != 1 or ranks[0] < 1:
        raise ConfigurationError(f"expected one number of ranks that write, at least 1, got {ranks}")
    begin = time.perf_counter()
    side, repeats = (32, 1) if arguments.quick else (256, 5)
    settings = Settings(side, repeats, ranks[0], lambda text: print(f"... {text}", file=sys.stderr))
    written, read = measure(settings)
    head = head | {"load at the end": round(os.getloadavg()[0], 2)}
    for line in [*tables(written, read, settings), "", _where(head, time.perf_counter() - begin)]:
        console.line(line)
    if arguments.json is not None:
        found = {
            "machine": head,
            "settings": {"quick": arguments.quick, "side": side, "repeats": repeats, "ranks": ranks[0]},
            "written": [asdict(row) for row in written],
            "read": [asdict(row) for row in read],
        }
        with storage_errors("write", arguments.json):
            arguments.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


def tables(written: Sequence[Written], read: Sequence[Read], settings: Settings) -> list[str]:
    """Return the numbers as lines of Markdown."""
    size = 4 * settings.side**3
    lines = [
        f"A field of {settings.side}^3 float32, {size / _MEGA:.1f} MB, compressed to 1/1000 of its range; medians of "
        f"{settings.repeats}, of the slowest rank.",
        "",
        "| written | ranks | ms | of these to compress | MB |",
        "|---|---|---|---|---|",
    ]
    for one in written:
        took = f"{1e3 * one.seconds:.0f} | {1e3 * one.compress:.0f}"
        lines.append(f"| {one.what} | {one.ranks} | {took} | {one.stored_bytes / _MEGA:.2f} |")
    lines += [
        "",
        "| read | ranks | ms | ms to values | MB read by each rank | MB decoded by each rank |",
        "|---|---|---|---|---|---|",
    ]
    for row in read:
        counts = " | ".join(_numbers(values) for values in (row.bytes_read, row.bytes_decoded))
        lines.append(f"| {row.what} | {row.ranks} | {1e3 * row.seconds:.0f} | {1e3 * row.values:.0f} | {counts} |")
    return lines


def _numbers(values: Sequence[int]) -> str:
    return ", ".join(f"{value / _MEGA:.2f}" for value in values)


def _where(head: dict[str, Any], seconds: float) -> str:
    loads = f"load {head['load']} at the start, {head['load at the end']} at the end"
    return f"{head['cpu']}, {head['cores']} cores, {loads}; measured in {seconds:.0f} s on {head['date']}"
