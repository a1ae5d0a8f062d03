"""A compressed array as bytes: its header and sections. docs/format.md describes them."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hpcblaz.backend import gpu
from hpcblaz.backend.payload import PackedBlocks
from hpcblaz.errors import CodecError, LayoutError, UnsupportedOperationError
from hpcblaz.fields.arithmetic import is_array
from hpcblaz.fields.fileformat import FileHeader, PartHeader, Section, attributes_of, place_sections
from hpcblaz.fields.missing import to_bytes

if TYPE_CHECKING:
    from hpcblaz.fields.array import CompressedArray


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
    check_saved(a)
    if a.layout is not None:
        raise LayoutError("expected an array that is not split over ranks, got a part of one: pass a.local")
    sections = sections_of(a, a._missing is not None)
    header = place_sections(header_of(a, attributes, sections))
    head, length = header.encode()
    data = bytearray(length)
    data[: len(head)] = head
    for name, section in header.parts[0].sections.items():
        data[section.offset : section.offset + section.length] = sections[name].view(np.uint8).data
    return bytes(data)


def check_saved(a: Any) -> None:
    """Raise UnsupportedOperationError unless it is a compressed array."""
    if not is_array(a):
        raise UnsupportedOperationError(
            f"expected a CompressedArray to save, got {type(a).__name__}: compress it first with hb.compress"
        )


def sections_of(a: "CompressedArray", missing: bool) -> dict[str, NDArray[Any]]:
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


def header_of(
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


def agreed_header(headers: Sequence[FileHeader]) -> FileHeader:
    """Return what the headers of all ranks have in common, or raise CodecError if they are not of one array."""
    common = [{**one.__dict__, "parts": ()} for one in headers]
    for rank, one in enumerate(common):
        if one != common[0]:
            names = [name for name in one if one[name] != common[0][name]]
            raise CodecError(
                f"expected arrays that agree on all ranks, got other {' and '.join(names)} on rank {rank} than on "
                "rank 0: compress the parts in one call of hb.compress"
            )
    return replace(headers[0], parts=())
