"""What messages say: beliefs of the variables, and the partition function as Bethe approximates it."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcblaz.backend import message_plans as backend
from hpcblaz.bp.models import PairwiseModel
from hpcblaz.bp.plans import Prepared, impossible_variable
from hpcblaz.bp.ragged import Floats, Integers, offsets_of, ranges


def beliefs(prepared: Prepared, messages: NDArray[Any]) -> Floats:
    """Return the normalised beliefs of all variables of the model, one after the other.

    Parameters
    ----------
    prepared : Prepared
    messages : numpy.ndarray
        Of the plan.

    Returns
    -------
    numpy.ndarray of float64, shape (states of all variables,)

    Raises
    ------
    ModelError
        If every state of a variable is impossible.
    """
    if prepared.plan.family == "binary":
        told = backend.log_odds_told(prepared.plan, messages, prepared.variable_of)
        logs = _pairwise(prepared).log_unaries
        told += logs[1::2]
        told -= logs[::2]
        found = np.empty((told.size, 2))
        found[:, 0] = told
        np.negative(told, out=found[:, 1])
        with np.errstate(over="ignore"):  # beyond the range of float64 the other state is certain
            np.exp(found, out=found)
        found += 1
        np.reciprocal(found, out=found)
        return found.ravel()
    found, _ = _of_plan(prepared, messages)
    cards = prepared.model.cardinalities
    order = prepared.variable_of
    offsets, place = offsets_of(cards[order]), np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    return found[ranges(offsets[:-1][place], cards)]


def assignment(prepared: Prepared, messages: NDArray[Any]) -> Integers:
    """Return the state with the largest belief of each variable, the first of equals: int64, shape (variables,)."""
    cards = prepared.model.cardinalities
    if not cards.size:
        return np.zeros(0, np.int64)
    padded = np.full((cards.size, int(cards.max())), -1.0)
    padded[np.arange(padded.shape[1]) < cards[:, None]] = beliefs(prepared, messages)
    best: Integers = padded.argmax(axis=1).astype(np.int64)
    return best


def bethe_log_partition(prepared: Prepared, messages: NDArray[Any]) -> float:
    """Return the natural logarithm of the Bethe approximation of the partition function.

    It is exact on trees. Elsewhere it is stationary at fixed points of the messages.

    Parameters
    ----------
    prepared : Prepared
    messages : numpy.ndarray
        Of the plan, from sum-product.
    """
    if prepared.plan.family == "binary":
        return _binary_log_partition(prepared, messages)
    _, logs = _of_plan(prepared, messages)
    degrees = prepared.model.degrees[prepared.variable_of]
    total = backend.free_energy(prepared.plan, messages)
    return total - float(((degrees - 1) * logs).sum()) + prepared.log_scale


def _of_plan(prepared: Prepared, messages: NDArray[Any]) -> tuple[Floats, Floats]:
    cards = prepared.model.cardinalities
    found, logs = backend.beliefs(prepared.plan, messages, int(cards.sum()), cards.size)
    impossible = np.flatnonzero(~np.isfinite(logs))
    if impossible.size:
        raise impossible_variable(int(prepared.variable_of[impossible[0]]))
    return found, logs


def _log_beliefs(prepared: Prepared, messages: NDArray[Any]) -> Floats:
    """Return the logarithms of all beliefs, not normalised, by variable of the model; messages are (1, odds)."""
    logs = _pairwise(prepared).log_unaries.reshape(-1, 2).copy()
    logs[:, 1] += backend.log_odds_told(prepared.plan, messages, prepared.variable_of)
    return logs


def _binary_log_partition(prepared: Prepared, messages: NDArray[Any]) -> float:
    model = _pairwise(prepared)
    logs = _log_beliefs(prepared, messages)
    tables = backend.BinaryTables(model.log_tables, model.table_of)
    of_edges = backend.binary_free_energy(prepared.plan, messages, tables, prepared.variable_of, logs)
    of_variables = np.logaddexp(logs[:, 0], logs[:, 1])
    return of_edges - float(((model.degrees - 1) * of_variables).sum())


def _pairwise(prepared: Prepared) -> PairwiseModel:
    return prepared.model.to_pairwise()
