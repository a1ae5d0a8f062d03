"""What an inference on many ranks found: each rank has the answers for its own variables."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcblaz.bp.distributed_answers import assignment_of, beliefs_of, bethe_of, score_of
from hpcblaz.bp.partitioned import PartitionedModel
from hpcblaz.bp.partitioned_plans import LocalPlan
from hpcblaz.bp.ragged import Floats, Integers, offsets_of, ranges
from hpcblaz.bp.result import History, Outcome
from hpcblaz.mpi.collect import collect

__all__ = ["PartitionedInference"]


@dataclass(frozen=True, eq=False)
class PartitionedInference(Outcome):
    """The answers of belief propagation on many ranks.

    What is said of all ranks is the same on each. Methods, and `log_partition` and `score`, are collective calls.

    Attributes
    ----------
    model : PartitionedModel
    task : {'marginals', 'map', 'logz'}
    schedule : str
    status : {'converged', 'iterations', 'time'}
        As of `Inference`, of the messages of all ranks.
    tolerance : float
    preparation_seconds : float
        Time to put this rank's part in order.
    history : History
        How it went, on all ranks together.
    """

    model: PartitionedModel
    local: LocalPlan
    messages: NDArray[Any]
    task: str
    schedule: str
    status: str
    tolerance: float
    preparation_seconds: float
    history: History

    @property
    def message_count(self) -> int:
        """How many messages the model has, on all ranks."""
        return self.model.messages

    @property
    def precision(self) -> str:
        """Type of the messages: 'float32' or 'float64'."""
        return self.local.plan.precision

    @property
    def variables(self) -> Integers:
        """The numbers of the variables that this rank has answers for, ascending: int64, shape (own variables,)."""
        return self.model.part.variables

    @property
    def offsets(self) -> Integers:
        """Where the beliefs of each of them begin: int64, shape (own variables + 1,)."""
        return offsets_of(self.model.part.cardinalities)

    @cached_property
    def beliefs(self) -> Floats:
        """Beliefs of this rank's variables, flat: marginals, or after task 'map' max-marginals, each with sum 1."""
        return beliefs_of(self.local, self.messages)

    @property
    def marginals(self) -> Floats:
        """Marginals of this rank's variables, one after the other.

        Raises
        ------
        ConfigurationError
            After task 'map'.
        """
        self.need_sums("marginals")
        return self.beliefs

    @property
    def assignment(self) -> Integers:
        """The most probable state of each of this rank's variables by its belief, the first of equals."""
        return assignment_of(self.model.part.cardinalities, self.beliefs)

    @cached_property
    def score(self) -> float:
        """The logarithm of the product of the entries that the assignments of all ranks choose; a collective call."""
        return score_of(self.local, self.messages, self.model.comm)

    @cached_property
    def log_partition(self) -> float:
        """Natural logarithm of the Bethe approximation of the partition function; a collective call.

        Raises
        ------
        ConfigurationError
            After task 'map'.
        """
        self.need_sums("log Z")
        return bethe_of(self.local, self.messages, self.model.comm)

    def gather(self, root: int = 0) -> tuple[Integers, Floats] | None:
        """Return where the beliefs of each variable of the whole model begin, and the beliefs; a collective call.

        Parameters
        ----------
        root : int
            The rank that gets them; others get None.
        """
        cards = self.model.part.cardinalities
        parts: dict[tuple[int, int], bytearray] = {}

        def take(rank: int, number: int, position: int, piece: NDArray[np.uint8]) -> None:
            parts.setdefault((rank, number), bytearray()).extend(piece.data)

        collect(self.model.comm, [self.variables, cards, self.beliefs], take, root)
        if self.model.comm.rank != root:
            return None
        variables, sizes, beliefs = (
            np.concatenate(
                [np.frombuffer(parts.get((rank, number), b""), dtype) for rank in range(self.model.comm.size)]
            )
            for number, dtype in enumerate((np.int64, np.int64, np.float64))
        )
        place = np.argsort(variables)
        starts = offsets_of(sizes)
        return offsets_of(sizes[place]), beliefs[ranges(starts[:-1][place], sizes[place])]
