"""Stores made of files: all that a file holds is there, within the tolerance, and no part passes for the whole."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mpi.test_launch import launch

import hpcblaz as hb
from hpcblaz.cli.main import main
from hpcblaz.errors import FileFormatError, HpcblazError, StorageError
from hpcblaz.fields import converting
from hpcblaz.fields.codec import ToleranceCodec
from hpcblaz.fields.conversion_plan import block_shape_of
from hpcblaz.fields.converting import convert
from hpcblaz.mpi import world

for package in ("zarr", "xarray", "netCDF4"):
    pytest.importorskip(package, reason=f"{package} is not installed: pip install 'hpcblaz[io]'")
import xarray as xr  # noqa: E402  what is imported above

Output = pytest.CaptureFixture[str]
SHAPE = (9, 21, 30)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with gaps, packed integers, times, bounds, text, and coordinates of two axes."""
    path = tmp_path_factory.mktemp("source") / "a.nc"
    rng = np.random.default_rng(5)
    x = rng.normal(size=SHAPE).cumsum(1).cumsum(2).astype("f4")
    gaps = x.copy()
    gaps[:, 3:9, 5:20] = np.nan
    dims = ("time", "y", "x")
    data = xr.Dataset(
        {
            "temperature": (dims, gaps, {"units": "K", "note": np.nan}),
            "packed": (dims, x, {"units": "m"}),
            "time_bounds": (("time", "two"), np.zeros((9, 2))),
            "crs": ((), 0, {"grid_mapping_name": "rotated"}),
            "station": ("y", np.array([f"s{i}" for i in range(21)], dtype=object)),
        },
        {
            "time": xr.date_range("2020-01-01", periods=9),
            "lat": (("y", "x"), x[0].astype("f8")),
            "level": ((), 3.0, {"positive": "down"}),
        },
        {"title": "made up", "numbers": [1, 2]},
    )
    data["time"].attrs["bounds"] = "time_bounds"
    data["time"].encoding = {"units": "days since 2019-01-01"}
    data["temperature"].encoding = {"_FillValue": np.float32(-999)}
    data["packed"].encoding = {"dtype": "i2", "scale_factor": 0.01, "_FillValue": np.int16(-32768)}
    data.to_netcdf(path)
    return path


def attributes(x: Any) -> dict[str, str]:
    return {name: str(np.asarray(value).tolist()) for name, value in x.attrs.items()}


def same_but_for(a: Any, b: Any, names: list[str]) -> None:
    assert attributes(a) == attributes(b)
    assert dict(a.sizes) == dict(b.sizes)
    assert set(a.variables) == set(b.variables) and set(a.coords) == set(b.coords)
    for name in a.variables:
        assert attributes(a[name]) == attributes(b[name]), name
        text = a[name].dtype.kind in "OU"
        assert a[name].dims == b[name].dims and (text or a[name].dtype == b[name].dtype), name
        if name not in names:
            np.testing.assert_array_equal(a[name].values, b[name].values)


@pytest.mark.parametrize(
    "target", [{"tolerance": 0.05}, {"relative": 1e-3}, {"psnr": 60.0}], ids=lambda t: next(iter(t))
)
def test_a_store_is_the_file_but_for_small_errors(
    source: Path, tmp_path: Path, target: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(converting, "CHUNK_CELLS", 2000)
    names = ["temperature", "packed"]
    found = convert(source, tmp_path / "a.zarr", names, world(), target=target, codec=ToleranceCodec())
    with xr.open_dataset(source) as a, xr.open_zarr(tmp_path / "a.zarr") as b:
        same_but_for(a, b, names)
        for report in found:
            x, y = a[report.variable].values.astype("f8"), b[report.variable].values.astype("f8")
            np.testing.assert_array_equal(np.isnan(x), np.isnan(y))
            assert report.missing == np.isnan(x).sum() and report.tolerance is not None
            rounding = 1e-5 if report.variable == "packed" else 0.0  # xarray's own, when it scales integers
            assert np.nanmax(np.abs(x - y)) <= report.max_abs_error + rounding
            assert report.max_abs_error <= report.tolerance * (1 + 1e-15)
            span = np.nanmax(x) - np.nanmin(x)
            wanted = {"relative": 1e-3 * span, "psnr": 1e-3 * span, "tolerance": 0.05}[next(iter(target))]
            assert report.tolerance == pytest.approx(wanted, rel=1e-3)
    assert [p.name for p in tmp_path.iterdir()] == ["a.zarr"]


def test_without_names_there_must_be_one_field(source: Path, tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match="temperature, packed"):
        convert(source, tmp_path / "a.zarr", [], world(), target={"tolerance": 1.0}, codec=ToleranceCodec())
    assert not list(tmp_path.iterdir())


def test_a_failure_leaves_the_old_store(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def attempt() -> None:
        convert(
            source, tmp_path / "a.zarr", ["temperature"], world(), target={"tolerance": 0.1}, codec=ToleranceCodec()
        )

    attempt()
    before = {p: p.read_bytes() for p in (tmp_path / "a.zarr").rglob("*") if p.is_file()}

    def full(*arguments: Any) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr(converting.Checkpoint, "write", full)
    with pytest.raises(StorageError, match="full"):
        attempt()
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


@pytest.mark.parametrize(
    ("shape", "sides"),
    [((7,), (16,)), ((1, 9, 9), (1, 8, 8)), ((5, 1, 1), (16, 1, 1)), ((2, 3, 5, 6, 7), (1, 4, 4, 4)), ((1,), (1,))],
)
def test_block_shapes(shape: tuple[int, ...], sides: tuple[int, ...]) -> None:
    assert block_shape_of(shape) == sides


@pytest.mark.parametrize("shape", [(2, 3, 4, 9, 10), (0, 5), (1, 1, 30, 30)])
def test_unusual_shapes(tmp_path: Path, shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(1).normal(size=shape)
    np.save(tmp_path / "x.npy", x)
    convert(tmp_path / "x.npy", tmp_path / "x.zarr", [], world(), target={"relative": 1e-3}, codec=ToleranceCodec())
    y = xr.open_zarr(tmp_path / "x.zarr")["x"].values
    assert y.shape == x.shape
    assert not x.size or np.abs(x - y).max() <= 1e-3 * np.ptp(x)


def test_fields_keep_their_names(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="h5py is not installed")
    x = np.random.default_rng(1).normal(size=(9, 10, 11)).cumsum(0)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["run/density"] = x
    for names in ([], ["run/density"]):
        convert(tmp_path / "a.h5", tmp_path / "a.zarr", names, world(), target={"psnr": 60}, codec=ToleranceCodec())
        y = xr.open_zarr(tmp_path / "a.zarr")["run_density"].values
        assert np.abs(x - y).max() <= 1e-3 * np.ptp(x)


def test_the_command_line(source: Path, tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    name = str(source)
    assert main(["compress", name, "a.zarr", "-v", "temperature", "--relative", "1e-3", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)["variables"][0]
    assert report["variable"] == "temperature" and report["ratio"] > 1
    assert main(["compress", name, "a.zarr", "-v", "temperature", "-v", "packed", "--tolerance", "0.1"]) == 0
    assert "largest error" in capsys.readouterr().out
    assert main(["stats", "a.zarr", "-v", "temperature", "--json"]) == 0
    mean = json.loads(capsys.readouterr().out)["statistics"]["mean"]
    with xr.open_dataset(source) as data:
        assert abs(mean["value"] - float(data.temperature.mean(dtype="f8"))) <= mean["error"]
    assert main(["stats", name, "-v", "temperature", "--tolerance", "0.1"]) == 0
    assert main(["info", "a.zarr", "--json"]) == 0
    text = capsys.readouterr().out
    assert json.loads(text[text.index("{") :])["variable temperature"]["codec"]["tolerance"] == 0.1
    assert main(["info", name]) == 0
    assert "temperature" in capsys.readouterr().out
    assert main(["compress", name, "t.hbz", "-v", "temperature", "--tolerance", "0.1"]) == 0
    assert hb.load("t.hbz").attributes["units"] == "K"
    assert main(["decompress", "a.zarr", "t.npy", "-v", "temperature"]) == 0
    assert main(["decompress", "a.zarr", "t.nc"]) == 0
    with xr.open_dataset(source) as a, xr.open_dataset("t.nc") as b, xr.open_zarr("a.zarr") as c:
        same_but_for(a, b, ["temperature", "packed"])
        np.testing.assert_array_equal(b.temperature.values, c.temperature.values)
    assert main(["decompress", "t.hbz", "u.nc"]) == 0
    capsys.readouterr()
    assert main(["compress", name, "a.zarr", "-v", "temperature", "--rate", "4"]) == 1
    assert "--index-dtype" in capsys.readouterr().err
    assert main(["compress", name, "a.hbz", "-v", "temperature", "-v", "packed", "--tolerance", "1"]) == 1
    assert "one variable" in capsys.readouterr().err


def test_ranks_share_the_chunks(source: Path, tmp_path: Path) -> None:
    store = str(tmp_path / "a.zarr")
    script = tmp_path / "run.py"
    script.write_text(
        "import sys; from hpcblaz.fields import converting; converting.CHUNK_CELLS = 2000\n"
        "from hpcblaz.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    argv = ["compress", str(source), store, "-v", "packed", "-v", "temperature", "--relative", "1e-3", "--json"]
    status, output = launch(3, [str(script), *argv], 300)
    assert status == 0, output
    with xr.open_dataset(source) as a, xr.open_zarr(store) as b:
        same_but_for(a, b, ["temperature", "packed"])
        error = np.nanmax(np.abs(a.temperature.values.astype("f8") - b.temperature.values))
        assert error <= json.loads(output)["variables"][1]["max_abs_error"]
    status, output = launch(3, [str(script), "stats", store, "-v", "temperature", "--json"], 300)
    found = json.loads(output)
    assert status == 0 and found["ranks"] == 3
    a = hb.open(store, "temperature")
    mean = found["statistics"]["mean"]
    with xr.open_dataset(source) as data:
        assert abs(mean["value"] - float(data.temperature.mean(dtype="f8"))) <= mean["error"]
    assert found["arrays"][0]["ratio"] == pytest.approx(a.ratio, rel=0.2)
    status, output = launch(3, [str(script), *argv[:4], "nothing", *argv[5:]], 300)
    assert status == 1 and output.count("nothing") == 1, output
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.zarr", "run.py"]


def test_a_rank_that_fails_fails_all_and_the_others_work_is_kept(source: Path, tmp_path: Path) -> None:
    script = tmp_path / "run.py"
    script.write_text(
        "import sys\n"
        "from hpcblaz.cli.main import main\n"
        "from hpcblaz.errors import StorageError\n"
        "from hpcblaz.fields import converting\n"
        "from hpcblaz.mpi import world\n"
        "def full(*arguments):\n"
        "    raise StorageError('the disk is full')\n"
        "converting.CHUNK_CELLS = 2000\n"
        "if world().rank == 2:\n"
        "    converting.Checkpoint.write = full\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    argv = ["compress", str(source), str(tmp_path / "a.zarr"), "-v", "packed", "--tolerance", "0.1"]
    status, output = launch(3, [str(script), *argv], 300)
    assert status == 1 and output.count("the disk is full") == 1 and output.count("is kept in") == 1, output
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.zarr.partial", "run.py"]
    assert main(argv) == 1  # chunks are larger here: another store
    script.write_text(script.read_text().replace("world().rank == 2", "False"))
    status, output = launch(2, [str(script), *argv], 300)
    assert status == 0 and "continuing: " in output, output
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.zarr", "run.py"]


def test_what_is_killed_halfway_is_never_seen(source: Path, tmp_path: Path) -> None:
    code = (
        "import os, signal, sys\n"
        "from hpcblaz.cli.main import main\n"
        "from hpcblaz.fields import converting\n"
        "write = converting.Checkpoint.write\n"
        "def once(*arguments):\n"
        "    write(*arguments)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "converting.Checkpoint.write = once\n"
        "main(sys.argv[1:])\n"
    )
    argv = ["compress", str(source), str(tmp_path / "a.zarr"), "-v", "packed", "--tolerance", "0.1"]
    assert subprocess.run([sys.executable, "-c", code, *argv]).returncode == -signal.SIGKILL
    assert [p.name for p in tmp_path.iterdir()] == ["a.zarr.partial"]
    assert not hb.fields.open_field.is_store(tmp_path / "a.zarr.partial")
    assert main(argv) == 0
    assert [p.name for p in tmp_path.iterdir()] == ["a.zarr"]


@pytest.fixture(scope="module")
def small(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("small") / "a.zarr"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(converting, "CHUNK_CELLS", 2000)
        convert(source, path, ["temperature"], world(), target={"tolerance": 0.05}, codec=ToleranceCodec())
    return path


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(data=st.data())
def test_damaged_chunks_are_never_read(small: Path, tmp_path: Path, data: st.DataObject) -> None:
    copy = tmp_path / "b.zarr"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(small, copy)
    expected = hb.open(small, "temperature").decompress()
    chunks = sorted(p for p in (copy / "temperature" / "c").rglob("*") if p.is_file())
    chunk = data.draw(st.sampled_from(chunks))
    record = bytearray(chunk.read_bytes())
    position = data.draw(st.integers(0, len(record) - 1))
    if data.draw(st.booleans()):
        del record[position:]
    else:
        record[position] ^= 1 << data.draw(st.integers(0, 7))
    chunk.write_bytes(record)
    try:
        values = hb.open(copy, "temperature").decompress()
    except HpcblazError:
        return
    np.testing.assert_array_equal(values, expected)  # a byte between sections


def test_dropped_chunks_are_missing_cells_and_never_numbers(small: Path, tmp_path: Path) -> None:
    copy = tmp_path / "b.zarr"
    shutil.copytree(small, copy)
    chunks = sorted(p for p in (copy / "temperature" / "c").rglob("*") if p.is_file())
    chunks[0].unlink()
    whole, part = (xr.open_zarr(path).temperature.values for path in (small, copy))
    gone = np.isnan(part) & ~np.isnan(whole)
    assert gone.any()
    np.testing.assert_array_equal(part[~gone], whole[~gone])
