"""Networks: operators in an order in which they can be computed, and the arrays that they are given.

The operators are those of ONNX, in the form of version 20 of its set (:mod:`hpcblaz.nn.operators`). Networks that are
built from layers, that are read from files and that are made smaller all have this form.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hpcblaz.backend.nn import array_module, to_device, to_host
from hpcblaz.errors import NetworkError, ShapeError
from hpcblaz.nn.elementwise import dropout
from hpcblaz.nn.normalising import batch_norm, batch_statistics
from hpcblaz.nn.operators import OPERATORS
from hpcblaz.nn.tape import Array, Tensor, tensor

__all__ = ["Branch", "Network", "Node", "Port"]

# Which operands of an operator are weights: training changes them if they are parameters.
WEIGHTS: Mapping[str, tuple[int, ...]] = {
    "BatchNormalization": (1, 2),
    "Conv": (1, 2),
    "Gather": (0,),
    "Gemm": (1, 2),
    "GRU": (1, 2, 3),
    "LSTM": (1, 2, 3),
    "LayerNormalization": (1, 2),
    "MatMul": (0, 1),
}
_AFFINE = ("Add", "Mul", "Sub")  # of a parameter with more than one number: a bias or a scale


@dataclass(frozen=True)
class Port:
    """What a network takes: a name, lengths of axes (None where any will do) and a type of numbers."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str = "float32"


@dataclass(frozen=True)
class Branch:
    """Nodes that are computed only if a condition holds, and the names of what they give."""

    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True)
class Node:
    """One use of an operator.

    Parameters
    ----------
    operator : str
        As ONNX names it.
    inputs, outputs : tuple of str
        Names of values; an empty name stands for an input that is left out.
    attributes : mapping of str to object
        Numbers, text, lists of them, arrays, and branches.
    """

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def reads(self) -> Iterable[str]:
        """Return the names of all values that it reads, those of its branches too."""
        yield from (name for name in self.inputs if name)
        for branch in self.branches():
            inner = {name for node in branch.nodes for name in node.outputs}
            for node in branch.nodes:
                yield from (name for name in node.reads() if name not in inner)
            yield from (name for name in branch.outputs if name not in inner)

    def branches(self) -> list[Branch]:
        """Return the branches among the attributes."""
        return [value for value in self.attributes.values() if isinstance(value, Branch)]


class Network:
    """A network: nodes, and the arrays that are its parameters.

    Parameters
    ----------
    nodes : sequence of Node
        Each after those whose outputs it reads.
    parameters : mapping of str to array
        Weights and constants. They are not copied.
    inputs : sequence of Port
    outputs : sequence of str
        Names of values.
    frozen : iterable of str
        Parameters that training leaves alone.

    Raises
    ------
    NetworkError
        If operators are not supported (all of them are named), names are read that nothing gives, or given twice, or
        a parameter has NaN.

    Examples
    --------
    >>> nodes = [Node("Gemm", ("x", "w"), ("y",), {"transB": 1}), Node("Relu", ("y",), ("z",))]
    >>> network = Network(nodes, {"w": np.array([[1.0, -1.0]])}, [Port("x", (None, 2), "float64")], ["z"])
    >>> network(np.array([[3.0, 1.0], [1.0, 3.0]])).tolist()
    [[2.0], [0.0]]
    """

    def __init__(
        self,
        nodes: Sequence[Node],
        parameters: Mapping[str, Array],
        inputs: Sequence[Port],
        outputs: Sequence[str],
        frozen: Iterable[str] = (),
    ) -> None:
        self.nodes = tuple(nodes)
        self.parameters = dict(parameters)
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self.frozen = set(frozen)
        _check(self)
        self._last_uses = _last_uses(self.nodes, set(self.outputs) | set(self.parameters))

    def __call__(self, *arrays: Array) -> Any:
        """Compute the outputs for arrays, in the order of the inputs.

        Parameters
        ----------
        *arrays : array of NumPy or CuPy
            CuPy in means CuPy out, of a network that is on the card (:meth:`to`).

        Returns
        -------
        array or tuple of array
            A tuple if there are several outputs.

        Raises
        ------
        ShapeError
            If they do not have the shapes of the inputs, or an operator cannot take what it gets.
        """
        results = self.forward([tensor(x) for x in arrays])
        return results[0].data if len(results) == 1 else tuple(result.data for result in results)

    def forward(
        self,
        arrays: Sequence[Tensor],
        weights: Mapping[str, Tensor] | None = None,
        training: bool = False,
        random: np.random.Generator | None = None,
        watch: Any = None,
    ) -> list[Tensor]:
        """Compute the outputs as tensors.

        Parameters
        ----------
        arrays : sequence of Tensor
            In the order of the inputs.
        weights : mapping of str to Tensor, optional
            Instead of parameters of these names, for gradients with respect to them.
        training : bool
            Batch normalisation uses the statistics of the batch and updates its own, and dropout drops.
        random : numpy.random.Generator, optional
            For dropout.
        watch : callable, optional
            It is called with each node, its operands and its results, which are lists of tensors (or None).

        Returns
        -------
        list of Tensor
        """
        self._check_inputs(arrays)
        values: dict[str, Tensor] = {name: Tensor(x) for name, x in self.parameters.items()}
        values.update(weights or {})
        values.update({port.name: x for port, x in zip(self.inputs, arrays, strict=True)})
        state = _Run(self.parameters, training, random, watch)
        for node, ended in zip(self.nodes, self._last_uses, strict=True):
            state.compute(node, values)
            for name in ended:
                values.pop(name, None)
        return [values[name] for name in self.outputs]

    def _check_inputs(self, arrays: Sequence[Tensor]) -> None:
        if len(arrays) != len(self.inputs):
            names = ", ".join(port.name for port in self.inputs)
            raise ShapeError(f"expected {len(self.inputs)} arrays ({names}), got {len(arrays)}")
        for port, x in zip(self.inputs, arrays, strict=True):
            fits = len(port.shape) == x.ndim and all(m in (None, n) for m, n in zip(port.shape, x.shape, strict=True))
            if not fits:
                shown = "(" + ", ".join("any" if n is None else str(n) for n in port.shape) + ")"
                raise ShapeError(f"expected input {port.name!r} of shape {shown}, got {x.shape}")

    @property
    def trainable(self) -> list[str]:
        """Names of the parameters that training changes, in the order in which they are used."""
        found: dict[str, None] = {}
        for node in _all_nodes(self.nodes):
            places = WEIGHTS.get(node.operator, tuple(range(len(node.inputs))) if node.operator in _AFFINE else ())
            for place in places:
                name = node.inputs[place] if place < len(node.inputs) else ""
                x = self.parameters.get(name)
                if x is None or x.dtype.kind != "f" or (node.operator in _AFFINE and x.size == 1):
                    continue
                found[name] = None
        return [name for name in found if name not in self.frozen]

    def freeze(self, pattern: str) -> None:
        """Have training leave alone the parameters whose names match a pattern, such as ``stft*``."""
        self.frozen |= set(fnmatch.filter(self.parameters, pattern))

    def copy(self) -> Network:
        """Return a network with parameters of its own."""
        return self.replace(parameters={name: x.copy() for name, x in self.parameters.items()})

    def replace(self, **changes: Any) -> Network:
        """Return a network with other nodes, parameters, inputs, outputs or frozen parameters."""
        parts = {name: getattr(self, name) for name in ("nodes", "parameters", "inputs", "outputs", "frozen")}
        return Network(**(parts | changes))

    def astype(self, dtype: str) -> Network:
        """Return the network with real parameters and inputs of another type, such as 'float64'."""
        ports = [Port(p.name, p.shape, dtype if np.dtype(p.dtype).kind == "f" else p.dtype) for p in self.inputs]
        parameters = {name: x.astype(dtype) if x.dtype.kind == "f" else x.copy() for name, x in self.parameters.items()}
        return self.replace(parameters=parameters, inputs=ports)

    def to(self, device: str) -> Network:
        """Return the network with its real parameters on a device, 'cpu' or 'gpu'; integers stay in host memory."""
        moved = {name: to_device(x, device) if x.dtype.kind == "f" else x for name, x in self.parameters.items()}
        return self.replace(parameters=moved)

    @property
    def parameter_count(self) -> int:
        """Number of numbers in the parameters that are real."""
        return sum(int(x.size) for x in self.parameters.values() if x.dtype.kind == "f")

    def __repr__(self) -> str:
        return f"Network({len(self.nodes)} nodes, {self.parameter_count} parameters)"


class _Run:
    """One computation of a network."""

    def __init__(
        self, parameters: dict[str, Array], training: bool, random: np.random.Generator | None, watch: Any
    ) -> None:
        self.parameters = parameters
        self.training = training
        self.random = random
        self.watch = watch

    def compute(self, node: Node, values: dict[str, Tensor]) -> None:
        operands = [values[name] if name else None for name in node.inputs]
        results = self._results(node, operands, values)
        if self.watch is not None:
            self.watch(node, operands, results)
        values.update({name: result for name, result in zip(node.outputs, results, strict=False) if name})

    def _results(self, node: Node, operands: list[Tensor | None], values: dict[str, Tensor]) -> Sequence[Tensor]:
        if node.operator == "If":
            condition = operands[0]
            chosen = "then_branch" if condition is not None and bool(to_host(condition.data).all()) else "else_branch"
            inner = dict(values)
            for step in node.attributes[chosen].nodes:
                self.compute(step, inner)
            return [inner[name] for name in node.attributes[chosen].outputs]
        if self.training and node.operator == "BatchNormalization":
            return [self._batch_norm(node, operands)]
        if self.training and node.operator == "Dropout" and operands[0] is not None:
            if self.random is None:
                raise NetworkError("expected random numbers for dropout, got none: give a generator")
            share = float(to_host(operands[1].data)) if len(operands) > 1 and operands[1] is not None else 0.5
            return [dropout(operands[0], share, self.random)]
        try:
            results = OPERATORS[node.operator](operands, node.attributes)
        except (ValueError, IndexError, TypeError, KeyError) as error:
            shapes = [None if x is None else x.shape for x in operands]
            raise ShapeError(
                f"expected operands that {node.operator} (which gives {node.outputs[0]!r}) can take, "
                f"got shapes {shapes}: {error}"
            ) from error
        return (results,) if isinstance(results, Tensor) else results

    def _batch_norm(self, node: Node, operands: list[Tensor | None]) -> Tensor:
        x = operands[0]
        if x is None or x.data.size <= x.shape[1]:
            raise ShapeError("expected more than one number of each channel to train batch normalisation with, got one")
        mean, variance = batch_statistics(x)
        keep = x.dtype.type(node.attributes.get("momentum", 0.9))
        for name, fresh in zip(node.inputs[3:5], (mean, variance), strict=True):
            if name in self.parameters:
                self.parameters[name] = keep * self.parameters[name] + (1 - keep) * fresh
        return batch_norm(x, operands[1], operands[2], mean, variance, node.attributes.get("epsilon", 1e-5), False)


def _all_nodes(nodes: Iterable[Node]) -> Iterable[Node]:
    """Return nodes, and those of their branches."""
    for node in nodes:
        yield node
        for branch in node.branches():
            yield from _all_nodes(branch.nodes)


def _check(network: Network) -> None:
    unknown: dict[str, int] = {}
    for node in _all_nodes(network.nodes):
        if node.operator not in OPERATORS and node.operator != "If":
            unknown[node.operator] = unknown.get(node.operator, 0) + 1
    if unknown:
        listed = ", ".join(f"{name} ({count} times)" for name, count in sorted(unknown.items()))
        raise NetworkError(f"expected operators that are supported, got: {listed}")
    known = set(network.parameters)
    for port in network.inputs:
        if port.name in known:
            raise NetworkError(f"expected each name once, got {port.name!r} as an input and as a parameter")
        known.add(port.name)
    for node in network.nodes:
        missing = next((name for name in node.reads() if name not in known), None)
        if missing is not None:
            raise NetworkError(f"expected a value {missing!r} for {node.operator}, got none: is the order wrong?")
        twice = next((name for name in node.outputs if name and name in known), None)
        if twice is not None:
            raise NetworkError(f"expected each name once, got {twice!r} again from {node.operator}")
        known.update(name for name in node.outputs if name)
    missing = next((name for name in network.outputs if name not in known), None)
    if missing is not None or not network.outputs:
        raise NetworkError(f"expected outputs that nodes give, got {missing!r}")
    for name, x in network.parameters.items():
        if x.dtype.kind == "f" and bool(array_module(x).isnan(x).any()):
            raise NetworkError(f"expected parameters without NaN, got NaN in {name!r}")


def _last_uses(nodes: Sequence[Node], kept: set[str]) -> list[list[str]]:
    """Return, for each node, the values that nothing reads after it."""
    last = {name: place for place, node in enumerate(nodes) for name in (*node.outputs, *node.reads()) if name}
    ended: list[list[str]] = [[] for _ in nodes]
    for name, place in last.items():
        if name not in kept:
            ended[place].append(name)
    return ended
