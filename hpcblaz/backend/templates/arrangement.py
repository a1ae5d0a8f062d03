"""The order of units and of their messages: units that are no neighbours of each other stand together, in levels.

A unit's level is one more than the highest of its earlier neighbours, so that a sweep over the levels, each at once, is
the sweep over the units one by one. Trees are taken from their roots, and others in the order that they came in.
"""

import numpy as np

from .helper import helper, kernel


@helper()
def begins_of(counts):
    """Return where rows begin, and where the last one ends; row i has counts[i + 1] items."""
    for i in range(1, len(counts)):
        counts[i] += counts[i - 1]
    return counts


@helper()
def sorted_by(keys, count):
    """Return where each key's items begin, and the items in the order of their keys, else in their own."""
    offsets = np.zeros(count + 1, np.int64)
    for key in keys:
        offsets[key + 1] += 1
    begins_of(offsets)
    position = offsets[:-1].copy()
    items = np.empty(len(keys), np.int64)
    for i in range(len(keys)):
        items[position[keys[i]]] = i
        position[keys[i]] += 1
    return offsets, items


@helper()
def from_roots(units, hubs, unit_offsets, unit_hubs, hub_offsets, hub_units):
    """Return units from the roots of their trees on, or an empty list if there is a loop.

    Units and hubs are the two sides of a graph: a unit's hubs are what it has in common with others.
    """
    if len(unit_hubs) >= units + hubs:
        return np.empty(0, np.int64)
    found = np.empty(units, np.int64)
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


@helper()
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


@helper()
def tree_levels(edges, offsets, sent):
    """Return the level of each variable, from the roots of trees on, and the number of levels: 0 if there is a loop."""
    variables = len(offsets) - 1
    level = np.full(variables, -1, np.int32)
    if len(edges) >= variables:
        return level, 0
    found = np.empty(variables, np.uint32)
    count = done = components = levels = 0
    for root in range(variables):
        if level[root] >= 0:
            continue
        components += 1
        level[root] = 0
        found[count] = root
        count += 1
        while done < count:
            u = found[done]
            done += 1
            following = level[u] + 1
            levels = max(levels, following)
            for j in range(offsets[u], offsets[u + 1]):
                w = edges[sent[j] >> 1, 1 - (sent[j] & 1)]
                if level[w] < 0:
                    level[w] = following
                    found[count] = w
                    count += 1
    return level, levels if len(edges) == variables - components else 0


@helper()
def levels_in_order(edges, offsets, sent, level):
    """Write the level of each variable, in the order that they came in; return the number of levels."""
    levels = 0
    for u in range(len(level)):
        most = -1
        for j in range(offsets[u], offsets[u + 1]):
            w = edges[sent[j] >> 1, 1 - (sent[j] & 1)]
            if w < u:
                most = max(most, level[w])
        level[u] = most + 1
        levels = max(levels, most + 2)
    return levels


@kernel()
def arrange_pairs(edges, variables):
    """Return levels, order of the variables, where the messages of each begin, their numbers, reverses and targets.

    Message 2 e goes from the first to the second variable of edge e, and 2 e + 1 back.
    """
    count = 2 * len(edges)
    begins = np.zeros(variables + 1, np.int64)
    for e in range(len(edges)):
        begins[edges[e, 0] + 1] += 1
        begins[edges[e, 1] + 1] += 1
    begins_of(begins)
    sent = np.empty(count, np.uint32)
    position = begins[:-1].copy()
    for e in range(len(edges)):
        for way in range(2):
            u = edges[e, way]
            sent[position[u]] = 2 * e + way
            position[u] += 1
    level, count_of_levels = tree_levels(edges, begins, sent)
    if count_of_levels == 0:
        count_of_levels = levels_in_order(edges, begins, sent, level)
    levels, order = sorted_by(level, count_of_levels)
    rank = np.empty(variables, np.uint32)
    offsets = np.zeros(variables + 1, np.int64)
    numbers = np.empty(count, np.uint32)
    places = np.empty(count, np.uint32)
    k = 0
    for i in range(variables):
        u = order[i]
        rank[u] = i
        for j in range(begins[u], begins[u + 1]):
            numbers[k] = sent[j]
            places[sent[j]] = k
            k += 1
        offsets[i + 1] = k
    reverse = sent  # which is not needed any more
    targets = np.empty(count, np.uint32)
    for k in range(count):
        number = numbers[k]
        reverse[k] = places[number ^ 1]
        targets[k] = rank[edges[number >> 1, 1 - (number & 1)]]
    return levels, order, offsets, numbers, reverse, targets


@kernel()
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
    numbers = np.empty(len(scopes), np.uint32)
    places = np.empty(len(scopes), np.int64)
    k = 0
    for i in range(factors):
        rank[order[i]] = i
        for e in range(factor_offsets[order[i]], factor_offsets[order[i] + 1]):
            numbers[k] = e
            places[e] = k
            k += 1
        offsets[i + 1] = k
    # What each variable is told, in the order in which it is sent
    position = hub_offsets[:-1].copy()
    listeners = np.empty(len(scopes), np.int64)
    for i in range(factors):
        for k in range(offsets[i], offsets[i + 1]):
            v = scopes[numbers[k]]
            told[position[v]] = k
            listeners[position[v]] = i
            position[v] += 1
    return levels, order, offsets, numbers, hub_offsets, told, listeners


@kernel()
def relative(log_tables, row, out):
    """Write the logs of the entries (0, 1), (1, 0) or (1, 1) of each table of two by two, over that of (0, 0)."""
    for t in range(len(out)):
        out[t] = log_tables[4 * t + 1 + row] - log_tables[4 * t]


@kernel()
def look_at_tables(log_tables):
    """Return whether all entries are finite, whether all tables have 1 where states are alike, and the widest ratio."""
    finite = alike = True
    widest = 0.0
    for t in range(len(log_tables) // 4):
        corner = log_tables[4 * t]
        forth, back, both = (
            log_tables[4 * t + 1] - corner,
            log_tables[4 * t + 2] - corner,
            log_tables[4 * t + 3] - corner,
        )
        finite &= np.isfinite(corner) and np.isfinite(forth) and np.isfinite(back) and np.isfinite(both)
        alike &= both == 0 and forth == back
        widest = max(widest, abs(forth), abs(back), abs(both))
    return finite, alike, widest


@kernel()
def farthest(log_tables, table_of, number):
    """Return the largest log odds that a message over a table of two by two can have."""
    table = 4 * table_of[number >> 1]
    corner, both = log_tables[table], log_tables[table + 3]
    one, other = log_tables[table + 1], log_tables[table + 2]
    if number & 1:
        one, other = other, one
    return max(abs(one - corner), abs(both - other))


@kernel()
def farthest_told(log_tables, table_of, offsets, numbers, told):
    """Write the largest log of the product of the odds that each variable can be told; return that of one message."""
    most = 0.0
    for u in range(len(told)):
        total = 0.0
        for k in range(offsets[u], offsets[u + 1]):
            reach = farthest(log_tables, table_of, numbers[k] ^ 1)
            most = max(most, reach)
            total += reach
        told[u] = total
    return most


@kernel()
def spread(by_table, table_of, numbers, forth, back):
    """Write the weight of its table to each message: those along the edges to one row, and those against to another."""
    for k in range(len(numbers)):
        weight = by_table[table_of[numbers[k] >> 1]]
        if numbers[k] & 1:
            back[k] = weight
        else:
            forth[k] = weight
