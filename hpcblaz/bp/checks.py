"""What has to hold for the arrays of a model, and words for what does not."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hpcblaz.bp.ragged import Floats, Integers
from hpcblaz.errors import ModelError

_MOST_AXES = 64  # of an array of NumPy
_LARGEST_TABLE = 2**48  # entries; beyond it sizes overflow, and no memory holds it


def integer_array(name: str, values: ArrayLike, shape: tuple[int | None, ...]) -> Integers:
    """Return integers as a contiguous array of int64, without a copy where it is one.

    Parameters
    ----------
    name : str
        What it is, for the error.
    values : array_like of integers
    shape : tuple of int or None
        None for any length.

    Raises
    ------
    ModelError
        If they are no integers, or of another shape.
    """
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ModelError(f"expected {name} to be integers in an array, got rows of different lengths") from error
    if array.size == 0 and array.dtype == float:  # as NumPy makes of an empty list
        array = array.astype(np.int64)
        if array.shape == (0,):
            array = array.reshape([n or 0 for n in shape])
    if array.dtype.kind not in "iu":
        raise ModelError(f"expected {name} to be integers, got {array.dtype}: convert them first")
    _check_shape(name, array, shape)
    if array.dtype == np.uint64 and array.size and int(array.max()) > np.iinfo(np.int64).max:
        raise ModelError(f"expected {name} to fit int64, got {int(array.max())}")
    return np.ascontiguousarray(array, np.int64)


def compact(array: Integers) -> NDArray[Any]:
    """Return integers of 0 or greater as uint32 if they fit, to take half the memory.

    Parameters
    ----------
    array : numpy.ndarray of int64
    """
    return array.astype(np.uint32) if array.size and array.max() < 2**32 else array


def log_array(name: str, values: ArrayLike, shape: tuple[int | None, ...], log: bool = True) -> Floats:
    """Return logarithms as a contiguous array of float64, without a copy where they are one already.

    Parameters
    ----------
    name : str
    values : array_like of floats
    shape : tuple of int or None
    log : bool
        Whether `values` are logarithms; otherwise they are taken.

    Raises
    ------
    ModelError
        If an entry is NaN or infinite, is negative and no logarithm, or if the shape is another.
    """
    try:
        array = np.ascontiguousarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise ModelError(f"expected {name} to be numbers in an array, got {type(values).__name__}: {error}") from error
    if np.ndim(values) == 0:
        array = array.reshape(())
    _check_shape(name, array, shape)
    if log:
        bad = np.isnan(array) | (array == np.inf)
        wanted = "logarithms, finite or -inf"
    else:
        bad = ~((array >= 0) & (array < np.inf))
        wanted = "0 or greater and finite"
    if bad.any():
        place = int(bad.argmax())
        raise ModelError(f"expected {name} to be {wanted}, got {array.flat[place]} at entry {place}")
    if log:
        return array
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(array))


def _check_shape(name: str, array: NDArray[Any], shape: tuple[int | None, ...]) -> None:
    if len(shape) != array.ndim or any(
        want is not None and want != got for want, got in zip(shape, array.shape, strict=True)
    ):
        wanted = ", ".join("any" if n is None else str(n) for n in shape)
        raise ModelError(f"expected {name} to have the shape ({wanted}), got {array.shape}")


def check_cardinalities(cardinalities: Integers) -> None:
    """Raise ModelError if a variable has no state."""
    if cardinalities.size and cardinalities.min() < 1:
        variable = int(cardinalities.argmin())
        raise ModelError(f"expected every variable to have a state, got {cardinalities[variable]} for {variable}")


def check_offsets(name: str, offsets: Integers, end: int, of: str) -> None:
    """Raise ModelError unless offsets begin with 0, never fall, and end with the length of what they divide."""
    if offsets.size == 0 or offsets[0] != 0 or offsets[-1] != end:
        got = "none" if offsets.size == 0 else f"{offsets[0]} to {offsets[-1]}"
        raise ModelError(f"expected {name} to go from 0 to {end}, the length of {of}, got {got}")
    falls = np.flatnonzero(np.diff(offsets) < 0)
    if falls.size:
        raise ModelError(f"expected {name} never to fall, got {offsets[falls[0]]} before {offsets[falls[0] + 1]}")


def check_variables(name: str, variables: Integers, count: int) -> None:
    """Raise ModelError if a variable is not there."""
    bad = (variables < 0) | (variables >= count)
    if bad.any():
        raise ModelError(f"expected {name} to be variables from 0 to {count - 1}, got {variables[bad][0]}")


def table_sizes(scopes: Integers, offsets: Integers, cardinalities: Integers) -> Integers:
    """Return how many entries the table of each scope has.

    Raises
    ------
    ModelError
        If it is more than any memory holds, or if a scope has more variables than an array has axes.
    """
    arity = np.diff(offsets)
    if arity.max(initial=0) > _MOST_AXES:
        factor = int(arity.argmax())
        raise ModelError(f"expected {_MOST_AXES} variables of a factor at most, got {arity[factor]} of factor {factor}")
    sizes = np.ones(offsets.size - 1, np.int64)
    filled = arity > 0
    if filled.any():
        starts = offsets[:-1][filled]
        logarithms = np.add.reduceat(np.log2(cardinalities[scopes].astype(float)), starts)
        if logarithms.max() > np.log2(_LARGEST_TABLE):
            factor = int(np.flatnonzero(filled)[logarithms.argmax()])
            raise ModelError(
                f"expected tables that fit in memory, got 2^{logarithms.max():.0f} entries of factor {factor}"
            )
        sizes[filled] = np.multiply.reduceat(cardinalities[scopes], starts)
    return sizes


def evidence_arrays(evidence: Mapping[int, int], cardinalities: Integers) -> tuple[Integers, Integers]:
    """Return the variables of evidence, and their states.

    Raises
    ------
    ModelError
        If a variable or a state is not there.
    """
    variables = integer_array("the variables of evidence", list(evidence.keys()), (None,))
    states = integer_array("the states of evidence", list(evidence.values()), (None,))
    check_variables("evidence", variables, cardinalities.size)
    bad = (states < 0) | (states >= cardinalities[variables])
    if bad.any():
        at = int(bad.argmax())
        raise ModelError(
            f"expected a state from 0 to {cardinalities[variables[at]] - 1} of variable {variables[at]}, "
            f"got {states[at]}"
        )
    return variables, states


def assignment_array(assignment: ArrayLike | Sequence[int], cardinalities: Integers) -> Integers:
    """Return states of all variables, along the last axis.

    Raises
    ------
    ModelError
        If they are not as many as there are variables, or a state is not there.
    """
    try:
        shape = (*np.shape(assignment)[:-1], cardinalities.size)
    except ValueError as error:
        raise ModelError("expected assignments of one length, got rows of different lengths") from error
    states = integer_array("an assignment", assignment, shape)
    bad = (states < 0) | (states >= cardinalities)
    if bad.any():
        variable = int(np.nonzero(bad)[-1][0])
        raise ModelError(
            f"expected a state from 0 to {cardinalities[variable] - 1} of variable {variable}, got {states[bad][0]}"
        )
    return states


def check_scopes(factor_of_edge: Integers, scopes: Integers, variables: int) -> None:
    """Raise ModelError if a variable is twice in a factor."""
    keys = np.sort(factor_of_edge * variables + scopes)
    twice = np.flatnonzero(keys[1:] == keys[:-1])
    if twice.size:
        factor, variable = divmod(int(keys[twice[0]]), variables)
        raise ModelError(f"expected a variable once in a factor, got {variable} twice in factor {factor}")


def check_edges(edges: Integers, table_of: Integers, cardinalities: Integers, table_offsets: Integers) -> None:
    """Raise ModelError if an edge is a loop, comes twice, or has no table of its shape."""
    first, second = edges.T
    count, tables = cardinalities.size, table_offsets.size - 1
    loops = np.flatnonzero(first == second)
    if loops.size:
        raise ModelError(f"expected edges between two variables, got edge {loops[0]} of {first[loops[0]]} alone")
    keys = np.minimum(first, second)
    keys *= count
    keys += np.maximum(first, second)
    keys.sort()
    twice = np.flatnonzero(keys[1:] == keys[:-1])
    if twice.size:
        one, other = divmod(int(keys[twice[0]]), count)
        raise ModelError(f"expected one edge between two variables, got two between {one} and {other}")
    del keys
    unknown = (table_of < 0) | (table_of >= tables)
    if unknown.any():
        raise ModelError(f"expected table_of from 0 to {tables - 1}, got {table_of[unknown][0]}")
    expected = cardinalities[first]
    expected *= cardinalities[second]
    got = np.diff(table_offsets)[table_of]
    wrong = np.flatnonzero(expected != got)
    if wrong.size:
        edge = int(wrong[0])
        shape = tuple(cardinalities[edges[edge]].tolist())
        raise ModelError(f"expected a table of shape {shape} for edge {edge}, got {got[edge]} entries")
    del expected, got
    rows = np.zeros(tables, np.int64)
    rows[table_of] = cardinalities[first]
    wrong = np.flatnonzero(rows[table_of] != cardinalities[first])
    if wrong.size:
        edge = int(wrong[0])
        raise ModelError(
            f"expected edges that share a table to have as many states, got edge {edge}, whose first variable has "
            f"{cardinalities[first[edge]]}, and another with {rows[table_of[edge]]}"
        )


def positive(name: str, value: Any) -> int:
    """Return a positive integer.

    Raises
    ------
    ModelError
        If it is none.
    """
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < 1:
        raise ModelError(f"expected {name} to be a positive integer, got {value!r}")
    return int(value)


def generator(seed: Any) -> np.random.Generator:
    """Return a generator of random numbers.

    Raises
    ------
    ModelError
        If the seed is no integer, or negative.
    """
    if not isinstance(seed, (int, np.integer)) or isinstance(seed, bool) or seed < 0:
        raise ModelError(f"expected a seed of 0 or greater, got {seed!r}")
    return np.random.default_rng(int(seed))
