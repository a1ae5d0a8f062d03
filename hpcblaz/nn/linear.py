"""Products of matrices, and probabilities of what they give."""

from __future__ import annotations

from typing import Any

from hpcblaz.backend.nn import array_module
from hpcblaz.errors import ShapeError
from hpcblaz.nn.elementwise import summed_to
from hpcblaz.nn.tape import Array, Tensor, record, tensor

__all__ = ["dense", "log_softmax", "matmul", "softmax"]


def matmul(a: Any, b: Any) -> Tensor:
    """Return the products of matrices of the last two axes; other axes broadcast, and vectors are as in NumPy."""
    a, b = tensor(a), tensor(b)
    if not a.ndim or not b.ndim or a.shape[-1] != b.shape[-2 if b.ndim > 1 else 0]:
        raise ShapeError(f"expected matrices that can be multiplied, got shapes {a.shape} and {b.shape}")
    xp = array_module(a.data, b.data)
    if a.ndim > 2 and b.ndim == 2:  # one product instead of many
        data = (a.data.reshape(-1, a.shape[-1]) @ b.data).reshape(*a.shape[:-1], b.shape[1])
    else:
        data = xp.asarray(a.data @ b.data)

    def pull(gradient: Array) -> tuple[Array | None, Array | None]:
        left = a.data[None, :] if a.ndim == 1 else a.data
        right = b.data[:, None] if b.ndim == 1 else b.data
        if a.ndim == 1:
            gradient = gradient[..., None, :] if b.ndim > 1 else gradient.reshape(1)
        if b.ndim == 1:
            gradient = gradient[..., None]
        to_a = to_b = None
        if a.needs_gradient:
            to_a = summed_to(gradient @ right.swapaxes(-1, -2), left.shape).reshape(a.shape)
        if b.needs_gradient and b.ndim == 2 and a.ndim > 2:
            to_b = left.reshape(-1, left.shape[-1]).T @ gradient.reshape(-1, gradient.shape[-1])
        elif b.needs_gradient:
            to_b = summed_to(left.swapaxes(-1, -2) @ gradient, right.shape).reshape(b.shape)
        return to_a, to_b

    return record(data, (a, b), pull)


def dense(x: Any, weights: Any, bias: Any = None) -> Tensor:
    """Return x @ weights.T + bias, for rows of inputs and a row of weights for each output."""
    x, weights = tensor(x), tensor(weights)
    if x.ndim != 2 or weights.ndim != 2 or x.shape[1] != weights.shape[1]:
        raise ShapeError(f"expected (images, inputs) and (outputs, inputs), got shapes {x.shape} and {weights.shape}")
    operands = [x, weights]
    data = x.data @ weights.data.T
    if bias is not None:
        bias = tensor(bias)
        operands.append(bias)
        data += bias.data

    def pull(gradient: Array) -> list[Array | None]:
        parts = [
            gradient @ weights.data if x.needs_gradient else None,
            gradient.T @ x.data if weights.needs_gradient else None,
        ]
        if bias is not None:
            parts.append(summed_to(gradient, bias.shape))
        return parts

    return record(data, operands, pull)


def softmax(x: Any, axis: int = -1) -> Tensor:
    """Return e**x, divided by its sum along an axis."""
    x = tensor(x)
    xp = array_module(x.data)
    data = xp.exp(x.data - x.data.max(axis=axis, keepdims=True))
    data /= data.sum(axis=axis, keepdims=True)
    return record(data, (x,), lambda g: (data * (g - (g * data).sum(axis=axis, keepdims=True)),))


def log_softmax(x: Any, axis: int = -1) -> Tensor:
    """Return the logarithm of softmax, exact for small probabilities too."""
    x = tensor(x)
    xp = array_module(x.data)
    data = x.data - x.data.max(axis=axis, keepdims=True)
    data = data - xp.log(xp.exp(data).sum(axis=axis, keepdims=True))
    return record(data, (x,), lambda g: (g - xp.exp(data) * g.sum(axis=axis, keepdims=True),))
