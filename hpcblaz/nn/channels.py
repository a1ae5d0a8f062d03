"""Which channels of the values of a network have to stay or go together, and which are needed.

A channel is one index along the axis of a value that a layer with weights made. Channels of several values that can
only be removed together, such as those of the two operands of a sum, are one set. A set can be removed if whatever
reads it through weights of its own gets nothing from it: the channel is always zero, or the weights are; or the channel
always has the same value, which is then added to the bias instead. Operators that are not known here need all that they
read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcblaz.backend.nn import to_host
from hpcblaz.nn.network import Network, Node
from hpcblaz.nn.operators import OPERATORS
from hpcblaz.nn.tape import Tensor

__all__ = ["Channels", "Cut", "Fold", "Value"]

Numbers = NDArray[Any]


@dataclass(frozen=True)
class Value:
    """A value whose channels are followed: their axis, their numbers, and what they always are (else NaN)."""

    axis: int
    ids: Numbers
    constant: Numbers


@dataclass(frozen=True)
class Cut:
    """An axis of a parameter along which channels lie."""

    name: str
    axis: int
    ids: Numbers


@dataclass(frozen=True)
class Fold:
    """What a constant channel adds to a bias: weights, their axis of inputs and of outputs, and the channels."""

    bias: str
    weights: str
    inputs: int
    outputs: int
    value: Value


class Channels:
    """The channels of a network.

    Parameters
    ----------
    network : Network
    shapes : mapping of str to tuple of int
        Of all its values.
    """

    def __init__(self, network: Network, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.network = network
        self.shapes = shapes
        self.values: dict[str, Value] = {}
        self.cuts: list[Cut] = []
        self.folds: list[Fold] = []
        self.groups: dict[str, int] = {}  # outputs of a group, by the output of a convolution with groups
        self._parent: list[int] = []
        self._needed: list[int] = []
        reads = [name for node in network.nodes for name in node.reads()] + list(network.outputs)
        self._own = {name for name in network.parameters if reads.count(name) == 1}
        for node in network.nodes:
            rule = _RULES.get(node.operator)
            if rule is None or node.branches() or not rule(self, node):
                self.need(node.reads())
        self.need(network.outputs)

    def removable(self) -> NDArray[np.bool_]:
        """Return whether each channel can be removed; something of each layer stays."""
        roots = np.array([self._root(k) for k in range(len(self._parent))], int)
        gone = np.ones(len(roots), bool)
        gone[roots[self._needed]] = False
        for cut in self.cuts:
            if len(cut.ids) and gone[roots[cut.ids]].all():
                gone[roots[cut.ids[0]]] = False
        result: NDArray[np.bool_] = gone[roots]
        return result

    def need(self, names: Any) -> None:
        """Have all channels of values stay."""
        for name in names:
            if name in self.values:
                self._needed += self.values[name].ids.tolist()

    def fresh(self, count: int) -> Numbers:
        """Return numbers of new channels."""
        first = len(self._parent)
        self._parent += range(first, first + count)
        return np.arange(first, first + count)

    def tie(self, first: Numbers, second: Numbers) -> None:
        """Have channels stay or go together."""
        for a, b in zip(first.tolist(), second.tolist(), strict=True):
            self._parent[self._root(a)] = self._root(b)

    def _root(self, k: int) -> int:
        while self._parent[k] != k:
            self._parent[k] = self._parent[self._parent[k]]
            k = self._parent[k]
        return k

    def array(self, name: str) -> Numbers | None:
        """Return a parameter that one operator alone reads."""
        return np.asarray(to_host(self.network.parameters[name])) if name in self._own else None

    # What operators do. Each rule says whether it knows the case; if not, all channels that the operator reads stay.

    def layer(self, node: Node) -> bool:
        """A product with weights: Conv without groups, Gemm, MatMul."""
        weights = self.array(node.inputs[1])
        bias_name = node.inputs[2] if len(node.inputs) > 2 else ""
        bias = self.array(bias_name) if bias_name else None
        if weights is None or weights.ndim < 2 or (bias_name and (bias is None or bias.ndim == 0)):
            return False
        ndim = len(self.shapes[node.outputs[0]])
        attributes = node.attributes
        plain = attributes.get("alpha", 1.0) == attributes.get("beta", 1.0) == 1.0
        if attributes.get("transA", 0) or not plain or (node.operator != "Conv" and weights.ndim != 2):
            return False
        if node.operator == "Conv":
            if attributes.get("group", 1) != 1:
                return self._grouped(node, weights, bias)
            inputs, outputs, axis, place = 1, 0, 1, 1
        else:
            outputs = 0 if attributes.get("transB", 0) else 1
            inputs, axis, place = 1 - outputs, ndim - 1, ndim - 1
        count = weights.shape[outputs]
        if bias is not None and (bias.shape[-1] != count or bias.size != count):
            return False
        x = self.values.get(node.inputs[0])
        rows = np.moveaxis(weights, (outputs, inputs), (0, 1)).reshape(count, weights.shape[inputs], -1)
        used = (rows != 0).any(axis=2)
        if x is not None and x.axis != place:
            return False
        if x is not None:
            still = x.constant == 0
            unpadded = node.operator != "Conv" or (
                attributes.get("auto_pad", "NOTSET") in ("NOTSET", "VALID") and not any(attributes.get("pads", ()))
            )
            if bias_name and unpadded:
                self.folds.append(Fold(bias_name, node.inputs[1], inputs, outputs, x))
                still = still | ~np.isnan(x.constant)
            self._needed += x.ids[~still & used.any(axis=0)].tolist()
            self.cuts.append(Cut(node.inputs[1], inputs, x.ids))
            used = used & (x.constant != 0)
        ids = self.fresh(count)
        self.cuts.append(Cut(node.inputs[1], outputs, ids))
        constant = np.zeros(count) if bias is None else bias.reshape(-1)
        if bias is not None:
            self.cuts.append(Cut(bias_name, bias.ndim - 1, ids))
        self._give(node, axis, ids, np.where(used.any(axis=1), np.nan, constant))
        return True

    def _grouped(self, node: Node, weights: Numbers, bias: Numbers | None) -> bool:
        x = self.values.get(node.inputs[0])
        if x is None or x.axis != 1:
            return False
        count = node.attributes["group"]
        size = len(weights) // count
        ids = self.fresh(len(weights))
        blocks = x.ids.reshape(count, -1)
        for members, made in zip(blocks, ids.reshape(count, size), strict=True):
            self.tie(np.concatenate([members[1:], made]), np.repeat(members[:1], len(members) - 1 + size))
        silent = (x.constant == 0).reshape(count, 1, -1)
        used = (weights != 0).reshape(count, size, weights.shape[1], -1).any(axis=3) & ~silent
        constant = np.zeros(len(weights)) if bias is None else bias
        self.cuts.append(Cut(node.inputs[1], 0, ids))
        if bias is not None:
            self.cuts.append(Cut(node.inputs[2], 0, ids))
        self.groups[node.outputs[0]] = size
        self._give(node, 1, ids, np.where(used.any(axis=2).reshape(-1), np.nan, constant))
        return True

    def batch_norm(self, node: Node) -> bool:
        """Batch normalisation, with statistics that are fixed."""
        x = self.values.get(node.inputs[0])
        found = [self.array(name) for name in node.inputs[1:5]]
        arrays = [a for a in found if a is not None]
        if x is None or x.axis != 1 or len(arrays) < 4:
            return False
        scale, bias, mean, variance = arrays
        turned = scale * (x.constant - mean) / np.sqrt(variance + node.attributes.get("epsilon", 1e-5)) + bias
        self.cuts += [Cut(name, 0, x.ids) for name in node.inputs[1:5]]
        self._give(node, 1, x.ids, np.where(scale == 0, bias, turned))
        return True

    def each(self, node: Node) -> bool:
        """A function of each number, whose other operands are single numbers."""
        x = self.values.get(node.inputs[0])
        others = [self.network.parameters.get(name) if name else None for name in node.inputs[1:]]
        if x is None or any(o is None or o.size != 1 for o, name in zip(others, node.inputs[1:], strict=True) if name):
            return False
        operands = [None if o is None else Tensor(np.asarray(to_host(o))) for o in others]
        self._give(node, x.axis, x.ids, self._applied(node, [x.constant], operands))
        return True

    def pool(self, node: Node) -> bool:
        """Pooling of the axes after the channels."""
        x = self.values.get(node.inputs[0])
        if x is None or x.axis != 1:
            return False
        padded = node.operator == "AveragePool" and node.attributes.get("count_include_pad", 0)
        self._give(node, 1, x.ids, np.where(x.constant == 0, 0, np.nan) if padded else x.constant)
        return True

    def both(self, node: Node) -> bool:
        """A function of two numbers each, of two values or of a value and a parameter."""
        names = node.inputs
        known = [self.values.get(name) for name in names]
        ndim = len(self.shapes[node.outputs[0]])
        first = next((v for v in known if v is not None), None)
        if first is None or len(names) != 2:
            return False
        place = first.axis - len(self.shapes[names[known.index(first)]])  # from the last axis, as shapes broadcast
        constants, cuts = [], []
        for name, value in zip(names, known, strict=True):
            if value is not None:
                if value.axis - len(self.shapes[name]) != place or len(value.ids) != len(first.ids):
                    return False
                constants.append(value.constant)
                continue
            x = self.network.parameters.get(name)
            if x is None:
                return False
            x = np.asarray(to_host(x))
            length = x.shape[place] if x.ndim >= -place else 1
            if length == 1:
                constants.append(np.full(len(first.ids), x.reshape(-1)[0] if x.size == 1 else np.nan))
                continue
            if name not in self._own or length != len(first.ids):
                return False
            rows = np.moveaxis(x, place, 0).reshape(length, -1)
            constants.append(np.where((rows == rows[:, :1]).all(axis=1), rows[:, 0], np.nan))
            cuts.append(Cut(name, x.ndim + place, first.ids))
        if known[0] is not None and known[1] is not None:
            self.tie(known[0].ids, known[1].ids)
        result = self._applied(node, constants, [])
        if node.operator == "Mul":
            result = np.where((constants[0] == 0) | (constants[1] == 0), 0, result)
        self.cuts += cuts
        self._give(node, ndim + place, first.ids, result)
        return True

    def concat(self, node: Node) -> bool:
        """Values one after the other, along their channels."""
        ndim = len(self.shapes[node.outputs[0]])
        axis = node.attributes["axis"] % ndim
        parts = []
        for name in node.inputs:
            value = self.values.get(name)
            if value is None:
                count = self.shapes[name][axis] if name in self.shapes else self.network.parameters[name].shape[axis]
                value = Value(axis, self.fresh(count), np.full(count, np.nan))
                self._needed += value.ids.tolist()
            if value.axis != axis:
                return False
            parts.append(value)
        ids, constants = ([getattr(p, what) for p in parts] for what in ("ids", "constant"))
        self._give(node, axis, np.concatenate(ids), np.concatenate(constants))
        return True

    def flatten(self, node: Node) -> bool:
        """Images to rows of numbers."""
        x = self.values.get(node.inputs[0])
        shape = self.shapes[node.inputs[0]]
        if x is None or x.axis == 0 or node.attributes.get("axis", 1) != 1:
            return False
        alone = [-1 if k == x.axis else 1 for k in range(1, len(shape))]
        ids, constant = (np.broadcast_to(a.reshape(alone), shape[1:]).reshape(-1) for a in (x.ids, x.constant))
        self._give(node, 1, ids, constant)
        return True

    def unflatten(self, node: Node) -> bool:
        """(images, channels) to (images, channels, 1, 1): a Reshape that :mod:`hpcblaz.nn.shrinking` has made so."""
        x = self.values.get(node.inputs[0])
        if x is None or not node.outputs[0] or list(to_host(self.network.parameters.get(node.inputs[1], []))) != [
            0, -1, 1, 1,
        ]:  # fmt: skip
            return False
        self._give(node, 1, x.ids, x.constant)
        return True

    def transpose(self, node: Node) -> bool:
        """Axes in another order."""
        x = self.values.get(node.inputs[0])
        if x is None:
            return False
        ndim = len(self.shapes[node.inputs[0]])
        self._give(node, list(node.attributes.get("perm", range(ndim)[::-1])).index(x.axis), x.ids, x.constant)
        return True

    def mean(self, node: Node) -> bool:
        """A mean over axes that are not those of channels."""
        x = self.values.get(node.inputs[0])
        axes = self.network.parameters.get(node.inputs[1]) if len(node.inputs) > 1 else None
        if x is None or axes is None:
            return False
        ndim = len(self.shapes[node.inputs[0]])
        gone = {int(k) % ndim for k in to_host(axes).reshape(-1)}
        if x.axis in gone or not gone:
            return False
        axis = x.axis if node.attributes.get("keepdims", 1) else x.axis - sum(k < x.axis for k in gone)
        self._give(node, axis, x.ids, x.constant)
        return True

    def _give(self, node: Node, axis: int, ids: Numbers, constant: Numbers) -> None:
        self.values[node.outputs[0]] = Value(axis, ids, np.where(np.isfinite(constant), constant, np.nan))

    def _applied(self, node: Node, constants: Sequence[Numbers], others: Sequence[Tensor | None]) -> Numbers:
        unknown = np.any([np.isnan(c) for c in constants], axis=0)
        kind = next(x.dtype for x in self.network.parameters.values() if x.dtype.kind == "f")
        with np.errstate(all="ignore"):
            found = OPERATORS[node.operator](
                [*(Tensor(np.where(np.isnan(c), 0, c).astype(kind)) for c in constants), *others], node.attributes
            )
        data = (found if isinstance(found, Tensor) else found[0]).data
        return np.where(unknown, np.nan, data)


_EACH = (
    "Abs", "Clip", "Dropout", "Elu", "Erf", "Exp", "Gelu", "HardSigmoid", "HardSwish", "Identity", "LeakyRelu", "Neg",
    "Relu", "Sigmoid", "Softplus", "Sqrt", "Tanh",
)  # fmt: skip
_RULES: dict[str, Callable[[Channels, Node], bool]] = {
    **dict.fromkeys(("Conv", "Gemm", "MatMul"), Channels.layer),
    **dict.fromkeys(_EACH, Channels.each),
    **dict.fromkeys(("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool"), Channels.pool),
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Max", "Min"), Channels.both),
    "BatchNormalization": Channels.batch_norm,
    "Concat": Channels.concat,
    "Flatten": Channels.flatten,
    "Reshape": Channels.unflatten,
    "ReduceMean": Channels.mean,
    "Transpose": Channels.transpose,
}
