"""From a file to a compressed array, on any number of ranks, and what a file says of itself."""

import os
from collections.abc import Iterator
from typing import Any

from hpcblaz.backend import gpu
from hpcblaz.backend.blocks import BlockGrid
from hpcblaz.backend.dispatch import choose_device
from hpcblaz.backend.payload import Numerics
from hpcblaz.errors import FileFormatError, LayoutError, StorageError
from hpcblaz.fields.array import CompressedArray
from hpcblaz.fields.boxes import Box, Held, put_together
from hpcblaz.fields.container import Container
from hpcblaz.fields.fileformat import FileHeader
from hpcblaz.fields.saving import save
from hpcblaz.fields.scalars import ErrorBound
from hpcblaz.fields.zarr_reading import open_store
from hpcblaz.mpi import Communicator, Layout, communicator, device_number

__all__ = ["load", "loads", "open", "read_header", "save"]


def load(path: str | os.PathLike[str], layout: Any = None, *, device: str = "cpu") -> CompressedArray:
    """Read a compressed array from a file that :func:`hpcblaz.save` wrote.

    It may have been written by any number of ranks. Parts that do not fit the wanted ones are put together anew without
    loss: the integers, and with them the values, are those that were written.

    Parameters
    ----------
    path : str or os.PathLike
        Seen by every rank.
    layout : Layout, Communicator or mpi4py.MPI.Intracomm, optional
        How to split the array. A communicator of several ranks: as in the file if that has as many parts, else as
        ``Layout(shape, comm)`` does. Default, and with a communicator of one rank: not at all.
        With a communicator this is a collective call, and errors are raised on every rank or on none.
    device : {'cpu', 'gpu'}, default 'cpu'
        Where the array is to live; compressed bytes are moved to the card of the rank.

    Returns
    -------
    CompressedArray

    Raises
    ------
    StorageError
        If the file cannot be read.
    FileFormatError
        If it is truncated, damaged, of a newer format, or no file of hpcblaz.
    LayoutError
        If the layout is for another array.
    ConfigurationError, DeviceError, MissingDependencyError
        If there is no such device, or what drives it is not installed.

    Examples
    --------
    >>> import numpy as np, os, tempfile, hpcblaz as hb
    >>> a = hb.compress(np.random.default_rng(0).normal(size=(40, 30)), relative=1e-3)
    >>> path = os.path.join(tempfile.mkdtemp(), "noise.hbz")
    >>> a.save(path)
    >>> bool((hb.load(path).decompress() == a.decompress()).all())
    True
    """
    given = layout if isinstance(layout, Layout) else None
    comm = communicator(given.comm if given is not None else layout)
    with comm.together():
        on_gpu = choose_device(device) == "gpu"
    if on_gpu and comm.size > 1:
        gpu.use_device(device_number(comm, gpu.device_count()))
    with comm.together(), Container(path) as file:
        wanted = _wanted(file.header, given, comm)
        array = _assemble(file, wanted)
    checksums = comm.allgather([float(file.checksum)])[:, 0]
    if (checksums != checksums[0]).any():
        raise StorageError(f"expected one file {path} on all ranks, got different ones: it was replaced meanwhile")
    return array.to_device("gpu") if on_gpu else array


def open(
    path: str | os.PathLike[str], variable: str | None = None, layout: Any = None, *, device: str = "cpu"
) -> CompressedArray:
    """Open a compressed array of a Zarr store, or of a file, as it is: nothing is decompressed.

    Parameters
    ----------
    path : str or os.PathLike
        A Zarr store whose arrays have the codec ``hpcblaz``, or a file of :func:`hpcblaz.save`.
    variable : str, optional
        Which array of a store; it need not be given if there is only one with that codec.
    layout : Layout, Communicator or mpi4py.MPI.Intracomm, optional
        How to split the array, as for :func:`hpcblaz.load`. Every rank reads the chunks that have cells of its part.
    device : {'cpu', 'gpu'}, default 'cpu'
        Where the array is to live.

    Returns
    -------
    CompressedArray
        With the attributes of the store's array. Chunks of the store become one array without loss, if they end
        where blocks end; otherwise they are decoded and compressed anew with the codec of the store, and the bounds
        count both errors.

    Raises
    ------
    StorageError, FileFormatError
        If it cannot be read, is damaged, or has other codecs.
    MissingDependencyError
        If it is a store, and Zarr is not installed.
    ConfigurationError, DeviceError
        If there is no such device.

    Examples
    --------
    >>> import numpy as np, os, tempfile, hpcblaz as hb
    >>> path = os.path.join(tempfile.mkdtemp(), "noise.hbz")
    >>> hb.compress(np.random.default_rng(0).normal(size=(40, 30)), relative=1e-3).save(path)
    >>> hb.open(path).shape
    (40, 30)
    """
    given = layout if isinstance(layout, Layout) else None
    comm = communicator(given.comm if given is not None else layout)
    with comm.together():
        is_file = not os.path.isdir(path)
        if is_file and variable is not None:
            raise FileFormatError(f"{path}: expected a Zarr store with the variable {variable!r}, got a file")
    if is_file:
        return load(path, layout, device=device)
    with comm.together():
        on_gpu = choose_device(device) == "gpu"
    array = open_store(path, variable, given, comm)
    if on_gpu and comm.size > 1:
        gpu.use_device(device_number(comm, gpu.device_count()))
    return array.to_device("gpu") if on_gpu else array


def loads(data: Any, *, device: str = "cpu") -> CompressedArray:
    """Read a compressed array from the bytes that :func:`hpcblaz.dumps` made, or from the contents of a file.

    Parameters
    ----------
    data : bytes-like
    device : {'cpu', 'gpu'}, default 'cpu'
        Where the array is to live.

    Returns
    -------
    CompressedArray

    Raises
    ------
    FileFormatError
        If the bytes are truncated, damaged, of a newer format, or something else.
    ConfigurationError, DeviceError, MissingDependencyError
        If there is no such device, or what drives it is not installed.

    Examples
    --------
    >>> import numpy as np, hpcblaz as hb
    >>> a = hb.compress(np.linspace(0, 1, 1000), tolerance=1e-3)
    >>> bool((hb.loads(hb.dumps(a)).decompress() == a.decompress()).all())
    True
    """
    on_gpu = choose_device(device) == "gpu"
    with Container(data) as container:
        array = _assemble(container, None)
    return array.to_device("gpu") if on_gpu else array


def read_header(path: str | os.PathLike[str]) -> FileHeader:
    """Read what a file says of itself, without its sections.

    Parameters
    ----------
    path : str or os.PathLike

    Returns
    -------
    FileHeader

    Raises
    ------
    StorageError, FileFormatError
        As :func:`load` does.
    """
    with Container(path) as file:
        return file.header


def _wanted(header: FileHeader, given: Layout | None, comm: Communicator) -> Layout | None:
    """Return the layout to read with; None for the whole array."""
    if given is not None:
        if (given.global_shape, given.block_shape) != (header.shape, header.block_shape):
            raise LayoutError(
                f"expected a layout of shape {header.shape} in blocks of {header.block_shape}, as in the file, got "
                f"{given.global_shape} in blocks of {given.block_shape}"
            )
        return given
    if comm.size == 1:
        return None
    splits = header.splits if len(header.parts) == comm.size else None
    return Layout(header.shape, comm, block_shape=header.block_shape, splits=splits)


def _assemble(file: Container, layout: Layout | None) -> CompressedArray:
    header = file.header
    wanted = layout.slices if layout is not None else tuple(slice(0, n) for n in header.shape)
    numerics = _numerics(header, wanted)
    written = header.layout
    same = [rank for rank in range(written.size) if written.slices_of(rank) == wanted]
    if same and numerics.grid.size:
        blocks = file.blocks(same[0], numerics)
        missing = file.missing(same[0], numerics.grid.shape)
    else:
        used = [part for rank, part in enumerate(header.parts) if all(written.shape_of(rank))] or header.parts
        exponents = (min(part.exponent for part in used), min(part.mean_exponent for part in used))
        held = [_held(file, rank, written) for rank in _sharing(written, wanted)]
        blocks, _, missing, _ = put_together(held, Box.of(wanted), numerics, header.codec, exponents)
    return CompressedArray(
        blocks,
        numerics,
        header.codec,
        header.dtype,
        ErrorBound(header.max_abs, header.l2),
        magnitude=header.magnitude,
        factor=header.factor,
        offset=header.offset,
        layout=layout,
        promise=header.promise,
        attributes=header.attributes,
        missing=missing,
    )


def _sharing(written: Layout, wanted: tuple[slice, ...]) -> Iterator[int]:
    """Yield the parts of the file that have cells of the wanted one."""
    for rank in range(written.size):
        slices = written.slices_of(rank)
        if all(max(s.start, w.start) < min(s.stop, w.stop) for s, w in zip(slices, wanted, strict=True)):
            yield rank


def _held(file: Container, rank: int, written: Layout) -> Held:
    """Return a part of the file."""
    numerics = _numerics(file.header, written.slices_of(rank))
    blocks = file.blocks(rank, numerics)
    return Held(blocks, numerics, file.missing(rank, numerics.grid.shape), written.offset_of(rank))


def _numerics(header: FileHeader, slices: tuple[slice, ...]) -> Numerics:
    grid = BlockGrid(tuple(part.stop - part.start for part in slices), header.block_shape)
    return Numerics(grid, header.codec.transform, header.precision)
