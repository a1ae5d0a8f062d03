"""What ``hpcblaz bench scaling`` measures: compression and statistics on more ranks, with as many cells on each."""

import hashlib
import json
import math
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcblaz.errors import CommunicatorError
from hpcblaz.fields.array import CompressedArray
from hpcblaz.fields.blockwise import wasserstein_distance
from hpcblaz.fields.compress import compress
from hpcblaz.fields.derivatives import gradient
from hpcblaz.fields.extremes import maximum
from hpcblaz.fields.halo import Neighbourhood, with_halo
from hpcblaz.fields.quantiles import quantile
from hpcblaz.fields.statistics import cosine_similarity, dot, mean, norm, structural_similarity, variance
from hpcblaz.fields.stencils import stencil
from hpcblaz.mpi import Communicator, Layout, world
from hpcblaz.mpi.spawn import run_ranks
from hpcblaz.mpi.timed import TimedCommunicator, Traffic

EQUAL = 1e-12  # relative difference between answers of any numbers of ranks
CHECKED = (70, 61, 53)  # the field whose answers are compared: no multiple of blocks, and not the same on all ranks

_TOLERANCE = 1e-3
_SHORTEST = 0.02  # seconds: what takes less is called several times in a row
_TIMEOUT = 900  # seconds that one number of ranks may take

Call = Callable[[], Any]
Values = NDArray[np.float32]


def run(ranks: int, side: int, repeats: int) -> dict[str, Any]:
    """Measure on so many ranks of this machine, each with one thread.

    Parameters
    ----------
    ranks : int
    side : int
        Each rank has side^3 cells.
    repeats : int
        Of which medians are taken.

    Returns
    -------
    dict
        ``ranks``, ``operations`` (see :func:`measure`) and ``answers`` (see :func:`answers`).

    Raises
    ------
    CommunicatorError
        If there is no mpirun, or the ranks fail.
    """
    with TemporaryDirectory(prefix="hpcblaz-bench-") as folder:
        path = Path(folder) / "found.json"
        code = f"from hpcblaz.fields import scaling_benchmark as s; s._run_rank({side}, {repeats}, {str(path)!r})"
        done = run_ranks(["-c", code], ranks, timeout=_TIMEOUT, environment={"HPCBLAZ_NUM_THREADS": "1"}, merge=True)
        if done.status != 0 or not path.exists():
            state = f"over {_TIMEOUT} s" if done.status is None else f"exit status {done.status}"
            raise CommunicatorError(f"expected {ranks} ranks to run, got {state}: {done.output[-2000:]}")
        found: dict[str, Any] = json.loads(path.read_text())
    return found


def _run_rank(side: int, repeats: int, path: str) -> None:
    comm = world()
    found = {"ranks": comm.size, "operations": measure(comm, side, repeats), "answers": answers(comm)}
    if comm.rank == 0:
        Path(path).write_text(json.dumps(found))


def measure(comm: Communicator, side: int, repeats: int) -> dict[str, dict[str, float]]:
    """Return what each operation costs with side^3 cells on every rank; a collective call.

    Parameters
    ----------
    comm : Communicator
    side, repeats : int

    Returns
    -------
    dict of str to dict
        By operation: ``seconds`` (of the slowest rank), ``computing`` (seconds of the processor outside MPI, of the
        rank with most), ``in_mpi`` (the share of the time of all ranks that is spent in MPI, waiting included), and
        ``bytes_sent`` (by all ranks).
    """
    timed = TimedCommunicator(comm._comm) if comm.size > 1 else comm
    traffic = timed.traffic if isinstance(timed, TimedCommunicator) else Traffic()
    layout = Layout((comm.size * side, side, side), timed, splits=(comm.size, 1, 1))
    calls = operations(_field(layout.slices, 0), _field(layout.slices, 1), layout)
    return {name: _costs(call, comm, traffic, repeats) for name, call in calls.items()}


def _costs(call: Call, comm: Communicator, traffic: Traffic, repeats: int) -> dict[str, float]:
    call()  # compilation and caches
    begin = time.perf_counter()
    call()
    slowest = float(comm.allgather([time.perf_counter() - begin]).max())
    loops = max(1, min(50, round(_SHORTEST / slowest)))
    rows = []
    for _ in range(repeats):
        comm.barrier()
        traffic.clear()
        begin, cpu = time.perf_counter(), time.process_time()
        for _ in range(loops):
            call()
        taken, busy = time.perf_counter() - begin, time.process_time() - cpu
        own = [taken, busy - traffic.cpu_seconds, traffic.seconds, float(traffic.bytes_sent)]
        rows.append(comm.allgather(own) / loops)
    return {
        "seconds": statistics.median(float(row[:, 0].max()) for row in rows),
        "computing": statistics.median(float(row[:, 1].max()) for row in rows),
        "in_mpi": sum(float(row[:, 2].sum()) for row in rows) / sum(float(row[:, 0].sum()) for row in rows),
        "bytes_sent": float(rows[-1][:, 3].sum()),
    }


def answers(comm: Communicator) -> dict[str, float | str]:
    """Return the answers on one field that is the same for any number of ranks; a collective call.

    Returns
    -------
    dict of str to float or str
        By operation: the number; and for fields a hash of all decompressed values.
    """
    layout = Layout(CHECKED, comm)
    x, y = (layout.local(_field(tuple(slice(0, n) for n in CHECKED), seed)) for seed in (0, 1))
    found: dict[str, float | str] = {}
    for name, call in operations(x, y, layout).items():
        answer = call()
        if isinstance(answer, CompressedArray):
            answer = with_halo(answer, 0)
        if isinstance(answer, Neighbourhood):
            whole = comm.gather(answer.values[answer.inner], layout)
            digest = "" if whole is None else hashlib.sha256(np.ascontiguousarray(whole).data).hexdigest()
            found[name] = str(comm.broadcast(digest))
        else:
            found[name] = float(answer)
    return found


def operations(x: Values, y: Values, layout: Layout) -> Mapping[str, Call]:
    """Return what is measured, by name, as calls without arguments."""
    a, b = (compress(part, tolerance=_TOLERANCE, layout=layout) for part in (x, y))
    return {
        "compress": lambda: compress(x, tolerance=_TOLERANCE, layout=layout),
        "mean": lambda: mean(a),
        "variance": lambda: variance(a),
        "norm": lambda: norm(a),
        "dot": lambda: dot(a, b),
        "cosine similarity": lambda: cosine_similarity(a, b),
        "structural similarity": lambda: structural_similarity(a, b),
        "Wasserstein distance": lambda: wasserstein_distance(a, b),
        "norm of difference": lambda: norm(a - b),
        "largest value": lambda: maximum(a),
        "median": lambda: quantile(a, 0.5),
        "halo, values sent": lambda: with_halo(a, 1),
        "halo, blocks sent": lambda: with_halo(a, 1, exchange="compressed"),
        "derivative": lambda: gradient(a)[0],
        "stencil": lambda: stencil(_smooth, a, width=1, tolerance=_TOLERANCE),
    }


def _smooth(u: NDArray[np.float64]) -> NDArray[np.float64]:
    around = u[:-2, 1:-1, 1:-1] + u[2:, 1:-1, 1:-1] + u[1:-1, :-2, 1:-1] + u[1:-1, 2:, 1:-1]
    around += u[1:-1, 1:-1, :-2] + u[1:-1, 1:-1, 2:]
    return u[1:-1, 1:-1, 1:-1] / 2 + around / 12


def _field(slices: tuple[slice, ...], seed: int) -> Values:
    """Return a part of an endless field of waves with some noise, which is the same for every rank."""
    x, y, z = np.ogrid[slices]
    waves = np.sin(x / 9 + seed) * np.cos(y / 7) + np.sin(z / 11 + 0.3 * seed) + 0.02 * seed
    noise = np.random.default_rng([seed, slices[0].start]).normal(scale=_TOLERANCE, size=waves.shape)
    return np.asarray(waves + noise, np.float32)


def difference(answer: float | str, other: float | str) -> float:
    """Return how far two answers are from each other: relative, and infinite for fields that differ in a bit."""
    if isinstance(answer, str) or isinstance(other, str):
        return 0.0 if answer == other else math.inf
    largest = max(abs(answer), abs(other))
    return abs(answer - other) / largest if largest else 0.0
