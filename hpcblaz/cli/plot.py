"""``hpcblaz plot A``: pictures of fields, of their differences, and of what an error costs."""

import argparse
import math
from pathlib import Path
from typing import Any

import numpy as np

from hpcblaz.cli.console import (
    Console,
    add_device,
    add_input,
    add_target,
    is_compressed,
    number,
    read_field,
    read_pair,
    read_plain,
    read_view,
    target,
)
from hpcblaz.errors import ConfigurationError, ShapeError
from hpcblaz.fields.comparison import compare
from hpcblaz.fields.pictures import Look, draw_comparison, draw_field, draw_rates, require_matplotlib
from hpcblaz.fields.rates import middle, rates
from hpcblaz.fields.sampling import RunningHistogram, section
from hpcblaz.fields.scalars import CertifiedFloat
from hpcblaz.fields.views import FieldView, slabs
from hpcblaz.mpi import Communicator, world

Index = tuple[int | slice, ...]


def register(subparsers: Any) -> None:
    """Add the verb."""
    parser = subparsers.add_parser(
        "plot",
        help="draw a field, what it has lost, or what an error costs",
        description="Draw a slice of a field, the distribution of its values and its spectrum; with --compare those of "
        "two fields and their difference; with --rate-distortion the bits a value at each error, beside zfp and SZ3 "
        "where they are installed. A plain field with one of the options of how exact is compared with the same "
        "compressed.",
    )
    parser.add_argument("a", metavar="A", help="a field, compressed or not")
    parser.add_argument("--compare", metavar="B", help="another field of the same shape")
    parser.add_argument("--rate-distortion", action="store_true", help="draw bits a value against errors")
    parser.add_argument("-o", "--output", metavar="PNG", default="hpcblaz-plot.png", help="default: hpcblaz-plot.png")
    parser.add_argument(
        "--slice", type=index, metavar="I,:,:", help="what to draw, one entry an axis; default: the middle one"
    )
    add_target(parser, required=False)
    add_input(parser)
    add_device(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def index(text: str) -> Index:
    """Read an index such as ``3,:,10:20``, for argparse."""
    entries: list[int | slice] = []
    for part in text.split(","):
        try:
            numbers = [int(word) if word.strip() else None for word in part.split(":")]
        except ValueError:
            numbers = []
        if not 1 <= len(numbers) <= 3 or numbers == [None] or numbers[2:] == [0]:
            raise argparse.ArgumentTypeError(f"expected integers, ':' and ranges, such as 3,:,10:20, got {text!r}")
        entries.append(slice(*numbers) if len(numbers) > 1 else int(numbers[0] or 0))
    return tuple(entries)


def run(arguments: argparse.Namespace) -> int:
    """Run the verb."""
    console = Console(world())
    with console.comm.together():
        require_matplotlib("hpcblaz plot")
    if arguments.rate_distortion:
        found = _rate_distortion(arguments, console)
    else:
        found = _fields(arguments, console)
    if arguments.json:
        console.data(found)
    else:
        console.line(f"picture: {found['picture']}")
    return 0


def _fields(arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    with console.comm.together():
        both = bool(target(arguments)) and arguments.compare is None and not is_compressed(arguments.a)
    if both:
        compressed = FieldView.of("compressed", read_field(arguments.a, arguments, console))
        views = [read_plain(arguments.a, arguments, console, compressed), compressed]
    elif arguments.compare is None:
        views = [read_view(arguments.a, arguments, console)]
    else:
        views = list(read_pair(arguments.a, arguments.compare, arguments, console))
    return draw(arguments.output, views, console.comm, arguments.slice)


def draw(path: str, views: list[FieldView], comm: Communicator, where: Index | None = None) -> dict[str, Any]:
    """Draw one field, or two and their difference; a collective call.

    Parameters
    ----------
    path : str
        The picture.
    views : list of FieldView
        One or two, of one shape and layout.
    comm : Communicator
    where : tuple of int and slice, optional
        What to draw. Default: the middle.

    Returns
    -------
    dict
        What was drawn; keys are part of the interface.
    """
    shapes = [view.shape for view in views]
    with comm.together():
        if len(set(shapes)) != 1:
            raise ShapeError(f"expected two fields of one shape, got {shapes[0]} and {shapes[1]}")
    known = next((view.attributes for view in views if view.attributes), {})
    views = [view._replace(attributes=view.attributes or known) for view in views]
    sections = [section(view, where) for view in views]
    histograms = [RunningHistogram() for _ in views]
    errors = RunningHistogram()
    with comm.together():
        for pieces in slabs(*views):
            for histogram, values in zip(histograms, pieces, strict=True):
                histogram.add(values)
            if len(pieces) == 2:
                with np.errstate(invalid="ignore", over="ignore"):
                    errors.add(pieces[1] - pieces[0])
    looks = [
        Look(view, part, histogram.gathered(comm))
        for view, part, histogram in zip(views, sections, histograms, strict=True)
    ]
    errors = errors.gathered(comm)
    found: dict[str, Any] = {"picture": path, "fields": [view.name for view in views], "slice": sections[0].place}
    if len(looks) == 1:
        with comm.together():
            if comm.rank == 0:
                draw_field(path, looks[0])
        return found
    measures = compare(views[0], views[1], comm).measures
    summary = _summary(measures)
    with comm.together():
        if comm.rank == 0:
            with np.errstate(invalid="ignore", over="ignore"):
                difference = sections[1].values - sections[0].values
            draw_comparison(path, looks[0], looks[1], difference, errors, summary)
    return found | {"statistics": {name: {"value": float(m), "error": m.error} for name, m in measures.items()}}


def _summary(measures: dict[str, CertifiedFloat]) -> str:
    if not measures:
        return "no cell has a number in both"
    largest, rms, psnr = (measures[name] for name in ("largest_difference", "root_mean_square_error", "psnr"))
    text = f"largest difference {number(largest, 3)}, root mean square {number(rms, 3)}"
    return f"{text}, PSNR {psnr:.1f} dB" if math.isfinite(psnr) else text


def _rate_distortion(arguments: argparse.Namespace, console: Console) -> dict[str, Any]:
    if console.comm.size != 1:
        raise ConfigurationError(f"expected one process, got {console.comm.size} ranks: run it without mpirun")
    if arguments.compare is not None or arguments.slice is not None or target(arguments):
        raise ConfigurationError(
            "expected --rate-distortion alone, got it with --compare, --slice or an option of how exact: it tries many"
        )
    view = read_view(arguments.a, arguments, console)
    part = view.take(middle(view.shape)).astype(np.promote_types(view.dtype, np.float32), copy=False)
    absent: list[str] = []
    curves = rates(part, absent=absent)
    shape = " × ".join(map(str, part.shape))
    title = f"{Path(view.name).name}: {shape} {part.dtype}"
    draw_rates(arguments.output, curves, title if part.shape == view.shape else f"{title}, the middle of {view.shape}")
    if not arguments.json:
        for text in absent:
            console.line(f"left out: {text}")
    return {
        "picture": arguments.output,
        "shape": list(part.shape),
        "absent": absent,
        "curves": {name: [point._asdict() for point in points] for name, points in curves.items()},
    }
