"""Named arrays in files: the format safetensors.

A file is the length of a header (8 bytes), the header (JSON: types, shapes and places) and the numbers. Nothing of it
is executed. Arrays of bfloat16, which NumPy does not have, are read as float32.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcblaz.backend.nn import to_host
from hpcblaz.errors import DtypeError, FileFormatError
from hpcblaz.mpi.atomic import AtomicFile, storage_errors

__all__ = ["load_tensors", "save_tensors"]

_TYPES = {
    "BOOL": "?", "U8": "u1", "I8": "i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4", "U64": "<u8",
    "I64": "<i8", "F16": "<f2", "BF16": "<u2", "F32": "<f4", "F64": "<f8",
}  # fmt: skip
_NAMES = {np.dtype(kind): name for name, kind in _TYPES.items() if name != "BF16"}
_LONGEST_HEADER = 100_000_000  # bytes, as the format says


def save_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, Any], metadata: Mapping[str, str] | None = None
) -> None:
    """Write arrays to a safetensors file, whole or not at all.

    Parameters
    ----------
    path : str or os.PathLike
    tensors : mapping of str to array
    metadata : mapping of str to str, optional

    Raises
    ------
    DtypeError
        If an array has a type that the format does not have.
    StorageError
        If it cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "weights.safetensors"
    >>> save_tensors(path, {"w": np.arange(3)}, {"epoch": "2"})
    >>> load_tensors(path)
    ({'w': array([0, 1, 2])}, {'epoch': '2'})
    """
    header: dict[str, Any] = {}
    if metadata:
        header["__metadata__"] = dict(metadata)
    arrays = [(name, np.ascontiguousarray(to_host(x))) for name, x in tensors.items()]
    arrays.sort(key=lambda entry: (-entry[1].dtype.itemsize, entry[0]))  # aligned, as the format's own writer does it
    place = 0
    for name, x in arrays:
        kind = _NAMES.get(x.dtype.newbyteorder("<"))
        if kind is None:
            raise DtypeError(f"expected numbers that safetensors can hold, got {x.dtype} in {name!r}")
        shape = list(np.shape(to_host(tensors[name])))
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [place, place + x.nbytes]}
        place += x.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with AtomicFile(Path(path)) as file:
        file.write_at(0, len(text).to_bytes(8, "little") + text)
        start = 8 + len(text)
        for _, x in arrays:
            file.write_at(start, x.astype(x.dtype.newbyteorder("<"), copy=False).tobytes())
            start += x.nbytes
        file.commit()


def load_tensors(path: str | os.PathLike[str]) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Read a safetensors file.

    Parameters
    ----------
    path : str or os.PathLike

    Returns
    -------
    tensors : dict of str to numpy.ndarray
    metadata : dict of str to str

    Raises
    ------
    FileFormatError
        If the file is truncated or damaged, or is no safetensors file.
    StorageError
        If it cannot be read.
    """
    path = Path(path)
    with storage_errors("read", path):
        data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > _LONGEST_HEADER or 8 + length > len(data):
        raise FileFormatError(
            f"expected {path} to be a safetensors file, got {len(data)} bytes: truncated or another format"
        )
    try:
        header = json.loads(data[8 : 8 + length])
        metadata = {str(k): str(v) for k, v in header.pop("__metadata__", {}).items()}
        entries = sorted(
            (int(e["data_offsets"][0]), int(e["data_offsets"][1]), name, str(e["dtype"]), [int(n) for n in e["shape"]])
            for name, e in header.items()
        )
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise FileFormatError(f"{path}: expected a header of safetensors, got a damaged one: {error}") from error
    tensors: dict[str, NDArray[Any]] = {}
    room = memoryview(data)[8 + length :]
    place = 0
    for start, stop, name, kind, shape in entries:
        if kind not in _TYPES:
            raise FileFormatError(f"{path}: expected numbers of types {', '.join(_TYPES)}, got {kind} in {name!r}")
        size = math.prod(shape) * np.dtype(_TYPES[kind]).itemsize
        if start != place or stop - start != size or min(shape, default=0) < 0 or stop > len(room):
            raise FileFormatError(
                f"{path}: expected {size} bytes of {name!r} from {place} on, got {start} to {stop} of {len(room)}: "
                "truncated or damaged"
            )
        x = np.frombuffer(room[start:stop], _TYPES[kind]).reshape(shape)
        if kind == "BF16":
            x = (x.astype(np.uint32) << np.uint32(16)).view(np.float32)
        tensors[name] = x.astype(x.dtype.newbyteorder("="))
        place = stop
    if place != len(room):
        raise FileFormatError(f"{path}: expected {place} bytes of numbers, got {len(room)}: damaged")
    return tensors, metadata
