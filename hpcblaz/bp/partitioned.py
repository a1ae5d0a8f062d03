"""Models that are dealt out to ranks: each holds its own variables or factors, and no table of others."""

import pickle
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpcblaz.bp.models import FactorGraph, PairwiseModel
from hpcblaz.bp.partition import PartitionReport, partition
from hpcblaz.bp.partitioned_factors import FactorPart
from hpcblaz.bp.partitioned_pairs import PairwisePart
from hpcblaz.bp.partitioned_plans import Part
from hpcblaz.bp.ragged import Integers, offsets_of, ranges
from hpcblaz.errors import ConfigurationError, ModelError
from hpcblaz.mpi import Communicator, communicator
from hpcblaz.mpi.exchange import exchange_unsized
from hpcblaz.mpi.links import totals

__all__ = ["PartitionedModel", "split"]

_MOST_MESSAGES = 2**32 - 2


@dataclass(frozen=True, eq=False)
class PartitionedModel:
    """A model of which every rank has a part; see `split`, `read_partitioned` and `partitioned_ising`.

    Attributes
    ----------
    comm : Communicator
    part : Part
        What this rank has.
    variables : int
        Of the whole model.
    messages : int
        Of the whole model, on all ranks together.
    """

    comm: Communicator
    part: Part
    variables: int
    messages: int

    @classmethod
    def of(cls, comm: Communicator, part: Part) -> "PartitionedModel":
        """Put the parts of all ranks together; a collective call.

        Raises
        ------
        ModelError
            If there are more messages than 32 bits can number.
        """
        found = totals(comm, [len(part.variables), part.messages], [])
        if found.sums[1] > _MOST_MESSAGES:
            raise ModelError(f"expected at most {_MOST_MESSAGES} messages, got {found.sums[1]}: use a smaller model")
        return cls(comm, part, int(found.sums[0]), int(found.sums[1]))

    def report(self) -> PartitionReport:
        """Return how good the partition is, by messages; a collective call."""
        with self.comm.together():
            halo, senders = self.part.halo()
        rows = self.comm.allgather([float(self.part.messages), float(halo), float(senders)]).astype(np.int64)
        mean = rows[:, 0].mean()
        return PartitionReport(
            parts=self.comm.size,
            cut=int(rows[:, 1].sum()) // 2,
            edges=self.messages // 2,
            balance=float(rows[:, 0].max() / mean) if mean else 1.0,
            halo=tuple(rows[:, 1].tolist()),
            messages=tuple(rows[:, 0].tolist()),
            neighbours=tuple(rows[:, 2].tolist()),
        )


def split(
    model: FactorGraph | PairwiseModel | None,
    comm: Any = None,
    *,
    method: str = "auto",
    owners: Integers | None = None,
    root: int | None = None,
) -> PartitionedModel:
    """Deal out a model that is in memory; a collective call.

    Parameters
    ----------
    model : FactorGraph or PairwiseModel
        The same on every rank, or with `root` on that rank only, and anything on the others. Evidence is clamped in.
    comm : Communicator or mpi4py.MPI.Intracomm, optional
        Default: one rank.
    method : str
        How to deal out; see `partition`.
    owners : numpy.ndarray of int64, optional
        Which rank gets each variable of a pairwise model, or each factor of another one, in place of `method`.
    root : int, optional
        The rank that has the model.

    Returns
    -------
    PartitionedModel

    Raises
    ------
    ModelError, ConfigurationError, MissingDependencyError
        On every rank, if the model cannot be dealt out as asked.

    Examples
    --------
    >>> from hpcblaz.bp import infer_partitioned, ising
    >>> parts = split(ising(10, coupling=1.0))
    >>> parts.variables, parts.messages, infer_partitioned(parts).status
    (100, 360, 'converged')
    """
    ranks = communicator(comm)
    whole: FactorGraph | PairwiseModel | None = None
    first = 0 if root is None else root
    with ranks.together():
        if not 0 <= first < ranks.size:
            raise ConfigurationError(f"root: expected 0 to {ranks.size - 1}, got {first}")
        if root is None or ranks.rank == root:
            if not isinstance(model, (FactorGraph, PairwiseModel)):
                raise ModelError(f"expected a model to deal out, got {type(model).__name__}")
            pairwise = isinstance(model, FactorGraph) and model.arity <= 2 and model.variables
            whole = model.to_pairwise() if pairwise else model
            if ranks.rank == first:
                owners = partition(whole, ranks.size, method) if owners is None else _checked(owners, whole, ranks.size)
    owners = ranks.broadcast(owners, first)
    part: Part | None = None
    packed: dict[int, bytes] = {}
    with ranks.together():
        if whole is not None:
            part = part_of(whole, owners, ranks.rank)
            if root is not None:
                others = (rank for rank in range(ranks.size) if rank != root)
                packed = {rank: pickle.dumps(part_of(whole, owners, rank), 5) for rank in others}
    if root is not None:
        received = exchange_unsized(ranks, packed, [] if ranks.rank == root else [root])
        with ranks.together():
            if ranks.rank != root:
                part = pickle.loads(received[root].data)
    if part is None:
        raise ModelError("expected a part of the model, got none")
    return PartitionedModel.of(ranks, part)


def part_of(model: FactorGraph | PairwiseModel, owners: Integers, rank: int) -> Part:
    """Return the part of a model that a rank gets."""
    if isinstance(model, PairwiseModel):
        return _pairwise_part(model, owners, rank)
    size = int(owners.max(initial=0)) + 1
    return factor_part(
        model, owners, rank, answering(model.factor_offsets, model.scopes, model.variables, owners, size)
    )


def answering(factor_offsets: Integers, scopes: Integers, variables: int, owners: Integers, size: int) -> Integers:
    """Return which rank answers for each variable: that of its first factor; those of none are dealt out in turn."""
    factor_of_edge = np.repeat(np.arange(owners.size), np.diff(factor_offsets))
    answers = np.arange(variables) % size
    answers[scopes[::-1]] = owners[factor_of_edge[::-1]]
    return answers


def _pairwise_part(model: PairwiseModel, owners: Integers, rank: int) -> PairwisePart:
    mine = owners == rank
    edges = np.flatnonzero(mine[model.edges].any(axis=1))
    touched = mine.copy()
    touched[model.edges[edges]] = True
    numbers = np.flatnonzero(touched)
    place = np.cumsum(touched) - 1
    cards = model.cardinalities[numbers]
    unaries = model.log_unaries[ranges(model.unary_offsets[:-1][numbers], cards)]
    unaries[np.repeat(~mine[numbers], cards)] = 0.0
    tables, table_of = np.unique(model.table_of[edges], return_inverse=True)
    sizes = np.diff(model.table_offsets)[tables]
    local = PairwiseModel(
        cards,
        offsets_of(cards),
        unaries,
        place[model.edges[edges]],
        table_of.astype(np.int64),
        offsets_of(sizes),
        model.log_tables[ranges(model.table_offsets[:-1][tables], sizes)],
    )
    return PairwisePart(local, numbers, owners[numbers], edges, rank)


def factor_part(model: FactorGraph, owners: Integers, rank: int, answers: Integers) -> FactorPart:
    """Return the factors of a rank, with what others tell their variables.

    Parameters
    ----------
    model : FactorGraph
        Tables of other ranks' factors are not looked at.
    owners : numpy.ndarray of int64
        The rank of each factor.
    rank : int
    answers : numpy.ndarray of int64
        The rank that answers for each variable.
    """
    sizes = np.diff(model.table_offsets)
    own = np.flatnonzero(owners == rank)
    entries = ranges(model.table_offsets[:-1][own], sizes[own])
    return join_factors(
        model.cardinalities, model.factor_offsets, model.scopes, owners, rank, answers, model.log_tables[entries]
    )


def join_factors(
    cardinalities: Integers,
    factor_offsets: Integers,
    scopes: Integers,
    owners: Integers,
    rank: int,
    answers: Integers,
    log_tables: Any,
) -> FactorPart:
    """Return the part of a rank from the shape of a factor graph and the tables of its own factors, in their order."""
    arity = np.diff(factor_offsets)
    factor_of_edge = np.repeat(np.arange(owners.size), arity)
    mine = owners[factor_of_edge] == rank
    touched = answers == rank
    touched[scopes[mine]] = True
    told = np.zeros(touched.size, np.bool_)
    told[scopes[mine]] = True
    numbers = np.flatnonzero(touched)
    place = np.cumsum(touched) - 1
    own = np.flatnonzero(owners == rank)
    ghosts = np.flatnonzero(~mine & told[scopes])
    first = np.concatenate([factor_offsets[:-1][own], ghosts])
    lengths = np.concatenate([arity[own], np.ones(ghosts.size, np.int64)])
    own_sizes = np.ones(own.size, np.int64)
    filled = arity[own] > 0
    own_scopes = scopes[ranges(factor_offsets[:-1][own], arity[own])]
    starts = offsets_of(arity[own])[:-1][filled]
    if filled.any():
        own_sizes[filled] = np.multiply.reduceat(cardinalities[own_scopes], starts)
    sizes = np.concatenate([own_sizes, cardinalities[scopes[ghosts]]])
    order = np.argsort(first, kind="stable")
    messages = ranges(first[order], lengths[order])
    tables = np.concatenate([log_tables, np.zeros(int(sizes[own.size :].sum()))])
    local = FactorGraph(
        cardinalities[numbers],
        offsets_of(lengths[order]),
        place[scopes[messages]],
        offsets_of(sizes[order]),
        tables[ranges(offsets_of(sizes)[:-1][order], sizes[order])],
    )
    owner = np.concatenate([np.full(own.size, rank), owners[factor_of_edge[ghosts]]])[order]
    return FactorPart(local, numbers, answers[numbers] == rank, owner, messages, rank)


def _checked(owners: Any, model: FactorGraph | PairwiseModel, size: int) -> Integers:
    count = model.variables if isinstance(model, PairwiseModel) else model.factors
    found = np.asarray(owners)
    fits = (
        found.shape == (count,) and found.dtype.kind in "iu" and (not count or 0 <= found.min() <= found.max() < size)
    )
    if not fits:
        raise ConfigurationError(f"owners: expected {count} ranks from 0 to {size - 1}, got {found!r}")
    return found.astype(np.int64)
