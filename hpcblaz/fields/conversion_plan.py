"""What of a file is compressed into a store, in which chunks, and what is kept as it is."""

import importlib
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hpcblaz._version import __version__
from hpcblaz.backend.blocks import MAX_AXES, default_block_shape
from hpcblaz.errors import CodecError, ShapeError
from hpcblaz.fields.codec import BlockCodec, Codec, ToleranceCodec
from hpcblaz.fields.open_field import Field, candidates, choose, open_field, raw_field
from hpcblaz.fields.zarr_store import chunk_shape_of, codec_options, without_advice, zarr_module
from hpcblaz.mpi.atomic import storage_errors

Cells = tuple[int, ...]


@dataclass(frozen=True)
class Plan:
    """How a variable is compressed.

    Parameters
    ----------
    name : str
        Of the array in the store.
    field : Field
        As it is stored in the file.
    codec : ToleranceCodec or BlockCodec
        With the sides of a block.
    chunk : tuple of int
        Shape of a chunk.
    scale : float
        What the stored values are multiplied with to be those that the file stands for.
    """

    name: str
    field: Field
    codec: Codec
    chunk: Cells
    scale: float

    @property
    def count(self) -> int:
        """Number of chunks; none of a field without values."""
        if not math.prod(self.field.shape):
            return 0
        return math.prod(-(-n // c) for n, c in zip(self.field.shape, self.chunk, strict=True))


@dataclass(frozen=True)
class Converted:
    """What became of a variable. Errors are those of the values that the file stands for, scaled if it scales them."""

    variable: str
    shape: Cells
    dtype: str
    chunks: Cells
    tolerance: float | None
    input_bytes: int
    output_bytes: int
    missing: int
    max_abs_error: float
    l2_error: float
    seconds: float

    @property
    def ratio(self) -> float:
        """Bytes of the values over bytes of the chunks."""
        return self.input_bytes / self.output_bytes if self.output_bytes else 1.0

    @property
    def bits_per_value(self) -> float | None:
        """Bits of the chunks a value."""
        cells = math.prod(self.shape)
        return 8 * self.output_bytes / cells if cells else None


def plan(name: str, field: Field, codec: Codec, cells: int) -> Plan:
    """Return how a variable is compressed, in chunks of about so many cells.

    Raises
    ------
    ShapeError
        If it has no axes.
    CodecError
        If blocks have more axes than it.
    """
    if not field.shape:
        raise ShapeError(f"expected a field with axes, got the single number {name!r}: leave it as it is")
    sides = codec.block_shape or block_shape_of(field.shape)
    aligned = (1,) * (len(field.shape) - len(sides)) + sides
    if len(aligned) != len(field.shape):
        raise CodecError(f"expected block sides for {len(field.shape)} axes of {name!r}, got {sides}")
    scale = abs(float(np.asarray(field.attributes.get("scale_factor", 1.0)).reshape(-1)[0])) or 1.0
    return Plan(name, field, _with_sides(codec, sides), chunk_shape_of(field.shape, aligned, cells), scale)


def block_shape_of(shape: Cells) -> Cells:
    """Return the block shape for a chunk: no sides along extents of one, nor along axes that are joined."""
    last = shape[-MAX_AXES:] if len(shape) <= MAX_AXES else (1, *shape[1 - MAX_AXES :])
    sides = iter(default_block_shape(max(1, sum(n > 1 for n in last))))
    return tuple(next(sides) if n > 1 else 1 for n in last)


def fields_of(
    path: str | os.PathLike[str], variables: Sequence[str], dataset: Any, shape: Sequence[int] | None
) -> list[tuple[str, Field]]:
    """Return the fields to compress, as they are stored, with the names that they get."""
    if dataset is None:
        fields = [open_field(path, name, shape) for name in (variables or [None])]  # type: ignore[list-item]
        stem = Path(path).name.split(".")[0] or "field"  # where a file holds one field, without a name
        names = [stem if one.name == str(Path(path)) else one.name.strip("/").replace("/", "_") for one in fields]
        return list(zip(names, fields, strict=True))
    names = list(dict.fromkeys(variables)) or [choose(candidates(dataset), dataset.variables, None, path)]
    return [(choose([], dataset.variables, name, path), raw_field(dataset, name)) for name in names]


def facts_of(path: str | os.PathLike[str], plans: list[Plan], target: Mapping[str, float]) -> dict[str, Any]:
    """Return all that the chunks depend on, by names for messages."""
    return {
        "version of hpcblaz": __version__,
        "input": facts_of_file(path),
        "error target": dict(target),
        "variables": ", ".join(one.name for one in plans),
        "codec": {one.name: codec_options(one.codec, None) for one in plans},
        "shapes": {one.name: [one.field.shape, one.field.dtype.str, one.chunk] for one in plans},
    }


def facts_of_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return what tells whether a file, or a folder with all that is in it, has been changed.

    Examples
    --------
    >>> sorted(facts_of_file(os.devnull))
    ['bytes', 'changed', 'files', 'path']
    """
    root = Path(os.path.abspath(path))
    with storage_errors("read", root):
        files = [status for _, status in _statuses(root)]
    return {
        "path": str(root),
        "files": len(files),
        "bytes": sum(status.st_size for status in files),
        "changed": max((status.st_mtime_ns for status in files), default=0),
    }


def _statuses(root: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for path in [root] if not root.is_dir() else (Path(p, n) for p, _, names in os.walk(root) for n in names):
        yield path, path.stat()


def write_rest(folder: Path, dataset: Any, names: list[str]) -> None:
    """Begin a store: all variables but some, and the attributes of the dataset."""
    if dataset is None:
        zarr_module().create_group(str(folder), zarr_format=3, overwrite=True)
        return
    rest = dataset.drop_vars(names)
    for variable in rest.variables.values():
        variable.encoding = {} if "_FillValue" in variable.attrs else {"_FillValue": None}  # and none is made up
    with without_advice():
        rest.to_zarr(str(folder), mode="w", zarr_format=3, consolidated=False)


def stored_attributes(one: Field) -> dict[str, Any]:
    """Return the attributes of a variable as xarray has them in a store: the fill value in its own encoding."""
    attributes = dict(one.attributes)
    if "_FillValue" in attributes:
        coder = importlib.import_module("xarray.backends.zarr").FillValueCoder
        value = np.nan if one.fill_value is None else attributes["_FillValue"]
        attributes["_FillValue"] = coder.encode(one.dtype.type(value), one.dtype)
    return attributes


def _with_sides(codec: Codec, sides: Cells) -> Codec:
    if isinstance(codec, ToleranceCodec):
        return ToleranceCodec(sides, codec.transform)
    return BlockCodec(sides, codec.transform, codec.index_dtype, codec.keep)
