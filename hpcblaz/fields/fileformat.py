"""The header of a file of a compressed array, written from plain values and checked. docs/format.md describes it.

Nothing in a header is believed: every value is checked for its type, its range and its agreement with the others, and
sizes are compared with the size of the file before any memory is asked for.
"""

import json
import math
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import numpy as np

from hpcblaz._version import __version__
from hpcblaz.backend.blocks import BlockGrid
from hpcblaz.bodies.records import FIXED_WORDS, TILE, strips_of
from hpcblaz.errors import FileFormatError, HpcblazError, StorageError
from hpcblaz.fields.codec import BlockCodec, Codec, ToleranceCodec
from hpcblaz.fields.missing import KINDS
from hpcblaz.mpi import Layout

MAGIC = b"\x89hbz\r\n\x1a\n"
VERSIONS = (1, 2)  # the second has missing cells, which a reader of the first would take for numbers
PREAMBLE = struct.Struct("<8sIIQQI")  # magic, version, CRC of the header, its length, length of the file, CRC of these
HEADER_START = 40
ALIGNMENT = 64

_DTYPES = (
    *("float16", "float32", "float64"),
    *("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
)
_MOST_CELLS = 2**59  # NumPy cannot address more float64
_EXPONENTS = (-1100, 1008)  # of steps; the largest of 16 levels is still a float64


@dataclass(frozen=True)
class Section:
    """A run of bytes of the file, and its CRC-32."""

    offset: int
    length: int
    crc: int


@dataclass(frozen=True)
class PartHeader:
    """What one rank wrote.

    Parameters
    ----------
    sections : mapping
        By their names.
    exponent, mean_exponent : int
        Of its steps; 0 for a BlockCodec.
    kinds : tuple of str
        What its missing cells hold, in the order of the section 'missing'.
    fill_value : int or float, optional
        What those of the kind 'fill' hold.
    """

    sections: Mapping[str, Section]
    exponent: int = 0
    mean_exponent: int = 0
    kinds: tuple[str, ...] = ()
    fill_value: float | int | None = None


@dataclass(frozen=True)
class FileHeader:
    """All that a file says of an array, but for its sections.

    Parameters
    ----------
    shape : tuple of int
        Of the whole field.
    dtype : numpy.dtype
        Of the decompressed values.
    codec : ToleranceCodec or BlockCodec
        With its block shape.
    precision : {'float32', 'float64'}
        Type of the samples while they are computed with.
    factor, offset : float
        The field is ``factor * payload + offset``.
    max_abs, l2, magnitude : float
        Bounds of the error, and of the values; infinite where there is none.
    promise : float or None
        The tolerance that was asked for.
    splits : tuple of int
        Parts along each axis.
    parts : tuple of PartHeader
        In the order of the ranks that wrote them.
    attributes : dict
        Of the user.
    creator : str
        The program that wrote the file.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    codec: Codec
    precision: str
    factor: float
    offset: float
    max_abs: float
    l2: float
    magnitude: float
    promise: float | None
    splits: tuple[int, ...]
    parts: tuple[PartHeader, ...]
    attributes: dict[str, Any]
    creator: str = f"hpcblaz {__version__}"

    @property
    def block_shape(self) -> tuple[int, ...]:
        """The block shape of the codec."""
        return self.codec.block_shape or ()

    @property
    def layout(self) -> Layout:
        """The layout of the parts."""
        return Layout(self.shape, block_shape=self.block_shape, splits=self.splits, size=len(self.parts))

    def encode(self) -> tuple[bytes, int]:
        """Return the head of the file, and the length of the whole file."""
        end = max(
            (section.offset + section.length for part in self.parts for section in part.sections.values()), default=0
        )
        text = _json(_plain(self))
        length = max(HEADER_START + len(text), end)
        version = VERSIONS[any("missing" in part.sections for part in self.parts)]
        fixed = PREAMBLE.pack(MAGIC, version, zlib.crc32(text), len(text), length, 0)[:-4]
        return (fixed + struct.pack("<I", zlib.crc32(fixed))).ljust(HEADER_START, b"\0") + text, length


def attributes_of(value: Any) -> dict[str, Any]:
    """Return a user's attributes as they come back from a file.

    Raises
    ------
    StorageError
        If JSON cannot hold them.
    """
    try:
        attributes = json.loads(_json(value))
    except (TypeError, ValueError, RecursionError) as error:
        raise StorageError(
            f"expected attributes of text, finite numbers, booleans, None, lists and dictionaries, got: {error}"
        ) from None
    if not isinstance(attributes, dict) or not all(isinstance(key, str) for key in value):
        raise StorageError(f"expected attributes to be a dictionary with text as its keys, got {value!r}")
    return attributes


def place_sections(header: FileHeader) -> FileHeader:
    """Return the header with its sections, of which only lengths and checksums are known, placed behind it."""
    text_length = 0
    while True:
        position = -(-(HEADER_START + text_length) // ALIGNMENT) * ALIGNMENT
        parts = []
        for part in header.parts:
            sections = {}
            for name, section in part.sections.items():
                sections[name] = Section(position, section.length, section.crc)
                position = -(-(position + section.length) // ALIGNMENT) * ALIGNMENT
            parts.append(replace(part, sections=sections))
        placed = FileHeader(**{**header.__dict__, "parts": tuple(parts)})
        needed = len(_json(_plain(placed)))
        if needed <= text_length:
            return placed
        text_length = needed + ALIGNMENT


def decode_header(name: str, head: bytes, size: int) -> tuple[int, int]:
    """Check the first bytes of a file; return the length and the checksum of the header.

    Parameters
    ----------
    name : str
        Of the file, for messages.
    head : bytes
        Its first bytes, ``HEADER_START`` if there are as many.
    size : int
        Its length.

    Raises
    ------
    FileFormatError
        If it is no file of hpcblaz, of another version, damaged or of another length than it says.
    """
    if head[: len(MAGIC)] != MAGIC[: len(head)] or not head:
        raise FileFormatError(f"{name}: expected a file of hpcblaz (.hbz), got other contents at byte 0")
    if len(head) < HEADER_START:
        raise FileFormatError(f"{name}: expected at least {HEADER_START} bytes, got {size}: the file is truncated")
    _, version, header_crc, header_length, length, crc = PREAMBLE.unpack_from(head)
    if zlib.crc32(head[: PREAMBLE.size - 4]) != crc or any(head[PREAMBLE.size :]):
        raise FileFormatError(
            f"{name}: expected a sound preamble, got a wrong checksum in bytes 0 to {HEADER_START - 1}: "
            "the file is damaged"
        )
    if version not in VERSIONS:
        raise FileFormatError(
            f"{name}: expected a format version of at most {VERSIONS[-1]}, got {version}: read it with a newer hpcblaz "
            f"than {__version__}"
        )
    if length != size:
        state = "truncated" if size < length else "followed by other data"
        raise FileFormatError(f"{name}: expected {length} bytes, got {size}: the file is {state}")
    if header_length > size - HEADER_START:
        raise FileFormatError(
            f"{name}: expected a header within {size} bytes, got one of {header_length} bytes at byte {HEADER_START}"
        )
    return header_length, header_crc


def parse_header(name: str, text: bytes, size: int) -> FileHeader:
    """Check the header of a file of `size` bytes.

    Raises
    ------
    FileFormatError
        If a value is missing, of the wrong type, out of range, or contradicts another.
    """
    try:
        value = json.loads(text.decode("utf-8"), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{name}: expected a header in JSON at byte {HEADER_START}, got: {error}") from None
    return _parse(_Fields(name, "", value), size, HEADER_START + len(text))


def _parse(fields: "_Fields", size: int, header_end: int) -> FileHeader:
    shape = fields.integers("shape", 0, _MOST_CELLS)
    if not 1 <= len(shape) <= 4 or math.prod(max(1, n) for n in shape) > _MOST_CELLS:
        fields.refuse("shape", "1 to 4 extents that memory can address", shape)
    dtype = np.dtype(fields.text("dtype", _DTYPES))
    try:
        codec = _codec(fields.object("codec"))
        grid = BlockGrid(shape, codec.block_shape or ())
        if isinstance(codec, BlockCodec):
            codec.mask(grid.block_shape)
    except FileFormatError:
        raise
    except HpcblazError as error:
        raise FileFormatError(f"{fields.file}: {error}, in codec of the header") from None
    splits = fields.integers("splits", 1, _MOST_CELLS)
    if len(splits) != len(shape):
        fields.refuse("splits", f"{len(shape)} numbers", splits)
    entries = fields.list("parts")
    if math.prod(splits) != len(entries):
        fields.refuse("parts", f"{math.prod(splits)} entries, the product of splits", f"{len(entries)} entries")
    precision = fields.text("precision", ("float32", "float64"))
    layout = Layout(shape, block_shape=grid.block_shape, splits=splits, size=len(entries))
    parts = tuple(
        _part(
            _Fields(fields.file, f"parts[{rank}].", entry),
            *(layout.shape_of(rank), codec, precision, dtype, (size, header_end)),
        )
        for rank, entry in enumerate(entries)
    )
    return FileHeader(
        shape=shape,
        dtype=dtype,
        codec=codec,
        precision=precision,
        factor=fields.number("factor"),
        offset=fields.number("offset"),
        max_abs=fields.bound("max_abs_error"),
        l2=fields.bound("l2_error"),
        magnitude=fields.bound("magnitude"),
        promise=fields.promise("promise"),
        splits=splits,
        parts=parts,
        attributes=fields.object("attributes").value,
        creator=fields.text("creator", None),
    )


def _codec(fields: "_Fields") -> Codec:
    block_shape = fields.integers("block_shape", 1, 16)
    if not 1 <= len(block_shape) <= 4:
        fields.refuse("block_shape", "1 to 4 sides", block_shape)
    transform = fields.text("transform", ("dct", "haar", "identity"))
    if fields.text("kind", ("tolerance", "block")) == "tolerance":
        return ToleranceCodec(block_shape, transform)
    keep = fields.get("keep")
    if isinstance(keep, str):
        cells = math.prod(block_shape)
        try:
            packed = np.frombuffer(bytes.fromhex(keep), np.uint8)
        except ValueError:
            packed = np.zeros(0, np.uint8)
        if packed.size != -(-cells // 8):
            fields.refuse("keep", f"{cells} bits in hexadecimal", keep)
        keep = np.unpackbits(packed, count=cells).astype(np.bool_).reshape(block_shape)
    else:
        keep = fields.number("keep")
    return BlockCodec(block_shape, transform, fields.text("index_dtype", ("int8", "int16", "int32")), keep)


def _part(
    fields: "_Fields",
    shape: tuple[int, ...],
    codec: Codec,
    precision: str,
    dtype: np.dtype[Any],
    limits: tuple[int, int],
) -> PartHeader:
    grid = BlockGrid(shape, codec.block_shape or ())
    counts = [math.prod(map(int, region[4:8])) for region in grid.regions]
    names = ("sizes", "words") if isinstance(codec, ToleranceCodec) else ("scales", "indices")
    sections = {name: _section(fields.object(name), *limits) for name in names}
    found = {name: section.length for name, section in sections.items()}
    if isinstance(codec, ToleranceCodec):
        tiles = sum(-(-count // TILE) for count in counts)
        least = 4 * sum(count // TILE * (FIXED_WORDS + strips_of(TILE)) for count in counts)
        if found["sizes"] != 4 * tiles or found["words"] < least or found["words"] % 4:
            fields.refuse("sizes", f"{4 * tiles} bytes, and at least {least} of words", f"{found}")
        low, high = _EXPONENTS
        exponents = fields.integer("exponent", low, high), fields.integer("mean_exponent", low, high + 15)
        return _with_missing(fields, PartHeader(sections, *exponents), dtype, limits)
    mask = codec.mask(grid.block_shape)
    kept = [int(mask[tuple(slice(0, int(n)) for n in region[12 - grid.ndim :])].sum()) for region in grid.regions]
    expected = {
        "scales": sum(counts) * np.dtype(precision).itemsize,
        "indices": sum(map(int.__mul__, counts, kept)) * np.dtype(codec.index_dtype).itemsize,
    }
    if found != expected:
        fields.refuse("scales", f"sections of {expected} bytes", f"{found}")
    return _with_missing(fields, PartHeader(sections), dtype, limits)


def _with_missing(fields: "_Fields", part: PartHeader, dtype: np.dtype[Any], limits: tuple[int, int]) -> PartHeader:
    """Return the part with its section of missing cells, if it has one."""
    if "missing" not in fields.value:
        return part
    kinds = tuple(fields.list("missing_kinds"))
    allowed = ("fill",) if dtype.kind in "iu" else KINDS
    if any(kind not in allowed for kind in kinds) or len(set(kinds)) != len(kinds):
        fields.refuse("missing_kinds", f"some of {', '.join(allowed)}", kinds)
    value: float | int | None = None
    if "fill" in kinds:
        value = fields.get("fill_value")
        if type(value) not in ((int,) if dtype.kind in "iu" else (int, float)) or not _holds(dtype, value):
            fields.refuse("fill_value", f"a number that {dtype} holds", value)
    sections = {**part.sections, "missing": _section(fields.object("missing"), *limits)}
    return replace(part, sections=sections, kinds=kinds, fill_value=value)


def _holds(dtype: np.dtype[Any], value: Any) -> bool:
    limits: Any = np.iinfo(dtype) if dtype.kind in "iu" else np.finfo(dtype)
    return bool(int(limits.min) <= value <= int(limits.max))


def _section(fields: "_Fields", size: int, header_end: int) -> Section:
    offset = fields.integer("offset", header_end, size + ALIGNMENT)
    length = fields.integer("length", 0, size)
    if length and offset + length > size:
        fields.refuse("length", f"a section within the file's {size} bytes", f"{length} bytes from byte {offset}")
    return Section(offset, length, fields.integer("crc32", 0, 2**32 - 1))


def _plain(header: FileHeader) -> dict[str, Any]:
    """Return the header as JSON has it."""
    codec: dict[str, Any] = {
        "kind": "tolerance",
        "block_shape": list(header.block_shape),
        "transform": header.codec.transform,
    }
    if isinstance(header.codec, BlockCodec):
        keep = header.codec.keep
        codec |= {
            "kind": "block",
            "index_dtype": np.dtype(header.codec.index_dtype).name,
            "keep": np.packbits(keep).tobytes().hex() if isinstance(keep, np.ndarray) else keep,
        }
    parts = []
    for part in header.parts:
        entry: dict[str, Any] = {
            name: {"offset": section.offset, "length": section.length, "crc32": section.crc}
            for name, section in part.sections.items()
        }
        if isinstance(header.codec, ToleranceCodec):
            entry |= {"exponent": part.exponent, "mean_exponent": part.mean_exponent}
        if "missing" in part.sections:
            entry |= {"missing_kinds": list(part.kinds), "fill_value": part.fill_value}
        parts.append(entry)
    return {
        "creator": header.creator,
        "shape": list(header.shape),
        "dtype": header.dtype.name,
        "codec": codec,
        "precision": header.precision,
        "factor": header.factor,
        "offset": header.offset,
        "max_abs_error": _finite(header.max_abs),
        "l2_error": _finite(header.l2),
        "magnitude": _finite(header.magnitude),
        "promise": header.promise,
        "splits": list(header.splits),
        "parts": parts,
        "attributes": header.attributes,
    }


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _json(value: Any) -> bytes:
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"the number {text}")


class _Fields:
    """An object of the header, read with checks."""

    def __init__(self, file: str, prefix: str, value: Any) -> None:
        self.file = file
        self.prefix = prefix
        if not isinstance(value, dict):
            name = prefix.rstrip(".") or "the header"
            raise FileFormatError(f"{file}: expected {name} to be an object, got {str(value)[:60]}")
        self.value: dict[str, Any] = value

    def refuse(self, name: str, expected: str, got: Any) -> NoReturn:
        raise FileFormatError(
            f"{self.file}: expected {self.prefix}{name} of the header to be {expected}, got {str(got)[:100]}"
        )

    def get(self, name: str) -> Any:
        if name not in self.value:
            self.refuse(name, "there", "nothing")
        return self.value[name]

    def integer(self, name: str, low: int, high: int) -> int:
        value = self.get(name)
        if type(value) is not int or not low <= value <= high:
            self.refuse(name, f"an integer from {low} to {high}", value)
        return int(value)

    def integers(self, name: str, low: int, high: int) -> tuple[int, ...]:
        values = self.list(name)
        if any(type(value) is not int or not low <= value <= high for value in values):
            self.refuse(name, f"integers from {low} to {high}", values)
        return tuple(values)

    def number(self, name: str) -> float:
        value = self.get(name)
        if type(value) not in (int, float) or abs(value) > 1.7976931348623157e308:
            self.refuse(name, "a finite number", value)
        return float(value)

    def bound(self, name: str) -> float:
        value = math.inf if self.get(name) is None else self.number(name)
        if value < 0:
            self.refuse(name, "a number that is not negative, or null", value)
        return value

    def promise(self, name: str) -> float | None:
        value = None if self.get(name) is None else self.number(name)
        if value is not None and value <= 0:
            self.refuse(name, "a positive number, or null", value)
        return value

    def text(self, name: str, choices: tuple[str, ...] | None) -> str:
        value = self.get(name)
        if not isinstance(value, str) or (choices is not None and value not in choices):
            self.refuse(name, "text" if choices is None else f"one of {', '.join(choices)}", value)
        return str(value)

    def list(self, name: str) -> list[Any]:
        value = self.get(name)
        if not isinstance(value, list):
            self.refuse(name, "a list", value)
        return list(value)

    def object(self, name: str) -> "_Fields":
        return _Fields(self.file, f"{self.prefix}{name}.", self.get(name))
