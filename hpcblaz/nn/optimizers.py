"""How gradients change weights, and how fast in the course of a training."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Protocol

from hpcblaz.backend.nn import array_module
from hpcblaz.errors import ConfigurationError
from hpcblaz.nn.tape import Array

__all__ = ["SGD", "Adam", "Optimizer", "constant", "cosine", "exponential", "steps"]

Schedule = Callable[[float], float]


class Optimizer(Protocol):
    """What :func:`hpcblaz.nn.train` takes."""

    rate: float
    state: dict[str, Array]

    def step(self, parameters: dict[str, Array], gradients: Mapping[str, Array], factor: float = 1.0) -> None:
        """Change parameters in place, by their gradients, at `factor` times the learning rate."""
        ...


def _checked(name: str, value: float, least: float, below: float = math.inf) -> float:
    if not least <= value < below or not math.isfinite(value):
        raise ConfigurationError(f"expected {name} from {least} up to but not {below}, got {value}")
    return value


class SGD:
    """Stochastic gradient descent.

    Parameters
    ----------
    rate : float
        Learning rate.
    momentum : float
        How much of the last step is kept.
    nesterov : bool
        Look ahead by the momentum (Nesterov), as PyTorch does it.
    decay : float
        Times each weight is added to its gradient.

    Attributes
    ----------
    state : dict of str to array
        The last steps, by the names of the parameters.

    Examples
    --------
    >>> import numpy as np
    >>> from hpcblaz.nn import SGD
    >>> weights = {"w": np.array([1.0])}
    >>> SGD(0.1).step(weights, {"w": np.array([2.0])})
    >>> weights["w"].tolist()
    [0.8]
    """

    def __init__(self, rate: float = 0.01, momentum: float = 0.0, nesterov: bool = True, decay: float = 0.0) -> None:
        self.rate = _checked("a learning rate", rate, 0)
        self.momentum = _checked("a momentum", momentum, 0, 1)
        self.nesterov = nesterov
        self.decay = _checked("a decay", decay, 0)
        self.state: dict[str, Array] = {}

    def step(self, parameters: dict[str, Array], gradients: Mapping[str, Array], factor: float = 1.0) -> None:
        """Change parameters in place."""
        for name, gradient in gradients.items():
            x = parameters[name]
            kind = x.dtype.type
            if self.decay:
                gradient = gradient + kind(self.decay) * x
            if self.momentum:
                speed = self.state.get(name)
                speed = gradient.copy() if speed is None else kind(self.momentum) * speed + gradient
                self.state[name] = speed
                gradient = gradient + kind(self.momentum) * speed if self.nesterov else speed
            x -= kind(self.rate * factor) * gradient


class Adam:
    """Adam, with the decay of weights apart from the gradients (AdamW).

    Parameters
    ----------
    rate : float
        Learning rate.
    betas : tuple of 2 float
        How much of the old means of gradients and of their squares is kept.
    epsilon : float
    decay : float
        Times the rate, each weight is made smaller by this share of it.

    Attributes
    ----------
    state : dict of str to array
        The means, as ``name/mean`` and ``name/square``, and their number, ``name/steps``.

    References
    ----------
    Kingma, Ba: Adam: a method for stochastic optimization. ICLR 2015.
    """

    def __init__(
        self,
        rate: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-8,
        decay: float = 0.0,
    ) -> None:
        self.rate = _checked("a learning rate", rate, 0)
        self.betas = (_checked("a beta", betas[0], 0, 1), _checked("a beta", betas[1], 0, 1))
        self.epsilon = _checked("an epsilon", epsilon, 0)
        self.decay = _checked("a decay", decay, 0)
        self.state: dict[str, Array] = {}

    def step(self, parameters: dict[str, Array], gradients: Mapping[str, Array], factor: float = 1.0) -> None:
        """Change parameters in place."""
        first, second = self.betas
        for name, gradient in gradients.items():
            x = parameters[name]
            xp, kind = array_module(x), x.dtype.type
            means, squares, count = f"{name}/mean", f"{name}/square", f"{name}/steps"
            if means not in self.state:
                self.state |= {means: xp.zeros_like(x), squares: xp.zeros_like(x), count: xp.zeros(1, xp.float64)}
            mean, square = self.state[means], self.state[squares]
            self.state[count] += 1
            steps = float(self.state[count][0])
            mean *= kind(first)
            mean += kind(1 - first) * gradient
            square *= kind(second)
            square += kind(1 - second) * gradient * gradient
            scale = self.rate * factor / (1 - first**steps)
            if self.decay:
                x *= kind(1 - self.rate * factor * self.decay)
            x -= kind(scale) * mean / (xp.sqrt(square / kind(1 - second**steps)) + kind(self.epsilon))


def constant() -> Schedule:
    """Return a schedule that leaves the learning rate as it is.

    A schedule is a function of the share of the training that is done, 0 to 1; it returns a factor of the rate.
    """
    return lambda share: 1.0


def exponential(last: float) -> Schedule:
    """Return a schedule from 1 down to `last`, by the same factor in each step."""
    _checked("a last factor", last, 1e-300)
    return lambda share: float(last**share)


def cosine(last: float = 0.0, warm: float = 0.0) -> Schedule:
    """Return a schedule along half a cosine from 1 to `last`, after a rise over a share `warm` of the training."""
    _checked("a share of warming up", warm, 0, 1)

    def factor(share: float) -> float:
        if share < warm:
            return share / warm
        done = (share - warm) / (1 - warm)
        return last + (1 - last) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))

    return factor


def steps(factors: Mapping[float, float]) -> Schedule:
    """Return a schedule of steps: from the share of each key on, its factor; before the first, 1."""
    ordered = sorted(dict(factors).items())

    def factor(share: float) -> float:
        return float(next((value for start, value in reversed(ordered) if share >= start), 1.0))

    return factor
