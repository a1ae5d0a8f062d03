"""``hpcblaz bp infer``: answers of belief propagation for a model in a file."""

import argparse
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np

from hpcblaz.backend.dispatch import DEVICES
from hpcblaz.bp.inference import infer
from hpcblaz.bp.models import FactorGraph, PairwiseModel
from hpcblaz.bp.readers import read_model
from hpcblaz.bp.result import Inference
from hpcblaz.bp.schedules import SCHEDULES
from hpcblaz.bp.solutions import assignment_text, log_partition_text, marginals_text, samples_text
from hpcblaz.bp.tokens import write_text
from hpcblaz.bp.uai import read_evidence_samples
from hpcblaz.cli import bp_infer_ranks
from hpcblaz.cli.bp_describe import how, not_converged, show
from hpcblaz.cli.bp_infer_ranks import TASKS
from hpcblaz.cli.console import Console
from hpcblaz.errors import ConfigurationError
from hpcblaz.mpi import world


def register(actions: Any) -> None:
    """Add the action."""
    parser = actions.add_parser(
        "infer",
        help="solve a model by belief propagation",
        description="Infer marginals, the partition function or a most probable assignment by loopy belief "
        "propagation: exact on trees, an approximation elsewhere.",
    )
    parser.add_argument("model", metavar="MODEL", nargs="?")
    parser.add_argument(
        "--evidence", metavar="FILE", help="variables that have been observed; several samples are answered one by one"
    )
    parser.add_argument("--task", choices=tuple(TASKS), default="MAR", help="default: MAR")
    parser.add_argument(
        "-o", "--output", metavar="OUT", help="where the solution is written, .zarr for a store; default: it is printed"
    )
    parser.add_argument("--schedule", choices=SCHEDULES, default="auto", help="order of the messages; default: auto")
    parser.add_argument("--tolerance", type=float, default=1e-4, help="default: 1e-4")
    parser.add_argument("--damping", type=float, default=0.0, help="how much of an old message stays; default: 0")
    parser.add_argument("--max-iterations", type=int, default=2000, metavar="N", help="default: 2000")
    parser.add_argument("--time-limit", type=float, metavar="S", help="seconds; default: none")
    parser.add_argument("--seed", type=int, default=0, help="of the choices of rnbp; default: 0")
    parser.add_argument("--precision", choices=("float32", "float64"), default="float32", help="default: float32")
    parser.add_argument("--threads", type=int, metavar="N", help="default: all")
    parser.add_argument("--device", choices=DEVICES, default="cpu", help="where messages are sent; default: cpu")
    parser.add_argument("--json", action="store_true", help="print JSON")
    bp_infer_ranks.add_options(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    console = Console(world())
    if bp_infer_ranks.is_for_ranks(arguments, console.comm.size):
        return bp_infer_ranks.run(arguments, console)
    found: dict[str, Any] = {}
    text = ""
    with console.comm.together():
        if arguments.model is None:
            raise ConfigurationError("expected MODEL or --generate, got neither")
        if console.comm.rank == 0:
            model = read_model(arguments.model)
            samples = read_evidence_samples(arguments.evidence) if arguments.evidence else [{}]
            texts, rows = [], []
            for evidence in samples:
                result = _infer(arguments, model.clamp(evidence))
                texts.append(_text(arguments.task, result))
                rows.append({"evidence": len(evidence)} | how(result))
                rows[-1] |= {"output": arguments.output} | _answers(arguments, result)
            text = samples_text(texts) if len(samples) > 1 else texts[0]
            found = {"model": arguments.model, "task": arguments.task}
            found |= _together(rows, arguments.json) if len(samples) > 1 else rows[0]
            if arguments.output is not None:
                write_text(Path(arguments.output), text)
    if arguments.json:
        console.data(found)
    elif arguments.output is None:
        console.text(text)
    else:
        show(console, arguments, found)
    return 0


def _infer(arguments: argparse.Namespace, model: FactorGraph | PairwiseModel) -> Inference:
    result = infer(
        model,
        arguments.schedule,
        TASKS[arguments.task],
        tolerance=arguments.tolerance,
        damping=arguments.damping,
        max_iterations=arguments.max_iterations,
        time_limit=arguments.time_limit,
        seed=arguments.seed,
        precision=arguments.precision,
        threads=arguments.threads,
        device=arguments.device,
    )
    if not (arguments.json or result.converged):  # the standard output may be for the solution
        print(f"hpcblaz: {not_converged(result)}", file=sys.stderr)
    return result


def _together(rows: list[dict[str, Any]], whole: bool) -> dict[str, Any]:
    """Return what is said of several samples: of each, if that is asked for; keys are part of the interface."""
    found: dict[str, Any] = {
        "samples": len(rows),
        "samples_converged": sum(row["status"] == "converged" for row in rows),
        "seconds": sum(row["seconds"] for row in rows),
        "output": rows[0]["output"],
    }
    return found | ({"of_each_sample": rows} if whole else {})


def _text(task: str, result: Inference) -> str:
    if task == "MAR":
        return marginals_text(result.offsets, result.marginals)
    return assignment_text(result.assignment) if task == "MAP" else log_partition_text(result.log_partition)


def _answers(arguments: argparse.Namespace, result: Inference) -> dict[str, Any]:
    """Return what JSON has of the answers; long lists only if they are written nowhere else."""
    whole = arguments.output is None and arguments.json
    if arguments.task == "MAP":
        answers: dict[str, Any] = {"score": result.score}
        return answers | ({"assignment": result.assignment.tolist()} if whole else {})
    log_partition = result.log_partition
    answers = {"log_partition": log_partition, "log10_partition": log_partition / math.log(10)}
    if whole and arguments.task == "MAR":
        answers["marginals"] = [part.tolist() for part in np.split(result.marginals, result.offsets[1:-1])]
    return answers
