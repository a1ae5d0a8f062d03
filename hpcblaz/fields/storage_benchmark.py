"""Times, bytes read and bytes decoded of files and stores that several ranks write and read, beside raw Zarr.

``python -m hpcblaz.fields.storage_benchmark`` is what the ranks of a measurement run; :func:`run` starts them.
"""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcblaz.errors import CommunicatorError
from hpcblaz.fields.boxes import Box, chunks_sharing
from hpcblaz.fields.compress import compress
from hpcblaz.fields.read_counts import ReadCounts, counting_reads
from hpcblaz.fields.sample_fields import sines
from hpcblaz.fields.saving import save
from hpcblaz.fields.storage import load
from hpcblaz.fields.storage import open as open_compressed
from hpcblaz.fields.zarr_store import chunk_name, chunk_shape_for, zarr_module
from hpcblaz.mpi import Communicator, Layout, world
from hpcblaz.mpi.spawn import run_ranks

STORE, FILE, RAW = "hpcblaz .zarr", "hpcblaz .hbz", "raw float32 zarr, zstd"
READERS = (1, 2, 3)
_NAMES = {STORE: "ours.zarr", FILE: "ours.hbz", RAW: "raw.zarr"}
_RELATIVE = 1e-3
_TIMEOUT = 1800  # seconds that the ranks of one measurement may take


@dataclass
class Settings:
    """How storage is measured.

    Parameters
    ----------
    side : int
        Cells along each of three axes.
    repeats : int
        Turns; the median of their times counts.
    ranks : int
        That write.
    say : callable
        Told what is going on.
    """

    side: int = 256
    repeats: int = 5
    ranks: int = 4
    say: Callable[[str], None] = field(default=lambda text: None, repr=False)


@dataclass(frozen=True)
class Written:
    """What writing took: seconds of the slowest rank, `compress` of them to compress, and bytes on the disk."""

    what: str
    ranks: int
    seconds: float
    compress: float
    stored_bytes: int


@dataclass(frozen=True)
class Read:
    """What reading took; lists have a number for each rank.

    ``seconds`` are from the call to an array that can be computed on, ``values`` to float32 values in memory.
    """

    what: str
    ranks: int
    seconds: float
    values: float
    bytes_read: list[int]
    bytes_decoded: list[int]


def run(settings: Settings) -> tuple[list[Written], list[Read]]:
    """Measure, with ranks of its own on this machine.

    Raises
    ------
    CommunicatorError
        If there is no mpirun, or the ranks fail.
    MissingDependencyError
        If Zarr is not installed.
    """
    zarr_module()
    with TemporaryDirectory(prefix="hpcblaz-bench-") as folder:
        settings.say(f"{settings.ranks} ranks write")
        written = [Written(**row) for row in _start("write", settings.ranks, settings, folder)]
        read = []
        for ranks in READERS:
            settings.say(f"{ranks} ranks read" if ranks > 1 else "1 rank reads")
            read += [Read(**row) for row in _start("read", ranks, settings, folder)]
    return written, read


def _start(what: str, ranks: int, settings: Settings, folder: str) -> list[dict[str, Any]]:
    """Have ranks measure, and return what the first of them prints."""
    arguments = ["-m", __name__, what, folder, str(settings.side), str(settings.repeats)]
    done = run_ranks(arguments, ranks, timeout=_TIMEOUT)
    if done.status != 0:
        last = " ".join(done.errors.split())[-400:]
        raise CommunicatorError(f"expected {ranks} ranks to {what}, got the exit status {done.status}: {last}")
    rows: list[dict[str, Any]] = json.loads(done.output)
    return rows


def main(arguments: list[str]) -> list[dict[str, Any]]:
    """Measure on this rank; return the rows, the same on every rank."""
    what, folder, side, repeats = arguments[0], Path(arguments[1]), int(arguments[2]), int(arguments[3])
    comm = world()
    measure = _write if what == "write" else _read
    return [asdict(row) for row in measure(comm, folder, side, repeats)]


def _write(comm: Communicator, folder: Path, side: int, repeats: int) -> list[Written]:
    layout = Layout((side,) * 3, comm)
    part = np.ascontiguousarray(layout.local(sines(side)))
    paths = {name: folder / file for name, file in _NAMES.items()}

    def compressed() -> Any:
        return compress(part, relative=_RELATIVE, layout=layout)

    a = compressed()
    calls = {
        "compress": compressed,
        STORE: lambda: save(a, paths[STORE]),
        FILE: lambda: save(a, paths[FILE]),
        RAW: lambda: _write_raw(paths[RAW], part, layout, comm),
    }
    times = _medians(calls, comm, repeats)
    sizes = {name: _bytes_of(path) for name, path in paths.items()}
    added = {name: 0.0 if name == RAW else times["compress"] for name in paths}
    return [Written(name, comm.size, added[name] + times[name], added[name], sizes[name]) for name in paths]


def _write_raw(path: Path, part: NDArray[Any], layout: Layout, comm: Communicator) -> None:
    """Write values as Zarr does by default, each rank its chunks, and bring them to the disk as `save` does."""
    zarr = zarr_module()
    chunk = chunk_shape_for(layout)
    if comm.rank == 0:
        shape = layout.global_shape
        zarr.create_array(str(path), shape=shape, chunks=chunk, dtype=part.dtype, overwrite=True)
    comm.barrier()
    array = zarr.open_array(str(path), mode="r+")
    array[layout.slices] = part
    for index, _ in chunks_sharing(layout.global_shape, chunk, Box.of(layout.slices)):
        with open(path / chunk_name(array, "", index), "rb") as file:
            os.fsync(file.fileno())


def _read(comm: Communicator, folder: Path, side: int, repeats: int) -> list[Read]:
    layout = Layout((side,) * 3, comm)
    raw = zarr_module().open_array(str(folder / _NAMES[RAW]), mode="r")
    where = layout if comm.size > 1 else None
    calls: dict[str, Callable[[], Any]] = {
        STORE: lambda: open_compressed(folder / _NAMES[STORE], layout=where),
        FILE: lambda: load(folder / _NAMES[FILE], where),
        RAW: lambda: zarr_module().open_array(str(folder / _NAMES[RAW]), mode="r")[layout.slices],
    }
    for name in (STORE, FILE):
        calls[f"{name}, values"] = _decompressing(calls[name])
    times = _medians(calls, comm, repeats)
    counts = {}
    for name in (STORE, FILE):
        with counting_reads() as counts[name]:
            calls[name]()
    chunks = list(chunks_sharing(raw.shape, raw.chunks, Box.of(layout.slices)))
    files = [folder / _NAMES[RAW] / chunk_name(raw, "", index) for index, _ in chunks]
    decoded = len(chunks) * int(np.prod(raw.chunks)) * raw.dtype.itemsize
    counts[RAW] = ReadCounts(len(chunks), sum(file.stat().st_size for file in files), decoded)
    rows = []
    for name in _NAMES:
        told = comm.allgather([float(counts[name].bytes_read), float(counts[name].bytes_decoded)]).astype(int).tolist()
        values = times.get(f"{name}, values", times[name])
        rows.append(Read(name, comm.size, times[name], values, [row[0] for row in told], [row[1] for row in told]))
    return rows


def _decompressing(call: Callable[[], Any]) -> Callable[[], Any]:
    return lambda: call().decompress()


def _medians(calls: dict[str, Callable[[], Any]], comm: Communicator, repeats: int) -> dict[str, float]:
    """Return the median time of each call on the slowest rank; calls take turns, after one each that does not count."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            comm.barrier()
            begin = time.perf_counter()
            call()
            taken = float(comm.allgather([time.perf_counter() - begin]).max())
            if turn:
                times[name].append(taken)
    return {name: statistics.median(taken) for name, taken in times.items()}


def _bytes_of(path: Path) -> int:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


if __name__ == "__main__":
    rows = main(sys.argv[1:])
    if world().rank == 0:
        sys.stdout.write(json.dumps(rows) + "\n")
