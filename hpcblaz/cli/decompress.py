"""``hpcblaz decompress IN OUT``: from a compressed file to a plain one."""

import argparse
import time
from typing import Any

import numpy as np

from hpcblaz.cli.console import Console, add_device, number, seconds
from hpcblaz.fields.readers import write_array
from hpcblaz.fields.storage import load
from hpcblaz.mpi import world


def register(subparsers: Any) -> None:
    """Add the verb."""
    parser = subparsers.add_parser(
        "decompress",
        help="decompress to a .npy, .f32 or .f64 file",
        description="Decompress to a .npy file, or to raw little-endian floats: .f32, .f64.",
    )
    parser.add_argument("input", metavar="IN", help="a compressed file")
    parser.add_argument("output", metavar="OUT", help="a .npy, .f32 or .f64 file")
    add_device(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the verb."""
    console = Console(world())
    comm = console.comm
    start = time.perf_counter()
    a = load(arguments.input, comm, device=arguments.device)
    begin = time.perf_counter()
    values = np.asarray(a)  # from a card, if it is there
    took = seconds(comm, begin)
    write_array(arguments.output, values, a.layout)
    size = a.size * a.dtype.itemsize
    found = {
        "input": arguments.input,
        "output": arguments.output,
        "shape": list(a.shape),
        "dtype": a.dtype.name,
        "max_abs_error": a.error.max_abs,
        "decompress_seconds": took,
        "decompress_gigabytes_per_second": size / took / 1e9,
        "total_seconds": seconds(comm, start),
        "ranks": comm.size,
    }
    if arguments.json:
        console.data(found)
        return 0
    console.line(f"{arguments.output}: {' x '.join(map(str, a.shape))} values of {a.dtype}")
    console.line(f"largest error at most {number(a.error.max_abs)}")
    console.line(
        f"decompressed in {took:.2f} s, {found['decompress_gigabytes_per_second']:.2f} GB/s; "
        f"{found['total_seconds']:.2f} s with reading and writing"
    )
    return 0
