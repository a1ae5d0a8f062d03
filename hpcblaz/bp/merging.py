"""Factors of the same variables become one, so that a factor graph is a pairwise model."""

import numpy as np

from hpcblaz.bp.ragged import Floats, Integers, offsets_of, ranges
from hpcblaz.errors import ModelError


def merge(
    cardinalities: Integers, factor_offsets: Integers, scopes: Integers, table_offsets: Integers, log_tables: Floats
) -> tuple[Integers, Floats, Integers, Integers, Integers, Floats]:
    """Return the arrays of the pairwise model of a factor graph, but for its cardinalities.

    Edges come in the order of their first factors, and go as those do. Constants are added to the first variable.

    Parameters
    ----------
    cardinalities, factor_offsets, scopes, table_offsets, log_tables : numpy.ndarray
        Of a FactorGraph.

    Returns
    -------
    unary_offsets, log_unaries, edges, table_of, table_offsets, log_tables : numpy.ndarray
        Of a PairwiseModel.

    Raises
    ------
    ModelError
        If a factor has more than two variables, or there are constants and no variable.
    """
    arity = np.diff(factor_offsets)
    if arity.max(initial=0) > 2:
        factor = int(arity.argmax())
        raise ModelError(
            f"expected factors of two variables at most, got {arity[factor]} of factor {factor}: "
            "use it as a FactorGraph"
        )
    sizes = np.diff(table_offsets)
    unary_offsets = offsets_of(cardinalities)
    unaries = np.zeros(unary_offsets[-1])
    constants = log_tables[table_offsets[:-1][arity == 0]].sum()
    if cardinalities.size:
        unaries[: cardinalities[0]] = constants
    elif constants:
        raise ModelError(f"expected a variable to carry the constant {constants}, got a model without variables")
    ones = np.flatnonzero(arity == 1)
    places = ranges(unary_offsets[scopes[factor_offsets[ones]]], sizes[ones])
    unaries += np.bincount(places, log_tables[ranges(table_offsets[ones], sizes[ones])], unaries.size)

    twos = np.flatnonzero(arity == 2)
    pairs = scopes[factor_offsets[twos][:, None] + np.arange(2)]
    keys = pairs.min(axis=1) * cardinalities.size + pairs.max(axis=1)
    _, first, group = np.unique(keys, return_index=True, return_inverse=True)
    order = np.argsort(first)
    edge = np.empty(order.size, np.int64)
    edge[order] = np.arange(order.size)
    edge = edge[group]
    edges = pairs[first[order]]
    offsets = offsets_of(cardinalities[edges].prod(axis=1))
    lengths = sizes[twos]
    inside = ranges(np.zeros(twos.size, np.int64), lengths)
    rows, columns = (np.repeat(cardinalities[pairs[:, axis]], lengths) for axis in (0, 1))
    turned = np.repeat(pairs[:, 0] != edges[edge, 0], lengths)
    inside = np.where(turned, inside % columns * rows + inside // columns, inside)
    entries = np.repeat(offsets[edge], lengths) + inside
    values = log_tables[ranges(table_offsets[twos], lengths)]
    tables = np.asarray(np.bincount(entries, values, offsets[-1]), np.float64)
    return unary_offsets, unaries, edges, np.arange(len(edges), dtype=np.int64), offsets, tables
