"""Fields in the files that scientists have, read slab by slab: NetCDF, HDF5, GRIB, Zarr, NIfTI and NumPy's."""

import importlib
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcblaz.errors import DtypeError, FileFormatError, HpcblazError, MissingDependencyError, StorageError
from hpcblaz.fields.inputs import SUPPORTED
from hpcblaz.fields.readers import SUFFIXES, open_array
from hpcblaz.mpi.atomic import storage_errors

XARRAY_SUFFIXES = (".nc", ".nc4", ".cdf", ".grib", ".grib2", ".grb", ".grb2")
HDF5_SUFFIXES = (".h5", ".hdf5", ".he5")
NIFTI_SUFFIXES = (".nii", ".nii.gz")
_FILL_KEYS = ("_FillValue", "missing_value")
_SCALES = ("DIMENSION_LIST", "REFERENCE_LIST", "DIMENSION_LABELS")  # of HDF5, beside the attributes of the user
ALL_SUFFIXES = (*SUFFIXES, ".npz", *XARRAY_SUFFIXES, *HDF5_SUFFIXES, *NIFTI_SUFFIXES, ".zarr")


@dataclass(frozen=True)
class Field:
    """A field in a file; ``field[slices]`` reads that part and no more, where the format allows it.

    Parameters
    ----------
    name : str
        Of the variable; that of the file where a file holds just one field.
    shape : tuple of int
    dtype : numpy.dtype
        Of the values as they are read.
    dims : tuple of str
        Names of the axes.
    attributes : dict
        Text, numbers, lists and dictionaries that the file has beside the values.
    fill_value : int, float or None
        The number that stands for a missing one; NaN is missing without being declared.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    dims: tuple[str, ...]
    _read: Callable[[tuple[slice, ...]], Any]
    attributes: dict[str, Any] = field(default_factory=dict)
    fill_value: float | int | None = None

    def __getitem__(self, slices: tuple[slice, ...]) -> NDArray[Any]:
        with storage_errors("read", Path(self.name)):
            try:
                return np.asarray(self._read(slices)).astype(self.dtype, copy=False)
            except (HpcblazError, OSError):
                raise
            except Exception as error:
                raise FileFormatError(f"{self.name}: expected to read {slices}, got: {error}") from error


def open_field(path: str | os.PathLike[str], variable: str | None = None, shape: Sequence[int] | None = None) -> Field:
    """Open a field of a file; values are read when they are asked for.

    Parameters
    ----------
    path : str or os.PathLike
        ``.npy``, ``.npz``, raw floats (``.f32``, ``.f64``), NetCDF, HDF5, GRIB, NIfTI or a Zarr store, by its suffix.
    variable : str, optional
        Which field of a file that has several; it need not be given if there is only one.
    shape : sequence of int, optional
        Of a raw file, which does not say it.

    Returns
    -------
    Field
        Numbers that the file stores scaled (``scale_factor``, ``add_offset``, slope and intercept) are the scaled ones,
        with NaN where one is missing; other ones are as they are stored.

    Raises
    ------
    FileFormatError
        If the file is not what its suffix says, or does not have the variable; if there are several and none is named.
    StorageError
        If the file cannot be read.
    MissingDependencyError
        If what reads the format is not installed.

    Examples
    --------
    >>> import numpy as np, os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "fields.npz")
    >>> np.savez(path, height=np.zeros((3, 4)), depth=np.ones((5, 6)))
    >>> open_field(path, "depth")[1:3, :2].tolist()
    [[1.0, 1.0], [1.0, 1.0]]
    """
    file = Path(path)
    with storage_errors("read", file):
        os.stat(file)
    if is_store(file):
        return _of_dataset(open_dataset(file), str(file), variable)
    name = file.name.lower()
    if name.endswith(SUFFIXES):
        array = open_array(file, shape)
        _one_only(file, variable)
        return Field(str(file), array.shape, array.dtype, _axes(array.ndim), array.__getitem__)
    if name.endswith(".npz"):
        return _open_npz(file, variable)
    if name.endswith(HDF5_SUFFIXES):
        return _open_hdf5(file, variable)
    if name.endswith(NIFTI_SUFFIXES):
        _one_only(file, variable)
        return _open_nifti(file)
    if name.endswith(XARRAY_SUFFIXES):
        return _of_dataset(open_dataset(file), str(file), variable)
    raise FileFormatError(
        f"{file}: expected a file with the suffix {', '.join(ALL_SUFFIXES)} (or .hbz), got {file.name!r}"
    )


def is_store(path: str | os.PathLike[str]) -> bool:
    """Say whether a path is a Zarr store: a folder with its metadata."""
    return any(os.path.isfile(os.path.join(path, name)) for name in ("zarr.json", ".zgroup", ".zarray"))


def has_variables(path: str | os.PathLike[str]) -> bool:
    """Say whether a file is one that xarray opens: variables with names of axes, coordinates and attributes."""
    return is_store(path) or str(path).lower().endswith(XARRAY_SUFFIXES)


def open_dataset(path: str | os.PathLike[str]) -> Any:
    """Open a file with xarray: lazily, and with values and attributes as they are stored.

    Raises
    ------
    FileFormatError
        If it cannot be opened.
    MissingDependencyError
        If xarray is not installed.
    """
    xarray = optional("xarray", f"reading {path}")
    raw: dict[str, Any] = {"decode_cf": False}
    if is_store(path):
        raw |= {"engine": "zarr", "consolidated": False, "chunks": None}
    elif str(path).lower().endswith((".grib", ".grib2", ".grb", ".grb2")):
        optional("cfgrib", f"reading {path}")
        raw |= {"engine": "cfgrib", "backend_kwargs": {"indexpath": ""}}
    try:
        return xarray.open_dataset(path, **raw)
    except HpcblazError:
        raise
    except Exception as error:
        raise FileFormatError(f"expected {path} to be what its name says, got: {error}") from error


def candidates(dataset: Any) -> list[str]:
    """Return the variables of a dataset that are fields: numbers, no coordinates, bounds or the like."""
    helpers = {str(name) for name in dataset.dims}
    for variable in dataset.variables.values():
        for key in ("coordinates", "bounds", "grid_mapping", "ancillary_variables", "climatology"):
            helpers |= set(str(variable.attrs.get(key, "")).split())
    helpers |= set(str(dataset.attrs.get("coordinates", "")).split())
    return [
        str(name)
        for name, variable in dataset.variables.items()
        if name not in helpers and variable.ndim and np.dtype(variable.dtype).newbyteorder("=").name in SUPPORTED
    ]


def choose(names: Sequence[str], among: Iterable[str], variable: str | None, path: object) -> str:
    """Return the name of the variable to read: the one asked for, or the only one of `names`.

    Raises
    ------
    FileFormatError
        If it is not among those of the file; if none was asked for and there are several.
    """
    if variable is not None:
        if variable not in set(among):
            raise FileFormatError(f"{path}: expected one of the variables {', '.join(among)}, got {variable!r}")
        return variable
    if len(names) != 1:
        raise FileFormatError(
            f"{path}: expected the name of a variable, got none: choose one of {', '.join(names) or 'none'} (-v NAME)"
        )
    return names[0]


def raw_field(dataset: Any, name: str) -> Field:
    """Return a variable of a dataset as it is stored, with the number that stands for missing ones."""
    variable = dataset.variables[name]
    declared: list[Any] = []
    for key in _FILL_KEYS:
        declared += np.asarray(variable.attrs.get(key, [])).ravel().tolist()
    numbers = {value for value in declared if value == value}  # NaN is missing anyway
    if len(numbers) > 1:
        raise FileFormatError(
            f"expected one number for missing values of {name!r}, got {sorted(map(str, numbers))}: set them to one"
        )
    fill = next(iter(numbers), None)
    dtype = np.dtype(variable.dtype).newbyteorder("=")
    if dtype.name not in SUPPORTED:
        raise DtypeError(f"expected numbers to compress, got the variable {name!r} of type {variable.dtype}")
    return Field(
        name,
        tuple(variable.shape),
        dtype,
        tuple(map(str, variable.dims)),
        lambda slices: variable[slices].values,
        plain(variable.attrs),
        fill,
    )


def _of_dataset(dataset: Any, path: str, variable: str | None) -> Field:
    name = choose(candidates(dataset), map(str, dataset.variables), variable, path)
    raw = raw_field(dataset, name)
    if not {"scale_factor", "add_offset"} & set(raw.attributes):
        return raw
    xarray = importlib.import_module("xarray")
    scaled = xarray.conventions.decode_cf_variable(name, dataset.variables[name], decode_times=False)
    return Field(
        name,
        raw.shape,
        np.dtype(scaled.dtype),
        raw.dims,
        lambda slices: scaled[slices].values,
        plain(scaled.attrs),
    )


def _open_npz(path: Path, variable: str | None) -> Field:
    try:
        with np.load(path, allow_pickle=False) as members:
            name = choose(members.files, members.files, variable, path)
            array = members[name]
    except (HpcblazError, OSError):
        raise
    except Exception as error:  # noqa: BLE001  damaged archives fail in many ways
        raise FileFormatError(f"{path}: expected an archive of NumPy, got: {error}") from None
    return Field(name, array.shape, array.dtype, _axes(array.ndim), array.__getitem__)


def _open_hdf5(path: Path, variable: str | None) -> Field:
    h5py = optional("h5py", f"reading {path}")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise FileFormatError(f"{path}: expected a file of HDF5, got: {error}") from None
    found: dict[str, Any] = {}

    def visit(name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset) and node.ndim and node.dtype.newbyteorder("=").name in SUPPORTED:
            found[name] = node

    file.visititems(visit)
    fields = [name for name, node in found.items() if not node.is_scale] or list(found)
    name = choose(fields, found, None if variable is None else variable.strip("/"), path)
    node = found[name]
    attributes = {key: node.attrs[key] for key in node.attrs if key not in _SCALES}
    fill = np.asarray(attributes.get("_FillValue", np.nan)).reshape(-1)[0].item()
    dims = tuple(dim.label or (dim[0].name.strip("/") if len(dim) else f"axis_{i}") for i, dim in enumerate(node.dims))
    return Field(
        name,
        node.shape,
        node.dtype.newbyteorder("="),
        dims,
        node.__getitem__,
        plain(attributes),
        None if fill != fill else fill,
    )


def _open_nifti(path: Path) -> Field:
    nibabel = optional("nibabel", f"reading {path}")
    try:
        image = nibabel.load(path)
        proxy, header = image.dataobj, image.header
        slope, intercept = proxy.slope, proxy.inter
    except (OSError, nibabel.filebasedimages.ImageFileError, ValueError) as error:
        raise FileFormatError(f"{path}: expected an image of NIfTI, got: {error}") from None
    scaled = (slope, intercept) != (1.0, 0.0)
    stored = image.get_data_dtype().newbyteorder("=")
    attributes = {
        "affine": image.affine.tolist() if image.affine is not None else None,
        "header": {key: header[key].tolist() for key in header},
    }
    return Field(
        str(path),
        tuple(image.shape),
        np.dtype(np.float64) if scaled else stored,
        ("x", "y", "z", "t", "u", "v", "w")[: len(image.shape)],
        proxy.__getitem__,
        plain(attributes),
    )


def optional(package: str, feature: str) -> Any:
    """Import a package of the extra ``io``; raise MissingDependencyError if it is not installed."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise MissingDependencyError.needs(feature, package, "io") from error


def plain(attributes: Mapping[Any, Any], finite: bool = False) -> dict[str, Any]:
    """Return attributes as JSON has them: numbers of NumPy as numbers, what it cannot hold as text.

    NaN and infinities, which Zarr's metadata may have and ours may not, are text if `finite`.
    """
    text = json.dumps({str(key): value for key, value in attributes.items()}, default=_plain_value)
    result: dict[str, Any] = json.loads(text, parse_constant=str if finite else float)
    return result


def _plain_value(value: Any) -> Any:
    if isinstance(value, (np.generic, np.ndarray)) and value.dtype.kind in "biufU":
        return value.tolist()
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _axes(ndim: int) -> tuple[str, ...]:
    return tuple(f"axis_{i}" for i in range(ndim))


def _one_only(path: Path, variable: str | None) -> None:
    if variable is not None:
        raise FileFormatError(f"{path}: expected no name of a variable, as the file holds one field, got {variable!r}")


def folder_size(path: str | os.PathLike[str]) -> int:
    """Return the bytes of a file, or of all files of a folder."""
    root = Path(path)
    try:
        files = [root] if root.is_file() else [file for file in root.rglob("*") if file.is_file()]
        return sum(file.stat().st_size for file in files)
    except OSError as error:
        raise StorageError(f"expected to read {root}, got: {error}") from error
