"""Networks that are being built, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from hpcblaz.errors import NetworkError, ShapeError
from hpcblaz.nn.network import Network, Node, Port
from hpcblaz.nn.operators import OPERATORS
from hpcblaz.nn.tape import Tensor

__all__ = ["Builder", "Layer", "build"]


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

    def node(self, operator: str, inputs: Sequence[str], attributes: Mapping[str, Any] = {}, outputs: int = 1) -> str:
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
                f"expected layer {number}, {layer}, to take an image of shape {builder.shape(x)[1:]}, got: {error}"
            ) from error
    return Network(builder.nodes, builder.parameters, [builder.port], [x])
