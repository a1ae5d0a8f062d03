"""What the messages of all ranks say: beliefs of a rank's own variables, and sums over all ranks."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcblaz.backend import messages as backend
from hpcblaz.bp.partitioned_factors import FactorPlan
from hpcblaz.bp.partitioned_grids import GridPlan
from hpcblaz.bp.partitioned_pairs import PairwisePlan
from hpcblaz.bp.partitioned_plans import LocalPlan
from hpcblaz.bp.plans import impossible_variable
from hpcblaz.bp.ragged import Floats, Integers, offsets_of, ranges, sums
from hpcblaz.mpi import Communicator

__all__ = ["assignment_of", "beliefs_of", "bethe_of", "score_of"]

PairPlan = PairwisePlan | GridPlan
_UNITS = 1 << 17  # that are looked at together


def beliefs_of(local: LocalPlan, messages: NDArray[Any]) -> Floats:
    """Return the normalised beliefs of the variables of a rank, in the order of their numbers.

    Raises
    ------
    ModelError
        If every state of a variable is impossible.
    """
    found, cards = _beliefs(local, messages)
    if cards.size and (cards == cards[0]).all():
        return found.reshape(-1, cards[0])[local.owned].ravel()
    starts = offsets_of(cards)
    return found[ranges(starts[:-1][local.owned], cards[local.owned])]


def assignment_of(cardinalities: Integers, beliefs: Floats) -> Integers:
    """Return the state with the largest belief of each variable, the first of equals."""
    if not cardinalities.size:
        return np.zeros(0, np.int64)
    most = int(cardinalities.max())
    if (cardinalities == most).all():
        return np.asarray(beliefs.reshape(-1, most).argmax(axis=1), np.int64)
    padded = np.full((cardinalities.size, most), -1.0)
    padded[np.arange(most) < cardinalities[:, None]] = beliefs
    return np.asarray(padded.argmax(axis=1), np.int64)


def bethe_of(local: LocalPlan, messages: NDArray[Any], comm: Communicator) -> float:
    """Return the Bethe approximation of log Z of the whole model; a collective call."""
    with comm.together():
        if isinstance(local, FactorPlan):
            own = _factor_energy(local, messages)
        else:
            rows, logs = _cavities(local, messages)
    if isinstance(local, PairPlan):
        binary = local.plan.family == "binary"
        links = local.cut_links(comm, 2) if binary else local.links(comm, local.states_of_senders())
        links.begin(rows)
        links.finish(rows)
        with comm.together():
            own = _pair_energy(local, rows, logs, messages)
    return float(comm.allgather([own]).sum())


def score_of(local: LocalPlan, messages: NDArray[Any], comm: Communicator) -> float:
    """Return the logarithm of the product that the assignment of all ranks chooses; a collective call."""
    with comm.together():
        found, cards = _beliefs(local, messages)
        states = assignment_of(cards, found)
        if isinstance(local, FactorPlan):
            own = _factor_score(local, states)
        else:
            cut = np.zeros(len(local.abroad) + len(local.numbers) - local.count, np.int64)
            cut[: len(local.abroad)] = states[_units(local, local.abroad)]
    if isinstance(local, PairPlan):
        links = local.cut_links(comm, 1)
        links.begin(cut)
        links.finish(cut)
        with comm.together():
            own = _pair_score(local, states, cut)
    return float(comm.allgather([own]).sum())


def _beliefs(local: LocalPlan, messages: NDArray[Any]) -> tuple[Floats, Integers]:
    """Return the beliefs of the variables of a plan, and how many states each has."""
    if isinstance(local, PairPlan):
        cards = local.states()
        if local.plan.family == "binary":
            logs = _log_beliefs(local, messages)
            logs -= np.logaddexp(logs[:, :1], logs[:, 1:])
            return np.exp(logs, out=logs).ravel(), cards
    else:
        cards = local.plan.model[2]
    found, scales = backend.beliefs(local.plan, messages, int(cards.sum()), cards.size)
    impossible = np.flatnonzero(~np.isfinite(scales))
    if impossible.size:
        raise impossible_variable(int(local.unit_variables[impossible[0]]))
    return found, cards


def _log_pairs(messages: NDArray[Any]) -> Floats:
    """Return the logarithms of both probabilities of each message, from its odds."""
    odds = messages.astype(np.float64)
    return np.stack([-np.log1p(odds), -np.log1p(1 / odds)], axis=1)


def _log_beliefs(local: PairPlan, messages: NDArray[Any]) -> Floats:
    """Return the logarithms of both states' beliefs of each unit, not normalised."""
    logs = local.log_unaries().reshape(-1, 2)
    offsets, reverse = local.plan.graph.offsets, local.plan.model[1]
    for first in range(0, local.plan.units, _UNITS):
        last = min(local.plan.units, first + _UNITS)
        told = _log_pairs(messages[reverse[offsets[first] : offsets[last]]])
        logs[first:last] += sums(told.T, offsets[first : last + 1] - offsets[first]).T
    return logs


def _cavities(local: LocalPlan, messages: NDArray[Any]) -> tuple[Floats, Floats]:
    """Return what senders know without those that they tell, and all that units know, as logarithms.

    Of a binary plan, the first has the messages that others hear only, and room for those of the tail: the rest follows
    from the second.
    """
    if not isinstance(local, PairPlan):
        return np.zeros(0), np.zeros(0)
    if local.plan.family != "binary":
        return _general_cavities(local, messages)
    logs = _log_beliefs(local, messages)
    abroad = local.abroad
    rows = np.zeros((len(abroad) + len(local.numbers) - local.count, 2))
    rows[: len(abroad)] = logs[_units(local, abroad)] - _log_pairs(messages[local.plan.model[1][abroad]])
    return rows.ravel(), logs.ravel()


def _general_cavities(local: PairPlan, messages: NDArray[Any]) -> tuple[Floats, Floats]:
    """Products of all messages to a unit but one, from those before it and those after it."""
    offsets, reverse = local.plan.graph.offsets, local.plan.model[1].astype(np.int64)
    states, degrees = local.states(), np.diff(offsets)
    places = offsets_of(local.states_of_senders())
    with np.errstate(divide="ignore"):
        told = np.log(messages)
    rows = np.zeros(int(places[-1]))
    before, after = local.log_unaries(), np.zeros(int(states.sum()))
    starts = offsets_of(states)[:-1]
    for j in range(int(degrees.max(initial=0))):
        units = np.flatnonzero(degrees > j)
        slots = offsets[units] + j
        mine, there = ranges(starts[units], states[units]), ranges(places[slots], states[units])
        rows[there] = before[mine]
        before[mine] += told[ranges(local.places[reverse[slots]], states[units])]
    for j in range(int(degrees.max(initial=0)) - 1, -1, -1):
        units = np.flatnonzero(degrees > j)
        slots = offsets[units] + j
        mine, there = ranges(starts[units], states[units]), ranges(places[slots], states[units])
        rows[there] += after[mine]
        after[mine] += told[ranges(local.places[reverse[slots]], states[units])]
    return rows, before


def _pair_energy(local: PairPlan, rows: Floats, logs: Floats, messages: NDArray[Any]) -> float:
    plan, count = local.plan, local.count
    reverse, binary = plan.model[1], local.plan.family == "binary"
    places = None if binary else offsets_of(local.states_of_senders())
    pairs = logs.reshape(-1, 2) if binary else logs
    total = 0.0
    for slots, tables in local.edge_chunks():
        if not len(slots):
            continue
        there = reverse[slots].astype(np.int64)
        if places is None:
            first = pairs[_units(local, slots)] - _log_pairs(messages[there])
            second = pairs[plan.graph.variables[slots]] - _log_pairs(messages[slots])
            cut = there >= count
            second[cut] = rows.reshape(-1, 2)[len(local.abroad) + there[cut] - count]
        else:
            first = rows[places[slots][:, None] + np.arange(tables.shape[1])]
            second = rows[places[there][:, None] + np.arange(tables.shape[2])]
        joint = tables + first[:, :, None] + second[:, None, :]
        total += float(np.logaddexp.reduce(joint.reshape(len(slots), -1), axis=1).sum())
    degrees = np.diff(plan.graph.offsets)
    total -= float(((degrees - 1) * _log_sums(logs, local.states())).sum())
    return total


def _log_sums(logs: Floats, lengths: Integers) -> Floats:
    """Return the logarithm of the sum of the exponentials of each row; rows are not empty."""
    if not lengths.size:
        return np.zeros(0)
    found: Floats = np.logaddexp.reduceat(logs, offsets_of(lengths)[:-1])
    return found


def _factor_energy(local: FactorPlan, messages: NDArray[Any]) -> float:
    cards = local.plan.model[2]
    _, scales = backend.beliefs(local.plan, messages, int(cards.sum()), cards.size)
    degrees = local.part.model.degrees
    of_variables = float(((degrees - 1) * scales)[local.owned].sum())
    return backend.free_energy(local.plan, messages) - of_variables + local.log_scale


def _pair_score(local: PairPlan, states: Integers, cut: Integers) -> float:
    starts = offsets_of(local.states())[:-1]
    total = float(local.log_unaries()[starts + states].sum())
    reverse, count = local.plan.model[1], local.count
    for slots, tables in local.edge_chunks():
        there = reverse[slots].astype(np.int64)
        second = states[local.plan.graph.variables[slots]]
        second[there >= count] = cut[len(local.abroad) + there[there >= count] - count]
        total += float(tables[np.arange(len(slots)), states[_units(local, slots)], second].sum())
    return total


def _units(local: LocalPlan, messages: Integers) -> Integers:
    """Return which unit sends each of some messages of this rank."""
    return np.searchsorted(local.plan.graph.offsets, messages, "right") - 1


def _factor_score(local: FactorPlan, states: Integers) -> float:
    model, mine = local.part.model, local.part.owners == local.part.rank
    entries = model.table_offsets[:-1] + sums(model.steps * states[model.scopes], model.factor_offsets)
    return float(model.log_tables[entries[mine]].sum())
