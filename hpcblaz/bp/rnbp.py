"""Pairwise models in the text format of the programs of the paper on randomised belief propagation.

After a line ``Nodes:`` there is a line ``name,{weights}`` for each variable, after ``Edges:`` a line
``first,second,{table}`` for each edge, row by row, and after ``Marginals:`` the names of those that are asked for, with
commas between them.
"""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn

import numpy as np

from hpcblaz.bp.models import FactorGraph, PairwiseModel
from hpcblaz.bp.ragged import Floats, Integers, offsets_of
from hpcblaz.bp.tokens import open_text, parse, pieces, write_text
from hpcblaz.bp.writing import join, linear
from hpcblaz.errors import FileFormatError, ModelError

__all__ = ["read_rnbp", "write_rnbp"]

_NODE = re.compile(rb"^[ \t]*([^,{}\n]+?)[ \t]*,[ \t]*\{([^{}\n]*)\}[ \t\r]*$", re.MULTILINE)
_EDGE = re.compile(rb"^[ \t]*([^,{}\n]+?)[ \t]*,[ \t]*([^,{}\n]+?)[ \t]*,[ \t]*\{([^{}\n]*)\}[ \t\r]*$", re.MULTILINE)
_ROWS = ((_NODE, "name,{weight,weight}"), (_EDGE, "name,name,{weight,weight,weight,weight}"))
_HEADS = (b"Nodes:", b"Edges:", b"Marginals:")
_HEAD = re.compile(rb"^[ \t]*(Nodes:|Edges:|Marginals:)[ \t\r]*$", re.MULTILINE)


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
    names: dict[bytes, int] = {}
    nodes, edges = _Section(path, 0), _Section(path, 1)
    pairs: list[Integers] = []
    for section, text in _parts(path):
        if section == 0:
            first = nodes.rows
            for number, row in enumerate(nodes.read(text), first):
                if names.setdefault(row[0], number) != number:
                    nodes.fail(number, f"expected a node once, got {_shown(row[0])} twice")
        elif section == 1:
            first = edges.rows
            ends = [names.get(end, -1) for row in edges.read(text) for end in row[:2]]
            pairs.append(np.array(ends, np.int64).reshape(-1, 2))
            if -1 in ends:
                place = ends.index(-1)
                row = _EDGE.findall(text)[place // 2]
                edges.fail(first + place // 2, f"expected a node of those above, got {_shown(row[place % 2])}")
    cardinalities, log_unaries = nodes.numbers()
    sizes, log_tables = edges.numbers()
    ends_of = np.concatenate([np.zeros((0, 2), np.int64), *pairs])
    _check(edges, ends_of, cardinalities, sizes)
    model = PairwiseModel(
        cardinalities,
        offsets_of(cardinalities),
        log_unaries,
        ends_of,
        np.arange(len(ends_of)),
        offsets_of(sizes),
        log_tables,
    )
    return model, [_shown(name) for name in names]


class _Section:
    """Rows of the nodes or of the edges, with the numbers in braces at their ends."""

    def __init__(self, path: Path, number: int) -> None:
        self._path, self._number = path, number
        self._row, self._form = _ROWS[number]
        self._counts: list[Integers] = []
        self._logarithms: list[Floats] = []
        self.rows = 0

    def read(self, text: bytes) -> list[tuple[bytes, ...]]:
        """Keep the numbers of some whole lines, of which every one that is not empty must have a form; return them."""
        found: list[tuple[bytes, ...]] = self._row.findall(text)
        lines = [line for line in text.split(b"\n") if line and not line.isspace()]
        if len(lines) != len(found):
            at, line = next((n, line) for n, line in enumerate(lines) if not self._row.fullmatch(line))
            self.fail(self.rows + at, f"expected {self._form}, got {_shown(line[:60])!r}")
        counts = np.array([row[-1].count(b",") + 1 for row in found], np.int64)
        values = parse(b",".join(row[-1] for row in found), ",") if found else np.zeros(0)
        if values.size != counts.sum() or not ((values >= 0) & (values < np.inf)).all():
            for at, row in enumerate(found):
                for word in row[-1].split(b","):
                    if not _is_weight(word):
                        reason = f"expected numbers, 0 or greater and finite, got {_shown(word)!r}"
                        self.fail(self.rows + at, reason)
        with np.errstate(divide="ignore"):
            self._logarithms.append(np.asarray(np.log(values)))
        self._counts.append(counts)
        self.rows += len(found)
        return found

    def numbers(self) -> tuple[Integers, Floats]:
        """Return how many numbers each row has, and the logarithms of all of them."""
        return (
            np.concatenate([np.zeros(0, np.int64), *self._counts]),
            np.concatenate([np.zeros(0), *self._logarithms]),
        )

    def fail(self, row: int, reason: str) -> NoReturn:
        """Raise FileFormatError with the line of a row."""
        section, seen, line = -1, -1, 0
        with open_text(self._path) as file:
            for line, text in enumerate(file, 1):  # noqa: B007  the last line is that of the end
                if text.strip() in _HEADS:
                    section += 1
                elif section == self._number and text.strip():
                    seen += 1
                if seen == row:
                    break
        raise FileFormatError(f"{self._path}, line {line}: {reason}")


def _parts(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield whole lines, some megabytes at a time, and in which section they are; heads are left out.

    Raises
    ------
    FileFormatError
        If the heads are not those that a file has, in their order.
    """
    section = -1
    with open_text(path) as file:
        for piece in pieces(file, lines=True):
            start = 0
            for head in _HEAD.finditer(piece):
                yield section, _part(path, section, piece[start : head.start()])
                section += 1
                if section == len(_HEADS) or head[1] != _HEADS[section]:
                    _refuse_heads(path, _HEADS[min(section, len(_HEADS) - 1)])
                start = head.end()
            yield section, _part(path, section, piece[start:])
    if section < 1:
        _refuse_heads(path, _HEADS[section + 1])


def _part(path: Path, section: int, text: bytes) -> bytes:
    if section < 0 and text.strip():
        line = 1 + len(text[: len(text) - len(text.lstrip())].splitlines())
        raise FileFormatError(f"{path}, line {line}: expected 'Nodes:' at the beginning, got something else")
    return text


def _refuse_heads(path: Path, missing: bytes) -> NoReturn:
    raise FileFormatError(
        f"{path}: expected lines 'Nodes:', 'Edges:' and 'Marginals:' in this order, got no {missing.decode()!r} there"
    )


def _check(edges: _Section, pairs: Integers, cardinalities: Integers, sizes: Integers) -> None:
    """Raise FileFormatError if a table has another size, or an edge is there twice."""
    expected = cardinalities[pairs].prod(axis=1)
    wrong = np.flatnonzero(sizes != expected)
    if wrong.size:
        edges.fail(int(wrong[0]), f"expected {expected[wrong[0]]} entries, got {sizes[wrong[0]]}")
    keys = pairs.min(axis=1, initial=2**62) * len(cardinalities) + pairs.max(axis=1, initial=0)
    _, first = np.unique(keys, return_index=True)
    again = np.ones(len(pairs), bool)
    again[first] = False
    bad = np.flatnonzero(again | (pairs[:, 0] == pairs[:, 1]))
    if bad.size:
        edges.fail(int(bad[0]), "expected one edge between two different nodes, got another")


def _is_weight(word: bytes) -> bool:
    try:
        return 0 <= float(word) < np.inf
    except ValueError:
        return False


def _shown(text: bytes) -> str:
    return text.decode("utf-8", "replace")


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
