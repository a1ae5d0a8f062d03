"""What each rank of ``hpcblaz bench collectives`` does: allreduce of float32, MPI's own and ours, taking turns.

Run as ``python -m hpcblaz.mpi.collective_benchmark SETTINGS``, where SETTINGS are JSON; rank 0 prints a line of JSON.
"""

import json
import sys
import time
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcblaz.mpi.comm import Communicator, world
from hpcblaz.mpi.launch import load_mpi
from hpcblaz.mpi.reduce import allreduce

_LONG = 256  # MiB from which on a few repeats do


def measure(comm: Communicator, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Return a row for each kind of data and each size; see :mod:`hpcblaz.cli.bench_collectives` for their keys."""
    rows = []
    allreduce(np.zeros(100_000, np.float32), tolerance=1.0, comm=comm)  # compiles, or loads what is compiled
    for kind, path in settings["data"].items():
        stored = np.load(path, mmap_mode="r").reshape(-1)
        for mebibytes in settings["mebibytes"]:
            count = int(mebibytes * 2**18)
            # Ranks have parts of one field, or other numbers of one distribution; each knows what the others have
            parts = [np.roll(stored[:count], -rank * (count // (comm.size + 1))) for rank in range(comm.size)]
            exact = np.zeros(count)
            for part in parts:
                exact += part
            own, parts = parts[comm.rank], []
            repeats = settings["repeats"] if mebibytes < _LONG else 2
            rows.append({"data": kind, "mebibytes": mebibytes, **_one(comm, own, exact, settings["relative"], repeats)})
    return rows


def _one(
    comm: Communicator, own: NDArray[np.float32], exact: NDArray[np.float64], relative: float, repeats: int
) -> dict[str, Any]:
    mpi = load_mpi()
    tolerance = relative * float(np.ptp(exact))
    plain = np.empty_like(own)
    theirs, ours = [], []
    found = allreduce(own, tolerance=tolerance, comm=comm)
    for _ in range(repeats):
        comm.barrier()
        begin = time.perf_counter()
        comm._comm.Allreduce([own, mpi.FLOAT], [plain, mpi.FLOAT])
        theirs.append(time.perf_counter() - begin)
        comm.barrier()
        begin = time.perf_counter()
        found = allreduce(own, tolerance=tolerance, comm=comm)
        ours.append(time.perf_counter() - begin)
    slowest = comm.allgather([median(theirs), median(ours)]).max(axis=0)
    sent = comm.allgather([float(found.bytes_sent)])[:, 0]
    return {
        "ranks": comm.size,
        "values": own.size,
        "mpi_seconds": float(slowest[0]),
        "seconds": float(slowest[1]),
        "speedup": float(slowest[0] / slowest[1]),
        "bytes_sent": int(sent.max()),
        "mpi_bytes_sent": 2 * (comm.size - 1) * own.nbytes // comm.size,
        "bits": 32 / found.ratio,
        "tolerance": tolerance,
        "bound": found.max_abs_error,
        "error": float(comm.allgather([float(abs(found.values - exact).max())]).max()),
        "mpi_error": float(abs(plain - exact).max()),
        "algorithm": found.algorithm,
    }


if __name__ == "__main__":
    found = measure(world(), json.loads(sys.argv[1]))
    if world().rank == 0:
        sys.stdout.write(json.dumps(found) + "\n")
