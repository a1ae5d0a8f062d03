"""Networks without the structure that a scheme has removed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from hpcblaz.backend.nn import array_module
from hpcblaz.nn.channels import Channels, Fold
from hpcblaz.nn.network import Network, Node
from hpcblaz.nn.report import zero_inputs
from hpcblaz.nn.tape import Tensor

__all__ = ["shrink"]

Shapes = dict[str, tuple[int, ...]]


def shrink(network: Network, shapes: Mapping[str, Sequence[int]] | None = None) -> Network:
    """Return a network without the channels that add nothing to its outputs.

    Filters and neurons of zeros go, with what belongs to them in the layers before and after: batch normalisation,
    sums, concatenations, convolutions with groups, and dense layers after flattened images. So do those whose result
    nothing reads. What is always the same is added to the biases. The outputs are equal to rounding.

    Parameters
    ----------
    network : Network
        With real weights: shrink first, then round.
    shapes : mapping of str to sequence of int, optional
        Of inputs, as :func:`hpcblaz.nn.report` takes them; only which axes are 1 matters.

    Returns
    -------
    Network
        With parameters of its own; the names are the same.

    Raises
    ------
    NetworkError
        If an input needs a shape.

    Examples
    --------
    >>> from hpcblaz import nn
    >>> smaller = nn.shrink(nn.compressed(nn.lenet(), nn.FilterPrune(0.5)))
    >>> smaller.parameter_count < 61706
    True
    """
    network = network.copy()
    network = _plainer(network, _shapes(network, shapes))
    while True:
        smaller = _once(network, _shapes(network, shapes))
        if smaller is None:
            return network
        network = smaller


def _shapes(network: Network, shapes: Mapping[str, Sequence[int]] | None) -> Shapes:
    """Return the shapes of all values; the first axis is 2 if any will do, so that it is no other axis of length 1."""
    arrays = zero_inputs(network, shapes, images=2)
    found: Shapes = {port.name: x.shape for port, x in zip(network.inputs, arrays, strict=True)}

    def watch(node: Node, operands: Sequence[Tensor | None], results: Sequence[Tensor]) -> None:
        found.update({name: x.shape for name, x in zip(node.outputs, results, strict=False) if name})

    with np.errstate(all="ignore"):
        network.forward(arrays, watch=watch)
    return found


def _plainer(network: Network, shapes: Shapes) -> Network:
    """Return a network whose reshapes hold no numbers of channels, where that is possible, without unused nodes."""
    parameters = dict(network.parameters)
    nodes = []
    fixed = all(None not in port.shape[1:] for port in network.inputs)  # else an axis may be 1 by chance
    for node in network.nodes:
        known = node.operator == "Squeeze" and len(node.inputs) > 1
        before, after = shapes.get(node.inputs[0] if node.inputs else "", ()), shapes.get(node.outputs[0], ())
        if node.operator in ("Reshape", "Squeeze", "Unsqueeze") and len(before) > 1 and before[:1] == after[:1]:
            if len(after) == 2 and (fixed or known):
                node = Node("Flatten", node.inputs[:1], node.outputs, {"axis": 1})
            elif len(before) == 2 and after == (*before, 1, 1):
                name = f"{node.outputs[0]}/shape"
                parameters[name] = np.array([0, -1, 1, 1])
                node = Node("Reshape", (node.inputs[0], name), node.outputs)
        nodes.append(node)
    read = set(network.outputs)
    kept: list[Node] = []
    for node in reversed(nodes):
        if read.intersection(node.outputs):
            kept.append(node)
            read.update(node.reads())
    return network.replace(nodes=kept[::-1], parameters={name: x for name, x in parameters.items() if name in read})


def _once(network: Network, shapes: Shapes) -> Network | None:
    """Return a network without the channels that can be removed now; None if there are none."""
    channels = Channels(network, shapes)
    gone = channels.removable()
    if not gone.any():
        return None
    parameters = dict(network.parameters)
    for fold in channels.folds:
        _add_constants(parameters, fold, gone)
    for cut in channels.cuts:
        x = parameters[cut.name]
        xp = array_module(x)
        kept = xp.asarray(np.flatnonzero(~gone[cut.ids]))
        parameters[cut.name] = xp.ascontiguousarray(xp.take(x, kept, axis=cut.axis))
    nodes = []
    for node in network.nodes:
        size = channels.groups.get(node.outputs[0])
        if size is not None:
            count = len(parameters[node.inputs[1]]) // size
            node = Node(node.operator, node.inputs, node.outputs, {**node.attributes, "group": count})
        nodes.append(node)
    return network.replace(nodes=nodes, parameters=parameters)


def _add_constants(parameters: dict[str, np.ndarray], fold: Fold, gone: np.ndarray) -> None:
    constant = np.where(gone[fold.value.ids] & ~np.isnan(fold.value.constant), fold.value.constant, 0)
    if not constant.any():
        return
    weights, bias = parameters[fold.weights], parameters[fold.bias]
    xp = array_module(weights)
    rows = xp.moveaxis(weights, (fold.outputs, fold.inputs), (0, 1))
    rows = rows.reshape(*rows.shape[:2], -1).sum(axis=2, dtype="float64")
    parameters[fold.bias] = bias + (rows @ xp.asarray(constant)).astype(bias.dtype).reshape(bias.shape)
