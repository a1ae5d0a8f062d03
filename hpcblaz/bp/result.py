"""What an inference found, and how it went."""

import os
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcblaz.bp import answers
from hpcblaz.bp.plans import Prepared
from hpcblaz.bp.plotting import plot
from hpcblaz.bp.ragged import Floats, Integers, offsets_of
from hpcblaz.bp.watch import Watch
from hpcblaz.errors import ConfigurationError, ModelError

__all__ = ["History", "Inference", "Outcome"]


@dataclass(frozen=True, eq=False)
class History:
    """How an inference went, from look to look at its residuals.

    Parameters
    ----------
    seconds : numpy.ndarray of float64, shape (looks,)
        Time since the start, with the preparation of the model.
    updates : numpy.ndarray of int64, shape (looks,)
        Messages sent so far.
    unconverged : numpy.ndarray of int64, shape (looks,)
        Messages whose residual was above the tolerance. Residuals are taken as messages are computed, and the last look
        is at all of them anew.
    residual : numpy.ndarray of float64, shape (looks,)
        The largest residual.
    """

    seconds: Floats
    updates: Integers
    unconverged: Integers
    residual: Floats

    @classmethod
    def of(cls, watch: Watch) -> "History":
        """Return the record of a watch."""
        return cls(
            np.array(watch.seconds, np.float64),
            np.array(watch.counts, np.int64),
            np.array(watch.left, np.int64),
            np.array(watch.largest, np.float64),
        )


class Outcome(ABC):
    """What is said of every inference, on one rank or on many: how it went."""

    task: str
    schedule: str
    status: str
    preparation_seconds: float
    history: History

    @property
    @abstractmethod
    def message_count(self) -> int:
        """How many messages the model has, on all ranks."""

    @property
    @abstractmethod
    def precision(self) -> str:
        """Type of the messages: 'float32' or 'float64'."""

    @property
    def converged(self) -> bool:
        """Whether every message is within the tolerance of what would replace it."""
        return self.status == "converged"

    @property
    def updates(self) -> int:
        """How many messages were sent, by all ranks."""
        return int(self.history.updates[-1]) if len(self.history.updates) else 0

    @property
    def iterations(self) -> float:
        """How many messages were sent, divided by how many there are."""
        return self.updates / self.message_count if self.message_count else 0.0

    @property
    def residual(self) -> float:
        """The largest residual of all messages at the end."""
        return float(self.history.residual[-1]) if len(self.history.residual) else 0.0

    @property
    def seconds(self) -> float:
        """Time in all, on this rank, but for answers."""
        return float(self.history.seconds[-1]) if len(self.history.seconds) else self.preparation_seconds

    def share_converged(self) -> Floats:
        """Return the share of messages within the tolerance at each look: float64, shape (looks,)."""
        return 1 - self.history.unconverged / max(1, self.message_count)

    def need_sums(self, what: str) -> None:
        """Raise ConfigurationError after task 'map', whose messages are largest products."""
        if self.task == "map":
            raise ConfigurationError(f"{what}: expected task 'marginals' or 'logz', got a result of task 'map'")


@dataclass(frozen=True, eq=False)
class Inference(Outcome):
    """The answers of belief propagation. Those that were not asked for are computed when they are looked at.

    Attributes
    ----------
    task : {'marginals', 'map', 'logz'}
    schedule : str
    status : {'converged', 'iterations', 'time'}
        'converged' if every message is within the tolerance of what would replace it, else the limit that was reached.
    tolerance : float
    preparation_seconds : float
        Time to put the model in order, before the first message was computed.
    history : History
        How it went.
    """

    prepared: Prepared
    messages: NDArray[Any]
    task: str
    schedule: str
    status: str
    tolerance: float
    preparation_seconds: float
    history: History

    def __post_init__(self) -> None:
        _ = self.beliefs  # which may show a contradiction

    @property
    def message_count(self) -> int:
        """How many messages the model has."""
        return len(self.prepared.plan.numbers)

    @property
    def precision(self) -> str:
        """Type of the messages: 'float32' or 'float64'."""
        return self.prepared.plan.precision

    @cached_property
    def beliefs(self) -> Floats:
        """Beliefs of all variables, flat: marginals, or after task 'map' max-marginals, each with sum 1."""
        return answers.beliefs(self.prepared, self.messages)

    @property
    def marginals(self) -> Floats:
        """Marginals of all variables, one after the other: float64, shape (states of all variables,).

        Raises
        ------
        ConfigurationError
            After task 'map'.
        """
        self.need_sums("marginals")
        return self.beliefs

    def marginal(self, variable: int) -> Floats:
        """Return the marginals of a variable: float64, shape (its states,).

        Raises
        ------
        ModelError
            If there is no such variable.
        ConfigurationError
            After task 'map'.
        """
        count = len(self.offsets) - 1
        if not 0 <= variable < count:
            raise ModelError(f"expected a variable from 0 to {count - 1}, got {variable}")
        return self.marginals[self.offsets[variable] : self.offsets[variable + 1]]

    @cached_property
    def assignment(self) -> Integers:
        """The most probable state of each variable by its belief, the first of equals: int64, shape (variables,).

        After task 'map' it is the most probable assignment, on trees without equals. After the others each state is the
        most probable one of its variable, and together they need not be.
        """
        return answers.assignment(self.prepared, self.messages)

    @cached_property
    def score(self) -> float:
        """The logarithm of the product of the entries that `assignment` chooses; -inf if it is impossible."""
        return float(self.prepared.model.score(self.assignment))

    @cached_property
    def log_partition(self) -> float:
        """Natural logarithm of the Bethe approximation of the partition function, exact on trees.

        Raises
        ------
        ConfigurationError
            After task 'map'.
        """
        self.need_sums("log Z")
        return answers.bethe_log_partition(self.prepared, self.messages)

    @cached_property
    def vectors(self) -> Floats:
        """All messages as vectors of sum 1, one after the other in the order of the model.

        Of a pairwise model, those of edge e are the message to its second variable and the one to its first; of a
        factor graph, they are the messages from its factors to the entries of `scopes`.
        """
        return self.prepared.from_plan(self.messages)

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Draw the largest residual and the share of converged messages over time; see `hpcblaz.bp.plot`."""
        plot(path, {self.schedule: self})

    @property
    def offsets(self) -> Integers:
        """Where the beliefs of each variable begin: int64, shape (variables + 1,)."""
        return offsets_of(self.prepared.model.cardinalities)
