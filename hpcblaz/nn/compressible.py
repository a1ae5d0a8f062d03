"""What of a network can be made smaller: its matrices and kernels, their outputs, and what goes with these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from hpcblaz.errors import NetworkError
from hpcblaz.nn.network import Network
from hpcblaz.nn.tape import Array

__all__ = ["OPERATORS", "Scheme", "Weights", "companions", "compressible", "last_weights", "output_axis"]

Weights = dict[str, Array]
OPERATORS = ("Conv", "Gemm", "MatMul")


class Scheme(Protocol):
    """What :func:`hpcblaz.nn.compressed` takes."""

    def pi(self, weights: Mapping[str, Array], network: Network) -> Weights:
        """Return weights of the form of the scheme."""
        ...

    def delta(self, weights: Mapping[str, Array], network: Network) -> Weights:
        """Return weights to compute with."""
        ...


def compressible(network: Network, leave: Sequence[str] = ()) -> dict[str, str]:
    """Return the operators that read the matrices and kernels of a network, by the names of the weights.

    Parameters
    ----------
    network : Network
    leave : sequence of str
        Names of weights that are to stay as they are.

    Returns
    -------
    dict of str to str
        Those of Conv, Gemm and MatMul that training changes.

    Raises
    ------
    NetworkError
        If a name to leave is none of them.
    """
    trainable = set(network.trainable)
    found = {
        node.inputs[1]: node.operator
        for node in network.nodes
        if node.operator in OPERATORS and node.inputs[1] in trainable
    }
    unknown = sorted(set(leave) - set(found))
    if unknown:
        raise NetworkError(f"expected names of {', '.join(found) or 'no weights'}, got {', '.join(unknown)}")
    return {name: operator for name, operator in found.items() if name not in leave}


def last_weights(network: Network) -> set[str]:
    """Return the weights whose outputs are those of the network, with nothing but other operators after them."""
    producers = {name: node for node in network.nodes for name in node.outputs}
    found, seen, waiting = set(), set(network.outputs), list(network.outputs)
    while waiting:
        node = producers.get(waiting.pop())
        if node is None:
            continue
        if node.operator in OPERATORS and node.inputs[1] in network.parameters:
            found.add(node.inputs[1])
            continue
        fresh = set(node.reads()) - seen
        seen |= fresh
        waiting += sorted(fresh)
    return found


def output_axis(network: Network, name: str) -> int:
    """Return the axis of weights that numbers the outputs."""
    node = next(node for node in network.nodes if len(node.inputs) > 1 and node.inputs[1] == name)
    if node.operator == "Conv" or (node.operator == "Gemm" and node.attributes.get("transB", 0)):
        return 0
    return int(network.parameters[name].ndim) - 1


def companions(network: Network, name: str) -> list[str]:
    """Return the biases that go with some weights, and the scales and biases of normalisation right after them.

    Each has one number for each output; where they are zero too, so is the output.
    """
    length = network.parameters[name].shape[output_axis(network, name)]
    names: list[str] = []
    results: set[str] = set()
    for node in network.nodes:
        if node.operator in OPERATORS and node.inputs[1] == name:
            names += node.inputs[2:3]
            results.add(node.outputs[0])
        elif node.operator == "Add" and results & set(node.inputs):
            others = [other for other in node.inputs if other in network.parameters]
            names += others
            if others:
                results.add(node.outputs[0])
        elif node.operator == "BatchNormalization" and node.inputs[0] in results:
            names += node.inputs[1:3]
    return [other for other in names if other in network.parameters and network.parameters[other].shape == (length,)]
