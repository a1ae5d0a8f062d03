"""``hpcblaz decompress IN OUT``: from a compressed file to a plain one."""

import argparse
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcblaz.cli.console import Console, add_device, layout_for, number, seconds
from hpcblaz.errors import ConfigurationError
from hpcblaz.fields.hdf5 import has_parallel_hdf5, write_hdf5
from hpcblaz.fields.netcdf import write_netcdf
from hpcblaz.fields.open_field import HDF5_SUFFIXES, is_store, open_field
from hpcblaz.fields.readers import write_array
from hpcblaz.fields.storage import load
from hpcblaz.mpi import Communicator, Layout, world


def register(subparsers: Any) -> None:
    """Add the verb."""
    parser = subparsers.add_parser(
        "decompress",
        help="decompress to a .npy, .f32, .f64, HDF5 or NetCDF file",
        description="Decompress a file, or a field of a store, to a .npy file, to raw little-endian floats (.f32, "
        ".f64) or to HDF5 (.h5). To .nc goes all that a store holds.",
    )
    parser.add_argument("input", metavar="IN", help="a compressed file, or a store: .zarr")
    parser.add_argument("output", metavar="OUT", help="a .npy, .f32, .f64, .h5 or .nc file")
    parser.add_argument("-v", "--variable", metavar="NAME", help="which field of a store that has several")
    add_device(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the verb."""
    console = Console(world())
    comm = console.comm
    start = time.perf_counter()
    if arguments.output.endswith(".nc"):
        return _to_netcdf(arguments, console, start)
    values, layout, begin, error, attributes = _values(arguments, comm)
    took = seconds(comm, begin)
    to_hdf5 = arguments.output.lower().endswith(HDF5_SUFFIXES)
    if to_hdf5:
        name = arguments.variable or Path(arguments.input).name.split(".")[0] or "field"
        write_hdf5(arguments.output, values, layout, name=name, attributes=attributes)
    else:
        write_array(arguments.output, values, layout)
    shape = layout.global_shape if layout is not None else values.shape
    size = math.prod(shape) * values.dtype.itemsize
    found = {
        "input": arguments.input,
        "output": arguments.output,
        "shape": list(shape),
        "dtype": values.dtype.name,
        "max_abs_error": error,
        "decompress_seconds": took,
        "decompress_gigabytes_per_second": size / took / 1e9,
        "total_seconds": seconds(comm, start),
        "ranks": comm.size,
    }
    if arguments.json:
        console.data(found)
        return 0
    console.line(f"{arguments.output}: {' x '.join(map(str, shape))} values of {values.dtype}")
    if to_hdf5 and comm.size > 1 and not has_parallel_hdf5():
        console.line("rank 0 wrote the parts of all ranks: this h5py has no parallel HDF5")
    if error is not None:
        console.line(f"largest error at most {number(error)}")
    console.line(
        f"decompressed in {took:.2f} s, {found['decompress_gigabytes_per_second']:.2f} GB/s; "
        f"{found['total_seconds']:.2f} s with reading and writing"
    )
    return 0


def _values(
    arguments: argparse.Namespace, comm: Communicator
) -> tuple[NDArray[Any], Layout | None, float, float | None, dict[str, Any]]:
    """Return this rank's values, their split, when decompression began, a bound of errors if known, and attributes."""
    with comm.together():
        store = is_store(arguments.input)
        if arguments.variable is not None and not store:
            raise ConfigurationError(f"expected --variable with a store, got it with the file {arguments.input}")
    if not store:
        a = load(arguments.input, comm, device=arguments.device)
        begin = time.perf_counter()
        return np.asarray(a), a.layout, begin, a.error.max_abs, a.attributes  # from a card, if it is there
    with comm.together():
        field = open_field(arguments.input, arguments.variable)
        layout = layout_for(comm, field.shape, None)
        begin = time.perf_counter()
        own = field[layout.slices if layout is not None else tuple(map(slice, field.shape))]
    return own, layout, begin, None, field.attributes


def _to_netcdf(arguments: argparse.Namespace, console: Console, start: float) -> int:
    """Write all that a store or a file holds as NetCDF, on rank 0."""
    comm = console.comm
    with comm.together():
        names = write_netcdf(arguments.input, arguments.output) if comm.rank == 0 else []
    names = comm.broadcast(names)
    found = {
        "input": arguments.input,
        "output": arguments.output,
        "variables": names,
        "total_seconds": seconds(comm, start),
        "ranks": comm.size,
    }
    if arguments.json:
        console.data(found)
        return 0
    console.line(f"{arguments.output}: {', '.join(names)}, in {found['total_seconds']:.2f} s")
    return 0
