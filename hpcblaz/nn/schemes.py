"""Schemes of compression: weights brought to a form that takes less room.

A scheme has a projection, pi, from weights to the nearest ones of its form (in the 2-norm, of those that it keeps), and
delta, which gives real weights back to compute with. Schemes are composed: pi in their order, delta in reverse.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from hpcblaz.backend.nn import array_module
from hpcblaz.errors import ConfigurationError, NetworkError
from hpcblaz.nn.network import Network
from hpcblaz.nn.tape import Array

__all__ = ["Compose", "FilterPrune", "NeuronPrune", "Prune", "Quantize", "Scheme", "compressed", "compressible"]

Weights = dict[str, Array]


class Scheme(Protocol):
    """What :func:`compressed` takes."""

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
        if node.operator in ("Conv", "Gemm", "MatMul") and node.inputs[1] in trainable
    }
    unknown = sorted(set(leave) - set(found))
    if unknown:
        raise NetworkError(f"expected names of {', '.join(found) or 'no weights'}, got {', '.join(unknown)}")
    return {name: operator for name, operator in found.items() if name not in leave}


def compressed(network: Network, scheme: Scheme) -> Network:
    """Return a network with the weights that a scheme makes of those of another one, to compute with.

    Parameters
    ----------
    network : Network
    scheme : Scheme

    Returns
    -------
    Network
        With parameters of its own.

    Examples
    --------
    >>> import numpy as np
    >>> from hpcblaz import nn
    >>> from hpcblaz.nn.schemes import Compose, Prune, Quantize, compressed
    >>> smaller = compressed(nn.lenet(), Compose([Prune(0.1), Quantize("float16")]))
    >>> weights = [smaller.parameters[name] for name in compressible(smaller)]
    >>> sum(int(np.count_nonzero(x)) for x in weights), sum(x.size for x in weights)
    (6147, 61470)
    """
    result = network.copy()
    weights = {name: result.parameters[name] for name in network.trainable}
    result.parameters.update(scheme.delta(scheme.pi(weights, network), network))
    return result


def _check_density(density: float) -> None:
    if not 0 < density <= 1:
        raise ConfigurationError(f"expected a density above 0 and up to 1, got {density}")


@dataclass(frozen=True)
class Prune:
    """Keep the weights of greatest magnitude, of all layers together, and set the others to zero.

    Parameters
    ----------
    density : float
        Share of the weights that is kept, above 0 and up to 1: of n weights, int(density * n).
    leave : sequence of str
        Names of weights that stay as they are.
    """

    density: float
    leave: Sequence[str] = ()

    def __post_init__(self) -> None:
        _check_density(self.density)

    def pi(self, weights: Mapping[str, Array], network: Network) -> Weights:
        """Return the weights with zeros. Of equal magnitudes, those that come first are kept."""
        names = list(compressible(network, self.leave))
        sizes = {name: abs(weights[name]) for name in names}
        masks = _largest(sizes, self.density)
        _check_layers(masks)
        return {name: x * masks[name] if name in masks else x for name, x in weights.items()}

    def delta(self, weights: Mapping[str, Array], network: Network) -> Weights:
        """Return the weights as they are."""
        return dict(weights)


@dataclass(frozen=True)
class _Groups:
    """Keep the groups of weights of greatest criterion, of all layers together.

    Parameters
    ----------
    density : float
        Share of the groups that is kept, above 0 and up to 1: of n groups, int(density * n).
    criterion : {'l2norm', 'max', 'min', 'mean', 'sum'}
        Of the magnitudes of a group.
    leave : sequence of str
        Names of weights that stay as they are, such as those of the last layer: every output of a network is needed.
    """

    density: float
    criterion: str = "l2norm"
    leave: Sequence[str] = ()
    operators: ClassVar[tuple[str, ...]] = ("Conv", "Gemm", "MatMul")

    def __post_init__(self) -> None:
        _check_density(self.density)
        if self.criterion not in _CRITERIA:
            raise ConfigurationError(f"expected a criterion of {', '.join(_CRITERIA)}, got {self.criterion!r}")

    def pi(self, weights: Mapping[str, Array], network: Network) -> Weights:
        """Return the weights with zeros for whole outputs, whose biases go too."""
        chosen = {n: o for n, o in compressible(network, self.leave).items() if o in self.operators}
        outputs = {name: _output_axis(network, name) for name in chosen}
        sizes = {}
        for name, axis in outputs.items():
            rows = abs(array_module(weights[name]).moveaxis(weights[name], axis, 0))
            sizes[name] = _CRITERIA[self.criterion](rows.reshape(len(rows), -1))
        masks = _largest(sizes, self.density)
        _check_layers(masks)
        result = dict(weights)
        for name, mask in masks.items():
            x = weights[name]
            shape = [-1 if k == outputs[name] else 1 for k in range(x.ndim)]
            result[name] = x * mask.reshape(shape)
            for bias in _biases(network, name):
                if bias in result:
                    result[bias] = result[bias] * mask
        return result

    def delta(self, weights: Mapping[str, Array], network: Network) -> Weights:
        """Return the weights as they are."""
        return dict(weights)


@dataclass(frozen=True)
class FilterPrune(_Groups):
    """Keep the filters of convolutions of greatest norm; parameters are density, criterion and leave."""

    operators = ("Conv",)


@dataclass(frozen=True)
class NeuronPrune(_Groups):
    """Keep the neurons of dense layers of greatest norm; parameters are density, criterion and leave."""

    operators = ("Gemm", "MatMul")


@dataclass(frozen=True)
class Quantize:
    """Round weights to a type of fewer bits.

    Parameters
    ----------
    dtype : {'float16', 'int8', 'int4'}
        Integers are multiples of a step, of which the largest magnitude is 127 or 7.
    per_channel : bool
        A step for each output.
    leave : sequence of str
        Names of weights that stay as they are.
    """

    dtype: str = "int8"
    per_channel: bool = True
    leave: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.dtype not in ("float16", "int8", "int4"):
            raise ConfigurationError(f"expected float16, int8 or int4, got {self.dtype!r}")

    def pi(self, weights: Mapping[str, Array], network: Network) -> Weights:
        """Return float16 weights; or integers, int8 in memory, and their steps as ``name/step``."""
        result = dict(weights)
        for name in compressible(network, self.leave):
            x = weights[name]
            xp = array_module(x)
            if self.dtype == "float16":
                largest = float(xp.finfo(xp.float16).max)
                result[name] = xp.clip(x, -largest, largest).astype(xp.float16)
                continue
            most = 127 if self.dtype == "int8" else 7
            axis = _output_axis(network, name)
            others = tuple(k for k in range(x.ndim) if k != axis) if self.per_channel else None
            step = abs(x).max(axis=others, keepdims=True) / x.dtype.type(most)
            step = xp.where(step > 0, step, 1).astype(x.dtype)
            result[name] = xp.clip(xp.rint(x / step), -most, most).astype(xp.int8)
            result[f"{name}/step"] = step
        return result

    def delta(self, weights: Mapping[str, Array], network: Network) -> Weights:
        """Return the weights as real numbers of the type that the network has."""
        result = {name: x for name, x in weights.items() if not name.endswith("/step")}
        for name in compressible(network, self.leave):
            x = weights[name].astype(network.parameters[name].dtype)
            result[name] = x * weights[f"{name}/step"] if f"{name}/step" in weights else x
        return result


@dataclass(frozen=True)
class Compose:
    """Schemes one after the other."""

    schemes: Sequence[Scheme]

    def __post_init__(self) -> None:
        if any(isinstance(scheme, Quantize) for scheme in self.schemes[:-1]) or not self.schemes:
            raise ConfigurationError("expected some schemes, Quantize the last one: others take real weights")

    def pi(self, weights: Mapping[str, Array], network: Network) -> Weights:
        """Return weights of the form of all schemes."""
        result = dict(weights)
        for scheme in self.schemes:
            result = scheme.pi(result, network)
        return result

    def delta(self, weights: Mapping[str, Array], network: Network) -> Weights:
        """Return weights to compute with."""
        result = dict(weights)
        for scheme in reversed(self.schemes):
            result = scheme.delta(result, network)
        return result


_CRITERIA: dict[str, Callable[[Array], Array]] = {
    "l2norm": lambda rows: (rows.astype("float64") ** 2).sum(axis=1) ** 0.5,
    "max": lambda rows: rows.max(axis=1),
    "min": lambda rows: rows.min(axis=1),
    "mean": lambda rows: rows.mean(axis=1),
    "sum": lambda rows: rows.sum(axis=1),
}


def _largest(sizes: Mapping[str, Array], density: float) -> Weights:
    """Return masks of the largest numbers of all arrays together; of equal ones, those that come first."""
    if not sizes:
        raise NetworkError("expected a network with weights of this kind, got one without")
    xp = array_module(*sizes.values())
    whole = xp.concatenate([x.reshape(-1) for x in sizes.values()])
    kept = xp.zeros(whole.size, bool)
    kept[xp.argsort(-whole, kind="stable")[: int(density * whole.size)]] = True
    masks, place = {}, 0
    for name, x in sizes.items():
        masks[name] = kept[place : place + x.size].reshape(x.shape)
        place += x.size
    return masks


def _check_layers(masks: Mapping[str, Array]) -> None:
    gone = [name for name, mask in masks.items() if not bool(mask.any())]
    if gone:
        raise NetworkError(f"expected a scheme that keeps a part of each layer, got nothing left of {', '.join(gone)}")


def _output_axis(network: Network, name: str) -> int:
    """Return the axis of weights that numbers the outputs."""
    node = next(node for node in network.nodes if len(node.inputs) > 1 and node.inputs[1] == name)
    if node.operator == "Conv" or (node.operator == "Gemm" and node.attributes.get("transB", 0)):
        return 0
    return int(network.parameters[name].ndim) - 1


def _biases(network: Network, name: str) -> list[str]:
    """Return the biases that go with some weights: one number for each output."""
    length = network.parameters[name].shape[_output_axis(network, name)]
    names = [node.inputs[2] for node in network.nodes if len(node.inputs) > 2 and node.inputs[1] == name]
    results = {node.outputs[0] for node in network.nodes if len(node.inputs) == 2 and node.inputs[1] == name}
    names += [
        other
        for node in network.nodes
        if node.operator == "Add" and results & set(node.inputs)
        for other in node.inputs
        if other in network.parameters
    ]
    return [bias for bias in names if bias in network.parameters and network.parameters[bias].shape == (length,)]
