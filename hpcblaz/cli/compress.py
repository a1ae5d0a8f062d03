"""``hpcblaz compress IN OUT``: from a plain file to a compressed one."""

import argparse
import time
from typing import Any

from hpcblaz.cli.console import (
    Console,
    Progress,
    add_device,
    add_target,
    file_size,
    integers,
    layout_for,
    number,
    seconds,
    target,
)
from hpcblaz.errors import CodecError
from hpcblaz.fields.codec import BlockCodec, Codec, ToleranceCodec
from hpcblaz.fields.compress import compress
from hpcblaz.fields.readers import open_array
from hpcblaz.mpi import world


def register(subparsers: Any) -> None:
    """Add the verb."""
    parser = subparsers.add_parser(
        "compress",
        help="compress a .npy, .f32 or .f64 file",
        description="Compress a .npy, .f32 or .f64 file, by an error that is guaranteed, or with --index-dtype by the "
        "block codec, whose size is fixed.",
    )
    parser.add_argument("input", metavar="IN", help="a .npy file, or raw little-endian floats: .f32, .f64")
    parser.add_argument("output", metavar="OUT", help="the compressed file, by convention .hbz")
    add_target(parser, required=False)
    codec = parser.add_argument_group("codec")
    codec.add_argument("--block-shape", type=integers, metavar="N,N,N", help="sides of a block: 1, 2, 4, 8 or 16")
    codec.add_argument("--transform", choices=("dct", "haar", "identity"), default="dct", help="default: dct")
    codec.add_argument("--index-dtype", choices=("int8", "int16", "int32"), help="use the block codec")
    codec.add_argument("--keep", type=float, metavar="F", help="fraction of coefficients that the block codec keeps")
    parser.add_argument("--shape", type=integers, metavar="N,N,N", help="shape of a raw file")
    add_device(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the verb."""
    console = Console(world())
    comm = console.comm
    start = time.perf_counter()
    with comm.together():
        codec = _codec(arguments)
        values = open_array(arguments.input, arguments.shape)
        layout = layout_for(comm, values.shape, codec.block_shape)
        own = values if layout is None else layout.local(values)
    progress = Progress(comm, f"compressing {arguments.input}")
    begin = time.perf_counter()
    try:
        a = compress(own, codec=codec, layout=layout, device=arguments.device, progress=progress, **target(arguments))
    finally:
        progress.close()
    took = seconds(comm, begin)
    a.save(arguments.output)
    size = file_size(arguments.output, comm)
    found = {
        "input": arguments.input,
        "output": arguments.output,
        "shape": list(a.shape),
        "dtype": a.dtype.name,
        "input_bytes": int(values.nbytes),
        "output_bytes": size,
        "ratio": values.nbytes / size,
        "bits_per_value": 8 * size / a.size if a.size else None,
        "max_abs_error": a.error.max_abs,
        "l2_error": a.error.l2,
        "compress_seconds": took,
        "compress_gigabytes_per_second": values.nbytes / took / 1e9,
        "total_seconds": seconds(comm, start),
        "ranks": comm.size,
    }
    if arguments.json:
        console.data(found)
        return 0
    bits = number(found["bits_per_value"], 3) if a.size else "no"
    console.line(f"{arguments.output}: {size} bytes, ratio {found['ratio']:.2f}, {bits} bits a value")
    console.line(f"largest error at most {number(a.error.max_abs)}, 2-norm of the errors at most {number(a.error.l2)}")
    console.line(
        f"compressed in {took:.2f} s, {found['compress_gigabytes_per_second']:.2f} GB/s; "
        f"{found['total_seconds']:.2f} s with reading and writing"
    )
    return 0


def _codec(arguments: argparse.Namespace) -> Codec:
    fixed = arguments.index_dtype is not None or arguments.keep is not None
    if fixed and target(arguments):
        raise CodecError(
            f"expected either --{next(iter(target(arguments)))} or the block codec's --index-dtype and --keep, got both"
        )
    if not fixed and not target(arguments):
        raise CodecError("expected one of --tolerance, --relative, --psnr, --rate and --index-dtype, got none")
    if not fixed:
        return ToleranceCodec(arguments.block_shape, arguments.transform)
    keep = 1.0 if arguments.keep is None else arguments.keep
    return BlockCodec(arguments.block_shape, arguments.transform, arguments.index_dtype or "int8", keep)
