"""Belief propagation of many models of one shape at once: other evidence, other unaries, other received words."""

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hpcblaz.backend.message_batches import CONTRADICTION, CONVERGED, VALID, BatchOutcome, BatchRule, propagate
from hpcblaz.backend.threads import threads as use_threads
from hpcblaz.bp.batch_plans import Prepared, gather_members, prepare_batch, prepare_checks
from hpcblaz.bp.models import FactorGraph, PairwiseModel
from hpcblaz.bp.parity import ParityChecks
from hpcblaz.bp.ragged import Floats, Integers, offsets_of
from hpcblaz.errors import ConfigurationError, ModelError

__all__ = ["BatchInference", "decode", "infer_batch"]

_STATUS = np.array(["running", "converged", "valid", "iterations", "time", "contradiction"])
_CHOICES = {
    "schedule": ("sweep", "lbp"),
    "task": ("marginals", "map"),
    "precision": ("float32", "float64"),
    "stop": ("converged", "valid"),
    "contradictions": ("raise", "report"),
}


@dataclass(frozen=True, eq=False)
class BatchInference:
    """The answers of a batch. Those that are not looked at are not computed.

    Attributes
    ----------
    task : {'marginals', 'map'}
    schedule : {'sweep', 'lbp'}
    seconds : float
        Time in all, but for answers.
    cardinalities : numpy.ndarray of int64, shape (variables,)
    """

    task: str
    schedule: str
    seconds: float
    cardinalities: Integers
    _prepared: Prepared = field(repr=False)
    _outcome: BatchOutcome = field(repr=False)

    def __len__(self) -> int:
        """Return the number of members."""
        return len(self._outcome.status)

    @cached_property
    def status(self) -> NDArray[np.str_]:
        """How each member ended, shape (members,).

        'converged', 'valid' (its assignment fulfils all parities), 'contradiction' (it has no possible assignment), or
        the limit that was reached: 'iterations' or 'time'.
        """
        return _STATUS[self._outcome.status]

    @property
    def converged(self) -> NDArray[np.bool_]:
        """Which members reached what they were to: 'converged' or, with ``stop='valid'``, 'valid'; shape (members,)."""
        reached: NDArray[np.bool_] = np.isin(self._outcome.status, (CONVERGED, VALID))
        return reached

    @property
    def iterations(self) -> Integers:
        """How often all messages of each member were sent: int64, shape (members,)."""
        return self._outcome.iterations

    @property
    def residuals(self) -> Floats:
        """The largest residual of each member in its last iteration, NaN with ``stop='valid'``: shape (members,)."""
        return self._outcome.residuals

    @property
    def impossible(self) -> Integers:
        """A variable whose states are all impossible, of members that are contradictions, else -1: shape (members,)."""
        return self._outcome.trouble - 1

    @property
    def precision(self) -> str:
        """Type of the messages: 'float32' or 'float64'."""
        return self._prepared.plan.precision

    @property
    def offsets(self) -> Integers:
        """Where the beliefs of each variable begin along the last axis: int64, shape (variables + 1,)."""
        return offsets_of(self.cardinalities)

    @cached_property
    def beliefs(self) -> Floats:
        """Marginals, or after task 'map' max-marginals: float64, shape (members, states of all variables).

        Those of contradictions are NaN.
        """
        found = self._outcome.beliefs
        if self._prepared.plan.family == "batch_odds":
            odds = found.astype(np.float64)
            values = np.empty((len(odds), 2 * odds.shape[1]))
            values[:, ::2] = 1 / (1 + odds)
            values[:, 1::2] = odds / (1 + odds)
            impossible = self._prepared.impossible
            if impossible is not None:
                other = impossible.reshape(len(odds), -1, 2)[:, :, ::-1].reshape(len(odds), -1)
                values[impossible] = 0
                values[other & ~impossible] = 1
        else:
            values = found.astype(np.float64)
        values[self._outcome.status == CONTRADICTION] = np.nan
        return values

    @property
    def marginals(self) -> Floats:
        """Marginals of all variables, one after the other: float64, shape (members, states of all variables).

        Raises
        ------
        ConfigurationError
            After task 'map'.
        """
        if self.task == "map":
            raise ConfigurationError("marginals: expected task 'marginals', got a result of task 'map'")
        return self.beliefs

    @cached_property
    def assignment(self) -> Integers:
        """The most probable state of each variable by its belief, the first of equals: int64, (members, variables).

        -1 of contradictions.
        """
        count = len(self)
        if self._prepared.plan.family == "batch_odds":
            states = (self._outcome.beliefs > 1).astype(np.int64)
        elif not self.cardinalities.size:
            states = np.zeros((count, 0), np.int64)
        else:
            padded = np.full((count, self.cardinalities.size, int(self.cardinalities.max())), -1.0)
            inside = np.arange(padded.shape[2]) < self.cardinalities[:, None]
            padded[:, inside] = self._outcome.beliefs
            states = padded.argmax(axis=2).astype(np.int64)
        states[self._outcome.status == CONTRADICTION] = -1
        return states


def infer_batch(
    model: FactorGraph | PairwiseModel,
    log_unaries: ArrayLike | None = None,
    *,
    evidence: Sequence[Mapping[int, int]] | None = None,
    log_tables: ArrayLike | None = None,
    schedule: str = "sweep",
    task: str = "marginals",
    stop: str = "converged",
    tolerance: float = 1e-4,
    damping: float = 0.0,
    max_iterations: int = 2000,
    time_limit: float | None = None,
    precision: str = "float32",
    contradictions: str = "raise",
    threads: int | None = None,
) -> BatchInference:
    """Infer marginals or most probable assignments of many models of one shape at once.

    The members of a batch share the graph. They differ in their evidence or unaries, or in their tables. All of them
    are computed side by side, in vectors of the processor; those that are done make room for others.

    Parameters
    ----------
    model : FactorGraph or PairwiseModel
        What the members have in common.
    log_unaries : array_like of float, shape (members, states of all variables), optional
        Added to the logarithms of the weights of the states of each variable; -inf for what is impossible.
    evidence : sequence of mappings of int to int, optional
        A state of each observed variable, by member.
    log_tables : array_like of float, shape (members, entries), optional
        Logarithms of tables, in place of `model.log_tables`.
    schedule : {'sweep', 'lbp'}
        One factor after the other, forward, then backward (models of parities alone: forward); or all at once.
    task : {'marginals', 'map'}
        'map' computes largest products instead of sums of products.
    stop : {'converged', 'valid'}
        'valid' takes a member as done once its assignment fulfils all parities, whether or not messages still change: a
        code word was found. It is for models whose factors of two variables or more are all parities.
    tolerance : float
        Messages of a member have converged once each is this close to what would replace it, as of `infer`.
    damping : float
        How much of an old message stays, at least 0 and below 1.
    max_iterations : int
        Where to stop a member. In an iteration every message is sent once; a sweep forward and back are two.
    time_limit : float, optional
        Seconds after which to stop all members; each is given one iteration.
    precision : {'float32', 'float64'}
        Of the messages of models of binary variables whose tables have no zero, or are parities. All others are
        float64, and so are these where float32 might overflow.
    contradictions : {'raise', 'report'}
        What to do where a member has no possible assignment: raise ModelError, or say so in `status`.
    threads : int, optional
        Default: the thread count of the process. Answers do not depend on it.

    Returns
    -------
    BatchInference

    Raises
    ------
    ModelError
        If members are not of the shape of the model, or one has no possible assignment: the text names it, and a
        variable.
    ConfigurationError
        If an option has a value that makes no sense.

    Examples
    --------
    >>> from hpcblaz import bp
    >>> model = bp.ising(4, coupling=1.0)
    >>> result = bp.infer_batch(model, evidence=[{0: 0}, {0: 1}, {}])
    >>> result.marginals.shape, result.status.tolist()
    ((3, 32), ['converged', 'converged', 'converged'])
    >>> result.marginals[:2, :2].tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    _check(locals())
    began = time.perf_counter()
    members = gather_members(model, log_unaries, evidence, log_tables)
    prepared = prepare_batch(members, precision)
    if stop == "valid" and not prepared.only_parities:
        raise ConfigurationError("stop: expected 'converged', got 'valid' for a model that has more than parities")
    rule = BatchRule(
        flooding=schedule == "lbp",
        both_ways=not prepared.only_parities and max_iterations > 1,
        until_valid=stop == "valid",
        maximise=task == "map",
        damping=damping,
        tolerance=tolerance,
        most=int(max_iterations),
        deadline=None if time_limit is None else began + time_limit,
    )
    return _result(model.cardinalities, prepared, rule, schedule, began, contradictions, threads)


def decode(
    checks: ParityChecks | ArrayLike,
    ratios: ArrayLike,
    *,
    schedule: str = "sweep",
    task: str = "marginals",
    stop: str = "valid",
    tolerance: float = 1e-4,
    damping: float = 0.0,
    max_iterations: int = 50,
    time_limit: float | None = None,
    precision: str = "float32",
    contradictions: str = "raise",
    threads: int | None = None,
) -> BatchInference:
    """Decode received words of a code, many at once.

    No tables are stored, so checks may have any number of bits.

    Parameters
    ----------
    checks : ParityChecks, or array_like of int, shape (checks, row_weight)
        The code; see `parity_checks`.
    ratios : array_like of float, shape (words, bits)
        Log-likelihood ratios of the bits, as from `channel`; infinite for a bit that is known, 0 for one that was lost.
    schedule : {'sweep', 'lbp'}
        One check after the other ("layered"), or all at once ("flooding"). The first needs about half the iterations.
    task : {'marginals', 'map'}
        Sum-product, or max-product (also called min-sum).
    stop, tolerance, damping, max_iterations, time_limit, precision, contradictions, threads
        As of `infer_batch`.

    Returns
    -------
    BatchInference
        `assignment` are the decoded words, and `status` is 'valid' where one is a code word.

    Raises
    ------
    ModelError
        If the words have another length than those of the code, or a ratio is NaN, or bits that are known break checks.
    ConfigurationError
        If an option has a value that makes no sense.

    References
    ----------
    R. G. Gallager, "Low-Density Parity-Check Codes", 1962. F. R. Kschischang, B. J. Frey, H.-A. Loeliger, "Factor
    Graphs and the Sum-Product Algorithm", 2001.

    Examples
    --------
    >>> import numpy as np
    >>> from hpcblaz import bp
    >>> checks = bp.parity_checks(600, column_weight=3, row_weight=6)
    >>> received = bp.channel(np.zeros((8, 600), int), noise=0.7, seed=1)
    >>> int((received < 0).sum()) > 300
    True
    >>> found = bp.decode(checks, received)
    >>> int(found.assignment.sum()), set(found.status.tolist())
    (0, {'valid'})
    """
    _check(locals())
    began = time.perf_counter()
    words = np.asarray(ratios)
    if words.ndim != 2:
        raise ModelError(f"expected ratios of the shape (words, bits), got {words.shape}")
    if words.dtype.kind not in "fiu":
        raise ModelError(f"expected ratios to be numbers, got {words.dtype}")
    if words.dtype.kind != "f":
        words = words.astype(np.float64)
    if np.isnan(words).any():
        word, bit = np.argwhere(np.isnan(words))[0]
        raise ModelError(f"expected ratios that are numbers, got NaN for bit {bit} of word {word}")
    code = checks if isinstance(checks, ParityChecks) else ParityChecks.from_rows(words.shape[1], checks)
    if words.shape[1] != code.bits:
        raise ModelError(f"expected ratios of {code.bits} bits, got {words.shape[1]}")
    prepared = prepare_checks(code, words, precision)
    rule = BatchRule(
        flooding=schedule == "lbp",
        both_ways=False,
        until_valid=stop == "valid",
        maximise=task == "map",
        damping=damping,
        tolerance=tolerance,
        most=int(max_iterations),
        deadline=None if time_limit is None else began + time_limit,
    )
    return _result(np.full(code.bits, 2), prepared, rule, schedule, began, contradictions, threads)


def _result(
    cardinalities: Integers,
    prepared: Prepared,
    rule: BatchRule,
    schedule: str,
    began: float,
    contradictions: str,
    threads: int | None,
) -> BatchInference:
    trouble = prepared.trouble
    with nullcontext() if threads is None else use_threads(threads):
        outcome = propagate(prepared.plan, rule, np.flatnonzero(trouble == 0).tolist())
    outcome.status[trouble > 0] = CONTRADICTION
    outcome.beliefs[trouble > 0] = 1  # nothing was computed
    outcome.trouble[trouble > 0] = trouble[trouble > 0]
    if contradictions == "raise" and outcome.trouble.any():
        member = int(np.flatnonzero(outcome.trouble)[0])
        raise ModelError(
            f"expected members with a possible assignment, got member {member}, in which every state of variable "
            f"{outcome.trouble[member] - 1} is impossible: look at its evidence and at the zeros of its tables, or use "
            "contradictions='report'"
        )
    task = "map" if rule.maximise else "marginals"
    return BatchInference(task, schedule, time.perf_counter() - began, cardinalities, prepared, outcome)


def _check(options: Mapping[str, Any]) -> None:
    for name, known in _CHOICES.items():
        if options[name] not in known:
            raise ConfigurationError(f"{name}: expected one of {', '.join(known)}, got {options[name]!r}")
    if not 0 < options["tolerance"] < math.inf:
        raise ConfigurationError(f"tolerance: expected a positive number, got {options['tolerance']}")
    if not 0 <= options["damping"] < 1:
        raise ConfigurationError(f"damping: expected a number of at least 0 and below 1, got {options['damping']}")
    limit = options["time_limit"]
    if limit is not None and not limit > 0:
        raise ConfigurationError(f"time_limit: expected a positive number of seconds or None, got {limit}")
    most = options["max_iterations"]
    if isinstance(most, bool) or not isinstance(most, (int, np.integer)) or not 1 <= most < 2**40:
        raise ConfigurationError(f"max_iterations: expected an integer from 1 to {2**40 - 1}, got {most!r}")
