"""Files of the UAI competitions: models and evidence.

A file is a word and numbers; line breaks mean nothing. Weights in a file are no logarithms.
"""

import os
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from hpcblaz.bp.checks import table_sizes
from hpcblaz.bp.models import FactorGraph, PairwiseModel
from hpcblaz.bp.ragged import Floats, Integers, offsets_of, ranges
from hpcblaz.bp.tokens import Numbers, open_text, write_text
from hpcblaz.bp.writing import join, linear
from hpcblaz.errors import FileFormatError, ModelError

__all__ = [
    "read_evidence",
    "read_evidence_samples",
    "read_uai",
    "write_evidence",
    "write_uai",
]

_PIECE = 2**16  # numbers that are walked along at a time
_PathLike = str | os.PathLike[str]


def read_uai(path: _PathLike) -> FactorGraph:
    """Read a model, ``MARKOV`` or ``BAYES``.

    Parameters
    ----------
    path : str or os.PathLike
        Plain, or compressed by gzip or xz.

    Returns
    -------
    FactorGraph

    Raises
    ------
    FileFormatError
        If the file is malformed; the text says in which line, and why.
    StorageError
        If it cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "model.uai")
    >>> write_uai(path, FactorGraph.from_tables([2, 3], [([0, 1], [[1, 2, 3], [4, 5, 6]])]))
    >>> read_uai(path).score([1, 2]).round(6) == np.log(6).round(6)
    np.True_
    """
    numbers = Numbers(Path(path), words=1)
    if numbers.words[0].upper() not in ("MARKOV", "BAYES"):
        raise FileFormatError(f"{path}, line 1: expected MARKOV or BAYES, got {numbers.words[0]!r}")
    count = numbers.integer(0, "a number of variables")
    cardinalities = numbers.integers(1, count, "numbers of states", 1)
    factors = numbers.integer(1 + count, "a number of factors")
    factor_offsets, scopes, at = read_scopes(numbers, 2 + count, factors, count)
    try:
        sizes = table_sizes(scopes, factor_offsets, cardinalities)
    except ModelError as error:
        raise FileFormatError(f"{path}: {error}") from error
    table_offsets = offsets_of(np.minimum(sizes, numbers.values.size))  # what is longer is refused, without overflow
    heads = at + table_offsets[:-1] + np.arange(factors)
    inside = heads < numbers.values.size
    wrong = np.flatnonzero(numbers.values[heads[inside]] != sizes[inside])
    if wrong.size:
        factor = int(wrong[0])
        got = numbers.values[heads[factor]]
        numbers.fail(
            int(heads[factor]),
            f"expected {sizes[factor]}, the entries of the table of factor {factor}, got {got:.17g}",
        )
    end = at + int(table_offsets[-1]) + factors
    numbers.take(at, end - at, "tables and their lengths")
    numbers.end(end)
    log_tables = numbers.weights(ranges(heads + 1, sizes), "entries of tables")
    return FactorGraph(cardinalities, factor_offsets, scopes, table_offsets, log_tables)


def read_scopes(numbers: Numbers, at: int, factors: int, variables: int) -> tuple[Integers, Integers, int]:
    """Return where each scope begins, the scopes, and where the numbers after them begin."""
    values = numbers.values
    heads = np.empty(min(factors, values.size), np.int64)  # the places of the numbers of variables
    start, piece = at, values[at : at + _PIECE].tolist()  # a list is the fastest to walk along
    for factor in range(factors):
        if at - start >= len(piece):
            start, piece = at, values[at : at + _PIECE].tolist()
        arity = piece[at - start] if piece else -1
        if not (0 <= arity <= variables and arity == int(arity)):
            numbers.integer(at, f"the number of variables of factor {factor}", 0, variables)
        heads[factor] = at
        at += 1 + int(arity)
    numbers.take(at, 0, f"the variables of {factors} factors")
    arities = values[heads].astype(np.int64)
    places = ranges(heads + 1, arities)
    scopes = values[places]
    bad = ~((scopes >= 0) & (scopes < variables) & (scopes == np.floor(scopes)))
    if bad.any():
        wrong = int(places[bad][0])
        numbers.fail(wrong, f"expected a variable from 0 to {variables - 1}, got {values[wrong]:.17g}")
    keys = np.repeat(np.arange(factors), arities) * variables + scopes.astype(np.int64)
    ordered = np.sort(keys)
    if (ordered[1:] == ordered[:-1]).any():
        order = np.argsort(keys, kind="stable")
        wrong = int(order[1 + np.flatnonzero(ordered[1:] == ordered[:-1])[0]])
        factor, variable = divmod(int(keys[wrong]), variables)
        numbers.fail(
            int(places[wrong]), f"expected a variable once in a factor, got {variable} twice in factor {factor}"
        )
    return offsets_of(arities), scopes.astype(np.int64), at


def write_uai(path: _PathLike, model: FactorGraph | PairwiseModel) -> None:
    """Write a model as ``MARKOV``, whole or not at all.

    Parameters
    ----------
    path : str or os.PathLike
        Compressed if it ends with ``.gz`` or ``.xz``.
    model : FactorGraph or PairwiseModel

    Raises
    ------
    ModelError
        If a weight is too great or too small for a number that is no logarithm.
    StorageError
        If it cannot be written.
    """
    graph = model.to_factor_graph()
    lines = ["MARKOV", str(graph.variables), join(graph.cardinalities), str(graph.factors)]
    scopes, offsets = graph.scopes.tolist(), graph.factor_offsets.tolist()
    lines += [join([b - a, *scopes[a:b]]) for a, b in pairwise(offsets)]
    entries, places = linear(graph.log_tables).tolist(), graph.table_offsets.tolist()
    lines += [f"\n{b - a}\n{join(entries[a:b])}" for a, b in pairwise(places)]
    write_text(Path(path), "\n".join(lines) + "\n")


def read_evidence(path: _PathLike) -> dict[int, int]:
    """Read which variables have been observed, and in which states.

    The file has their number, and for each the variable and its state; in older files a 1 comes before, the number of
    samples. An empty file means that nothing has been observed.

    Parameters
    ----------
    path : str or os.PathLike

    Returns
    -------
    dict of int to int

    Raises
    ------
    FileFormatError
        If the file is malformed, or has several samples.
    StorageError
        If it cannot be read.
    """
    samples = read_evidence_samples(path)
    if len(samples) > 1:
        raise FileFormatError(f"{path}: expected one sample of evidence, got {len(samples)}: read all of them")
    return samples[0]


def read_evidence_samples(path: _PathLike) -> list[dict[int, int]]:
    r"""Read samples of which variables have been observed, and in which states.

    A file of several samples has their number, and then for each what a file of one sample has. Where the numbers could
    also be those of one sample, a first line with one number alone tells that they are several.

    Parameters
    ----------
    path : str or os.PathLike

    Returns
    -------
    list of dict of int to int
        At least one; that of an empty file is empty.

    Raises
    ------
    FileFormatError
        If the file is malformed.
    StorageError
        If it cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "model.uai.evid"
    >>> _ = path.write_text("2\n1 4 0\n2 4 1 7 2\n")
    >>> read_evidence_samples(path)
    [{4: 0}, {4: 1, 7: 2}]
    """
    numbers = Numbers(Path(path))
    size = numbers.values.size
    if size == 0:
        return [{}]
    first = numbers.integer(0, "a number of observed variables, or of samples")
    starts = _sample_starts(numbers.values)
    one = size == 1 + 2 * first
    if one and not (starts and _is_alone(Path(path))):
        starts = [0]
    if not starts:
        numbers.fail(
            0, f"expected {first} variables with their states, or so many samples of them, got {size - 1} numbers "
            "after it"
        )  # fmt: skip
    return [_sample(numbers, start) for start in starts]


def _sample_starts(values: Floats) -> list[int]:
    """Return where samples begin, if the first number says how many there are; else none."""
    starts, at = [], 1
    for _ in range(max(1, int(values[0]))):
        if at >= values.size or not 0 <= values[at] < values.size:
            return []
        starts.append(at)
        at += 1 + 2 * int(values[at])
    return starts if at == values.size else []


def _is_alone(path: Path) -> bool:
    """Say whether the first line that is not empty has one number."""
    with open_text(path) as file:
        return len(next((words for line in file if (words := line.split())), [])) == 1


def _sample(numbers: Numbers, start: int) -> dict[int, int]:
    count = numbers.integer(start, "a number of observed variables")
    pairs = numbers.integers(start + 1, 2 * count, "variables and their states").reshape(-1, 2)
    evidence: dict[int, int] = {}
    for place, (variable, state) in enumerate(pairs.tolist()):
        if evidence.setdefault(variable, state) != state:
            numbers.fail(
                start + 1 + 2 * place,
                f"expected one state of variable {variable}, got {evidence[variable]} and {state}",
            )
    return evidence


def write_evidence(path: _PathLike, evidence: Mapping[int, int] | Sequence[Mapping[int, int]]) -> None:
    """Write which variables have been observed, whole or not at all.

    Parameters
    ----------
    path : str or os.PathLike
    evidence : mapping of int to int, or sequence of them
        One sample makes one line; of several, their number stands in a line before them.

    Raises
    ------
    ModelError
        If there is no sample.
    StorageError
        If it cannot be written.
    """
    samples = [evidence] if isinstance(evidence, Mapping) else list(evidence)
    if not samples:
        raise ModelError("expected a sample of evidence or several, got none: write an empty one")
    head = [] if isinstance(evidence, Mapping) else [str(len(samples))]
    lines = [join([len(sample), *(n for pair in sample.items() for n in pair)]) for sample in samples]
    write_text(Path(path), "\n".join([*head, *lines]) + "\n")
