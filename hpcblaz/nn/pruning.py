"""Schemes that set weights to zero: single ones, blocks, n of m, and the whole outputs of layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from hpcblaz.backend.nn import array_module
from hpcblaz.errors import ConfigurationError, NetworkError
from hpcblaz.nn.compressible import OPERATORS, Weights, companions, compressible, last_weights, output_axis
from hpcblaz.nn.network import Network
from hpcblaz.nn.tape import Array

__all__ = ["BlockPrune", "FilterPrune", "NMPrune", "NeuronPrune", "Prune", "StructurePrune"]

Density = float | Mapping[str, float]


class _Pruning:
    """What all schemes with a density have."""

    density: Density
    leave: Sequence[str]
    per_layer: bool

    def __post_init__(self) -> None:
        densities = self.density.values() if isinstance(self.density, Mapping) else [self.density]
        for density in densities:
            if isinstance(density, str) or not 0 < density <= 1:
                raise ConfigurationError(f"expected a density above 0 and up to 1, got {density!r}")
        if isinstance(self.leave, str):
            raise ConfigurationError(f"expected a list of names to leave, got {self.leave!r}: put it in brackets")

    def delta(self, weights: Mapping[str, Array], network: Network) -> Weights:
        """Return the weights as they are."""
        return dict(weights)

    def _chosen(self, network: Network, operators: Sequence[str] = OPERATORS) -> list[str]:
        found = {
            name: operator for name, operator in compressible(network, self.leave).items() if operator in operators
        }
        if isinstance(self.density, Mapping):
            unknown = sorted(set(self.density) - set(found))
            if unknown:
                raise NetworkError(
                    f"expected densities of {', '.join(found) or 'no weights'}, got one of {', '.join(unknown)}"
                )
            found = {name: operator for name, operator in found.items() if name in self.density}
        if not found:
            raise NetworkError("expected a network with weights of this kind, got one without")
        return list(found)

    def _masks(self, sizes: Weights) -> Weights:
        """Return masks of the largest numbers; of equal ones, those that come first."""
        if isinstance(self.density, Mapping):
            masks = {name: _largest({name: x}, self.density[name])[name] for name, x in sizes.items()}
        elif self.per_layer:
            masks = {name: _largest({name: x}, self.density)[name] for name, x in sizes.items()}
        else:
            masks = _largest(sizes, self.density)
        gone = [name for name, mask in masks.items() if not bool(mask.any())]
        if gone:
            raise NetworkError(
                f"expected a scheme that keeps a part of each layer, got nothing left of {', '.join(gone)}: "
                "take a greater density, or one of each layer, or leave the layer as it is"
            )
        return masks


@dataclass(frozen=True)
class Prune(_Pruning):
    """Keep the weights of greatest magnitude and set the others to zero.

    Parameters
    ----------
    density : float or mapping of str to float
        Share of the weights that is kept, above 0 and up to 1: of n, int(density * n). A mapping has one for each name
        of weights, and other weights stay as they are.
    leave : sequence of str
        Names of weights that stay as they are.
    per_layer : bool
        Each layer keeps this share of its own, instead of all layers together.
    """

    density: Density
    leave: Sequence[str] = ()
    per_layer: bool = False

    def pi(self, weights: Mapping[str, Array], network: Network) -> Weights:
        """Return the weights with zeros. Of equal magnitudes, those that come first are kept."""
        masks = self._masks({name: abs(weights[name]) for name in self._chosen(network)})
        return {name: _kept(x, masks[name]) if name in masks else x for name, x in weights.items()}


@dataclass(frozen=True)
class StructurePrune(_Pruning):
    """Keep the filters of convolutions and the neurons of dense layers of greatest criterion.

    The outputs of a network are all kept: weights with nothing but other operators after them stay as they are.

    Parameters
    ----------
    density : float or mapping of str to float
        Share that is kept, above 0 and up to 1: of n filters and neurons, int(density * n). A mapping has one for each
        name of weights, and other weights stay as they are.
    criterion : {'l2norm', 'max', 'min', 'mean', 'sum'}
        Of the magnitudes of the weights of one filter or neuron.
    leave : sequence of str
        Names of weights that stay as they are.
    per_layer : bool
        Each layer keeps this share of its own, instead of all layers together.
    align : int
        Each layer keeps a multiple of it, or all: more than its share, never less.
    """

    density: Density
    criterion: str = "l2norm"
    leave: Sequence[str] = ()
    per_layer: bool = False
    align: int = 1
    operators: ClassVar[tuple[str, ...]] = OPERATORS

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_criterion(self.criterion)
        _check_lengths("align", [self.align])

    def pi(self, weights: Mapping[str, Array], network: Network) -> Weights:
        """Return the weights with zeros for whole outputs, whose biases and normalisation go too."""
        kept = last_weights(network)
        chosen = [name for name in self._chosen(network, self.operators) if name not in kept]
        sizes = {}
        for name in chosen:
            rows = abs(array_module(weights[name]).moveaxis(weights[name], output_axis(network, name), 0))
            sizes[name] = _CRITERIA[self.criterion](rows.reshape(len(rows), -1))
        masks = self._masks(sizes)
        result = dict(weights)
        for name, mask in masks.items():
            mask = _aligned(mask, sizes[name], self.align)
            x = weights[name]
            axis = output_axis(network, name)
            result[name] = _kept(x, mask.reshape([-1 if k == axis else 1 for k in range(x.ndim)]))
            for other in companions(network, name):
                if other in result:
                    result[other] = _kept(result[other], mask)
        return result


@dataclass(frozen=True)
class FilterPrune(StructurePrune):
    """:class:`StructurePrune` of the filters of convolutions alone; the parameters are the same."""

    operators = ("Conv",)


@dataclass(frozen=True)
class NeuronPrune(StructurePrune):
    """:class:`StructurePrune` of the neurons of dense layers alone; the parameters are the same."""

    operators = ("Gemm", "MatMul")


@dataclass(frozen=True)
class BlockPrune(_Pruning):
    """Keep the blocks of weights of greatest criterion.

    Weights are taken as a matrix, a row for each output; those of convolutions have their inputs, then the places of
    the kernel, along a row.

    Parameters
    ----------
    density : float or mapping of str to float
        Share of the blocks that is kept, above 0 and up to 1: of n, int(density * n). A mapping has one for each name
        of weights, and other weights stay as they are.
    block : tuple of int
        Rows and columns, which have to divide each matrix.
    criterion : {'l2norm', 'max', 'min', 'mean', 'sum'}
        Of the magnitudes of a block.
    leave : sequence of str
        Names of weights that stay as they are.
    per_layer : bool
        Each layer keeps this share of its own, instead of all layers together.
    """

    density: Density
    block: Sequence[int] = (4, 4)
    criterion: str = "l2norm"
    leave: Sequence[str] = ()
    per_layer: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_criterion(self.criterion)
        if isinstance(self.block, int) or len(self.block) != 2:
            raise ConfigurationError(f"expected a block of rows and columns, got {self.block!r}")
        _check_lengths("block", self.block)

    def pi(self, weights: Mapping[str, Array], network: Network) -> Weights:
        """Return the weights with zeros for whole blocks."""
        high, wide = self.block
        matrices = {name: _matrix(weights[name], output_axis(network, name)) for name in self._chosen(network)}
        bad = {name: x.shape for name, x in matrices.items() if x.shape[0] % high or x.shape[1] % wide}
        _check_divides(bad, f"{high} rows and {wide} columns")
        blocks = {n: x.reshape(x.shape[0] // high, high, -1, wide).swapaxes(1, 2) for n, x in matrices.items()}
        sizes = {n: _CRITERIA[self.criterion](abs(x).reshape(-1, high * wide)) for n, x in blocks.items()}
        result = dict(weights)
        for name, mask in self._masks(sizes).items():
            x = blocks[name]
            x = _kept(x, mask.reshape(*x.shape[:2], 1, 1)).swapaxes(1, 2).reshape(matrices[name].shape)
            result[name] = _unmatrix(x, weights[name], output_axis(network, name))
        return result


@dataclass(frozen=True)
class NMPrune:
    """Keep the n greatest of every m weights along the inputs of each output, such as 2 of 4.

    Parameters
    ----------
    n, m : int
        m has to divide the inputs of each layer (of one group of channels, for convolutions).
    leave : sequence of str
        Names of weights that stay as they are.
    """

    n: int = 2
    m: int = 4
    leave: Sequence[str] = ()

    def __post_init__(self) -> None:
        _check_lengths("n and m", [self.n, self.m])
        if self.n > self.m:
            raise ConfigurationError(f"expected n of m, n at most m, got {self.n} of {self.m}")

    def pi(self, weights: Mapping[str, Array], network: Network) -> Weights:
        """Return the weights with zeros. Of equal magnitudes, those that come first are kept."""
        chosen = compressible(network, self.leave)
        if not chosen:
            raise NetworkError("expected a network with weights of this kind, got one without")
        axes = {name: 1 if output_axis(network, name) == 0 else weights[name].ndim - 2 for name in chosen}
        bad = {n: weights[n].shape for n, axis in axes.items() if weights[n].shape[axis] % self.m}
        _check_divides(bad, f"{self.m} inputs")
        result = dict(weights)
        for name, axis in axes.items():
            xp = array_module(weights[name])
            x = xp.moveaxis(weights[name], axis, -1)
            groups = abs(x).reshape(*x.shape[:-1], -1, self.m)
            order = xp.argsort(-groups, axis=-1, kind="stable")
            mask = xp.argsort(order, axis=-1, kind="stable") < self.n
            result[name] = xp.ascontiguousarray(xp.moveaxis(_kept(x, mask.reshape(x.shape)), -1, axis))
        return result

    def delta(self, weights: Mapping[str, Array], network: Network) -> Weights:
        """Return the weights as they are."""
        return dict(weights)


_CRITERIA: dict[str, Callable[[Array], Array]] = {
    "l2norm": lambda rows: (rows.astype("float64") ** 2).sum(axis=1) ** 0.5,
    "max": lambda rows: rows.max(axis=1),
    "min": lambda rows: rows.min(axis=1),
    "mean": lambda rows: rows.mean(axis=1),
    "sum": lambda rows: rows.sum(axis=1),
}


def _check_criterion(criterion: str) -> None:
    if criterion not in _CRITERIA:
        raise ConfigurationError(f"expected a criterion of {', '.join(_CRITERIA)}, got {criterion!r}")


def _check_lengths(what: str, values: Sequence[Any]) -> None:
    if not all(isinstance(value, int) and value >= 1 for value in values):
        raise ConfigurationError(f"expected integers of 1 and more as {what}, got {', '.join(map(repr, values))}")


def _check_divides(bad: Mapping[str, Sequence[int]], what: str) -> None:
    if bad:
        listed = ", ".join(f"{name} of shape {tuple(shape)}" for name, shape in bad.items())
        raise NetworkError(f"expected layers that {what} divide, got {listed}: leave them as they are with leave=[...]")


def _kept(x: Array, mask: Array) -> Array:
    """Return an array with zeros, none of them negative: files leave them out by their bits."""
    return array_module(x).where(mask, x, x.dtype.type(0))


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


def _aligned(mask: Array, sizes: Array, align: int) -> Array:
    """Return a mask of a multiple of numbers: those that were chosen, and the largest of the others."""
    count = min(math.ceil(int(mask.sum()) / align) * align, len(mask))
    xp = array_module(mask)
    result = xp.zeros(len(mask), bool)
    result[xp.argsort(-sizes, kind="stable")[:count]] = True
    return result


def _matrix(x: Array, axis: int) -> Array:
    """Return weights with a row for each output."""
    return array_module(x).moveaxis(x, axis, 0).reshape(x.shape[axis], -1)


def _unmatrix(rows: Array, like: Array, axis: int) -> Array:
    xp = array_module(like)
    shape = xp.moveaxis(like, axis, 0).shape
    return xp.ascontiguousarray(xp.moveaxis(rows.reshape(shape), 0, axis))
