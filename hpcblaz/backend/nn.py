"""Arrays of networks: which module they belong to, and convolutions and pooling of images on the CPU or a card.

Images have the axes (image, channel, row, column). On the CPU the loops are those of the template ``networks``; the
products of matrices are NumPy's, called from one thread: its BLAS has threads of its own. On a card, and for number
types that the template does not have, all is made of array operations. The number of threads of the loops changes no
answer.
"""

import importlib
import math
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from hpcblaz.backend import gpu
from hpcblaz.backend.compile import kernel
from hpcblaz.backend.threads import map_ranges

_SAMPLES_A_THREAD = 1 << 14  # fewer are not worth another thread
_PATCH_SAMPLES = 1 << 17  # samples of patches that are made at a time: they stay in the cache of a core
_LARGE_PLANE = 64  # outputs of an image from which its product with a matrix is worth a call
_PRECISIONS = {np.dtype(name): name for name in ("float32", "float64")}

Array = Any


def array_module(*arrays: Array) -> Any:
    """Return CuPy if one of some arrays is on a card, else NumPy."""
    for x in arrays:
        if not isinstance(x, np.ndarray) and gpu.is_device_array(x):
            return gpu.array_module()
    return np


def to_host(x: Array) -> Array:
    """Return an array in host memory."""
    return gpu.asnumpy(x) if not isinstance(x, np.ndarray) and gpu.is_device_array(x) else np.asarray(x)


def to_device(x: Array, device: str) -> Array:
    """Return an array on the CPU or on the current card."""
    return gpu.asarray(x) if device == "gpu" else to_host(x)


@dataclass(frozen=True)
class Window:
    """Patches of an image: one for each output.

    Parameters
    ----------
    kernel, strides, dilations : tuple of 2 int
        Samples of a patch, steps between patches, and steps between the samples of a patch, in rows and columns.
    before, after : tuple of 2 int
        Rows and columns of padding above and left, below and right.
    """

    kernel: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    before: tuple[int, int] = (0, 0)
    after: tuple[int, int] = (0, 0)

    def outputs(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the rows and columns of the output for those of an image; 0 or less if a patch does not fit."""
        first, second = (
            (n + b + a - d * (k - 1) - 1) // s + 1
            for n, b, a, d, k, s in zip(
                size, self.before, self.after, self.dilations, self.kernel, self.strides, strict=True
            )
        )
        return first, second

    @property
    def geometry(self) -> tuple[int, ...]:
        """What the template takes."""
        return (*self.kernel, *self.strides, *self.dilations, *self.before)

    @property
    def trivial(self) -> bool:
        """Whether each output reads the sample at its own place, and no other."""
        return self.kernel == self.strides == (1, 1) and self.before == self.after == (0, 0)


def _kernels(*arrays: Array) -> Any:
    """Return the compiled loops for some arrays, None if there are none for them."""
    precision = _PRECISIONS.get(arrays[0].dtype)
    if precision is None or any(type(x) is not np.ndarray or x.dtype != arrays[0].dtype for x in arrays):
        return None
    return kernel("networks", (1, 1, 1, 1), "identity", precision, "binary")


def _spread(function: Any, count: int, size: int, *arguments: Any) -> None:
    """Call a loop for ranges of so many items, on threads if there are samples enough."""
    least = max(1, _SAMPLES_A_THREAD * count // max(1, size))
    map_ranges(lambda start, stop: function(start, stop, *arguments), count, least)


def _padded(x: Array, window: Window, value: float = 0) -> Array:
    xp = array_module(x)
    (top, left), (bottom, right) = window.before, window.after
    return xp.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=value)


def _parts(window: Window, outputs: tuple[int, int]) -> Any:
    """Return, for each sample of a patch, the slices of a padded image that hold it for all outputs."""
    for i, j in product(*map(range, window.kernel)):
        v, u = i * window.dilations[0], j * window.dilations[1]
        yield (
            (i, j),
            (
                slice(v, v + window.strides[0] * (outputs[0] - 1) + 1, window.strides[0]),
                slice(u, u + window.strides[1] * (outputs[1] - 1) + 1, window.strides[1]),
            ),
        )


def _runs(x: Array, window: Window) -> bool:
    """Say whether patches are made of runs, whose lines are as long as those of the padded images."""
    return window.strides == (1, 1) and _kernels(x) is not None


def _shifts(window: Window, width: int) -> Array:
    """Return where the run of each sample of a patch begins."""
    rows, columns = (d * np.arange(k) for d, k in zip(window.dilations, window.kernel, strict=True))
    return (rows[:, None] * width + columns).reshape(-1)


def _line(width: int, window: Window) -> int:
    """Return the length of a line of padded images."""
    return width + window.before[1] + window.after[1]


def _patches(x: Array, window: Window) -> Array:
    """Return the patches of images, of shape (channels, rows, columns, images, output rows, output columns).

    There may be more columns than the output has; what they hold is of no meaning, but finite where images are.
    """
    outputs = window.outputs(x.shape[2:])
    xp = array_module(x)
    images, channels = x.shape[:2]
    if _runs(x, window):
        padded = x if window.before == window.after == (0, 0) else _padded(x, window)
        patches = np.empty((channels, *window.kernel, images, outputs[0], padded.shape[3]), x.dtype)
        runs = patches.reshape(channels, math.prod(window.kernel), images, outputs[0] * padded.shape[3])
        planes = padded.reshape(images, channels, -1)
        _spread(_kernels(x).gather_runs, images, patches.size, planes, runs, _shifts(window, padded.shape[3]))
        return patches
    patches = xp.empty((channels, *window.kernel, images, *outputs), x.dtype)
    loops = _kernels(x)
    if loops is not None:
        _spread(loops.gather_patches, images, patches.size, x, patches, window.geometry)
        return patches
    padded = _padded(x, window)
    for (i, j), (rows, columns) in _parts(window, outputs):
        patches[:, i, j] = padded[:, :, rows, columns].swapaxes(0, 1)
    return patches


def _scattered(patches: Array, shape: tuple[int, ...], window: Window) -> Array:
    """Return the adjoint of `_patches`; columns that the output does not have hold zeros."""
    xp = array_module(patches)
    (top, left), (bottom, right) = window.before, window.after
    images, channels, height, width = shape
    whole = (images, channels, height + top + bottom, width + left + right)
    inner = (slice(None), slice(None), slice(top, top + height), slice(left, left + width))
    loops = _kernels(patches)
    if _runs(patches, window):
        x = np.empty(whole, patches.dtype)
        runs = patches.reshape(channels, math.prod(window.kernel), images, -1)
        planes = x.reshape(images, channels, -1)
        _spread(loops.scatter_runs, images, patches.size, planes, runs, _shifts(window, whole[3]))
        return x[inner]
    if loops is not None:
        x = np.empty(shape, patches.dtype)
        _spread(loops.scatter_patches, images, patches.size, x, patches, window.geometry)
        return x
    x = xp.zeros(whole, patches.dtype)
    for (i, j), (rows, columns) in _parts(window, patches.shape[4:]):
        x[:, :, rows, columns] += patches[:, i, j].swapaxes(0, 1)
    return x[inner]


def _lines(gradient: Array, width: int, groups: int, window: Window) -> Array:
    """Return gradients of a result as the rows of a matrix for each group, with as many columns as patches have."""
    images, outputs, height, columns = gradient.shape
    if not _runs(gradient, window):
        return gradient.swapaxes(0, 1).reshape(groups, outputs // groups, -1)
    rows = np.zeros((outputs, images, height, _line(width, window)), gradient.dtype)
    rows[..., :columns] = gradient.swapaxes(0, 1)
    return rows.reshape(groups, outputs // groups, -1)


def _image_ranges(images: int, samples: int) -> list[slice]:
    """Return ranges of images whose patches, of so many samples an image, are in memory at a time."""
    step = max(1, _PATCH_SAMPLES // max(1, samples))
    return [slice(n, min(n + step, images)) for n in range(0, images, step)]


def _is_depthwise(channels: int, shape: tuple[int, ...], groups: int) -> bool:
    return groups > 1 and groups == channels and shape[1] == 1


def convolve(x: Array, weights: Array, window: Window, groups: int = 1) -> Array:
    """Return the convolution (correlation, as networks have it) of images.

    Parameters
    ----------
    x : array, shape (images, channels, rows, columns)
    weights : array, shape (outputs, channels / groups, kernel rows, kernel columns)
    window : Window
    groups : int

    Returns
    -------
    array, shape (images, outputs, output rows, output columns)
    """
    xp = array_module(x)
    x, weights = xp.ascontiguousarray(x), xp.ascontiguousarray(weights)
    images, channels = x.shape[:2]
    outputs = len(weights)
    size = window.outputs(x.shape[2:])
    loops = _kernels(x, weights)
    if loops is not None and _is_depthwise(channels, weights.shape, groups):
        result = np.empty((images, outputs, *size), x.dtype)
        work = result.size * math.prod(window.kernel)
        _spread(loops.convolve_channels, images * outputs, work, x, weights[:, 0], result, window.geometry)
        return result
    matrices = weights.reshape(groups, outputs // groups, -1)
    if window.trivial and math.prod(size) >= _LARGE_PLANE:
        planes = x.reshape(images, groups, channels // groups, math.prod(size))
        return xp.matmul(matrices, planes).reshape(images, outputs, *size)
    result = xp.empty((images, outputs, *size), x.dtype)
    for part in _image_ranges(images, channels * math.prod(window.kernel) * math.prod(size)):
        patches = _patches(x[part], window)
        products = xp.matmul(matrices, patches.reshape(groups, matrices.shape[2], -1))
        products = products.reshape(outputs, *patches.shape[3:])
        result[part] = products[..., : size[1]].swapaxes(0, 1)
    return result


def convolve_adjoint(gradient: Array, weights: Array, shape: tuple[int, ...], window: Window, groups: int = 1) -> Array:
    """Return the gradient of the images of a convolution.

    Parameters
    ----------
    gradient : array, shape (images, outputs, output rows, output columns)
        Of the result.
    weights : array, shape (outputs, channels / groups, kernel rows, kernel columns)
    shape : tuple of 4 int
        Of the images.
    window : Window
    groups : int

    Returns
    -------
    array
    """
    xp = array_module(gradient)
    gradient, weights = xp.ascontiguousarray(gradient), xp.ascontiguousarray(weights)
    images, outputs = gradient.shape[:2]
    size = gradient.shape[2:]
    channels = shape[1]
    loops = _kernels(gradient, weights)
    if loops is not None and _is_depthwise(channels, weights.shape, groups):
        result = np.empty(shape, gradient.dtype)
        work = gradient.size * math.prod(window.kernel)
        _spread(loops.spread_channels, images * channels, work, result, weights[:, 0], gradient, window.geometry)
        return result
    matrices = weights.reshape(groups, outputs // groups, -1).swapaxes(1, 2)
    if window.trivial and math.prod(size) >= _LARGE_PLANE:
        return xp.matmul(matrices, gradient.reshape(images, groups, outputs // groups, math.prod(size))).reshape(shape)
    result = xp.empty(shape, gradient.dtype)
    for part in _image_ranges(images, channels * math.prod(window.kernel) * math.prod(size)):
        some = gradient[part]
        patches = xp.matmul(matrices, _lines(some, shape[3], groups, window))
        patches = patches.reshape(channels, *window.kernel, len(some), size[0], -1)
        result[part] = _scattered(patches, (len(some), *shape[1:]), window)
    return result


def convolve_weights(gradient: Array, x: Array, shape: tuple[int, ...], window: Window, groups: int = 1) -> Array:
    """Return the gradient of the weights of a convolution.

    Parameters
    ----------
    gradient : array, shape (images, outputs, output rows, output columns)
        Of the result.
    x : array, shape (images, channels, rows, columns)
    shape : tuple of 4 int
        Of the weights.
    window : Window
    groups : int

    Returns
    -------
    array
    """
    xp = array_module(gradient)
    gradient, x = xp.ascontiguousarray(gradient), xp.ascontiguousarray(x)
    outputs, size = shape[0], gradient.shape[2:]
    loops = _kernels(gradient, x)
    if loops is not None and _is_depthwise(x.shape[1], shape, groups):
        result = np.empty((outputs, *window.kernel), x.dtype)
        work = gradient.size * math.prod(window.kernel)
        _spread(loops.correlate_channels, outputs, work, x, result, gradient, window.geometry)
        return result.reshape(shape)
    total = xp.zeros((groups, outputs // groups, math.prod(shape[1:])), x.dtype)
    for part in _image_ranges(len(x), x.shape[1] * math.prod(window.kernel) * math.prod(size)):
        patches = _patches(x[part], window).reshape(groups, total.shape[2], -1)
        total += xp.matmul(_lines(gradient[part], x.shape[3], groups, window), patches.swapaxes(1, 2))
    return total.reshape(shape)


def pool_largest(x: Array, window: Window) -> tuple[Array, Array]:
    """Return the largest sample of each patch, the first of equals, and its place in the plane of its channel.

    Parameters
    ----------
    x : array, shape (images, channels, rows, columns)
    window : Window
        Padding is never the largest.

    Returns
    -------
    largest : array, shape (images, channels, output rows, output columns)
    places : array of int32, of the same shape
        -1 for patches that are all padding.
    """
    xp = array_module(x)
    size = window.outputs(x.shape[2:])
    x = xp.ascontiguousarray(x)
    loops = _kernels(x)
    if loops is not None:
        planes = x.reshape(-1, *x.shape[2:])
        result, places = np.empty((len(planes), *size), x.dtype), np.empty((len(planes), *size), np.int32)
        if window.kernel == window.strides == (2, 2) and window.before == (0, 0) and max(window.after) == 0:
            _spread(loops.pool_pairs, len(planes), planes.size, planes, result, places)
        else:
            work = result.size * math.prod(window.kernel)
            _spread(loops.pool_largest, len(planes), work, planes, result, places, window.geometry)
        return result.reshape(*x.shape[:2], *size), places.reshape(*x.shape[:2], *size)
    numbers = xp.arange(math.prod(x.shape[2:]), dtype=np.int32).reshape(1, 1, *x.shape[2:])
    padded, numbered = _padded(x, window, -np.inf), _padded(numbers, window, -1)
    result = xp.full((*x.shape[:2], *size), -np.inf, x.dtype)
    places = xp.full(result.shape, -1, np.int32)
    for _, (rows, columns) in _parts(window, size):
        value, number = padded[:, :, rows, columns], numbered[:, :, rows, columns]
        better = (number >= 0) & ((value > result) | (places < 0) | (xp.isnan(value) & ~xp.isnan(result)))
        result = xp.where(better, value, result)
        places = xp.where(better, number, places)
    return result, places


def pool_largest_adjoint(gradient: Array, places: Array, shape: tuple[int, ...]) -> Array:
    """Return the gradient of the images of `pool_largest`, of the given shape."""
    xp = array_module(gradient)
    count = shape[0] * shape[1]
    plane = shape[2] * shape[3]
    gradient = xp.ascontiguousarray(gradient)
    loops = _kernels(gradient)
    if loops is not None:
        size = gradient.shape[2:]
        result = np.empty((count, plane), gradient.dtype)
        arguments = (result, gradient.reshape(count, *size), places.reshape(count, *size))
        _spread(loops.spread_largest, count, result.size, *arguments)
        return result.reshape(shape)
    flat = xp.zeros(count * plane, gradient.dtype)
    starts = xp.arange(count).reshape(count, 1) * plane
    targets = places.reshape(count, -1) + starts
    used = places.reshape(count, -1) >= 0
    xp.add.at(flat, targets[used], gradient.reshape(count, -1)[used])
    return flat.reshape(shape)


def pool_sums(x: Array, window: Window) -> Array:
    """Return the sum of each patch of images."""
    size = window.outputs(x.shape[2:])
    padded = _padded(x, window)
    result = None
    for _, (rows, columns) in _parts(window, size):
        part = padded[:, :, rows, columns]
        result = part.copy() if result is None else result + part
    return result


def pool_sums_adjoint(gradient: Array, shape: tuple[int, ...], window: Window) -> Array:
    """Return the gradient of the images of `pool_sums`, of the given shape."""
    xp = array_module(gradient)
    (top, left), (bottom, right) = window.before, window.after
    padded = xp.zeros((*shape[:2], shape[2] + top + bottom, shape[3] + left + right), gradient.dtype)
    for _, (rows, columns) in _parts(window, gradient.shape[2:]):
        padded[:, :, rows, columns] += gradient
    return padded[:, :, top : top + shape[2], left : left + shape[3]]


def erf(x: Array) -> Array:
    """Return the error function of real numbers."""
    if array_module(x) is not np:
        return importlib.import_module("cupyx.scipy.special").erf(x)
    loops = _kernels(np.asarray(x))
    if loops is None:
        return np.vectorize(math.erf, otypes=[np.result_type(x.dtype, np.float16)])(x)
    flat = np.ascontiguousarray(x).reshape(-1)
    result = np.empty_like(flat)
    _spread(loops.error_function, flat.size, 8 * flat.size, flat, result)
    return result.reshape(x.shape)
