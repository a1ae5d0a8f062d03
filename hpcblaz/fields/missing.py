"""Cells without a number: NaN, infinities and fill values, kept without loss beside the compressed field.

Sets of cells are bits in C order, cut into chunks that zlib compresses: coasts, swaths and missing time steps repeat
themselves, and chunks without a member take no space.
"""

import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcblaz.backend.blocks import BlockGrid
from hpcblaz.errors import FileFormatError
from hpcblaz.fields.filling import any_in_blocks

KINDS = ("nan", "+inf", "-inf", "fill")
_CHUNK = 1 << 18  # cells of a chunk: its bits are zlib's window of 32 KiB
_SLAB = 1 << 22  # cells whose flags are looked at together

Cells = tuple[int, ...]


@lru_cache(maxsize=32)
def _inflate(chunk: bytes) -> NDArray[np.uint8]:
    """Return the bits of a chunk, eight a byte."""
    bits = np.frombuffer(zlib.decompress(chunk), np.uint8)
    return bits


def _deflate(bits: NDArray[np.uint8]) -> bytes:
    return zlib.compress(bits.tobytes(), 6) if bits.any() else b""


@dataclass(frozen=True)
class CellSet:
    """A set of cells of an array, numbered in C order.

    Parameters
    ----------
    cells : int
        Cells of the array.
    chunks : tuple of bytes
        The bits of each chunk, compressed; empty where no cell is a member.
    """

    cells: int
    chunks: tuple[bytes, ...]

    @classmethod
    def of(cls, flags: NDArray[np.bool_]) -> "CellSet":
        """Return the set of the cells whose flag is true."""
        flat = flags.reshape(-1)
        chunks = [_deflate(np.packbits(flat[start : start + _CHUNK])) for start in range(0, flat.size, _CHUNK)]
        return cls(flat.size, tuple(chunks))

    @classmethod
    def collect(cls, cells: int, runs: Iterable[NDArray[np.bool_]]) -> "CellSet":
        """Return the set of the flags of all cells, which come in runs one after the other."""
        chunks: list[bytes] = []
        rest = np.zeros(0, np.bool_)
        for run in runs:
            flags = np.concatenate([rest, run.reshape(-1)]) if rest.size else run.reshape(-1)
            whole = flags.size // _CHUNK * _CHUNK
            chunks.extend(cls.of(flags[:whole]).chunks)
            rest = flags[whole:].copy()
        return cls(cells, (*chunks, *cls.of(rest).chunks))

    @cached_property
    def count(self) -> int:
        """Number of members."""
        return sum(int(np.bitwise_count(_inflate(chunk)).sum()) for chunk in self.chunks if chunk)

    @property
    def nbytes(self) -> int:
        """Bytes that the set takes, four a chunk for its length included."""
        return sum(map(len, self.chunks)) + 4 * len(self.chunks)

    def flags(self, start: int, stop: int) -> NDArray[np.bool_]:
        """Return which of the cells from `start` to `stop` are members."""
        flags = np.zeros(stop - start, np.bool_)
        for number in range(start // _CHUNK, -(-stop // _CHUNK)):
            if self.chunks[number]:
                first = number * _CHUNK
                begin, end = max(start, first), min(stop, first + _CHUNK, self.cells)
                bits = np.unpackbits(_inflate(self.chunks[number]), count=min(_CHUNK, self.cells - first))
                flags[begin - start : end - start] = bits[begin - first : end - first]
        return flags

    def window(self, shape: Cells, low: Cells, high: Cells) -> NDArray[np.bool_]:
        """Return the flags of a window of an array of `shape`: cells from `low` to before `high`."""
        lead = next((axis for axis in range(len(shape)) if high[axis] - low[axis] != 1), len(shape) - 1)
        stride = math.prod(shape[lead + 1 :])
        first = 0
        for axis in range(lead):
            first = first * shape[axis] + low[axis]
        first *= shape[lead]
        inner = (low[lead + 1 :], high[lead + 1 :])
        wanted = tuple(h - n for n, h in zip(low, high, strict=True))
        if 0 in wanted:
            return np.zeros(wanted, np.bool_)
        span = math.prod(wanted[lead + 1 :])
        if 8 * span < stride and stride > _CHUNK:  # a few cells of each long row: only these are unpacked
            flat, begin = (self.cells // stride, *shape[lead + 1 :]), first + low[lead]
            rows = [
                self.window(flat, (row, *inner[0]), (row + 1, *inner[1])) for row in range(begin, first + high[lead])
            ]
            return np.concatenate(rows).reshape(wanted)
        flags = self.flags((first + low[lead]) * stride, (first + high[lead]) * stride)
        box = flags.reshape(wanted[lead], *shape[lead + 1 :])
        return box[(slice(None), *[slice(n, h) for n, h in zip(*inner, strict=True)])].reshape(wanted)

    def members(self) -> Iterator[tuple[int, int, NDArray[np.bool_]]]:
        """Yield start, end and flags of every chunk with a member."""
        for number, chunk in enumerate(self.chunks):
            if chunk:
                start = number * _CHUNK
                stop = min(self.cells, start + _CHUNK)
                yield start, stop, self.flags(start, stop)

    def merge(
        self, other: "CellSet", operation: Callable[[NDArray[np.uint8], NDArray[np.uint8]], NDArray[np.uint8]]
    ) -> "CellSet":
        """Return the set of an operation on the bits of both: np.bitwise_or gives the union, for example."""
        nothing = np.zeros(-(-_CHUNK // 8), np.uint8)
        chunks = []
        for one, two in zip(self.chunks, other.chunks, strict=True):
            if not one and not two:
                chunks.append(b"")
                continue
            first = _inflate(one) if one else nothing
            second = _inflate(two) if two else nothing
            length = min(len(first), len(second))
            chunks.append(_deflate(operation(first[:length], second[:length])))
        return CellSet(self.cells, tuple(chunks))

    def union(self, other: "CellSet") -> "CellSet":
        """Return the cells that are in either set."""
        return self.merge(other, np.bitwise_or)

    def without(self, other: "CellSet") -> "CellSet":
        """Return the cells that are in this set and not in the other."""
        return self.merge(other, lambda one, two: one & ~two)

    def common(self, other: "CellSet") -> "CellSet":
        """Return the cells that are in both sets."""
        return self.merge(other, np.bitwise_and)


@dataclass(frozen=True)
class Missing:
    """The cells of an array (of this rank's part) that hold no number, and what they hold instead.

    Parameters
    ----------
    shape : tuple of int
    sets : dict
        From 'nan', '+inf', '-inf' and 'fill' to the cells that hold it; no two share a cell, and none is empty.
    fill_value : int or float, optional
        What cells of the kind 'fill' hold.
    """

    shape: Cells
    sets: dict[str, CellSet]
    fill_value: float | int | None = None
    _blocks: dict[Cells, NDArray[np.bool_]] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(cls, shape: Cells, sets: dict[str, CellSet], fill_value: float | int | None = None) -> "Missing | None":
        """Return the missing cells of some sets, None if there are none."""
        kept = {kind: sets[kind] for kind in KINDS if kind in sets and any(sets[kind].chunks)}
        return cls(shape, kept, fill_value if "fill" in kept else None) if kept else None

    @property
    def nbytes(self) -> int:
        """Bytes that the sets take."""
        return sum(cells.nbytes for cells in self.sets.values())

    @property
    def count(self) -> int:
        """Number of missing cells."""
        return sum(cells.count for cells in self.sets.values())

    def value(self, kind: str) -> float | int:
        """Return what cells of a kind hold."""
        if kind == "fill" and self.fill_value is not None:
            return self.fill_value
        return float(kind)

    def window(self, low: Cells, high: Cells) -> NDArray[np.bool_]:
        """Return which cells of a window are missing, bool, of the window's shape."""
        flags = [cells.window(self.shape, low, high) for cells in self.sets.values()]
        return flags[0] if len(flags) == 1 else np.logical_or.reduce(flags)

    def put(self, values: Any, low: Cells, high: Cells, place: Callable[[NDArray[np.bool_]], Any]) -> None:
        """Write what missing cells hold into the values of a window.

        Parameters
        ----------
        values : numpy.ndarray or cupy.ndarray
            C-contiguous, of the window's shape.
        low, high : tuple of int
            The window.
        place : callable
            Brings flags to the device of the values.
        """
        whole = all(n == 0 for n in low) and high == self.shape
        for kind, cells in self.sets.items():
            value = self.value(kind)
            if whole:
                flat = values.reshape(-1)
                for start, stop, flags in cells.members():
                    flat[start:stop][place(flags)] = value
            else:
                flags = cells.window(self.shape, low, high)
                if flags.any():
                    values[place(flags)] = value

    def blocks(self, grid: BlockGrid) -> NDArray[np.bool_]:
        """Return which blocks of a grid have a missing cell, bool, of shape ``grid.blocks``."""
        if grid.block_shape not in self._blocks:
            flags = np.zeros(grid.blocks, np.bool_)
            rows = max(1, _SLAB // max(1, math.prod(grid.shape[1:]) * grid.block_shape[0])) * grid.block_shape[0]
            for start in range(0, grid.shape[0], rows):
                stop = min(grid.shape[0], start + rows)
                part = self.window((start,) + (0,) * (grid.ndim - 1), (stop, *grid.shape[1:]))
                if part.any():
                    found = any_in_blocks(part, grid.block_shape)
                    first = start // grid.block_shape[0]
                    flags[first : first + len(found)] = found
            self._blocks[grid.block_shape] = flags
        return self._blocks[grid.block_shape]

    def with_dtype(self, dtype: np.dtype[Any]) -> "Missing":
        """Return the same cells for another floating-point type: NaN where it cannot hold the fill value."""
        if self.fill_value is None or abs(self.fill_value) <= float(np.finfo(dtype).max):
            return self
        sets = {**self.sets, "nan": _joined(self.sets.get("nan"), self.sets["fill"])}
        del sets["fill"]
        return Missing(self.shape, sets)

    def scaled(self, factor: float) -> "Missing":
        """Return what is missing of a multiple: infinities keep or change their sign, and are NaN times zero."""
        names = {"+inf": "+inf", "-inf": "-inf"}
        if factor < 0:
            names = {"+inf": "-inf", "-inf": "+inf"}
        elif factor == 0:
            names = {"+inf": "nan", "-inf": "nan"}
        sets: dict[str, CellSet] = {}
        for kind, cells in self.sets.items():
            name = names.get(kind, kind)
            sets[name] = _joined(sets.get(name), cells)
        return Missing(self.shape, sets, self.fill_value)


def _joined(one: CellSet | None, two: CellSet) -> CellSet:
    return two if one is None else one.union(two)


def sum_of(a: Missing | None, b: Missing | None) -> Missing | None:
    """Return what is missing of a sum: the union; fill values stay, then NaN, and opposite infinities become NaN."""
    if a is None or b is None:
        return a if b is None else b
    nothing = CellSet(math.prod(a.shape), (b"",) * -(-math.prod(a.shape) // _CHUNK))

    def either(kind: str) -> CellSet:
        return a.sets.get(kind, nothing).union(b.sets.get(kind, nothing))

    fill, nan, high, low = either("fill"), either("nan"), either("+inf"), either("-inf")
    nan = nan.union(high.common(low)).without(fill)
    taken = fill.union(nan)
    sets = {"fill": fill, "nan": nan, "+inf": high.without(taken), "-inf": low.without(taken)}
    return Missing.of(a.shape, sets, a.fill_value if a.fill_value is not None else b.fill_value)


def find(values: Any, xp: Any, asnumpy: Callable[[Any], NDArray[Any]]) -> dict[str, NDArray[np.bool_]]:
    """Return the cells that are not finite, as flags in host memory, by kind."""
    found = {"nan": xp.isnan(values)}
    if not bool((found["nan"] | xp.isfinite(values)).all()):
        found |= {"+inf": values == np.inf, "-inf": values == -np.inf}
    return {kind: asnumpy(flags) for kind, flags in found.items() if bool(flags.any())}


def stack(shape: Cells, slabs: Sequence[tuple[Missing | None, Cells]]) -> Missing | None:
    """Return what is missing of an array from what is missing of slabs along its first axis, each with its shape."""
    kinds = {kind for missing, _ in slabs if missing is not None for kind in missing.sets}
    values = [missing.fill_value for missing, _ in slabs if missing is not None and missing.fill_value is not None]

    def flags(kind: str) -> Iterator[NDArray[np.bool_]]:
        for missing, extents in slabs:
            cells = math.prod(extents)
            found = missing is not None and kind in missing.sets
            yield missing.sets[kind].flags(0, cells) if missing and found else np.zeros(cells, np.bool_)

    sets = {kind: CellSet.collect(math.prod(shape), flags(kind)) for kind in kinds}
    return Missing.of(shape, sets, values[0] if values else None)


def join(shape: Cells, pieces: Iterable[tuple[Missing | None, Cells, Cells]]) -> Missing | None:
    """Return what is missing of an array from what is missing of its pieces.

    Parameters
    ----------
    shape : tuple of int
        Of the array.
    pieces : iterable of (Missing or None, tuple of int, tuple of int)
        Each with its shape, and with the index of its first cell in the array, which may be outside.
    """
    flags: dict[str, NDArray[np.bool_]] = {}
    fill_value = None
    for missing, extents, offset in pieces:
        if missing is None:
            continue
        fill_value = missing.fill_value if fill_value is None else fill_value
        begin = tuple(max(0, o) for o in offset)
        end = tuple(min(n, o + extent) for n, o, extent in zip(shape, offset, extents, strict=True))
        if any(b >= e for b, e in zip(begin, end, strict=True)):
            continue
        low = tuple(b - o for b, o in zip(begin, offset, strict=True))
        high = tuple(e - o for e, o in zip(end, offset, strict=True))
        place = tuple(slice(b, e) for b, e in zip(begin, end, strict=True))
        for kind, cells in missing.sets.items():
            flags.setdefault(kind, np.zeros(shape, np.bool_))[place] = cells.window(extents, low, high)
    return Missing.of(shape, {kind: CellSet.of(found) for kind, found in flags.items()}, fill_value)


def to_bytes(missing: Missing) -> bytes:
    """Return the sets as a section of a file has them: the lengths of all chunks, and the chunks, kind by kind."""
    parts = []
    for cells in missing.sets.values():
        parts.append(np.array([len(chunk) for chunk in cells.chunks], "<u4").tobytes())
        parts.extend(cells.chunks)
    return b"".join(parts)


def from_bytes(data: bytes, shape: Cells, kinds: Iterable[str], fill_value: float | int | None) -> Missing | None:
    """Return the sets of a section, checked.

    Raises
    ------
    FileFormatError
        If it is not what :func:`to_bytes` writes; the caller adds which file it is.
    """
    cells = math.prod(shape)
    number = -(-cells // _CHUNK)
    sets: dict[str, CellSet] = {}
    position = 0
    for kind in kinds:
        lengths = np.frombuffer(data[position : position + 4 * number], "<u4")
        position += 4 * number
        if len(lengths) != number or position + int(lengths.sum(dtype=np.int64)) > len(data):
            raise FileFormatError(f"expected {number} chunks of missing cells, got {len(data)} bytes that end before")
        chunks = []
        for i, length in enumerate(lengths):
            chunk = data[position : position + int(length)]
            position += int(length)
            if chunk:
                _check_chunk(chunk, min(_CHUNK, cells - i * _CHUNK))
            chunks.append(chunk)
        sets[kind] = CellSet(cells, tuple(chunks))
    if position != len(data):
        raise FileFormatError(f"expected {position} bytes of missing cells, got {len(data)}")
    return Missing.of(shape, sets, fill_value)


def _check_chunk(chunk: bytes, cells: int) -> None:
    """Raise FileFormatError unless a chunk has exactly the bits of its cells, and a member."""
    size = -(-cells // 8)
    inflater = zlib.decompressobj()
    try:
        bits = inflater.decompress(chunk, size + 1)
    except zlib.error as error:
        raise FileFormatError(f"expected compressed flags of missing cells, got: {error}") from None
    spare = bits[-1] & ((1 << (-cells % 8)) - 1) if bits else 0
    if len(bits) != size or not inflater.eof or inflater.unused_data or spare or not any(bits):
        raise FileFormatError(f"expected the flags of {cells} cells, got {len(bits)} bytes of other contents")
