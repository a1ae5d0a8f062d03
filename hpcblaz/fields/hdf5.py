"""HDF5 files written by several ranks: together where h5py has parallel HDF5, else through rank 0, part by part."""

import importlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcblaz.errors import HpcblazError, ShapeError, StorageError
from hpcblaz.fields.open_field import optional
from hpcblaz.fields.readers import PartCollector
from hpcblaz.mpi import Communicator, Layout, communicator
from hpcblaz.mpi.atomic import storage_errors
from hpcblaz.mpi.collect import collect
from hpcblaz.mpi.leftovers import remove_leftovers, temporary_name


def has_parallel_hdf5() -> bool | None:
    """Say whether this h5py writes a file with all ranks at once; None if there is no h5py."""
    try:
        return bool(importlib.import_module("h5py").get_config().mpi)
    except ImportError:
        return None


def write_hdf5(
    path: str | os.PathLike[str],
    array: NDArray[Any],
    layout: Layout | None = None,
    *,
    name: str = "field",
    attributes: Mapping[str, Any] | None = None,
) -> None:
    """Write an array as the one dataset of an HDF5 file, whole or not at all.

    With a layout this is a collective call. All ranks write at once if h5py was built with parallel HDF5
    (``h5py.get_config().mpi``); otherwise rank 0 writes the parts, one at a time.

    Parameters
    ----------
    path : str or os.PathLike
        That of rank 0 counts.
    array : numpy.ndarray
        With a layout: this rank's part.
    layout : Layout, optional
        How the array is split over ranks.
    name : str, default "field"
        Of the dataset.
    attributes : mapping, optional
        Text and numbers of the dataset; others are left out.

    Raises
    ------
    ShapeError
        If the array is not of the layout's local shape.
    StorageError
        If the disk is full, for example.
    MissingDependencyError
        If h5py is not installed.
    """
    target = Path(os.path.realpath(path))
    comm = communicator(layout.comm if layout is not None else None)
    with comm.together():
        h5py = optional("h5py", f"writing {path}")
        if layout is not None and array.shape != layout.local_shape:
            raise ShapeError(f"expected this rank's part of shape {layout.local_shape}, got {array.shape}")
        own = np.ascontiguousarray(array)
        if comm.rank == 0 and target.is_dir():
            raise StorageError(f"expected to write {path}, got: it is a folder: name a file in it")
    place = target.parent / temporary_name(target.name)
    if comm.rank == 0:
        remove_leftovers(target.parent, target.name)
    place = comm.broadcast(place)
    try:
        work = _Work(h5py, place, target, name, dict(attributes or {}), comm)
        if comm.size > 1 and h5py.get_config().mpi and layout is not None:
            work.together(own, layout)
        else:
            work.on_one(own, layout)
        with comm.together():
            if comm.rank == 0:
                with storage_errors("write", target):
                    with place.open("rb") as file:
                        os.fsync(file.fileno())
                    os.replace(place, target)
    finally:
        if comm.rank == 0:
            place.unlink(missing_ok=True)


class _Work:
    """Writes one file, under its temporary name."""

    def __init__(
        self, h5py: Any, place: Path, target: Path, name: str, attributes: dict[str, Any], comm: Communicator
    ) -> None:
        self._h5py, self._place, self._target, self._comm = h5py, place, target, comm
        self._name, self._attributes = name, attributes

    def together(self, own: NDArray[Any], layout: Layout) -> None:
        """Have every rank write its part into the file that all have opened.

        Opening, making the dataset and closing are collective calls of HDF5, which fail on all ranks or on none.
        """
        comm = self._comm
        file: Any = None
        try:
            with comm.together(), self._errors():
                file = self._h5py.File(self._place, "w", driver="mpio", comm=comm._comm)
                dataset = self._dataset(file, layout.global_shape, own.dtype)
            with comm.together(), self._errors():
                if own.size:
                    dataset[layout.slices] = own
        finally:
            with comm.together(), self._errors():
                if file is not None:
                    file.close()

    def on_one(self, own: NDArray[Any], layout: Layout | None) -> None:
        """Have rank 0 write all parts, as they come."""
        comm = self._comm
        shape, parts = own.shape, [tuple(slice(0, n) for n in own.shape)]
        if layout is not None:
            shape, parts = layout.global_shape, [layout.slices_of(rank) for rank in range(comm.size)]
        file: Any = None
        collector: PartCollector | None = None
        try:
            with comm.together(), self._errors():
                if comm.rank == 0:
                    file = self._h5py.File(self._place, "w")
                    dataset = self._dataset(file, shape, own.dtype)
                    collector = PartCollector(parts, own.dtype, dataset.__setitem__)

            def take(rank: int, number: int, position: int, piece: NDArray[np.uint8]) -> None:
                if collector is not None:
                    with self._errors():
                        collector.take(rank, number, position, piece)

            collect(comm, [own], take)
        finally:
            with comm.together(), self._errors():
                if file is not None:
                    file.close()

    def _dataset(self, file: Any, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Any:
        dataset = file.create_dataset(self._name, shape, dtype)
        for key, value in self._attributes.items():
            if isinstance(value, (str, int, float)):
                dataset.attrs[key] = value
        return dataset

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn what HDF5 says of a disk into StorageErrors; it says it in more ways than Python."""
        try:
            with storage_errors("write", self._target):
                yield
        except (RuntimeError, ValueError) as error:
            if isinstance(error, HpcblazError):
                raise
            raise StorageError(f"expected to write {self._target}, got: {error}") from error
