"""``hpcblaz bp generate``: models with random weights, and models of images."""

import argparse
from collections.abc import Callable
from typing import Any

from hpcblaz.bp import builders, codes, vision
from hpcblaz.bp.models import FactorGraph, PairwiseModel
from hpcblaz.bp.readers import format_of, write_model
from hpcblaz.cli.bp_describe import describe_model, show
from hpcblaz.cli.console import Console, integers
from hpcblaz.fields.readers import open_array
from hpcblaz.mpi import world

_Build = Callable[[argparse.Namespace], FactorGraph | PairwiseModel]


def register(actions: Any) -> None:
    """Add the action."""
    parser = actions.add_parser(
        "generate", help="make a model", description="Make a model with random weights, or of images in .npy files."
    )
    kinds = parser.add_subparsers(title="kinds", metavar="KIND", required=True)

    def kind(name: str, about: str, build: _Build, random: bool = True) -> argparse.ArgumentParser:
        made: argparse.ArgumentParser = kinds.add_parser(name, help=about, description=f"Make {about}.")
        made.add_argument("-o", "--output", metavar="OUT", required=True, help=".uai, .fg or .txt; .gz or .xz after it")
        if random:
            made.add_argument("--seed", type=int, default=0, metavar="N", help="of the random numbers; default: 0")
        made.add_argument("--json", action="store_true", help="print JSON")
        made.set_defaults(run=_generate, build=build, kind=name)
        return made

    ising = kind("ising", "a grid of binary variables", lambda a: builders.ising(_side(a.size), a.coupling, a.seed))
    potts = kind(
        "potts",
        "a grid of variables of several states",
        lambda a: builders.potts(_side(a.size), a.states, a.coupling, a.seed),
    )
    for grid in (ising, potts):
        grid.add_argument("--size", type=integers, required=True, metavar="N[,N]", help="side, or rows and columns")
    chain = kind("chain", "a chain", lambda a: builders.chain(a.variables, a.coupling, a.seed, a.states))
    tree = kind("tree", "a random tree", lambda a: builders.tree(a.variables, a.coupling, a.seed, a.states))
    regular = kind(
        "regular",
        "a random graph whose variables have equally many edges",
        lambda a: builders.random_regular(a.variables, a.degree, a.coupling, a.seed, a.states),
    )
    regular.add_argument("--degree", type=int, required=True, metavar="N", help="edges of a variable")
    for graph in (chain, tree, regular):
        graph.add_argument("--variables", type=int, required=True, metavar="N", help="number of variables")
    for several in (potts, chain, tree, regular):
        several.add_argument("--states", type=int, default=2, metavar="N", help="of a variable; default: 2")
    for coupled in (ising, potts, chain, tree, regular):
        coupled.add_argument("--coupling", type=float, required=True, metavar="C", help="strength of the couplings")
    code = kind(
        "ldpc",
        "a parity-check code and what is received of a word",
        lambda a: codes.ldpc(a.bits, a.column_weight, a.row_weight, a.noise, a.channel, a.seed),
    )
    code.add_argument("--bits", type=int, required=True, metavar="N", help="length of a word")
    code.add_argument("--column-weight", type=int, default=3, metavar="N", help="checks of a bit; default: 3")
    code.add_argument("--row-weight", type=int, default=6, metavar="N", help="bits of a check; default: 6")
    code.add_argument("--channel", choices=("gaussian", "flip"), default="gaussian", help="default: gaussian")
    code.add_argument("--noise", type=float, default=0.8, metavar="X", help="deviation, or probability of a flip")
    denoise = kind(
        "denoise",
        "the model of a clean image, of a noisy one in a .npy file",
        lambda a: vision.denoise(open_array(a.image), a.states, a.noise, a.coupling, a.smoothness),
        random=False,
    )
    denoise.add_argument("image", metavar="IMAGE")
    denoise.add_argument("--states", type=int, default=2, metavar="N", help="grey levels; default: 2")
    denoise.add_argument("--noise", type=float, default=0.5, metavar="X", help="deviation, as a fraction of the range")
    denoise.add_argument("--coupling", type=float, default=1.0, metavar="C", help="strength of the couplings")
    denoise.add_argument("--smoothness", choices=("potts", "linear"), default="potts", help="default: potts")
    stereo = kind(
        "stereo",
        "the model of the depth of two images in .npy files",
        lambda a: vision.stereo(
            open_array(a.left), open_array(a.right), a.disparities, smoothness=a.smoothness, limit=a.limit
        ),
        random=False,
    )
    stereo.add_argument("left", metavar="LEFT")
    stereo.add_argument("right", metavar="RIGHT")
    stereo.add_argument("--disparities", type=int, required=True, metavar="N", help="number of states")
    stereo.add_argument("--smoothness", type=float, default=1.0, metavar="X", help="of a step between neighbours")
    stereo.add_argument("--limit", type=float, default=2.0, metavar="X", help="steps beyond which it does not grow")


def _generate(arguments: argparse.Namespace) -> int:
    console = Console(world())
    found: dict[str, Any] = {}
    with console.comm.together():
        if console.comm.rank == 0:
            format_of(arguments.output)
            model = arguments.build(arguments)
            write_model(arguments.output, model)
            found = {"output": arguments.output, "kind": arguments.kind} | describe_model(model)
    show(console, arguments, found)
    return 0


def _side(size: tuple[int, ...]) -> int | tuple[int, ...]:
    return size[0] if len(size) == 1 else size
