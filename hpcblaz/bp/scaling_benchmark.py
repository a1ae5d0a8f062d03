r"""What ``hpcblaz bp scaling`` measures: rounds of messages on more ranks, and what follows for many.

A round on `P` ranks, each with `M` messages of which `B` bytes go to others, takes

.. math:: T = \gamma M + \lambda (2 \lceil \log_2 P \rceil + n) + B / \beta

where `n` is the number of neighbours: messages are computed, a few numbers are added up, and neighbours are told.
"""

import json
import math
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from hpcblaz.bp.distributed import infer_partitioned
from hpcblaz.bp.distributed_answers import bethe_of
from hpcblaz.bp.partition import grid_splits
from hpcblaz.bp.partitioned_grids import partitioned_ising
from hpcblaz.bp.ragged import Floats
from hpcblaz.bp.rank_propagation import RankPropagation, Sent
from hpcblaz.errors import CommunicatorError
from hpcblaz.mpi import world
from hpcblaz.mpi.links import totals
from hpcblaz.mpi.spawn import run_ranks
from hpcblaz.mpi.timed import TimedCommunicator, Traffic

__all__ = ["Model", "fit", "grid_for", "measure"]

_TIMEOUT = 1800  # seconds that one number of ranks may take
_COUPLING = 2.0
_NEVER = 1e-30  # a tolerance that nothing meets
_SHARE = 0.7  # of the messages, that rnbp sends
_BYTES = 4  # of a message
_KIB = 1024

Run = dict[str, Any]


def grid_for(side: int, ranks: int, weak: bool) -> tuple[int, int]:
    """Return rows and columns of the grid for so many ranks: side x side of all, or of each if `weak`.

    Examples
    --------
    >>> grid_for(100, 4, weak=False), grid_for(100, 4, weak=True), grid_for(100, 2, weak=True)
    ((100, 100), (200, 200), (200, 100))
    """
    if not weak:
        return side, side
    bands = grid_splits(side * ranks, side * ranks, ranks)
    return side * bands[0], side * bands[1]


def measure(ranks: int, size: tuple[int, int], schedule: str, rounds: int, repeats: int) -> Run:
    """Measure on so many ranks of this machine, each with one thread.

    Parameters
    ----------
    ranks : int
    size : (int, int)
        Of the grid.
    schedule : str
    rounds : int
        Iterations of a run.
    repeats : int
        Runs, of which medians are taken.

    Returns
    -------
    dict
        ``ranks``, ``size``, ``messages``, ``seconds`` (of a round), ``updates_per_second``, ``in_mpi`` (the share of
        the time of all ranks in MPI, waiting included), ``bytes_sent`` (a round, by all ranks), ``neighbours`` (the
        most), ``own_messages`` (the most), ``bytes_per_message`` (of memory, all ranks, without what a rank needs for a
        tiny model), ``base_bytes`` (that) and ``log_partition`` after these rounds.

    Raises
    ------
    CommunicatorError
        If there is no mpirun, or the ranks fail.
    """
    with TemporaryDirectory(prefix="hpcblaz-bench-") as folder:
        path = Path(folder) / "found.json"
        call = f"s._run_rank({size!r}, {schedule!r}, {rounds}, {repeats}, {str(path)!r})"
        code = f"from hpcblaz.bp import scaling_benchmark as s; {call}"
        done = run_ranks(["-c", code], ranks, timeout=_TIMEOUT, environment={"HPCBLAZ_NUM_THREADS": "1"}, merge=True)
        if done.status != 0 or not path.exists():
            state = f"over {_TIMEOUT} s" if done.status is None else f"exit status {done.status}"
            raise CommunicatorError(f"expected {ranks} ranks to run, got {state}: {done.output[-2000:]}")
        found: Run = json.loads(path.read_text())
    return found


def _run_rank(size: tuple[int, int], schedule: str, rounds: int, repeats: int, path: str) -> None:
    comm = world()
    timed = TimedCommunicator(comm._comm) if comm.size > 1 else comm
    traffic = timed.traffic if isinstance(timed, TimedCommunicator) else Traffic()
    small = partitioned_ising((max(4, comm.size), max(4, comm.size)), _COUPLING, 0, timed)
    infer_partitioned(small, schedule, tolerance=_NEVER, max_iterations=2)  # compilation
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    model = partitioned_ising(size, _COUPLING, 0, timed)
    local = model.part.prepare("float32", timed)
    propagation = RankPropagation(local, timed, local.uniform(), False, 0.0, _NEVER)
    if schedule == "rnbp":
        propagation.compute_all()
    steps: dict[str, Callable[[], Sent]] = {
        "lbp": propagation.flood_all,
        "sweep": lambda: propagation.sweep_all(1, False)[0],
        "rnbp": lambda: propagation.draw_all(_SHARE, 0),
    }
    seconds, shares, bytes_sent, updates = [], [], 0.0, 0.0
    for _ in range(repeats):
        timed.barrier()
        traffic.clear()
        begin = time.perf_counter()
        for _ in range(rounds):
            sent = steps[schedule]()
            updates = float(totals(timed, [sent.updates, sent.left], np.zeros(5)).sums[0])
        taken = time.perf_counter() - begin
        rows = comm.allgather([taken, traffic.seconds, float(traffic.bytes_sent)])
        seconds.append(float(rows[:, 0].max()) / rounds)
        shares.append(float(rows[:, 1].sum() / rows[:, 0].sum()))
        bytes_sent = float(rows[:, 2].sum()) / rounds
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    memory = comm.allgather([float(base) * _KIB, float(peak) * _KIB]).sum(axis=0)
    report = model.report()
    found = {
        "ranks": comm.size,
        "size": list(size),
        "messages": model.messages,
        "seconds": statistics.median(seconds),
        "updates_per_second": updates / statistics.median(seconds),
        "in_mpi": statistics.median(shares),
        "bytes_sent": bytes_sent,
        "neighbours": max(report.neighbours),
        "own_messages": max(report.messages),
        "bytes_per_message": float(memory[1] - memory[0]) / model.messages,
        "base_bytes": float(memory[0]),
        "log_partition": bethe_of(local, propagation.messages, comm),
    }
    if comm.rank == 0:
        Path(path).write_text(json.dumps(found))


@dataclass(frozen=True)
class Model:
    """What a round costs.

    Attributes
    ----------
    computation : float
        Seconds a message.
    latency : float
        Seconds for each of the steps in which ranks wait for each other.
    transfer : float
        Seconds a byte.
    """

    computation: float
    latency: float
    transfer: float

    def seconds(self, size: tuple[int, int], ranks: int) -> float:
        """Return the time of a round of a grid, on ranks with a core each."""
        return self.computation * _terms(size, ranks)[0] + self.waiting(size, ranks)

    def waiting(self, size: tuple[int, int], ranks: int) -> float:
        """Return the part of that time which is spent in MPI."""
        return float(np.dot(_terms(size, ranks)[1:], [self.latency, self.transfer]))


def fit(runs: Sequence[Run], cores: int) -> Model:
    """Return the model that fits best the runs whose ranks had a core each.

    What a message takes is fitted to the time outside MPI, the rest to the time in it: of the whole, a difference in
    how well the cache serves a part would be mistaken for communication.

    Parameters
    ----------
    runs : sequence of dict
        As `measure` returns them.
    cores : int

    Examples
    --------
    >>> truth = Model(1e-9, 1e-5, 1e-10)
    >>> sizes = [((n, n), ranks) for n in (100, 1000) for ranks in (1, 2, 4)]
    >>> runs = [{"ranks": r, "size": s, "seconds": truth.seconds(s, r)} for s, r in sizes]
    >>> for run in runs:
    ...     run["in_mpi"] = truth.waiting(run["size"], run["ranks"]) / run["seconds"]
    >>> [round(x, 12) for x in (fit(runs, 4).computation, fit(runs, 4).latency)]
    [1e-09, 1e-05]
    """
    free = [one for one in runs if one["ranks"] <= cores] or list(runs)
    terms = np.array([_terms(tuple(one["size"]), one["ranks"]) for one in free])
    inside = np.array([one["seconds"] * one["in_mpi"] for one in free])
    outside = np.array([one["seconds"] for one in free]) - inside
    talking = inside > 0
    computation = _fit(terms[:, :1], outside)
    latency, transfer = _fit(terms[talking, 1:], inside[talking]) if talking.any() else (0.0, 0.0)
    return Model(float(computation[0]), float(latency), float(transfer))


def _fit(terms: Floats, times: Floats) -> Floats:
    """Return the factors of terms that explain times best, none of them negative."""
    weighed = terms / times[:, None]  # relative errors count
    kept = [i for i in range(terms.shape[1]) if weighed[:, i].any()]
    found = np.zeros(terms.shape[1])
    while kept:
        scale = weighed[:, kept].max(axis=0)
        part = np.linalg.lstsq(weighed[:, kept] / scale, np.ones(len(times)), rcond=None)[0] / scale
        if (part >= 0).all():
            found[kept] = part
            break
        kept.pop(int(part.argmin()))
    return found


def _terms(size: tuple[int, int], ranks: int) -> list[float]:
    """Return the messages of a rank, the steps in which it waits, and the bytes that it sends."""
    rows, columns = size
    bands = grid_splits(rows, columns, ranks)
    height, width = math.ceil(rows / bands[0]), math.ceil(columns / bands[1])
    sides = [min(2, n - 1) for n in bands]
    halo = width * sides[0] + height * sides[1]
    steps = (2 * math.ceil(math.log2(ranks)) if ranks > 1 else 0) + sum(sides)
    own = 2 * (2 * rows * columns - rows - columns) / ranks
    return [own, float(steps), float(_BYTES * halo)]
