"""Inference on many ranks: each sends the messages of its own variables or factors, and tells its neighbours."""

import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from hpcblaz.backend import gpu
from hpcblaz.backend.dispatch import choose_device
from hpcblaz.backend.threads import threads as use_threads
from hpcblaz.bp.distributed_checkpoint import InferenceCheckpoint
from hpcblaz.bp.distributed_result import PartitionedInference
from hpcblaz.bp.distributed_schedules import Found, Schedule, schedule_on_ranks
from hpcblaz.bp.gpu_ranks import GPU_RANK_SCHEDULES, AnyRankPropagation, GpuRankPropagation
from hpcblaz.bp.inference import check_options
from hpcblaz.bp.partitioned import PartitionedModel
from hpcblaz.bp.partitioned_plans import LocalPlan
from hpcblaz.bp.plans import impossible_variable
from hpcblaz.bp.rank_propagation import RankPropagation, Sent
from hpcblaz.bp.result import History
from hpcblaz.bp.schedules import Options
from hpcblaz.bp.watch import Watch
from hpcblaz.errors import ConfigurationError, StoppedError
from hpcblaz.mpi import device_number
from hpcblaz.mpi.links import totals

__all__ = ["infer_partitioned"]


def infer_partitioned(
    model: PartitionedModel,
    schedule: str = "auto",
    task: str = "marginals",
    *,
    tolerance: float = 1e-4,
    damping: float = 0.0,
    max_iterations: int = 2000,
    time_limit: float | None = None,
    seed: int = 0,
    precision: str = "float32",
    low: float = 0.7,
    high: float = 1.0,
    share: float = 1 / 64,
    depth: int = 2,
    threads: int | None = None,
    local_sweeps: int = 1,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_seconds: float = 600.0,
    restart: bool = False,
    stop: Callable[[], bool] | None = None,
    say: Callable[[str], None] | None = None,
    device: str = "cpu",
) -> PartitionedInference:
    """Infer as `infer` does, on all ranks of a model that has been dealt out; a collective call.

    Parameters
    ----------
    model : PartitionedModel
    schedule, task, tolerance, damping, max_iterations, time_limit, seed, precision, low, high, share, depth, threads
        As for `infer`, the same on all ranks. 'lbp' and 'rnbp' send what one rank alone would send, message for
        message. The others work on each rank's own messages between two exchanges.
    local_sweeps : int
        How many sweeps, rounds or choices are made between two exchanges.
    checkpoint : str or os.PathLike, optional
        A file to which the messages are written now and then, when a limit is reached, and when `stop` says so. If it
        is there, its run is continued, on any number of ranks. It is removed once messages have converged.
    checkpoint_seconds : float
        How often.
    restart : bool
        Throw away what `checkpoint` has.
    stop : callable, optional
        Asked after each step, on every rank; if one says True, the checkpoint is written and StoppedError raised.
    say : callable, optional
        Told, on rank 0, what is continued.
    device : {'cpu', 'gpu'}
        Where messages are sent, on every rank. On a GPU there are 'lbp' and 'rnbp', which send what CPUs send; each
        rank takes one of the cards of its node.

    Returns
    -------
    PartitionedInference

    Raises
    ------
    ModelError
        On every rank, if every state of a variable is impossible, which the text names.
    ConfigurationError
        If an option has a value that makes no sense, or the checkpoint is of another run.
    StoppedError
        If the run was stopped, and can be continued.
    StorageError, FileFormatError
        If the checkpoint cannot be read or written.
    MissingDependencyError, DeviceError
        If it is a GPU that cannot be used.

    Examples
    --------
    >>> from hpcblaz.bp import ising, split
    >>> result = infer_partitioned(split(ising(20, coupling=1.0)), "lbp")
    >>> result.status, len(result.variables)
    ('converged', 400)
    """
    options = Options(seed, low, high, share, depth)
    comm = model.comm
    with comm.together():
        check_options(schedule, task, precision, tolerance, damping, max_iterations, time_limit, options)
        propagate = _engine(device, schedule)
        if isinstance(local_sweeps, bool) or not isinstance(local_sweeps, int) or not 1 <= local_sweeps < 2**20:
            raise ConfigurationError(f"local_sweeps: expected an integer from 1 to {2**20 - 1}, got {local_sweeps!r}")
        if not checkpoint_seconds > 0:
            raise ConfigurationError(f"checkpoint_seconds: expected a positive number, got {checkpoint_seconds}")
        if stop is not None and checkpoint is None:
            raise ConfigurationError("stop: expected a checkpoint, so that the run can be continued, got none")
    if device == "gpu":
        gpu.use_device(device_number(comm, gpu.device_count()))
    with nullcontext() if threads is None else use_threads(threads):
        watch = Watch(model.messages, max_iterations * model.messages, time_limit)
        _check_possible(model, model.part.impossible())
        local = model.part.prepare(precision, comm)
        with comm.together():
            propagation = propagate(local, comm, local.uniform(), task == "map", damping, tolerance)
        run = _Run(model, local, propagation, watch, stop, None)
        saved: InferenceCheckpoint | None = None
        state: dict[str, object] | None = None
        if checkpoint is not None:
            facts = {"task": task, "schedule": schedule, "tolerance": tolerance, "damping": damping,
                     "local_sweeps": local_sweeps, "options": list(vars(options).values())}  # fmt: skip
            saved = InferenceCheckpoint(Path(checkpoint), facts, model, local, checkpoint_seconds)
            state = saved.load(propagation, watch, restart)
            if state is not None and say is not None and comm.rank == 0:
                say(f"continuing after {watch.updates / max(1, model.messages):.0f} iterations")
            run.saved = saved
        preparation = watch.elapsed()
        steps = schedule_on_ranks(
            schedule, propagation, run.report, options, model.messages, model.variables, local_sweeps, state or {}
        )
        status = run.to_the_end(steps)
        if saved is not None and status == "converged":
            saved.remove()
        with comm.together():
            result = PartitionedInference(
                model=model,
                local=local,
                messages=gpu.asnumpy(propagation.messages),
                task=task,
                schedule=schedule,
                status=status,
                tolerance=tolerance,
                preparation_seconds=preparation,
                history=History.of(watch),
            )
            _ = result.beliefs  # which may show a contradiction
    return result


def _engine(device: str, schedule: str) -> type[AnyRankPropagation]:
    """Return what holds the messages of a rank on a device."""
    if choose_device(str(device)) == "cpu":
        return RankPropagation
    if schedule not in GPU_RANK_SCHEDULES:
        raise ConfigurationError(
            f"schedule: expected one of {', '.join(GPU_RANK_SCHEDULES)} on GPUs of ranks, or for a model that is "
            f"dealt out, got {schedule!r}: choose one of them, or leave device= out to use the CPU"
        )
    return GpuRankPropagation


class _Run:
    """Steps until all messages have converged, a limit is reached, or somebody asks to stop."""

    def __init__(
        self, model: PartitionedModel, local: LocalPlan, propagation: AnyRankPropagation, watch: Watch,
        stop: Callable[[], bool] | None, saved: InferenceCheckpoint | None,
    ) -> None:  # fmt: skip
        self.model, self.local, self.propagation, self.watch = model, local, propagation, watch
        self.stop, self.saved = stop, saved
        self._late = self._asked = self._due = False

    def report(self, sent: Sent) -> Found:
        """Add up what all ranks have sent and found, and note it."""
        found = self._together(sent)
        self.watch.note(found.updates, found.left, found.largest)
        return found

    def to_the_end(self, schedule: Schedule) -> str:
        """Take steps; return the status."""
        if not self.model.messages:
            return "converged"
        schedule.begin()
        while True:
            quiet = schedule.step()
            status = "iterations" if self.watch.updates >= self.watch.most else "time" if self._late else None
            asked, due = self._asked, self._due
            if quiet or status is not None:
                found = self._together(self.propagation.confirm_all())  # a schedule may have looked long ago
                count = 0 if found.left == 0 or status else self.model.messages
                self.watch.note(count, found.left, found.largest)
                if found.left == 0:
                    return "converged"
                if status is None:
                    schedule.again()
            if self.saved is not None and (asked or due or status is not None):
                self.saved.save(self.propagation, self.watch, schedule.state)
                if asked:
                    done = self.watch.updates / self.model.messages
                    raise StoppedError(
                        f"stopped as asked after {done:.0f} iterations: the same command continues from "
                        f"{self.saved.path}"
                    )
            if status is not None:
                return status

    def _together(self, sent: Sent) -> Found:
        trouble = self.propagation.trouble
        variable = -1 if trouble is None else int(self.local.unit_variables[trouble])
        late = self.watch.time_limit is not None and self.watch.elapsed() >= self.watch.time_limit
        asked = self.stop is not None and self.stop()
        due = self.saved is not None and self.saved.is_due()
        bits = int(np.float64(sent.largest).view(np.int64)) & (2**63 - 1)
        found = totals(self.model.comm, [sent.updates, sent.left], [bits, variable, late, asked, due])
        if found.largest[1] >= 0:
            raise impossible_variable(int(found.largest[1]))
        self._late, self._asked, self._due = (bool(flag) for flag in found.largest[2:])
        return Found(int(found.sums[0]), int(found.sums[1]), float(found.largest[:1].view(np.float64)[0]))


def _check_possible(model: PartitionedModel, impossible: int | None) -> None:
    """Raise ModelError on every rank if one has a variable whose states are all impossible."""
    found = totals(model.comm, [], [-1 if impossible is None else impossible]).largest[0]
    if found >= 0:
        raise impossible_variable(int(found))
