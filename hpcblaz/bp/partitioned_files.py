"""Models in files, read by every rank: all read what the factors are, and each keeps the tables of its own only."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from hpcblaz.bp.checks import evidence_arrays, table_sizes
from hpcblaz.bp.models import FactorGraph
from hpcblaz.bp.partition import partition_factors, partition_variables
from hpcblaz.bp.partitioned import PartitionedModel, answering, join_factors, split
from hpcblaz.bp.partitioned_factors import FactorPart
from hpcblaz.bp.partitioned_pairs import PairwisePart
from hpcblaz.bp.partitioned_plans import Part
from hpcblaz.bp.ragged import Floats, Integers, offsets_of, ranges
from hpcblaz.bp.readers import read_model
from hpcblaz.bp.tokens import Numbers, numbers_of, open_text, pieces
from hpcblaz.bp.uai import read_scopes
from hpcblaz.errors import FileFormatError, ModelError
from hpcblaz.mpi import communicator

__all__ = ["read_partitioned"]

_HEAD = 2  # numbers of variables and of factors


def read_partitioned(
    path: str | os.PathLike[str], comm: Any = None, *, evidence: dict[int, int] | None = None, method: str = "auto"
) -> PartitionedModel:
    """Read a model and deal it out; a collective call.

    Of a UAI file each rank reads all, piece by piece, and keeps the scopes of all factors until the model has been
    dealt out, and the tables of its own factors. Other formats are read by rank 0.

    Parameters
    ----------
    path : str or os.PathLike
        As for `read_model`; every rank sees it.
    comm : Communicator or mpi4py.MPI.Intracomm, optional
        Default: one rank.
    evidence : dict of int to int, optional
        The same on every rank.
    method : str
        How to deal out; see `partition`.

    Returns
    -------
    PartitionedModel

    Raises
    ------
    FileFormatError, StorageError
        On every rank, if the file is malformed or cannot be read.
    ModelError, ConfigurationError, MissingDependencyError
        If evidence is of no variable, or the model cannot be dealt out as asked.

    Examples
    --------
    >>> import tempfile
    >>> from hpcblaz.bp import chain, infer_partitioned, write_model
    >>> path = os.path.join(tempfile.mkdtemp(), "chain.uai")
    >>> write_model(path, chain(5, coupling=1.0))
    >>> model = read_partitioned(path, evidence={0: 1})
    >>> infer_partitioned(model).marginals[:2].tolist()
    [0.0, 1.0]
    """
    ranks = communicator(comm)
    path, seen = Path(path), dict(evidence or {})
    with ranks.together():
        with open_text(path) as file:
            word = file.read(4096).split(None, 1)[:1]
        streams = bool(word) and word[0].upper() in (b"MARKOV", b"BAYES")
        model = None
        if not streams and ranks.rank == 0:
            model = read_model(path).clamp(seen)
    if not streams:
        return split(model, ranks, method=method, root=0)
    owners: Integers | None = None
    with ranks.together():
        uai = _Uai(path)
        evidence_arrays(seen, uai.cardinalities)
        if ranks.rank == 0:
            owners = uai.partition(ranks.size, method)
    owners = ranks.broadcast(owners)
    with ranks.together():
        part = uai.part(owners, ranks.rank, ranks.size, seen)
    return PartitionedModel.of(ranks, part)


class _Prefix(Numbers):
    """The first numbers of a file."""

    def __init__(self, path: Path, word: str, values: Floats) -> None:
        self.path, self.words, self.values, self._comments = path, [word], values, False


class _Uai:
    """What the factors of a file are; their tables are read when it is known which are wanted."""

    def __init__(self, path: Path) -> None:
        self.path = path
        stream = self._numbers()
        word = str(next(stream))
        head = _Prefix(path, word, _until_tables(stream))
        count = head.integer(0, "a number of variables")
        self.cardinalities = head.integers(1, count, "numbers of states", 1)
        factors = head.integer(1 + count, "a number of factors")
        self.factor_offsets, self.scopes, self.start = read_scopes(head, _HEAD + count, factors, count)
        try:
            self.sizes = table_sizes(self.scopes, self.factor_offsets, self.cardinalities)
        except ModelError as error:
            raise FileFormatError(f"{path}: {error}") from error
        self._word = word

    @property
    def pairwise(self) -> bool:
        """Whether no factor has more than two variables."""
        return bool(np.diff(self.factor_offsets).max(initial=0) <= 2 and self.cardinalities.size)

    def partition(self, parts: int, method: str) -> Integers:
        """Return which part gets each variable, or each factor if some have more than two."""
        if self.pairwise:
            return partition_variables(self._edges()[0], self.cardinalities, parts, method)
        return partition_factors(self.factor_offsets, self.scopes, self.cardinalities, parts, method)

    def part(self, owners: Integers, rank: int, size: int, evidence: dict[int, int]) -> Part:
        """Return the part of a rank."""
        if self.pairwise:
            return self._pairwise_part(owners, rank, evidence)
        arity = np.diff(self.factor_offsets)
        alone = np.bincount(self.scopes, minlength=self.cardinalities.size) == 0
        lonely = [v for v in evidence if alone[v]]  # what is observed of them is a factor more
        offsets = offsets_of(np.concatenate([arity, np.ones(len(lonely), np.int64)]))
        scopes = np.concatenate([self.scopes, np.array(lonely, np.int64)])
        owners = np.concatenate([owners, np.array(lonely, np.int64) % size])
        tables = self._tables(np.flatnonzero(owners[: arity.size] == rank))
        more = [
            np.where(np.arange(self.cardinalities[v]) == evidence[v], 0.0, -np.inf) for v in lonely if v % size == rank
        ]
        answers = answering(offsets, scopes, self.cardinalities.size, owners, size)
        part = join_factors(self.cardinalities, offsets, scopes, owners, rank, answers, np.concatenate([tables, *more]))
        model = _clamped(part.model, part.numbers, evidence)
        return FactorPart(model, part.numbers, part.answers, part.owners, part.messages_of, rank)

    def _pairwise_part(self, owners: Integers, rank: int, evidence: dict[int, int]) -> PairwisePart:
        """Factors of this rank's variables become the tables and weights of a pairwise model, as on one rank."""
        arity = np.diff(self.factor_offsets)
        mine = owners == rank
        of_factor = np.repeat(np.arange(arity.size), arity)
        wanted = np.zeros(arity.size, np.bool_)
        wanted[of_factor[mine[self.scopes]]] = True
        wanted[arity == 0] = mine[0]  # constants go to the first variable
        factors = np.flatnonzero(wanted)
        scopes = self.scopes[ranges(self.factor_offsets[:-1][factors], arity[factors])]
        touched = mine.copy()
        touched[scopes] = True
        numbers, place = np.flatnonzero(touched), np.cumsum(touched) - 1
        local = FactorGraph(
            self.cardinalities[numbers],
            offsets_of(arity[factors]),
            place[scopes],
            offsets_of(self.sizes[factors]),
            self._tables(factors),
        )
        model = _clamped(local, numbers, evidence).to_pairwise()
        _, keys, edge = self._edges()
        pairs = numbers[model.edges]
        own = pairs.min(axis=1) * self.cardinalities.size + pairs.max(axis=1)
        unaries = np.where(np.repeat(mine[numbers], model.cardinalities), model.log_unaries, 0.0)
        fields = (model.cardinalities, model.unary_offsets, unaries, model.edges, model.table_of, model.table_offsets)
        edges = edge[np.searchsorted(keys, own)]
        return PairwisePart(type(model)(*fields, model.log_tables), numbers, owners[numbers], edges, rank)

    def _edges(self) -> tuple[Integers, Integers, Integers]:
        """Return the edges of the pairwise model, their keys ascending, and the number of the edge of each key."""
        twos = np.flatnonzero(np.diff(self.factor_offsets) == 2)
        pairs = self.scopes[self.factor_offsets[twos][:, None] + np.arange(2)]
        keys, first = np.unique(pairs.min(axis=1) * self.cardinalities.size + pairs.max(axis=1), return_index=True)
        order = np.argsort(first)
        edge = np.empty(order.size, np.int64)
        edge[order] = np.arange(order.size)
        return pairs[first[order]], keys, edge

    def _numbers(self) -> Iterator[Any]:
        """Yield the first word, and then the numbers in pieces."""
        with open_text(self.path) as file:
            word = ""
            for text in pieces(file, lines=False):
                if not word:
                    first, *rest = text.split(None, 1) or [b""]
                    word, text = first[:80].decode("utf-8", "replace"), rest[0] if rest else b""
                    yield word
                numbers = numbers_of(text)
                if numbers is None:
                    _Prefix(self.path, word, np.zeros(0))._refuse_words(1)
                yield numbers

    def _tables(self, factors: Integers) -> Floats:
        """Return the logarithms of the tables of some factors, ascending, one after the other."""
        heads = self.start + offsets_of(self.sizes)[:-1] + np.arange(self.sizes.size)
        end = self.start + int(self.sizes.sum()) + self.sizes.size
        begins = offsets_of(self.sizes[factors])
        entries = np.empty(int(begins[-1]))
        at, stream = 0, self._numbers()
        word = next(stream)
        for values in stream:
            stop = at + len(values)
            prefix = _Prefix(self.path, word, values)
            some = slice(*np.searchsorted(heads, [at, stop]))
            wrong = np.flatnonzero(values[heads[some] - at] != self.sizes[some])
            if wrong.size:
                factor = some.start + int(wrong[0])
                got = values[heads[factor] - at]
                prefix.fail(
                    int(heads[factor]),
                    f"expected {self.sizes[factor]}, the entries of the table of factor {factor}, got {got:.17g}",
                )
            first, last = heads[factors] + 1, heads[factors] + 1 + self.sizes[factors]
            inside = slice(np.searchsorted(last, at, "right"), np.searchsorted(first, stop))
            begin, until = np.maximum(first[inside], at), np.minimum(last[inside], stop)
            lengths = np.maximum(until - begin, 0)
            taken = values[ranges(begin - at, lengths)]
            bad = ~((taken >= 0) & (taken < np.inf))
            if bad.any():
                place = int(ranges(begin, lengths)[bad.argmax()])
                prefix.fail(place, f"expected entries of tables, 0 or greater and finite, got {taken[bad][0]:.17g}")
            entries[ranges(begins[:-1][inside] + begin - first[inside], lengths)] = taken
            at = stop
        if at != end:
            what = f"tables and their lengths, {end - self.start} in all" if at < end else "the end of the file"
            got = "the end of the file" if at < end else f"{at - end} more numbers"
            _Prefix(self.path, word, np.zeros(0)).fail(min(at, end), f"expected {what}, got {got}")
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(entries))


def _until_tables(stream: Iterator[Any]) -> Floats:
    """Return the numbers up to the tables, or a little more, or all if there are fewer."""
    found: list[Floats] = []
    length, at, variables, left = 0, 0, -1, -1
    for values in stream:
        found.append(values)
        piece = values.tolist()
        begin, length = length, length + len(piece)
        while at < length:
            number = piece[at - begin]
            if not 0 <= number < 2**53:
                return np.concatenate(found)  # which is refused in words
            if variables < 0:
                variables = int(number)
                at += 1 + variables
            elif left < 0:
                left = int(number)
                at += 1
            elif left:
                left -= 1
                at += 1 + int(number)
            if left == 0:
                break
        if left == 0 and at <= length:
            break
    return np.concatenate([*found, np.zeros(0)])


def _clamped(model: FactorGraph, numbers: Integers, evidence: dict[int, int]) -> FactorGraph:
    """Return a part of a model with those variables observed that it has."""
    if not evidence:
        return model
    seen = np.flatnonzero(np.isin(numbers, list(evidence)))
    return model.clamp({int(place): evidence[int(numbers[place])] for place in seen})
