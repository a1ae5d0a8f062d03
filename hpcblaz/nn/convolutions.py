"""Convolutions and pooling of signals (image, channel, sample) and of images (image, channel, row, column)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hpcblaz.backend.nn import (
    Window,
    array_module,
    convolve,
    convolve_adjoint,
    convolve_weights,
    pool_largest,
    pool_largest_adjoint,
    pool_sums,
    pool_sums_adjoint,
)
from hpcblaz.errors import ShapeError
from hpcblaz.nn.tape import Array, Tensor, record, tensor

__all__ = ["average_pool", "convolution", "max_pool"]

Padding = Sequence[int] | int


def convolution(
    x: Any,
    weights: Any,
    bias: Any = None,
    strides: Sequence[int] | int = 1,
    padding: Padding = 0,
    dilations: Sequence[int] | int = 1,
    groups: int = 1,
) -> Tensor:
    """Return the convolution (correlation, as networks have it) of signals or images.

    Parameters
    ----------
    x : Tensor, shape (images, channels, samples) or (images, channels, rows, columns)
    weights : Tensor, shape (outputs, channels / groups, samples) or (outputs, channels / groups, rows, columns)
    bias : Tensor, shape (outputs,), optional
    strides, dilations : int or one for each axis
    padding : int, or one for each axis before it and then one for each axis after it
        Zeros.
    groups : int
        Outputs of a group read its channels only.

    Returns
    -------
    Tensor
        Of shape (images, outputs, samples) or (images, outputs, rows, columns).

    Raises
    ------
    ShapeError
        If channels, groups or sizes do not fit.

    Examples
    --------
    >>> import numpy as np
    >>> from hpcblaz.nn.convolutions import convolution
    >>> convolution(np.ones((1, 1, 4)), np.ones((1, 1, 3)), padding=1).data
    array([[[2., 3., 3., 2.]]])
    """
    x, weights = tensor(x), tensor(weights)
    if x.ndim not in (3, 4) or weights.ndim != x.ndim:
        raise ShapeError(f"expected signals or images and weights of as many axes, got {x.shape} and {weights.shape}")
    if groups < 1 or x.shape[1] != weights.shape[1] * groups or weights.shape[0] % groups:
        raise ShapeError(
            f"expected channels and outputs that {groups} groups divide, and weights of shape "
            f"(outputs, channels / groups, ...), got images {x.shape} and weights {weights.shape}"
        )
    window = _window(weights.shape[2:], strides, padding, dilations)
    _outputs(window, x)
    images, kernels = _as_images(x.data), _as_images(weights.data)
    result = convolve(images, kernels, window, groups)
    operands = [x, weights]
    if bias is not None:
        bias = tensor(bias)
        operands.append(bias)
        result += bias.data.reshape(1, -1, 1, 1)

    def pull(gradient: Array) -> list[Array | None]:
        gradient = _as_images(gradient)
        parts: list[Array | None] = [None, None]
        if x.needs_gradient:
            parts[0] = convolve_adjoint(gradient, kernels, images.shape, window, groups).reshape(x.shape)
        if weights.needs_gradient:
            parts[1] = convolve_weights(gradient, images, kernels.shape, window, groups).reshape(weights.shape)
        if bias is not None:
            parts.append(gradient.sum(axis=(0, 2, 3)))
        return parts

    return record(_as_given(result, x.ndim), operands, pull)


def max_pool(
    x: Any,
    kernel: Sequence[int] | int,
    strides: Sequence[int] | int | None = None,
    padding: Padding = 0,
    dilations: Sequence[int] | int = 1,
    ceil: bool = False,
) -> Tensor:
    """Return the largest sample of each patch.

    Parameters
    ----------
    x : Tensor, shape (images, channels, samples) or (images, channels, rows, columns)
    kernel : int or one for each axis
        Samples of a patch.
    strides : int or one for each axis, optional
        Default: the kernel's.
    padding, dilations
        As for :func:`convolution`; padding is never the largest.
    ceil : bool
        The last patch may reach beyond the end.

    Returns
    -------
    Tensor

    Raises
    ------
    ShapeError
        If a patch does not fit.
    """
    x = tensor(x)
    window = _pool_window(x, kernel, strides, padding, dilations, ceil)
    images = _as_images(x.data)
    result, places = pool_largest(images, window)

    def pull(gradient: Array) -> tuple[Array]:
        return (pool_largest_adjoint(_as_images(gradient), places, images.shape).reshape(x.shape),)

    return record(_as_given(result, x.ndim), (x,), pull)


def average_pool(
    x: Any,
    kernel: Sequence[int] | int,
    strides: Sequence[int] | int | None = None,
    padding: Padding = 0,
    ceil: bool = False,
    count_padding: bool = False,
) -> Tensor:
    """Return the mean of each patch.

    Parameters
    ----------
    x, kernel, strides, padding, ceil
        As for :func:`max_pool`.
    count_padding : bool
        The mean is over the zeros of the padding too.

    Returns
    -------
    Tensor

    Raises
    ------
    ShapeError
        If a patch does not fit.
    """
    x = tensor(x)
    xp = array_module(x.data)
    exact = _pool_window(x, kernel, strides, padding, 1, False)
    window = _pool_window(x, kernel, strides, padding, 1, ceil)
    images = _as_images(x.data)
    (top, left), (bottom, right) = exact.before, exact.after
    counted = xp.zeros((1, 1, images.shape[2] + top + bottom, images.shape[3] + left + right), x.dtype)
    if count_padding:
        counted[:] = 1
    else:
        counted[:, :, top : top + images.shape[2], left : left + images.shape[3]] = 1
    beyond = (window.after[0] - bottom, window.after[1] - right)
    counts = pool_sums(counted, Window(window.kernel, window.strides, after=beyond))
    counts = xp.maximum(counts, 1)

    def pull(gradient: Array) -> tuple[Array]:
        return (pool_sums_adjoint(_as_images(gradient) / counts, images.shape, window).reshape(x.shape),)

    return record(_as_given(pool_sums(images, window) / counts, x.ndim), (x,), pull)


def _as_images(x: Array) -> Array:
    return x if x.ndim == 4 else x.reshape(*x.shape[:2], 1, x.shape[2])


def _as_given(x: Array, axes: int) -> Array:
    return x if axes == 4 else x.reshape(*x.shape[:2], x.shape[3])


def _pair(value: Sequence[int] | int, axes: int, fill: int, name: str) -> tuple[int, int]:
    values = [value] * axes if isinstance(value, int) else [int(v) for v in value]
    if len(values) != axes:
        raise ShapeError(f"expected {name} for {axes} axes, got {tuple(values)}")
    full = [fill, *values] if axes == 1 else values
    return full[0], full[1]


def _window(
    kernel: Sequence[int], strides: Sequence[int] | int, padding: Padding, dilations: Sequence[int] | int
) -> Window:
    axes = len(kernel)
    pads = [padding] * (2 * axes) if isinstance(padding, int) else [int(p) for p in padding]
    pads = pads * 2 if len(pads) == axes else pads
    if len(pads) != 2 * axes:
        raise ShapeError(f"expected padding before and after {axes} axes, got {tuple(pads)}")
    window = Window(
        _pair(kernel, axes, 1, "a kernel"),
        _pair(strides, axes, 1, "strides"),
        _pair(dilations, axes, 1, "dilations"),
        _pair(pads[:axes], axes, 0, "padding"),
        _pair(pads[axes:], axes, 0, "padding"),
    )
    if min(*window.kernel, *window.strides, *window.dilations) < 1 or min(*window.before, *window.after) < 0:
        raise ShapeError(f"expected positive kernels, strides and dilations, and no negative padding, got {window}")
    return window


def _outputs(window: Window, x: Tensor) -> None:
    size = _as_images(x.data).shape[2:]
    if min(window.outputs(size)) < 1:
        raise ShapeError(f"expected images that a patch fits into, got {x.shape} for {window}")


def _pool_window(
    x: Tensor,
    kernel: Sequence[int] | int,
    strides: Sequence[int] | int | None,
    padding: Padding,
    dilations: Sequence[int] | int,
    ceil: bool,
) -> Window:
    if x.ndim not in (3, 4):
        raise ShapeError(f"expected signals or images, got shape {x.shape}")
    axes = x.ndim - 2
    sizes = [kernel] * axes if isinstance(kernel, int) else list(kernel)
    window = _window(sizes, sizes if strides is None else strides, padding, dilations)
    _outputs(window, x)
    if not ceil:
        return window
    after = list(window.after)
    for axis, (n, count) in enumerate(
        zip(_as_images(x.data).shape[2:], window.outputs(_as_images(x.data).shape[2:]), strict=True)
    ):
        begin = count * window.strides[axis]  # of one patch more
        reach = begin + window.dilations[axis] * (window.kernel[axis] - 1) + 1
        length = n + window.before[axis] + window.after[axis]
        if (
            begin < n + window.before[axis]
            and length < reach
            and begin - window.strides[axis] + (reach - begin) < length
        ):
            after[axis] += reach - length
    return Window(window.kernel, window.strides, window.dilations, window.before, (after[0], after[1]))
