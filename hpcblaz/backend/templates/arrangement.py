"""The order of units and of their messages: units that are no neighbours of each other stand together, in levels.

A unit's level is one more than the highest of its earlier neighbours, so that a sweep over the levels, each at once, is
the sweep over the units one by one. Trees are taken from their roots, and others in the order that they came in.
"""

import numpy as np
from numba import njit


@njit
def sorted_by(keys, count):
    """Return where each key's items begin, and the items in the order of their keys, else in their own."""
    offsets = np.zeros(count + 1, np.int64)
    for key in keys:
        offsets[key + 1] += 1
    for i in range(count):
        offsets[i + 1] += offsets[i]
    position = offsets[:-1].copy()
    items = np.empty(len(keys), np.int64)
    for i in range(len(keys)):
        items[position[keys[i]]] = i
        position[keys[i]] += 1
    return offsets, items


@njit
def from_roots(units, hubs, unit_offsets, unit_hubs, hub_offsets, hub_units):
    """Return units from the roots of their trees on, or an empty list if there is a loop.

    Units and hubs are the two sides of a graph: a unit's hubs are what it has in common with others.
    """
    found = np.empty(units, np.int64)
    if len(unit_hubs) >= units + hubs:
        return found[:0]
    seen, reached = np.zeros(units, np.bool_), np.zeros(hubs, np.bool_)
    count = done = components = hubs_reached = 0
    for root in range(units):
        if seen[root]:
            continue
        components += 1
        seen[root] = True
        found[count] = root
        count += 1
        while done < count:
            u = found[done]
            done += 1
            for i in range(unit_offsets[u], unit_offsets[u + 1]):
                hub = unit_hubs[i]
                if reached[hub]:
                    continue
                reached[hub] = True
                hubs_reached += 1
                for j in range(hub_offsets[hub], hub_offsets[hub + 1]):
                    w = hub_units[j]
                    if not seen[w]:
                        seen[w] = True
                        found[count] = w
                        count += 1
    if len(unit_hubs) != units + hubs_reached - components:
        return found[:0]
    return found


@njit
def in_levels(units, hubs, unit_offsets, unit_hubs, hub_offsets, hub_units):
    """Return where the levels begin, and the units level by level."""
    sequence = from_roots(units, hubs, unit_offsets, unit_hubs, hub_offsets, hub_units)
    if len(sequence) == 0:
        sequence = np.arange(units)
    highest = np.full(hubs, -1, np.int64)
    level = np.zeros(units, np.int64)
    levels = 0
    for u in sequence:
        most = np.int64(-1)
        for i in range(unit_offsets[u], unit_offsets[u + 1]):
            most = max(most, highest[unit_hubs[i]])
        level[u] = most + 1
        levels = max(levels, most + 2)
        for i in range(unit_offsets[u], unit_offsets[u + 1]):
            highest[unit_hubs[i]] = most + 1
    return sorted_by(level, levels)


@njit(nogil=True, cache=True)
def arrange_pairs(edges, variables):
    """Return levels, order of the variables, where the messages of each begin, their numbers, reverses and targets.

    Message 2 e goes from the first to the second variable of edge e, and 2 e + 1 back.
    """
    count = 2 * len(edges)
    sources = np.empty(count, np.int64)
    hubs = np.empty(count, np.int64)
    for e in range(len(edges)):
        sources[2 * e], sources[2 * e + 1] = edges[e]
        hubs[2 * e] = hubs[2 * e + 1] = e
    unit_offsets, sent = sorted_by(sources, variables)
    hub_offsets = np.arange(len(edges) + 1) * 2
    levels, order = in_levels(variables, len(edges), unit_offsets, hubs[sent], hub_offsets, sources)
    rank = np.empty(variables, np.int64)
    offsets = np.zeros(variables + 1, np.int64)
    numbers = np.empty(count, np.int64)
    places = np.empty(count, np.uint32)
    k = 0
    for i in range(variables):
        rank[order[i]] = i
        for j in range(unit_offsets[order[i]], unit_offsets[order[i] + 1]):
            numbers[k] = sent[j]
            places[sent[j]] = k
            k += 1
        offsets[i + 1] = k
    reverse = np.empty(count, np.uint32)
    targets = np.empty(count, np.uint32)
    for k in range(count):
        reverse[k] = places[numbers[k] ^ 1]
        targets[k] = rank[sources[numbers[k] ^ 1]]
    return levels, order, offsets, numbers, reverse, targets


@njit(nogil=True, cache=True)
def arrange_factors(factor_offsets, scopes, variables):
    """Return levels, order of the factors, where the messages of each begin, their numbers, and the listeners.

    Message e goes from its factor to variable scopes[e].
    """
    factors = len(factor_offsets) - 1
    owners = np.empty(len(scopes), np.int64)
    for f in range(factors):
        owners[factor_offsets[f] : factor_offsets[f + 1]] = f
    hub_offsets, told = sorted_by(scopes, variables)
    levels, order = in_levels(factors, variables, factor_offsets, scopes, hub_offsets, owners[told])
    rank = np.empty(factors, np.int64)
    offsets = np.zeros(factors + 1, np.int64)
    numbers = np.empty(len(scopes), np.int64)
    places = np.empty(len(scopes), np.int64)
    k = 0
    for i in range(factors):
        rank[order[i]] = i
        for e in range(factor_offsets[order[i]], factor_offsets[order[i] + 1]):
            numbers[k] = e
            places[e] = k
            k += 1
        offsets[i + 1] = k
    return levels, order, offsets, numbers, hub_offsets, places[told], rank[owners[told]]
