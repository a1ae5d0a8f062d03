"""Parities of bits: checks without tables, tables that are parities, and what they force once some bits are known."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hpcblaz.bp.checks import check_offsets, check_scopes, check_variables, integer_array, positive
from hpcblaz.bp.models import FactorGraph
from hpcblaz.bp.ragged import Integers, offsets_of, ranges
from hpcblaz.errors import ModelError

__all__ = ["ParityChecks"]


@dataclass(frozen=True, eq=False)
class ParityChecks:
    """The parity checks of a code, of any number of bits each: no tables are stored.

    Parameters
    ----------
    bits : int
        Length of a code word.
    offsets : numpy.ndarray of int64, shape (checks + 1,)
        Where the bits of each check begin in `scopes`.
    scopes : numpy.ndarray of int64, shape (edges,)
        The bits of the checks, one check after the other; at least two in a check, and none twice.

    Raises
    ------
    ModelError
        If the arrays do not make checks.

    Examples
    --------
    >>> checks = ParityChecks.from_rows(4, [[0, 1, 2], [1, 3]])
    >>> checks.count
    2
    >>> checks.broken([[1, 1, 0, 1], [1, 0, 0, 0]]).tolist()
    [0, 1]
    """

    bits: int
    offsets: Integers
    scopes: Integers

    def __post_init__(self) -> None:
        positive("bits", self.bits)
        for name in ("offsets", "scopes"):
            object.__setattr__(self, name, integer_array(name, getattr(self, name), (None,)))
        check_offsets("offsets", self.offsets, self.scopes.size, "scopes")
        check_variables("scopes", self.scopes, self.bits)
        lengths = np.diff(self.offsets)
        if lengths.size and lengths.min() < 2:
            check = int(lengths.argmin())
            raise ModelError(f"expected two bits or more of every check, got {lengths[check]} of check {check}")
        check_scopes(self._check_of_edge, self.scopes, self.bits)

    @classmethod
    def from_rows(cls, bits: int, rows: ArrayLike | Sequence[ArrayLike]) -> "ParityChecks":
        """Make checks of the bits of each, as `parity_checks` returns them, or of different lengths.

        Parameters
        ----------
        bits : int
        rows : array_like of int, or sequence of them
            The bits of each check.

        Returns
        -------
        ParityChecks

        Raises
        ------
        ModelError
            If a check has fewer than two bits, one that is not there, or one twice.
        """
        listed = [integer_array(f"the bits of check {i}", row, (None,)) for i, row in enumerate(rows)]  # type: ignore[arg-type]
        lengths = np.array([row.size for row in listed], np.int64)
        return cls(bits, offsets_of(lengths), np.concatenate([*listed, np.zeros(0, np.int64)]))

    @property
    def count(self) -> int:
        """Number of checks."""
        return len(self.offsets) - 1

    @cached_property
    def _check_of_edge(self) -> Integers:
        return np.repeat(np.arange(self.count, dtype=np.int64), np.diff(self.offsets))

    @cached_property
    def neighbours(self) -> tuple[Integers, NDArray[np.uint32], Integers, NDArray[np.uint32]]:
        """Who else tells the bit of each edge, and who tells each bit: offsets and edges of both."""
        return neighbours(self.scopes, self.bits)

    def broken(self, words: ArrayLike) -> Any:
        """Return how many checks words break.

        Parameters
        ----------
        words : array_like of int, shape (..., bits)
            Each 0 or 1.

        Returns
        -------
        numpy.int64 or numpy.ndarray of int64, shape (...)

        Raises
        ------
        ModelError
            If words have another length, or there are other bits.
        """
        given = np.asarray(words)
        states = integer_array("words", given, (*given.shape[:-1], self.bits))
        if ((states < 0) | (states > 1)).any():
            raise ModelError("expected bits to be 0 or 1, got other integers")
        if not self.count:
            return np.zeros(states.shape[:-1], np.int64)[()]
        odd = np.add.reduceat(states[..., self.scopes], self.offsets[:-1], axis=-1) % 2
        return odd.sum(axis=-1)


def parities_of(model: FactorGraph) -> NDArray[np.int8]:
    """Return what each factor is: 0 if it wants an even number of ones, 1 if an odd one, -1 if it is no parity.

    A parity is a factor of two binary variables or more, whose table has one weight where it is fulfilled, else zero.
    """
    kinds = np.full(model.factors, -1, np.int8)
    arity = np.diff(model.factor_offsets)
    sizes = np.diff(model.table_offsets)
    widest = np.zeros(model.factors, np.int64)
    filled = np.flatnonzero(arity)
    if filled.size:
        widest[filled] = np.maximum.reduceat(model.cardinalities[model.scopes], model.factor_offsets[filled])
    for count in np.unique(arity[arity >= 2]):
        chosen = np.flatnonzero((arity == count) & (widest == 2) & (sizes == 2**count))
        tables = model.log_tables[model.table_offsets[chosen][:, None] + np.arange(2**count)]
        ones = np.bitwise_count(np.arange(2**count, dtype=np.uint64)) % 2
        for odd in (0, 1):
            inside = tables[:, ones == odd]
            same = np.isfinite(inside[:, 0]) & (inside == inside[:, :1]).all(axis=1)
            kinds[chosen[same & np.isneginf(tables[:, ones != odd]).all(axis=1)]] = odd
    return kinds


def force(
    known: NDArray[np.int8], offsets: Integers, scopes: Integers, odd: NDArray[Any]
) -> tuple[NDArray[np.int8], Integers]:
    """Return the bits that parities force, and for each member 1 more than a bit that cannot be, else 0.

    Parameters
    ----------
    known : numpy.ndarray of int8, shape (members, bits)
        0, 1, or -1 of a bit that is not known.
    offsets, scopes : numpy.ndarray of int64
        Of the parities.
    odd : numpy.ndarray of int, shape (parities,)
    """
    known = known.copy()
    trouble = np.zeros(len(known), np.int64)
    if len(odd) == 0:
        return known, trouble
    of_edge = np.repeat(np.arange(len(odd)), np.diff(offsets))
    members = np.flatnonzero((known >= 0).any(axis=1))
    while members.size:
        values = known[members][:, scopes]
        left = np.add.reduceat(values < 0, offsets[:-1], axis=1, dtype=np.int64)
        ones = np.add.reduceat(values == 1, offsets[:-1], axis=1, dtype=np.int64)
        parity = (ones + odd) % 2
        wrong = (left == 0) & (parity == 1)
        bad = wrong.any(axis=1)
        trouble[members[bad]] = 1 + scopes[offsets[wrong[bad].argmax(axis=1)]]
        row, edge = np.nonzero((values < 0) & (left == 1)[:, of_edge])
        known[members[row], scopes[edge]] = parity[row, of_edge[edge]]
        going = np.zeros(len(members), np.bool_)
        going[row] = True
        members = members[going & ~bad]
    return known, trouble


def neighbours(
    variables: NDArray[Any], count: int
) -> tuple[Integers, NDArray[np.uint32], Integers, NDArray[np.uint32]]:
    """Return who else tells the variable of each message, and who tells each variable: offsets and messages of both."""
    degrees = np.bincount(variables, minlength=count).astype(np.int64)
    told_offsets = offsets_of(degrees)
    told = np.argsort(variables, kind="stable").astype(np.uint32)
    here = degrees[variables]
    candidates = told[ranges(told_offsets[:-1][variables], here)]
    owners = np.repeat(np.arange(len(variables)), here)
    return offsets_of(here - 1), candidates[candidates != owners], told_offsets, told
