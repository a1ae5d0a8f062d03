"""Statistics of the blocks of an array: coarse fields with a bound for each block, and what is made of them."""

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpcblaz.backend.dispatch import drivers_of
from hpcblaz.errors import CodecError, UnsupportedOperationError
from hpcblaz.fields.arithmetic import check_partners
from hpcblaz.fields.certificates import UNIT
from hpcblaz.fields.moments import check_array, check_not_empty, decode_window, has_means, value_rounding
from hpcblaz.fields.scalars import CertifiedFloat

if TYPE_CHECKING:
    from hpcblaz.fields.array import CompressedArray


class BlockField(NamedTuple):
    """A value for each block of an array, and its bound.

    Parameters
    ----------
    values : numpy.ndarray
        float64, of the shape of the grid of blocks.
    error : numpy.ndarray
        float64, of the same shape: each value is within its error of that of the original data.
    """

    values: NDArray[np.float64]
    error: NDArray[np.float64]


def block_mean(a: "CompressedArray") -> BlockField:
    """Return the mean of each block of this rank's part: a coarse field.

    Parameters
    ----------
    a : CompressedArray

    Returns
    -------
    BlockField
    """
    check_array(a, "a")
    means, _ = _blocks(a, squares=False)
    return BlockField(means, _block_delta(a) + value_rounding(a))


def block_variance(a: "CompressedArray") -> BlockField:
    """Return the variance within each block of this rank's part.

    Parameters
    ----------
    a : CompressedArray

    Returns
    -------
    BlockField
    """
    check_array(a, "a")
    _, variances = _blocks(a, squares=True)
    delta = _block_delta(a)
    return BlockField(
        variances,
        delta * (2 * variances**0.5 + delta) + 4096 * UNIT * (variances + a._magnitude * a._magnitude * UNIT),
    )


def block_standard_deviation(a: "CompressedArray") -> BlockField:
    """Return the standard deviation within each block of this rank's part.

    Parameters
    ----------
    a : CompressedArray

    Returns
    -------
    BlockField
    """
    check_array(a, "a")
    _, variances = _blocks(a, squares=True)
    return BlockField(variances**0.5, _block_delta(a) + 4096 * UNIT * (variances**0.5 + a._magnitude))


def _block_cells(a: "CompressedArray") -> NDArray[np.float64]:
    """Return the cells of each block, on the array's device."""
    grid = a._numerics.grid
    cells = np.ones(grid.blocks)
    for axis, (n, side) in enumerate(zip(grid.shape, grid.block_shape, strict=True)):
        lengths = np.minimum(side, n - side * np.arange(grid.blocks[axis]))
        cells = cells * lengths.reshape([-1 if i == axis else 1 for i in range(grid.ndim)])
    placed: NDArray[np.float64] = drivers_of(a._blocks).asarray(cells)
    return placed


def _block_delta(a: "CompressedArray") -> NDArray[np.float64]:
    xp = drivers_of(a._blocks).array_module()
    delta: NDArray[np.float64] = xp.minimum(a._field_error.max_abs, a._field_error.l2 / xp.sqrt(_block_cells(a)))
    return delta


def _blocks(a: "CompressedArray", squares: bool) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return means and variances of the blocks of the local part."""
    grid = a._numerics.grid
    if not has_means(a):
        return _decoded_blocks(a)
    means, energies = drivers_of(a._blocks).block_moments(a._blocks, a._numerics, squares)
    means = a._factor * means + a._offset
    xp = drivers_of(a._blocks).array_module()
    variances = xp.zeros(grid.blocks) if energies is None else a._factor * (a._factor * energies) / _block_cells(a)
    return means, variances


def _decoded_blocks(a: "CompressedArray") -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return them from decoded values, in host memory meanwhile."""
    grid, drivers = a._numerics.grid, drivers_of(a._blocks)
    cells = drivers.asnumpy(_block_cells(a))

    def block_sums(values: NDArray[np.float64]) -> NDArray[np.float64]:
        for axis, side in enumerate(grid.block_shape):
            values = np.add.reduceat(values, np.arange(0, values.shape[axis], side), axis=axis)
        return values

    if not grid.size:
        return drivers.asarray(cells), drivers.asarray(cells)
    values = drivers.asnumpy(decode_window(a, (0,) * grid.ndim, grid.shape))
    means = block_sums(values) / cells
    spread = means
    for axis, (n, side) in enumerate(zip(grid.shape, grid.block_shape, strict=True)):
        spread = np.repeat(spread, side, axis=axis).take(range(n), axis=axis)
    return drivers.asarray(means), drivers.asarray(block_sums((values - spread) ** 2) / cells)


def wasserstein_distance(a: "CompressedArray", b: "CompressedArray", *, order: float = 1.0) -> CertifiedFloat:
    """Return the approximate Wasserstein distance of PyBlaz between two arrays.

    The means of the blocks, through a softmax, are taken for masses; the distance is the p-mean of the differences of
    the sorted masses. The bound is with respect to the same number for the original data, with the same blocks.

    Parameters
    ----------
    a, b : CompressedArray
        Of one shape, layout and block shape, not empty.
    order : float, default 1.0
        p, at least 1.

    Returns
    -------
    CertifiedFloat

    Raises
    ------
    CodecError
        If block shapes differ.
    """
    check_array(a, "a")
    check_not_empty(a, "Wasserstein distance")
    if not order >= 1 or not math.isfinite(order):
        raise UnsupportedOperationError(f"expected an order of at least 1, got {order!r}")
    with a._comm.together():
        check_array(b, "b")
        check_partners(a, b)
        if a.codec.block_shape != b.codec.block_shape:
            raise CodecError(
                f"expected two arrays of one block shape, got {a.codec.block_shape} and {b.codec.block_shape}"
            )
    masses, moved = [], []
    for array in (a, b):
        field, drivers = block_mean(array), drivers_of(array._blocks)
        own = (drivers.asnumpy(field.values).ravel(), drivers.asnumpy(field.error).ravel())
        pieces = array._comm.gather_objects(own)
        means = np.concatenate([piece[0] for piece in pieces])
        error = float(max(piece[1].max(initial=0.0) for piece in pieces))
        means = means - means.max()
        mass = np.exp(means)
        means = means - math.log(mass.sum())
        masses.append(np.sort(mass / mass.sum()))
        shift = 2 * error + 64 * UNIT  # of the logarithm of a mass, which may have underflowed itself
        moved.append(np.exp(means) * math.expm1(shift) if shift < 1 else np.exp(np.minimum(means + shift, 0.0)))
    value = _power_mean(np.abs(masses[0] - masses[1]), order)
    bound = sum(_power_mean(move, order) for move in moved)
    return CertifiedFloat(value, bound * (1 + 2.0**-30) + 64 * UNIT * value)


def _power_mean(values: NDArray[np.float64], order: float) -> float:
    largest = float(values.max())
    if largest == 0:
        return 0.0
    return float(largest * float(np.mean((values / largest) ** order)) ** (1 / order))
