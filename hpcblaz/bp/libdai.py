"""Factor graphs in the format of libDAI, ``.fg``: a block a factor, of its variables, their states, and its entries."""

import os
from pathlib import Path

import numpy as np

from hpcblaz.bp.checks import table_sizes
from hpcblaz.bp.models import FactorGraph, PairwiseModel
from hpcblaz.bp.ragged import Integers, offsets_of, ranges
from hpcblaz.bp.tokens import Numbers, write_text
from hpcblaz.bp.writing import join, linear
from hpcblaz.errors import FileFormatError, ModelError

__all__ = ["read_fg", "write_fg"]

_MOST_AXES = 64  # variables of a factor
_PIECE = 2**16  # numbers that are walked along at a time
_LEAST_LIMIT = 2**24  # entries or variables that are allowed to a file of any size
_PER_NUMBER = 64  # more of them for each number of the file: what is not in it is zero, and costs memory all the same


def read_fg(path: str | os.PathLike[str]) -> FactorGraph:
    """Read a factor graph.

    Parameters
    ----------
    path : str or os.PathLike
        Plain, or compressed by gzip or xz. What follows ``#`` in a line is a comment.

    Returns
    -------
    FactorGraph
        The labels of the file are its variables; those that no factor has get one state. The variables of a factor
        come in the opposite order, as the file has the first one fastest.

    Raises
    ------
    FileFormatError
        If the file is malformed; the text says in which line, and why.
    StorageError
        If it cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "model.fg")
    >>> write_fg(path, FactorGraph.from_tables([2, 3], [([0, 1], [[1, 0, 3], [4, 5, 0]])]))
    >>> np.exp(read_fg(path).log_table(0)).round(6).tolist()
    [[1.0, 0.0, 3.0], [4.0, 5.0, 0.0]]
    """
    numbers = Numbers(Path(path), comments=True)
    values = numbers.values
    heads, arities, entries = _walk(numbers)
    limit = max(_LEAST_LIMIT, _PER_NUMBER * values.size)
    # The first variable of a factor is the fastest, so its scope is the other way round.
    factor_offsets = offsets_of(arities)
    places = np.repeat(heads + arities, arities) - ranges(np.zeros(heads.size, np.int64), arities)
    places_of_states = places + np.repeat(arities, arities)
    scopes = _integers(numbers, places, "a label of a variable", 0, limit)
    states = _integers(numbers, places_of_states, "a number of states", 1, limit)
    _check_once(numbers, heads, np.repeat(np.arange(heads.size), arities), scopes)
    cardinalities = np.ones(int(scopes.max(initial=-1)) + 1, np.int64)
    cardinalities[scopes[::-1]] = states[::-1]  # that of its first factor
    wrong = np.flatnonzero(cardinalities[scopes] != states)
    if wrong.size:
        label = scopes[wrong[0]]
        numbers.fail(
            int(places_of_states[wrong[0]]),
            f"expected variable {label} to have as many states everywhere, got {states[wrong[0]]} and "
            f"{cardinalities[label]}",
        )
    try:
        sizes = table_sizes(scopes, factor_offsets, cardinalities)
    except ModelError as error:
        raise FileFormatError(f"{path}: {error}") from error
    large = np.flatnonzero(np.cumsum(sizes.astype(float)) > limit)
    if large.size:
        numbers.fail(int(heads[large[0]]), f"expected tables of {limit} entries at most for so short a file, got more")
    table_offsets = offsets_of(sizes)
    pairs = np.repeat(heads + 2 + 2 * arities, entries) + 2 * ranges(np.zeros(heads.size, np.int64), entries)
    inside = values[pairs]
    bad = ~((inside >= 0) & (inside < np.repeat(sizes, entries)) & (inside == np.floor(inside)))
    if bad.any():
        numbers.fail(int(pairs[bad][0]), f"expected a place in the table, got {inside[bad][0]:.17g}")
    log_tables = np.full(int(table_offsets[-1]), -np.inf)
    log_tables[np.repeat(table_offsets[:-1], entries) + inside.astype(np.int64)] = numbers.weights(pairs + 1, "entries")
    return FactorGraph(cardinalities, factor_offsets, scopes, table_offsets, log_tables)


def _walk(numbers: Numbers) -> tuple[Integers, Integers, Integers]:
    """Return where the text of each factor begins, how many variables it has, and how many entries."""
    factors = numbers.integer(0, "a number of factors")
    values = numbers.values
    heads = np.empty(min(factors, values.size), np.int64)
    at = 1
    start, piece = at, values[at : at + _PIECE].tolist()  # a list is the fastest to walk along
    for factor in range(factors):
        if at - start + 2 * _MOST_AXES + 2 > len(piece) and start + len(piece) < values.size:
            start, piece = at, values[at : at + _PIECE].tolist()
        arity = piece[at - start] if at < values.size else -1
        if not (0 <= arity <= _MOST_AXES and arity == int(arity)):
            numbers.integer(at, f"the number of variables of factor {factor}", 0, _MOST_AXES)
        place = at + 1 + 2 * int(arity)
        entries = piece[place - start] if place < values.size else -1
        if not (0 <= entries < values.size and entries == int(entries)):
            numbers.integer(place, f"the number of entries of factor {factor}", 0, values.size)
        heads[factor] = at
        at = place + 1 + 2 * int(entries)
    numbers.take(at, 0, f"the entries of {factors} factors")
    numbers.end(at)
    arities = values[heads].astype(np.int64)
    return heads, arities, values[heads + 1 + 2 * arities].astype(np.int64)


def _integers(numbers: Numbers, places: Integers, what: str, least: int, limit: int) -> Integers:
    """Return the numbers at some places as integers from `least` and below a limit."""
    values = numbers.values[places]
    bad = ~((values >= least) & (values < limit) & (values == np.floor(values)))
    if bad.any():
        got = values[bad][0]
        numbers.fail(int(places[bad][0]), f"expected {what}, an integer from {least} to {limit - 1}, got {got:.17g}")
    return values.astype(np.int64)


def _check_once(numbers: Numbers, heads: Integers, factor_of_edge: Integers, scopes: Integers) -> None:
    """Raise FileFormatError if a variable is twice in a factor."""
    keys = np.sort(factor_of_edge * (1 + int(scopes.max(initial=0))) + scopes)
    twice = np.flatnonzero(keys[1:] == keys[:-1])
    if twice.size:
        factor = int(keys[twice[0]]) // (1 + int(scopes.max()))
        numbers.fail(int(heads[factor]) + 1, "expected a variable once in a factor, got one twice")


def write_fg(path: str | os.PathLike[str], model: FactorGraph | PairwiseModel) -> None:
    """Write a factor graph, whole or not at all.

    Parameters
    ----------
    path : str or os.PathLike
        Compressed if it ends with ``.gz`` or ``.xz``.
    model : FactorGraph or PairwiseModel
        Variables in no factor get one whose entries are 1.

    Raises
    ------
    ModelError
        If a weight is too great or too small for a number that is no logarithm.
    StorageError
        If it cannot be written.
    """
    graph = model.to_factor_graph()
    lonely = np.flatnonzero(graph.degrees == 0)  # the format knows variables by their factors alone
    graph = graph.weigh({int(v): np.ones(graph.cardinalities[v]) for v in lonely}) if lonely.size else graph
    weights = linear(graph.log_tables)
    scopes, cardinalities = graph.scopes.tolist(), graph.cardinalities.tolist()
    lines = [str(graph.factors)]
    for factor, (start, stop) in enumerate(zip(graph.factor_offsets[:-1], graph.factor_offsets[1:], strict=True)):
        scope = scopes[start:stop][::-1]
        table = weights[graph.table_offsets[factor] : graph.table_offsets[factor + 1]]
        filled = np.flatnonzero(table)
        lines += ["", str(len(scope)), join(scope), join([cardinalities[v] for v in scope]), str(filled.size)]
        lines += [f"{i} {w!r}" for i, w in zip(filled.tolist(), table[filled].tolist(), strict=True)]
    write_text(Path(path), "\n".join(lines) + "\n")
