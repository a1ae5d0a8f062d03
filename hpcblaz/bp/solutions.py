"""Solutions of the UAI competitions: MAR, marginals; PR, the partition function; MAP, the most probable assignment."""

import math
import os
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from hpcblaz.bp.ragged import Floats, Integers, ranges
from hpcblaz.bp.tokens import Numbers, open_text, write_text
from hpcblaz.bp.writing import join
from hpcblaz.errors import FileFormatError

__all__ = [
    "read_assignment",
    "read_log_partition",
    "read_marginals",
    "read_solution",
    "write_assignment",
    "write_log_partition",
    "write_marginals",
]

_PathLike = str | os.PathLike[str]


def read_marginals(path: _PathLike) -> tuple[Integers, Floats]:
    """Read a solution ``MAR``.

    Parameters
    ----------
    path : str or os.PathLike

    Returns
    -------
    offsets : numpy.ndarray of int64, shape (variables + 1,)
        Where the probabilities of each variable begin.
    marginals : numpy.ndarray of float64, shape (states of all variables,)

    Raises
    ------
    FileFormatError
        If the file is malformed.
    StorageError
        If it cannot be read.
    """
    numbers = _solution(path, "MAR")
    start = _start(numbers)
    count = numbers.integer(start, "a number of variables")
    offsets, at = [0], start + 1
    values = numbers.values
    for variable in range(count):
        states = int(values[at]) if at < values.size and 1 <= values[at] < 2**53 else 0
        if not states or states != values[at]:
            states = numbers.integer(at, f"the number of states of variable {variable}", 1)
        offsets.append(offsets[-1] + states)
        at += 1 + states
        if at > values.size:
            numbers.take(at - states, states, f"probabilities of variable {variable}")
    numbers.end(at)
    ends = np.array(offsets, np.int64)
    heads = start + 1 + ends[:-1] + np.arange(count)
    places = ranges(heads + 1, np.diff(ends))
    bad = ~((values[places] >= 0) & (values[places] <= 1 + 1e-6))
    if bad.any():
        at = int(places[bad][0])
        numbers.fail(at, f"expected a probability, got {values[at]:.17g}")
    return ends, values[places]


def _start(numbers: Numbers) -> int:
    """Return where the solution begins: older files have the number of samples, 1, before it."""
    if numbers.values.size > 1 and numbers.values[0] == 1 and _has_samples(numbers.values):
        return 1
    return 0


def _has_samples(values: Floats) -> bool:
    """Say whether one variable, as the first number would mean, does not use up the numbers of a solution MAR."""
    return not (values.size >= 2 and values.size == 2 + values[1])


def write_marginals(path: _PathLike, offsets: ArrayLike, marginals: ArrayLike) -> None:
    """Write a solution ``MAR``, whole or not at all.

    Parameters
    ----------
    path : str or os.PathLike
    offsets : array_like of int, shape (variables + 1,)
    marginals : array_like of float, shape (states of all variables,)

    Raises
    ------
    StorageError
        If it cannot be written.
    """
    write_text(Path(path), marginals_text(offsets, marginals))


def marginals_text(offsets: ArrayLike, marginals: ArrayLike) -> str:
    """Return the text of a solution ``MAR``."""
    places, values = np.asarray(offsets).tolist(), np.asarray(marginals, np.float64).tolist()
    parts = [join([b - a, *values[a:b]]) for a, b in pairwise(places)]
    return "MAR\n" + " ".join([str(len(parts)), *parts]) + "\n"


def read_log_partition(path: _PathLike) -> float:
    """Read a solution ``PR``.

    Parameters
    ----------
    path : str or os.PathLike

    Returns
    -------
    float
        The natural logarithm of the partition function; the file has the decimal one.

    Raises
    ------
    FileFormatError
        If the file is malformed.
    StorageError
        If it cannot be read.
    """
    numbers = _solution(path, "PR")
    at = 1 if numbers.values.size == 2 and numbers.values[0] == 1 else 0
    value = float(numbers.take(at, 1, "a decimal logarithm")[0])
    numbers.end(at + 1)
    if math.isnan(value) or value == math.inf:
        numbers.fail(at, f"expected a decimal logarithm, got {value}")
    return value * math.log(10)


def write_log_partition(path: _PathLike, log_partition: float) -> None:
    """Write a solution ``PR``, whole or not at all.

    Parameters
    ----------
    path : str or os.PathLike
    log_partition : float
        The natural logarithm; the decimal one is written.

    Raises
    ------
    StorageError
        If it cannot be written.
    """
    write_text(Path(path), log_partition_text(log_partition))


def log_partition_text(log_partition: float) -> str:
    """Return the text of a solution ``PR``."""
    return f"PR\n{float(log_partition) / math.log(10)!r}\n"


def read_assignment(path: _PathLike) -> Integers:
    """Read a solution ``MAP`` or ``MPE``.

    Parameters
    ----------
    path : str or os.PathLike

    Returns
    -------
    numpy.ndarray of int64, shape (variables,)

    Raises
    ------
    FileFormatError
        If the file is malformed.
    StorageError
        If it cannot be read.
    """
    numbers = _solution(path, "MAP", "MPE")
    values = numbers.values
    old = values.size > 2 and values[0] == 1 and values.size == 2 + values[1]
    start = 1 if old else 0
    count = numbers.integer(start, "a number of variables")
    states = numbers.integers(start + 1, count, "states")
    numbers.end(start + 1 + count)
    return states


def write_assignment(path: _PathLike, assignment: ArrayLike) -> None:
    """Write a solution ``MAP``, whole or not at all.

    Parameters
    ----------
    path : str or os.PathLike
    assignment : array_like of int, shape (variables,)

    Raises
    ------
    StorageError
        If it cannot be written.
    """
    write_text(Path(path), assignment_text(assignment))


def assignment_text(assignment: ArrayLike) -> str:
    """Return the text of a solution ``MAP``."""
    states = np.asarray(assignment, np.int64)
    return f"MAP\n{join([states.size, *states.tolist()])}\n"


def samples_text(texts: Sequence[str]) -> str:
    r"""Return the text of the solutions of several samples, made of the texts of each.

    Examples
    --------
    >>> samples_text(["PR\n-1.5\n", "PR\n-2.5\n"])
    'PR\n2\n-1.5\n-2.5\n'
    """
    heads, rests = zip(*(text.split("\n", 1) for text in texts), strict=True)
    return "".join([f"{heads[0]}\n{len(texts)}\n", *rests])


def read_solution(path: _PathLike) -> tuple[Integers, Floats] | float | Integers:
    """Read a solution of any kind; its first word says which.

    Parameters
    ----------
    path : str or os.PathLike

    Returns
    -------
    pair of numpy.ndarray, float or numpy.ndarray
        What `read_marginals`, `read_log_partition` or `read_assignment` return.

    Raises
    ------
    FileFormatError
        If the file is malformed.
    StorageError
        If it cannot be read.
    """
    with open_text(Path(path)) as file:
        word = file.read(64).split(None, 1)[:1]
    kind = word[0].decode("utf-8", "replace").upper() if word else ""
    if kind == "MAR":
        return read_marginals(path)
    if kind == "PR":
        return read_log_partition(path)
    if kind in ("MAP", "MPE"):
        return read_assignment(path)
    raise FileFormatError(f"{path}, line 1: expected MAR, PR, MAP or MPE, got {kind!r}: is it a solution?")


def _solution(path: _PathLike, *kinds: str) -> Numbers:
    numbers = Numbers(Path(path), words=1)
    if numbers.words[0].upper() not in kinds:
        raise FileFormatError(f"{path}, line 1: expected {' or '.join(kinds)}, got {numbers.words[0]!r}")
    return numbers
