"""A file of a compressed array, or the same in memory, read section by section; nothing that it says is believed."""

import os
import zlib
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcblaz.backend import cpu
from hpcblaz.backend.payload import SPARE_WORDS, Blocks, FixedBlocks, Numerics, PackedBlocks
from hpcblaz.errors import FileFormatError
from hpcblaz.fields.codec import BlockCodec, empty_blocks
from hpcblaz.fields.fileformat import HEADER_START, FileHeader, Section, decode_header, parse_header
from hpcblaz.fields.missing import Missing, from_bytes
from hpcblaz.mpi.atomic import storage_errors

_PIECE = 1 << 22  # bytes that are read, and then checked while they are in the cache


class _FileInput:
    """A file that is read at any position."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        with storage_errors("read", self._path):
            self._file = open(self._path, "rb", buffering=0)  # noqa: SIM115  closed by close
            try:
                self.size = os.fstat(self._file.fileno()).st_size
            except BaseException:
                self.close()
                raise

    def read_into(self, target: memoryview, position: int) -> int:
        """Read bytes from a position; return how many, 0 at the end."""
        with storage_errors("read", self._path):
            return os.preadv(self._file.fileno(), [target], position)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class _BufferInput:
    """A buffer that is read like a file."""

    def __init__(self, buffer: Any) -> None:
        self._view = memoryview(buffer).cast("B")
        self.size = len(self._view)

    def read_into(self, target: memoryview, position: int) -> int:
        """Copy bytes from a position; return how many, 0 at the end."""
        piece = self._view[position : position + len(target)]
        target[: len(piece)] = piece
        return len(piece)

    def close(self) -> None:
        """Release the buffer."""
        self._view.release()


class Container:
    """An open file of a compressed array, or a buffer with the contents of one; its header is sound.

    Parameters
    ----------
    source : str, os.PathLike or bytes-like
        A path, or the contents.
    name : str, optional
        What errors call a buffer.

    Raises
    ------
    StorageError
        If the file cannot be read.
    FileFormatError
        If the header is damaged, or of something else.
    """

    def __init__(self, source: Any, name: str = "buffer") -> None:
        is_path = isinstance(source, (str, os.PathLike))
        self._input: _FileInput | _BufferInput = _FileInput(source) if is_path else _BufferInput(source)
        self.path = os.fspath(source) if is_path else name
        try:
            head = bytearray(min(HEADER_START, self._input.size))
            got = self._input.read_into(memoryview(head), 0)
            length, self.checksum = decode_header(self.path, bytes(head[:got]), self._input.size)
            text = self._read(Section(HEADER_START, length, self.checksum), np.dtype(np.uint8), "the header")
            self.header: FileHeader = parse_header(self.path, text.tobytes(), self._input.size)
        except BaseException:
            self._input.close()
            raise

    def __enter__(self) -> "Container":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._input.close()

    def _read(self, section: Section, dtype: np.dtype[Any], what: str, spare: int = 0) -> NDArray[Any]:
        """Return a section as an array of native byte order, with some zeros behind it."""
        count = section.length // dtype.itemsize
        values = np.empty(count + spare, dtype.newbyteorder("<"))
        values[count:] = 0
        raw = values[:count].view(np.uint8).data
        crc = position = 0
        while position < section.length:
            end = min(section.length, position + _PIECE)
            got = self._input.read_into(raw[position:end], section.offset + position)
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
        words = self._read(section, np.dtype(np.uint32), f"the words {where}", SPARE_WORDS)
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
