"""``hpcblaz nn``: networks in ONNX files, what they are made of, what they cost, and smaller ones. Rank 0 works."""

import argparse
import re
from typing import Any

from hpcblaz.cli.console import Console
from hpcblaz.cli.nn_compress import add_compare, add_compress
from hpcblaz.errors import ConfigurationError
from hpcblaz.mpi import world
from hpcblaz.nn.onnx_reading import read_onnx
from hpcblaz.nn.report import Report, report

_UNITS = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def register(subparsers: Any) -> None:
    """Add the verb."""
    parser = subparsers.add_parser(
        "nn", help="networks: report, compress, compare", description="Networks in ONNX files."
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    _add_report(actions)
    add_compress(actions, _add_shape)
    add_compare(actions)


def _add_report(actions: Any) -> None:
    parser = actions.add_parser(
        "report",
        help="show what a network is made of",
        description="Show the layers of a network, their parameters, bytes, and additions and multiplications.",
    )
    parser.add_argument("model", metavar="MODEL", help="an ONNX file")
    _add_shape(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_report)


def _add_shape(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--shape",
        action="append",
        default=[],
        metavar="NAME=N,N,...",
        help="shape of an input whose axes may have any length; default: one image",
    )
    parser.set_defaults(shapes=_shapes)


def _shapes(arguments: argparse.Namespace) -> dict[str, tuple[int, ...]]:
    return dict(map(_shape, arguments.shape))


def _report(arguments: argparse.Namespace) -> int:
    console = Console(world())
    found: dict[str, Any] = {}
    lines: list[str] = []
    with console.comm.together():
        shapes = _shapes(arguments)
        if console.comm.rank == 0:
            network = read_onnx(arguments.model)
            result = report(network, shapes)
            found = {"model": arguments.model, **result.as_dict()}
            lines = _table(result)
    if arguments.json:
        console.data(found)
        return 0
    for line in lines:
        console.line(line)
    return 0


def _shape(text: str) -> tuple[str, tuple[int, ...]]:
    """Return the name and the shape that ``x=1,3,48,192`` says."""
    match = re.fullmatch(r"(.+)=([0-9]+(?:,[0-9]+)*)?", text)
    if match is None:
        raise ConfigurationError(f"expected --shape NAME=N,N,..., such as x=1,3,48,192, got {text!r}")
    return match[1], tuple(int(n) for n in match[2].split(",")) if match[2] else ()


def _table(result: Report) -> list[str]:
    lines = [f"{'operator':<20} {'output':<24} {'parameters':>11} {'bytes':>11} {'FLOPs':>8}"]
    for line in result.lines:
        if line.parameters or line.flops:
            lines.append(
                f"{line.operator:<20} {_text(line.shape):<24} {line.parameters:>11,} {line.bytes:>11,} "
                f"{_short(line.flops):>8}"
            )
    lines.append(f"{'all':<45} {result.parameters:>11,} {result.bytes:>11,} {_short(result.flops):>8}")
    for what, shapes in (("input", result.inputs), ("output", result.outputs)):
        lines += [f"{what} {name}: {_text(shape)}" for name, shape in shapes.items()]
    return lines


def _text(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "a number"


def _short(count: int) -> str:
    """Return a count in three digits."""
    for size, unit in _UNITS:
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return str(count)
