"""Older forms of ONNX's operators, brought to the form of version 20 of its set."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from hpcblaz.nn.network import Node

__all__ = ["OLDEST", "VERSION", "upgraded"]

VERSION = 20
OLDEST = 7  # before it, operators broadcast in another way

_AXES_UNTIL = {"ReduceSum": 13, "Squeeze": 13, "Unsqueeze": 13}  # else 18


def upgraded(node: Node, version: int, constant: Callable[[Any], str]) -> list[Node]:
    """Return nodes of version 20 for a node of an older version.

    Parameters
    ----------
    node : Node
    version : int
        Of the set of operators that the node is of.
    constant : callable
        Takes an array, and returns the name of a parameter that holds it.

    Returns
    -------
    list of Node
    """
    attributes = dict(node.attributes)
    inputs = list(node.inputs)
    name = node.operator

    def move(attribute: str, place: int, kind: str) -> None:
        """Make an attribute an input."""
        if attribute in attributes:
            inputs.extend([""] * (place + 1 - len(inputs)))
            inputs[place] = constant(np.asarray(attributes.pop(attribute), kind))

    if (name.startswith("Reduce") or name in _AXES_UNTIL) and version < _AXES_UNTIL.get(name, 18):
        move("axes", 1, "i8")
    elif name == "Clip" and version < 11:
        move("min", 1, "f4")
        move("max", 2, "f4")
    elif name == "Dropout" and version < 12:
        move("ratio", 1, "f4")
    elif name == "Pad" and version < 11:
        attributes.setdefault("value", 0.0)
        move("pads", 1, "i8")
        move("value", 2, "f4")
    elif name == "Slice" and version < 10:
        attributes.setdefault("axes", list(range(len(attributes["starts"]))))
        for place, part in enumerate(("starts", "ends", "axes"), 1):
            move(part, place, "i8")
    elif name == "Split" and version < 18:
        move("split", 1, "i8")
        if len(inputs) < 2:
            attributes["num_outputs"] = len(node.outputs)
    elif name in ("Softmax", "LogSoftmax") and version < 13:
        return _coerced(node, attributes.get("axis", 1))
    return [Node(name, tuple(inputs), node.outputs, attributes)]


def _coerced(node: Node, axis: int) -> list[Node]:
    """Return a softmax over an axis and all axes after it."""
    source, result = node.inputs[0], node.outputs[0]
    shape, flat, likely = (f"{result}/{part}" for part in ("shape", "flat", "softmax"))
    return [
        Node("Shape", (source,), (shape,)),
        Node("Flatten", (source,), (flat,), {"axis": axis}),
        Node(node.operator, (flat,), (likely,), {"axis": -1}),
        Node("Reshape", (likely, shape), (result,)),
    ]
