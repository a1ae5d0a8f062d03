"""Normalisation: of the channels of a batch, and of the features of each example."""

from __future__ import annotations

from typing import Any

from hpcblaz.backend.nn import array_module
from hpcblaz.nn.tape import Array, Tensor, record, tensor

__all__ = ["batch_norm", "batch_statistics", "layer_norm"]


def batch_statistics(x: Tensor) -> tuple[Array, Array]:
    """Return the mean and the variance of each channel, the second axis."""
    axes = (0, *range(2, x.ndim))
    mean = x.data.mean(axis=axes)
    shape = (1, -1, *(1,) * (x.ndim - 2))
    return mean, ((x.data - mean.reshape(shape)) ** 2).mean(axis=axes)


def batch_norm(x: Any, scale: Any, shift: Any, mean: Array, variance: Array, epsilon: float, fixed: bool) -> Tensor:
    """Return (x - mean) / sqrt(variance + epsilon) * scale + shift for each channel, the second axis.

    Parameters
    ----------
    x : Tensor, shape (images, channels, ...)
    scale, shift : Tensor, shape (channels,)
    mean, variance : array, shape (channels,)
    epsilon : float
    fixed : bool
        Mean and variance do not depend on x; else they are those of x, and gradients go through them.

    Returns
    -------
    Tensor
    """
    x, scale, shift = tensor(x), tensor(scale), tensor(shift)
    axes = (0, *range(2, x.ndim))
    shape = (1, -1, *(1,) * (x.ndim - 2))
    inverse = 1 / array_module(x.data).sqrt(variance + x.dtype.type(epsilon))
    factor = scale.data * inverse
    data = x.data * factor.reshape(shape)
    data += (shift.data - mean * factor).reshape(shape)

    def pull(gradient: Array) -> tuple[Array | None, Array, Array]:
        normal = (x.data - mean.reshape(shape)) * inverse.reshape(shape)
        to_shift = gradient.sum(axis=axes)
        to_scale = (gradient * normal).sum(axis=axes)
        if not x.needs_gradient:
            return None, to_scale, to_shift
        to_x = gradient
        if not fixed:
            count = x.data.size // len(to_shift)
            to_x = gradient - (to_shift.reshape(shape) + normal * to_scale.reshape(shape)) / count
        return to_x * factor.reshape(shape), to_scale, to_shift

    return record(data, (x, scale, shift), pull)


def layer_norm(x: Any, scale: Any, shift: Any = None, axis: int = -1, epsilon: float = 1e-5) -> Tensor:
    """Return x, normalised over an axis and those after it, times scale plus shift of the shape of these axes."""
    x, scale = tensor(x), tensor(scale)
    along = tuple(range(axis % x.ndim, x.ndim))
    outer = tuple(range(axis % x.ndim))
    mean = x.data.mean(axis=along, keepdims=True)
    centred = x.data - mean
    variance = (centred * centred).mean(axis=along, keepdims=True)
    inverse = 1 / array_module(x.data).sqrt(variance + x.dtype.type(epsilon))
    normal = centred * inverse
    data = normal * scale.data
    operands = [x, scale]
    if shift is not None:
        shift = tensor(shift)
        operands.append(shift)
        data = data + shift.data

    def pull(gradient: Array) -> list[Array]:
        scaled = gradient * scale.data
        middle = scaled.mean(axis=along, keepdims=True)
        slope = (scaled * normal).mean(axis=along, keepdims=True)
        parts = [
            (scaled - middle - normal * slope) * inverse,
            (gradient * normal).sum(axis=outer).reshape(scale.shape),
        ]
        if shift is not None:
            parts.append(gradient.sum(axis=outer).reshape(shift.shape))
        return parts

    return record(data, operands, pull)
