"""Pairwise models in the text format of the programs of the paper on randomised belief propagation.

After a line ``Nodes:`` there is a line ``name,{weights}`` for each variable, after ``Edges:`` a line
``first,second,{table}`` for each edge, row by row, and after ``Marginals:`` the names of those that are asked for, with
commas between them.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np

from hpcblaz.bp.models import FactorGraph, PairwiseModel
from hpcblaz.bp.ragged import Floats, Integers, offsets_of
from hpcblaz.bp.tokens import open_text, parse, write_text
from hpcblaz.bp.writing import join, linear
from hpcblaz.errors import FileFormatError, ModelError

__all__ = ["read_rnbp", "write_rnbp"]

_NODE = re.compile(rb"^[ \t]*([^,{}\n]+?)[ \t]*,[ \t]*\{([^{}\n]*)\}[ \t\r]*$", re.MULTILINE)
_EDGE = re.compile(rb"^[ \t]*([^,{}\n]+?)[ \t]*,[ \t]*([^,{}\n]+?)[ \t]*,[ \t]*\{([^{}\n]*)\}[ \t\r]*$", re.MULTILINE)
_HEADS = (b"Nodes:", b"Edges:", b"Marginals:")


def read_rnbp(path: str | os.PathLike[str]) -> tuple[PairwiseModel, list[str]]:
    r"""Read a pairwise model.

    Parameters
    ----------
    path : str or os.PathLike
        Plain, or compressed by gzip or xz.

    Returns
    -------
    model : PairwiseModel
        A table an edge.
    names : list of str
        Of the variables.

    Raises
    ------
    FileFormatError
        If the file is malformed; the text says in which line, and why.
    StorageError
        If it cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "model.txt"
    >>> _ = path.write_text("Nodes:\nA,{0.4,0.6}\nB,{1,1}\n\nEdges:\nA,B,{1,2,3,4}\n\nMarginals:\nA,B\n")
    >>> model, names = read_rnbp(path)
    >>> names, np.exp(model.log_table(0)).round(6).tolist()
    (['A', 'B'], [[1.0, 2.0], [3.0, 4.0]])
    """
    path = Path(path)
    with open_text(path) as file:
        text = file.read()
    starts = []
    for head in _HEADS:
        found = re.search(rb"^[ \t]*" + head + rb"[ \t\r]*$", text, re.MULTILINE)
        if found is None and head == _HEADS[-1]:
            starts.append((len(text), len(text)))
            continue
        if found is None or (starts and found.start() < starts[-1][1]):
            raise FileFormatError(
                f"{path}: expected lines 'Nodes:', 'Edges:' and 'Marginals:' in this order, "
                f"got no {head.decode()!r} there"
            )
        starts.append(found.span())
    if text[: starts[0][0]].strip():
        _fail(path, text, 0, "expected 'Nodes:' at the beginning, got something else")
    nodes = _rows(path, text, starts[0][1], starts[1][0], _NODE, "name,{weight,weight}")
    edges = _rows(path, text, starts[1][1], starts[2][0], _EDGE, "name,name,{weight,weight,weight,weight}")
    names: dict[bytes, int] = {}
    for number, match in enumerate(nodes):
        if names.setdefault(match[1], number) != number:
            _fail(path, text, match.start(), f"expected a node once, got {_shown(match[1])} twice")
    cardinalities, log_unaries = _numbers(path, text, nodes, 2)
    pairs = np.zeros((len(edges), 2), np.int64)
    for number, match in enumerate(edges):
        for side in (0, 1):
            variable = names.get(match[1 + side])
            if variable is None:
                _fail(path, text, match.start(), f"expected a node of those above, got {_shown(match[1 + side])}")
            pairs[number, side] = variable
    sizes, log_tables = _numbers(path, text, edges, 3)
    wrong = np.flatnonzero(sizes != cardinalities[pairs].prod(axis=1))
    if wrong.size:
        expected = cardinalities[pairs[wrong[0]]].prod()
        _fail(path, text, edges[wrong[0]].start(), f"expected {expected} entries, got {sizes[wrong[0]]}")
    seen: set[tuple[int, int]] = set()
    for match, (first, second) in zip(edges, np.sort(pairs, axis=1).tolist(), strict=True):
        if first == second or (first, second) in seen:
            _fail(path, text, match.start(), "expected one edge between two different nodes, got another")
        seen.add((first, second))
    model = PairwiseModel(
        cardinalities,
        offsets_of(cardinalities),
        log_unaries,
        pairs,
        np.arange(len(pairs)),
        offsets_of(sizes),
        log_tables,
    )
    return model, [_shown(match[1]) for match in nodes]


def _rows(path: Path, text: bytes, start: int, stop: int, row: re.Pattern[bytes], form: str) -> list[re.Match[bytes]]:
    """Return the lines of a section, of which every one that is not empty must have a form."""
    found = list(row.finditer(text, start, stop))
    lines = sum(1 for line in text[start:stop].split(b"\n") if line.strip())
    if lines != len(found):
        at = start
        for line in text[start:stop].split(b"\n"):
            if line.strip() and not row.fullmatch(line):
                _fail(path, text, at, f"expected {form}, got {_shown(line[:60])!r}")
            at += len(line) + 1
    return found


def _numbers(path: Path, text: bytes, rows: Sequence[re.Match[bytes]], group: int) -> tuple[Integers, Floats]:
    """Return how many numbers the braces of each row have, and the logarithms of all of them."""
    counts = np.array([row[group].count(b",") + 1 for row in rows], np.int64)
    values = np.zeros(0)
    if rows:
        values = parse(b",".join(row[group] for row in rows), ",")
    if values.size != counts.sum() or not ((values >= 0) & (values < np.inf)).all():
        for row in rows:
            for word in row[group].split(b","):
                if not _is_weight(word):
                    _fail(path, text, row.start(), f"expected numbers, 0 or greater and finite, got {_shown(word)!r}")
    with np.errstate(divide="ignore"):
        return counts, np.asarray(np.log(values))


def _is_weight(word: bytes) -> bool:
    try:
        return 0 <= float(word) < np.inf
    except ValueError:
        return False


def _shown(text: bytes) -> str:
    return text.decode("utf-8", "replace")


def _fail(path: Path, text: bytes, at: int, reason: str) -> NoReturn:
    """Raise FileFormatError with the line of a place."""
    raise FileFormatError(f"{path}, line {1 + text.count(bytes([10]), 0, at)}: {reason}")


def write_rnbp(path: str | os.PathLike[str], model: FactorGraph | PairwiseModel, names: Sequence[str] = ()) -> None:
    """Write a pairwise model, whole or not at all.

    Parameters
    ----------
    path : str or os.PathLike
        Compressed if it ends with ``.gz`` or ``.xz``.
    model : FactorGraph or PairwiseModel
        Of factors of two variables at most.
    names : sequence of str
        Of the variables. Default: ``node_0``, ``node_1``, ...

    Raises
    ------
    ModelError
        If the model is not pairwise, if a weight is too great or too small for a number that is no logarithm, or if
        names are not different or have a comma or a brace.
    StorageError
        If it cannot be written.
    """
    pairwise = model.to_pairwise()
    called = list(names) or [f"node_{v}" for v in range(pairwise.variables)]
    if len(set(called)) != pairwise.variables or any(not n.strip() or set(n) & set(",{}\n\r") for n in called):
        raise ModelError(
            f"expected {pairwise.variables} different names without commas, braces and line breaks, got {len(called)}"
        )
    unaries, places = linear(pairwise.log_unaries).tolist(), pairwise.unary_offsets.tolist()
    lines = ["Nodes:"]
    lines += [f"{n},{{{join(unaries[places[v] : places[v + 1]], ',')}}}" for v, n in enumerate(called)]
    tables = linear(pairwise.log_tables).tolist()
    starts, stops = pairwise.table_offsets[pairwise.table_of], pairwise.table_offsets[pairwise.table_of + 1]
    lines += ["", "Edges:"]
    for (a, b), start, stop in zip(pairwise.edges.tolist(), starts.tolist(), stops.tolist(), strict=True):
        lines.append(f"{called[a]},{called[b]},{{{join(tables[start:stop], ',')}}}")
    write_text(Path(path), "\n".join([*lines, "", "Marginals:", ",".join(called)]) + "\n")
