"""Networks that give the same answers with fewer operators."""

from __future__ import annotations

from collections import Counter
from typing import Any

from hpcblaz.backend.nn import array_module, to_host
from hpcblaz.nn.network import Network, Node

__all__ = ["fold"]


def fold(network: Network) -> Network:
    """Return a network that gives the same answers, to rounding, with fewer operators; it is not for training.

    Batch normalisation goes into the convolution or the matrix before it, and so does a bias that is added by itself;
    dropout goes away, and ``x * clip(x + 3, 0, 6) / 6`` becomes one operator.

    Parameters
    ----------
    network : Network

    Returns
    -------
    Network
        With parameters of its own where they differ.

    Examples
    --------
    >>> from hpcblaz import nn
    >>> network = nn.vgg(seed=0)
    >>> len(network.nodes), len(nn.fold(network).nodes)
    (25, 19)
    """
    return _Folding(network).result()


class _Folding:
    """Nodes in order, each replaced by what does the same together with those before it."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.parameters = dict(network.parameters)
        self.uses = Counter(name for node in network.nodes for name in node.reads())
        self.uses.update(network.outputs)
        self.nodes: dict[str, Node] = {}  # by the first output
        self.renamed: dict[str, str] = {}

    def result(self) -> Network:
        for node in self.network.nodes:
            if node.branches():
                return self.network  # names of branches would have to be followed
        for node in self.network.nodes:
            inputs = tuple(self.renamed.get(name, name) for name in node.inputs)
            self.add(Node(node.operator, inputs, node.outputs, node.attributes))
        read = {name for node in self.nodes.values() for name in node.reads()} | set(self.network.outputs)
        parameters = {name: x for name, x in self.parameters.items() if name in read}
        return self.network.replace(nodes=list(self.nodes.values()), parameters=parameters)

    def add(self, node: Node) -> None:
        result = next(name for name in node.outputs if name)
        if node.operator in ("Dropout", "Identity") and result not in self.network.outputs:
            self.renamed[result] = node.inputs[0]
            self.uses[node.inputs[0]] += self.uses[result] - 1
            return
        for rule in (self.into_weights, self.into_hard_swish):
            fresh = rule(node)
            if fresh is not None:
                node = fresh
                break
        self.nodes[result] = node

    def alone(self, name: str, *operators: str) -> Node | None:
        """Return the node that gives a value which nothing else reads, if it is one of some operators."""
        node = self.nodes.get(name)
        return node if node is not None and node.operator in operators and self.uses[name] == 1 else None

    def number(self, name: str) -> float | None:
        """Return a parameter of one number."""
        x = self.parameters.get(name)
        return float(to_host(x).reshape(-1)[0]) if x is not None and x.size == 1 else None

    def parameter(self, name: str, value: Any) -> str:
        while name in self.parameters:
            name += "_"
        self.parameters[name] = value
        return name

    def into_weights(self, node: Node) -> Node | None:
        """Bring a factor and a term of each output into the weights that give the outputs."""
        if node.operator not in ("BatchNormalization", "Add", "Mul"):
            return None
        first, second = node.inputs[:2]
        if node.operator in ("Add", "Mul") and first in self.parameters:
            first, second = second, first
        before = self.alone(first, "Conv", "Gemm")
        if before is None or before.inputs[1] not in self.parameters:
            return None
        attributes = before.attributes
        if before.operator == "Gemm" and not (
            attributes.get("transB") and attributes.get("alpha", 1) == attributes.get("beta", 1) == 1
        ):
            return None
        weights = self.parameters[before.inputs[1]]
        bias_name = before.inputs[2] if len(before.inputs) > 2 else ""
        if bias_name and (bias_name not in self.parameters or self.parameters[bias_name].shape != weights.shape[:1]):
            return None
        xp = array_module(weights)
        factor, term = xp.ones(len(weights), weights.dtype), xp.zeros(len(weights), weights.dtype)
        if node.operator == "BatchNormalization":
            if any(name not in self.parameters for name in node.inputs[1:]):
                return None
            scale, shift, mean, variance = (self.parameters[name] for name in node.inputs[1:5])
            factor = scale / xp.sqrt(variance + weights.dtype.type(node.attributes.get("epsilon", 1e-5)))
            term = shift - mean * factor
        else:
            value = self.channel_values(second, weights, before.operator)
            if value is None:
                return None
            factor, term = (factor, value) if node.operator == "Add" else (value, term)
        bias = self.parameters[bias_name] * factor + term if bias_name else term
        label = next(name for name in node.outputs if name)
        shape = (-1, *(1,) * (weights.ndim - 1))
        kept = (
            before.inputs[1]
            if node.operator == "Add"
            else self.parameter(f"{label}.weight", weights * factor.reshape(shape))
        )
        inputs = (before.inputs[0], kept, self.parameter(f"{label}.bias", bias))
        del self.nodes[first]
        return Node(before.operator, inputs, (label,), attributes)

    def channel_values(self, name: str, weights: Any, operator: str) -> Any:
        """Return a parameter that has one number, or one for each output, as the latter."""
        x = self.parameters.get(name)
        if x is None or x.dtype != weights.dtype:
            return None
        axes = weights.ndim if operator == "Conv" else 2
        full = (1,) * (axes - x.ndim) + tuple(x.shape)
        if len(full) != axes or any(n != 1 for k, n in enumerate(full) if k != 1) or full[1] not in (1, len(weights)):
            return None
        return array_module(x).broadcast_to(x.reshape(-1), (len(weights),)).copy()

    def into_hard_swish(self, node: Node) -> Node | None:
        """Find x * clip(x + 3, 0, 6) / 6, the division last or before the product."""
        if node.operator not in ("Div", "Mul"):
            return None
        if node.operator == "Div" and self.number(node.inputs[1]) == 6:
            product = self.alone(node.inputs[0], "Mul")
            pair = self.gated(product.inputs, "Clip") if product is not None else None
            removed = [product] if product is not None else []
        else:
            pair, removed = self.gated(node.inputs, "Div"), []
        if pair is None:
            return None
        for name in pair[1]:
            del self.nodes[name]
        for former in removed:
            del self.nodes[former.outputs[0]]
        return Node("HardSwish", (pair[0],), node.outputs)

    def gated(self, inputs: tuple[str, ...], operator: str) -> tuple[str, list[str]] | None:
        """Return x and the values on the way, if the operands are x and clip(x + 3, 0, 6), or that divided by 6."""
        for x, gate in (inputs, inputs[::-1]):
            names = [gate]
            node = self.alone(gate, operator)
            if node is not None and operator == "Div":
                if self.number(node.inputs[1]) != 6:
                    continue
                names.append(node.inputs[0])
                node = self.alone(node.inputs[0], "Clip")
            if node is None or [self.number(name) for name in node.inputs[1:]] != [0.0, 6.0]:
                continue
            names.append(node.inputs[0])
            inner = self.alone(node.inputs[0], "Add")
            if inner is None or x not in inner.inputs:
                continue
            other = inner.inputs[1] if inner.inputs[0] == x else inner.inputs[0]
            if self.number(other) == 3:
                return x, names
        return None
