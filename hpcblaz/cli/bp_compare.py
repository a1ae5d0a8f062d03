"""``hpcblaz bp compare``: how far the answers in two files are from each other."""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from hpcblaz.bp.comparison import compare, read_answers
from hpcblaz.cli.bp_describe import show
from hpcblaz.cli.console import Console
from hpcblaz.mpi import world


def register(actions: Any) -> None:
    """Add the action."""
    parser = actions.add_parser(
        "compare",
        help="how far two solutions are from each other",
        description="Compare two solutions in files, both of marginals (MAR), of the partition function (PR) or of a "
        "most probable assignment (MAP). Means are over variables.",
    )
    parser.add_argument("a", metavar="A", help="a solution")
    parser.add_argument("b", metavar="B", help="another one, for example the exact one")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw marginals and their differences")
    parser.add_argument("--json", action="store_true", help="print JSON, with the measures of each variable")
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    console = Console(world())
    found: dict[str, Any] = {}
    with console.comm.together():
        if console.comm.rank == 0:
            result = compare(read_answers(arguments.a), read_answers(arguments.b))
            found = {"a": arguments.a, "b": arguments.b} | result.summary()
            if arguments.plot is not None:
                result.plot(arguments.plot, (Path(arguments.a).name, Path(arguments.b).name))
                found["plot"] = str(arguments.plot)
            if arguments.json:
                found |= _each(result)
    show(console, arguments, found)
    return 0


def _each(result: Any) -> dict[str, Any]:
    """Return the measures of each variable; keys are part of the interface."""
    names = ("mean_absolute", "largest_absolute", "hellinger", "kl", "kl_reverse", "disagreements")
    values = {name: getattr(result, name) for name in names}
    return {"of_each_variable": {k: np.asarray(v).tolist() for k, v in values.items() if v is not None}}
