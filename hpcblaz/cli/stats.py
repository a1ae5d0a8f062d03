"""``hpcblaz stats A [B]``: statistics of compressed arrays, each with its bound."""

import argparse
import time
from collections.abc import Callable
from typing import Any

from hpcblaz.cli.console import Console, add_device, add_input, add_target, number, payload_bytes, read_field, seconds
from hpcblaz.cli.plot import draw
from hpcblaz.errors import CodecError
from hpcblaz.fields import blockwise, statistics
from hpcblaz.fields.array import CompressedArray
from hpcblaz.fields.scalars import CertifiedFloat
from hpcblaz.fields.views import FieldView
from hpcblaz.mpi import Communicator, world

_ONE: dict[str, Callable[[CompressedArray], CertifiedFloat]] = {
    "mean": statistics.mean,
    "sum": statistics.total,
    "variance": statistics.variance,
    "standard_deviation": statistics.standard_deviation,
    "norm": statistics.norm,
}


def _norm_of_difference(a: CompressedArray, b: CompressedArray) -> CertifiedFloat:
    return statistics.norm(a - b)


_TWO: dict[str, Callable[[CompressedArray, CompressedArray], CertifiedFloat]] = {
    "dot": statistics.dot,
    "covariance": statistics.covariance,
    "cosine_similarity": statistics.cosine_similarity,
    "structural_similarity": statistics.structural_similarity,
    "wasserstein_distance": blockwise.wasserstein_distance,
    "norm_of_difference": _norm_of_difference,
}


def register(subparsers: Any) -> None:
    """Add the verb."""
    parser = subparsers.add_parser(
        "stats",
        help="statistics of one or two arrays, each with its bound",
        description="Statistics of one or two arrays, computed on the compressed blocks. Every answer comes with a "
        "bound of its distance from the answer on the original data.",
    )
    parser.add_argument(
        "a", metavar="A", help="a compressed file or store; or any file of fields, with an option below"
    )
    parser.add_argument("b", metavar="B", nargs="?", help="a second one, to compare")
    add_target(parser, required=False)
    add_input(parser)
    add_device(parser)
    parser.add_argument("--plot", metavar="PNG", help="draw what there is to see, as hpcblaz plot does")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the verb."""
    console = Console(world())
    a = read_field(arguments.a, arguments, console)
    arrays = [(arguments.a, a)]
    found: dict[str, Any] = {"arrays": [describe(arguments.a, a, console.comm)]}
    if arguments.b is None:
        found["statistics"] = {name: answer_of(console, function, a) for name, function in _ONE.items()}
    else:
        b = read_field(arguments.b, arguments, console, a)
        arrays.append((arguments.b, b))
        found["arrays"].append(describe(arguments.b, b, console.comm))
        found["statistics"] = {name: answer_of(console, function, a, b) for name, function in _TWO.items()}
    found["ranks"] = console.comm.size
    if arguments.plot is not None:
        draw(arguments.plot, [FieldView.of(name, array) for name, array in arrays], console.comm)
    if arguments.json:
        console.data(found)
    else:
        print_report(console, found)
    return 0


def describe(path: str, a: CompressedArray, comm: Communicator) -> dict[str, Any]:
    """Return what there is to say of a compressed array; a collective call."""
    payload = payload_bytes(a, comm)
    return {
        "file": path,
        "shape": list(a.shape),
        "dtype": a.dtype.name,
        "payload_bytes": payload,
        "ratio": a.size * a.dtype.itemsize / payload if payload else None,
        "max_abs_error": a.error.max_abs,
        "missing": a.size - a.count(),
    }


def answer_of(console: Console, function: Callable[..., CertifiedFloat], *arrays: CompressedArray) -> dict[str, Any]:
    """Return value, bound and time of a statistic; `unavailable` says why there is none."""
    start = time.perf_counter()
    try:
        answer = function(*arrays)
    except CodecError as error:  # such as the sum of arrays of two codecs: on every rank
        return {"value": None, "error": None, "seconds": None, "unavailable": str(error)}
    took = seconds(console.comm, start)
    return {"value": float(answer), "error": answer.error, "seconds": took, "unavailable": None}


def print_report(console: Console, found: dict[str, Any]) -> None:
    """Print arrays and statistics, and why there is no answer where there is none."""
    for array in found["arrays"]:
        shape = " x ".join(map(str, array["shape"]))
        ratio = f", ratio {array['ratio']:.2f}" if array["ratio"] is not None else ""
        error = number(array["max_abs_error"], 3)
        error = "not compressed" if array["payload_bytes"] is None else f"largest error {error}"
        missing = f", {array['missing']} missing" if array.get("missing") else ""
        console.line(f"{array['file']}: {shape} {array['dtype']}{ratio}, {error}{missing}")
    console.line()
    timed = any("seconds" in answer for answer in found["statistics"].values())
    rows = [["statistic", "value", "error at most", *(["time"] if timed else [])]]
    reasons = []
    for name, answer in found["statistics"].items():
        title = "PSNR in dB" if name == "psnr" else name.replace("_", " ")
        if answer["unavailable"] is None:
            values = [f"{answer['value']:.10g}", number(answer["error"], 3)]
            values += [f"{1e3 * answer['seconds']:.1f} ms"] if timed else []
        else:
            values = ["-"] * (len(rows[0]) - 1)
            reasons.append(f"no {title}: {answer['unavailable']}")
        rows.append([title, *values])
    console.table(rows)
    for reason in reasons:
        console.line(reason)
