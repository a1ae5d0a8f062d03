"""Networks to ONNX files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from hpcblaz._version import __version__
from hpcblaz.backend.nn import to_host
from hpcblaz.errors import NetworkError
from hpcblaz.mpi.atomic import AtomicFile
from hpcblaz.nn.network import Branch, Network, Node
from hpcblaz.nn.onnx_package import load_onnx
from hpcblaz.nn.onnx_versions import VERSION

__all__ = ["to_onnx", "write_onnx"]

_IR_VERSION = 9  # of the file, the one that came with version 20 of the operators
_LARGEST = (1 << 31) - 1  # bytes of a protobuf


def write_onnx(path: str | os.PathLike[str], network: Network) -> None:
    """Write a network as an ONNX file, whole or not at all.

    Parameters
    ----------
    path : str or os.PathLike
    network : Network

    Raises
    ------
    NetworkError
        If the file would have 2 GiB or more.
    MissingDependencyError
        If the package onnx is not installed.
    StorageError
        If it cannot be written.
    """
    data = to_onnx(network)
    with AtomicFile(Path(path)) as file:
        file.write_at(0, data)
        file.commit()


def to_onnx(network: Network) -> bytes:
    """Return a network as the bytes of an ONNX file.

    Parameters
    ----------
    network : Network

    Returns
    -------
    bytes

    Raises
    ------
    NetworkError
        If there would be 2 GiB or more of them.
    MissingDependencyError
        If the package onnx is not installed.
    """
    onnx = load_onnx()
    size = sum(int(x.nbytes) for x in network.parameters.values())
    if size >= _LARGEST:
        raise NetworkError(f"expected parameters of less than 2 GiB, which an ONNX file can have, got {size} bytes")
    inputs = [
        onnx.helper.make_tensor_value_info(
            port.name,
            onnx.helper.np_dtype_to_tensor_dtype(np.dtype(port.dtype)),
            [f"{port.name}_{axis}" if n is None else n for axis, n in enumerate(port.shape)],
        )
        for port in network.inputs
    ]
    graph = onnx.helper.make_graph(
        [_node(onnx, node) for node in network.nodes],
        "network",
        inputs,
        [onnx.ValueInfoProto(name=name) for name in network.outputs],
        [
            onnx.numpy_helper.from_array(np.ascontiguousarray(to_host(x)).reshape(x.shape), name)
            for name, x in network.parameters.items()
        ],
    )
    model = onnx.helper.make_model(
        graph,
        opset_imports=[onnx.helper.make_opsetid("", VERSION)],
        ir_version=_IR_VERSION,
        producer_name="hpcblaz",
        producer_version=__version__,
    )
    known = onnx.shape_inference.infer_shapes(model, data_prop=True)
    for output, found in zip(model.graph.output, known.graph.output, strict=True):
        output.CopyFrom(found)
    return bytes(model.SerializeToString())


def _node(onnx: Any, node: Node) -> Any:
    attributes = {
        name: _branch(onnx, value)
        if isinstance(value, Branch)
        else onnx.numpy_helper.from_array(value)
        if isinstance(value, np.ndarray)
        else value
        for name, value in node.attributes.items()
    }
    return onnx.helper.make_node(node.operator, node.inputs, node.outputs, **attributes)


def _branch(onnx: Any, branch: Branch) -> Any:
    outputs = [onnx.ValueInfoProto(name=name) for name in branch.outputs]
    return onnx.helper.make_graph([_node(onnx, node) for node in branch.nodes], "branch", [], outputs)
