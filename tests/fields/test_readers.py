"""Plain arrays in files."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpcblaz.errors import DtypeError, FileFormatError, ShapeError, StorageError
from hpcblaz.fields.readers import open_array, write_array
from hpcblaz.mpi import Layout


@pytest.mark.parametrize("dtype", ["f4", ">f8", "i2", "f2", "u8", "bool"])
@pytest.mark.parametrize("shape", [(), (7,), (3, 4, 5), (0,), (3, 0)])
def test_npy_files_are_numpys(tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    x = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    path = tmp_path / "x.npy"
    write_array(path, x)
    for found in (open_array(path), open_array(path, shape), np.load(path)):
        assert found.dtype == x.dtype
        np.testing.assert_array_equal(found, x)
    np.save(path, np.asfortranarray(x))
    np.testing.assert_array_equal(open_array(path), x)


@pytest.mark.parametrize(("name", "dtype"), [("x.f32", "<f4"), ("x.f64", "<f8")])
def test_raw_files(tmp_path: Path, name: str, dtype: str) -> None:
    x = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    path = tmp_path / name
    write_array(path, np.asfortranarray(x).astype(">f4"))
    assert path.read_bytes() == x.astype(dtype).tobytes()
    found = open_array(path, (3, 4))
    assert not found.flags.writeable
    np.testing.assert_array_equal(found, x)
    write_array(path, x[:0])
    assert open_array(path, (0, 4)).shape == (0, 4)


def test_what_cannot_be_read(tmp_path: Path) -> None:
    x = np.arange(12.0).reshape(3, 4)
    raw, npy = tmp_path / "x.f64", tmp_path / "x.npy"
    write_array(raw, x)
    write_array(npy, x)
    with pytest.raises(ShapeError, match="--shape 12"):
        open_array(raw)
    with pytest.raises(FileFormatError, match="expected 104 bytes for 13 values of 8 bytes, got 96"):
        open_array(raw, (13,))
    with pytest.raises(FileFormatError, match=r"expected 5104\d+ bytes"):
        open_array(raw, (2**60, 2**60, 12 * 4))
    with pytest.raises(ShapeError, match="not negative"):
        open_array(raw, (-3, -4))
    with pytest.raises(ShapeError, match=r"\(4, 3\) that was asked for, got \(3, 4\)"):
        open_array(npy, (4, 3))
    with pytest.raises(StorageError, match="no such file"):
        open_array(tmp_path / "missing.npy")
    with pytest.raises(StorageError, match="folder"):
        open_array(tmp_path)
    other = tmp_path / "x.txt"
    other.write_text("1 2 3")
    with pytest.raises(FileFormatError, match=r"suffix \.npy, \.f32, \.f64"):
        open_array(other)


def test_damaged_npy_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, np.arange(100.0))
    content = path.read_bytes()
    damaged = [content[:n] for n in (0, 3, 7, 9, 50, 127, 128, 500)]
    damaged += [
        content.replace(b"<f8", b"|O8"),
        content.replace(b"(100,)", b"(10**9"),
        content.replace(b"descr", b"x" * 5),
    ]
    damaged += [content.replace(b"\x01\x00v", b"\x09\x00v"), b"PK\x03\x04" + content]
    np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    damaged.append(path.read_bytes())
    for number, text in enumerate(damaged):
        path.write_bytes(text)
        with pytest.raises(FileFormatError, match=r"x\.npy: expected"):
            print(number, open_array(path))


def test_what_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.arange(12.0)
    with pytest.raises(DtypeError, match="float32 holds exactly, got float64"):
        write_array(tmp_path / "x.f32", x)
    with pytest.raises(FileFormatError, match="suffix"):
        write_array(tmp_path / "x.txt", x)
    with pytest.raises(ShapeError, match=r"this rank's part of shape \(16,\), got \(12,\)"):
        write_array(tmp_path / "x.npy", x, Layout((32,), rank=0, size=2))
    write_array(tmp_path / "x.npy", x)

    def fail(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", fail)
    with pytest.raises(StorageError, match="disk is full"):
        write_array(tmp_path / "x.npy", -x)
    assert os.listdir(tmp_path) == ["x.npy"]
    np.testing.assert_array_equal(np.load(tmp_path / "x.npy"), x)
