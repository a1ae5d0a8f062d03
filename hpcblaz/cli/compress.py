"""``hpcblaz compress IN OUT``: from a file of fields to a compressed file, or to a Zarr store."""

import argparse
import math
import time
from dataclasses import asdict
from typing import Any

from hpcblaz.cli.console import (
    Console,
    Progress,
    add_device,
    add_target,
    compress_field,
    file_size,
    integers,
    layout_for,
    number,
    seconds,
    target,
)
from hpcblaz.cli.stopping import stop_on_signals
from hpcblaz.errors import CodecError, ConfigurationError
from hpcblaz.fields.codec import BlockCodec, Codec, ToleranceCodec
from hpcblaz.fields.converting import convert
from hpcblaz.fields.open_field import folder_size, open_field, plain
from hpcblaz.mpi import world


def register(subparsers: Any) -> None:
    """Add the verb."""
    parser = subparsers.add_parser(
        "compress",
        help="compress NetCDF, HDF5, GRIB, NIfTI, Zarr, .npy, .npz, .f32 or .f64 files",
        description="Compress fields of a file, by an error that is guaranteed, or with --index-dtype by the block "
        "codec, whose size is fixed. With OUT.zarr all else that the file holds is kept, and the work is done chunk by "
        "chunk, so that neither the file nor the store need fit in memory.",
    )
    parser.add_argument("input", metavar="IN", help="a file of fields; raw little-endian floats: .f32, .f64")
    parser.add_argument("output", metavar="OUT", help="the compressed file, by convention .hbz; or a store, .zarr")
    parser.add_argument(
        "-v", "--variable", action="append", default=[], metavar="NAME", help="which field; several with -v A -v B"
    )
    add_target(parser, required=False)
    codec = parser.add_argument_group("codec")
    codec.add_argument("--block-shape", type=integers, metavar="N,N,N", help="sides of a block: 1, 2, 4, 8 or 16")
    codec.add_argument("--transform", choices=("dct", "haar", "identity"), default="dct", help="default: dct")
    codec.add_argument("--index-dtype", choices=("int8", "int16", "int32"), help="use the block codec")
    codec.add_argument("--keep", type=float, metavar="F", help="fraction of coefficients that the block codec keeps")
    parser.add_argument("--shape", type=integers, metavar="N,N,N", help="shape of a raw file")
    parser.add_argument(
        "--restart", action="store_true", help="to OUT.zarr: throw away what a run that was stopped has left"
    )
    add_device(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the verb."""
    console = Console(world())
    comm = console.comm
    start = time.perf_counter()
    arguments.output = arguments.output.rstrip("/") or "/"
    with comm.together():
        codec = _codec(arguments)
        if len(arguments.variable) > 1 and not arguments.output.endswith(".zarr"):
            raise ConfigurationError(f"expected one variable, got {len(arguments.variable)}: write them to OUT.zarr")
        if arguments.restart and not arguments.output.endswith(".zarr"):
            raise ConfigurationError("expected --restart with OUT.zarr, got another output, which is never continued")
    if arguments.output.endswith(".zarr"):
        return _to_store(arguments, codec, console, start)
    with comm.together():
        field = open_field(arguments.input, next(iter(arguments.variable), None), arguments.shape)
        layout = layout_for(comm, field.shape, codec.block_shape)
        input_bytes = math.prod(field.shape) * field.dtype.itemsize
    begin = time.perf_counter()
    a = compress_field(arguments.input, field, codec, layout, arguments, comm)
    took = seconds(comm, begin)
    a.save(arguments.output, attributes=plain(field.attributes, finite=True))
    size = file_size(arguments.output, comm)
    found = {
        "input": arguments.input,
        "output": arguments.output,
        "shape": list(a.shape),
        "dtype": a.dtype.name,
        "input_bytes": input_bytes,
        "output_bytes": size,
        "ratio": input_bytes / size,
        "bits_per_value": 8 * size / a.size if a.size else None,
        "max_abs_error": a.error.max_abs,
        "l2_error": a.error.l2,
        "compress_seconds": took,
        "compress_gigabytes_per_second": input_bytes / took / 1e9,
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


def _to_store(arguments: argparse.Namespace, codec: Codec, console: Console, start: float) -> int:
    """Write a store, and say what became of each variable."""
    comm = console.comm
    progress = Progress(comm, f"compressing {arguments.input}")
    try:
        with stop_on_signals() as stop:
            variables = convert(
                arguments.input,
                arguments.output,
                arguments.variable,
                comm,
                target=target(arguments),
                codec=codec,
                shape=arguments.shape,
                progress=progress,
                stop=stop,
                restart=arguments.restart,
                say=console.note,
            )
    finally:
        progress.close()
    with comm.together():
        size = folder_size(arguments.output)
    found = {
        "input": arguments.input,
        "output": arguments.output,
        "output_bytes": size,
        "variables": [asdict(v) | {"ratio": v.ratio, "bits_per_value": v.bits_per_value} for v in variables],
        "total_seconds": seconds(comm, start),
        "ranks": comm.size,
    }
    if arguments.json:
        console.data(found)
        return 0
    rows = [["variable", "shape", "missing", "ratio", "bits a value", "largest error", "time"]]
    for v in variables:
        bits = "-" if v.bits_per_value is None else number(v.bits_per_value, 3)
        rows.append(
            [
                *(v.variable, " x ".join(map(str, v.shape)), str(v.missing), f"{v.ratio:.2f}", bits),
                *(number(v.max_abs_error, 3), f"{v.seconds:.2f} s"),
            ]
        )
    console.table(rows)
    console.line(f"{arguments.output}: {size} bytes in all, written in {found['total_seconds']:.2f} s")
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
