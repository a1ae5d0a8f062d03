"""Fields of many formats: the values are those that the format's own library reads, slab by slab."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import hpcblaz as hb
from hpcblaz.errors import FileFormatError, HpcblazError, StorageError

xarray = pytest.importorskip("xarray", reason="xarray is not installed: pip install 'hpcblaz[io]'")
X = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
SLAB = (slice(1, 3), slice(None), slice(2, 4))


def netcdf(path: Path) -> Path:
    pytest.importorskip("netCDF4", reason="netCDF4 is not installed")
    packed = xarray.Variable(("t", "y", "x"), np.where(X == 7, np.nan, X), {"units": "K"})
    packed.encoding = {"dtype": "i2", "scale_factor": 0.5, "add_offset": 3.0, "_FillValue": -99}
    plain = xarray.Variable(("t", "y", "x"), X, {"units": "m", "missing_value": np.float32(-9)})
    data = xarray.Dataset(
        {"packed": packed, "plain": plain, "cell": ((), 3)}, {"t": [1, 2, 3], "area": (("y", "x"), X[0])}
    )
    data.to_netcdf(path, engine="netcdf4")
    return path


def test_netcdf(tmp_path: Path) -> None:
    path = netcdf(tmp_path / "a.nc")
    plain = hb.open_field(path, "plain")
    assert (plain.shape, plain.dtype, plain.dims) == (X.shape, X.dtype, ("t", "y", "x"))
    assert plain.fill_value == -9 and plain.attributes["units"] == "m"
    np.testing.assert_array_equal(plain[SLAB], X[SLAB])
    packed = hb.open_field(path, "packed")
    expected = np.where(X == 7, np.nan, X)
    assert packed.fill_value is None and packed.dtype.kind == "f"
    np.testing.assert_allclose(packed[(slice(None),) * 3], expected, atol=0.25)
    with pytest.raises(FileFormatError, match="choose one of packed, plain"):
        hb.open_field(path)
    with pytest.raises(FileFormatError, match="got 'wind'"):
        hb.open_field(path, "wind")


def test_two_numbers_for_missing_values_are_refused(tmp_path: Path) -> None:
    netCDF4 = pytest.importorskip("netCDF4", reason="netCDF4 is not installed")
    data = xarray.Dataset({"a": ("x", X[0, 0])})
    data.to_netcdf(tmp_path / "a.nc", encoding={"a": {"_FillValue": np.float32(-8)}})
    with netCDF4.Dataset(tmp_path / "a.nc", "a") as file:
        file["a"].missing_value = np.float32(-9)
    with pytest.raises(FileFormatError, match="one number for missing"):
        hb.open_field(tmp_path / "a.nc")


def test_hdf5(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py", reason="h5py is not installed")
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["run/density"] = X
        file["run/density"].attrs["unit"] = np.bytes_(b"kg")
        file["run/density"].dims[0].label = "z"
        file["run/name"] = "text"
        file["count"] = 3
    field = hb.open_field(path)
    assert (field.name, field.dims) == ("run/density", ("z", "axis_1", "axis_2")) and field.attributes == {"unit": "kg"}
    np.testing.assert_array_equal(field[SLAB], X[SLAB])
    assert hb.open_field(path, "/run/density").shape == X.shape


@pytest.mark.parametrize(("slope", "dtype"), [(1.0, np.int16), (0.5, np.float64)])
def test_nifti(tmp_path: Path, slope: float, dtype: Any) -> None:
    nibabel = pytest.importorskip("nibabel", reason="nibabel is not installed")
    image = nibabel.Nifti1Image(X.astype(np.int16), np.diag([2.0, 2.0, 3.0, 1.0]))
    image.header.set_slope_inter(slope, 0.0)
    nibabel.save(image, tmp_path / "a.nii.gz")
    field = hb.open_field(tmp_path / "a.nii.gz")
    assert field.dtype == dtype and field.dims == ("x", "y", "z")
    assert field.attributes["affine"][2][2] == 3.0
    np.testing.assert_array_equal(field[SLAB], nibabel.load(tmp_path / "a.nii.gz").get_fdata()[SLAB])


def test_files_of_numpy(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", u=X, v=X + 1)
    np.save(tmp_path / "a.npy", X)
    X.tofile(tmp_path / "a.f32")
    for field in (
        hb.open_field(tmp_path / "a.npz", "u"),
        hb.open_field(tmp_path / "a.npy"),
        hb.open_field(tmp_path / "a.f32", shape=X.shape),
    ):
        np.testing.assert_array_equal(field[SLAB], X[SLAB])
    with pytest.raises(FileFormatError, match="u, v"):
        hb.open_field(tmp_path / "a.npz")
    with pytest.raises(FileFormatError, match="one field"):
        hb.open_field(tmp_path / "a.npy", "u")
    with pytest.raises(FileFormatError, match="suffix"):
        (tmp_path / "a.txt").write_text("1")
        hb.open_field(tmp_path / "a.txt")
    with pytest.raises(StorageError, match="no such file"):
        hb.open_field(tmp_path / "b.nc")


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(suffix=st.sampled_from([".nc", ".npz", ".h5", ".nii", ".npy"]), junk=st.binary(max_size=60))
def test_files_of_junk_are_refused(tmp_path: Path, suffix: str, junk: bytes) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(junk)
    with pytest.raises(HpcblazError):
        hb.open_field(path)[(slice(None),)]
