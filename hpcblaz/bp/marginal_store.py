"""Marginals of all ranks as a Zarr store: each rank writes its own chunks."""

import importlib
import os
from pathlib import Path
from typing import Any

import numpy as np

from hpcblaz.bp.distributed_result import PartitionedInference
from hpcblaz.bp.ragged import Floats, ranges
from hpcblaz.errors import MissingDependencyError
from hpcblaz.mpi.atomic import AtomicFolder
from hpcblaz.mpi.exchange import exchange
from hpcblaz.mpi.links import totals

__all__ = ["save_marginals"]

_CHUNK = 1 << 20  # numbers in a chunk, about


def save_marginals(path: str | os.PathLike[str], result: PartitionedInference) -> None:
    """Write the beliefs of all variables as a Zarr store, whole or not at all; a collective call.

    The array ``marginals`` has a row for each variable of the model, as wide as the variable with most states needs;
    what a variable has no state for is NaN. The array ``states`` says how many states each has. Attributes say how the
    inference went.

    Parameters
    ----------
    path : str or os.PathLike
        Seen by all ranks. A Zarr store that is there is replaced.
    result : PartitionedInference

    Raises
    ------
    MissingDependencyError
        If Zarr is not installed.
    StorageError
        If it cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from hpcblaz.bp import infer_partitioned, partitioned_ising
    >>> path = os.path.join(tempfile.mkdtemp(), "out.zarr")
    >>> save_marginals(path, infer_partitioned(partitioned_ising(10, 1.0)))
    >>> importlib.import_module("zarr").open_group(path, mode="r")["marginals"].shape
    (100, 2)
    """
    comm, variables = result.model.comm, result.model.variables
    with comm.together():
        zarr = _zarr()
        cards = result.model.part.cardinalities
    most = int(totals(comm, [], [int(cards.max(initial=1))]).largest[0])
    chunk = max(1, min(_CHUNK // most, -(-variables // comm.size)))
    chunks = -(-variables // chunk)
    received = _to_writers(result, most, chunk, chunks)
    folder: AtomicFolder | None = None
    try:
        with comm.together():
            if comm.rank == 0:
                folder = AtomicFolder(path)
                _create(zarr, folder.temporary, result, most, chunk)
        place = comm.broadcast(str(folder.temporary) if folder is not None else None)
        with comm.together():
            group = zarr.open_group(place, mode="r+")
            for number in range(chunks):
                if number * comm.size // chunks == comm.rank:
                    first, last = number * chunk, min(variables, (number + 1) * chunk)
                    start, stop = np.searchsorted(received[:, 0], [first, last])
                    values = received[start:stop, 1:]
                    group["marginals"][first:last] = values
                    group["states"][first:last] = (~np.isnan(values)).sum(axis=1)
        with comm.together():
            if folder is not None:
                folder.commit()
    finally:
        if folder is not None:
            folder.discard()


def _to_writers(result: PartitionedInference, most: int, chunk: int, chunks: int) -> Floats:
    """Return the numbers of variables and their beliefs, of the chunks that this rank writes, ascending."""
    comm, cards = result.model.comm, result.model.part.cardinalities
    with comm.together():
        rows = np.full((len(result.variables), 1 + most), np.nan)
        rows[:, 0] = result.variables
        places = ranges(np.arange(len(cards)) * (1 + most) + 1, cards)
        rows.reshape(-1)[places] = result.beliefs
        writers = result.variables // chunk * comm.size // max(1, chunks)
        bounds = np.searchsorted(writers, np.arange(comm.size + 1))
    sizes = comm.allgather(np.diff(bounds).astype(np.float64)).astype(np.int64)[:, comm.rank]
    outgoing = {r: rows[bounds[r] : bounds[r + 1]] for r in range(comm.size) if bounds[r + 1] > bounds[r]}
    incoming = {r: int(n) * rows.itemsize * (1 + most) for r, n in enumerate(sizes) if n}
    found = exchange(comm, outgoing, incoming)
    parts = [found[r].view(np.float64).reshape(-1, 1 + most) for r in sorted(found)]
    whole = np.concatenate([*parts, np.zeros((0, 1 + most))])
    return whole[np.argsort(whole[:, 0])]


def _create(zarr: Any, folder: Path, result: PartitionedInference, most: int, chunk: int) -> None:
    attributes = {
        "task": result.task,
        "schedule": result.schedule,
        "status": result.status,
        "residual": result.residual,
        "iterations": result.iterations,
        "tolerance": result.tolerance,
    }
    group = zarr.create_group(str(folder), attributes=attributes, overwrite=True)
    variables = result.model.variables
    group.create_array(
        "marginals", shape=(variables, most), chunks=(chunk, most), dtype=result.precision, fill_value=np.nan,
        dimension_names=("variable", "state"),
    )  # fmt: skip
    group.create_array(
        "states", shape=(variables,), chunks=(chunk,), dtype="int32", fill_value=0, dimension_names=("variable",)
    )


def _zarr() -> Any:
    try:
        return importlib.import_module("zarr")
    except ImportError as error:
        raise MissingDependencyError.needs("writing marginals as a store", "zarr", "io") from error
