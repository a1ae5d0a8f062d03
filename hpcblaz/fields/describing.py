"""What fields a file holds: names, shapes, types, and how they are compressed."""

import os
from pathlib import Path
from typing import Any

from hpcblaz.fields.open_field import Field, folder_size, has_variables, is_store, open_dataset, open_field, plain
from hpcblaz.fields.zarr_store import zarr_module


def describe(path: str | os.PathLike[str]) -> dict[str, dict[str, Any]]:
    """Return what is known of each field of a file that any reader opens.

    Parameters
    ----------
    path : str or os.PathLike

    Returns
    -------
    dict
        For each variable its shape, dtype, dims and attributes; of compressed ones in a store also the options of the
        codec, the bytes on the disk, and the ratio to the bytes of the values.

    Raises
    ------
    FileFormatError, StorageError, MissingDependencyError
        As :func:`open_field` does.
    """
    if not has_variables(path):
        one = open_field(path)
        return {one.name: _entry(one)}
    dataset = open_dataset(path)
    found = {
        str(name): {
            "shape": list(variable.shape),
            "dtype": str(variable.dtype),
            "dims": list(map(str, variable.dims)),
            "attributes": plain(variable.attrs),
        }
        for name, variable in dataset.variables.items()
    }
    if is_store(path):
        for name, entry in found.items():
            entry |= _codec(Path(path), name)
    return found


def _entry(one: Field) -> dict[str, Any]:
    return {
        "shape": list(one.shape),
        "dtype": one.dtype.name,
        "dims": list(one.dims),
        "attributes": one.attributes,
    }


def _codec(path: Path, name: str) -> dict[str, Any]:
    array = zarr_module().open_array(str(path), path=name, mode="r")
    codecs = [codec.to_dict() for codec in getattr(array.metadata, "codecs", ())]
    ours = [codec["configuration"] for codec in codecs if codec["name"] == "hpcblaz"]
    if not ours:
        return {}
    stored = folder_size(path / name)
    return {
        "codec": plain(ours[0]),
        "chunks": list(array.chunks),
        "stored_bytes": stored,
        "ratio": array.size * array.dtype.itemsize / stored,
    }
