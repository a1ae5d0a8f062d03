"""Messages over tables of two variables of any states: a unit is a variable, and tells each of its neighbours.

A model is (offsets, reverse, targets, state_offsets, unaries, places, tables_at, tables, trouble). Unit u has states
state_offsets[u] to state_offsets[u + 1] of unaries and sends the messages offsets[u] to offsets[u + 1]; message k goes
to unit targets[k], and is at places[k] to places[k + 1] of all messages. Its table begins at tables_at[k], with the
states of u as rows. If all states of a unit are impossible, trouble[0] becomes 1 more than its number.
"""

import numpy as np

from hpcblaz.bodies.messages import product

from .constants import REAL
from .helper import helper, inlined, kernel


@helper()
def make_buffers(model, room):
    """Return room for what comes in behind each message of a unit, for what came in before, and for what it sends."""
    return np.empty(room, REAL), np.empty(room, REAL), np.empty(room, REAL)


@inlined()
def send(model, k, fresh, messages, damping):
    """Replace a message by a fresh one, or by a mixture with it."""
    places = model[5]
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
def copy(source, target):
    for i in range(len(target)):
        target[i] = source[i]


@helper()
def multiply(a, b, out):
    for i in range(len(out)):
        out[i] = product(a[i], b[i])


@helper()
def behind(model, u, messages, after, logs):
    """Write, for each message of a unit, the product of what comes back along the later ones.

    `logs` receives the logs of what was divided out, unless it is empty.
    """
    offsets, reverse, targets, state_offsets, unaries, places, tables_at, tables, trouble = model
    states = state_offsets[u + 1] - state_offsets[u]
    degree = offsets[u + 1] - offsets[u]
    if degree:
        after[(degree - 1) * states : degree * states] = 1
    log = 0.0
    if degree and len(logs):
        logs[degree - 1] = 0
    for j in range(degree - 1, 0, -1):
        row = after[(j - 1) * states : j * states]
        back = places[reverse[offsets[u] + j]]
        multiply(after[j * states : (j + 1) * states], messages[back : back + states], row)
        most = scale_to_one(row)
        if len(logs):
            log += np.log(most)
            logs[j - 1] = log


@helper()
def one_row(weight, row, maximise, told):
    """Add a row of a table, times the weight of its state, to what is told; or take the larger ones."""
    if maximise:
        for y in range(len(told)):
            told[y] = max(told[y], weight * row[y])
    else:
        for y in range(len(told)):
            told[y] += weight * row[y]


@helper()
def four_rows(weights, rows, maximise, told):
    """Do what `one_row` does with four rows, one after the other, while each of the results is at hand."""
    width = len(told)
    a, b, c, d = weights[0], weights[1], weights[2], weights[3]
    first, second = rows[:width], rows[width : 2 * width]
    third, fourth = rows[2 * width : 3 * width], rows[3 * width : 4 * width]
    if maximise:
        for y in range(width):
            told[y] = max(max(max(max(told[y], a * first[y]), b * second[y]), c * third[y]), d * fourth[y])
    else:
        for y in range(width):
            told[y] = (((told[y] + a * first[y]) + b * second[y]) + c * third[y]) + d * fourth[y]


@helper()
def update_unit(model, u, messages, out, residuals, tolerance, damping, maximise, buffers):
    """Compute what one unit sends; see `update_units`."""
    offsets, reverse, targets, state_offsets, unaries, places, tables_at, tables, trouble = model
    after, work, result = buffers
    states = state_offsets[u + 1] - state_offsets[u]
    above, largest = 0, REAL(0)
    behind(model, u, messages, after, result[:0])
    before, cavity = work[:states], work[states : 2 * states]
    copy(unaries[state_offsets[u] : state_offsets[u + 1]], before)
    for k in range(offsets[u], offsets[u + 1]):
        j = k - offsets[u]
        multiply(before, after[j * states : (j + 1) * states], cavity)
        if not scale_to_one(cavity) > 0:
            trouble[0] = u + 1
        back = places[reverse[k]]
        multiply(before, messages[back : back + states], before)
        scale_to_one(before)
        begin, end = places[k], places[k + 1]
        width = end - begin
        told = result[:width]
        told[:] = 0
        x = 0
        while x < states:
            place = tables_at[k] + x * width
            if x + 4 <= states and cavity[x] > 0 and cavity[x + 1] > 0 and cavity[x + 2] > 0 and cavity[x + 3] > 0:
                four_rows(cavity[x : x + 4], tables[place : place + 4 * width], maximise, told)
                x += 4
            else:
                if cavity[x] > 0:
                    one_row(cavity[x], tables[place : place + width], maximise, told)
                x += 1
        total = REAL(0)
        for y in range(width):
            total += told[y]
        if not total > 0 and trouble[0] == 0:
            trouble[0] = targets[k] + 1
        scale = 1 / total if total > 0 else REAL(0)
        change = REAL(0)
        for y in range(width):
            told[y] = product(told[y], scale)
            difference = told[y] - messages[begin + y]
            change += difference * difference
        change = np.sqrt(change)
        above += 0 if change <= tolerance else 1
        largest = change if change > largest else largest
        if len(residuals):
            residuals[k] = change
        if len(out):
            for y in range(width):
                out[begin + y] = told[y] + damping * (messages[begin + y] - told[y])
    return above, largest


@inlined()
def update_units(model, first, last, cavities, messages, out, residuals, tolerance, damping, maximise, buffers):
    """Compute what some units send; return how many messages change by more than the tolerance, and the largest change.

    `out` may be `messages` if the units are no neighbours of each other. It and `residuals` may be empty: nothing is
    written then.
    """
    above, largest = 0, REAL(0)
    for u in range(first, last):
        some, most = update_unit(model, u, messages, out, residuals, tolerance, damping, maximise, buffers)
        above += some
        largest = most if most > largest else largest
    return above, largest


@inlined()
def send_level(model, first, last, messages, residuals, tolerance, damping, maximise, buffers):
    """Send what some units send that are no neighbours of each other; see `update_units`."""
    return update_units(
        model, first, last, messages, messages, messages, residuals, tolerance, damping, maximise, buffers
    )


@kernel()
def beliefs(model, messages, out, logs):
    """Write the belief of each unit, normalised, and the logarithm of what it was divided by."""
    offsets, reverse, targets, state_offsets, unaries, places, tables_at, tables, trouble = model
    for u in range(len(offsets) - 1):
        belief = out[state_offsets[u] : state_offsets[u + 1]]
        copy(unaries[state_offsets[u] : state_offsets[u + 1]], belief)
        logs[u] = np.log(scale_to_one(belief))
        for k in range(offsets[u], offsets[u + 1]):
            back = places[reverse[k]]
            multiply(belief, messages[back : back + len(belief)], belief)
            logs[u] += np.log(scale_to_one(belief))
        total = 0.0
        for x in range(len(belief)):
            total += belief[x]
        if total > 0:
            logs[u] += np.log(total)
            for x in range(len(belief)):
                belief[x] /= total
        elif trouble[0] == 0:
            trouble[0] = u + 1


@kernel()
def free_energy(model, messages, cavities, logs, room):
    """Return the sum of the logarithms of what the beliefs of all edges would be divided by."""
    offsets, reverse, targets, state_offsets, unaries, places, tables_at, tables, trouble = model
    after, work, result = make_buffers(model, room)
    behind_logs = np.zeros(room)
    for u in range(len(offsets) - 1):
        states = state_offsets[u + 1] - state_offsets[u]
        behind(model, u, messages, after, behind_logs)
        before = work[:states]
        copy(unaries[state_offsets[u] : state_offsets[u + 1]], before)
        log = np.log(scale_to_one(before))
        for k in range(offsets[u], offsets[u + 1]):
            j = k - offsets[u]
            back = places[reverse[k]]
            cavity = cavities[back : back + states]
            multiply(before, after[j * states : (j + 1) * states], cavity)
            logs[k] = log + behind_logs[j] + np.log(scale_to_one(cavity))
            multiply(before, messages[back : back + states], before)
            log += np.log(scale_to_one(before))
    total = 0.0
    for u in range(len(offsets) - 1):
        states = state_offsets[u + 1] - state_offsets[u]
        for k in range(offsets[u], offsets[u + 1]):
            if reverse[k] < k:
                continue
            mine, other = places[reverse[k]], places[k]
            width = places[k + 1] - other
            weight = 0.0
            for x in range(states):
                row = 0.0
                for y in range(width):
                    row += tables[tables_at[k] + x * width + y] * cavities[other + y]
                weight += cavities[mine + x] * row
            total += np.log(weight) + logs[k] + logs[reverse[k]]
    return total
