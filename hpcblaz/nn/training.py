"""Training: losses made small by the gradients of batch after batch."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcblaz.backend.nn import array_module, to_host
from hpcblaz.errors import ConfigurationError, NetworkError
from hpcblaz.nn.batches import Batches
from hpcblaz.nn.checkpoints import load_checkpoint, save_checkpoint
from hpcblaz.nn.losses import check_labels, cross_entropy
from hpcblaz.nn.network import Network
from hpcblaz.nn.optimizers import Optimizer, Schedule, constant
from hpcblaz.nn.tape import Array, Tensor, backward, tensor

__all__ = ["Epoch", "History", "accuracy", "gradients", "predict", "train"]

Loss = Callable[[Tensor, Array], Tensor]
Adjust = Callable[[dict[str, Array], dict[str, Array]], None]


@dataclass(frozen=True)
class Epoch:
    """How an epoch went.

    Attributes
    ----------
    number : int
        From 1 on.
    loss : float
        Mean over the batches.
    validation : float or None
        Share of right answers on the validation data, 0 to 1.
    seconds : float
    """

    number: int
    loss: float
    validation: float | None
    seconds: float


@dataclass
class History:
    """How a training went.

    Attributes
    ----------
    epochs : list of Epoch
    best : int or None
        Number of the epoch that was best on the validation data, whose weights the network has now.
    stopped : bool
        It ended before its last epoch, since the validation data gained nothing more.
    """

    epochs: list[Epoch] = field(default_factory=list)
    best: int | None = None
    stopped: bool = False


def predict(network: Network, x: Array, size: int = 256) -> Array:
    """Return what a network of one input and one output gives for many examples, a batch at a time.

    Parameters
    ----------
    network : Network
    x : array, shape (examples, ...)
    size : int
        Examples of a batch.

    Returns
    -------
    array
    """
    parts = [network(_cast(network, part)) for part, _ in Batches(x, None, size)]
    return array_module(parts[0]).concatenate(parts)


def accuracy(network: Network, x: Array, labels: Array, size: int = 256) -> float:
    """Return the share of examples whose label has the greatest output.

    Parameters
    ----------
    network : Network
    x : array, shape (examples, ...)
    labels : array of int, shape (examples,)
    size : int
        Examples of a batch.

    Returns
    -------
    float
    """
    found = to_host(predict(network, x, size)).argmax(axis=1)
    return float((found == to_host(labels)).mean())


def gradients(
    network: Network,
    x: Array,
    y: Array,
    loss: Loss = cross_entropy,
    random: np.random.Generator | None = None,
    training: bool = True,
) -> tuple[float, dict[str, Array]]:
    """Return the loss of a batch, and its gradients by the names of the parameters.

    Parameters
    ----------
    network : Network
        Of one input; the loss takes its first output.
    x, y : array
    loss : callable
    random : numpy.random.Generator, optional
        For dropout.
    training : bool
        As for :meth:`Network.forward`.

    Returns
    -------
    loss : float
    gradients : dict of str to array
    """
    weights = {name: Tensor(network.parameters[name], needs_gradient=True) for name in network.trainable}
    output = network.forward([tensor(_cast(network, x))], weights, training, random)[0]
    result = loss(output, y)
    backward(result)
    return float(result.data), {name: w.gradient for name, w in weights.items() if w.gradient is not None}


def train(
    network: Network,
    x: Array,
    y: Array,
    optimizer: Optimizer,
    *,
    epochs: int = 10,
    batch: int = 128,
    schedule: Schedule | None = None,
    loss: Loss = cross_entropy,
    validation: tuple[Array, Array] | None = None,
    patience: int | None = None,
    seed: int = 0,
    adjust: Adjust | None = None,
    checkpoint: str | None = None,
    progress: Callable[[Epoch], None] | None = None,
) -> History:
    """Train a network; its parameters are changed in place.

    The same seed, data and number of threads give the same weights. On the CPU the number of threads matters only to
    the rounding of products of large matrices.

    Parameters
    ----------
    network : Network
        Of one input; the loss takes its first output.
    x : array, shape (examples, ...)
    y : array, shape (examples, ...)
        Labels for the cross entropy.
    optimizer : Optimizer
        :class:`SGD` or :class:`Adam`.
    epochs : int
    batch : int
    schedule : callable, optional
        Of the learning rate, see :func:`constant`.
    loss : callable
        Takes the output of the network and `y` of a batch.
    validation : tuple of 2 array, optional
        Examples and labels. The network has the weights of the best epoch afterwards.
    patience : int, optional
        Stop after so many epochs without a better one.
    seed : int
        Of the order of the examples and of dropout.
    adjust : callable, optional
        It is given the parameters and the gradients before each step, and may change the gradients.
    checkpoint : str, optional
        A file that is written after each epoch. If it is there, the training goes on where it ended.
    progress : callable, optional
        It is given each epoch.

    Returns
    -------
    History

    Raises
    ------
    NetworkError
        If there are no examples, labels are no classes of the network, or the loss is no longer finite.
    ConfigurationError
        If numbers of epochs or examples make no sense, or early stopping has no validation data.

    Examples
    --------
    >>> from hpcblaz import nn
    >>> random = np.random.default_rng(0)
    >>> x = random.normal(size=(200, 4)).astype(np.float32)
    >>> y = (x[:, 0] > 0).astype(int)
    >>> network = nn.mlp(4, (8,), 2, seed=0)
    >>> history = nn.train(network, x, y, nn.Adam(0.01), epochs=20, batch=32)
    >>> nn.accuracy(network, x, y) > 0.95
    True
    """
    if epochs < 1 or (patience is not None and (patience < 1 or validation is None)):
        raise ConfigurationError("expected at least one epoch, and validation data where patience is given")
    data = Batches(x, y, batch, seed)
    _check_data(network, data, loss, validation)
    schedule = schedule or constant()
    history, best = History(), _Best(network)
    if checkpoint is not None:
        _restore(checkpoint, network, optimizer, history, best)
    total = epochs * len(data)
    for number in range(len(history.epochs) + 1, epochs + 1):
        if best.waited(history, patience):
            history.stopped = True
            break
        start = time.perf_counter()
        losses = []
        random = np.random.default_rng([seed, number, 1])
        for step, (some, told) in enumerate(data.epoch(number)):
            value, found = gradients(network, some, told, loss, random)
            if not np.isfinite(value):
                raise NetworkError(
                    f"expected a finite loss, got {value} in epoch {number}: make the learning rate smaller"
                )
            if adjust is not None:
                adjust(network.parameters, found)
            optimizer.step(network.parameters, found, schedule(((number - 1) * len(data) + step) / total))
            losses.append(value)
        score = accuracy(network, *validation) if validation is not None else None
        epoch = Epoch(number, float(np.mean(losses)), score, time.perf_counter() - start)
        history.epochs.append(epoch)
        best.see(network, history)
        if checkpoint is not None:
            _save(checkpoint, network, optimizer, history, best)
        if progress is not None:
            progress(epoch)
    best.give(network)
    return history


class _Best:
    """The weights of the epoch that was best on the validation data."""

    def __init__(self, network: Network) -> None:
        self.parameters: dict[str, Array] = {}
        self.names = [name for name, x in network.parameters.items() if x.dtype.kind == "f"]

    def see(self, network: Network, history: History) -> None:
        score = history.epochs[-1].validation
        if score is None:
            return
        former = None if history.best is None else history.epochs[history.best - 1].validation
        if former is None or score > former:
            history.best = history.epochs[-1].number
            self.parameters = {name: network.parameters[name].copy() for name in self.names}

    def waited(self, history: History, patience: int | None) -> bool:
        return patience is not None and history.best is not None and len(history.epochs) - history.best >= patience

    def give(self, network: Network) -> None:
        network.parameters.update(self.parameters)


def _check_data(network: Network, data: Batches, loss: Loss, validation: tuple[Array, Array] | None) -> None:
    """Raise an error before any work is lost."""
    if len(network.inputs) != 1:
        raise NetworkError(f"expected a network of one input, got {len(network.inputs)}")
    output = network.forward([tensor(_cast(network, data.x[:1]))])[0]
    pairs = [(data.x, data.y), *([] if validation is None else [validation])]
    for x, y in pairs:
        Batches(x, y)
        if loss is cross_entropy:
            check_labels(np.asarray(to_host(y)), output.shape[-1])


def _cast(network: Network, x: Array) -> Array:
    """Return examples in the type of the network."""
    kind = np.dtype(network.inputs[0].dtype)
    x = x if hasattr(x, "__cuda_array_interface__") else np.asarray(x)
    return x.astype(kind, copy=False)


def _save(path: str, network: Network, optimizer: Optimizer, history: History, best: _Best) -> None:
    epochs = np.array(
        [[e.number, e.loss, np.nan if e.validation is None else e.validation, e.seconds] for e in history.epochs]
    )
    extra: dict[str, NDArray[Any]] = {"history": epochs, "best": np.array(history.best or 0)}
    save_checkpoint(path, network, optimizer.state, {f"best/{name}": x for name, x in best.parameters.items()} | extra)


def _restore(path: str, network: Network, optimizer: Optimizer, history: History, best: _Best) -> None:
    """Go on from a checkpoint, if there is one."""
    found = load_checkpoint(path, network)
    if found is None:
        return
    state, extra = found
    optimizer.state.update(state)
    for number, loss, validation, seconds in extra["history"]:
        known = None if np.isnan(validation) else float(validation)
        history.epochs.append(Epoch(int(number), float(loss), known, float(seconds)))
    history.best = int(extra["best"]) or None
    best.parameters = {
        name: _like(extra[f"best/{name}"], network, name) for name in best.names if f"best/{name}" in extra
    }


def _like(x: Array, network: Network, name: str) -> Array:
    return array_module(network.parameters[name]).asarray(x)
