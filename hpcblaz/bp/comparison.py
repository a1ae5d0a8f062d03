"""How far answers are from each other: marginals, partition functions and assignments."""

import math
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hpcblaz.bp.exact import ExactSolution
from hpcblaz.bp.plotting import picture
from hpcblaz.bp.ragged import Floats, Integers, sums
from hpcblaz.bp.result import Inference
from hpcblaz.bp.solutions import read_solution
from hpcblaz.errors import ConfigurationError, ModelError

__all__ = ["Answers", "Comparison", "compare", "read_answers"]

_SUM = 1e-2  # how far from 1 the sum of the printed marginals of a variable may be
_BINS = 60


@dataclass(frozen=True, eq=False)
class Answers:
    """Answers of any origin. What is not known is None.

    Parameters
    ----------
    offsets : numpy.ndarray of int64, shape (variables + 1,), or None
        Where the marginals of each variable begin.
    marginals : numpy.ndarray of float64, shape (states of all variables,), or None
    log_partition : float or None
        Natural logarithm.
    assignment : numpy.ndarray of int64, shape (variables,), or None
    score : float or None
        Of the assignment: the logarithm of its product.
    """

    offsets: Integers | None = None
    marginals: Floats | None = None
    log_partition: float | None = None
    assignment: Integers | None = None
    score: float | None = None


@dataclass(frozen=True, eq=False)
class Comparison:
    """How far the answers A are from the answers B. What could not be compared is None.

    Marginals of a variable are compared as they are by differences, and scaled to the sum 1 by the other measures.

    Parameters
    ----------
    offsets : numpy.ndarray of int64, shape (variables + 1,), or None
        Where the differences of each variable begin.
    marginals : pair of numpy.ndarray of float64, shape (states of all variables,), or None
        Those of A and of B.
    mean_absolute, largest_absolute : numpy.ndarray of float64, shape (variables,), or None
        Mean and largest absolute difference of the marginals of each variable.
    hellinger : numpy.ndarray of float64, shape (variables,), or None
        Hellinger distance, from 0 to 1.
    kl, kl_reverse : numpy.ndarray of float64, shape (variables,), or None
        Kullback-Leibler divergence of A from B, the sum of a log(a / b), and of B from A; infinite where the other one
        has 0 for a state that is possible.
    log10_partition : float or None
        Decimal logarithm of Z of A, minus that of B.
    disagreements : numpy.ndarray of int64, shape (variables that differ,), or None
        Variables that have another state in the two assignments.
    score : float or None
        Logarithm of the product of A's assignment, minus that of B's.
    """

    offsets: Integers | None
    marginals: tuple[Floats, Floats] | None
    mean_absolute: Floats | None
    largest_absolute: Floats | None
    hellinger: Floats | None
    kl: Floats | None
    kl_reverse: Floats | None
    log10_partition: float | None
    disagreements: Integers | None
    score: float | None
    variables: int | None

    def summary(self) -> dict[str, Any]:
        """Return the measures in all: means over the variables, so that each counts the same; largest ones with theirs.

        Returns
        -------
        dict
            Of what could be compared. ``mean_*`` of divergences are infinite if one is, and ``infinite_*`` says how
            many are.
        """
        found: dict[str, Any] = {"variables": self.variables}
        if self.mean_absolute is not None and self.largest_absolute is not None and self.mean_absolute.size:
            found["mean_absolute_difference"] = float(self.mean_absolute.mean())
            found["largest_absolute_difference"] = float(self.largest_absolute.max())
            found["largest_at_variable"] = int(self.largest_absolute.argmax())
        for name, values in (("hellinger", self.hellinger), ("kl", self.kl), ("kl_reverse", self.kl_reverse)):
            if values is not None and values.size:
                found[f"mean_{name}"] = float(values.mean())
                found[f"largest_{name}"] = float(values.max())
                if name != "hellinger":
                    found[f"infinite_{name}"] = int(np.count_nonzero(np.isinf(values)))
        if self.log10_partition is not None:
            found["log10_partition_difference"] = self.log10_partition
        if self.disagreements is not None:
            found["states_that_differ"] = self.disagreements.size
        if self.score is not None:
            found["score_difference"] = self.score
        return {key: value for key, value in found.items() if value is not None}

    def plot(self, path: str | os.PathLike[str], names: tuple[str, str] = ("A", "B")) -> None:
        """Draw the marginals of one against the other, and how often each difference occurs.

        Parameters
        ----------
        path : str or os.PathLike
            Ends with .png, .pdf or .svg. It is written whole or not at all.
        names : pair of str
            What A and B are to be called.

        Raises
        ------
        ConfigurationError
            If no marginals were compared, or the path has another ending.
        MissingDependencyError
            If matplotlib is not installed.
        StorageError
            If the file cannot be written.
        """
        if self.marginals is None or not self.marginals[0].size:
            raise ConfigurationError("expected marginals to draw, got a comparison without: compare marginals")
        a, b = self.marginals
        with picture(path, (8, 3.4), "a picture of a comparison") as figure:
            left, right = figure.subplots(1, 2)
            counts, edges, _ = np.histogram2d(b, a, bins=_BINS, range=[[0, 1], [0, 1]])
            shown = np.ma.masked_equal(counts.T, 0)
            mesh = left.pcolormesh(edges, edges, shown, norm="log", cmap="viridis_r")
            figure.colorbar(mesh, ax=left, label="states")
            left.plot([0, 1], [0, 1], color="0.6", linewidth=0.8)
            left.set(xlabel=f"probability, {names[1]}", ylabel=f"probability, {names[0]}", aspect="equal")
            right.hist(a - b, bins=_BINS, log=True, color="#0b6e99")
            right.axvline(0, color="0.6", linewidth=0.8)
            right.set(xlabel=f"{names[0]} minus {names[1]}", ylabel="states")


def compare(a: object, b: object) -> Comparison:
    """Compare two answers in all that both of them have.

    Parameters
    ----------
    a, b : Inference, ExactSolution, Answers, pair or array_like
        A pair is what `hpcblaz.bp.read_marginals` returns, offsets and marginals. An array of floats has marginals
        alone, one variable after the other, where the other side says how many states each has; one of integers is an
        assignment. A number is the natural logarithm of a partition function.

    Returns
    -------
    Comparison

    Raises
    ------
    ModelError
        If they are of models of other sizes, or marginals are no probabilities.
    ConfigurationError
        If they have nothing in common, or are something else.

    Examples
    --------
    >>> from hpcblaz.bp import exact, infer, ising
    >>> model = ising(4, coupling=2.0, seed=1)
    >>> found = compare(infer(model), exact(model))
    >>> bool(found.largest_absolute.max() < 0.1), abs(found.log10_partition) < 0.1
    (True, True)
    >>> sorted(compare([0, 1, 1], [0, 1, 0]).summary().items())
    [('states_that_differ', 1), ('variables', 3)]
    """
    one, other = _answers("the first", a), _answers("the second", b)
    offsets = one.offsets if one.offsets is not None else other.offsets
    found: dict[str, Any] = dict.fromkeys(Comparison.__dataclass_fields__)
    if one.marginals is not None and other.marginals is not None:
        if offsets is None:
            raise ConfigurationError(
                "expected at least one side that says how many states each variable has, got two arrays: give a pair "
                "of offsets and marginals"
            )
        for side in (one, other):
            _check_shape(side, offsets)
        for side in (one, other):
            _check_values(side, offsets)
        found |= _of_marginals(one.marginals, other.marginals, offsets)
    if one.log_partition is not None and other.log_partition is not None:
        found["log10_partition"] = _difference(one.log_partition, other.log_partition) / math.log(10)
    if one.assignment is not None and other.assignment is not None:
        if one.assignment.shape != other.assignment.shape:
            raise ModelError(
                f"expected two assignments of the same variables, got {one.assignment.size} and {other.assignment.size}"
            )
        found["disagreements"] = np.flatnonzero(one.assignment != other.assignment)
        found["variables"] = one.assignment.size
        if one.score is not None and other.score is not None:
            found["score"] = _difference(one.score, other.score)
    if all(value is None for value in found.values()):
        raise ConfigurationError(f"expected answers to the same question, got {_has(one)} and {_has(other)}")
    return Comparison(**found)


def read_answers(path: str | os.PathLike[str]) -> Answers:
    """Read a solution, ``MAR``, ``PR``, ``MAP`` or ``MPE``; its first word says which.

    Parameters
    ----------
    path : str or os.PathLike

    Returns
    -------
    Answers

    Raises
    ------
    FileFormatError
        If the file is malformed.
    StorageError
        If it cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> from hpcblaz.bp import write_log_partition
    >>> path = os.path.join(tempfile.mkdtemp(), "model.PR")
    >>> write_log_partition(path, 2.5)
    >>> round(read_answers(path).log_partition, 9)
    2.5
    """
    value = read_solution(path)
    if isinstance(value, tuple):
        return Answers(offsets=value[0], marginals=value[1])
    return Answers(log_partition=value) if isinstance(value, float) else Answers(assignment=value)


def _answers(name: str, value: Any) -> Answers:
    if isinstance(value, Answers):
        return value
    if isinstance(value, Inference):
        if value.task == "map":
            return Answers(value.offsets, assignment=value.assignment, score=value.score)
        return Answers(value.offsets, value.marginals, value.log_partition)
    if isinstance(value, ExactSolution):
        partition = None if math.isnan(value.log_partition) else value.log_partition
        score = None if value.assignment is None else value.score
        return Answers(value.offsets, value.marginals, partition, value.assignment, score)
    if isinstance(value, tuple) and len(value) == 2 and all(np.ndim(part) == 1 for part in value):
        offsets = _array(name, value[0])
        if offsets.dtype.kind not in "iu" or offsets.size < 1 or offsets[0] != 0 or (np.diff(offsets) < 1).any():
            raise ModelError(f"expected offsets of {name} answers: integers that begin at 0 and grow")
        return Answers(offsets.astype(np.int64), _array(name, value[1]).astype(np.float64))
    array = _array(name, value)
    if array.ndim == 0 and array.dtype.kind in "iuf":
        return Answers(log_partition=float(array))
    if array.ndim == 1 and array.dtype.kind in "iu":
        return Answers(assignment=array.astype(np.int64))
    if array.ndim == 1 and array.dtype.kind == "f":
        return Answers(marginals=array.astype(np.float64))
    raise ConfigurationError(
        f"expected {name} answers to be a result, offsets with marginals, or an array in one axis, got "
        f"{type(value).__name__} of {array.dtype}, shape {array.shape}"
    )


def _array(name: str, value: ArrayLike) -> NDArray[Any]:
    try:
        return np.asarray(value)
    except ValueError as error:  # rows of different lengths
        raise ConfigurationError(f"expected {name} answers in one flat array, got: {error}") from error


def _check_shape(answers: Answers, offsets: Integers) -> None:
    """Raise ModelError if marginals are not of these variables."""
    cards = np.diff(offsets)
    if answers.offsets is not None and not np.array_equal(answers.offsets, offsets):
        mine = np.diff(answers.offsets)
        if mine.size != cards.size:
            raise ModelError(f"expected marginals of the same variables, got {cards.size} variables and {mine.size}")
        at = int((mine != cards).argmax())
        raise ModelError(f"expected the same states, got {cards[at]} and {mine[at]} of variable {at}")
    count = 0 if answers.marginals is None else answers.marginals.size
    if count != offsets[-1]:
        raise ModelError(f"expected marginals of {offsets[-1]} states, got {count}")


def _check_values(answers: Answers, offsets: Integers) -> None:
    """Raise ModelError if marginals are no probabilities."""
    marginals = np.zeros(0) if answers.marginals is None else answers.marginals
    bad = ~((marginals >= 0) & (marginals <= 1 + _SUM))
    wrong = np.flatnonzero(sums(bad, offsets) | ~(abs(sums(marginals, offsets) - 1) <= _SUM))
    if wrong.size:
        at = int(wrong[0])
        values = marginals[offsets[at] : offsets[at + 1]]
        raise ModelError(f"expected probabilities with the sum 1, got {values[:6].tolist()} of variable {at}")


def _of_marginals(a: Floats, b: Floats, offsets: Integers) -> dict[str, Any]:
    cards = np.diff(offsets)
    differences = abs(a - b)
    largest = np.maximum.reduceat(differences, offsets[:-1]) if cards.size else np.zeros(0)
    p, q = (values / np.repeat(sums(values, offsets), cards) for values in (a, b))
    return {
        "offsets": offsets,
        "marginals": (a, b),
        "variables": cards.size,
        "mean_absolute": sums(differences, offsets) / np.maximum(cards, 1),
        "largest_absolute": largest,
        "hellinger": np.sqrt(sums((np.sqrt(p) - np.sqrt(q)) ** 2, offsets) / 2),
        "kl": _divergence(p, q, offsets),
        "kl_reverse": _divergence(q, p, offsets),
    }


def _divergence(p: Floats, q: Floats, offsets: Integers) -> Floats:
    """Return the sum of p log(p / q) - p + q of each variable: no term is negative, and p and q have the same sum."""
    with np.errstate(divide="ignore", invalid="ignore"):
        terms = np.where(p > 0, p * np.log(p / q), 0.0) - p + q
    return np.asarray(np.maximum(sums(terms, offsets), 0.0))


def _difference(a: float, b: float) -> float:
    return 0.0 if a == b else a - b  # of two that are -inf, too


def _has(answers: Answers) -> str:
    names = ("marginals", "log_partition", "assignment")
    return " and ".join(name.replace("_", " ") for name in names if getattr(answers, name) is not None) or "nothing"
