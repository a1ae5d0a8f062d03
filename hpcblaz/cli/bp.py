"""``hpcblaz bp``: graphical models in files: what they are, making them, converting them, and solving them exactly.

Rank 0 does the work. Further actions are modules of their own; `register` gives them their place.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hpcblaz.bp.elimination import EliminationPlan, plan_elimination
from hpcblaz.bp.exact import ExactSolution, exact
from hpcblaz.bp.models import FactorGraph, PairwiseModel
from hpcblaz.bp.readers import format_of, read_model, write_model
from hpcblaz.bp.solutions import assignment_text, log_partition_text, marginals_text
from hpcblaz.bp.tokens import write_text
from hpcblaz.bp.uai import read_evidence
from hpcblaz.cli import bp_bench, bp_compare, bp_generate, bp_infer, bp_partition, bp_scaling
from hpcblaz.cli.bp_describe import describe_model, describe_plan, show
from hpcblaz.cli.console import Console
from hpcblaz.errors import ConfigurationError
from hpcblaz.mpi import world

_TASKS: dict[str, Literal["marginals", "logz", "map"]] = {"MAR": "marginals", "PR": "logz", "MAP": "map"}


def register(subparsers: Any) -> None:
    """Add the verb."""
    parser = subparsers.add_parser(
        "bp",
        help="graphical models: describe, generate, convert, infer",
        description="Graphical models in files: UAI (.uai), libDAI (.fg) and the text of the paper (.txt), plain or "
        "compressed (.gz, .xz).",
    )
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    _add_info(actions)
    bp_generate.register(actions)
    _add_convert(actions)
    _add_exact(actions)
    bp_infer.register(actions)
    bp_partition.register(actions)
    bp_compare.register(actions)
    bp_bench.register(actions)
    bp_scaling.register(actions)


def _add_info(actions: Any) -> None:
    parser = actions.add_parser(
        "info", help="show what a model is made of", description="Show what a model is made of."
    )
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--evidence", metavar="FILE", help="variables that have been observed")
    parser.add_argument("--cost", action="store_true", help="also say what solving it exactly would cost")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_info)


def _add_convert(actions: Any) -> None:
    parser = actions.add_parser(
        "convert", help="write a model in another format", description="Write a model in the format of the name OUT."
    )
    parser.add_argument("input", metavar="IN")
    parser.add_argument("output", metavar="OUT", help=".uai, .fg or .txt; .gz or .xz after it")
    parser.add_argument("--evidence", metavar="FILE", help="write the model with these variables observed")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_convert)


def _add_exact(actions: Any) -> None:
    parser = actions.add_parser(
        "exact",
        help="solve a model exactly",
        description="Solve a model exactly, by elimination. What it costs is said before it starts.",
    )
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--evidence", metavar="FILE", help="variables that have been observed")
    parser.add_argument(
        "--task",
        choices=tuple(_TASKS),
        default="MAR",
        help="marginals, the partition function, or a most probable assignment; default: MAR",
    )
    parser.add_argument("-o", "--output", metavar="OUT", help="where the solution is written; default: it is printed")
    parser.add_argument("--memory", type=float, default=2048, metavar="MIB", help="most memory; default: 2048 MiB")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_exact)


def _info(arguments: argparse.Namespace) -> int:
    console = Console(world())
    found: dict[str, Any] = {}
    with console.comm.together():
        if console.comm.rank == 0:
            model = _read(arguments.model, arguments.evidence)
            found = {"model": arguments.model} | describe_model(model)
            if arguments.cost:
                found["cost"] = describe_plan(plan_elimination(model))
    show(console, arguments, found)
    return 0


def _convert(arguments: argparse.Namespace) -> int:
    console = Console(world())
    found: dict[str, Any] = {}
    with console.comm.together():
        if console.comm.rank == 0:
            format_of(arguments.output)
            model = _read(arguments.input, arguments.evidence)
            write_model(arguments.output, model)
            found = {"input": arguments.input, "output": arguments.output} | describe_model(model)
    show(console, arguments, found)
    return 0


def _exact(arguments: argparse.Namespace) -> int:
    console = Console(world())
    found: dict[str, Any] = {}
    text = ""
    with console.comm.together():
        if not arguments.memory > 0:
            raise ConfigurationError(f"expected --memory to be positive, got {arguments.memory}")
        if console.comm.rank == 0:
            model = read_model(arguments.model)
            evidence = read_evidence(arguments.evidence) if arguments.evidence else {}

            def report(plan: EliminationPlan) -> None:
                found.update({"model": arguments.model, "task": arguments.task, "evidence": len(evidence)})
                found["cost"] = describe_plan(plan)
                if not arguments.json:  # the standard output is for the solution
                    print(f"hpcblaz: {_cost(plan)}", file=sys.stderr, flush=True)

            start = time.perf_counter()
            solution = exact(model, _TASKS[arguments.task], evidence, arguments.memory * 2**20, report)
            found["seconds"] = time.perf_counter() - start
            found["output"] = arguments.output
            text = _solution_text(arguments.task, solution)
            found |= _answers(arguments, solution)
            if arguments.output is not None:
                write_text(Path(arguments.output), text)
    if arguments.json:
        console.data(found)
    elif arguments.output is None:
        console.text(text)
    else:
        show(console, arguments, {key: value for key, value in found.items() if key != "cost"})
    return 0


def _cost(plan: EliminationPlan) -> str:
    least = "" if plan.complete else "at least "
    return (
        f"{least}2^{plan.log2_largest:.1f} entries in the largest table, 2^{plan.log2_total:.1f} in all, "
        f"{plan.peak_bytes / 2**20:.3g} MiB"
    )


def _solution_text(task: str, solution: ExactSolution) -> str:
    if task == "MAR" and solution.marginals is not None:
        return marginals_text(solution.offsets, solution.marginals)
    if task == "MAP" and solution.assignment is not None:
        return assignment_text(solution.assignment)
    return log_partition_text(solution.log_partition)


def _answers(arguments: argparse.Namespace, solution: ExactSolution) -> dict[str, Any]:
    """Return what JSON has of a solution; long lists only if they are written nowhere else."""
    whole = arguments.output is None and arguments.json
    if arguments.task == "MAP":
        answers: dict[str, Any] = {"score": solution.score}
        if whole and solution.assignment is not None:
            answers["assignment"] = solution.assignment.tolist()
        return answers
    answers = {"log_partition": solution.log_partition, "log10_partition": solution.log_partition / np.log(10)}
    if whole and solution.marginals is not None:
        answers["marginals"] = [part.tolist() for part in np.split(solution.marginals, solution.offsets[1:-1])]
    return answers


def _read(path: str, evidence: str | None) -> FactorGraph | PairwiseModel:
    model = read_model(path)
    return model.clamp(read_evidence(evidence)) if evidence else model
