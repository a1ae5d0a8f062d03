"""Layers, and networks that are made of them.

A layer says what it is; :func:`build` gives it its weights. Lengths that follow from what a layer is given are not said.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hpcblaz.errors import NetworkError, ShapeError
from hpcblaz.nn.network import Network, Node, Port
from hpcblaz.nn.operators import OPERATORS
from hpcblaz.nn.tape import Tensor

__all__ = [
    "GRU",
    "LSTM",
    "Activation",
    "AveragePool",
    "BatchNorm",
    "Builder",
    "Conv1d",
    "Conv2d",
    "Dense",
    "Dropout",
    "Embedding",
    "Flatten",
    "GlobalAveragePool",
    "Layer",
    "LayerNorm",
    "MaxPool",
    "Relu",
    "Residual",
    "Silu",
    "build",
]

Lengths = int | Sequence[int]


class Layer(Protocol):
    """What adds its nodes to a network that is being built."""

    def add(self, builder: Builder, x: str) -> str:
        """Add nodes that read the value x, and return the name of what they give."""
        ...


class Builder:
    """A network that is being built.

    Parameters
    ----------
    port : Port
        What the network takes; the first axis is that of the images.
    random : numpy.random.Generator
        For the weights.
    """

    def __init__(self, port: Port, random: np.random.Generator) -> None:
        self.port = port
        self.random = random
        self.dtype = port.dtype if np.dtype(port.dtype).kind == "f" else "float32"
        self.nodes: list[Node] = []
        self.parameters: dict[str, NDArray[Any]] = {}
        self._values = {port.name: Tensor(np.zeros([n or 1 for n in port.shape], port.dtype))}
        self._counts: dict[str, int] = {}

    def label(self, kind: str) -> str:
        """Return a name that no other layer has."""
        self._counts[kind] = self._counts.get(kind, 0) + 1
        return f"{kind}{self._counts[kind]}"

    def shape(self, x: str) -> tuple[int, ...]:
        """Return the shape of a value, for one image."""
        return self._values[x].shape

    def parameter(self, name: str, value: Any) -> str:
        """Add an array: real ones in the type of the network."""
        value = np.asarray(value)
        self.parameters[name] = value.astype(self.dtype if value.dtype.kind == "f" else value.dtype)
        return name

    def weight(self, name: str, shape: Sequence[int], inputs: int) -> str:
        """Add normal random weights for so many inputs (He et al., 2015)."""
        return self.parameter(name, self.random.normal(0, math.sqrt(2 / inputs), shape))

    def node(self, operator: str, inputs: Sequence[str], attributes: Mapping[str, Any] = {}, outputs: int = 1) -> str:  # noqa: B006  it is only read
        """Add a node, and return the name of its last output; the others are left out."""
        label = self.label(operator.lower())
        names = ("",) * (outputs - 1) + (label,)
        operands = [self._values.get(name) or Tensor(self.parameters[name]) if name else None for name in inputs]
        results = OPERATORS[operator](operands, attributes)
        results = (results,) if isinstance(results, Tensor) else results
        self._values[label] = results[outputs - 1]
        self.nodes.append(Node(operator, tuple(inputs), names, dict(attributes)))
        return label


def build(
    shape: Sequence[int | None], layers: Sequence[Layer], seed: int = 0, dtype: str = "float32", name: str = "x"
) -> Network:
    """Return a network of layers, one after the other.

    Parameters
    ----------
    shape : sequence of int or None
        Of one image, without the axis of the images; None where any length will do.
    layers : sequence of Layer
    seed : int
        Of the weights: the same seed gives the same weights.
    dtype : str
        Of what the network takes; an integer type for an Embedding.
    name : str
        Of what it takes.

    Returns
    -------
    Network

    Raises
    ------
    ShapeError
        If a layer cannot take what the one before it gives.

    Examples
    --------
    >>> from hpcblaz import nn
    >>> network = nn.build((1, 8, 8), [nn.Conv2d(4, 3), nn.Relu(), nn.MaxPool(2), nn.Flatten(), nn.Dense(10)], seed=0)
    >>> network(np.zeros((5, 1, 8, 8), np.float32)).shape
    (5, 10)
    """
    if not layers:
        raise NetworkError("expected layers, got none")
    builder = Builder(Port(name, (None, *shape), dtype), np.random.default_rng(seed))
    x = name
    for number, layer in enumerate(layers):
        try:
            x = layer.add(builder, x)
        except (ValueError, IndexError, KeyError) as error:
            raise ShapeError(
                f"expected layer {number}, {layer}, to take an image of shape {builder.shape(x)[1:]}: {error}"
            ) from error
    return Network(builder.nodes, builder.parameters, [builder.port], [x])


@dataclass(frozen=True)
class Dense:
    """Each output is a weighted sum of all inputs; it takes (images, inputs), or sequences of inputs."""

    units: int
    bias: bool = True

    def add(self, builder: Builder, x: str) -> str:
        """Add it."""
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
    """An operator on each number, by its name in ONNX: Relu, Gelu, Sigmoid, HardSigmoid, HardSwish, Tanh, Elu, Softmax."""

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
