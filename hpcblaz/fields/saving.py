"""From a compressed array to a file. docs/format.md describes the file."""

import os
import zlib
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hpcblaz.backend import gpu
from hpcblaz.backend.payload import PackedBlocks
from hpcblaz.errors import CodecError, LayoutError, UnsupportedOperationError
from hpcblaz.fields.arithmetic import is_array
from hpcblaz.fields.atomic import AtomicFile
from hpcblaz.fields.fileformat import FileHeader, PartHeader, Section, attributes_of, place_sections
from hpcblaz.fields.missing import to_bytes
from hpcblaz.mpi import communicator
from hpcblaz.mpi.collect import collect

if TYPE_CHECKING:
    from hpcblaz.fields.array import CompressedArray


def save(a: "CompressedArray", path: str | os.PathLike[str], *, attributes: Mapping[str, Any] | None = None) -> None:
    """Write a compressed array to a file.

    The file describes itself, has checksums, and is the same on every machine. It appears under its name only when it
    is complete and on the disk; until then, and after any failure, a file that had the name before is left as it was.

    With a layout this is a collective call: rank 0 writes one file with a part for each rank, and errors are raised on
    every rank or on none.

    Parameters
    ----------
    a : CompressedArray
    path : str or os.PathLike
        Where to write, by convention with the suffix ``.hbz``. That of rank 0 counts.
    attributes : mapping, optional
        Text, numbers, booleans, None, lists and dictionaries to keep beside the array, such as its units. Default: the
        attributes that `a` was loaded with.

    Raises
    ------
    StorageError
        If the disk is full, or the file cannot be written there for another reason; if JSON cannot hold the attributes.

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
    _check_array(a)
    comm = communicator(a.layout.comm if a.layout is not None else None)
    missing = bool(comm.allgather([float(a._missing is not None)]).any())
    with comm.together():
        if a.layout is not None and a.layout.size != comm.size:
            raise LayoutError(
                f"expected a layout with the communicator of its {a.layout.size} ranks, got one of {comm.size}: "
                "pass comm= to Layout, or save a.local"
            )
        sections = _sections(a, missing)
        header = _header(a, attributes, sections)
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


def dumps(a: "CompressedArray", *, attributes: Mapping[str, Any] | None = None) -> bytes:
    """Return the bytes of the file that :func:`hpcblaz.save` would write, to be sent or stored elsewhere.

    Parameters
    ----------
    a : CompressedArray
        Not split over ranks: of one that is, ``a.local`` is this rank's part.
    attributes : mapping, optional
        As for :func:`hpcblaz.save`.

    Returns
    -------
    bytes

    Raises
    ------
    LayoutError
        If the array is split over ranks.
    StorageError
        If JSON cannot hold the attributes.

    See Also
    --------
    hpcblaz.loads : Make an array of them again.
    """
    _check_array(a)
    if a.layout is not None:
        raise LayoutError("expected an array that is not split over ranks, got a part of one: pass a.local")
    sections = _sections(a, a._missing is not None)
    header = place_sections(_header(a, attributes, sections))
    head, length = header.encode()
    data = bytearray(length)
    data[: len(head)] = head
    for name, section in header.parts[0].sections.items():
        data[section.offset : section.offset + section.length] = sections[name].view(np.uint8).data
    return bytes(data)


def _check_array(a: Any) -> None:
    if not is_array(a):
        raise UnsupportedOperationError(
            f"expected a CompressedArray to save, got {type(a).__name__}: compress it first with hb.compress"
        )


def _sections(a: "CompressedArray", missing: bool) -> dict[str, NDArray[Any]]:
    """Return what is to be written, in host memory and little-endian, by the names of the sections.

    With `missing` there is one of missing cells, maybe an empty one.
    """
    blocks = gpu.to_host(a._blocks)
    if isinstance(blocks, PackedBlocks):
        words = blocks.words[: int(blocks.offsets[-1])]
        sections = {"sizes": np.diff(blocks.offsets).astype("<u4"), "words": words.astype("<u4", copy=False)}
    else:
        sections = {
            name: values.astype(values.dtype.newbyteorder("<"), copy=False)
            for name, values in (("scales", blocks.scales), ("indices", blocks.indices))
        }
    if missing:
        sections["missing"] = np.frombuffer(b"" if a._missing is None else to_bytes(a._missing), np.uint8)
    return sections


def _header(
    a: "CompressedArray", attributes: Mapping[str, Any] | None, sections: dict[str, NDArray[Any]]
) -> FileHeader:
    """Return the header of this rank's part, with sections that have no place yet."""
    blocks = a._blocks
    placeless = {name: Section(0, values.nbytes, zlib.crc32(values.data)) for name, values in sections.items()}
    part = PartHeader(placeless)
    if isinstance(blocks, PackedBlocks):
        part = replace(part, exponent=int(blocks.exponent), mean_exponent=int(blocks.mean_exponent))
    if a._missing is not None:
        part = replace(part, kinds=tuple(a._missing.sets), fill_value=a._missing.fill_value)
    return FileHeader(
        shape=a.shape,
        dtype=a.dtype,
        codec=a.codec,
        precision=a._numerics.precision,
        factor=float(a._factor),
        offset=float(a._offset),
        max_abs=float(a._field_error.max_abs),
        l2=float(a._field_error.l2),
        magnitude=float(a._magnitude),
        promise=None if a._promise is None else float(a._promise),
        splits=a.layout.splits if a.layout is not None else (1,) * a.ndim,
        parts=(part,),
        attributes=attributes_of(dict(a._attributes if attributes is None else attributes)),
    )
