"""``hpcblaz nn compress`` and ``hpcblaz nn compare``: networks made smaller, and how their answers changed."""

import argparse
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcblaz.cli.console import Console
from hpcblaz.errors import ConfigurationError, FileFormatError
from hpcblaz.mpi import world
from hpcblaz.mpi.atomic import storage_errors
from hpcblaz.nn.compressing import Comparison, compare, compress
from hpcblaz.nn.onnx_reading import read_onnx
from hpcblaz.nn.onnx_writing import write_onnx
from hpcblaz.nn.report import report
from hpcblaz.nn.schemes import parse_scheme


def add_compress(actions: Any, add_shape: Any) -> None:
    """Add ``compress``; add_shape adds the option for shapes to a parser."""
    parser = actions.add_parser(
        "compress",
        help="make a network smaller by a scheme",
        description="Remove weights, take away what they leave, round the others, and write an ONNX file.",
    )
    parser.add_argument("model", metavar="MODEL", help="an ONNX file")
    parser.add_argument(
        "--scheme", required=True, metavar="SCHEME", help='such as "FilterPrune(0.5)+Quantize(int8)"; see the manual'
    )
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help="the ONNX file to write")
    parser.add_argument(
        "--data", metavar="FILE", help="inputs in a .npy file: what goes into layers is rounded to 8 bits too"
    )
    add_shape(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_compress)


def add_compare(actions: Any) -> None:
    """Add ``compare``."""
    parser = actions.add_parser(
        "compare",
        help="show how the answers of two networks differ, and what they cost",
        description="Show how the answers of two networks differ, and their bytes, FLOPs and time.",
    )
    parser.add_argument("reference", metavar="MODEL", help="an ONNX file")
    parser.add_argument("other", metavar="OTHER", help="another one")
    parser.add_argument("--data", required=True, metavar="FILE", help="inputs in a .npy file")
    parser.add_argument("--labels", metavar="FILE", help="their classes, integers, in a .npy file")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_compare)


def _compress(arguments: argparse.Namespace) -> int:
    console = Console(world())
    found: dict[str, Any] = {}
    with console.comm.together():
        scheme = parse_scheme(arguments.scheme)
        shapes = arguments.shapes(arguments)
        if console.comm.rank == 0:
            if Path(arguments.output).resolve() == Path(arguments.model).resolve():
                raise ConfigurationError(f"expected another file to write than {arguments.model}: give -o another name")
            network = read_onnx(arguments.model)
            data = None if arguments.data is None else _array(arguments.data)
            before = report(network, shapes)
            smaller = compress(network, scheme, data, shapes)
            after = report(smaller, shapes)
            write_onnx(arguments.output, smaller)
            found = {
                "model": arguments.model,
                "output": arguments.output,
                "scheme": arguments.scheme,
                "bytes": [os.path.getsize(arguments.model), os.path.getsize(arguments.output)],
                "parameters": [network.parameter_count, _count(smaller.parameters)],
                "flops": [before.flops, after.flops],
            }
    if arguments.json:
        console.data(found)
    elif found:
        console.table([["", "before", "after", "ratio"], *_rows(found)])
    return 0


def _count(parameters: dict[str, Any]) -> int:
    """Return the numbers of parameters that are real or rounded, without shapes and steps."""
    return sum(
        int(x.size)
        for name, x in parameters.items()
        if (x.dtype.kind == "f" or x.dtype == np.int8) and not name.endswith(("/step", "/zero"))
    )


def _compare(arguments: argparse.Namespace) -> int:
    console = Console(world())
    found: dict[str, Any] = {}
    result: Comparison | None = None
    with console.comm.together():
        if console.comm.rank == 0:
            data = _array(arguments.data)
            labels = None if arguments.labels is None else _array(arguments.labels)
            result = compare(read_onnx(arguments.reference), read_onnx(arguments.other), data, labels)
            found = {
                "reference": arguments.reference,
                "other": arguments.other,
                "bytes": [os.path.getsize(arguments.reference), os.path.getsize(arguments.other)],
                **result.as_dict(),
            }
    if arguments.json:
        console.data(found)
    elif result is not None:
        console.table([["", "reference", "other", "ratio"], *_rows(found)])
        console.line(f"the same answer: {result.agreement:.2%} of {result.examples}")
        worst = sorted(result.agreement_by_class.items(), key=lambda entry: entry[1])[:3]
        console.line("least often for answers " + ", ".join(f"{name} ({share:.2%})" for name, share in worst))
        console.line(f"largest difference: {result.largest_difference:.3g} of the largest output")
        console.line(f"divergence: {result.divergence:.3g} nats")
        if result.accuracy is not None:
            console.line(f"right: {result.accuracy[0]:.2%} and {result.accuracy[1]:.2%}")
    return 0


def _rows(found: dict[str, Any]) -> list[list[str]]:
    rows = []
    for key in ("bytes", "parameters", "flops", "milliseconds"):
        if key in found:
            first, second = found[key]
            shown = [f"{n:,.2f}" if key == "milliseconds" else f"{n:,}" for n in (first, second)]
            rows.append([key, *shown, f"{first / second:.2f}" if second else "-"])
    return rows


def _array(path: str) -> NDArray[Any]:
    with storage_errors("read", Path(path)):
        try:
            x = np.load(path, allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise FileFormatError(f"expected {path} to be a .npy file of numbers, got: {error}") from error
    if not isinstance(x, np.ndarray):
        raise FileFormatError(f"expected {path} to be a .npy file, got a file of several arrays")
    return x
