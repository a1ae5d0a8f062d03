"""Schemes that round weights to fewer bits, and networks that hold the rounded numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcblaz.backend.nn import array_module, to_host
from hpcblaz.errors import ConfigurationError, NetworkError
from hpcblaz.nn.compressible import Weights, compressible, output_axis
from hpcblaz.nn.network import Network, Node
from hpcblaz.nn.tape import Array, Tensor, tensor

__all__ = ["Quantize", "calibrate", "quantized"]

_REAL = ("float16", "bfloat16")
_BATCH = 128
_MOST = {"int8": 127, "int4": 7}


@dataclass(frozen=True)
class Quantize:
    """Round weights to a type of fewer bits.

    Parameters
    ----------
    dtype : {'float16', 'bfloat16', 'int8', 'int4', 'ternary'}
        Integers are multiples of a step, of which the largest magnitude is 127 or 7. Ternary weights are -1, 0 and 1
        times a number, the one for which they are nearest.
    per_channel : bool
        A step for each output.
    leave : sequence of str
        Names of weights that stay as they are.
    affine : bool
        The integers, of int8 or int4, go from the least to the greatest weight (zero included, which stays zero).
    """

    dtype: str = "int8"
    per_channel: bool = True
    leave: Sequence[str] = ()
    affine: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in (*_REAL, *_MOST, "ternary"):
            raise ConfigurationError(f"expected float16, bfloat16, int8, int4 or ternary, got {self.dtype!r}")
        if self.affine and self.dtype not in _MOST:
            raise ConfigurationError(f"expected int8 or int4 to be affine, got {self.dtype!r}")
        if isinstance(self.leave, str):
            raise ConfigurationError(f"expected a list of names to leave, got {self.leave!r}: put it in brackets")

    def pi(self, weights: Mapping[str, Array], network: Network) -> Weights:
        """Return float16 weights; the upper 16 bits of bfloat16; or integers, int8 in memory.

        Integers come with their steps as ``name/step``, and with the integer of zero as ``name/zero`` if affine.
        """
        result = dict(weights)
        for name in compressible(network, self.leave):
            x = weights[name]
            xp = array_module(x)
            if self.dtype == "float16":
                largest = float(xp.finfo(xp.float16).max)
                result[name] = xp.clip(x, -largest, largest).astype(xp.float16)
            elif self.dtype == "bfloat16":
                result[name] = _upper_bits(x)
            else:
                result.update(self._integers(name, x, output_axis(network, name)))
        return result

    def delta(self, weights: Mapping[str, Array], network: Network) -> Weights:
        """Return the weights as real numbers of the type that the network has."""
        names = compressible(network, self.leave)
        extra = {f"{name}/{part}" for name in names for part in ("step", "zero")}
        result = {name: x for name, x in weights.items() if name not in extra}
        for name in names:
            x, kind = weights[name], network.parameters[name].dtype
            if self.dtype == "bfloat16":
                xp = array_module(x)
                result[name] = (x.astype(xp.uint32) << xp.uint32(16)).view(xp.float32).astype(kind)
                continue
            x = x.astype(kind)
            if self.affine:
                x = x - weights[f"{name}/zero"].astype(kind)
            result[name] = x * weights[f"{name}/step"] if f"{name}/step" in weights else x
        return result

    def _integers(self, name: str, x: Array, axis: int) -> Weights:
        xp = array_module(x)
        others = tuple(k for k in range(x.ndim) if k != axis) if self.per_channel else tuple(range(x.ndim))
        if self.dtype == "ternary":
            step = _ternary_step(x, others)
            return {name: xp.where(abs(x) > step / 2, xp.sign(x), 0).astype(xp.int8), f"{name}/step": step}
        most = _MOST[self.dtype]
        if not self.affine:
            step = abs(x).max(axis=others, keepdims=True) / x.dtype.type(most)
            step = xp.where(step > 0, step, 1).astype(x.dtype)
            return {name: xp.clip(xp.rint(x / step), -most, most).astype(xp.int8), f"{name}/step": step}
        least = xp.minimum(x.min(axis=others, keepdims=True), 0)
        greatest = xp.maximum(x.max(axis=others, keepdims=True), 0)
        step = (greatest - least) / x.dtype.type(2 * most + 1)
        step = xp.where(step > 0, step, 1).astype(x.dtype)
        zero = -most - 1 - xp.rint(least / step)
        steps = xp.clip(xp.rint(x / step) + zero, -most - 1, most)
        # Half-way between two integers the greatest one may go down: then not all integers would be used.
        steps = xp.where((x == greatest) & (greatest > least), most, steps).astype(xp.int8)
        return {name: steps, f"{name}/step": step, f"{name}/zero": zero.astype(xp.int8)}


def _upper_bits(x: Array) -> Array:
    """Return the upper halves of the bits of float32, rounded to the nearest, of ties the even one."""
    xp = array_module(x)
    bits = x.astype(xp.float32).view(xp.uint32)
    rounded = (bits + xp.uint32(0x7FFF) + ((bits >> xp.uint32(16)) & xp.uint32(1))) >> xp.uint32(16)
    infinite = (rounded & xp.uint32(0x7FFF)) == xp.uint32(0x7F80)  # the largest number instead
    return xp.where(infinite, rounded - xp.uint32(1), rounded).astype(xp.uint16)


def _ternary_step(x: Array, others: Sequence[int]) -> Array:
    """Return the number that multiples of -1, 0 and 1 of are nearest to weights.

    With the k greatest magnitudes kept, it is their mean, and their sum squared over k is what the distance loses: the
    k for which that is greatest is best.
    """
    xp = array_module(x)
    kept = [k for k in range(x.ndim) if k not in others]
    rows = xp.transpose(abs(x), (*kept, *others)).reshape(math.prod(x.shape[k] for k in kept), -1)
    sums = xp.cumsum(-xp.sort(-rows.astype(xp.float64), axis=1), axis=1)
    counts = xp.arange(1, rows.shape[1] + 1)
    best = (sums**2 / counts).argmax(axis=1)
    step = (sums / counts)[xp.arange(len(rows)), best]
    step = xp.where(step > 0, step, 1).astype(x.dtype)
    return step.reshape([x.shape[k] if k in kept else 1 for k in range(x.ndim)])


def calibrate(network: Network, *arrays: Array, percentile: float = 100.0) -> dict[str, tuple[float, float]]:
    """Return the least and the greatest numbers that go into the layers with weights.

    Parameters
    ----------
    network : Network
    *arrays : array
        Some inputs, as the network takes them.
    percentile : float
        Share, above 50 and up to 100, of the numbers that are not greater than the greatest; the same for the least.

    Returns
    -------
    dict of str to tuple of float
        By the names of values. Zero is always between the two. Of several batches, the widest range.

    Raises
    ------
    ConfigurationError
        If the percentile makes no sense.
    NetworkError
        If there are no inputs, or what goes into a layer is not finite.
    """
    if not 50 < percentile <= 100:
        raise ConfigurationError(f"expected a percentile above 50 and up to 100, got {percentile}")
    if not arrays or any(0 in x.shape for x in arrays):
        raise NetworkError("expected some inputs to calibrate with, got none")
    wanted = compressible(network)
    found: dict[str, tuple[float, float]] = {}

    def watch(node: Node, operands: Sequence[Tensor | None], results: Sequence[Tensor]) -> None:
        if node.operator not in wanted.values() or node.inputs[1] not in wanted or operands[0] is None:
            return
        x = to_host(operands[0].data)
        least, most = np.percentile(x, [100 - percentile, percentile])
        if not np.isfinite([least, most]).all():
            raise NetworkError(f"expected finite numbers to calibrate with, got others in {node.inputs[0]!r}")
        before = found.get(node.inputs[0], (0.0, 0.0))
        found[node.inputs[0]] = (min(float(least), before[0]), max(float(most), before[1]))

    size = next((port.shape[0] for port in network.inputs if port.shape), None) or _BATCH
    for start in range(0, len(arrays[0]), size):
        network.forward([tensor(x[start : start + size]) for x in arrays], watch=watch)
    return found


def quantized(
    network: Network, scheme: Quantize, activations: Mapping[str, tuple[float, float]] | None = None
) -> Network:
    """Return a network that holds the rounded weights, and nodes that bring them back, for ONNX files.

    Integers are read by DequantizeLinear, float16 by Cast. int4 and ternary weights take a byte each, and bfloat16
    stays in four: the operators of ONNX that this package writes have no smaller types.

    Parameters
    ----------
    network : Network
    scheme : Quantize
    activations : mapping of str to tuple of float, optional
        As :func:`calibrate` gives them. These values are rounded to 8 bits between their least and greatest number.

    Returns
    -------
    Network
        That gives what ``compressed(network, scheme)`` gives, if no activations are rounded.
    """
    weights = {name: network.parameters[name] for name in network.trainable}
    small = scheme.pi(weights, network)
    real = scheme.delta(small, network)
    parameters, renamed = dict(network.parameters), {}
    before: list[Node] = []
    for name in compressible(network, scheme.leave):
        parameters[name] = real[name]
        if scheme.dtype == "bfloat16":
            continue
        whole = f"{name}/whole"
        while whole in parameters:
            whole += "_"
        parameters[name], renamed[name] = small[name], whole
        if scheme.dtype == "float16":
            kind = {"float32": 1, "float64": 11}[str(real[name].dtype)]
            before.append(Node("Cast", (name,), (whole,), {"to": kind}))
            continue
        axis = output_axis(network, name)
        operands = [name]
        for part in ("step", "zero"):
            x = small.get(f"{name}/{part}")
            if x is not None:
                parameters[f"{name}/{part}"] = x.reshape(-1) if scheme.per_channel else x.reshape(())
                operands.append(f"{name}/{part}")
        before.append(Node("DequantizeLinear", tuple(operands), (whole,), {"axis": axis} if scheme.per_channel else {}))
    after, rounded = _rounded_values(network, activations or {}, parameters)
    nodes = list(before)
    for name in (port.name for port in network.inputs):
        nodes += after.get(name, [])
    for node in network.nodes:
        inputs = [renamed.get(name, name) for name in node.inputs]
        if node.inputs[1:2] and node.inputs[1] in renamed:
            inputs[0] = rounded.get(inputs[0], inputs[0])
        nodes.append(Node(node.operator, tuple(inputs), node.outputs, node.attributes))
        for name in node.outputs:
            nodes += after.get(name, [])
    return network.replace(nodes=nodes, parameters=parameters)


def _rounded_values(
    network: Network, activations: Mapping[str, tuple[float, float]], parameters: dict[str, Any]
) -> tuple[dict[str, list[Node]], dict[str, str]]:
    """Return the nodes that round values, by the values, and the names of what they give."""
    known = {port.name for port in network.inputs} | {name for node in network.nodes for name in node.outputs}
    unknown = sorted(set(activations) - known)
    if unknown:
        raise NetworkError(f"expected ranges of values of the network, got one of {', '.join(unknown)}")
    after: dict[str, list[Node]] = {}
    rounded = {}
    for name, (least, most) in activations.items():
        kind = next(p.dtype for p in network.inputs) if network.inputs else "float32"
        step = (most - least) / 255 or 1.0
        zero: NDArray[Any] = np.array(np.rint(-128 - least / step), np.int8)
        label = f"{name}/rounded"
        parameters[f"{label}/step"] = np.array(step, kind if np.dtype(kind).kind == "f" else "float32")
        parameters[f"{label}/zero"] = zero
        scale = (f"{label}/step", f"{label}/zero")
        after[name] = [
            Node("QuantizeLinear", (name, *scale), (f"{label}/integers",)),
            Node("DequantizeLinear", (f"{label}/integers", *scale), (label,)),
        ]
        rounded[name] = label
    return after, rounded
