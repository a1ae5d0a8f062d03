"""The accessor: what xarray holds is compressed with its names, and its stores are read by anybody."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hpcblaz as hb
from hpcblaz.errors import CodecError, FileFormatError, ToleranceError

for package in ("zarr", "xarray"):
    pytest.importorskip(package, reason=f"{package} is not installed: pip install 'hpcblaz[io]'")
import xarray as xr  # noqa: E402  what is imported above

hb.register_xarray()


def dataset() -> Any:
    x = np.random.default_rng(2).normal(size=(20, 30)).cumsum(0)
    x[3:5, 2:9] = np.nan
    return xr.Dataset(
        {"a": (("y", "x"), x, {"units": "K"}), "b": (("y", "x"), 2 * x)},
        {"y": np.arange(20), "lat": (("y", "x"), x)},
        {"title": "two"},
    )


def test_importing_hpcblaz_imports_neither_and_registers_with_what_is_there() -> None:
    code = "import sys, hpcblaz; assert not {'xarray', 'zarr', 'dask'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
    code = "import xarray, hpcblaz; xarray.Dataset().hpcblaz"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_array_keeps_its_names() -> None:
    data = dataset()
    a = data.a.hpcblaz.compress(tolerance=1e-2)
    assert a.attributes == {"name": "a", "dims": ["y", "x"], "attrs": {"units": "K"}}
    assert np.nanmax(np.abs(a.decompress() - data.a.values)) <= a.error.max_abs <= 1e-2


@pytest.mark.parametrize("lazy", [False, True], ids=["numpy", "dask"])
def test_stores(tmp_path: Path, lazy: bool) -> None:
    data = dataset()
    if lazy:
        pytest.importorskip("dask", reason="dask is not installed")
        data = data.chunk(y=7, x=11)
    data.hpcblaz.to_zarr(tmp_path / "a.zarr", tolerance={"a": 1e-2})
    with xr.open_zarr(tmp_path / "a.zarr") as back:
        assert np.nanmax(np.abs((back.a - data.a).values)) <= 1e-2
        xr.testing.assert_identical(back.drop_vars("a").load(), data.drop_vars("a").load())
        assert back.a.attrs == data.a.attrs
        assert list(back.hpcblaz.ratio) == ["a"] and back.hpcblaz.ratio["a"] > 1
    assert hb.open(tmp_path / "a.zarr").error.max_abs <= 1e-2
    data.hpcblaz.to_zarr(tmp_path / "a.zarr", relative=1e-3)
    with xr.open_zarr(tmp_path / "a.zarr") as back:
        assert sorted(back.hpcblaz.ratio) == ["a", "b"]
        span = float(data.b.max() - data.b.min())
        assert np.nanmax(np.abs((back.b - data.b).values)) <= 1e-3 * span


def test_refusals(tmp_path: Path) -> None:
    data = dataset()
    with pytest.raises(ToleranceError, match="one of"):
        data.hpcblaz.to_zarr(tmp_path / "a.zarr")
    with pytest.raises(ToleranceError, match="positive"):
        data.hpcblaz.to_zarr(tmp_path / "a.zarr", tolerance=-1)
    with pytest.raises(CodecError, match="wind"):
        data.hpcblaz.to_zarr(tmp_path / "a.zarr", tolerance={"wind": 1})
    with pytest.raises(FileFormatError, match="opened from"):
        _ = data.hpcblaz.ratio
    assert not list(tmp_path.iterdir())
