"""Files of compressed arrays: what is written is read, and nothing else ever is."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import hpcblaz as hb
from hpcblaz.backend import cpu
from hpcblaz.backend.blocks import BlockGrid
from hpcblaz.errors import FileFormatError, LayoutError, StorageError, UnsupportedOperationError
from hpcblaz.fields.codec import BlockCodec, ToleranceCodec, empty_blocks
from hpcblaz.fields.fileformat import HEADER_START, PREAMBLE
from hpcblaz.fields.scalars import ErrorBound
from hpcblaz.fields.storage import read_header
from hpcblaz.mpi import Layout

# Few kinds of packed blocks: each compiles kernels of its own
PACKED = {1: ((16,), "float64"), 2: ((8, 8), "float32"), 3: ((4, 4, 4), "float32")}
FIXED = {1: (4,), 2: (8, 2), 3: (4, 4, 4), 4: (2, 4, 1, 2)}
SLOW = {"suppress_health_check": [HealthCheck.function_scoped_fixture, HealthCheck.too_slow], "deadline": None}


def packed(shape: tuple[int, ...], rng: np.random.Generator, **changes: Any) -> hb.CompressedArray:
    """An array of arbitrary integers, made without the encoder."""
    sides, precision = PACKED[len(shape)]
    grid = BlockGrid(shape, sides)
    numerics = cpu.Numerics(grid, "dct", precision)
    bits = rng.integers(0, 30, (*grid.blocks, 1))
    indices = rng.integers(-(2**30), 2**30, (*grid.blocks, grid.block_size)) >> bits
    indices[..., 1:] *= rng.random((*grid.blocks, 1)) < 0.8
    levels = rng.integers(0, 16, grid.blocks)
    blocks = cpu.from_integers(indices.astype(np.int32), levels.astype(np.int8), numerics, -7, -4)
    return array_of(blocks, numerics, ToleranceCodec(sides), **changes)


def fixed(shape: tuple[int, ...], rng: np.random.Generator, codec: BlockCodec, **changes: Any) -> hb.CompressedArray:
    numerics = cpu.Numerics(BlockGrid(shape, codec.block_shape or ()), codec.transform, "float64")
    blocks = empty_blocks(codec, numerics)
    blocks.indices[...] = rng.integers(-blocks.limit, blocks.limit, blocks.indices.shape)
    blocks.scales[...] = rng.random(blocks.scales.shape)
    return array_of(blocks, numerics, codec, **changes)


def array_of(blocks: Any, numerics: cpu.Numerics, codec: Any, **changes: Any) -> hb.CompressedArray:
    arguments: dict[str, Any] = {"magnitude": 3.5, "factor": -0.1, "offset": 1e300, "promise": 0.25} | changes
    dtype = np.dtype(arguments.pop("dtype", "float32"))
    error = arguments.pop("error", ErrorBound(0.125, 1 / 3))
    return hb.CompressedArray(blocks, numerics, codec, dtype, error, **arguments)


def payload(a: hb.CompressedArray) -> list[Any]:
    """All that makes the values of an array, as comparable values."""
    blocks = a._blocks
    if isinstance(blocks, cpu.PackedBlocks):
        words = blocks.words[: blocks.offsets[-1]]
        return [words.tobytes(), blocks.offsets.tobytes(), blocks.exponent, blocks.mean_exponent]
    return [values.tobytes() for values in (blocks.indices, blocks.scales, blocks.starts, blocks.kept)]


def state(a: hb.CompressedArray) -> list[Any]:
    numbers = [a._factor, a._offset, a._magnitude, a._promise, a._field_error]
    return [a.shape, a.dtype, a.codec, a._numerics.precision, a.layout, a.attributes, *numbers, *payload(a)]


def integers(a: hb.CompressedArray) -> tuple[np.ndarray[Any, Any], ...]:
    """Integers and steps of every block of a packed array."""
    indices, levels = cpu.to_integers(a._blocks, a._numerics)
    used = indices[..., 1:].any(axis=-1)
    return indices, np.where(used, levels + a._blocks.exponent, 0)


def blocks_of(a: hb.CompressedArray, offset: tuple[int, ...] | None = None) -> dict[tuple[int, ...], Any]:
    """Scale and indices of every block of a fixed array, by its first cell, read as docs/format.md says."""
    grid, blocks = a._numerics.grid, a._blocks
    found = {}
    position = number = 0
    for region, kept in zip(grid.regions.tolist(), blocks.kept, strict=True):
        cells = list(np.ndindex(*region[4:8]))
        for first in range(0, len(cells), 16):
            strip = cells[first : first + 16]
            rows = blocks.indices[position : position + len(strip) * kept[0]].reshape(kept[0], len(strip))
            position += rows.size
            for lane, block in enumerate(strip):
                cell = [start + side * b for start, side, b in zip(region, grid.sides, block, strict=False)]
                place = tuple(np.add(cell[4 - grid.ndim :], offset or 0).tolist())
                found[place] = (blocks.scales[number], rows[:, lane].tolist(), kept[1 : 1 + kept[0]].tolist())
                number += 1
    assert (position, number) == (blocks.indices.size, blocks.scales.size)
    return found


shapes = st.integers(1, 3).flatmap(lambda n: st.tuples(*[st.integers(0, 40)] * n))
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, **SLOW)
@given(shape=shapes, seed=st.integers(0, 99), attributes=st.dictionaries(texts, json_values, max_size=3))
def test_packed_arrays_come_back(tmp_path: Path, shape: tuple[int, ...], seed: int, attributes: dict[str, Any]) -> None:
    path = tmp_path / "a.hbz"
    a = packed(shape, np.random.default_rng(seed))
    hb.save(a, path, attributes=attributes)
    b = hb.load(path)
    assert b.attributes == attributes
    assert state(b)[6:] == state(a)[6:] and state(b)[:5] == state(a)[:5]
    b.save(path)
    assert state(hb.load(path)) == state(b), "attributes are kept"
    assert os.listdir(tmp_path) == ["a.hbz"]


@settings(max_examples=60, **SLOW)
@given(
    shape=st.integers(1, 4).flatmap(lambda n: st.tuples(*[st.integers(0, 13)] * n)),
    seed=st.integers(0, 99),
    index_dtype=st.sampled_from(["int8", "int16", "int32"]),
    keep=st.none() | st.floats(0.01, 1),
    size=st.integers(1, 7),
)
def test_fixed_arrays_come_back(
    tmp_path: Path, shape: tuple[int, ...], seed: int, index_dtype: str, keep: float | None, size: int
) -> None:
    rng = np.random.default_rng(seed)
    sides = FIXED[len(shape)]
    mask = rng.random(sides) < 0.5
    mask.flat[0] = True
    codec = BlockCodec(sides, "haar", index_dtype, mask if keep is None else keep)
    a = fixed(shape, rng, codec, dtype="float16", promise=None)
    path = tmp_path / "a.hbz"
    a.save(path)
    assert state(hb.load(path)) == state(a)
    whole = blocks_of(a)
    found: dict[Any, Any] = {}
    for rank in range(size):
        layout = Layout(shape, rank=rank, size=size, block_shape=sides)
        part = hb.load(path, layout)
        assert part.layout == layout
        found |= blocks_of(part, layout.offset)
    assert found == whole


@settings(max_examples=40, **SLOW)
@given(shape=shapes, seed=st.integers(0, 99), size=st.integers(1, 9), data=st.data())
def test_any_part_has_the_integers_of_the_whole(
    tmp_path: Path, shape: tuple[int, ...], seed: int, size: int, data: st.DataObject
) -> None:
    path = tmp_path / "a.hbz"
    a = packed(shape, np.random.default_rng(seed))
    a.save(path)
    indices, steps = integers(a)
    sides = a.codec.block_shape or ()
    for rank in data.draw(st.sets(st.integers(0, size - 1), min_size=1, max_size=3)):
        layout = Layout(shape, rank=rank, size=size, block_shape=sides)
        part = hb.load(path, layout)
        assert (part.layout, part._field_error, part._promise) == (layout, a._field_error, a._promise)
        if all(layout.local_shape):
            which = tuple(
                slice(s.start // side, -(-s.stop // side)) for s, side in zip(layout.slices, sides, strict=True)
            )
            part_indices, part_steps = integers(part)
            np.testing.assert_array_equal(part_indices, indices[which])
            np.testing.assert_array_equal(part_steps, steps[which])


def test_values_and_certificates_are_those_of_the_array(tmp_path: Path) -> None:
    x = np.random.default_rng(1).normal(size=(30, 21, 18)).astype(np.float32).cumsum(0)
    a = 2 * hb.compress(x, relative=1e-3) + 1
    a.save(tmp_path / "a.hbz")
    b = hb.load(tmp_path / "a.hbz")
    np.testing.assert_array_equal(a.decompress(), b.decompress())
    assert a.error == b.error and repr(a) == repr(b)
    assert (float(a.mean()), a.mean().error) == (float(b.mean()), b.mean().error)
    np.testing.assert_array_equal((a - b).decompress(), 0)


def test_unbounded_numbers_come_back(tmp_path: Path) -> None:
    a = packed((9,), np.random.default_rng(0), error=ErrorBound(np.inf, np.inf), magnitude=np.inf, promise=None)
    a.save(tmp_path / "a.hbz")
    assert state(hb.load(tmp_path / "a.hbz")) == state(a)


def test_the_permissions_and_the_link_of_an_old_file_are_kept(tmp_path: Path) -> None:
    a = packed((9,), np.random.default_rng(0))
    target, link = tmp_path / "target", tmp_path / "link.hbz"
    target.write_bytes(b"old")
    target.chmod(0o640)
    link.symlink_to(target)
    a.save(link)
    assert link.is_symlink() and state(hb.load(target)) == state(a)
    assert target.stat().st_mode & 0o777 == 0o640


def test_a_file_from_a_big_endian_machine_is_the_same(tmp_path: Path) -> None:
    """The sections are little-endian, whatever the byte order of the arrays in memory."""
    a = packed((9, 9), np.random.default_rng(0))
    blocks = a._blocks
    swapped = a._replace(
        blocks=cpu.PackedBlocks(blocks.words.astype(">u4"), blocks.offsets.astype(">i8"), -7, -4), promise=a._promise
    )
    a.save(tmp_path / "a.hbz")
    swapped.save(tmp_path / "b.hbz")
    assert (tmp_path / "a.hbz").read_bytes() == (tmp_path / "b.hbz").read_bytes()


# Errors


def test_what_cannot_be_saved(tmp_path: Path) -> None:
    a = packed((9,), np.random.default_rng(0))
    with pytest.raises(UnsupportedOperationError, match="compress it first"):
        hb.save(np.zeros(3), tmp_path / "a.hbz")  # type: ignore[arg-type]
    for attributes in ({"x": np.nan}, {"x": object()}, {1: 2}, {"x": np.zeros(3)}):
        with pytest.raises(StorageError, match="attributes"):
            a.save(tmp_path / "a.hbz", attributes=attributes)
    with pytest.raises(LayoutError, match="communicator of its 3 ranks"):
        a._replace(layout=Layout((9,), rank=0, size=3, block_shape=(16,))).save(tmp_path / "a.hbz")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["missing/a.hbz", "folder", "a" * 300, "/dev/null"])
def test_where_nothing_can_be_saved(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match="expected"):
        packed((9,), np.random.default_rng(0)).save(tmp_path / name)
    assert os.listdir(tmp_path) == ["folder"]


def test_what_cannot_be_loaded(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no such file") as caught:
        hb.load(tmp_path / "missing.hbz")
    assert caught.value.errno == errno.ENOENT
    with pytest.raises(StorageError, match="folder"):
        hb.load(tmp_path)
    packed((20, 20), np.random.default_rng(0)).save(tmp_path / "a.hbz")
    for layout in (Layout((20, 21), block_shape=(8, 8)), Layout((20, 20), block_shape=(4, 4))):
        with pytest.raises(LayoutError, match="as in the file"):
            hb.load(tmp_path / "a.hbz", layout)


@pytest.mark.parametrize(("number", "message"), [(errno.ENOSPC, "full"), (errno.EDQUOT, "quota"), (errno.EIO, "error")])
@pytest.mark.parametrize("function", ["pwrite", "fsync", "replace"])
def test_a_full_disk_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, message: str, function: str
) -> None:
    a, b = (packed((40, 9), np.random.default_rng(seed)) for seed in (0, 1))
    path = tmp_path / "a.hbz"
    a.save(path)

    def fail(*arguments: Any) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, function, fail)
        with pytest.raises(StorageError, match=message) as caught:
            b.save(path)
    assert caught.value.errno == number
    assert os.listdir(tmp_path) == ["a.hbz"]
    assert state(hb.load(path)) == state(a)


WRITER = """
import sys, os, signal, resource
import numpy as np, hpcblaz as hb
from hpcblaz.mpi.atomic import AtomicFile
from hpcblaz.fields.codec import BlockCodec, empty_blocks
from hpcblaz.backend import cpu
from hpcblaz.backend.blocks import BlockGrid
codec = BlockCodec((8, 8))
numerics = cpu.Numerics(BlockGrid((600, 600), (8, 8)), "dct", "float32")
a = hb.CompressedArray(empty_blocks(codec, numerics), numerics, codec, np.dtype("f4"), hb.ErrorBound(0, 0), magnitude=0)
path, what = sys.argv[1:]
if what == "limit":
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    try:
        a.save(path)
    except hb.errors.StorageError as error:
        sys.exit(str(error))
else:
    setattr(os, what, lambda *arguments: os.kill(os.getpid(), signal.SIGKILL))
    a.save(path)
"""


def write_in_another_process(path: Path, what: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", WRITER, str(path), what], capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("what", ["pwrite", "fsync", "replace"])
def test_a_killed_writer_leaves_the_old_file(tmp_path: Path, what: str) -> None:
    path = tmp_path / "a.hbz"
    a = packed((40, 9), np.random.default_rng(0))
    a.save(path)
    assert write_in_another_process(path, what).returncode == -signal.SIGKILL
    assert state(hb.load(path)) == state(a)


def test_a_limit_of_the_file_size(tmp_path: Path) -> None:
    path = tmp_path / "a.hbz"
    a = packed((40, 9), np.random.default_rng(0))
    a.save(path)
    found = write_in_another_process(path, "limit")
    assert found.returncode == 1 and "larger than this process may write" in found.stderr, found
    assert os.listdir(tmp_path) == ["a.hbz"]
    assert state(hb.load(path)) == state(a)


# Damage


def rewrite(content: bytes, change: Callable[[dict[str, Any]], Any]) -> bytes:
    """Change the header of a file, and make all its checksums and lengths right again."""
    length = PREAMBLE.unpack_from(content)[3]
    header = json.loads(content[HEADER_START : HEADER_START + length])
    first = min((s["offset"] for part in header["parts"] for s in part.values() if isinstance(s, dict)), default=0)
    header = change(header) or header
    text = json.dumps(header).encode() if not isinstance(header, bytes) else header
    body = content[first:]
    return assemble(text.ljust(first - HEADER_START), body)


def assemble(text: bytes, body: bytes, version: int = 1, length: int | None = None) -> bytes:
    total = HEADER_START + len(text) + len(body) if length is None else length
    fixed_part = PREAMBLE.pack(b"\x89hbz\r\n\x1a\n", version, zlib.crc32(text), len(text), total, 0)[:-4]
    return (fixed_part + struct.pack("<I", zlib.crc32(fixed_part))).ljust(HEADER_START, b"\0") + text + body


@pytest.fixture(params=["packed", "fixed"])
def sample(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, bytes, list[Any]]]:
    rng = np.random.default_rng(5)
    if request.param == "packed":
        a = packed((9, 10, 21), rng)
    else:
        a = fixed((9, 10, 21), rng, BlockCodec((4, 4, 4), keep=np.arange(64).reshape(4, 4, 4) % 3 == 0))
    path = tmp_path / "a.hbz"
    a.save(path, attributes={"name": "sample"})
    loaded = hb.load(path)
    yield path, path.read_bytes(), state(loaded)


def outcome(path: Path, content: bytes) -> list[Any] | None:
    """Return the state of what is loaded, None if the file is refused; any other error fails the test."""
    path.write_bytes(content)
    try:
        return state(hb.load(path))
    except FileFormatError as error:
        assert str(path) in str(error) and "expected" in str(error) and "got" in str(error)
        return None


def test_every_truncation_is_refused(sample: tuple[Path, bytes, list[Any]]) -> None:
    path, content, _ = sample
    for length in {*range(0, len(content), 7), *range(100), *range(len(content) - 100, len(content))}:
        assert outcome(path, content[:length]) is None, length
    with pytest.raises(FileFormatError, match="truncated"):
        hb.load(path)


def test_every_flipped_byte_is_noticed(sample: tuple[Path, bytes, list[Any]]) -> None:
    path, content, whole = sample
    rng = np.random.default_rng(0)
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << rng.integers(8)
        assert outcome(path, bytes(damaged)) in (None, whole), position


def test_random_damage_is_noticed(sample: tuple[Path, bytes, list[Any]]) -> None:
    path, content, whole = sample
    rng = np.random.default_rng(1)
    refused = 0
    for _ in range(1500):
        damaged = bytearray(content)
        for _ in range(rng.integers(1, 4)):
            at, to, size = rng.integers(0, len(damaged), 3) if damaged else (0, 0, 0)
            kind = rng.integers(6)
            if kind == 0:
                damaged[at : at + size % 64] = rng.bytes(size % 64)
            elif kind == 1:
                damaged[at:at] = rng.bytes(size % 64)
            elif kind == 2:
                del damaged[at : at + size % 64]
            elif kind == 3:  # splice
                damaged[at : at + size] = damaged[to : to + size]
            elif kind == 4:
                damaged[at : at + size % 512] = bytes(size % 512)
            else:
                damaged += damaged[at:to]
        found = outcome(path, bytes(damaged))
        assert found in (None, whole)
        refused += found is None
    assert refused > 1300


def test_damage_with_right_checksums_is_safe(sample: tuple[Path, bytes, list[Any]]) -> None:
    """A forged payload is refused, or gives an array that can be computed with; it never leaves its own memory."""
    path, content, _ = sample
    rng = np.random.default_rng(2)
    header = read_header(path)
    sections = header.parts[0].sections
    refused = 0
    for round_number in range(1500):
        damaged = bytearray(content)
        for name in sections if round_number % 4 == 0 else [list(sections)[1]]:
            section = sections[name]
            for _ in range(rng.integers(1, 3)):
                at = section.offset + 4 * rng.integers(section.length // 4)
                if round_number % 2:
                    damaged[at + rng.integers(4)] ^= 1 << rng.integers(8)
                else:
                    damaged[at : at + 4] = rng.bytes(4)

        def mend(found: dict[str, Any], damaged: bytes = bytes(damaged)) -> None:
            for name in sections:
                entry = found["parts"][0][name]
                entry["crc32"] = zlib.crc32(damaged[entry["offset"] : entry["offset"] + entry["length"]])

        found = outcome(path, rewrite(bytes(damaged), mend))
        refused += found is None
        if found is not None and round_number % 5 == 0:
            with np.errstate(all="ignore"):
                hb.load(path).decompress()
    assert 0 < refused < 1500


def put(where: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """Return a change of one value of a header, named by its path."""

    def change(header: dict[str, Any]) -> None:
        *parents, last = where.split(".")
        target: Any = header
        for name in parents:
            target = target[int(name) if isinstance(target, list) else name]
        if value is KeyError:
            del target[last]
        else:
            target[int(last) if isinstance(target, list) else last] = value

    return change


NAMES = ["creator", "shape", "dtype", "codec", "precision", "factor", "offset", "splits", "parts", "attributes"]
BAD_VALUES: dict[str, list[Any]] = {
    "shape": [[], [1, 2], [9, 10, 2**62], [2**40, 2**40, 0], [-9, 10, 21], [9.0, 10, 21], [True, 10, 21], [9, 10, 200]],
    "dtype": ["float128", "object", "<f4", "V8", ""],
    "codec.kind": ["zip", "tolerance" + "s"],
    "codec.block_shape": [[4, 4], [4, 4, 3], [16, 16, 16, 16], [4] * 10_000, [0, 4, 4], [4, 4, 2]],
    "codec.transform": ["fft", "DCT"],
    "precision": ["float16", "int32"],
    "factor": [1e999, "1", True, 10**400],
    "offset": ["nan", []],
    "max_abs_error": [-1.0, "1"],
    "l2_error": [-1e-300],
    "magnitude": [-1],
    "promise": [0, -1, "x"],
    "splits": [[1, 1], [1, 1, 2], [0, 1, 1], [1, 1, 1.0], [2**60, 1, 1]],
    "parts": [[], [{}], [None], [[]]],
    "attributes": [[], "x"],
    "creator": [1, None],
}
FIRST = "parts.0."
BAD_SECTIONS = {
    "packed": {
        FIRST + "exponent": [5000, -5000, 0.5, None],
        FIRST + "mean_exponent": [5000, True],
        FIRST + "words.offset": [0, -1, 2**70, 10**9],
        FIRST + "words.length": [-4, 2**62, 3, 0],
        FIRST + "sizes.length": [0, 4, 2**40],
        FIRST + "words.crc32": [-1, 2**32, 1],
        FIRST + "words": [KeyError, None],
    },
    "fixed": {
        FIRST + "scales.length": [0, 8, 2**50],
        FIRST + "indices.length": [0, 1, 2**50],
        FIRST + "indices.offset": [0, 2**63],
        FIRST + "indices": [KeyError, 3],
        "codec.index_dtype": ["int16", "int64", 8],
        "codec.keep": ["", "zz", "ff", 0, 2.0, None, [True], "0" * 16],
    },
}


@pytest.mark.parametrize("sample", ["packed", "fixed"], indirect=True)
def test_forged_headers_are_refused(sample: tuple[Path, bytes, list[Any]], request: pytest.FixtureRequest) -> None:
    path, content, whole = sample
    kind = request.node.callspec.params["sample"]
    assert outcome(path, rewrite(content, lambda header: None)) == whole
    bounds = ["max_abs_error", "l2_error", "magnitude", "promise"]
    changes = [put(name, KeyError) for name in (*NAMES, *bounds)] + [put(name, None) for name in NAMES]
    for table in (BAD_VALUES, BAD_SECTIONS[kind]):
        changes += [put(name, value) for name, values in table.items() for value in values]
    for number, change in enumerate(changes):
        assert outcome(path, rewrite(content, change)) is None, (number, change.__closure__)


@pytest.mark.parametrize(
    "text",
    [b"", b"[]", b"null", b"{", b"\xff", b"[" * 100_000, b'{"factor": NaN}', b'{"shape": ' + b"9" * 5000 + b"}", b"{}"],
)
def test_headers_that_are_none_are_refused(tmp_path: Path, text: bytes) -> None:
    assert outcome(tmp_path / "a.hbz", assemble(text, b"")) is None


def test_other_files_are_refused(sample: tuple[Path, bytes, list[Any]]) -> None:
    path, content, _ = sample
    cases = {
        "not|other contents": [b"PK\x03\x04" * 50, bytes(1000), b"\x93NUMPY" + bytes(100)],
        "version of at most 2, got 3: read it with a newer": [assemble(b"{}", b"", version=3)],
        "truncated": [assemble(b"{}", b"", length=2**60), content[:60]],
        "followed by other data": [content + b"x"],
        "other contents at byte 0|truncated": [b"", content[:5], content[:39]],
    }
    for message, contents in cases.items():
        for other in contents:
            path.write_bytes(other)
            with pytest.raises(FileFormatError, match=message):
                hb.load(path)


def test_absurd_sizes_ask_for_no_memory(tmp_path: Path) -> None:
    """A header within its own checksums that claims exabytes is refused before anything is allocated."""
    path = tmp_path / "a.hbz"
    packed((9, 10, 21), np.random.default_rng(0)).save(path)
    content = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (in_use + 2**28, limits[1]))
    try:
        for shape in ([2**19] * 3, [2**58, 1, 1], [2**20, 2**20, 4]):
            assert outcome(path, rewrite(content, put("shape", shape))) is None
            for length in (2**40, 2**62):
                assert outcome(path, rewrite(content, put("parts.0.sizes.length", length))) is None
    finally:
        resource.setrlimit(resource.RLIMIT_AS, limits)


@pytest.mark.parametrize("missing", [False, True])
def test_bytes_are_those_of_the_file(tmp_path: Path, missing: bool) -> None:
    x = np.random.default_rng(7).normal(size=(20, 31))
    x[4:9, 3:18] = np.nan if missing else 0.0
    a = hb.compress(x, tolerance=1e-3)
    a.save(tmp_path / "a.hbz", attributes={"units": "m"})
    data = hb.dumps(a, attributes={"units": "m"})
    assert data == (tmp_path / "a.hbz").read_bytes()
    for buffer in (data, bytearray(data), memoryview(data), np.frombuffer(data, np.uint8)):
        b = hb.loads(buffer)
        np.testing.assert_array_equal(b.decompress(), a.decompress())
        assert b.attributes == {"units": "m"} and b.error == a.error
    with pytest.raises(FileFormatError, match="buffer: expected"):
        hb.loads(data[:-1])
    with pytest.raises(FileFormatError, match="buffer: expected"):
        hb.loads(b"")
    with pytest.raises(UnsupportedOperationError, match="to save, got ndarray"):
        hb.dumps(x)  # type: ignore[arg-type]
