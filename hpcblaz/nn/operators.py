"""What each operator of ONNX computes, in the form of version 20 of its set.

:data:`OPERATORS` holds, by name, functions of a list of operands (None where one is left out) and of attributes, which
return a tensor or a tuple of them. Shapes and indices are integers in host memory, also where the network is on a card.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from hpcblaz.backend.nn import array_module, to_host
from hpcblaz.errors import NetworkError, ShapeError
from hpcblaz.nn import convolutions, elementwise, linear, normalising, recurrent, shaping
from hpcblaz.nn.tape import Array, Tensor, record

__all__ = ["OPERATORS"]

Operands = Sequence[Any]
Attributes = Mapping[str, Any]
Operator = Callable[[Operands, Attributes], "Tensor | tuple[Tensor, ...]"]

OPERATORS: dict[str, Operator] = {}
TYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool", 10: "float16",
    11: "float64", 12: "uint32", 13: "uint64",
}  # fmt: skip


def _operator(*names: str) -> Callable[[Operator], Operator]:
    def add(function: Operator) -> Operator:
        OPERATORS.update(dict.fromkeys(names, function))
        return function

    return add


def _get(operands: Operands, place: int) -> Any:
    return operands[place] if place < len(operands) else None


def _integers(operand: Any) -> list[int] | None:
    """Return an operand of integers as a list; None if it is left out."""
    return None if operand is None else [int(k) for k in to_host(operand.data).reshape(-1)]


def _number(operand: Any) -> float | None:
    if operand is None:
        return None
    values = to_host(operand.data).reshape(-1)
    if len(values) != 1:
        raise ShapeError(f"expected one number, got {len(values)}")
    return float(values[0])


def _simple(name: str, function: Callable[..., Tensor], operands: int = 1) -> None:
    OPERATORS[name] = lambda x, attributes: function(*x[:operands])


for _name, _function in {
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
}.items():
    _simple(_name, _function)
for _name, _function in {
    "Add": elementwise.add,
    "Div": elementwise.divide,
    "MatMul": linear.matmul,
    "Mul": elementwise.multiply,
    "Pow": elementwise.power,
    "Sub": elementwise.subtract,
}.items():
    _simple(_name, _function, 2)
_simple("Where", elementwise.where, 3)


def _plain(name: str, function: Callable[..., Array]) -> None:
    """Add an operator that has no gradient."""
    OPERATORS[name] = lambda x, attributes: Tensor(
        np.asarray(function(array_module(*(o.data for o in x)), *(o.data for o in x)))
        if array_module(*(o.data for o in x)) is np
        else function(array_module(*(o.data for o in x)), *(o.data for o in x))
    )


for _name, _plain_function in {
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
}.items():
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
    bounds = [None if b is None else kind(b) for b in (_number(_get(x, 1)), _number(_get(x, 2)))]
    return elementwise.clip(x[0], *bounds)


@_operator("Softmax")
def _softmax(x: Operands, attributes: Attributes) -> Tensor:
    return linear.softmax(x[0], attributes.get("axis", -1))


@_operator("LogSoftmax")
def _log_softmax(x: Operands, attributes: Attributes) -> Tensor:
    return linear.log_softmax(x[0], attributes.get("axis", -1))


@_operator("Gemm")
def _gemm(x: Operands, attributes: Attributes) -> Tensor:
    a, b, c = x[0], x[1], _get(x, 2)
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
        _get(x, 2),
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
    return normalising.layer_norm(
        x[0], x[1], _get(x, 2), attributes.get("axis", -1), attributes.get("epsilon", 1e-5)
    )


def _directions(x: Operands, attributes: Attributes, gates: int) -> list[tuple[Any, ...]]:
    """Return, for each direction of a recurrent layer: sequence, weights, recurrence, bias, state; turned if backward."""
    names = {"forward": (False,), "reverse": (True,), "bidirectional": (False, True)}
    units = x[2].shape[2]
    xp = array_module(x[0].data)
    result = []
    for k, backward in enumerate(names[attributes.get("direction", "forward")]):
        weights, recurrence = shaping.section(x[1], k), shaping.section(x[2], k)
        bias, state = _get(x, 3), _get(x, 5)
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
        cell = empty if _get(x, 6) is None else shaping.section(x[6], k)
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


@_operator("Reshape")
def _reshape(x: Operands, attributes: Attributes) -> Tensor:
    shape = _integers(x[1]) or []
    if not attributes.get("allowzero", 0):
        shape = [x[0].shape[k] if n == 0 else n for k, n in enumerate(shape)]
    return shaping.reshape(x[0], shape)


@_operator("Flatten")
def _flatten(x: Operands, attributes: Attributes) -> Tensor:
    axis = attributes.get("axis", 1)
    axis = axis + x[0].ndim if axis < 0 else axis
    rows = int(np.prod(x[0].shape[:axis], dtype=np.int64))
    return shaping.reshape(x[0], (rows, int(np.prod(x[0].shape[axis:], dtype=np.int64))))


@_operator("Transpose")
def _transpose(x: Operands, attributes: Attributes) -> Tensor:
    return shaping.transpose(x[0], attributes.get("perm"))


@_operator("Squeeze")
def _squeeze(x: Operands, attributes: Attributes) -> Tensor:
    axes = _integers(_get(x, 1))
    ndim = x[0].ndim
    gone = [k for k, n in enumerate(x[0].shape) if n == 1] if axes is None else [k % ndim for k in axes]
    if any(x[0].shape[k] != 1 for k in gone):
        raise ShapeError(f"expected axes of length 1, got axes {gone}")
    return shaping.reshape(x[0], [n for k, n in enumerate(x[0].shape) if k not in gone])


@_operator("Unsqueeze")
def _unsqueeze(x: Operands, attributes: Attributes) -> Tensor:
    axes = _integers(x[1]) or []
    ndim = x[0].ndim + len(axes)
    fresh = {k % ndim for k in axes}
    lengths = iter(x[0].shape)
    return shaping.reshape(x[0], [1 if k in fresh else next(lengths) for k in range(ndim)])


@_operator("Concat")
def _concat(x: Operands, attributes: Attributes) -> Tensor:
    return shaping.concatenate(x, attributes["axis"])


@_operator("Split")
def _split(x: Operands, attributes: Attributes) -> tuple[Tensor, ...]:
    axis = attributes.get("axis", 0) % x[0].ndim
    length = x[0].shape[axis]
    sizes = _integers(_get(x, 1))
    if sizes is None:
        count = attributes["num_outputs"]
        each = -(-length // count)
        sizes = [min(each, length - k * each) for k in range(count)]
    if sum(sizes) != length:
        raise ShapeError(f"expected parts of {length} together, got {sizes}")
    ends = np.cumsum(sizes).tolist()
    before = (slice(None),) * axis
    return tuple(shaping.section(x[0], (*before, slice(b - n, b))) for n, b in zip(sizes, ends, strict=True))


@_operator("Slice")
def _slice(x: Operands, attributes: Attributes) -> Tensor:
    starts, ends = _integers(x[1]) or [], _integers(x[2]) or []
    axes = _integers(_get(x, 3)) or list(range(len(starts)))
    steps = _integers(_get(x, 4)) or [1] * len(starts)
    key = [slice(None)] * x[0].ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        length = x[0].shape[axis]
        start, end = (k + length if k < 0 else k for k in (start, end))
        if step > 0:
            key[axis] = slice(min(max(start, 0), length), min(max(end, 0), length), step)
        else:
            first, last = min(max(start, 0), length - 1), min(max(end, -1), length - 1)
            key[axis] = slice(first, None if last < 0 else last, step)
    return shaping.section(x[0], tuple(key))


@_operator("Gather")
def _gather(x: Operands, attributes: Attributes) -> Tensor:
    return shaping.gather(x[0], x[1], attributes.get("axis", 0))


@_operator("Expand")
def _expand(x: Operands, attributes: Attributes) -> Tensor:
    return shaping.expand(x[0], np.broadcast_shapes(x[0].shape, tuple(_integers(x[1]) or ())))


@_operator("Pad")
def _pad(x: Operands, attributes: Attributes) -> Tensor:
    widths = _integers(x[1]) or []
    axes = _integers(_get(x, 3))
    axes = list(range(x[0].ndim)) if axes is None else axes
    full = [(0, 0)] * x[0].ndim
    for k, axis in enumerate(axes):
        full[axis] = (widths[k], widths[k + len(axes)])
    value = _number(_get(x, 2)) or 0
    return shaping.pad(x[0], full, attributes.get("mode", "constant"), value)


def _reduction(name: str, function: Callable[..., Tensor]) -> None:
    def reduce(x: Operands, attributes: Attributes) -> Tensor:
        axes = _integers(_get(x, 1))
        if not axes:
            if attributes.get("noop_with_empty_axes", 0):
                return x[0]  # type: ignore[no-any-return]
            axes = None
        return function(x[0], axes, bool(attributes.get("keepdims", 1)))

    OPERATORS[name] = reduce


for _name, _reduce in {
    "ReduceL2": shaping.norm,
    "ReduceMax": shaping.largest,
    "ReduceMean": shaping.mean,
    "ReduceMin": shaping.least,
    "ReduceProd": shaping.product,
    "ReduceSum": shaping.total,
}.items():
    _reduction(_name, _reduce)


@_operator("ArgMax")
def _argmax(x: Operands, attributes: Attributes) -> Tensor:
    axis = attributes.get("axis", 0)
    places = x[0].data.argmax(axis=axis)
    if attributes.get("keepdims", 1):
        places = array_module(places).expand_dims(places, axis)
    return Tensor(array_module(places).asarray(places, dtype=np.int64))


@_operator("Shape")
def _shape(x: Operands, attributes: Attributes) -> Tensor:
    return Tensor(np.array(x[0].shape, np.int64)[attributes.get("start", 0) : attributes.get("end")])


@_operator("Size")
def _size(x: Operands, attributes: Attributes) -> Tensor:
    return Tensor(np.array(x[0].data.size, np.int64))


@_operator("Constant")
def _constant(x: Operands, attributes: Attributes) -> Tensor:
    return Tensor(attributes["value"])


@_operator("ConstantOfShape")
def _constant_of_shape(x: Operands, attributes: Attributes) -> Tensor:
    value = np.asarray(attributes.get("value", np.zeros(1, np.float32))).reshape(-1)
    return Tensor(np.full(_integers(x[0]) or (), value[0], value.dtype))


@_operator("Range")
def _range(x: Operands, attributes: Attributes) -> Tensor:
    first, last, step = (to_host(o.data).reshape(())[()] for o in x)
    return Tensor(np.arange(first, last, step, dtype=x[0].dtype))


@_operator("Cast")
def _cast(x: Operands, attributes: Attributes) -> Tensor:
    kind = TYPES[attributes["to"]]
    before = x[0].dtype
    if before.kind != "f" or np.dtype(kind).kind != "f":
        return Tensor(x[0].data.astype(kind))
    return record(x[0].data.astype(kind), (x[0],), lambda gradient: (gradient.astype(before),))


def _along(x: Tensor, operand: Tensor, axis: int) -> Array:
    """Return a scale or a zero point in a shape that broadcasts along an axis."""
    data = operand.data
    return data if data.size == 1 else data.reshape([-1 if k == axis % x.ndim else 1 for k in range(x.ndim)])


@_operator("QuantizeLinear")
def _quantize(x: Operands, attributes: Attributes) -> Tensor:
    axis = attributes.get("axis", 1)
    zero = _get(x, 2)
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
    scale, zero = _along(x[0], x[1], axis), _get(x, 2)
    steps = x[0].data.astype(scale.dtype)
    return Tensor((steps if zero is None else steps - _along(x[0], zero, axis).astype(scale.dtype)) * scale)
