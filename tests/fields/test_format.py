"""docs/format.md is enough to read a file: a reader that uses nothing of the package."""

from __future__ import annotations

import itertools
import json
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hpcblaz as hb

Values = np.ndarray[Any, Any]


def read(path: Path) -> tuple[dict[str, Any], Values]:
    """Return the header and the samples of a file of one part."""
    content = path.read_bytes()
    assert content[:8] == b"\x89hbz\r\n\x1a\n"
    number = [int.from_bytes(content[i : i + 4], "little") for i in range(8, 40, 4)]
    length = number[2] | number[3] << 32
    assert number[0] == 1 and number[6] == zlib.crc32(content[:32]) and number[7] == 0
    assert number[1] == zlib.crc32(content[40 : 40 + length]) and number[4] | number[5] << 32 == len(content)
    header = json.loads(content[40 : 40 + length])
    (part,) = header["parts"]
    sections = {}
    for name, place in part.items():
        if isinstance(place, dict):
            sections[name] = content[place["offset"] : place["offset"] + place["length"]]
            assert zlib.crc32(sections[name]) == place["crc32"]
    pad = 4 - len(header["shape"])
    shape, sides = (1,) * pad + tuple(header["shape"]), (1,) * pad + tuple(header["codec"]["block_shape"])
    samples = np.zeros(shape)
    coefficients = packed if header["codec"]["kind"] == "tolerance" else fixed
    for cells, extents, found in coefficients(header, part, sections, shape, sides):
        block = found.reshape(sides)[tuple(slice(0, m) for m in extents)]
        for axis, m in enumerate(extents):
            block = np.moveaxis(np.tensordot(matrix(header["codec"]["transform"], m).T, block, (1, axis)), 0, axis)
        samples[tuple(slice(cell, cell + m) for cell, m in zip(cells, extents, strict=True))] = block
    return header, samples.reshape(header["shape"])


def matrix(kind: str, m: int) -> Values:
    if kind == "dct":
        return np.array(
            [
                [math.sqrt((2 if k else 1) / m) * math.cos(math.pi * (2 * i + 1) * k / (2 * m)) for i in range(m)]
                for k in range(m)
            ]
        )
    rows = [np.full(m, 1 / math.sqrt(m))]
    intervals = [(0, m)]
    for first, n in intervals:  # grows while it is walked through
        left, right = n - n // 2, n // 2
        if n > 1:
            row = np.zeros(m)
            row[first : first + left] = math.sqrt(right / (left * n))
            row[first + left : first + n] = -math.sqrt(left / (right * n))
            rows.append(row)
            intervals += [(first, left), (first + left, right)]
    return np.array(rows)


def regions(shape: tuple[int, ...], sides: tuple[int, ...]) -> Any:
    """Yield the extents of the blocks of each region, and the first cell of each block."""
    axes = []
    for n, side in zip(shape, sides, strict=True):
        full = [(side, list(range(0, n - side + 1, side)))]
        axes.append([run for run in (*full, (n % side, [n - n % side])) if run[0] and run[1]])
    for runs in itertools.product(*axes):
        yield tuple(run[0] for run in runs), list(itertools.product(*(run[1] for run in runs)))


def packed(header: Any, part: Any, sections: Any, shape: Any, sides: Any) -> Any:
    sizes = np.frombuffer(sections["sizes"], "<u4").tolist()
    words = np.frombuffer(sections["words"], "<u4").tolist()
    size = math.prod(sides)
    for extents, cells in regions(shape, sides):
        for first in range(0, len(cells), 128):
            tile = cells[first : first + 128]
            record, words = words[: sizes[0]], words[sizes[0] :]
            sizes = sizes[1:]
            for cell, (mean, level, others) in zip(tile, unpack(record, len(tile), size), strict=True):
                found = np.array([0, *others]) * 2.0 ** (part["exponent"] + level)
                found[0] = mean * 2.0 ** part["mean_exponent"]
                yield cell, extents, found
    assert not sizes and not words


def signed(value: int, width: int) -> int:
    return value - (1 << width) if width and value >> (width - 1) else value


def unpack(record: list[int], count: int, size: int) -> list[tuple[int, int, list[int]]]:
    strips = -(-count // 16)
    groups = [g for g in range(8) if record[0] >> g & 1]
    mean_widths = [record[1 + s // 4] >> 8 * (s % 4) & 255 for s in range(8)]
    bases = [signed(word, 32) for word in record[6 : 6 + strips]]
    position = 6 + strips
    levels, group_of = [0] * count, [b // 16 for b in range(count)]
    if groups:
        controls = [record[position + b // 4] >> 8 * (b % 4) & 255 for b in range(count)]
        levels, group_of = [c & 15 for c in controls], [c >> 4 for c in controls]
        position += -(-count // 4)
        assert not record[0] & 256 or group_of == [b // 16 for b in range(count)]
    widths = {}
    for group in groups:
        present = [k for k in range(size) if record[position + k // 32] >> k % 32 & 1]
        position += -(-size // 32)
        nibbles = (record[position + i // 8] >> 4 * (i % 8) & 15 for i in itertools.count())
        used = 0
        widths[group] = [0] * size
        for k in present:
            widths[group][k] = next(nibbles)
            used += 1
            if widths[group][k] == 15:
                widths[group][k] = next(nibbles) | next(nibbles) << 4
                used += 2
        position += -(-used // 8)
    assert record[3] == position
    lanes = min(count, 16)
    streams = [sum(word << 32 * w for w, word in enumerate(record[position + lane :: lanes])) for lane in range(lanes)]

    def take(lane: int, width: int) -> int:
        value = streams[lane] & ((1 << width) - 1)
        streams[lane] >>= width
        return value

    above = [[take(lane, mean_widths[s]) for lane in range(lanes)] for s in range(strips)]
    means = [bases[b // 16] + above[b // 16][b % 16] for b in range(count)]
    assert sum(means) == signed(record[4] | record[5] << 32, 64)
    rows = {g: [[signed(take(lane, w), w) for w in widths[g][1:]] for lane in range(lanes)] for g in groups}
    assert not any(stream >> 31 for stream in streams)
    filled = [iter(range(16)) for _ in range(8)]
    lane_of = [next(filled[group]) for group in group_of]
    zeros = [0] * (size - 1)
    return [
        (means[b], levels[b], rows[group_of[b]][lane_of[b]] if group_of[b] in rows else zeros) for b in range(count)
    ]


def fixed(header: Any, part: Any, sections: Any, shape: Any, sides: Any) -> Any:
    codec = header["codec"]
    indices = np.frombuffer(sections["indices"], np.dtype(codec["index_dtype"]).newbyteorder("<"))
    scales = np.frombuffer(sections["scales"], np.dtype(header["precision"]).newbyteorder("<"))
    size = math.prod(sides)
    if isinstance(codec["keep"], str):
        bits = "".join(f"{byte:08b}" for byte in bytes.fromhex(codec["keep"]))
        kept = [k for k in range(size) if bits[k] == "1"]
    else:
        frequency = [sum(i / side for i, side in zip(k, sides, strict=True)) for k in np.ndindex(*sides)]
        kept = sorted(sorted(range(size), key=lambda k: frequency[k])[: max(1, round(codec["keep"] * size))])
    places = list(np.ndindex(*sides))
    for extents, cells in regions(shape, sides):
        own = [k for k in kept if all(i < m for i, m in zip(places[k], extents, strict=True))]
        for first in range(0, len(cells), 16):
            strip = cells[first : first + 16]
            rows = indices[: len(own) * len(strip)].reshape(len(own), len(strip)).astype(float)
            indices = indices[rows.size :]
            for lane, cell in enumerate(strip):
                found = np.zeros(size)
                found[own] = float(scales[0]) * rows[:, lane] / np.iinfo(codec["index_dtype"]).max
                scales = scales[1:]
                yield cell, extents, found
    assert not indices.size and not scales.size


CASES = {
    "smooth": {"tolerance": 0.3},
    "fine": {"tolerance": 1e-4},
    "coarse": {"tolerance": 100.0},
    "haar": {"tolerance": 1e-2, "codec": hb.ToleranceCodec((16, 1, 2), "haar")},
    "mask": {"codec": hb.BlockCodec((4, 4, 4), keep=np.arange(64).reshape(4, 4, 4) % 3 == 0)},
    "fraction": {"codec": hb.BlockCodec((4, 4, 4), index_dtype="int16", keep=0.3)},
}


@pytest.mark.parametrize("case", CASES)
def test_the_documentation_is_enough(case: str, tmp_path: Path) -> None:
    x = np.random.default_rng(4).normal(size=(23, 37, 18)).astype(np.float32).cumsum(0).cumsum(1)
    x[:9] = 3
    a = hb.compress(x, **CASES[case]) * 3 - 1
    a.save(tmp_path / "a.hbz", attributes={"units": "m"})
    header, samples = read(tmp_path / "a.hbz")
    assert (header["shape"], header["dtype"], header["attributes"]) == ([23, 37, 18], "float32", {"units": "m"})
    assert header["precision"] == ("float64" if case == "fine" else "float32")  # finer than single precision holds
    assert header["splits"] == [1, 1, 1] and header["promise"] is None
    values = header["factor"] * samples + header["offset"]
    np.testing.assert_allclose(values, a.decompress(), rtol=1e-5, atol=1e-5 * np.abs(x).max())
    assert np.abs(values - (3 * x.astype(float) - 1)).max() <= header["max_abs_error"]
