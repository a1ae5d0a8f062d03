"""Networks from ONNX files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcblaz.errors import FileFormatError, HpcblazError, NetworkError
from hpcblaz.mpi.atomic import storage_errors
from hpcblaz.nn.network import Branch, Network, Node, Port
from hpcblaz.nn.onnx_package import load_onnx
from hpcblaz.nn.onnx_versions import OLDEST, upgraded
from hpcblaz.nn.operators import OPERATORS
from hpcblaz.nn.shape_operators import TYPES
from hpcblaz.nn.tape import Tensor

__all__ = ["read_onnx"]

_UNFOLDED = {"DequantizeLinear", "Dropout", "If", "QuantizeLinear"}
_LARGEST_FOLDED = 1 << 24  # numbers of a result that is computed when the network is read


def read_onnx(path: str | os.PathLike[str]) -> Network:
    """Read a network.

    Operators of version 7 of ONNX's set and of later ones are brought to the form of version 20. What depends on
    constants alone is computed at once.

    Parameters
    ----------
    path : str or os.PathLike

    Returns
    -------
    Network

    Raises
    ------
    FileFormatError
        If the file is no ONNX file, is truncated, or refers to data that is not there.
    NetworkError
        If operators are not supported, all of which are named, or weights have NaN.
    MissingDependencyError
        If the package onnx is not installed.
    StorageError
        If the file cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> from hpcblaz import nn
    >>> path = Path(tempfile.mkdtemp()) / "small.onnx"
    >>> nn.write_onnx(path, nn.mlp(4, (3,), 2, seed=0))
    >>> nn.read_onnx(path)(np.zeros((5, 4), np.float32)).shape
    (5, 2)
    """
    onnx = load_onnx()
    path = Path(path)
    with storage_errors("read", path):
        data = path.read_bytes()
    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:
        raise FileFormatError(f"expected {path} to be an ONNX file, got: {error}") from error
    if not model.graph.node and not model.graph.output:
        raise FileFormatError(f"expected {path} to be an ONNX file, got one without a network")
    _load_external(onnx, path, model)
    try:
        return _folded(_Reader(onnx, model).network())
    except HpcblazError as error:
        raise type(error)(f"{path}: {error}") from error
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise FileFormatError(f"expected {path} to be a sound ONNX file, got a damaged one: {error!r}") from error


def _tensors(onnx: Any, graph: Any) -> Iterator[Any]:
    """Return the tensors of a graph and of the branches in it."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                yield attribute.t
            elif attribute.type == onnx.AttributeProto.GRAPH:
                yield from _tensors(onnx, attribute.g)


def _load_external(onnx: Any, path: Path, model: Any) -> None:
    """Read the tensors that are in files of their own, beside the file."""
    folder = path.resolve().parent
    bad: dict[str, str] = {}
    for tensor in _tensors(onnx, model.graph):
        if tensor.data_location != onnx.TensorProto.EXTERNAL:
            continue
        info = {entry.key: entry.value for entry in tensor.external_data}
        location = info.get("location", "")
        file = (folder / location).resolve()
        if not location or not file.is_relative_to(folder):
            bad[location] = "not beside the file"
            continue
        if not file.is_file():
            bad[location] = "not there"
            continue
        offset, length = int(info.get("offset", 0)), int(info.get("length", -1))
        with storage_errors("read", file), open(file, "rb") as stream:
            stream.seek(offset)
            data = stream.read(length)
        if 0 <= length != len(data):
            bad[location] = f"truncated: {len(data)} of {length} bytes of {tensor.name!r}"
            continue
        tensor.raw_data = data
        tensor.data_location = onnx.TensorProto.DEFAULT
    if bad:
        listed = ", ".join(f"{name!r} is {reason}" for name, reason in bad.items())
        raise FileFormatError(f"{path}: expected the files of its external data, got: {listed}")


class _Reader:
    """Brings a model to the form of a network."""

    def __init__(self, onnx: Any, model: Any) -> None:
        self.onnx = onnx
        self.model = model
        self.version = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0)
        self.parameters: dict[str, NDArray[Any]] = {}
        self.unsupported: dict[str, int] = {}
        self.fresh = 0

    def network(self) -> Network:
        graph = self.model.graph
        if self.version < OLDEST:
            raise NetworkError(
                f"expected version {OLDEST} of ONNX's operators or a later one, got {self.version}: convert the file"
            )
        nodes = self.nodes(graph, "", {})
        if self.unsupported:
            listed = ", ".join(f"{name} ({count} times)" for name, count in sorted(self.unsupported.items()))
            raise NetworkError(f"expected operators that are supported, got: {listed}")
        inputs = [self.port(value) for value in graph.input if value.name not in self.parameters]
        return Network(nodes, self.parameters, inputs, [value.name for value in graph.output])

    def port(self, value: Any) -> Port:
        kind = value.type.tensor_type
        if not value.type.HasField("tensor_type") or kind.elem_type not in TYPES:
            raise NetworkError(f"expected input {value.name!r} to be a tensor of numbers, got another type")
        if not kind.HasField("shape"):
            raise NetworkError(f"expected a number of axes for input {value.name!r}, got none")
        return Port(
            value.name, tuple(d.dim_value if d.dim_value > 0 else None for d in kind.shape.dim), TYPES[kind.elem_type]
        )

    def note(self, what: str) -> None:
        self.unsupported[what] = self.unsupported.get(what, 0) + 1

    def constant(self, value: Any) -> str:
        """Return the name of a fresh parameter."""
        self.fresh += 1
        name = f"constant_{self.fresh}"
        while name in self.parameters:
            name += "_"
        self.parameters[name] = np.asarray(value)
        return name

    def nodes(self, graph: Any, prefix: str, outer: dict[str, str]) -> list[Node]:
        """Return the nodes of a graph; values of a branch are given names that no other branch has."""
        names = dict(outer)

        def known(name: str) -> str:
            return names.get(name, name)

        def own(name: str) -> str:
            if name and prefix:
                names[name] = prefix + name
            return known(name)

        if graph.sparse_initializer:
            self.note("sparse weights")
        for tensor in graph.initializer:
            self.parameters[own(tensor.name)] = self.array(tensor)
        found: list[Node] = []
        for proto in graph.node:
            operator = proto.op_type if proto.domain in ("", "ai.onnx") else f"{proto.domain}.{proto.op_type}"
            inputs = tuple(known(name) for name in proto.input)
            label = f"{prefix}{len(found)}"
            attributes = {a.name: self.attribute(a, f"{label}/{a.name}/", names) for a in proto.attribute}
            outputs = tuple(own(name) for name in proto.output)
            while outputs and not outputs[-1]:
                outputs = outputs[:-1]
            if operator == "Constant":
                self.parameters[outputs[0]] = self.constant_value(attributes)
                continue
            if operator != "If" and operator not in OPERATORS:
                self.note(operator)
                continue
            node = Node(operator, inputs, outputs, attributes)
            reason = _unsupported_form(node)
            if reason:
                self.note(f"{operator} {reason}")
                continue
            found += upgraded(node, self.version, self.constant)
        if prefix:
            self.results = tuple(known(value.name) for value in graph.output)
        return found

    def attribute(self, attribute: Any, prefix: str, names: dict[str, str]) -> Any:
        value = self.onnx.helper.get_attribute_value(attribute)
        if attribute.type == self.onnx.AttributeProto.GRAPH:
            nodes = self.nodes(value, prefix, names)
            return Branch(tuple(nodes), self.results)
        if isinstance(value, self.onnx.TensorProto):
            return self.array(value)
        if isinstance(value, bytes):
            return value.decode("utf-8", "replace")
        if isinstance(value, Iterable) and not isinstance(value, str):
            return [v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in value]
        return value

    def constant_value(self, attributes: dict[str, Any]) -> NDArray[Any]:
        for name, kind in (("value", None), ("value_float", "f4"), ("value_floats", "f4"), ("value_int", "i8")):
            if name in attributes:
                return np.asarray(attributes[name], kind)
        if "value_ints" in attributes:
            return np.asarray(attributes["value_ints"], "i8")
        self.note("Constant of text or of sparse numbers")
        return np.zeros(0)

    def array(self, tensor: Any) -> NDArray[Any]:
        """Return a tensor; bfloat16, which NumPy does not have, as float32."""
        try:
            x = self.onnx.numpy_helper.to_array(tensor)
        except (ValueError, TypeError, KeyError) as error:
            raise FileFormatError(f"expected the numbers of {tensor.name!r}, got: {error}") from error
        if tensor.data_type == self.onnx.TensorProto.BFLOAT16:
            return np.asarray(x).astype(np.float32)
        if tensor.data_type not in TYPES:
            self.note(f"numbers of type {self.onnx.TensorProto.DataType.Name(tensor.data_type)}")
            return np.zeros(0)
        return np.array(x)  # with memory of its own, which can be written to


def _unsupported_form(node: Node) -> str:
    """Say which form of an operator is not supported; nothing if it is."""
    attributes = node.attributes
    if node.operator in ("LSTM", "GRU"):
        usual = {"LSTM": ["Sigmoid", "Tanh", "Tanh"], "GRU": ["Sigmoid", "Tanh"]}[node.operator]
        count = 2 if attributes.get("direction") == "bidirectional" else 1
        if [name.lower() for name in attributes.get("activations", usual * count)] != [
            name.lower() for name in usual * count
        ]:
            return f"with activations {attributes['activations']}"
        if "clip" in attributes or attributes.get("layout", 0) or attributes.get("input_forget", 0):
            return "with clip, layout or input_forget"
        if any(node.inputs[k : k + 1] not in ((), ("",)) for k in (4, 7)):
            return "with sequence_lens or peepholes"
    if node.operator == "BatchNormalization" and (len(node.outputs) > 1 or attributes.get("training_mode", 0)):
        return "in training mode"
    if node.operator in ("MaxPool", "Dropout", "LayerNormalization") and len(node.outputs) > 1:
        return "with a second output"
    if node.operator == "Pad" and attributes.get("mode", "constant") not in ("constant", "reflect", "edge"):
        return f"of mode {attributes['mode']!r}"
    if node.operator == "Cast" and attributes.get("to") not in TYPES:
        return f"to type {attributes.get('to')}"
    if node.operator == "DequantizeLinear" and attributes.get("block_size", 0):
        return "with blocks"
    return ""


def _folded(network: Network) -> Network:
    """Return a network without nodes that depend on constants alone, and without parameters that nothing reads."""
    parameters = dict(network.parameters)
    nodes = []
    for node in network.nodes:
        if node.operator in _UNFOLDED or not all(name in parameters for name in node.inputs if name):
            nodes.append(node)
            continue
        operands = [Tensor(parameters[name]) if name else None for name in node.inputs]
        try:
            results = OPERATORS[node.operator](operands, node.attributes)
        except (ValueError, TypeError, LookupError):  # it will be said which one if it is ever computed
            nodes.append(node)
            continue
        results = (results,) if isinstance(results, Tensor) else results
        if sum(result.data.size for result in results) > _LARGEST_FOLDED:
            nodes.append(node)
            continue
        parameters.update({name: np.array(r.data) for name, r in zip(node.outputs, results, strict=False) if name})
    read = {name for node in nodes for name in node.reads()} | set(network.outputs)
    return network.replace(nodes=nodes, parameters={name: x for name, x in parameters.items() if name in read})
