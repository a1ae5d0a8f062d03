"""What Zarr stores of compressed arrays are made of: chunks, their shapes, names and options."""

import itertools
import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from hpcblaz.errors import LayoutError, MissingDependencyError
from hpcblaz.fields.codec import BlockCodec, Codec
from hpcblaz.mpi import Layout

_CHUNK_CELLS = 1 << 23  # by default: 32 MiB of float32

Cells = tuple[int, ...]


def zarr_module() -> Any:
    """Return Zarr, or raise MissingDependencyError."""
    try:
        import zarr
    except ImportError as error:
        raise MissingDependencyError.needs("reading and writing Zarr", "zarr", "io") from error
    return zarr


def codec_class() -> Any:
    """Return the codec of Zarr that stores compressed arrays."""
    zarr_module()
    from zarr.registry import get_codec_class

    return get_codec_class("hpcblaz")


def chunk_shape_of(shape: Cells, block_shape: Cells, cells: int = _CHUNK_CELLS) -> Cells:
    """Return the shape of chunks of whole blocks, of at most so many cells if blocks allow; last axes stay whole."""
    chunk = list(shape)
    for axis, side in enumerate(block_shape):
        rest = math.prod(chunk) // max(1, chunk[axis])
        most = max(1, cells // max(1, rest * side)) * side
        chunk[axis] = max(1, min(shape[axis], most))
    return tuple(chunk)


def chunk_shape_for(layout: Layout, cells: int = _CHUNK_CELLS) -> Cells:
    """Return the shape of chunks that the ranks of a layout can write without talking, if its parts are alike.

    Chunks have at most so many cells if blocks allow, and no more than a rank's part. Where an axis is split, they are
    an even share of the first part, which is the longest: other parts end with chunks if they are as long.
    """
    part, sides = layout.shape_of(0), layout.block_shape
    chunk = list(chunk_shape_of(part, sides, cells))
    for axis, side in enumerate(sides):
        if layout.splits[axis] == 1 and chunk[axis] == layout.global_shape[axis]:
            continue
        blocks, most = -(-part[axis] // side), max(1, chunk[axis] // side)
        divisor = max((n for n in range(1, most + 1) if blocks % n == 0), default=1)
        if 2 * divisor < most:  # a prime number of blocks, or the like: as even as can be
            divisor = -(-blocks // -(-blocks // most))
        chunk[axis] = divisor * side
    return tuple(chunk)


def chunks_of(shape: Cells, chunk: Cells) -> Iterator[tuple[Cells, Cells, Cells]]:
    """Yield the index of each chunk, its first cell, and its extents within the array."""
    counts = [-(-n // c) for n, c in zip(shape, chunk, strict=True)]
    for index in itertools.product(*map(range, counts)):
        first = tuple(i * c for i, c in zip(index, chunk, strict=True))
        yield index, first, tuple(min(c, n - f) for n, c, f in zip(shape, chunk, first, strict=True))


def create_array(
    folder: Path,
    name: str,
    *,
    shape: Cells,
    chunks: Cells,
    dtype: np.dtype[Any],
    codec: Mapping[str, Any],
    dimensions: tuple[str, ...] | None = None,
    attributes: Mapping[str, Any] | None = None,
) -> Any:
    """Create an array of a store without chunks; return it. Cells that are never written are missing.

    Parameters
    ----------
    folder : pathlib.Path
        The store.
    name : str
        Of the array in it; empty for the store itself.
    shape, chunks : tuple of int
    dtype : numpy.dtype
    codec : mapping
        The options of the codec.
    dimensions : tuple of str, optional
    attributes : mapping, optional
    """
    value = codec.get("missing_value")
    return zarr_module().create_array(
        str(folder),
        name=name or None,
        shape=shape,
        chunks=tuple(max(1, n) for n in chunks),
        dtype=dtype,
        serializer=codec_class()(**codec),
        compressors=None,
        filters=None,
        fill_value=value if value is not None else (np.nan if dtype.kind == "f" else 0),
        dimension_names=dimensions,
        attributes=dict(attributes or {}),
        zarr_format=3,
    )


@contextmanager
def without_advice() -> Iterator[None]:
    """Silence Zarr's advice on text and consolidated metadata, of which the user has chosen neither."""
    with warnings.catch_warnings():
        for message in ("The data type .* does not have a Zarr V3", "Consolidated metadata is currently not part"):
            warnings.filterwarnings("ignore", message)
        yield


def consolidate(folder: Path) -> None:
    """Gather the metadata of all arrays of a store in one file, which xarray looks for first."""
    with without_advice():
        zarr_module().consolidate_metadata(str(folder))


def chunk_name(array: Any, name: str, index: Cells) -> str:
    """Return the file of a chunk within the store."""
    key = array.metadata.encode_chunk_key(index)
    return f"{name}/{key}" if name else str(key)


def codec_options(codec: Codec, tolerance: float | None, missing_value: float | int | None = None) -> dict[str, Any]:
    """Return the options of the codec of Zarr for one of ours.

    Raises
    ------
    LayoutError
        If it keeps coefficients by a mask, which the options of a store do not hold.
    """
    options: dict[str, Any] = {"block_shape": codec.block_shape, "transform": codec.transform}
    if isinstance(codec, BlockCodec):
        if isinstance(codec.keep, np.ndarray):
            raise LayoutError("expected a codec that keeps a fraction of its coefficients, got a mask: save it as .hbz")
        options |= {"index_dtype": np.dtype(codec.index_dtype).name, "keep": codec.keep}
    else:
        options["tolerance"] = tolerance
    if missing_value is not None:
        options["missing_value"] = missing_value
    return options
