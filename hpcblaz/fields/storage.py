"""From a file to a compressed array, on any number of ranks, and what a file says of itself."""

import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcblaz.backend import cpu, gpu
from hpcblaz.backend.blocks import BlockGrid
from hpcblaz.backend.dispatch import choose_device
from hpcblaz.backend.payload import Blocks, FixedBlocks, Numerics, PackedBlocks
from hpcblaz.bodies.records import LANES
from hpcblaz.errors import FileFormatError, LayoutError, StorageError
from hpcblaz.fields.array import CompressedArray
from hpcblaz.fields.atomic import storage_errors
from hpcblaz.fields.codec import BlockCodec, empty_blocks
from hpcblaz.fields.fileformat import HEADER_START, FileHeader, Section, decode_header, parse_header
from hpcblaz.fields.missing import Missing, from_bytes, join
from hpcblaz.fields.regroup import Part, regroup
from hpcblaz.fields.saving import save
from hpcblaz.fields.scalars import ErrorBound
from hpcblaz.mpi import Communicator, Layout, communicator, device_number

__all__ = ["load", "read_header", "save"]

_PIECE = 1 << 22  # bytes that are read, and then checked while they are in the cache
_SPARE_WORDS = 2 * LANES  # kernels may read past the last record


def load(path: str | os.PathLike[str], layout: Any = None, *, device: str = "cpu") -> CompressedArray:
    """Read a compressed array from a file that :func:`hpcblaz.save` wrote.

    It may have been written by any number of ranks. Parts that do not fit the wanted ones are put together anew without
    loss: the integers, and with them the values, are those that were written.

    Parameters
    ----------
    path : str or os.PathLike
        Seen by every rank.
    layout : Layout, Communicator or mpi4py.MPI.Intracomm, optional
        How to split the array. A communicator of several ranks: as in the file if that has as many parts, else as
        ``Layout(shape, comm)`` does. Default, and with a communicator of one rank: not at all.
        With a communicator this is a collective call, and errors are raised on every rank or on none.
    device : {'cpu', 'gpu'}, default 'cpu'
        Where the array is to live; compressed bytes are moved to the card of the rank.

    Returns
    -------
    CompressedArray

    Raises
    ------
    StorageError
        If the file cannot be read.
    FileFormatError
        If it is truncated, damaged, of a newer format, or no file of hpcblaz.
    LayoutError
        If the layout is for another array.
    ConfigurationError, DeviceError, MissingDependencyError
        If there is no such device, or what drives it is not installed.

    Examples
    --------
    >>> import numpy as np, os, tempfile, hpcblaz as hb
    >>> a = hb.compress(np.random.default_rng(0).normal(size=(40, 30)), relative=1e-3)
    >>> path = os.path.join(tempfile.mkdtemp(), "noise.hbz")
    >>> a.save(path)
    >>> bool((hb.load(path).decompress() == a.decompress()).all())
    True
    """
    given = layout if isinstance(layout, Layout) else None
    comm = communicator(given.comm if given is not None else layout)
    with comm.together():
        on_gpu = choose_device(device) == "gpu"
    if on_gpu and comm.size > 1:
        gpu.use_device(device_number(comm, gpu.device_count()))
    with comm.together(), _File(path) as file:
        wanted = _wanted(file.header, given, comm)
        array = _assemble(file, wanted)
    checksums = comm.allgather([float(file.checksum)])[:, 0]
    if (checksums != checksums[0]).any():
        raise StorageError(f"expected one file {path} on all ranks, got different ones: it was replaced meanwhile")
    return array.to_device("gpu") if on_gpu else array


def read_header(path: str | os.PathLike[str]) -> FileHeader:
    """Read what a file says of itself, without its sections.

    Parameters
    ----------
    path : str or os.PathLike

    Returns
    -------
    FileHeader

    Raises
    ------
    StorageError, FileFormatError
        As :func:`load` does.
    """
    with _File(path) as file:
        return file.header


class _File:
    """An open file with a sound header."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        with storage_errors("read", self.path):
            self._file = open(self.path, "rb", buffering=0)  # noqa: SIM115  closed by __exit__
        try:
            with storage_errors("read", self.path):
                self._size = os.fstat(self._file.fileno()).st_size
                head = self._read_some(0, HEADER_START)
            length, self.checksum = decode_header(str(self.path), head, self._size)
            text = self._read(Section(HEADER_START, length, self.checksum), np.dtype(np.uint8), "the header")
            self.header = parse_header(str(self.path), text.tobytes(), self._size)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> "_File":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.close()

    def _read_some(self, position: int, length: int) -> bytes:
        return os.pread(self._file.fileno(), length, position)

    def _read(self, section: Section, dtype: np.dtype[Any], what: str, spare: int = 0) -> NDArray[Any]:
        """Return a section as an array of native byte order, with some zeros behind it."""
        count = section.length // dtype.itemsize
        values = np.empty(count + spare, dtype.newbyteorder("<"))
        values[count:] = 0
        raw = values[:count].view(np.uint8).data
        crc = position = 0
        with storage_errors("read", self.path):
            while position < section.length:
                end = min(section.length, position + _PIECE)
                got = os.preadv(self._file.fileno(), [raw[position:end]], section.offset + position)
                if not got:
                    raise FileFormatError(
                        f"{self.path}: expected {section.length} bytes of {what} from byte {section.offset}, "
                        f"got {position}: the file is truncated"
                    )
                crc = zlib.crc32(raw[position : position + got], crc)
                position += got
        if crc != section.crc:
            raise FileFormatError(
                f"{self.path}: expected the checksum {section.crc:08x} of {what}, bytes {section.offset} to "
                f"{section.offset + section.length - 1}, got {crc:08x}: the file is damaged"
            )
        return values.astype(dtype, copy=False)

    def blocks(self, rank: int, numerics: Numerics) -> Blocks:
        """Return the payload of a part."""
        part = self.header.parts[rank]
        where = f"of part {rank}"
        if isinstance(self.header.codec, BlockCodec):
            return self._fixed(rank, numerics, self.header.codec)
        sizes = self._read(part.sections["sizes"], np.dtype(np.uint32), f"the sizes {where}")
        section = part.sections["words"]
        offsets = np.zeros(len(sizes) + 1, np.int64)
        np.cumsum(sizes, out=offsets[1:])
        if offsets[-1] * 4 != section.length:
            raise FileFormatError(
                f"{self.path}: expected {section.length} bytes of records {where} at byte {section.offset}, "
                f"got sizes that sum to {offsets[-1] * 4}: the file is damaged"
            )
        words = self._read(section, np.dtype(np.uint32), f"the words {where}", _SPARE_WORDS)
        blocks = PackedBlocks(words, offsets, part.exponent, part.mean_exponent)
        if not cpu.is_sound(blocks, numerics):
            raise FileFormatError(
                f"{self.path}: expected sound records {where}, bytes {section.offset} to "
                f"{section.offset + section.length - 1}, got one that contradicts itself: the file is damaged"
            )
        return blocks

    def missing(self, rank: int, shape: tuple[int, ...]) -> Missing | None:
        """Return what is missing of a part, None if nothing is."""
        part = self.header.parts[rank]
        if "missing" not in part.sections:
            return None
        section = part.sections["missing"]
        data = self._read(section, np.dtype(np.uint8), f"the missing cells of part {rank}")
        try:
            return from_bytes(data.tobytes(), shape, part.kinds, part.fill_value)
        except FileFormatError as error:
            raise FileFormatError(
                f"{self.path}: {error}, in part {rank}, bytes {section.offset} to "
                f"{section.offset + section.length - 1}: the file is damaged"
            ) from None

    def _fixed(self, rank: int, numerics: Numerics, codec: BlockCodec) -> FixedBlocks:
        sections = self.header.parts[rank].sections
        template = empty_blocks(codec, numerics)
        scales = self._read(sections["scales"], numerics.dtype, f"the scales of part {rank}")
        indices = self._read(sections["indices"], template.indices.dtype, f"the indices of part {rank}")
        if not (np.isfinite(scales).all() and (scales >= 0).all()):
            raise FileFormatError(
                f"{self.path}: expected finite scales of part {rank} that are not negative, from byte "
                f"{sections['scales'].offset}, got others: the file is damaged"
            )
        if indices.size and int(indices.min()) < -template.limit:
            raise FileFormatError(
                f"{self.path}: expected indices of part {rank} from {-template.limit} to {template.limit}, from byte "
                f"{sections['indices'].offset}, got {indices.min()}: the file is damaged"
            )
        return FixedBlocks(indices, scales, template.starts, template.kept)


def _wanted(header: FileHeader, given: Layout | None, comm: Communicator) -> Layout | None:
    """Return the layout to read with; None for the whole array."""
    if given is not None:
        if (given.global_shape, given.block_shape) != (header.shape, header.block_shape):
            raise LayoutError(
                f"expected a layout of shape {header.shape} in blocks of {header.block_shape}, as in the file, got "
                f"{given.global_shape} in blocks of {given.block_shape}"
            )
        return given
    if comm.size == 1:
        return None
    splits = header.splits if len(header.parts) == comm.size else None
    return Layout(header.shape, comm, block_shape=header.block_shape, splits=splits)


def _assemble(file: _File, layout: Layout | None) -> CompressedArray:
    header = file.header
    wanted = layout.slices if layout is not None else tuple(slice(0, n) for n in header.shape)
    offset = tuple(part.start for part in wanted)
    numerics = _numerics(header, wanted)
    written = header.layout
    same = [rank for rank in range(written.size) if written.slices_of(rank) == wanted]
    if same and numerics.grid.size:
        blocks = file.blocks(same[0], numerics)
        missing = file.missing(same[0], numerics.grid.shape)
    else:
        used = [part for rank, part in enumerate(header.parts) if all(written.shape_of(rank))] or header.parts
        exponents = (min(part.exponent for part in used), min(part.mean_exponent for part in used))
        blocks = regroup(_parts(file, written, wanted), numerics, offset, header.codec, exponents)
        missing = join(numerics.grid.shape, _missing_parts(file, written, wanted))
    return CompressedArray(
        blocks,
        numerics,
        header.codec,
        header.dtype,
        ErrorBound(header.max_abs, header.l2),
        magnitude=header.magnitude,
        factor=header.factor,
        offset=header.offset,
        layout=layout,
        promise=header.promise,
        attributes=header.attributes,
        missing=missing,
    )


def _sharing(written: Layout, wanted: tuple[slice, ...]) -> Iterator[int]:
    """Yield the parts of the file that have cells of the wanted one."""
    for rank in range(written.size):
        slices = written.slices_of(rank)
        if all(max(s.start, w.start) < min(s.stop, w.stop) for s, w in zip(slices, wanted, strict=True)):
            yield rank


def _parts(file: _File, written: Layout, wanted: tuple[slice, ...]) -> Iterator[Part]:
    """Yield the blocks of the parts that are needed, one part at a time."""
    for rank in _sharing(written, wanted):
        numerics = _numerics(file.header, written.slices_of(rank))
        yield file.blocks(rank, numerics), numerics, written.offset_of(rank)


def _missing_parts(
    file: _File, written: Layout, wanted: tuple[slice, ...]
) -> Iterator[tuple[Missing | None, tuple[int, ...], tuple[int, ...]]]:
    """Yield what is missing of the parts that are needed, and where they lie with respect to the wanted one."""
    for rank in _sharing(written, wanted):
        shape = written.shape_of(rank)
        offset = tuple(o - w.start for o, w in zip(written.offset_of(rank), wanted, strict=True))
        yield file.missing(rank, shape), shape, offset


def _numerics(header: FileHeader, slices: tuple[slice, ...]) -> Numerics:
    grid = BlockGrid(tuple(part.stop - part.start for part in slices), header.block_shape)
    return Numerics(grid, header.codec.transform, header.precision)
