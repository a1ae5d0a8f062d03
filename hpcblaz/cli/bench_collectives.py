"""``hpcblaz bench collectives``: allreduce over links of a limited bandwidth, beside MPI's own on float32."""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from hpcblaz.cli.console import Console
from hpcblaz.errors import CommunicatorError, ConfigurationError
from hpcblaz.fields.pictures import picture, require_matplotlib
from hpcblaz.fields.sample_fields import turbulence
from hpcblaz.mpi.atomic import storage_errors
from hpcblaz.mpi.network import OVER_THE_NETWORK, hosts
from hpcblaz.mpi.scaling_model import Measurement, Model, fit
from hpcblaz.mpi.spawn import find_mpirun, run_ranks

OPTIONS = ("plot",)  # beside --json and --quick
RELATIVE = 1e-3  # of the range of the sum
TARGET = 3.0  # times as fast as MPI_Allreduce: 64 MiB, 2 ranks, 1 Gb/s
_PREDICTED = tuple(2**power for power in range(1, 13))
_MODEL_SIZE = 64  # MiB, of the predictions
_LINKS = (1.0, 10.0)
_COLORS = {"MPI": "#7a7a7a", "noise": "#d9822b", "layers": "#8c3b4a", "field": "#0b6e99"}

Row = dict[str, Any]


def run(arguments: argparse.Namespace, console: Console, head: dict[str, Any]) -> int:
    """Measure, fit the model, print both, and write what was asked for.

    Returns
    -------
    int
        0, whether the target is met or not.

    Raises
    ------
    CommunicatorError
        If ranks cannot be started, or fail.
    MissingDependencyError, StorageError
        If a picture cannot be drawn, or a file cannot be written.
    """
    begin = time.perf_counter()
    find_mpirun()
    if arguments.plot is not None:
        require_matplotlib("--plot")
    quick = arguments.quick
    sizes = [1, 4] if quick else [1 / 16, 1, 16, 64, 256]
    counts = [2] if quick else [2, 3, 4]
    rows: list[Row] = []
    remarks: list[str] = []
    with TemporaryDirectory(prefix="hpcblaz-bench-") as folder:
        data = _write_data(Path(folder), max(sizes))
        for gigabits in _LINKS:
            for ranks in counts:
                rows += _measure(data, sizes, ranks, gigabits, 2 if quick else 3, remarks)
    model, off, crowded = None, 0.0, 0.0
    if any(row["gigabits"] for row in rows):
        model, off, crowded = fit([_measurement(row, head["cores"], ours) for row in rows for ours in (False, True)])
    predicted = [] if model is None else _predictions(model, rows)
    parameters = None
    if model is not None:
        parameters = asdict(model) | {"off_by": off, "off_by_where_cores_are_shared": crowded}
    document = {
        "machine": head,
        "relative": RELATIVE,
        "remarks": remarks,
        "rows": rows,
        "model": parameters,
        "predictions": predicted,
    }
    _report(console, rows, model, (off, crowded), predicted, remarks)
    console.line(f"{head['cpu']}, {head['cores']} cores; measured in {time.perf_counter() - begin:.0f} s")
    if arguments.json is not None:
        with storage_errors("write", arguments.json):
            arguments.json.write_text(json.dumps(document, indent=1) + "\n")
    if arguments.plot is not None:
        draw(document, arguments.plot)
    return 0


def _write_data(folder: Path, mebibytes: float) -> dict[str, str]:
    """Write arrays of float32 to files: the hardest to compress, what networks have, and what simulations have."""
    count = int(mebibytes * 2**18)
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(count, dtype=np.float32)
    bounds = np.sort(rng.integers(0, count, 40))
    layers = noise.copy()
    for part in np.split(layers, bounds):  # gradients of layers differ by orders of magnitude
        part *= np.float32(10.0 ** rng.uniform(-2, 0))
    side = 256 if count >= 256**3 else 64
    cube = turbulence(side)
    field = np.concatenate([cube.reshape(-1)] * -(-count // cube.size))[:count]
    arrays = {"noise": noise, "layers": layers, "field": field.reshape(-1, side, side)}
    paths = {}
    for name, array in arrays.items():
        paths[name] = str(folder / f"{name}.npy")
        np.save(paths[name], array)
    return paths


def _measure(
    data: dict[str, str], sizes: Sequence[float], ranks: int, gigabits: float, repeats: int, remarks: list[str]
) -> list[Row]:
    """Return the rows of one number of ranks over one kind of link, or over shared memory where none can be made."""
    settings = {"data": data, "mebibytes": list(sizes), "relative": RELATIVE, "repeats": repeats}
    print(f"... {ranks} ranks, {gigabits:g} Gb/s", file=sys.stderr)
    with _network(ranks, gigabits, remarks) as prefixes:
        if not prefixes and gigabits != _LINKS[0]:
            return []  # shared memory once
        done = run_ranks(
            ["-m", "hpcblaz.mpi.collective_benchmark", json.dumps(settings)],
            ranks,
            timeout=1800,
            prefixes=prefixes,
            environment=OVER_THE_NETWORK if prefixes else {},
        )
    if done.status != 0:
        raise CommunicatorError(
            f"expected {ranks} ranks to measure, got exit status {done.status}: {done.errors[-2000:]}"
        )
    return [row | {"gigabits": gigabits if prefixes else None} for row in json.loads(done.output)]


@contextmanager
def _network(ranks: int, gigabits: float, remarks: list[str]) -> Iterator[list[tuple[str, ...]]]:
    """Give what each rank has to be started with; nothing where this machine permits no namespaces."""
    with ExitStack() as stack:
        try:
            prefixes = [host.prefix for host in stack.enter_context(hosts(ranks, gigabits))]
        except ConfigurationError as error:
            prefixes = []
            remark = f"{error}. Measured over shared memory instead"
            if remark not in remarks:
                remarks.append(remark)
        yield prefixes


def _measurement(row: Row, cores: int, ours: bool) -> Measurement:
    return Measurement(
        row["ranks"], row["values"], row["gigabits"], row["bits"] if ours else None, cores,
        row["seconds"] if ours else row["mpi_seconds"],
    )  # fmt: skip


def _predictions(model: Model, rows: Sequence[Row]) -> list[Row]:
    """Return what the model says of 2 to 4,096 ranks, one a core, with the bits that a value took on two."""
    values = _MODEL_SIZE * 2**18
    found = []
    for kind in dict.fromkeys(row["data"] for row in rows):
        bits = [row["bits"] for row in rows if row["data"] == kind and row["ranks"] == 2]
        for gigabits in _LINKS:
            for ranks in _PREDICTED:
                # Each doubling of the ranks halves the share of the tolerance that a rank has; the range of a sum of
                # independent values grows by the root of two
                wide = bits[-1] + 0.5 * np.log2(ranks / 2)
                plain = model.seconds(ranks, values, gigabits, None)
                ours = model.seconds(ranks, values, gigabits, float(wide))
                found.append(
                    {"data": kind, "gigabits": gigabits, "ranks": ranks, "mpi_seconds": plain, "seconds": ours,
                     "speedup": plain / ours}
                )  # fmt: skip
    return found


def _report(
    console: Console, rows: Sequence[Row], model: Model | None, off: tuple[float, float], predicted: Sequence[Row],
    remarks: Sequence[str],
) -> None:  # fmt: skip
    console.line(
        f"Allreduce of float32, error at most {RELATIVE:g} of the range of the sum; MPI_Allreduce in the same run."
    )
    titles = [
        "data",
        "MiB",
        "ranks",
        "link",
        "MPI",
        "ours",
        "faster",
        "bits",
        "sent a rank",
        "MPI sends",
        "error/bound",
    ]
    table = [titles]
    for row in rows:
        link = "memory" if row["gigabits"] is None else f"{row['gigabits']:g} Gb/s"
        table.append(
            [row["data"], f"{row['mebibytes']:g}", f"{row['ranks']}", link, f"{1e3 * row['mpi_seconds']:.1f} ms",
             f"{1e3 * row['seconds']:.1f} ms", f"x{row['speedup']:.2f}", f"{row['bits']:.2f}",
             f"{row['bytes_sent'] / 2**20:.2f} MiB", f"{row['mpi_bytes_sent'] / 2**20:.1f} MiB",
             f"{row['error'] / row['bound']:.2f}"]
        )  # fmt: skip
    console.table(table)
    broken = [row for row in rows if not row["error"] <= row["bound"] * (1 + 1e-6) or row["bound"] > row["tolerance"]]
    console.line(
        f"{len(rows) - len(broken)} of {len(rows)} errors within their bounds, and these within the tolerance."
    )
    for row in rows:
        if (row["mebibytes"], row["ranks"], row["gigabits"]) == (64, 2, 1.0):
            verdict = "ok" if row["speedup"] >= TARGET else "SHORT"
            console.line(
                f"64 MiB, 2 ranks, 1 Gb/s, {row['data']}: x{row['speedup']:.2f}, wanted x{TARGET:g}: {verdict}"
            )
    if model is not None:
        console.line()
        console.line(
            f"Model, typically off by {100 * (off[0] - 1):.0f} %, and by {100 * (off[1] - 1):.0f} % where ranks share "
            f"cores: latency {1e6 * model.latency:.0f} us a message "
            f"(compressed {1e6 * model.compressed_latency:.0f}), {100 * model.share:.0f} % of the link, "
            f"{1e9 * model.addition:.2f} ns to add a value, {1e9 * model.computation:.2f} ns to compress and add it"
        )
        console.line(f"Predictions, {_MODEL_SIZE} MiB, one rank a core:")
        wanted = [row for row in predicted if row["ranks"] in (8, 64, 512, 4096)]
        console.table(
            [["data", "link", "ranks", "MPI", "ours", "faster"]]
            + [
                [row["data"], f"{row['gigabits']:g} Gb/s", f"{row['ranks']}", f"{1e3 * row['mpi_seconds']:.0f} ms",
                 f"{1e3 * row['seconds']:.0f} ms", f"x{row['speedup']:.2f}"]
                for row in wanted
            ]
        )  # fmt: skip
    for remark in remarks:
        console.line(f"Left out: {remark}")


def draw(document: dict[str, Any], path: Path) -> None:
    """Draw the times of the largest size that was measured and predicted, against the number of ranks."""
    with picture(path, 8.0, 3.6, "--plot") as figure:
        for number, gigabits in enumerate(_LINKS):
            axes = figure.add_subplot(1, len(_LINKS), 1 + number)
            for kind in ("MPI", "noise", "layers", "field"):
                key, chosen = ("mpi_seconds", "noise") if kind == "MPI" else ("seconds", kind)
                lines = [
                    [row for row in document[part] if row["data"] == chosen and row["gigabits"] == gigabits]
                    for part in ("predictions", "rows")
                ]
                points = [row for row in lines[1] if row["mebibytes"] == _MODEL_SIZE]
                color = _COLORS[kind]
                axes.loglog([r["ranks"] for r in lines[0]], [r[key] for r in lines[0]], color=color, label=kind)
                axes.loglog([r["ranks"] for r in points], [r[key] for r in points], "o", color=color)
            axes.set_title(f"{gigabits:g} Gb/s")
            axes.set_xlabel("ranks")
            axes.set_ylabel(f"seconds, {_MODEL_SIZE} MiB")
            axes.grid(alpha=0.3)
            if number == 0:
                axes.legend()
