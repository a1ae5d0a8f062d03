"""Factor graphs in the format of libDAI, ``.fg``: a block a factor, of its variables, their states, and its entries."""

import os
from pathlib import Path

import numpy as np

from hpcblaz.bp.models import FactorGraph, PairwiseModel
from hpcblaz.bp.ragged import Floats, Integers, offsets_of
from hpcblaz.bp.tokens import Numbers, write_text
from hpcblaz.bp.writing import join, linear

__all__ = ["read_fg", "write_fg"]

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
    factors = numbers.integer(0, "a number of factors")
    labels: list[Integers] = []
    states: list[Integers] = []
    places: list[Integers] = []
    arities: list[Integers] = []
    tables: list[Floats] = []
    lengths: list[Integers] = []
    most = _most(numbers)
    at, done, window = 1, 0, 16
    while done < factors:
        run, arity, entries = _run(numbers, at, done, min(window, factors - done))
        window = 2 * window if run == window else 16
        step = 2 + 2 * arity + 2 * entries
        block = at + np.arange(run)[:, None] * step
        own, sizes, table = _read_block(numbers, block, arity, entries)
        labels.append(own[:, ::-1].ravel())
        states.append(sizes[:, ::-1].ravel())
        places.append((block + 2 * arity - np.arange(arity)).ravel())
        arities.append(np.full(run, arity, np.int64))
        lengths.append(sizes.prod(axis=1))
        tables.append(table)
        at += run * step
        done += run
        if sum(map(len, tables)) > most:
            numbers.fail(at - 1, f"expected tables of {most} entries in all at most for so short a file, got more")
    numbers.end(at)
    none = np.zeros(0, np.int64)
    scopes, sizes = np.concatenate([*labels, none]), np.concatenate([*states, none])
    cardinalities = np.ones(int(scopes.max(initial=-1)) + 1, np.int64)
    cardinalities[scopes[::-1]] = sizes[::-1]  # that of its first factor
    wrong = np.flatnonzero(cardinalities[scopes] != sizes)
    if wrong.size:
        label = scopes[wrong[0]]
        numbers.fail(
            int(np.concatenate(places)[wrong[0]]),
            f"expected variable {label} to have as many states everywhere, got {sizes[wrong[0]]} and "
            f"{cardinalities[label]}",
        )
    return FactorGraph(
        cardinalities,
        offsets_of(np.concatenate([*arities, none])),
        scopes,
        offsets_of(np.concatenate([*lengths, none])),
        np.concatenate([*tables, np.zeros(0)]),
    )


def _most(numbers: Numbers) -> int:
    """Return how many entries, or variables, a file may have."""
    return max(_LEAST_LIMIT, _PER_NUMBER * numbers.values.size)


def _run(numbers: Numbers, at: int, done: int, most: int) -> tuple[int, int, int]:
    """Return how many factors from here have as many variables and entries as the first of them, and these numbers."""
    arity = numbers.integer(at, f"the number of variables of factor {done}", 0, 64)
    entries = numbers.integer(at + 1 + 2 * arity, f"the number of entries of factor {done}")
    step = 2 + 2 * arity + 2 * entries
    numbers.take(at, step, f"entries of factor {done}")
    whole = min(most, (numbers.values.size - at) // step)
    block = numbers.values[at : at + whole * step].reshape(whole, step)
    other = np.flatnonzero((block[:, 0] != arity) | (block[:, 1 + 2 * arity] != entries))
    return (int(other[0]) if other.size else whole), arity, entries


def _read_block(numbers: Numbers, block: Integers, arity: int, entries: int) -> tuple[Integers, Integers, Floats]:
    """Return the labels, the states and the tables of factors of one shape of text."""
    values = numbers.values
    run, limit = len(block), _most(numbers)
    places = block + 1 + np.arange(arity)
    labels, sizes = values[places], values[places + arity]
    for part, at, least, most, what in (
        (labels, places, 0, limit, "a label of a variable"),
        (sizes, places + arity, 1, limit, "a number of states"),
    ):
        bad = ~((part >= least) & (part < most) & (part == np.floor(part)))
        if bad.any():
            got = part[bad][0]
            numbers.fail(int(at[bad][0]), f"expected {what}, an integer from {least} to {most - 1}, got {got:.17g}")
    ordered = np.sort(labels, axis=1)
    twice = np.argwhere(ordered[:, 1:] == ordered[:, :-1])
    if twice.size:
        numbers.fail(int(places[twice[0][0], 0]), "expected a variable once in a factor, got one twice")
    lengths = sizes.prod(axis=1)
    if lengths.sum() > limit:
        numbers.fail(int(block[0, 0]), f"expected tables of {limit} entries at most for so short a file, got more")
    pairs = block + 2 + 2 * arity + 2 * np.arange(entries)
    indices = values[pairs]
    bad = ~((indices >= 0) & (indices < lengths[:, None]) & (indices == np.floor(indices)))
    if bad.any():
        numbers.fail(int(pairs[bad][0]), f"expected a place in the table, got {indices[bad][0]:.17g}")
    starts = offsets_of(lengths.astype(np.int64))
    table = np.full(int(starts[-1]), -np.inf)
    table[(starts[:-1, None] + indices.astype(np.int64)).ravel()] = numbers.weights(pairs.ravel() + 1, "entries")
    return labels.astype(np.int64).reshape(run, arity), sizes.astype(np.int64).reshape(run, arity), table


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
