"""From a compressed array to a file or a store. docs/format.md describes the file."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hpcblaz.errors import CodecError, LayoutError
from hpcblaz.fields.dumping import check_saved, header_of, sections_of
from hpcblaz.fields.fileformat import FileHeader, place_sections
from hpcblaz.fields.zarr_store import save_store
from hpcblaz.mpi import communicator
from hpcblaz.mpi.atomic import AtomicFile
from hpcblaz.mpi.collect import collect

if TYPE_CHECKING:
    from hpcblaz.fields.array import CompressedArray


def save(
    a: "CompressedArray",
    path: str | os.PathLike[str],
    *,
    attributes: Mapping[str, Any] | None = None,
    chunks: tuple[int, ...] | None = None,
) -> None:
    """Write a compressed array to a file, or to a Zarr store that Zarr and xarray read as well.

    The file describes itself, has checksums, and is the same on every machine. It appears under its name only when it
    is complete and on the disk; until then, and after any failure, a file that had the name before is left as it was.

    With a layout this is a collective call: rank 0 writes one file with a part for each rank, and errors are raised on
    every rank or on none.

    Parameters
    ----------
    a : CompressedArray
    path : str or os.PathLike
        Where to write: a Zarr store if the suffix is ``.zarr``, otherwise a file, by convention with the suffix
        ``.hbz``. That of rank 0 counts.
    attributes : mapping, optional
        Text, numbers, booleans, None, lists and dictionaries to keep beside the array, such as its units. Default: the
        attributes that `a` was loaded with.
    chunks : tuple of int, optional
        Shape of the chunks of a store, multiples of the block shape. Default: about 32 MiB of float32.

    Raises
    ------
    StorageError
        If the disk is full, or the file cannot be written there for another reason; if JSON cannot hold the attributes.
    LayoutError
        If a store is wanted, and the array is split over ranks, or chunks cut blocks.
    MissingDependencyError
        If a store is wanted, and Zarr is not installed.

    See Also
    --------
    hpcblaz.load : Read it back.

    Examples
    --------
    >>> import numpy as np, os, tempfile, hpcblaz as hb
    >>> path = os.path.join(tempfile.mkdtemp(), "wave.hbz")
    >>> hb.save(hb.compress(np.sin(np.arange(1000.0)), tolerance=1e-3), path, attributes={"units": "m"})
    >>> a = hb.load(path)
    >>> a.shape, a.attributes
    ((1000,), {'units': 'm'})
    """
    check_saved(a)
    if Path(path).suffix == ".zarr":
        save_store(a, path, attributes, chunks)
        return
    comm = communicator(a.layout.comm if a.layout is not None else None)
    missing = bool(comm.allgather([float(a._missing is not None)]).any())
    with comm.together():
        if a.layout is not None and a.layout.size != comm.size:
            raise LayoutError(
                f"expected a layout with the communicator of its {a.layout.size} ranks, got one of {comm.size}: "
                "pass comm= to Layout, or save a.local"
            )
        sections = sections_of(a, missing)
        header = header_of(a, attributes, sections)
    headers: list[FileHeader] = comm.gather_objects(header)
    common = [{**one.__dict__, "parts": ()} for one in headers]
    for rank, one in enumerate(common):
        if one != common[0]:
            names = [name for name in one if one[name] != common[0][name]]
            raise CodecError(
                f"expected arrays that agree on all ranks, got other {' and '.join(names)} on rank {rank} than on "
                "rank 0: compress the parts in one call of hb.compress"
            )
    whole = place_sections(FileHeader(**{**common[0], "parts": tuple(one.parts[0] for one in headers)}))
    places = [[section.offset for section in part.sections.values()] for part in whole.parts]
    file: AtomicFile | None = None

    def write(rank: int, number: int, position: int, piece: NDArray[np.uint8]) -> None:
        if file is not None:
            file.write_at(places[rank][number] + position, piece.data)

    try:
        with comm.together():
            if comm.rank == 0:
                file = AtomicFile(path)
                head, length = whole.encode()
                file.resize(length)
                file.write_at(0, head)
        collect(comm, list(sections.values()), write)
        with comm.together():
            if file is not None:
                file.commit()
    finally:
        if file is not None:
            file.discard()
