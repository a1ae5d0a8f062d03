"""Grids that are made where they are needed: each rank makes its own block, and nobody ever has the whole.

The random numbers are those of `ising` on one rank: a generator is moved to the place of a number in the sequence, so
that no number depends on how many ranks there are.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpcblaz.backend.messages import Graph, Plan
from hpcblaz.bp.builders import sides_of
from hpcblaz.bp.checks import generator
from hpcblaz.bp.partition import grid_splits
from hpcblaz.bp.partitioned import PartitionedModel
from hpcblaz.bp.partitioned_plans import EdgeChunk, LocalPlan, RankAgreement, digest
from hpcblaz.bp.plans import _LARGEST_LOG, _NEGLIGIBLE_LOG
from hpcblaz.bp.ragged import Floats, Integers, offsets_of
from hpcblaz.errors import LayoutError, ModelError
from hpcblaz.mpi import Communicator, communicator

__all__ = ["GridPart", "partitioned_ising"]

_SIGNS = 2.0 * np.eye(2) - 1
_CHUNK = 1 << 16  # edges that are looked at together


class _Block(NamedTuple):
    """Rows and columns of a rank, and where it stands among the others."""

    top: int
    bottom: int
    left: int
    right: int


def partitioned_ising(
    size: int | Sequence[int], coupling: float, seed: int = 0, comm: Any = None, splits: tuple[int, int] | None = None
) -> PartitionedModel:
    """Return the model of `ising`, made block by block on the ranks; a collective call.

    Parameters
    ----------
    size : int or (int, int)
    coupling : float
    seed : int
    comm : Communicator or mpi4py.MPI.Intracomm, optional
        Default: one rank.
    splits : (int, int), optional
        Into how many bands the rows and the columns are cut; the product is the number of ranks. Default: so that
        few edges are cut.

    Returns
    -------
    PartitionedModel
        The same model for any number of ranks.

    Raises
    ------
    ModelError
        If the size is no positive number, or the coupling no number.
    LayoutError
        If there are not as many blocks as ranks, or some would be empty.

    Examples
    --------
    >>> import numpy as np
    >>> from hpcblaz.bp import infer, infer_partitioned, ising
    >>> one, other = infer(ising(30, 1.5), "lbp"), infer_partitioned(partitioned_ising(30, 1.5), "lbp")
    >>> one.iterations == other.iterations, bool(abs(one.marginals - other.marginals).max() < 1e-12)
    (True, True)
    """
    ranks = communicator(comm)
    with ranks.together():
        rows, columns = sides_of(size)
        generator(seed)
        if not math.isfinite(coupling):
            raise ModelError(f"expected a finite coupling, got {coupling}")
        bands = grid_splits(rows, columns, ranks.size) if splits is None else tuple(splits)
        fits = len(bands) == 2 and 1 <= bands[0] <= rows and 1 <= bands[1] <= columns
        if not fits or bands[0] * bands[1] != ranks.size:
            raise LayoutError(
                f"splits: expected two numbers whose product is {ranks.size}, and a row and a column for each block of "
                f"a grid of {rows} x {columns}, got {bands}: use fewer ranks"
            )
        part = GridPart(rows, columns, float(coupling), int(seed), (int(bands[0]), int(bands[1])), ranks.rank)
    return PartitionedModel.of(ranks, part)


@dataclass(frozen=True, eq=False)
class GridPart:
    """A block of an Ising grid; its weights and tables are made anew whenever they are looked at.

    Parameters
    ----------
    rows, columns : int
        Of the whole grid.
    coupling : float
    seed : int
    splits : (int, int)
    rank : int
    """

    rows: int
    columns: int
    coupling: float
    seed: int
    splits: tuple[int, int]
    rank: int

    def block_of(self, rank: int) -> _Block:
        """Return the block of a rank."""
        i, j = divmod(rank, self.splits[1])
        top, bottom = (self.rows * k // self.splits[0] for k in (i, i + 1))
        left, right = (self.columns * k // self.splits[1] for k in (j, j + 1))
        return _Block(top, bottom, left, right)

    @cached_property
    def block(self) -> _Block:
        """The block of this rank."""
        return self.block_of(self.rank)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of this rank."""
        top, bottom, left, right = self.block
        return bottom - top, right - left

    @property
    def variables(self) -> Integers:
        """The global numbers of the variables of this rank, ascending."""
        top, bottom, left, right = self.block
        return (np.arange(top, bottom)[:, None] * self.columns + np.arange(left, right)).ravel()

    @property
    def cardinalities(self) -> Integers:
        """How many states each of them has."""
        return np.full(math.prod(self.shape), 2)

    @property
    def sides(self) -> tuple[bool, bool, bool, bool]:
        """Whether the block has others to the left and right of it, above and below."""
        top, bottom, left, right = self.block
        return left > 0, right < self.columns, top > 0, bottom < self.rows

    @property
    def messages(self) -> int:
        """How many messages this rank sends."""
        (height, width), (left, right, up, down) = self.shape, self.sides
        along = height * (2 * (width - 1) + left + right)
        return along + width * (2 * (height - 1) + up + down)

    def halo(self) -> tuple[int, int]:
        """Return how many messages this rank hears from others, and from how many of them."""
        (height, width), (left, right, up, down) = self.shape, self.sides
        return height * (left + right) + width * (up + down), left + right + up + down

    def impossible(self) -> int | None:
        """Return nothing: no variable has two weights of zero."""
        return None

    def fingerprint(self) -> int:
        """Return, on the first rank, a number for all that the model depends on."""
        if self.rank:
            return 0
        facts = np.array([self.rows, self.columns, self.coupling, self.seed], np.float64)
        return digest(np.array([-1]), facts, np.array([4]))

    def log_weights(self, begin: int = 0, end: int | None = None) -> Floats:
        """Return the logarithms of weights: float64, shape (rows, columns, 2).

        Parameters
        ----------
        begin, end : int
            Some rows of the block. Default: all.
        """
        top, _, left, right = self.block
        weights = np.empty(((self.shape[0] if end is None else end) - begin, self.shape[1], 2))
        for row in range(top + begin, top + begin + len(weights)):
            weights[row - top - begin, :, 0] = self._numbers(row * self.columns + left, right - left)
        np.subtract(1, weights[..., 0], out=weights[..., 1])
        with np.errstate(divide="ignore"):
            return np.log(weights, out=weights)

    def strengths(self, begin: int = 0, end: int | None = None) -> tuple[Floats, Floats]:
        """Return the couplings of edges along rows, and across them, with zeros where the grid ends.

        Column j of the first are the edges on the left of column j of the block, row i of the second those above row i,
        and in the last row those below.

        Parameters
        ----------
        begin, end : int
            Some rows of the block. Default: all.
        """
        top, _, left, right = self.block
        height, width = (self.shape[0] if end is None else end) - begin, self.shape[1]
        top += begin
        along, across = np.zeros((height, width + 1)), np.zeros((height + 1, width))
        first, last = max(0, left - 1), min(self.columns - 1, right)
        vertices, edges = self.rows * self.columns, self.rows * (self.columns - 1)
        for i in range(height):
            at = vertices + (top + i) * (self.columns - 1) + first
            along[i, first - left + 1 : last - left + 1] = self._couplings(at, last - first)
        for i in range(height + 1):
            if 0 < top + i < self.rows:
                across[i] = self._couplings(vertices + edges + (top + i - 1) * self.columns + left, width)
        return along, across

    def prepare(self, precision: str, comm: Communicator) -> "GridPlan":
        """Return the plan of this part; a collective call."""
        with comm.together():
            logs = self.log_weights()
            unaries = logs[..., 1] - logs[..., 0]
            del logs
            along, across = self.strengths()
            told = 2 * (abs(along[:, :-1]) + abs(along[:, 1:]) + abs(across[:-1]) + abs(across[1:]))
            widest = 2 * max(float(abs(part).max(initial=0.0)) for part in (along, across))
        agreement = RankAgreement(comm)
        widest = agreement.largest(widest)
        for kind in ("float32", "float64") if precision == "float32" else ("float64",):
            certain = told + 2 * widest + _NEGLIGIBLE_LOG[kind]
            np.clip(unaries, -certain, certain, out=certain)
            farthest = max(float((abs(certain) + told).max(initial=0.0)) + widest, 2 * widest)
            if agreement.every(farthest <= _LARGEST_LOG[kind]):
                del unaries, told
                with comm.together():
                    return self._plan(np.exp(certain, out=certain), along, across, kind)
        raise ModelError(
            f"expected couplings whose products are within the range of float64, got {self.coupling}: deal out "
            "ising(...) by split(), which has a way for them"
        )

    @cached_property
    def positions(self) -> NDArray[np.uint32]:
        """Which unit each variable of the block is: diagonal after diagonal, since those of one are no neighbours."""
        height, width = self.shape
        diagonals = np.arange(height)[:, None] + np.arange(width)
        above = np.maximum(0, np.arange(height + width - 1) - (width - 1))
        starts = (self.levels[:-1] - above).astype(np.uint32)
        return np.asarray(starts[diagonals] + np.arange(height, dtype=np.uint32)[:, None], np.uint32)

    @property
    def levels(self) -> Integers:
        """Where the diagonals begin, and where the last one ends."""
        height, width = self.shape
        steps = np.arange(height + width - 1)
        lengths = np.minimum(np.minimum(steps, steps[::-1]) + 1, min(height, width))
        return offsets_of(lengths)

    def there(self) -> list[NDArray[np.bool_]]:
        """Return which columns have neighbours to the left and to the right, and which rows have some up and down."""
        (height, width), (left, right, up, down) = self.shape, self.sides
        columns, rows = np.arange(width), np.arange(height)[:, None]
        return [columns >= 1 - left, columns < width - 1 + right, rows >= 1 - up, rows < height - 1 + down]

    def slots(self) -> tuple[Integers, list[NDArray[np.uint32]], list[NDArray[np.bool_]]]:
        """Return where messages of units begin, those to the left, right, up and down, and if they are there."""
        height, width = self.shape
        there = self.there()
        degrees = np.zeros((height, width), np.uint8)
        for mask in there:
            degrees += mask
        by_unit = np.empty(height * width, np.uint8)
        by_unit[self.positions] = degrees
        offsets = offsets_of(by_unit)
        found = [offsets[self.positions].astype(np.uint32)]
        for mask in there[:-1]:
            found.append(found[-1] + mask)
        return offsets, found, there

    def _plan(self, odds: Floats, along: Floats, across: Floats, kind: str) -> "GridPlan":
        (height, width), (top, _, left, _) = self.shape, self.block
        own, count, sides = self.positions, self.messages, self.sides
        offsets, slots, there = self.slots()
        unaries = np.empty(height * width, kind)
        unaries[own] = odds
        lengths = [n * side for n, side in zip((height, height, width, width), sides, strict=True)]
        starts = count + offsets_of(np.array(lengths))
        reverse, targets = np.empty(int(starts[-1]), np.uint32), np.empty(count, np.uint32)
        numbers, weights = np.empty(int(starts[-1]), np.uint32), np.empty((1, count), kind)
        rows, columns = np.arange(top, top + height)[:, None], np.arange(left, left + width)
        edges = self.rows * (self.columns - 1)
        first = rows * (self.columns - 1) + columns, edges + rows * self.columns + columns
        strengths = along[:, :-1], along[:, 1:], across[:-1], across[1:]
        # This block without the side of a way, and without the other one: neighbours in that way, and where they are
        parts: list[Any] = [np.s_[:, 1:], np.s_[:, :-1], np.s_[1:], np.s_[:-1]]
        ends: list[Any] = [np.s_[:, 0], np.s_[:, -1], np.s_[0], np.s_[-1]]
        by_way, outgoing, incoming, hearers = self._neighbours(), {}, {}, []
        for way in range(4):
            back = way ^ 1
            some = np.broadcast_to(there[way], (height, width))
            here = slots[way][some]
            shift = (1 if way < 2 else self.columns) if back > way else 0
            numbers[here] = (2 * (first[way // 2] - shift) + (back > way))[some]
            weights[0, here] = np.exp(-2 * strengths[way][some])
            targets[slots[way][parts[way]]] = own[parts[back]]
            reverse[slots[way][parts[way]]] = slots[back][parts[back]]
            if sides[way]:
                abroad, tail = slots[way][ends[way]].astype(np.int64), np.arange(starts[way], starts[way + 1])
                targets[abroad], reverse[abroad], reverse[tail] = own[ends[way]], tail, abroad
                numbers[tail] = numbers[abroad] ^ 1
                outgoing[by_way[way]], incoming[by_way[way]] = abroad, slice(int(tail[0]), int(tail[-1]) + 1)
                hearers.append(own[ends[way]].astype(np.int64))
        identity = np.arange(height * width + 1)
        graph = Graph(offsets, targets, identity, identity[:-1])
        model = (offsets, reverse, unaries, weights)
        plan = Plan("binary", kind, model, graph, self.levels, numbers[:count], 1024)
        return GridPlan(
            plan=plan,
            numbers=numbers,
            outgoing=outgoing,
            incoming=incoming,
            hearers=(np.arange(len(numbers) - count + 1), np.concatenate([*hearers, np.zeros(0, np.int64)])),
            unit_variables=np.zeros(0, np.int64),
            owned=own.ravel().astype(np.int64),
            log_scale=0.0,
            part=self,
        )

    def _neighbours(self) -> tuple[int, int, int, int]:
        """Return the ranks to the left and right, above and below; those that are not there are of no meaning."""
        return self.rank - 1, self.rank + 1, self.rank - self.splits[1], self.rank + self.splits[1]

    def _numbers(self, at: int, count: int) -> Floats:
        """Return so many uniform random numbers, from a place in the sequence on."""
        rng = generator(self.seed)
        rng.bit_generator.advance(at)  # type: ignore[attr-defined]
        return rng.random(count)

    def _couplings(self, at: int, count: int) -> Floats:
        rng = generator(self.seed)
        rng.bit_generator.advance(at)  # type: ignore[attr-defined]
        found: Floats = rng.uniform(-0.5, 0.5, count) * self.coupling
        return found


@dataclass(frozen=True, eq=False)
class GridPlan(LocalPlan):
    """The plan of a block of a grid.

    Parameters
    ----------
    part : GridPart
    """

    part: GridPart

    def log_unaries(self) -> Floats:
        """Return the logarithms of the weights of all units of this rank, one unit after the other."""
        found, (height, width) = np.empty((self.plan.units, 2)), self.part.shape
        for begin in range(0, height, max(1, _CHUNK // width)):
            end = min(height, begin + max(1, _CHUNK // width))
            found[self.part.positions[begin:end]] = self.part.log_weights(begin, end)
        return found.ravel()

    def states(self) -> Integers:
        """Return how many states each unit of this rank has."""
        return self.part.cardinalities

    def states_of_senders(self) -> Integers:
        """Return how many states the sender of each message has, the tail too."""
        return np.full(len(self.numbers), 2)

    def edge_chunks(self) -> Iterator[EdgeChunk]:
        """Yield the edges that this rank counts: those to the right and down."""
        part = self.part
        height, width = part.shape
        left, right, up, down = part.there()
        for begin in range(0, height, max(1, _CHUNK // width)):
            end = min(height, begin + max(1, _CHUNK // width))
            along, across = part.strengths(begin, end)
            starts = self.plan.graph.offsets[part.positions[begin:end]] + left
            here = np.broadcast_to(right, starts.shape)
            yield EdgeChunk(starts[here], along[:, 1:][here][:, None, None] * _SIGNS)
            starts += right + up[begin:end].astype(np.int64)
            here = np.broadcast_to(down[begin:end], starts.shape)
            yield EdgeChunk(starts[here], across[1:][here][:, None, None] * _SIGNS)
