"""What the benchmark compares with: two other compressors, and NumPy on uncompressed arrays in its fastest form."""

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from hpcblaz.errors import MissingDependencyError

_SLICE = 1 << 17  # cells that NumPy is given at a time, so that intermediate results stay in the cache

Array = NDArray[Any]


class Codec(Protocol):
    """A compressor with an absolute tolerance."""

    name: str

    def compress(self, x: Array, tolerance: float) -> Any:
        """Return the compressed form."""

    def decompress(self, compressed: Any, x: Array) -> Array:
        """Return the values; `x` gives shape and type."""

    def nbytes(self, compressed: Any) -> int:
        """Return the size of the compressed form."""


class Zfp:
    """The accuracy mode of zfp, on one thread."""

    name = "zfpy"

    def __init__(self) -> None:
        self._zfpy = _module("zfpy")

    def compress(self, x: Array, tolerance: float) -> bytes:
        """Return zfp's stream, with its header."""
        stream: bytes = self._zfpy.compress_numpy(x, tolerance=tolerance)
        return stream

    def decompress(self, compressed: bytes, x: Array) -> Array:
        """Return the values of a stream."""
        values: Array = self._zfpy.decompress_numpy(compressed)
        return values

    def nbytes(self, compressed: bytes) -> int:
        """Return the length of a stream."""
        return len(compressed)


class Sz3:
    """The ABS mode of SZ3 with its default algorithm, on one thread."""

    name = "SZ3"

    def __init__(self) -> None:
        self._pysz = _module("pysz")

    def compress(self, x: Array, tolerance: float) -> Array:
        """Return SZ3's bytes."""
        config = self._pysz.szConfig(x.shape)
        config.errorBoundMode = self._pysz.szErrorBoundMode.ABS
        config.absErrorBound = tolerance
        config.openmp = False
        stream: Array = self._pysz.sz.compress(x, config)[0]
        return stream

    def decompress(self, compressed: Array, x: Array) -> Array:
        """Return the values."""
        values: Array = self._pysz.sz.decompress(compressed, x.dtype, x.shape)[0]
        return values

    def nbytes(self, compressed: Array) -> int:
        """Return the number of bytes."""
        return int(compressed.nbytes)


def codecs(absent: list[str] | None = None) -> list[Codec]:
    """Return the other compressors that are installed.

    Parameters
    ----------
    absent : list of str, optional
        What is not installed is appended to it, in words.
    """
    found: list[Codec] = []
    for kind in (Zfp, Sz3):
        try:
            found.append(kind())
        except MissingDependencyError as error:
            if absent is not None:
                absent.append(f"{kind.name}: {error}")
    return found


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingDependencyError.needs("comparing", name, "bench") from error


class Formulation(NamedTuple):
    """One way to compute an answer with NumPy, as a function of two arrays of one shape."""

    name: str
    function: Callable[[Array, Array], Any]


def formulations(block_shape: tuple[int, ...], data_range: float) -> dict[str, list[Formulation]]:
    """Return for every statistic the ways that NumPy has to compute it; the benchmark takes the fastest.

    Parameters
    ----------
    block_shape : tuple of int
        Blocks of the Wasserstein distance.
    data_range : float
        L of the structural similarity.
    """

    def similarity(x: Array, y: Array) -> float:
        return structural_similarity(x, y, data_range)

    def distance(x: Array, y: Array) -> float:
        return wasserstein_distance(x, y, block_shape)

    return {
        "mean": [Formulation("np.mean", lambda x, y: float(np.mean(x)))],
        "dot": [Formulation("np.dot", lambda x, y: float(np.dot(x.ravel(), y.ravel())))],
        "norm": [Formulation("np.linalg.norm", lambda x, y: float(np.linalg.norm(x.ravel())))],
        "cosine similarity": [Formulation("np.dot, thrice", cosine_similarity)],
        "variance": [
            Formulation("np.var", lambda x, y: float(np.var(x))),
            Formulation("np.dot of deviations, in slices", lambda x, y: float(centred_sums(x)[2] / x.size)),
        ],
        "covariance": [
            Formulation("np.dot of deviations", covariance),
            Formulation("np.dot of deviations, in slices", lambda x, y: float(centred_sums(x, y, False)[3] / x.size)),
        ],
        "SSIM": [Formulation("np.dot of deviations, in slices", similarity)],
        "Wasserstein": [Formulation("np.sum along axes, np.sort", distance)],
    }


def cosine_similarity(x: Array, y: Array) -> float:
    """Return the cosine of the angle between two arrays."""
    x, y = x.ravel(), y.ravel()
    return float(np.dot(x, y) / np.sqrt(float(np.dot(x, x)) * float(np.dot(y, y))))


def covariance(x: Array, y: Array) -> float:
    """Return the covariance of two arrays, by whole arrays of deviations."""
    return float(np.dot((x - x.mean()).ravel(), (y - y.mean()).ravel()) / x.size)


def centred_sums(x: Array, y: Array | None = None, squares: bool = True) -> tuple[float, float, float, float, float]:
    """Return means and sums of products of deviations of one or two arrays, by slices: mx, my, xx, xy, yy.

    Without `squares`, xx and yy are not computed.
    """
    x = x.ravel()
    mx, my, xx, xy, yy = x.mean(), x.dtype.type(0), 0.0, 0.0, 0.0
    dx, dy = np.empty((2, _SLICE), x.dtype)
    if y is not None:
        y = y.ravel()
        my = y.mean()
    for start in range(0, x.size, _SLICE):
        cells = x[start : start + _SLICE]
        u = np.subtract(cells, mx, out=dx[: cells.size])
        if squares:
            xx += float(np.dot(u, u))
        if y is not None:
            v = np.subtract(y[start : start + _SLICE], my, out=dy[: cells.size])
            xy += float(np.dot(u, v))
            if squares:
                yy += float(np.dot(v, v))
    return float(mx), float(my), xx, xy, yy


def structural_similarity(x: Array, y: Array, data_range: float) -> float:
    """Return the global structural similarity of two arrays, with the usual constants."""
    mx, my, xx, xy, yy = centred_sums(x, y)
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    sx, sy = np.sqrt(xx / x.size), np.sqrt(yy / x.size)
    luminance = (2 * mx * my + c1) / (mx**2 + my**2 + c1)
    contrast = (2 * sx * sy + c2) / (sx**2 + sy**2 + c2)
    return float(luminance * contrast * (xy / x.size + c2 / 2) / (sx * sy + c2 / 2))


def block_sums(x: Array, block_shape: tuple[int, ...]) -> Array:
    """Return the sum of every block; the last blocks of an axis may be partial."""
    if any(side % block for side, block in zip(x.shape, block_shape, strict=True)):
        for axis, block in enumerate(block_shape):
            x = np.add.reduceat(x, np.arange(0, x.shape[axis], block), axis=axis)
        return x
    for axis, block in enumerate(block_shape):  # the first axis, whose rows are the longest, first
        split = x.reshape(*x.shape[:axis], x.shape[axis] // block, block, *x.shape[axis + 1 :])
        if axis + 1 < x.ndim:
            x = split.sum(axis=axis + 1)
        else:
            x = np.asarray(sum(split[..., i] for i in range(1, block)) + split[..., 0])
    return x


def block_means(x: Array, block_shape: tuple[int, ...]) -> Array:
    """Return the mean of every block; the last blocks of an axis may be partial."""
    if any(side % block for side, block in zip(x.shape, block_shape, strict=True)):
        return np.asarray(block_sums(x, block_shape) / block_sums(np.ones_like(x), block_shape))
    return np.asarray(block_sums(x, block_shape) / np.prod(block_shape))


def wasserstein_distance(x: Array, y: Array, block_shape: tuple[int, ...]) -> float:
    """Return PyBlaz's approximate Wasserstein distance of order 1 between two arrays."""
    masses = []
    for values in (x, y):
        means = block_means(values, block_shape).ravel()
        mass = np.exp(means - means.max())
        masses.append(np.sort(mass / mass.sum()))
    return float(np.abs(masses[0] - masses[1]).mean())
