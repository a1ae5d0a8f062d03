"""Batches as the kernels take them: a shape that all members share, and unaries of each."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hpcblaz.backend.message_batches import BatchPlan
from hpcblaz.bodies.messages import TINY
from hpcblaz.bp.checks import evidence_arrays, log_array
from hpcblaz.bp.models import FactorGraph, PairwiseModel
from hpcblaz.bp.parity import ParityChecks, force, neighbours, parities_of
from hpcblaz.bp.ragged import Floats, Integers, offsets_of, ranges
from hpcblaz.errors import ModelError

_NEGLIGIBLE_LOG = {"float32": 20.0, "float64": 40.0}  # weights so far below another one are lost in rounding
_LARGEST_LOG = {"float32": 80.0, "float64": 690.0}  # of odds and their products
_LARGEST_PARITY_LOG = {"float32": 41.0, "float64": 345.0}  # of odds two of which are multiplied


@dataclass(frozen=True, eq=False)
class Members:
    """Models that differ in their unaries, and perhaps in their tables.

    Parameters
    ----------
    model : FactorGraph or PairwiseModel
    log_unaries : numpy.ndarray of float64, shape (members, states)
        Added to those of the model; -inf where evidence says so.
    log_tables : numpy.ndarray of float64, shape (members, entries), optional
        In place of those of the model.
    """

    model: FactorGraph | PairwiseModel
    log_unaries: Floats
    log_tables: Floats | None

    def member(self, number: int) -> FactorGraph | PairwiseModel:
        """Return a member as a model of its own."""
        model = self.model
        if self.log_tables is not None:
            model = replace(model, log_tables=self.log_tables[number])
        offsets = offsets_of(model.cardinalities)
        row = self.log_unaries[number]
        if isinstance(model, PairwiseModel):
            return replace(model, log_unaries=model.log_unaries + row)
        return model.weigh({v: row[offsets[v] : offsets[v + 1]] for v in range(model.variables)}, log=True)


@dataclass(frozen=True, eq=False)
class Prepared:
    """A plan, and what is known before it is carried out.

    Parameters
    ----------
    plan : BatchPlan
    impossible : numpy.ndarray of bool, shape (members, states), or None
        States that are impossible by themselves, or that parities make so.
    trouble : numpy.ndarray of int64, shape (members,)
        1 more than a variable of which that is every state, else 0.
    parities : int
        Number of factors that are parities.
    """

    plan: BatchPlan
    impossible: NDArray[np.bool_] | None
    trouble: Integers
    parities: int

    @property
    def only_parities(self) -> bool:
        """Whether there is no other factor."""
        return self.plan.family == "batch_odds" and self.parities == len(self.plan.model[2])


def gather_members(
    model: FactorGraph | PairwiseModel,
    log_unaries: ArrayLike | None,
    evidence: Sequence[Mapping[int, int]] | None,
    log_tables: ArrayLike | None,
) -> Members:
    """Return what members differ in.

    Raises
    ------
    ModelError
        If that is nothing, or of different numbers of members, or of another shape than the model.
    """
    states = int(model.cardinalities.sum())
    counts = {}
    unaries = tables = None
    if log_unaries is not None:
        unaries = log_array("log_unaries", log_unaries, (None, states))
        counts["log_unaries"] = len(unaries)
    if log_tables is not None:
        tables = log_array("log_tables", log_tables, (None, model.log_tables.size))
        counts["log_tables"] = len(tables)
    if evidence is not None:
        counts["evidence"] = len(evidence)
    if len(set(counts.values())) != 1:
        got = ", ".join(f"{count} of {name}" for name, count in counts.items()) or "none of them"
        raise ModelError(f"expected log_unaries, evidence or log_tables of the same number of members, got {got}")
    members = next(iter(counts.values()))
    rows = np.zeros((members, states)) if unaries is None else unaries
    if evidence is not None and any(evidence):
        rows = rows.copy()
        offsets = offsets_of(model.cardinalities)
        for row, seen in zip(rows, evidence, strict=True):
            variables, found = evidence_arrays(seen, model.cardinalities)
            at = offsets[variables] + found
            kept = row[at]
            row[ranges(offsets[variables], model.cardinalities[variables])] = -np.inf
            row[at] = kept
    return Members(model, rows, tables)


def prepare_batch(members: Members, precision: str) -> Prepared:
    """Return the plan of the fastest family that members fit."""
    model = members.model
    if isinstance(model, FactorGraph):
        if model.arity <= 2 and members.log_tables is None and model.variables:
            model = model.to_pairwise()  # which merges factors of the same variables
        else:
            return _of_factors(model, members, precision)
    logs = members.log_unaries + model.log_unaries
    tables = model.log_tables if members.log_tables is None else members.log_tables
    trouble = _impossible(logs, model.cardinalities)
    if (model.cardinalities == 2).all() and np.isfinite(tables).all():
        found = _odds(
            model.variables, 2 * np.arange(len(model.edges) + 1), model.edges.ravel(), 2 + model.table_of, tables, logs,
            precision,
        )  # fmt: skip
        if found is not None:
            return Prepared(found, _zeros(logs), trouble, 0)
    entries = model.table_offsets[model.table_of]
    offsets = 2 * np.arange(len(model.edges) + 1)
    plan = _vectors(model.cardinalities, offsets, model.edges.ravel(), entries, model.table_offsets, tables, logs)
    return Prepared(plan, _zeros(logs), trouble, 0)


def prepare_checks(checks: ParityChecks, ratios: Floats, precision: str) -> Prepared:
    """Return the plan of decoding; `ratios` are log-likelihood ratios, perhaps infinite, one row a word."""
    odd = np.zeros(checks.count, np.int64)
    ratios, impossible, trouble = _forced(-ratios, checks.offsets, checks.scopes, odd)
    plan = _odds_of_parities(checks.offsets, checks.scopes, odd, checks.neighbours, ratios, precision)
    return Prepared(plan, impossible, trouble, checks.count)


def _of_factors(model: FactorGraph, members: Members, precision: str) -> Prepared:
    arity = np.diff(model.factor_offsets)
    constants = np.flatnonzero(arity == 0)
    shared = members.log_tables is None
    tables = model.log_tables if members.log_tables is None else members.log_tables
    if constants.size and np.isneginf(tables[..., model.table_offsets[constants]]).any():
        raise ModelError("expected a model with a possible assignment, got one with a constant that is 0")
    kinds = parities_of(model) if shared and (model.cardinalities == 2).all() else np.full(model.factors, -1, np.int8)
    if model.variables and (kinds >= 0).any() and (kinds[arity > 1] >= 0).all():
        logs = members.log_unaries.copy()
        single = np.flatnonzero(arity == 1)
        entries = model.table_offsets[single][:, None] + np.arange(2)
        at = 2 * model.scopes[model.factor_offsets[single]][:, None] + np.arange(2)
        weights = np.zeros(logs.shape[1])
        np.add.at(weights, at, model.log_tables[entries])
        logs += weights
        trouble = _impossible(logs, model.cardinalities)
        chosen = np.flatnonzero(arity > 1)
        scopes = model.scopes[ranges(model.factor_offsets[chosen], arity[chosen])]
        offsets, odd = offsets_of(arity[chosen]), kinds[chosen].astype(np.int64)
        with np.errstate(invalid="ignore"):
            differences = logs[:, 1::2] - logs[:, ::2]
        differences[trouble > 0] = 0
        forced, impossible, more = _forced(differences, offsets, scopes, odd)
        plan = _odds_of_parities(offsets, scopes, odd, neighbours(scopes, model.variables), forced, precision)
        return Prepared(plan, impossible, np.maximum(trouble, more), len(chosen))
    trouble = _impossible(members.log_unaries, model.cardinalities)
    chosen = np.flatnonzero(arity)
    offsets = offsets_of(arity[chosen])
    plan = _vectors(
        model.cardinalities, offsets, model.scopes, model.table_offsets[chosen], model.table_offsets, tables,
        members.log_unaries,
    )  # fmt: skip
    return Prepared(plan, _zeros(members.log_unaries), trouble, 0)


def _zeros(logs: Floats) -> NDArray[np.bool_] | None:
    zeros = np.isneginf(logs)
    return zeros if zeros.any() else None


def _impossible(logs: Floats, cardinalities: Integers) -> Integers:
    """Return of each member 1 more than a variable with no possible state, else 0."""
    if not cardinalities.size:
        return np.zeros(len(logs), np.int64)
    none = np.isneginf(np.maximum.reduceat(logs, offsets_of(cardinalities)[:-1], axis=1))
    return np.where(none.any(axis=1), none.argmax(axis=1) + 1, 0).astype(np.int64)


def _forced(
    logs: Floats, offsets: Integers, scopes: Integers, odd: Integers
) -> tuple[Floats, NDArray[np.bool_] | None, Integers]:
    """Make certain what parities of certain bits make certain; `logs` are those of odds."""
    certain = np.isinf(logs)
    if not certain.any():
        return logs, None, np.zeros(len(logs), np.int64)
    known = np.where(certain, logs > 0, -1).astype(np.int8)
    known, trouble = force(known, offsets, scopes, odd)
    logs = np.where(known < 0, logs, np.where(known > 0, np.inf, -np.inf))
    impossible = np.stack([known == 1, known == 0], axis=2).reshape(len(logs), -1)
    return logs, impossible, trouble


def _odds(
    variables: int, offsets: Integers, scopes: Integers, kinds: Integers, tables: Floats, logs: Floats, precision: str
) -> BatchPlan | None:
    """Return a plan of tables without zeros, or None if products of odds might overflow."""
    with np.errstate(invalid="ignore"):
        differences = logs[:, 1::2] - logs[:, ::2]
    corners = tables.reshape(*tables.shape[:-1], -1, 4)
    relative = corners[..., 1:] - corners[..., :1]
    forth, back, both = np.moveaxis(relative, -1, 0)
    reach = [np.maximum(abs(forth), abs(both - back)), np.maximum(abs(back), abs(both - forth))]
    most = [r.max(axis=0) if r.ndim > 1 else r for r in reach]
    told = np.bincount(scopes[1::2], most[0][kinds - 2], variables) + np.bincount(
        scopes[::2], most[1][kinds - 2], variables
    )
    widest = float(abs(relative).max(initial=0.0))
    for kind in ("float32", "float64") if precision == "float32" else ("float64",):
        # Beyond that, one state is certain but for rounding, whatever a variable is told
        certain = told + 2 * widest + _NEGLIGIBLE_LOG[kind]
        unaries = np.clip(np.nan_to_num(differences), -certain, certain)
        if float((abs(unaries) + told).max(initial=0.0)) + widest <= _LARGEST_LOG[kind]:
            weights = np.exp(relative).reshape(*tables.shape[:-1], -1).astype(kind)
            others = neighbours(scopes, variables)
            return _plan(offsets, scopes, kinds, others, weights, np.exp(unaries).astype(kind), _LARGEST_LOG[kind])
    return None


def _odds_of_parities(
    offsets: Integers, scopes: Integers, odd: Integers, others: tuple[NDArray[Any], ...], logs: Floats, precision: str
) -> BatchPlan:
    limit = _LARGEST_PARITY_LOG[precision]
    odds = np.clip(logs, -limit, limit).astype(precision)
    np.exp(odds, out=odds)
    return _plan(offsets, scopes, odd, others, np.zeros(0, precision), odds, limit)


def _plan(
    offsets: Integers,
    scopes: Integers,
    kinds: Integers,
    others: tuple[NDArray[Any], ...],
    weights: NDArray[Any],
    unaries: NDArray[Any],
    limit: float,
) -> BatchPlan:
    model: tuple[NDArray[Any], ...] = (offsets, scopes.astype(np.uint32), kinds, *others)
    bounds = (math.exp(-limit), math.exp(limit))
    initial = np.ones(len(scopes), unaries.dtype)
    return BatchPlan("batch_odds", unaries.dtype.name, model, initial, unaries, weights, bounds)


def _vectors(
    cardinalities: Integers,
    offsets: Integers,
    scopes: Integers,
    tables_at: Integers,
    table_offsets: Integers,
    log_tables: Floats,
    logs: Floats,
) -> BatchPlan:
    unary_places = offsets_of(cardinalities)
    sizes = cardinalities[scopes]
    places = offsets_of(sizes)
    model: tuple[NDArray[Any], ...] = (
        offsets, scopes.astype(np.uint32), cardinalities, places[:-1], unary_places[:-1], tables_at,
        *neighbours(scopes, cardinalities.size),
    )  # fmt: skip
    return BatchPlan(
        "batch_vectors", "float64", model, np.repeat(1 / sizes, sizes), _weights(logs, unary_places),
        _weights(log_tables, table_offsets), (0.0, 1.0),
    )  # fmt: skip


def _weights(logs: Floats, offsets: Integers) -> Floats:
    """Return weights, the largest of each group of the last axis 1; zeros stay zeros, and nothing else becomes one."""
    filled = np.diff(offsets) > 0
    largest = np.full((*logs.shape[:-1], len(filled)), -np.inf)
    if filled.any():
        largest[..., filled] = np.maximum.reduceat(logs, offsets[:-1][filled], axis=-1)
    divisors = np.where(np.isneginf(largest), 0.0, largest)
    weights = np.exp(logs - np.repeat(divisors, np.diff(offsets), axis=-1))
    weights[(weights < TINY) & ~np.isneginf(logs)] = TINY
    return np.ascontiguousarray(weights)
