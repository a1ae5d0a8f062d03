"""Operators of ONNX that move numbers, reduce axes, or compute shapes and types; see :mod:`hpcblaz.nn.operators`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from hpcblaz.backend.nn import array_module, to_host
from hpcblaz.errors import ShapeError
from hpcblaz.nn import shaping
from hpcblaz.nn.tape import Tensor, record

__all__ = ["SHAPING", "TYPES", "Attributes", "Operands", "Operator", "get", "integers", "number"]

Operands = Sequence[Any]
Attributes = Mapping[str, Any]
Operator = Callable[[Operands, Attributes], Tensor | tuple[Tensor, ...]]

SHAPING: dict[str, Operator] = {}
TYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool", 10: "float16",
    11: "float64", 12: "uint32", 13: "uint64",
}  # fmt: skip


def _operator(*names: str) -> Callable[[Operator], Operator]:
    def add(function: Operator) -> Operator:
        SHAPING.update(dict.fromkeys(names, function))
        return function

    return add


def get(operands: Operands, place: int) -> Any:
    """Return an operand; None if it is left out."""
    return operands[place] if place < len(operands) else None


def integers(operand: Any) -> list[int] | None:
    """Return an operand of integers as a list; None if it is left out."""
    return None if operand is None else [int(k) for k in to_host(operand.data).reshape(-1)]


def number(operand: Any) -> float | None:
    """Return an operand of one number; None if it is left out."""
    if operand is None:
        return None
    values = to_host(operand.data).reshape(-1)
    if len(values) != 1:
        raise ShapeError(f"expected one number, got {len(values)}")
    return float(values[0])


@_operator("Reshape")
def _reshape(x: Operands, attributes: Attributes) -> Tensor:
    shape = integers(x[1]) or []
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
    axes = integers(get(x, 1))
    ndim = x[0].ndim
    gone = [k for k, n in enumerate(x[0].shape) if n == 1] if axes is None else [k % ndim for k in axes]
    if any(x[0].shape[k] != 1 for k in gone):
        raise ShapeError(f"expected axes of length 1, got axes {gone}")
    return shaping.reshape(x[0], [n for k, n in enumerate(x[0].shape) if k not in gone])


@_operator("Unsqueeze")
def _unsqueeze(x: Operands, attributes: Attributes) -> Tensor:
    axes = integers(x[1]) or []
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
    sizes = integers(get(x, 1))
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
    starts, ends = integers(x[1]) or [], integers(x[2]) or []
    axes = integers(get(x, 3)) or list(range(len(starts)))
    steps = integers(get(x, 4)) or [1] * len(starts)
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
    return shaping.expand(x[0], np.broadcast_shapes(x[0].shape, tuple(integers(x[1]) or ())))


@_operator("Pad")
def _pad(x: Operands, attributes: Attributes) -> Tensor:
    widths = integers(x[1]) or []
    axes = integers(get(x, 3))
    axes = list(range(x[0].ndim)) if axes is None else axes
    full = [(0, 0)] * x[0].ndim
    for k, axis in enumerate(axes):
        full[axis] = (widths[k], widths[k + len(axes)])
    value = number(get(x, 2)) or 0
    return shaping.pad(x[0], full, attributes.get("mode", "constant"), value)


def _reduction(name: str, function: Callable[..., Tensor]) -> None:
    def reduce(x: Operands, attributes: Attributes) -> Tensor:
        axes = integers(get(x, 1))
        if not axes:
            if attributes.get("noop_with_empty_axes", 0):
                return x[0]  # type: ignore[no-any-return]
            axes = None
        return function(x[0], axes, bool(attributes.get("keepdims", 1)))

    SHAPING[name] = reduce


_REDUCTIONS: dict[str, Callable[..., Tensor]] = {
    "ReduceL2": shaping.norm,
    "ReduceMax": shaping.largest,
    "ReduceMean": shaping.mean,
    "ReduceMin": shaping.least,
    "ReduceProd": shaping.product,
    "ReduceSum": shaping.total,
}
for _name, _reduce in _REDUCTIONS.items():
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
    return Tensor(np.full(integers(x[0]) or (), value[0], value.dtype))


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
