"""Rows of different lengths, one after the other in a flat array."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]
Floats = NDArray[np.float64]


def offsets_of(lengths: NDArray[Any]) -> Integers:
    """Return where rows of these lengths begin, and after them where the last one ends.

    Examples
    --------
    >>> offsets_of(np.array([2, 0, 3])).tolist()
    [0, 2, 2, 5]
    """
    offsets = np.zeros(lengths.size + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def ranges(starts: NDArray[Any], lengths: NDArray[Any]) -> Integers:
    """Return the integers from each start, as many as its length says, one range after the other.

    Examples
    --------
    >>> ranges(np.array([5, 0, 8]), np.array([2, 0, 3])).tolist()
    [5, 6, 8, 9, 10]
    """
    offsets = offsets_of(lengths)
    return np.arange(offsets[-1], dtype=np.int64) + np.repeat(np.asarray(starts, np.int64) - offsets[:-1], lengths)


def steps_of(scopes: Integers, offsets: Integers, cardinalities: Integers) -> Integers:
    """Return how far apart in a table, flat in C order, two neighbouring states of each variable of its scope are.

    Parameters
    ----------
    scopes : numpy.ndarray of int64, shape (edges,)
        The variables of the tables, one scope after the other.
    offsets : numpy.ndarray of int64, shape (tables + 1,)
        Where each scope begins.
    cardinalities : numpy.ndarray of int64, shape (variables,)

    Returns
    -------
    numpy.ndarray of int64, shape (edges,)

    Examples
    --------
    >>> steps_of(np.array([0, 1, 2]), np.array([0, 3]), np.array([4, 3, 2])).tolist()
    [6, 2, 1]
    """
    arity = np.diff(offsets)
    steps = np.ones(scopes.size, np.int64)
    for place in range(2, int(arity.max(initial=0)) + 1):  # from the last variable, whose step is 1, to the first
        at = offsets[1:][arity >= place] - place
        steps[at] = steps[at + 1] * cardinalities[scopes[at + 1]]
    return steps


def sums(values: NDArray[Any], offsets: Integers) -> NDArray[Any]:
    """Return the sum of each row, along the last axis; that of an empty row is 0.

    Examples
    --------
    >>> sums(np.array([1.0, 2.0, 4.0]), np.array([0, 2, 2, 3])).tolist()
    [3.0, 0.0, 4.0]
    """
    result = np.zeros((*values.shape[:-1], offsets.size - 1), values.dtype)
    filled = np.diff(offsets) > 0
    if filled.any():
        result[..., filled] = np.add.reduceat(values, offsets[:-1][filled], axis=-1)
    return result
