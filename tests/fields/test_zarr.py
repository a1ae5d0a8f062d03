"""Zarr stores: what writes them and what reads them need not know of hpcblaz."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import oracles
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import hpcblaz as hb
from hpcblaz.errors import CodecError, FileFormatError, LayoutError, StorageError

zarr = pytest.importorskip("zarr", reason="zarr is not installed: pip install 'hpcblaz[io]'")

from hpcblaz.fields import boxes  # noqa: E402
from hpcblaz.fields.dumping import sections_of  # noqa: E402
from hpcblaz.fields.zarr_codec import FieldCodec, expanded, trimmed  # noqa: E402  needs zarr
from hpcblaz.fields.zarr_store import chunk_shape_for, chunk_shape_of, chunks_of  # noqa: E402

FORMS = pytest.mark.parametrize(
    "options", [{"tolerance": 1e-2}, {"index_dtype": "int16", "keep": 0.5}], ids=["tolerance", "block"]
)


def store(path: Path, x: Any, options: Any, chunks: Any, fill_value: Any = np.nan, **more: Any) -> Any:
    array = zarr.create_array(
        str(path), shape=x.shape, dtype=x.dtype, chunks=chunks, fill_value=fill_value, compressors=None,
        serializer=FieldCodec(**options), **more,
    )  # fmt: skip
    array[...] = x
    return array


def gappy(shape: tuple[int, ...] = (50, 70)) -> Any:
    x = oracles.field("noise", shape).astype(np.float32)
    x[3:9, 10:40], x[40:47, 60:69], x[0, 0] = np.nan, np.nan, np.inf
    return x


@FORMS
@pytest.mark.parametrize(
    "layout", [{"chunks": (32, 32)}, {"chunks": (16, 16), "shards": (48, 64)}], ids=["chunks", "shards"]
)
@pytest.mark.parametrize("fill_value", [np.nan, 0.0])
def test_what_zarr_writes_zarr_and_we_read(tmp_path: Path, options: Any, layout: Any, fill_value: float) -> None:
    x = gappy()
    store(tmp_path / "a.zarr", x, options, fill_value=fill_value, **layout)
    y = zarr.open_array(str(tmp_path / "a.zarr"), mode="r")[...]
    gaps = ~np.isfinite(x)
    np.testing.assert_array_equal(y[gaps], x[gaps])
    a = hb.open(tmp_path / "a.zarr")
    np.testing.assert_array_equal(a.decompress(), y)
    error = np.abs(x[~gaps].astype(float) - y[~gaps])
    assert error.max() <= a.error.max_abs <= options.get("tolerance", np.inf)
    assert np.sqrt((error**2).sum()) <= a.error.l2
    oracles.assert_holds(a.mean(), oracles.mean(x[~gaps]))


@FORMS
def test_what_we_save_zarr_reads(tmp_path: Path, options: Any) -> None:
    x = gappy()
    codec = None if "tolerance" in options else hb.BlockCodec((8, 8), **options)
    a = 2 * hb.compress(x, tolerance=options.get("tolerance"), codec=codec) + 1
    a.save(tmp_path / "a.zarr", attributes={"units": "K"}, chunks=(24, 40))
    array = zarr.open_array(str(tmp_path / "a.zarr"), mode="r")
    np.testing.assert_array_equal(array[...], a.decompress())
    assert dict(array.attrs) == {"units": "K"}
    b = hb.open(tmp_path / "a.zarr")
    np.testing.assert_array_equal(b.decompress(), a.decompress())
    assert b.mean() == a.mean() and b.error.max_abs == a.error.max_abs and b.attributes == {"units": "K"}
    assert b.error.l2 >= a.error.l2
    a.save(tmp_path / "a.zarr")  # over the old one
    assert [path.name for path in tmp_path.iterdir()] == ["a.zarr"]
    assert hb.open(tmp_path / "a.zarr").attributes == {}


def test_a_process_that_knows_only_zarr(tmp_path: Path) -> None:
    x = gappy()
    hb.save(hb.compress(x, tolerance=1e-2), tmp_path / "a.zarr")
    code = (
        "import sys, zarr, numpy as np\n"
        "a = zarr.open_array(sys.argv[1], mode='r')\n"
        "print(float(np.nanmax(np.where(np.isinf(a[...]), np.nan, a[...]))))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a.zarr")], capture_output=True, text=True, check=True
    )
    assert abs(float(done.stdout) - np.nanmax(np.where(np.isinf(x), np.nan, x))) <= 1e-2


def test_xarray_reads_and_writes(tmp_path: Path) -> None:
    xarray = pytest.importorskip("xarray")
    values = oracles.field("smooth", (12, 30, 41)).astype(np.float32)
    values[:, 20:, 30:] = np.nan
    data = xarray.Dataset(
        {"t": (("time", "lat", "lon"), values, {"units": "K"})},
        coords={"lat": np.arange(30.0)},
        attrs={"title": "test"},
    )
    encoding = {"t": {"serializer": FieldCodec(tolerance=1e-3), "compressors": None, "chunks": (4, 30, 41)}}
    data.to_zarr(tmp_path / "d.zarr", zarr_format=3, consolidated=False, encoding=encoding)
    with xarray.open_zarr(tmp_path / "d.zarr", consolidated=False, chunks=None) as found:
        np.testing.assert_allclose(found.t.values, values, atol=1e-3)
        assert found.t.attrs == {"units": "K"} and found.attrs == {"title": "test"} and found.t.dims == data.t.dims
    a = hb.open(tmp_path / "d.zarr")
    assert a.error.max_abs <= 1e-3 and a.attributes["units"] == "K"
    assert a.count() == np.isfinite(values).sum()
    with pytest.raises(FileFormatError, match=r"expected one of the variables lat, t, got 'x'"):
        hb.open(tmp_path / "d.zarr", "x")
    with pytest.raises(FileFormatError, match="expected an array that hpcblaz compressed"):
        hb.open(tmp_path / "d.zarr", "lat")


def test_chunks_that_cut_blocks_are_compressed_anew(tmp_path: Path) -> None:
    x = oracles.field("smooth", (9, 20, 30)).astype(np.float32)
    store(tmp_path / "a.zarr", x, {"tolerance": 1e-3}, (1, 20, 30))
    a = hb.open(tmp_path / "a.zarr")
    assert 1e-3 < a.error.max_abs <= 2e-3
    oracles.assert_within_certificate(x, a)


def test_a_chunk_that_ends_with_fill_values(tmp_path: Path) -> None:
    x = gappy()
    x[40:, 60:] = np.nan
    array = store(tmp_path / "a.zarr", x, {"tolerance": 1e-2}, (32, 32))
    a, y = hb.open(tmp_path / "a.zarr"), array[...]
    np.testing.assert_array_equal(a[:32], y[:32])
    np.testing.assert_array_equal(a.missing(), ~np.isfinite(x))
    valid = np.isfinite(x)
    assert np.abs(a.decompress()[valid] - x[valid]).max() <= a.error.max_abs <= 2e-2


@FORMS
def test_chunks_of_whole_tiles_are_put_together_as_they_are(tmp_path: Path, options: Any, monkeypatch: Any) -> None:
    x = gappy((140, 256))
    codec = None if "tolerance" in options else hb.BlockCodec((8, 8), **options)
    a = hb.compress(x, tolerance=options.get("tolerance"), codec=codec)
    a.save(tmp_path / "a.zarr", chunks=(32, 256))
    monkeypatch.setattr(boxes, "regroup", None)
    b = hb.open(tmp_path / "a.zarr")
    np.testing.assert_array_equal(b.decompress(), a.decompress())
    for name, values in sections_of(a, True).items():
        np.testing.assert_array_equal(sections_of(b, True)[name], values, err_msg=name)


def test_chunks_that_were_never_written_are_missing(tmp_path: Path) -> None:
    array = zarr.create_array(
        str(tmp_path / "a.zarr"), shape=(40, 40), dtype="f4", chunks=(16, 16), fill_value=np.nan, compressors=None,
        serializer=FieldCodec(tolerance=1e-2),
    )  # fmt: skip
    array[:16, :16] = 3 + oracles.field("noise", (16, 16))
    a = hb.open(tmp_path / "a.zarr")
    assert a.count() == 256
    np.testing.assert_array_equal(np.isnan(a.decompress()), np.isnan(array[...]))


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [((2, 3, 4, 8, 9), "int16"), *itertools.product([(), (7,), (0, 3)], ["float64", "int16"])],
)
def test_any_number_of_axes(tmp_path: Path, shape: tuple[int, ...], dtype: str) -> None:
    x = np.asarray(100 * np.random.default_rng(0).normal(size=shape)).astype(dtype)
    array = store(tmp_path / "a.zarr", x, {"tolerance": 0.25}, tuple(max(1, n // 2) for n in shape), fill_value=0)
    assert np.abs(array[...].astype(float) - x).max(initial=0) <= 0.25
    if len(shape) == 1:
        assert hb.open(tmp_path / "a.zarr").shape == shape


def test_options_that_cannot_be() -> None:
    for options in ({}, {"tolerance": 1.0, "keep": 0.5}, {"tolerance": -1.0}, {"tolerance": 1.0, "transform": "fft"}):
        with pytest.raises(CodecError, match="expected"):
            FieldCodec(**options)  # type: ignore[arg-type]
    with pytest.raises(CodecError, match="expected dtype"):
        zarr.create_array({}, shape=(4,), dtype="c8", serializer=FieldCodec(tolerance=1.0))
    with pytest.raises(CodecError, match="expected a block side for each of the 2 axes"):
        zarr.create_array({}, shape=(4, 4), dtype="f4", serializer=FieldCodec(tolerance=1.0, block_shape=(4,)))
    with pytest.raises(CodecError, match="expected the codec hpcblaz with some of"):
        FieldCodec.from_dict({"name": "hpcblaz", "configuration": {"tolerance": 1, "level": 3}})
    a = hb.compress(np.ones((16, 16)), tolerance=1)
    with pytest.raises(LayoutError, match="expected chunks of whole blocks"):
        a.save("/nowhere/a.zarr", chunks=(4, 16))
    codec = FieldCodec(tolerance=0.5, block_shape=(8, 8), missing_value=-9)
    assert FieldCodec.from_dict(codec.to_dict()) == codec


def test_only_stores_are_replaced(tmp_path: Path) -> None:
    a = hb.compress(np.ones((16, 16)), tolerance=1)
    (tmp_path / "a.zarr").mkdir()
    (tmp_path / "a.zarr" / "thesis.tex").write_text("years of work")
    with pytest.raises(StorageError, match="to be a Zarr store or not to be there"):
        a.save(tmp_path / "a.zarr")
    assert (tmp_path / "a.zarr" / "thesis.tex").read_text() == "years of work"
    with pytest.raises(StorageError, match="there is no such file or folder"):
        a.save(tmp_path / "no" / "a.zarr")
    assert len(list(tmp_path.iterdir())) == 1


def test_a_failure_leaves_the_old_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = gappy()
    hb.compress(x, tolerance=1e-2).save(tmp_path / "a.zarr")
    from hpcblaz.mpi.atomic import AtomicFolder

    written = itertools.count()

    def fail(self: AtomicFolder, name: str, data: bytes) -> None:
        if next(written) == 2:
            raise StorageError("expected to write, got: the disk is full")

    monkeypatch.setattr(AtomicFolder, "write", fail)
    with pytest.raises(StorageError, match="the disk is full"):
        hb.compress(2 * x, tolerance=1e-2).save(tmp_path / "a.zarr", chunks=(16, 16))
    assert [path.name for path in tmp_path.iterdir()] == ["a.zarr"]
    assert hb.open(tmp_path / "a.zarr")[20, 20] == pytest.approx(x[20, 20], abs=1e-2)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_stores_are_refused_or_read_right(tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "a.zarr"
    if not path.exists():
        hb.compress(gappy(), tolerance=1e-2).save(path, chunks=(24, 40))
        np.save(tmp_path / "values.npy", hb.open(path).decompress())
    values = np.load(tmp_path / "values.npy")
    files = sorted(file for file in path.rglob("*") if file.is_file() and file.name != "zarr.json")
    file = data.draw(st.sampled_from(files))
    content = file.read_bytes()
    position = data.draw(st.integers(0, len(content) - 1))
    change = data.draw(st.sampled_from(["flip", "cut", "append", "empty", "zero"]))
    flipped = bytes([content[position] ^ data.draw(st.integers(1, 255))])
    damaged = {
        "flip": content[:position] + flipped + content[position + 1 :],
        "cut": content[:position],
        "append": content + b"x",
        "empty": b"",
        "zero": content[:position] + bytes(len(content) - position),
    }[change]
    try:
        file.write_bytes(damaged)
        for read in (lambda: zarr.open_array(str(path), mode="r")[...], lambda: hb.open(path).decompress()):
            try:
                found = read()
            except FileFormatError:
                continue
            np.testing.assert_array_equal(found, values)
    finally:
        file.write_bytes(content)


def test_damaged_metadata_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    hb.compress(gappy(), tolerance=1e-2).save(path)
    good = (path / "zarr.json").read_text()
    for bad in (
        "",
        "{",
        good.replace('"hpcblaz"', '"gzip9"'),
        good.replace("float32", "float64"),
        good[: len(good) // 2],
    ):
        (path / "zarr.json").write_text(bad)
        with pytest.raises(FileFormatError):
            hb.open(path)


def test_chunks_cover_an_array() -> None:
    assert chunk_shape_of((1000, 1000, 1000), (4, 4, 4)) == (8, 1000, 1000)
    assert chunk_shape_of((10, 100_000, 100_000), (4, 4, 4)) == (4, 20, 100_000)
    assert chunk_shape_of((3, 5), (8, 8)) == (3, 5)
    seen = np.zeros((10, 7), int)
    for _, first, extents in chunks_of((10, 7), (4, 3)):
        seen[tuple(slice(f, f + n) for f, n in zip(first, extents, strict=True))] += 1
    assert (seen == 1).all()


def test_padding_is_cut_off_and_put_back() -> None:
    x = np.full((4, 6), np.nan)
    x[:3, :5] = 1
    assert trimmed(x, np.nan).shape == (3, 5)
    assert trimmed(np.zeros((4, 4)), 0.0).shape == (1, 1)
    a = hb.compress(trimmed(x, np.nan), tolerance=1)
    np.testing.assert_array_equal(expanded(a, (4, 6), np.dtype("f8"), np.nan), x)
    for shape, dtype in (((2, 6), "f8"), ((4, 6), "f4"), ((24,), "f8")):
        with pytest.raises(FileFormatError, match="the store is damaged"):
            expanded(a, shape, np.dtype(dtype), np.nan)


def test_default_chunks_follow_the_parts() -> None:
    for shape, size, splits in [((256, 256, 256), 4, None), ((1000, 30, 60), 3, None), ((64, 64, 64), 8, (2, 2, 2))]:
        layout = hb.Layout(shape, size=size, rank=0, block_shape=(4, 4, 4), splits=splits)
        chunk = chunk_shape_for(layout, 1 << 16)
        assert math.prod(chunk) <= 1 << 16 and all(n % 4 == 0 for n in chunk)
    layout = hb.Layout((256, 256, 256), size=4, block_shape=(4, 4, 4))
    assert chunk_shape_for(layout) == (64, 256, 256)  # a part is a chunk
    assert chunk_shape_for(layout, 1 << 20) == (16, 256, 256)
    assert chunk_shape_for(hb.Layout((4 * 31, 8, 8), size=1, block_shape=(4, 4, 4)), 1 << 10) == (16, 8, 8)
    assert chunk_shape_for(hb.Layout((4 * 31, 8, 8), size=4, block_shape=(4, 4, 4), splits=(4, 1, 1)), 1 << 10) == (
        16,
        8,
        8,
    )
