"""``hpcblaz compare A B``: how far two fields are from each other, in every common measure, each with its bound."""

import argparse
import math
from typing import Any

from hpcblaz.cli.console import Console, add_device, add_input, add_target, read_pair
from hpcblaz.cli.stats import answer_of, describe, print_report
from hpcblaz.errors import CodecError
from hpcblaz.fields.array import CompressedArray
from hpcblaz.fields.blockwise import wasserstein_distance
from hpcblaz.fields.comparison import compare
from hpcblaz.fields.scalars import CertifiedFloat
from hpcblaz.fields.views import FieldView, PlainField
from hpcblaz.mpi import Communicator, world


def register(subparsers: Any) -> None:
    """Add the verb."""
    parser = subparsers.add_parser(
        "compare",
        help="how far two fields are from each other, compressed or not",
        description="Compare two fields, compressed or not. The values are those that a file decompresses to; the "
        "bound of a measure is its distance from the same measure of the data that the files were compressed from.",
    )
    parser.add_argument("a", metavar="A", help="a field, compressed or not; the reference of relative measures")
    parser.add_argument("b", metavar="B", help="another one of the same shape")
    add_target(parser, required=False)
    add_input(parser)
    add_device(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the verb."""
    console = Console(world())
    a, b = read_pair(arguments.a, arguments.b, arguments, console)
    found: dict[str, Any] = {"arrays": [_describe(view, console.comm) for view in (a, b)]}
    result = compare(a, b, console.comm)
    found["cells"] = result.cells
    found["missing"] = list(result.missing)
    found["statistics"] = {name: _written(measure) for name, measure in result.measures.items()}
    distance = answer_of(console, lambda: _distance(a.field, b.field))
    found["statistics"]["wasserstein_distance"] = {key: distance[key] for key in ("value", "error", "unavailable")}
    found["ranks"] = console.comm.size
    if arguments.json:
        console.data(found)
        return 0
    print_report(console, found)
    if any(result.missing):
        without = f"{result.missing[0]} of A and {result.missing[1]} of B hold no finite number"
        console.line(f"compared {result.cells} cells; {without}")
    return 0


def _describe(view: FieldView, comm: Communicator) -> dict[str, Any]:
    if isinstance(view.field, CompressedArray):
        return describe(view.name, view.field, comm)
    return {
        "file": view.name,
        "shape": list(view.shape),
        "dtype": view.dtype.name,
        "payload_bytes": None,
        "ratio": None,
        "max_abs_error": 0.0,
    }


def _written(measure: CertifiedFloat) -> dict[str, Any]:
    reason = "it has no value here" if math.isnan(measure) else None
    return {"value": float(measure), "error": measure.error, "unavailable": reason}


def _distance(a: CompressedArray | PlainField, b: CompressedArray | PlainField) -> CertifiedFloat:
    if not (isinstance(a, CompressedArray) and isinstance(b, CompressedArray)):
        raise CodecError(
            "expected two compressed arrays, got a plain one: with --tolerance, for example, it is compressed first"
        )
    return wasserstein_distance(a, b)
