"""What a network is made of, and what computing it costs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from hpcblaz.errors import NetworkError, ShapeError
from hpcblaz.nn.network import Network, Node
from hpcblaz.nn.tape import Tensor

__all__ = ["Line", "Report", "report", "zero_inputs"]


@dataclass(frozen=True)
class Line:
    """One use of an operator.

    Attributes
    ----------
    name, operator : str
    shape : tuple of int
        Of its first output.
    parameters, bytes : int
        Real numbers that it reads and that no operator before it has read, and their bytes.
    flops : int
        Additions and multiplications: all of convolutions and matrices, those of the products of recurrent layers, one
        a number of the others, and none where numbers are only moved.
    """

    name: str
    operator: str
    shape: tuple[int, ...]
    parameters: int
    bytes: int
    flops: int


@dataclass(frozen=True)
class Report:
    """What a network is made of.

    Attributes
    ----------
    inputs : dict of str to tuple of int
        The shapes that it was computed for.
    outputs : dict of str to tuple of int
    lines : tuple of Line
    """

    inputs: dict[str, tuple[int, ...]]
    outputs: dict[str, tuple[int, ...]]
    lines: tuple[Line, ...]

    @property
    def parameters(self) -> int:
        """Number of real parameters."""
        return sum(line.parameters for line in self.lines)

    @property
    def bytes(self) -> int:
        """Bytes of the real parameters."""
        return sum(line.bytes for line in self.lines)

    @property
    def flops(self) -> int:
        """Additions and multiplications."""
        return sum(line.flops for line in self.lines)

    def as_dict(self) -> dict[str, Any]:
        """Return all of it for JSON; the keys are part of the interface."""
        return {
            "inputs": {name: list(shape) for name, shape in self.inputs.items()},
            "outputs": {name: list(shape) for name, shape in self.outputs.items()},
            "parameters": self.parameters,
            "bytes": self.bytes,
            "flops": self.flops,
            "layers": [asdict(line) | {"shape": list(line.shape)} for line in self.lines],
        }


def zero_inputs(network: Network, shapes: Mapping[str, Sequence[int]] | None = None, images: int = 1) -> list[Tensor]:
    """Return zeros that a network takes, in the shapes that :func:`report` takes; so many images where any do."""
    shapes = dict(shapes or {})
    unknown = set(shapes) - {port.name for port in network.inputs}
    if unknown:
        raise NetworkError(
            f"expected shapes of {', '.join(port.name for port in network.inputs)}, got one of {min(unknown)!r}"
        )
    arrays = []
    for port in network.inputs:
        wanted = shapes.get(port.name, [images if n is None and not k else n for k, n in enumerate(port.shape)])
        shape = tuple(n for n in wanted if n is not None)
        if len(shape) < len(wanted):
            shown = ", ".join("any" if n is None else str(n) for n in port.shape)
            raise NetworkError(f"expected a shape for the input {port.name!r}, whose axes are ({shown}): give one")
        if any(n < 0 for n in shape):
            raise ShapeError(f"expected lengths that are not negative, got {shape}")
        arrays.append(Tensor(np.zeros(shape, port.dtype)))
    return arrays


def report(network: Network, shapes: Mapping[str, Sequence[int]] | None = None) -> Report:
    """Return what a network is made of and what computing it costs.

    Parameters
    ----------
    network : Network
    shapes : mapping of str to sequence of int, optional
        Of inputs. The first axis may be any length by default, and is then 1; other axes of any length need a shape.

    Returns
    -------
    Report

    Raises
    ------
    NetworkError
        If an input needs a shape, or there is none of a name.
    ShapeError
        If the network cannot take the shapes.

    Examples
    --------
    >>> from hpcblaz import nn
    >>> found = nn.report(nn.lenet())
    >>> found.parameters, found.bytes, found.flops
    (61706, 246824, 845852)
    """
    arrays = zero_inputs(network, shapes)
    lines: list[Line] = []
    seen: set[str] = set()

    def watch(node: Node, operands: list[Tensor | None], results: Sequence[Tensor]) -> None:
        fresh = [name for name in node.inputs if name in network.parameters and name not in seen]
        seen.update(fresh)
        weights = [network.parameters[name] for name in fresh if network.parameters[name].dtype.kind == "f"]
        label = next(name for name in node.outputs if name)
        lines.append(
            Line(
                label,
                node.operator,
                results[0].shape,
                sum(int(w.size) for w in weights),
                sum(int(w.nbytes) for w in weights),
                flops(node, operands, results),
            )
        )

    outputs = network.forward(arrays, watch=watch)
    return Report(
        {port.name: x.shape for port, x in zip(network.inputs, arrays, strict=True)},
        {name: x.shape for name, x in zip(network.outputs, outputs, strict=True)},
        tuple(lines),
    )


_MOVES = {
    "Cast", "Concat", "Constant", "ConstantOfShape", "Dropout", "Expand", "Flatten", "Gather", "Identity", "If", "Pad",
    "Range", "Reshape", "Shape", "Size", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze",
}  # fmt: skip


def flops(node: Node, operands: Sequence[Tensor | None], results: Sequence[Tensor]) -> int:
    """Return the additions and multiplications of one use of an operator."""
    shapes = [() if x is None else x.shape for x in operands]
    size = math.prod(results[0].shape)
    if node.operator in _MOVES or (results[0].dtype.kind != "f" and node.operator != "ArgMax"):
        return 0
    if node.operator == "Conv":
        return size * (2 * math.prod(shapes[1][1:]) - 1 + (len(shapes) > 2))
    if node.operator in ("MatMul", "Gemm"):
        inner = shapes[0][0 if node.attributes.get("transA") else -1]
        return size * (2 * int(inner) - 1 + (len(shapes) > 2))
    if node.operator in ("LSTM", "GRU"):
        steps, images, inputs = map(int, shapes[0])
        directions, rows, units = map(int, shapes[2])
        return steps * images * directions * rows * (2 * inputs + 2 * units + 3)
    if node.operator in ("MaxPool", "AveragePool"):
        return size * int(math.prod(node.attributes["kernel_shape"]))
    if node.operator in ("BatchNormalization", "LayerNormalization"):
        return 2 * size
    if node.operator.startswith("Reduce") or node.operator.startswith("Global"):
        return math.prod(shapes[0])
    return size
