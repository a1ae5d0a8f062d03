"""Compressed arrays to Zarr stores, which are written whole or not at all."""

import itertools
import math
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hpcblaz.backend.blocks import BlockGrid
from hpcblaz.backend.payload import Blocks, Numerics, PackedBlocks
from hpcblaz.errors import LayoutError, MissingDependencyError
from hpcblaz.fields.codec import BlockCodec, Codec
from hpcblaz.fields.dumping import dumps
from hpcblaz.fields.fileformat import attributes_of
from hpcblaz.fields.missing import join
from hpcblaz.fields.regroup import regroup
from hpcblaz.fields.scalars import ErrorBound
from hpcblaz.mpi.atomic import AtomicFolder

if TYPE_CHECKING:
    from hpcblaz.fields.array import CompressedArray

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


def save_store(
    a: "CompressedArray", path: str | os.PathLike[str], attributes: Mapping[str, Any] | None, chunks: Cells | None
) -> None:
    """Write an array as a Zarr store of its own; chunks are cut out of the payload, and nothing is decoded."""
    if a.layout is not None:
        raise LayoutError(
            "expected an array that is not split over ranks to save as .zarr: save it as .hbz, or a.local"
        )
    a = a.to_device("cpu")
    grid = a._numerics.grid
    chunk = chunk_shape_of(a.shape, grid.block_shape) if chunks is None else tuple(int(n) for n in chunks)
    whole = all(c >= n or c % side == 0 for c, n, side in zip(chunk, a.shape, grid.block_shape, strict=True))
    if len(chunk) != a.ndim or min(chunk) < 1 or not whole:
        raise LayoutError(f"expected chunks of whole blocks of {grid.block_shape}, got {chunk}")
    stored = attributes_of(dict(a._attributes if attributes is None else attributes))
    missing_value = None if a._missing is None else a._missing.fill_value
    tolerance = a.error.max_abs
    if not isinstance(a.codec, BlockCodec) and not 0 < tolerance < math.inf:
        tolerance = float(np.finfo(np.float64).tiny) if tolerance == 0 else float(np.finfo(np.float64).max)
    with AtomicFolder(path) as folder:
        array = create_array(
            folder.temporary,
            "",
            shape=a.shape,
            chunks=chunk,
            dtype=a.dtype,
            codec=codec_options(a.codec, tolerance, missing_value),
            attributes=stored,
        )
        for index, first, extents in chunks_of(a.shape, chunk):
            if math.prod(extents):
                folder.write(chunk_name(array, "", index), dumps(_cut(a, first, extents), attributes={}))
        folder.commit()


def _cut(a: "CompressedArray", first: Cells, extents: Cells) -> "CompressedArray":
    """Return a part of an array that begins and ends with blocks, without decoding."""
    numerics = Numerics(BlockGrid(extents, a._numerics.grid.block_shape), a._numerics.transform, a._numerics.precision)
    origin = (0,) * len(first)
    blocks = regroup([(a._blocks, a._numerics, origin)], numerics, first, a.codec, exponents_of(a._blocks))
    missing = join(extents, [(a._missing, a._numerics.grid.shape, tuple(-f for f in first))])
    cells = math.prod(extents)
    error = a._field_error
    bound = min(error.l2, math.sqrt(cells) * error.max_abs * (1 + 2.0**-50))
    return a._replace(
        blocks=blocks,
        numerics=numerics,
        missing=missing,
        field_error=ErrorBound(error.max_abs, bound),
        promise=a._promise,
    )


def exponents_of(blocks: Blocks) -> tuple[int, int]:
    """Return the exponents of the steps of a payload; zeros for a BlockCodec's."""
    return (blocks.exponent, blocks.mean_exponent) if isinstance(blocks, PackedBlocks) else (0, 0)
