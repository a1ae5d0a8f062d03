"""Messages over tables of any number of variables: a unit is a factor, and tells each of its variables.

A model is (offsets, variables, cards, places, tables_at, tables, told_offsets, told, trouble). Unit f sends messages
offsets[f] to offsets[f + 1]; message k goes to variable variables[k] of cards[variables[k]] states and is at places[k]
to places[k + 1] of the messages. The table of f is tables_at[f] to tables_at[f + 1] of tables. Variable v is told the
messages told[told_offsets[v]] and on, in the order in which they are sent. If all states of a variable are impossible,
trouble[0] becomes 1 more than its number.

What a variable tells a factor is the product of what it is told by the others. `cavities` holds these products, each
where the message back from the factor is among the messages.
"""

import numpy as np

from hpcblaz.bodies.messages import TINY, product

from .constants import REAL
from .helper import helper, inlined, kernel


@helper()
def make_buffers(model, room):
    """Return room for what the variables of a factor tell it, and for what it tells them."""
    cavity, result, before = np.empty(room, REAL), np.empty(room, REAL), np.empty(room, REAL)
    return cavity, result, before, np.empty(room, np.int64)


@inlined()
def send(model, k, fresh, messages, damping):
    """Replace a message by a fresh one, or by a mixture with it."""
    places = model[3]
    for i in range(places[k], places[k + 1]):
        messages[i] = fresh[i] + damping * (messages[i] - fresh[i])


@helper()
def scale_to_one(values):
    """Divide weights by the largest of them, and return it."""
    most = REAL(0)
    for i in range(len(values)):
        most = values[i] if values[i] > most else most
    if most > 0:
        for i in range(len(values)):
            values[i] = product(values[i], 1 / most)
    return most


@helper()
def multiply(values, messages, place):
    for x in range(len(values)):
        values[x] = product(values[x], messages[place + x])


@helper()
def tell_factor(model, f, messages, cavity):
    """Write what the variables of a factor know without it, from all that they are told."""
    offsets, variables, cards, places, tables_at, tables, told_offsets, told, trouble = model
    first = places[offsets[f]]
    for k in range(offsets[f], offsets[f + 1]):
        v = variables[k]
        values = cavity[places[k] - first : places[k + 1] - first]
        values[:] = 1
        for j in range(told_offsets[v], told_offsets[v + 1]):
            if told[j] != k:
                multiply(values, messages, places[told[j]])
                if not scale_to_one(values) > 0:
                    trouble[0] = v + 1


@helper()
def behind(model, v, messages, cavities, backward, logs):
    """Write, for each message that a variable is told, the product of those that are sent later: or before, backward.

    `logs` receives the logs of what was divided out, unless it is empty.
    """
    offsets, variables, cards, places, tables_at, tables, told_offsets, told, trouble = model
    first, count = told_offsets[v], told_offsets[v + 1] - told_offsets[v]
    place, log = -1, 0.0
    for step in range(count):
        k = told[first + step] if backward else told[first + count - 1 - step]
        values = cavities[places[k] : places[k + 1]]
        if place < 0:
            values[:] = 1
        else:
            for x in range(len(values)):
                values[x] = product(cavities[place + x], messages[place + x])
            most = scale_to_one(values)
            if len(logs):
                log += np.log(most)
        if len(logs):
            logs[k] = log
        place = places[k]


@helper()
def know(model, v, messages, cavities, before, logs):
    """Write what a variable tells each of its factors; `logs` is as for `behind`, and `before` is room to work in."""
    offsets, variables, cards, places, tables_at, tables, told_offsets, told, trouble = model
    behind(model, v, messages, cavities, np.bool_(False), logs)
    known = before[: cards[v]]
    known[:] = 1
    log = 0.0
    for j in range(told_offsets[v], told_offsets[v + 1]):
        k = told[j]
        values = cavities[places[k] : places[k + 1]]
        multiply(values, known, 0)
        most = scale_to_one(values)
        if not most > 0:
            trouble[0] = v + 1
        multiply(known, messages, places[k])
        divisor = scale_to_one(known)
        if len(logs):
            logs[k] += log + np.log(most)
            log += np.log(divisor)


@helper()
def know_all(model, first, last, messages, cavities, room):
    """Write what some variables tell their factors."""
    before, logs = np.empty(room, REAL), np.empty(0, REAL)
    for v in range(first, last):
        know(model, v, messages, cavities, before, logs)


@helper()
def next_entry(model, f, states):
    """Go to the next entry of a table: the states of the last variable run fastest."""
    offsets, variables, cards = model[0], model[1], model[2]
    i = offsets[f + 1] - offsets[f] - 1
    while i >= 0:
        states[i] += 1
        if states[i] < cards[variables[offsets[f] + i]]:
            return
        states[i] = 0
        i -= 1


@helper()
def answer(model, f, cavity, messages, out, residuals, tolerance, damping, maximise, buffers):
    """Compute what one factor sends from what its variables tell it; see `update_units`."""
    offsets, variables, cards, places, tables_at, tables, told_offsets, told, trouble = model
    result, before, states = buffers[1], buffers[2], buffers[3]
    origin, arity = offsets[f], offsets[f + 1] - offsets[f]
    above, largest = 0, REAL(0)
    if arity == 0:
        return above, largest
    first = places[origin]
    result[: places[origin + arity] - first] = 0
    states[:arity] = 0
    for entry in range(tables_at[f], tables_at[f + 1]):
        weight = tables[entry]
        if weight > 0:
            zeros = 0
            for i in range(arity):
                before[i] = weight
                known = cavity[places[origin + i] - first + states[i]]
                weight *= known
                zeros += 0 if known > 0 else 1
            if zeros < 2:
                weight = REAL(1)
                for i in range(arity - 1, -1, -1):
                    place = places[origin + i] - first + states[i]
                    if zeros == 0 or not cavity[place] > 0:
                        term = max(before[i] * weight, TINY)  # that nothing possible becomes 0
                        result[place] = max(result[place], term) if maximise else result[place] + term
                    weight *= cavity[place]
        next_entry(model, f, states)
    for k in range(origin, origin + arity):
        begin = places[k]
        fresh = result[begin - first : places[k + 1] - first]
        total = REAL(0)
        for x in range(len(fresh)):
            total += fresh[x]
        if not total > 0 and trouble[0] == 0:
            trouble[0] = variables[k] + 1
        scale = 1 / total if total > 0 else REAL(0)
        change = REAL(0)
        for x in range(len(fresh)):
            fresh[x] = product(fresh[x], scale)
            difference = fresh[x] - messages[begin + x]
            change += difference * difference
        change = np.sqrt(change)
        above += 0 if change <= tolerance else 1
        largest = change if change > largest else largest
        if len(residuals):
            residuals[k] = change
        if len(out):
            for x in range(len(fresh)):
                out[begin + x] = fresh[x] + damping * (messages[begin + x] - fresh[x])
    return above, largest


@inlined()
def update_unit(model, f, messages, out, residuals, tolerance, damping, maximise, buffers):
    """Compute what one factor sends, from all that its variables are told; see `update_units`."""
    cavity = buffers[0]
    tell_factor(model, f, messages, cavity)
    return answer(model, f, cavity, messages, out, residuals, tolerance, damping, maximise, buffers)


@inlined()
def update_knowing(model, f, cavities, messages, out, residuals, tolerance, damping, maximise, buffers):
    """Compute what one factor sends, from what `know` wrote; see `update_units`."""
    offsets, places = model[0], model[3]
    cavity = cavities[places[offsets[f]] : places[offsets[f + 1]]]
    return answer(model, f, cavity, messages, out, residuals, tolerance, damping, maximise, buffers)


@inlined()
def update_units(model, first, last, cavities, messages, out, residuals, tolerance, damping, maximise, buffers):
    """Compute what some factors send; return how many messages change by more than the tolerance, and the most.

    `out` and `residuals` may be empty: nothing is written then.
    """
    above, largest = 0, REAL(0)
    for f in range(first, last):
        some, most = update_knowing(model, f, cavities, messages, out, residuals, tolerance, damping, maximise, buffers)
        above += some
        largest = most if most > largest else largest
    return above, largest


@inlined()
def begin_sweep(model, messages, cavities, backward):
    """Write the products of what variables are told later in a sweep; return those of what they were told before."""
    offsets, variables, cards, places, tables_at, tables, told_offsets, told, trouble = model
    logs = np.empty(0, REAL)
    for v in range(len(cards)):
        behind(model, v, messages, cavities, backward, logs)
    begins = np.zeros(len(cards) + 1, np.int64)
    for v in range(len(cards)):
        begins[v + 1] = begins[v] + cards[v]
    return np.ones(begins[-1], REAL), begins


@inlined()
def sweep_level(
    model, first, last, cavities, known, begins, messages, residuals, tolerance, damping, maximise, buffers
):
    """Send what some factors send, each from the newest messages; see `begin_sweep` and `update_units`."""
    offsets, variables, cards, places, tables_at, tables, told_offsets, told, trouble = model
    above, largest = 0, REAL(0)
    for f in range(first, last):
        for k in range(offsets[f], offsets[f + 1]):
            v = variables[k]
            values = cavities[places[k] : places[k + 1]]
            multiply(values, known, begins[v])
            if not scale_to_one(values) > 0:
                trouble[0] = v + 1
        some, most = update_knowing(
            model, f, cavities, messages, messages, residuals, tolerance, damping, maximise, buffers
        )
        above += some
        largest = most if most > largest else largest
        for k in range(offsets[f], offsets[f + 1]):
            v = variables[k]
            values = known[begins[v] : begins[v + 1]]
            multiply(values, messages, places[k])
            scale_to_one(values)
    return above, largest


@kernel()
def beliefs(model, messages, out, logs):
    """Write the belief of each variable, normalised, and the logarithm of what it was divided by."""
    offsets, variables, cards, places, tables_at, tables, told_offsets, told, trouble = model
    begin = 0
    for v in range(len(cards)):
        belief = out[begin : begin + cards[v]]
        begin += cards[v]
        belief[:] = 1
        logs[v] = 0
        for j in range(told_offsets[v], told_offsets[v + 1]):
            multiply(belief, messages, places[told[j]])
            logs[v] += np.log(scale_to_one(belief))
        total = 0.0
        for x in range(len(belief)):
            total += belief[x]
        if total > 0:
            logs[v] += np.log(total)
            for x in range(len(belief)):
                belief[x] /= total
        elif trouble[0] == 0:
            trouble[0] = v + 1


@kernel()
def free_energy(model, messages, room):
    """Return the sum of the logarithms of what the beliefs of all factors would be divided by."""
    offsets, variables, cards, places, tables_at, tables, told_offsets, told, trouble = model
    cavities, logs = np.empty_like(messages), np.empty(len(variables), REAL)
    before, states = np.empty(room, REAL), np.empty(room, np.int64)
    for v in range(len(cards)):
        know(model, v, messages, cavities, before, logs)
    total = 0.0
    for f in range(len(offsets) - 1):
        origin, arity = offsets[f], offsets[f + 1] - offsets[f]
        log = 0.0
        for k in range(origin, origin + arity):
            log += logs[k]
        states[:arity] = 0
        weight = 0.0
        for entry in range(tables_at[f], tables_at[f + 1]):
            term = tables[entry]
            for i in range(arity):
                term *= cavities[places[origin + i] + states[i]]
            weight += term
            next_entry(model, f, states)
        total += np.log(weight) + log
    return total
