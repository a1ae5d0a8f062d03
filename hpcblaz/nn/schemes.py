"""Schemes of compression: weights brought to a form that takes less room.

A scheme has a projection, pi, from weights to the nearest ones of its form (in the 2-norm, of those that it keeps), and
delta, which gives real weights back to compute with. Schemes are composed: pi in their order, delta in reverse.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hpcblaz.errors import ConfigurationError
from hpcblaz.nn.compressible import Scheme, Weights, compressible
from hpcblaz.nn.network import Network
from hpcblaz.nn.pruning import BlockPrune, FilterPrune, NeuronPrune, NMPrune, Prune, StructurePrune
from hpcblaz.nn.quantizing import Quantize
from hpcblaz.nn.tape import Array

__all__ = [
    "BlockPrune",
    "Compose",
    "FilterPrune",
    "NMPrune",
    "NeuronPrune",
    "Prune",
    "Quantize",
    "Scheme",
    "StructurePrune",
    "compressed",
    "compressible",
    "parse_scheme",
]


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


_SCHEMES: dict[str, Callable[..., Scheme]] = {
    "BlockPrune": BlockPrune,
    "FilterPrune": FilterPrune,
    "NMPrune": NMPrune,
    "NeuronPrune": NeuronPrune,
    "Prune": Prune,
    "Quantize": Quantize,
    "StructurePrune": StructurePrune,
}


def parse_scheme(text: str) -> Compose:
    """Return the scheme that a text says, such as ``FilterPrune(0.5)+Quantize(int8)``.

    Parameters
    ----------
    text : str
        Schemes as in Python, with ``+`` between them. Names need no quotes.

    Returns
    -------
    Compose

    Raises
    ------
    ConfigurationError
        If it says something else.

    Examples
    --------
    >>> parse_scheme("Prune(0.1)+Quantize(int8)").schemes[0]
    Prune(density=0.1, leave=(), per_layer=False)
    """
    try:
        return Compose(_parts(ast.parse(text.strip(), mode="eval").body))
    except (SyntaxError, ValueError, TypeError, KeyError, RecursionError, MemoryError) as error:
        raise ConfigurationError(
            f"expected schemes such as FilterPrune(0.5)+Quantize(int8), of {', '.join(_SCHEMES)}, got {text!r}: {error}"
        ) from error


def _parts(node: ast.expr) -> list[Scheme]:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return [*_parts(node.left), *_parts(node.right)]
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.func.id not in _SCHEMES:
        raise ValueError("no such scheme")
    named = {keyword.arg or "": _value(keyword.value) for keyword in node.keywords}
    return [_SCHEMES[node.func.id](*map(_value, node.args), **named)]


def _value(node: ast.expr) -> Any:
    return node.id if isinstance(node, ast.Name) else ast.literal_eval(node)
