"""Tensors that remember how they were computed, and gradients in reverse.

A :class:`Tensor` is an array of NumPy or CuPy. An operation is a function of tensors: it computes an array, and says
with :func:`record` how gradients of its result become gradients of its operands. What no gradient is wanted of is not
remembered, so that computing alone costs no memory.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from hpcblaz.backend.nn import array_module
from hpcblaz.errors import ShapeError

__all__ = ["Tensor", "backward", "record", "tensor"]

Array = Any
Pull = Callable[[Array], Sequence[Array | None]]

_numbers = itertools.count()


class Tensor:
    """An array, and what it was computed of.

    Parameters
    ----------
    data : array of NumPy or CuPy
    needs_gradient : bool, default False
        Gradients with respect to it are wanted.

    Attributes
    ----------
    data : array
    gradient : array or None
        What :func:`backward` has added up: of the shape of `data`.
    needs_gradient : bool

    Examples
    --------
    >>> from hpcblaz.nn import Tensor, backward
    >>> from hpcblaz.nn.elementwise import multiply
    >>> x = Tensor(np.array([1.0, 2.0]), needs_gradient=True)
    >>> backward(multiply(x, x))
    >>> x.gradient.tolist()
    [2.0, 4.0]
    """

    __slots__ = ("_number", "_operands", "_pull", "data", "gradient", "needs_gradient")

    def __init__(self, data: Array, needs_gradient: bool = False) -> None:
        self.data = data
        self.gradient: Array | None = None
        self.needs_gradient = needs_gradient
        self._operands: tuple[Tensor, ...] = ()
        self._pull: Pull | None = None
        self._number = next(_numbers)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return tuple(self.data.shape)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return int(self.data.ndim)

    @property
    def dtype(self) -> Any:
        """Type of the numbers."""
        return self.data.dtype

    def __repr__(self) -> str:
        return f"Tensor(shape={self.shape}, dtype={self.dtype}, needs_gradient={self.needs_gradient})"


def tensor(x: Any) -> Tensor:
    """Return a tensor as it is, and anything else as a tensor that needs no gradient."""
    if isinstance(x, Tensor):
        return x
    return Tensor(x if hasattr(x, "__cuda_array_interface__") else np.asarray(x))


def record(data: Array, operands: Sequence[Tensor], pull: Pull) -> Tensor:
    """Return the result of an operation as a tensor.

    Parameters
    ----------
    data : array
        The result.
    operands : sequence of Tensor
        What it was computed of.
    pull : callable
        Takes the gradient of the result, and returns those of the operands, in their order; None for one that has none.

    Returns
    -------
    Tensor
    """
    result = Tensor(data)
    if any(x.needs_gradient for x in operands):
        result.needs_gradient = True
        result._operands = tuple(operands)
        result._pull = pull
    return result


def backward(result: Tensor, gradient: Array | None = None) -> None:
    """Add the gradients of a result to every tensor that it was computed of and that needs them.

    What was remembered is forgotten on the way: it works once.

    Parameters
    ----------
    result : Tensor
    gradient : array, optional
        The gradient of the result, of its shape. Default: ones.

    Raises
    ------
    ShapeError
        If the gradient has another shape than the result, or nothing that the result was computed of needs one.
    """
    if not result.needs_gradient:
        raise ShapeError("expected a result of tensors that need gradients, got one of none: set needs_gradient")
    if gradient is None:
        gradient = array_module(result.data).ones_like(result.data)
    if tuple(gradient.shape) != result.shape:
        raise ShapeError(f"expected a gradient of shape {result.shape}, got {tuple(gradient.shape)}")
    gradients: dict[int, Array] = {result._number: gradient}
    for step in _latest_first(result):
        current = gradients.pop(step._number, None)
        pull, operands = step._pull, step._operands
        if current is None:
            continue
        if pull is None:
            step.gradient = current if step.gradient is None else step.gradient + current
            continue
        step._pull, step._operands = None, ()
        for operand, part in zip(operands, pull(current), strict=True):
            if part is not None and operand.needs_gradient:
                former = gradients.get(operand._number)
                gradients[operand._number] = part if former is None else former + part


def _latest_first(result: Tensor) -> list[Tensor]:
    """Return all that a result was computed of and that needs gradients: nothing before what was computed of it."""
    found = {result._number: result}
    waiting = [result]
    while waiting:
        for operand in waiting.pop()._operands:
            if operand.needs_gradient and operand._number not in found:
                found[operand._number] = operand
                waiting.append(operand)
    return [found[number] for number in sorted(found, reverse=True)]
