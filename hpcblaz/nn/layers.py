"""Layers: each says what it is, and :func:`hpcblaz.nn.build` gives it its weights.

Lengths that follow from what a layer is given are left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hpcblaz.errors import NetworkError, ShapeError
from hpcblaz.nn.builder import Builder, Layer

__all__ = [
    "GRU",
    "LSTM",
    "Activation",
    "AveragePool",
    "BatchNorm",
    "Conv1d",
    "Conv2d",
    "Dense",
    "Dropout",
    "Embedding",
    "Flatten",
    "GlobalAveragePool",
    "LayerNorm",
    "MaxPool",
    "Relu",
    "Residual",
    "Silu",
]

Lengths = int | Sequence[int]


@dataclass(frozen=True)
class Dense:
    """Each output is a weighted sum of all inputs; it takes (images, inputs), or sequences of inputs."""

    units: int
    bias: bool = True

    def add(self, builder: Builder, x: str) -> str:
        """Add it."""
        if len(builder.shape(x)) > 3:
            raise ShapeError("flatten images before a dense layer")
        label, inputs = builder.label("dense"), builder.shape(x)[-1]
        if len(builder.shape(x)) == 2:
            operands = [x, builder.weight(f"{label}.weight", (self.units, inputs), inputs)]
            if self.bias:
                operands.append(builder.parameter(f"{label}.bias", np.zeros(self.units)))
            return builder.node("Gemm", operands, {"transB": 1})
        x = builder.node("MatMul", [x, builder.weight(f"{label}.weight", (inputs, self.units), inputs)])
        return builder.node("Add", [x, builder.parameter(f"{label}.bias", np.zeros(self.units))]) if self.bias else x


@dataclass(frozen=True)
class Conv2d:
    """A convolution of images (channels, rows, columns).

    Parameters
    ----------
    channels : int or None
        Of the output; None for as many as the input has.
    kernel, strides, dilations : int or one for each axis
    padding : int, one for each axis, or 'same'
        Zeros on each side; 'same' for outputs of the size of the input, at strides of 1.
    groups : int or 'depthwise'
    bias : bool
    """

    channels: int | None
    kernel: Lengths
    strides: Lengths = 1
    padding: Lengths | str = 0
    dilations: Lengths = 1
    groups: int | str = 1
    bias: bool = True
    axes = 2

    def add(self, builder: Builder, x: str) -> str:
        """Add it."""
        label, inputs = builder.label("conv"), builder.shape(x)[1]
        outputs = inputs if self.channels is None else self.channels
        groups = inputs if isinstance(self.groups, str) else self.groups
        if groups < 1 or inputs % groups or outputs % groups:
            raise ShapeError(f"expected channels that {groups} groups divide, got {inputs} and {outputs}")
        kernel, strides, dilations = (_each(v, self.axes) for v in (self.kernel, self.strides, self.dilations))
        if isinstance(self.padding, str):
            whole = [d * (k - 1) for d, k in zip(dilations, kernel, strict=True)]
            pads = [n // 2 for n in whole] + [n - n // 2 for n in whole]
        else:
            pads = _each(self.padding, self.axes) * 2
        shape = (outputs, inputs // groups, *kernel)
        operands = [x, builder.weight(f"{label}.weight", shape, math.prod(shape[1:]))]
        if self.bias:
            operands.append(builder.parameter(f"{label}.bias", np.zeros(outputs)))
        attributes = {"kernel_shape": kernel, "strides": strides, "pads": pads, "dilations": dilations, "group": groups}
        return builder.node("Conv", operands, attributes)


@dataclass(frozen=True)
class Conv1d(Conv2d):
    """A convolution of signals (channels, samples); the parameters are those of :class:`Conv2d`."""

    axes = 1


@dataclass(frozen=True)
class BatchNorm:
    """Normalise each channel over the batch while training, and by what was seen then afterwards."""

    momentum: float = 0.9
    epsilon: float = 1e-5

    def add(self, builder: Builder, x: str) -> str:
        """Add it."""
        label, channels = builder.label("norm"), builder.shape(x)[1]
        start = {"scale": np.ones, "shift": np.zeros, "mean": np.zeros, "variance": np.ones}
        names = [builder.parameter(f"{label}.{part}", make(channels)) for part, make in start.items()]
        attributes = {"epsilon": self.epsilon, "momentum": self.momentum}
        return builder.node("BatchNormalization", [x, *names], attributes)


@dataclass(frozen=True)
class LayerNorm:
    """Normalise each image over its last axis."""

    epsilon: float = 1e-5

    def add(self, builder: Builder, x: str) -> str:
        """Add it."""
        label, length = builder.label("norm"), builder.shape(x)[-1]
        names = [builder.parameter(f"{label}.scale", np.ones(length))]
        names.append(builder.parameter(f"{label}.shift", np.zeros(length)))
        return builder.node("LayerNormalization", [x, *names], {"axis": -1, "epsilon": self.epsilon})


@dataclass(frozen=True)
class Embedding:
    """A vector of so many numbers for each of so many words, which are integers."""

    words: int
    size: int

    def add(self, builder: Builder, x: str) -> str:
        """Add it."""
        label = builder.label("embedding")
        table = builder.parameter(f"{label}.weight", builder.random.normal(size=(self.words, self.size)))
        return builder.node("Gather", [table, x], {"axis": 0})


@dataclass(frozen=True)
class _Recurrent:
    """A recurrent layer of sequences (steps, inputs).

    Parameters
    ----------
    units : int
    sequences : bool
        Give the states after all steps, (steps, units), instead of the last one.
    both : bool
        Read each sequence backward, too: twice as many units come out.
    """

    units: int
    sequences: bool = False
    both: bool = False
    operator = ""
    gates = 0

    def add(self, builder: Builder, x: str) -> str:
        """Add it."""
        label, inputs = builder.label(self.operator.lower()), builder.shape(x)[2]
        directions, rows = 1 + self.both, self.gates * self.units
        bound = 1 / math.sqrt(self.units)

        def draw(part: str, *shape: int) -> str:
            return builder.parameter(f"{label}.{part}", builder.random.uniform(-bound, bound, (directions, *shape)))

        operands = [draw("weight", rows, inputs), draw("recurrence", rows, self.units), draw("bias", 2 * rows)]
        attributes: dict[str, Any] = {"hidden_size": self.units}
        attributes |= {"direction": "bidirectional"} if self.both else {}
        attributes |= {"linear_before_reset": 1} if self.operator == "GRU" else {}
        steps = builder.node("Transpose", [x], {"perm": [1, 0, 2]})
        y = builder.node(self.operator, [steps, *operands], attributes, outputs=1 if self.sequences else 2)
        if self.sequences:  # (steps, directions, images, units)
            y = builder.node("Transpose", [y], {"perm": [2, 0, 1, 3]})
            return builder.node("Reshape", [y, builder.parameter(f"{label}.shape", np.array([0, 0, -1]))])
        y = builder.node("Transpose", [y], {"perm": [1, 0, 2]})
        return builder.node("Flatten", [y], {"axis": 1})


@dataclass(frozen=True)
class LSTM(_Recurrent):
    """A long short-term memory; see :class:`GRU` for the parameters."""

    operator = "LSTM"
    gates = 4


@dataclass(frozen=True)
class GRU(_Recurrent):
    """A gated recurrent unit.

    Parameters
    ----------
    units : int
    sequences : bool
        Give the states after all steps, (steps, units), instead of the last one.
    both : bool
        Read each sequence backward, too: twice as many units come out.
    """

    operator = "GRU"
    gates = 3


@dataclass(frozen=True)
class _Pool:
    """Patches, each of which becomes a number.

    Parameters
    ----------
    kernel : int or one for each axis
    strides : int or one for each axis, optional
        Default: the kernel's.
    padding : int or one for each axis
    """

    kernel: Lengths
    strides: Lengths | None = None
    padding: Lengths = 0
    operator = ""

    def add(self, builder: Builder, x: str) -> str:
        """Add it."""
        axes = len(builder.shape(x)) - 2
        kernel = _each(self.kernel, axes)
        strides = kernel if self.strides is None else _each(self.strides, axes)
        attributes = {"kernel_shape": kernel, "strides": strides, "pads": _each(self.padding, axes) * 2}
        return builder.node(self.operator, [x], attributes)


@dataclass(frozen=True)
class MaxPool(_Pool):
    """The largest number of each patch; parameters are kernel, strides and padding."""

    operator = "MaxPool"


@dataclass(frozen=True)
class AveragePool(_Pool):
    """The mean of each patch; parameters are kernel, strides and padding."""

    operator = "AveragePool"


@dataclass(frozen=True)
class Activation:
    """An operator on each number, by its name in ONNX: Gelu, Sigmoid, HardSigmoid, HardSwish, Tanh and others."""

    operator: str

    def add(self, builder: Builder, x: str) -> str:
        """Add it."""
        return builder.node(self.operator, [x])


@dataclass(frozen=True)
class Relu(Activation):
    """The larger of each number and 0."""

    operator: str = "Relu"


@dataclass(frozen=True)
class Silu:
    """Each number times its sigmoid."""

    def add(self, builder: Builder, x: str) -> str:
        """Add it."""
        return builder.node("Mul", [x, builder.node("Sigmoid", [x])])


@dataclass(frozen=True)
class Dropout:
    """Set a share of the numbers to zero while training."""

    share: float = 0.5

    def add(self, builder: Builder, x: str) -> str:
        """Add it."""
        if not 0 <= self.share < 1:
            raise NetworkError(f"expected a share from 0 up to but not 1, got {self.share}")
        return builder.node("Dropout", [x, builder.parameter(f"{builder.label('drop')}.share", np.array(self.share))])


@dataclass(frozen=True)
class Flatten:
    """One row of numbers for each image."""

    def add(self, builder: Builder, x: str) -> str:
        """Add it."""
        return builder.node("Flatten", [x], {"axis": 1})


@dataclass(frozen=True)
class GlobalAveragePool:
    """The mean of each channel, as one row for each image."""

    def add(self, builder: Builder, x: str) -> str:
        """Add it."""
        return builder.node("Flatten", [builder.node("GlobalAveragePool", [x])], {"axis": 1})


@dataclass(frozen=True)
class Residual:
    """The sum of what some layers give and of what others, or none, do with the same input."""

    layers: Sequence[Layer]
    shortcut: Sequence[Layer] = ()

    def add(self, builder: Builder, x: str) -> str:
        """Add it."""
        first = second = x
        for layer in self.layers:
            first = layer.add(builder, first)
        for layer in self.shortcut:
            second = layer.add(builder, second)
        if builder.shape(first) != builder.shape(second):
            raise ShapeError(f"expected two equal shapes, got {builder.shape(first)} and {builder.shape(second)}")
        return builder.node("Add", [first, second])


def _each(value: Lengths, axes: int) -> list[int]:
    values = [value] * axes if isinstance(value, int) else list(value)
    if len(values) != axes:
        raise ShapeError(f"expected a length for each of {axes} axes, got {values}")
    return values
