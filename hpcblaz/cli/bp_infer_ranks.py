"""``hpcblaz bp infer`` on several ranks, for generated models, and with checkpoints: every rank has a part."""

import argparse
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from hpcblaz.bp.distributed import infer_partitioned
from hpcblaz.bp.distributed_answers import assignment_of
from hpcblaz.bp.distributed_result import PartitionedInference
from hpcblaz.bp.marginal_store import save_marginals
from hpcblaz.bp.partition import METHODS
from hpcblaz.bp.partitioned import PartitionedModel
from hpcblaz.bp.partitioned_files import read_partitioned
from hpcblaz.bp.partitioned_grids import partitioned_ising
from hpcblaz.bp.solutions import assignment_text, log_partition_text, marginals_text
from hpcblaz.bp.tokens import write_text
from hpcblaz.bp.uai import read_evidence
from hpcblaz.cli.bp_describe import how, not_converged, show
from hpcblaz.cli.console import Console, integers
from hpcblaz.cli.stopping import StopRequest, stop_on_signals
from hpcblaz.errors import ConfigurationError, StoppedError

TASKS = {"MAR": "marginals", "PR": "logz", "MAP": "map"}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of inference on ranks."""
    made = parser.add_argument_group("a model that is made block by block, in place of MODEL")
    made.add_argument("--generate", choices=("ising",), help="which; the same model as of `bp generate`")
    made.add_argument("--size", type=integers, metavar="N[,N]", help="side, or rows and columns")
    made.add_argument("--coupling", type=float, metavar="C", help="strength of the couplings")
    made.add_argument("--model-seed", type=int, default=0, metavar="N", help="of its random numbers; default: 0")
    ranks = parser.add_argument_group("on several ranks")
    ranks.add_argument("--partition", choices=METHODS, default="auto", help="how to deal out; default: auto")
    ranks.add_argument(
        "--local-sweeps", type=int, default=1, metavar="N", help="sweeps between two exchanges; default: 1"
    )
    jobs = parser.add_argument_group("long jobs")
    jobs.add_argument("--checkpoint", metavar="FILE", help="where messages are kept, to continue from")
    jobs.add_argument("--checkpoint-every", type=float, default=600.0, metavar="S", help="seconds; default: 600")
    jobs.add_argument("--restart", action="store_true", help="throw away what the checkpoint has")


def is_for_ranks(arguments: argparse.Namespace, size: int) -> bool:
    """Return whether a command line needs what is here."""
    store = arguments.output is not None and arguments.output.rstrip("/").endswith(".zarr")
    return size > 1 or store or arguments.generate is not None or arguments.checkpoint is not None


def run(arguments: argparse.Namespace, console: Console) -> int:
    """Infer on all ranks, and write what was asked for."""
    comm = console.comm
    with comm.together():
        _check(arguments)
        seen = read_evidence(arguments.evidence) if arguments.evidence else {}
    if arguments.generate is not None:
        size = arguments.size if len(arguments.size) > 1 else arguments.size[0]
        model = partitioned_ising(size, arguments.coupling, arguments.model_seed, comm)
    else:
        model = read_partitioned(arguments.model, comm, evidence=seen, method=arguments.partition)
    with _stop(arguments) as stop:
        result = infer_partitioned(
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
            local_sweeps=arguments.local_sweeps,
            checkpoint=arguments.checkpoint,
            checkpoint_seconds=arguments.checkpoint_every,
            restart=arguments.restart,
            stop=stop,
            say=console.note,
        )
    if result.status == "time" and arguments.checkpoint is not None:
        raise StoppedError(
            f"stopped at the time limit after {result.iterations:.0f} iterations: the same command continues from "
            f"{arguments.checkpoint}"
        )
    return _finish(arguments, console, model, result, len(seen))


def _check(arguments: argparse.Namespace) -> None:
    if (arguments.model is None) == (arguments.generate is None):
        raise ConfigurationError("expected either MODEL or --generate, got both or neither")
    if arguments.generate is not None and (arguments.size is None or arguments.coupling is None):
        raise ConfigurationError("expected --size and --coupling with --generate, got one of them or neither")
    if arguments.generate is not None and arguments.evidence is not None:
        raise ConfigurationError("expected --evidence with MODEL, got it with --generate")
    if arguments.restart and arguments.checkpoint is None:
        raise ConfigurationError("expected --restart with --checkpoint, got no checkpoint")


@contextmanager
def _stop(arguments: argparse.Namespace) -> Iterator[StopRequest | None]:
    """Let signals ask for a stop where the run can be continued."""
    if arguments.checkpoint is None:
        yield None
        return
    with stop_on_signals() as request:
        yield request


def _finish(
    arguments: argparse.Namespace, console: Console, model: PartitionedModel, result: PartitionedInference, seen: int
) -> int:
    comm, output = console.comm, arguments.output
    store = output is not None and output.rstrip("/").endswith(".zarr")
    printed = output is None
    found: dict[str, Any] = {"model": arguments.model or arguments.generate, "task": arguments.task, "evidence": seen}
    found |= how(result) | {"ranks": comm.size, "output": output}
    if arguments.task == "MAP":
        found["score"] = result.score
    else:
        found["log_partition"] = result.log_partition
        found["log10_partition"] = result.log_partition / math.log(10)
    text = ""
    if store:
        save_marginals(output, result)
    elif arguments.task != "PR" and (not printed or model.variables <= _MOST_PRINTED):
        whole = result.gather()
        with comm.together():
            if whole is not None:
                text = _text(arguments, *whole, found)
    elif arguments.task == "PR":
        text = log_partition_text(result.log_partition)
    with comm.together():
        if comm.rank == 0 and not store and output is not None:
            write_text(Path(output), text)
    if not (arguments.json or result.converged):
        console.note(not_converged(result))
    if arguments.json:
        console.data(found)
    elif printed and text:
        console.text(text)
    else:
        show(console, arguments, found)
    return 0


_MOST_PRINTED = 1_000_000  # variables: of more, what was found is shown, and marginals are written if asked for


def _text(arguments: argparse.Namespace, offsets: Any, beliefs: Any, found: dict[str, Any]) -> str:
    whole = arguments.json and arguments.output is None
    if arguments.task == "MAP":
        assignment = assignment_of(np.diff(offsets), beliefs)
        if whole:
            found["assignment"] = assignment.tolist()
        return assignment_text(assignment)
    if whole:
        found["marginals"] = [part.tolist() for part in np.split(beliefs, offsets[1:-1])]
        return ""
    return marginals_text(offsets, beliefs)
