"""``.hpcblaz`` of xarray's arrays and datasets.

It is there when hpcblaz is imported after xarray. Imported before it, hpcblaz does not load xarray to announce itself:
:func:`hpcblaz.register_xarray` does.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hpcblaz.errors import CodecError, FileFormatError, ToleranceError
from hpcblaz.fields.codec import Codec, ToleranceCodec
from hpcblaz.fields.compress import compress
from hpcblaz.fields.converting import CHUNK_CELLS, block_shape_of
from hpcblaz.fields.describing import describe
from hpcblaz.fields.open_field import candidates, is_store, optional, plain
from hpcblaz.fields.zarr_store import chunk_shape_of, codec_class, codec_options, consolidate, without_advice
from hpcblaz.mpi.atomic import AtomicFolder

if TYPE_CHECKING:
    from hpcblaz.fields.array import CompressedArray
_KEPT = ("units", "calendar", "coordinates")  # of the encoding that a variable had in the file it came from


def register_xarray(only_if_imported: bool = False) -> None:
    """Give xarray's arrays and datasets the attribute ``hpcblaz``.

    Importing hpcblaz does this if xarray has been imported; it need be called where xarray came later.

    Parameters
    ----------
    only_if_imported : bool, default False
        Do nothing unless xarray is imported already.

    Raises
    ------
    MissingDependencyError
        If xarray is not installed.

    Examples
    --------
    >>> import numpy as np, hpcblaz as hb, xarray as xr
    >>> hb.register_xarray()
    >>> wave = xr.DataArray(np.sin(np.linspace(0, 9, 500)), dims="time", attrs={"units": "m"})
    >>> a = wave.hpcblaz.compress(tolerance=1e-3)
    >>> a.attributes["dims"], a.attributes["attrs"]
    (['time'], {'units': 'm'})
    """
    if only_if_imported and "xarray" not in sys.modules:
        return
    xarray = optional("xarray", "the accessor")
    if getattr(xarray.DataArray, "hpcblaz", None) is not ArrayAccessor:
        xarray.register_dataarray_accessor("hpcblaz")(ArrayAccessor)
        xarray.register_dataset_accessor("hpcblaz")(DatasetAccessor)


class ArrayAccessor:
    """What ``da.hpcblaz`` offers.

    Parameters
    ----------
    array : xarray.DataArray
    """

    def __init__(self, array: Any) -> None:
        self._array = array

    def compress(self, **target: Any) -> "CompressedArray":
        """Compress the values; name, dims and attrs of the array are in the attributes of the result.

        Parameters
        ----------
        **target
            The arguments of :func:`hpcblaz.compress`.

        Returns
        -------
        CompressedArray
        """
        array = self._array
        name = None if array.name is None else str(array.name)
        kept = {"name": name, "dims": list(map(str, array.dims)), "attrs": plain(array.attrs, finite=True)}
        a = compress(array.values, **target)
        return a._replace(attributes=kept, promise=a._promise)


class DatasetAccessor:
    """What ``ds.hpcblaz`` offers.

    Parameters
    ----------
    dataset : xarray.Dataset
    """

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset

    @property
    def ratio(self) -> dict[str, float]:
        """The ratio of each compressed variable of the store that the dataset was opened from.

        Raises
        ------
        FileFormatError
            If it was not opened from a store on the disk.
        """
        source = self._dataset.encoding.get("source")
        if not isinstance(source, str) or not is_store(source):
            raise FileFormatError(f"expected a dataset that was opened from a Zarr store, got one of {source}")
        found = describe(source)
        return {name: entry["ratio"] for name, entry in found.items() if "ratio" in entry and name in self._dataset}

    def to_zarr(
        self,
        path: str | Path,
        *,
        tolerance: float | Mapping[str, float] | None = None,
        relative: float | Mapping[str, float] | None = None,
        codec: Codec | None = None,
    ) -> None:
        """Write the dataset as a Zarr store with compressed fields, whole or not at all.

        Parameters
        ----------
        path : str or pathlib.Path
        tolerance, relative : float or mapping, optional
            One of both, as for :func:`hpcblaz.compress`: for all fields, or by the names of those that are to be
            compressed. Fields are variables of numbers that are no coordinates.
        codec : ToleranceCodec, optional

        Raises
        ------
        ToleranceError
            If both or none are given, or one is not positive and finite.
        CodecError
            If a name is not that of a variable.
        StorageError
            If the store cannot be written.

        Notes
        -----
        Values are compressed as they are in the dataset: if the file that they came from had them packed as integers
        (``scale_factor``), the store does not.
        """
        if (tolerance is None) == (relative is None):
            raise ToleranceError("expected one of tolerance= and relative=, got both or none")
        if codec is not None and not isinstance(codec, ToleranceCodec):
            raise CodecError(f"expected codec to be a ToleranceCodec, got {type(codec).__name__}")
        wanted: Any = tolerance if tolerance is not None else relative
        dataset = self._dataset.copy()
        if not isinstance(wanted, Mapping):
            wanted = dict.fromkeys([name for name in candidates(dataset) if name in dataset.data_vars], wanted)
        encoding = {}
        for name, value in wanted.items():
            if name not in dataset.variables:
                raise CodecError(
                    f"expected one of the variables {', '.join(map(str, dataset.variables))}, got {name!r}"
                )
            variable = dataset.variables[name]
            encoding[name] = _encoding(variable, _tolerance(variable, float(value), relative is not None), codec)
            if dataset[name].chunks is not None:  # dask's chunks may be others
                dataset[name] = dataset[name].chunk(dict(zip(variable.dims, encoding[name]["chunks"], strict=True)))
            dataset[name].encoding = {k: v for k, v in variable.encoding.items() if k in _KEPT}
        with AtomicFolder(path) as folder, without_advice():
            dataset.to_zarr(
                str(folder.temporary), mode="w", zarr_format=3, consolidated=False, encoding=encoding,
                write_empty_chunks=True,
            )  # fmt: skip
            consolidate(folder.temporary)
            folder.commit()


def _tolerance(variable: Any, value: float, relative: bool) -> float:
    """Return the tolerance for all chunks: absolute, of the range of the valid values where it is relative."""
    if not (value > 0 and np.isfinite(value)):
        raise ToleranceError(f"expected a tolerance that is positive and finite, got {value!r}")
    if not relative:
        return value
    finite = variable.where(np.isfinite(variable)) if variable.dtype.kind == "f" else variable
    low, high = float(finite.min()), float(finite.max())
    return value * (high - low) if low < high else 1.0


def _encoding(variable: Any, tolerance: float, codec: Codec | None) -> dict[str, Any]:
    codec = codec or ToleranceCodec()
    sides = codec.block_shape or block_shape_of(variable.shape)
    chunks = chunk_shape_of(variable.shape, (1,) * (variable.ndim - len(sides)) + sides, CHUNK_CELLS)
    options = codec_options(ToleranceCodec(sides, codec.transform), tolerance)
    encoding: dict[str, Any] = {"serializer": codec_class()(**options), "compressors": None, "chunks": chunks}
    if variable.dtype.kind == "f":
        encoding |= {"fill_value": np.nan, "_FillValue": np.nan}
    return encoding
