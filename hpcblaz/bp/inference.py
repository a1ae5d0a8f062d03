"""Inference: messages until they do not change, and the answers that they give."""

import math
from collections.abc import Iterator
from contextlib import nullcontext
from numbers import Integral

from hpcblaz.backend.gpu import asnumpy
from hpcblaz.backend.messages import Propagation
from hpcblaz.backend.threads import threads as use_threads
from hpcblaz.bp import answers
from hpcblaz.bp.gpu_schedules import engine
from hpcblaz.bp.kept import prepare_once
from hpcblaz.bp.models import FactorGraph, PairwiseModel
from hpcblaz.bp.plans import Prepared, impossible_variable
from hpcblaz.bp.result import History, Inference
from hpcblaz.bp.schedules import SCHEDULES, Options
from hpcblaz.bp.schedules import schedule as start
from hpcblaz.bp.watch import Watch
from hpcblaz.errors import ConfigurationError

__all__ = ["TASKS", "infer"]

TASKS = ("marginals", "map", "logz")

_SMALL = 4096  # messages up to which `auto` looks for a second fixed point: it takes a few milliseconds
_AT_ONCE = 7  # sweeps: of some hundred models that converged in so many, no second fixed point was better
_SECOND = 30  # updates of each message that this may take
_CLEARLY = 1e-6  # relative difference of what two fixed points are worth


def infer(
    model: FactorGraph | PairwiseModel,
    schedule: str = "auto",
    task: str = "marginals",
    *,
    tolerance: float = 1e-4,
    damping: float = 0.0,
    max_iterations: int = 2000,
    time_limit: float | None = None,
    seed: int = 0,
    precision: str = "float32",
    initial: Inference | None = None,
    low: float = 0.7,
    high: float = 1.0,
    share: float = 1 / 64,
    depth: int = 2,
    threads: int | None = None,
    device: str = "cpu",
) -> Inference:
    """Infer marginals, the most probable assignment or the partition function, by loopy belief propagation.

    Answers are exact on trees, up to rounding and the tolerance. On graphs with loops they are approximations, and
    there need not be one only: look at the result's `status`, and compare schedules.

    Parameters
    ----------
    model : FactorGraph or PairwiseModel
        With evidence clamped in.
    schedule : {'auto', 'sweep', 'lbp', 'rnbp', 'rbp', 'splash', 'queue'}
        The order in which messages are sent. 'auto' begins with sweeps, and goes over to the largest residuals first
        where sweeps get nowhere.
    task : {'marginals', 'map', 'logz'}
        'map' computes largest products, the others sums of products.
    tolerance : float
        Messages have converged once each is this close to what would replace it: the Euclidean norm of the difference
        of two probability vectors. All of them are looked at before a result counts as converged.
    damping : float
        How much of an old message stays, at least 0 and below 1.
    max_iterations : int
        Where to stop. An iteration is as many message updates as there are messages, whatever the schedule.
    time_limit : float, optional
        Seconds after which to stop.
    seed : int
        Of the random choices of 'rnbp', at least 0 and below 2**64.
    precision : {'float32', 'float64'}
        Of the messages of variables with two states whose tables have no zero. All others are float64, and so are
        these where float32 might overflow.
    initial : Inference, optional
        Begin with its messages. It is of a model of the same shapes.
    low, high : float
        The share of unconverged messages that 'rnbp' sends at a time: `high` after the number of them fell by a tenth.
    share : float
        The share of messages that 'rbp', or of variables that 'splash' takes at a time.
    depth : int
        Depth of the trees of 'splash'.
    threads : int, optional
        Default: the thread count of the process. Answers do not depend on it.
    device : {'cpu', 'gpu'}
        Where messages are sent. On a GPU there is no 'queue'.

    Returns
    -------
    Inference

    Raises
    ------
    ModelError
        If every state of a variable is impossible, which the text names, or `initial` is of another model.
    ConfigurationError
        If an option has a value that makes no sense.
    MissingDependencyError, DeviceError
        If it is a GPU that cannot be used.

    Examples
    --------
    >>> from hpcblaz.bp import PairwiseModel, infer
    >>> same = [[3, 1], [1, 3]]
    >>> model = PairwiseModel.from_tables([[1, 4], [1, 1], [1, 1]], [[0, 1], [1, 2]], [same], table_of=[0, 0])
    >>> result = infer(model)
    >>> result.status
    'converged'
    >>> [round(float(p), 3) for p in result.marginal(2)]
    [0.425, 0.575]
    >>> infer(model, task="map").assignment.tolist()
    [1, 1, 1]
    """
    options = Options(seed, low, high, share, depth)
    check_options(schedule, task, precision, tolerance, damping, max_iterations, time_limit, options)
    propagate, begin = engine(device, schedule)
    with nullcontext() if threads is None else use_threads(threads):
        watch = Watch(0, 1, time_limit)
        prepared = prepare_once(model, precision)
        messages = prepared.uniform() if initial is None else prepared.to_plan(initial.vectors)
        propagation = propagate(prepared.plan, messages, task == "map", damping, tolerance)
        watch.messages, watch.most = propagation.count, max_iterations * propagation.count
        preparation = watch.elapsed()
        status = _run(prepared, propagation, watch, begin(schedule, propagation, watch, options))
        count = propagation.count
        first = status == "converged" and _AT_ONCE * count < watch.updates and count <= _SMALL
        if schedule == "auto" and device == "cpu" and first:
            propagation = _better(prepared, propagation, watch, options)
        messages = asnumpy(propagation.messages)
        del propagation  # and what only schedules need
        return Inference(
            prepared=prepared,
            messages=messages,
            task=task,
            schedule=schedule,
            status=status,
            tolerance=tolerance,
            preparation_seconds=preparation,
            history=History.of(watch),
        )


def _run(prepared: Prepared, propagation: Propagation, watch: Watch, steps: Iterator[bool]) -> str:
    """Take steps until all messages have converged or a limit is reached; return the status."""
    while propagation.count:
        found = next(steps)
        _check_possible(prepared, propagation)
        status = watch.over()
        if found or status is not None:
            left, largest = propagation.measure_anew()  # a schedule may have looked at some messages long ago
            watch.note(0 if left == 0 or status else propagation.count, left, largest)
            _check_possible(prepared, propagation)
            if left == 0:
                return "converged"
            if status is not None:
                return status
    return "converged"


def _better(prepared: Prepared, found: Propagation, watch: Watch, options: Options) -> Propagation:
    """Look for a better fixed point in residual order from the start, and return the better one.

    Of sums, that is the one with the larger partition function, of largest products the one with the better assignment.
    """
    other = found.afresh(prepared.uniform())
    watch.most = min(watch.most, watch.updates + _SECOND * other.count)
    best = found
    if _run(prepared, other, watch, start("units", other, watch, options)) == "converged":
        first, second = (_worth(prepared, propagation) for propagation in (found, other))
        best = other if second > first + _CLEARLY * max(1.0, abs(first)) else found
    watch.note(0, *best.measure_anew())
    return best


def _worth(prepared: Prepared, propagation: Propagation) -> float:
    if propagation.maximise:
        return float(prepared.model.score(answers.assignment(prepared, propagation.messages)))
    return answers.bethe_log_partition(prepared, propagation.messages)


def _check_possible(prepared: Prepared, propagation: Propagation) -> None:
    if propagation.trouble is not None:
        raise impossible_variable(int(prepared.variable_of[propagation.trouble]))


def check_options(
    schedule: str,
    task: str,
    precision: str,
    tolerance: float,
    damping: float,
    max_iterations: int,
    time_limit: float | None,
    options: Options,
) -> None:
    """Raise ConfigurationError if an option of `infer` has a value that makes no sense."""
    for name, value, known in (
        ("schedule", schedule, SCHEDULES),
        ("task", task, TASKS),
        ("precision", precision, ("float32", "float64")),
    ):
        if value not in known:
            raise ConfigurationError(f"{name}: expected one of {', '.join(known)}, got {value!r}")
    if not 0 < tolerance < math.inf:
        raise ConfigurationError(f"tolerance: expected a positive number, got {tolerance}")
    if not 0 <= damping < 1:
        raise ConfigurationError(f"damping: expected a number of at least 0 and below 1, got {damping}")
    if time_limit is not None and not time_limit > 0:
        raise ConfigurationError(f"time_limit: expected a positive number of seconds or None, got {time_limit}")
    for name, number, least, beyond in (
        ("max_iterations", max_iterations, 1, 2**40),
        ("seed", options.seed, 0, 2**64),
        ("depth", options.depth, 0, 2**31),
    ):
        if isinstance(number, bool) or not isinstance(number, Integral) or not least <= number < beyond:
            raise ConfigurationError(f"{name}: expected an integer from {least} to {beyond - 1}, got {number!r}")
    for name, share in (("low", options.low), ("high", options.high), ("share", options.share)):
        if not 0 < share <= 1:
            raise ConfigurationError(f"{name}: expected a number above 0 and at most 1, got {share}")
