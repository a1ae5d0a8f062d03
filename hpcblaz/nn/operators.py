"""What each operator of ONNX computes, in the form of version 20 of its set.

:data:`OPERATORS` holds, by name, functions of a list of operands (None where one is left out) and of attributes, which
return a tensor or a tuple of them. Shapes and indices are integers in host memory, also where the network is on a card.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hpcblaz.backend.nn import array_module
from hpcblaz.errors import NetworkError, ShapeError
from hpcblaz.nn import convolutions, elementwise, linear, normalising, recurrent, shaping
from hpcblaz.nn.shape_operators import SHAPING, Attributes, Operands, Operator, get, number
from hpcblaz.nn.tape import Array, Tensor

__all__ = ["OPERATORS"]

OPERATORS: dict[str, Operator] = dict(SHAPING)


def _operator(*names: str) -> Callable[[Operator], Operator]:
    def add(function: Operator) -> Operator:
        OPERATORS.update(dict.fromkeys(names, function))
        return function

    return add


def _simple(name: str, function: Callable[..., Tensor], operands: int = 1) -> None:
    OPERATORS[name] = lambda x, attributes: function(*x[:operands])


_UNARY: dict[str, Callable[..., Tensor]] = {
    "Abs": elementwise.absolute,
    "Erf": elementwise.erf,
    "Exp": elementwise.exp,
    "HardSwish": elementwise.hard_swish,
    "Log": elementwise.log,
    "Neg": elementwise.negate,
    "Reciprocal": elementwise.reciprocal,
    "Relu": elementwise.relu,
    "Sigmoid": elementwise.sigmoid,
    "Softplus": elementwise.softplus,
    "Sqrt": elementwise.sqrt,
    "Tanh": elementwise.tanh,
}
_BINARY: dict[str, Callable[..., Tensor]] = {
    "Add": elementwise.add,
    "Div": elementwise.divide,
    "MatMul": linear.matmul,
    "Mul": elementwise.multiply,
    "Pow": elementwise.power,
    "Sub": elementwise.subtract,
}
for _name, _function in _UNARY.items():
    _simple(_name, _function)
for _name, _function in _BINARY.items():
    _simple(_name, _function, 2)
_simple("Where", elementwise.where, 3)


def _plain(name: str, function: Callable[..., Array]) -> None:
    """Add an operator that has no gradient; what it gives stays where its operands are."""

    def compute(operands: Operands, attributes: Attributes) -> Tensor:
        xp = array_module(*(x.data for x in operands))
        return Tensor(xp.asarray(function(xp, *(x.data for x in operands))))

    OPERATORS[name] = compute


_PLAIN: dict[str, Callable[..., Array]] = {
    "And": lambda xp, a, b: xp.logical_and(a, b),
    "Ceil": lambda xp, a: xp.ceil(a),
    "Equal": lambda xp, a, b: a == b,
    "Floor": lambda xp, a: xp.floor(a),
    "Greater": lambda xp, a, b: a > b,
    "GreaterOrEqual": lambda xp, a, b: a >= b,
    "IsNaN": lambda xp, a: xp.isnan(a),
    "Less": lambda xp, a, b: a < b,
    "LessOrEqual": lambda xp, a, b: a <= b,
    "Not": lambda xp, a: ~a,
    "Or": lambda xp, a, b: xp.logical_or(a, b),
    "Round": lambda xp, a: xp.rint(a),
    "Sign": lambda xp, a: xp.sign(a),
}
for _name, _plain_function in _PLAIN.items():
    _plain(_name, _plain_function)


def _folded(function: Callable[[Any, Any], Tensor]) -> Operator:
    def fold(x: Operands, attributes: Attributes) -> Tensor:
        result: Tensor = x[0]
        for other in x[1:]:
            result = function(result, other)
        return result

    return fold


OPERATORS["Max"] = _folded(elementwise.maximum)
OPERATORS["Min"] = _folded(elementwise.minimum)
OPERATORS["Sum"] = _folded(elementwise.add)


@_operator("Identity", "Dropout")
def _identity(x: Operands, attributes: Attributes) -> Tensor:
    return x[0]  # type: ignore[no-any-return]


@_operator("LeakyRelu")
def _leaky_relu(x: Operands, attributes: Attributes) -> Tensor:
    return elementwise.leaky_relu(x[0], attributes.get("alpha", 0.01))


@_operator("Elu")
def _elu(x: Operands, attributes: Attributes) -> Tensor:
    return elementwise.elu(x[0], attributes.get("alpha", 1.0))


@_operator("HardSigmoid")
def _hard_sigmoid(x: Operands, attributes: Attributes) -> Tensor:
    return elementwise.hard_sigmoid(x[0], attributes.get("alpha", 0.2), attributes.get("beta", 0.5))


@_operator("Gelu")
def _gelu(x: Operands, attributes: Attributes) -> Tensor:
    return elementwise.gelu(x[0], attributes.get("approximate", "none") == "tanh")


@_operator("Clip")
def _clip(x: Operands, attributes: Attributes) -> Tensor:
    kind = x[0].dtype.type
    bounds = [None if b is None else kind(b) for b in (number(get(x, 1)), number(get(x, 2)))]
    return elementwise.clip(x[0], *bounds)


@_operator("Softmax")
def _softmax(x: Operands, attributes: Attributes) -> Tensor:
    return linear.softmax(x[0], attributes.get("axis", -1))


@_operator("LogSoftmax")
def _log_softmax(x: Operands, attributes: Attributes) -> Tensor:
    return linear.log_softmax(x[0], attributes.get("axis", -1))


@_operator("Gemm")
def _gemm(x: Operands, attributes: Attributes) -> Tensor:
    a, b, c = x[0], x[1], get(x, 2)
    alpha, beta = attributes.get("alpha", 1.0), attributes.get("beta", 1.0)
    a = shaping.transpose(a) if attributes.get("transA", 0) else a
    if attributes.get("transB", 0) and alpha == beta == 1.0:
        return linear.dense(a, b, c)
    product = linear.matmul(a, shaping.transpose(b) if attributes.get("transB", 0) else b)
    product = product if alpha == 1.0 else elementwise.multiply(product, Tensor(np.asarray(alpha, a.dtype)))
    if c is None:
        return product
    return elementwise.add(product, c if beta == 1.0 else elementwise.multiply(c, Tensor(np.asarray(beta, a.dtype))))


def _padding(x: Tensor, kernel: Sequence[int], attributes: Attributes) -> list[int]:
    """Return the padding before and after the axes of images, as ``auto_pad`` or ``pads`` says."""
    mode = attributes.get("auto_pad", "NOTSET")
    axes = len(kernel)
    if mode == "NOTSET":
        return list(attributes.get("pads", [0] * (2 * axes)))
    before, after = [0] * axes, [0] * axes
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        strides, dilations = attributes.get("strides", [1] * axes), attributes.get("dilations", [1] * axes)
        for k, (n, m, s, d) in enumerate(zip(x.shape[2:], kernel, strides, dilations, strict=True)):
            whole = max(0, (-(-n // s) - 1) * s + d * (m - 1) + 1 - n)
            less, more = whole // 2, whole - whole // 2
            before[k], after[k] = (less, more) if mode == "SAME_UPPER" else (more, less)
    elif mode != "VALID":
        raise NetworkError(f"expected auto_pad to be NOTSET, VALID, SAME_UPPER or SAME_LOWER, got {mode!r}")
    return before + after


@_operator("Conv")
def _conv(x: Operands, attributes: Attributes) -> Tensor:
    kernel = x[1].shape[2:]
    if list(attributes.get("kernel_shape", kernel)) != list(kernel):
        raise ShapeError(f"expected weights of the kernel {attributes['kernel_shape']}, got {x[1].shape}")
    return convolutions.convolution(
        x[0],
        x[1],
        get(x, 2),
        attributes.get("strides", 1),
        _padding(x[0], kernel, attributes),
        attributes.get("dilations", 1),
        attributes.get("group", 1),
    )


@_operator("MaxPool")
def _max_pool(x: Operands, attributes: Attributes) -> Tensor:
    kernel = attributes["kernel_shape"]
    return convolutions.max_pool(
        x[0],
        kernel,
        attributes.get("strides", 1),
        _padding(x[0], kernel, attributes),
        attributes.get("dilations", 1),
        bool(attributes.get("ceil_mode", 0)),
    )


@_operator("AveragePool")
def _average_pool(x: Operands, attributes: Attributes) -> Tensor:
    kernel = attributes["kernel_shape"]
    if any(d != 1 for d in attributes.get("dilations", ())):
        raise NetworkError("expected AveragePool without dilations, got some")
    return convolutions.average_pool(
        x[0],
        kernel,
        attributes.get("strides", 1),
        _padding(x[0], kernel, attributes),
        bool(attributes.get("ceil_mode", 0)),
        bool(attributes.get("count_include_pad", 0)),
    )


@_operator("GlobalAveragePool")
def _global_average_pool(x: Operands, attributes: Attributes) -> Tensor:
    return shaping.mean(x[0], range(2, x[0].ndim), keep=True)


@_operator("GlobalMaxPool")
def _global_max_pool(x: Operands, attributes: Attributes) -> Tensor:
    return shaping.largest(x[0], range(2, x[0].ndim), keep=True)


@_operator("BatchNormalization")
def _batch_norm(x: Operands, attributes: Attributes) -> Tensor:
    return normalising.batch_norm(x[0], x[1], x[2], x[3].data, x[4].data, attributes.get("epsilon", 1e-5), fixed=True)


@_operator("LayerNormalization")
def _layer_norm(x: Operands, attributes: Attributes) -> Tensor:
    return normalising.layer_norm(x[0], x[1], get(x, 2), attributes.get("axis", -1), attributes.get("epsilon", 1e-5))


def _directions(x: Operands, attributes: Attributes, gates: int) -> list[tuple[Any, ...]]:
    """Return, for each direction: sequence, weights, recurrence, bias, state, empty state, and whether it is turned."""
    names = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
    units = x[2].shape[2]
    xp = array_module(x[0].data)
    result = []
    for k, backward in enumerate(names[attributes.get("direction", "forward")]):
        weights, recurrence = shaping.section(x[1], k), shaping.section(x[2], k)
        bias, state = get(x, 3), get(x, 5)
        bias = Tensor(xp.zeros(2 * gates * units, x[0].dtype)) if bias is None else shaping.section(bias, k)
        empty = Tensor(xp.zeros((x[0].shape[1], units), x[0].dtype))
        state = empty if state is None else shaping.section(state, k)
        sequence = shaping.section(x[0], slice(None, None, -1)) if backward else x[0]
        result.append((sequence, weights, recurrence, bias, state, empty, backward))
    return result


def _joined(parts: Sequence[Tensor], axis: int) -> Tensor:
    """Return tensors along a new axis."""
    fresh = [shaping.reshape(x, (*x.shape[:axis], 1, *x.shape[axis:])) for x in parts]
    return fresh[0] if len(fresh) == 1 else shaping.concatenate(fresh, axis)


@_operator("LSTM")
def _lstm(x: Operands, attributes: Attributes) -> tuple[Tensor, ...]:
    sequences, states, cells = [], [], []
    for k, (sequence, weights, recurrence, bias, state, empty, backward) in enumerate(_directions(x, attributes, 4)):
        cell = empty if get(x, 6) is None else shaping.section(x[6], k)
        both = recurrent.lstm(sequence, weights, recurrence, bias, state, cell)
        hidden = shaping.section(both, slice(0, -1))
        states.append(shaping.section(both, -2))
        cells.append(shaping.section(both, -1))
        sequences.append(shaping.section(hidden, slice(None, None, -1)) if backward else hidden)
    return _joined(sequences, 1), _joined(states, 0), _joined(cells, 0)


@_operator("GRU")
def _gru(x: Operands, attributes: Attributes) -> tuple[Tensor, ...]:
    sequences, states = [], []
    late = bool(attributes.get("linear_before_reset", 0))
    for sequence, weights, recurrence, bias, state, _, backward in _directions(x, attributes, 3):
        hidden = recurrent.gru(sequence, weights, recurrence, bias, state, late)
        states.append(shaping.section(hidden, -1))
        sequences.append(shaping.section(hidden, slice(None, None, -1)) if backward else hidden)
    return _joined(sequences, 1), _joined(states, 0)


def _along(x: Tensor, operand: Tensor, axis: int) -> Array:
    """Return a scale or a zero point in a shape that broadcasts along an axis."""
    data = operand.data
    return data if data.size == 1 else data.reshape([-1 if k == axis % x.ndim else 1 for k in range(x.ndim)])


@_operator("QuantizeLinear")
def _quantize(x: Operands, attributes: Attributes) -> Tensor:
    axis = attributes.get("axis", 1)
    zero = get(x, 2)
    kind = np.dtype("uint8") if zero is None else zero.dtype
    limits = np.iinfo(kind)
    xp = array_module(x[0].data)
    steps = xp.rint(x[0].data / _along(x[0], x[1], axis))
    if zero is not None:
        steps = steps + _along(x[0], zero, axis).astype(steps.dtype)
    return Tensor(xp.clip(steps, limits.min, limits.max).astype(kind))


@_operator("DequantizeLinear")
def _dequantize(x: Operands, attributes: Attributes) -> Tensor:
    axis = attributes.get("axis", 1)
    scale, zero = _along(x[0], x[1], axis), get(x, 2)
    steps = x[0].data.astype(scale.dtype)
    return Tensor((steps if zero is None else steps - _along(x[0], zero, axis).astype(scale.dtype)) * scale)
