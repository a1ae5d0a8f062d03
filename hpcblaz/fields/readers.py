"""Plain arrays in files: NumPy's own format and raw little-endian floats, split over ranks.

Nothing here knows of compression. Arrays are mapped, not read: what a rank does not look at stays on the disk.
"""

import math
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcblaz.errors import DtypeError, FileFormatError, ShapeError, StorageError
from hpcblaz.mpi import Layout, communicator
from hpcblaz.mpi.atomic import AtomicFile, storage_errors
from hpcblaz.mpi.collect import collect

__all__ = ["SUFFIXES", "open_array", "write_array"]

_RAW: dict[str, np.dtype[Any]] = {".f32": np.dtype("<f4"), ".f64": np.dtype("<f8")}
SUFFIXES = (".npy", *_RAW)
_NPY_MAGIC = b"\x93NUMPY"


def open_array(path: str | os.PathLike[str], shape: Sequence[int] | None = None) -> NDArray[Any]:
    """Map the array of a file into memory, read-only.

    Parameters
    ----------
    path : str or os.PathLike
        ``.npy``, or raw little-endian floats in C order: ``.f32`` or ``.f64``.
    shape : sequence of int, optional
        Of a raw file, which does not say it; of a ``.npy`` file it is checked.

    Returns
    -------
    numpy.ndarray

    Raises
    ------
    FileFormatError
        If the file is not what its suffix says, or of another size than its shape needs.
    ShapeError
        If a raw file comes without a shape, or a ``.npy`` file has another shape.
    StorageError
        If the file cannot be read.

    Examples
    --------
    >>> import numpy as np, os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "ramp.f32")
    >>> write_array(path, np.arange(6, dtype="float32"))
    >>> open_array(path, shape=(2, 3))[1, 2].item()
    5.0
    """
    path = Path(path)
    wanted = None if shape is None else tuple(int(n) for n in shape)
    if wanted is not None and any(n < 0 for n in wanted):
        raise ShapeError(f"expected extents that are not negative, got {wanted}")
    with storage_errors("read", path):
        size = path.stat().st_size
        if not path.is_file():
            raise StorageError(f"expected {path} to be a file, got a folder or a device")
        if path.suffix == ".npy":
            return _open_npy(path, wanted, size)
        if path.suffix in _RAW:
            return _open_raw(path, wanted, size)
    raise FileFormatError(f"{path}: expected a file with the suffix {', '.join(SUFFIXES)} (or .hbz), got {path.name!r}")


def _open_npy(path: Path, shape: tuple[int, ...] | None, size: int) -> NDArray[Any]:
    with path.open("rb") as file:
        if file.read(len(_NPY_MAGIC)) != _NPY_MAGIC:
            raise FileFormatError(f"{path}: expected a file of NumPy, got other contents at byte 0")
    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except OSError:
        raise
    except Exception as error:  # noqa: BLE001  a damaged header is evaluated, and fails in many ways
        raise FileFormatError(f"{path}: expected a sound file of NumPy, got one of {size} bytes: {error}") from None
    if shape is not None and array.shape != shape:
        raise ShapeError(f"{path}: expected the shape {shape} that was asked for, got {array.shape}: leave --shape out")
    return array


def _open_raw(path: Path, shape: tuple[int, ...] | None, size: int) -> NDArray[Any]:
    dtype = _RAW[path.suffix]
    if shape is None:
        raise ShapeError(
            f"{path}: expected the shape of a raw file, got none: give it, such as --shape {size // dtype.itemsize}"
        )
    expected = math.prod(shape) * dtype.itemsize
    if size != expected:
        raise FileFormatError(
            f"{path}: expected {expected} bytes for {' x '.join(map(str, shape))} values of {dtype.itemsize} bytes, "
            f"got {size}: the file is truncated, or has another shape"
        )
    return np.memmap(path, dtype, "r", shape=shape) if size else np.zeros(shape, dtype)


def write_array(path: str | os.PathLike[str], array: NDArray[Any], layout: Layout | None = None) -> None:
    """Write an array to a file, whole or not at all.

    With a layout this is a collective call: rank 0 writes the parts of all ranks, one at a time.

    Parameters
    ----------
    path : str or os.PathLike
        ``.npy`` for any type, ``.f32`` or ``.f64`` for raw little-endian floats. That of rank 0 counts.
    array : numpy.ndarray
        With a layout: this rank's part.
    layout : Layout, optional
        How the array is split over ranks.

    Raises
    ------
    FileFormatError
        If the suffix is not one of these.
    DtypeError
        If a raw file cannot hold the type without loss.
    ShapeError
        If the array is not of the layout's local shape.
    StorageError
        If the disk is full, for example.
    """
    path = Path(path)
    comm = communicator(layout.comm if layout is not None else None)
    shape = layout.global_shape if layout is not None else array.shape
    with comm.together():
        if layout is not None and array.shape != layout.local_shape:
            raise ShapeError(f"expected this rank's part of shape {layout.local_shape}, got {array.shape}")
        dtype = _stored_dtype(path, array.dtype)
        own = np.ascontiguousarray(array, dtype)
    file: AtomicFile | None = None
    take: Callable[[int, int, int, NDArray[np.uint8]], None] | None = None
    try:
        with comm.together():
            if comm.rank == 0:
                file = AtomicFile(path)
                take = _Assembler(file, _head(path, dtype, shape), dtype, shape, layout).take
        collect(comm, [own], take)
        with comm.together():
            if file is not None:
                file.commit()
    finally:
        if file is not None:
            file.discard()


class _Assembler:
    """Puts parts of an array to their places in a file."""

    def __init__(
        self, file: AtomicFile, head: bytes, dtype: np.dtype[Any], shape: tuple[int, ...], layout: Layout | None
    ) -> None:
        self._slices = [tuple(slice(0, n) for n in shape)]
        if layout is not None:
            self._slices = [layout.slices_of(rank) for rank in range(layout.size)]
        size = math.prod(shape) * dtype.itemsize
        file.reserve(len(head) + size)
        file.write_at(0, head)
        self._whole = file.map(dtype, shape, len(head)) if size else np.zeros(shape, dtype)
        self._part = np.zeros(0, np.uint8)

    def take(self, rank: int, number: int, position: int, piece: NDArray[np.uint8]) -> None:
        """Collect the bytes of a part, and store it when it is complete."""
        target = self._whole[self._slices[rank]][...]
        if position == 0:
            self._part = np.empty(target.nbytes, np.uint8)
        self._part[position : position + piece.size] = piece
        if position + piece.size == target.nbytes:
            target[...] = self._part.view(target.dtype).reshape(target.shape)


def _stored_dtype(path: Path, dtype: np.dtype[Any]) -> np.dtype[Any]:
    if path.suffix == ".npy":
        return dtype
    if path.suffix not in _RAW:
        raise FileFormatError(
            f"{path}: expected a file name with the suffix {', '.join(SUFFIXES)}, got {path.name!r}: choose one of them"
        )
    stored = _RAW[path.suffix]
    if not np.can_cast(dtype, stored):
        raise DtypeError(f"{path}: expected values that {stored.name} holds exactly, got {dtype}: write .npy or .f64")
    return stored


def _head(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    if path.suffix != ".npy":
        return b""
    described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    text = repr(described).encode()
    start = len(_NPY_MAGIC) + 4
    text += b" " * (-(start + len(text) + 1) % 64) + b"\n"
    return _NPY_MAGIC + b"\x01\x00" + len(text).to_bytes(2, "little") + text
