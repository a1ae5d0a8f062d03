"""Recurrent layers over whole sequences, with the weights and the order of gates of ONNX."""

from __future__ import annotations

from typing import Any

from hpcblaz.backend.nn import array_module
from hpcblaz.errors import ShapeError
from hpcblaz.nn.tape import Array, Tensor, record, tensor

__all__ = ["gru", "lstm"]


def lstm(x: Any, weights: Any, recurrence: Any, bias: Any, state: Any, cell: Any) -> Tensor:
    """Return the states of a long short-term memory.

    Parameters
    ----------
    x : Tensor, shape (steps, images, inputs)
    weights : Tensor, shape (4 units, inputs)
        Of the gates input, output, forget and cell, in this order.
    recurrence : Tensor, shape (4 units, units)
    bias : Tensor, shape (8 units,)
        Of the weights, then of the recurrence.
    state, cell : Tensor, shape (images, units)
        To begin with.

    Returns
    -------
    Tensor
        Of shape (steps + 1, images, units): the state after each step, and last the cell after the last step.
    """
    x, weights, recurrence, bias = tensor(x), tensor(weights), tensor(recurrence), tensor(bias)
    state, cell = tensor(state), tensor(cell)
    xp = array_module(x.data)
    steps, images, units = _checked(x, weights, recurrence, bias, state, 4)
    gates = _projected(x, weights) + (bias.data[: 4 * units] + bias.data[4 * units :])
    states = xp.empty((steps + 1, images, units), gates.dtype)
    cells = xp.empty((steps + 1, images, units), gates.dtype)
    states[0], cells[0] = state.data, cell.data
    turned = xp.ascontiguousarray(recurrence.data.T)
    for step in range(steps):
        gate = gates[step]
        gate += states[step] @ turned
        gate[:, : 3 * units] = _logistic(gate[:, : 3 * units])
        gate[:, 3 * units :] = xp.tanh(gate[:, 3 * units :])
        entry, out, forget, fresh = (gate[:, k * units : (k + 1) * units] for k in range(4))
        cells[step + 1] = forget * cells[step] + entry * fresh
        states[step + 1] = out * xp.tanh(cells[step + 1])

    def pull(gradient: Array) -> tuple[Array, ...]:
        deltas = xp.empty_like(gates)
        to_state, to_cell = xp.zeros_like(states[0]), gradient[steps]
        for step in reversed(range(steps)):
            entry, out, forget, fresh = (gates[step][:, k * units : (k + 1) * units] for k in range(4))
            bent = xp.tanh(cells[step + 1])
            to_state = to_state + gradient[step]
            to_cell = to_cell + to_state * out * (1 - bent * bent)
            delta = deltas[step]
            delta[:, :units] = to_cell * fresh * entry * (1 - entry)
            delta[:, units : 2 * units] = to_state * bent * out * (1 - out)
            delta[:, 2 * units : 3 * units] = to_cell * cells[step] * forget * (1 - forget)
            delta[:, 3 * units :] = to_cell * entry * (1 - fresh * fresh)
            to_state = delta @ recurrence.data
            to_cell = to_cell * forget
        return (*_shared(deltas, deltas, x, weights, states), to_state, to_cell)

    data = xp.concatenate([states[1:], cells[steps:]])
    return record(data, (x, weights, recurrence, bias, state, cell), pull)


def gru(x: Any, weights: Any, recurrence: Any, bias: Any, state: Any, late: bool) -> Tensor:
    """Return the states of a gated recurrent unit.

    Parameters
    ----------
    x : Tensor, shape (steps, images, inputs)
    weights : Tensor, shape (3 units, inputs)
        Of the gates update, reset and hidden, in this order.
    recurrence : Tensor, shape (3 units, units)
    bias : Tensor, shape (6 units,)
        Of the weights, then of the recurrence.
    state : Tensor, shape (images, units)
        To begin with.
    late : bool
        Reset what the recurrence gives (``linear_before_reset``), instead of the state before it.

    Returns
    -------
    Tensor
        Of shape (steps, images, units): the state after each step.
    """
    x, weights, recurrence, bias, state = map(tensor, (x, weights, recurrence, bias, state))
    xp = array_module(x.data)
    steps, images, units = _checked(x, weights, recurrence, bias, state, 3)
    inputs = _projected(x, weights) + bias.data[: 3 * units]
    both, last = slice(0, 2 * units), slice(2 * units, 3 * units)
    own = bias.data[3 * units :]
    gates = xp.empty_like(inputs)
    told = xp.empty((steps, images, units), inputs.dtype)  # of the hidden gate, by the recurrence
    states = xp.empty((steps + 1, images, units), inputs.dtype)
    states[0] = state.data
    for step in range(steps):
        before, gate = states[step], gates[step]
        gate[:, both] = _logistic(inputs[step][:, both] + before @ recurrence.data[both].T + own[both])
        update, reset = gate[:, :units], gate[:, units : 2 * units]
        if late:
            told[step] = before @ recurrence.data[last].T + own[last]
            gate[:, last] = xp.tanh(inputs[step][:, last] + reset * told[step])
        else:
            told[step] = (reset * before) @ recurrence.data[last].T + own[last]
            gate[:, last] = xp.tanh(inputs[step][:, last] + told[step])
        states[step + 1] = (1 - update) * gate[:, last] + update * before

    def pull(gradient: Array) -> tuple[Array, ...]:
        deltas, inner = xp.empty_like(gates), xp.empty_like(gates)
        to_recurrence = xp.zeros_like(recurrence.data)
        to_state = xp.zeros_like(states[0])
        for step in reversed(range(steps)):
            before, gate, delta = states[step], gates[step], deltas[step]
            update, reset, hidden = gate[:, :units], gate[:, units : 2 * units], gate[:, last]
            to_state = to_state + gradient[step]
            delta[:, :units] = to_state * (before - hidden) * update * (1 - update)
            delta[:, last] = to_state * (1 - update) * (1 - hidden * hidden)
            back = to_state * update
            if late:
                inner[step][:, last] = delta[:, last] * reset
                to_reset = delta[:, last] * told[step]
                back = back + inner[step][:, last] @ recurrence.data[last]
                to_recurrence[last] += inner[step][:, last].T @ before
            else:
                inner[step][:, last] = delta[:, last]
                through = delta[:, last] @ recurrence.data[last]
                to_reset = through * before
                back = back + through * reset
                to_recurrence[last] += delta[:, last].T @ (reset * before)
            delta[:, units : 2 * units] = to_reset * reset * (1 - reset)
            inner[step][:, both] = delta[:, both]
            to_recurrence[both] += delta[:, both].T @ before
            to_state = back + delta[:, both] @ recurrence.data[both]
        to_x, to_weights, _, to_bias = _shared(deltas, inner, x, weights, states)
        return to_x, to_weights, to_recurrence, to_bias, to_state

    return record(states[1:], (x, weights, recurrence, bias, state), pull)


def _checked(
    x: Tensor, weights: Tensor, recurrence: Tensor, bias: Tensor, state: Tensor, gates: int
) -> tuple[int, int, int]:
    units = recurrence.shape[-1]
    expected = ((gates * units, x.shape[-1]), (gates * units, units), (2 * gates * units,), (x.shape[1], units))
    got = (weights.shape, recurrence.shape, bias.shape, state.shape)
    if x.ndim != 3 or got != expected:
        raise ShapeError(f"expected weights, recurrence, bias and state of shapes {expected}, got {got}")
    return x.shape[0], x.shape[1], units


def _projected(x: Tensor, weights: Tensor) -> Array:
    return (x.data.reshape(-1, x.shape[2]) @ weights.data.T).reshape(*x.shape[:2], -1)


def _shared(deltas: Array, inner: Array, x: Tensor, weights: Tensor, states: Array) -> tuple[Array, ...]:
    """Return gradients of inputs, weights, recurrence and bias, given those of the gates, all and of the recurrence."""
    flat, flat_inner = deltas.reshape(-1, deltas.shape[2]), inner.reshape(-1, inner.shape[2])
    to_bias = array_module(flat).concatenate([flat.sum(axis=0), flat_inner.sum(axis=0)])
    return (
        (flat @ weights.data).reshape(x.shape),
        flat.T @ x.data.reshape(-1, x.shape[2]),
        flat_inner.T @ states[:-1].reshape(-1, states.shape[2]),
        to_bias,
    )


def _logistic(x: Array) -> Array:
    return 0.5 * array_module(x).tanh(0.5 * x) + 0.5
