"""Statistics of the blocks of an array: coarse fields with a bound for each block, and what is made of them."""

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpcblaz.backend.dispatch import drivers_of
from hpcblaz.errors import CodecError, UnsupportedOperationError
from hpcblaz.fields.arithmetic import check_partners
from hpcblaz.fields.certificates import UNIT
from hpcblaz.fields.gaps import block_cells, block_rows, block_sums, decode_window, slabs
from hpcblaz.fields.moments import check_array, check_values, has_means, value_rounding
from hpcblaz.fields.scalars import CertifiedFloat

if TYPE_CHECKING:
    from hpcblaz.fields.array import CompressedArray


class BlockField(NamedTuple):
    """A value for each block of an array, and its bound.

    Parameters
    ----------
    values : numpy.ndarray
        float64, of the shape of the grid of blocks. NaN for a block of missing cells only.
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
    """Return how many cells of each block hold numbers, on the array's device."""
    placed: NDArray[np.float64] = drivers_of(a._blocks).asarray(block_cells(a))
    return placed


def _block_delta(a: "CompressedArray") -> NDArray[np.float64]:
    xp = drivers_of(a._blocks).array_module()
    cells = _block_cells(a)
    delta = xp.minimum(a._field_error.max_abs, a._field_error.l2 / xp.sqrt(xp.maximum(cells, 1)))
    known: NDArray[np.float64] = xp.where(cells > 0, delta, math.inf)
    return known


def _blocks(a: "CompressedArray", squares: bool) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return means and variances of the blocks of the local part."""
    drivers = drivers_of(a._blocks)
    if not has_means(a):
        return _decoded_blocks(a, None)
    means, energies = drivers.block_moments(a._blocks, a._numerics, squares)
    means = a._factor * means + a._offset
    xp = drivers.array_module()
    variances = xp.zeros_like(means)
    if energies is not None:
        variances = a._factor * (a._factor * energies) / xp.maximum(_block_cells(a), 1)
    if a._missing is None:
        return means, variances
    wanted = a._missing.blocks(a._numerics.grid)
    found, spread = _decoded_blocks(a, wanted)
    gaps = drivers.asarray(wanted)
    return xp.where(gaps, found, means), xp.where(gaps, spread, variances)


def _decoded_blocks(
    a: "CompressedArray", wanted: NDArray[np.bool_] | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return means and variances from decoded values, slab by slab in host memory; NaN for blocks without any.

    With `wanted`, slabs without such a block are left out.
    """
    grid, drivers = a._numerics.grid, drivers_of(a._blocks)
    means, variances = np.full(grid.blocks, np.nan), np.full(grid.blocks, np.nan)
    for low, high in slabs(a):
        rows = block_rows(grid, low, high)
        if wanted is not None and not wanted[rows].any():
            continue
        values = drivers.asnumpy(decode_window(a, low, high))
        weights = np.ones_like(values) if a._missing is None else (~a._missing.window(low, high)).astype(np.float64)
        cells = block_sums(grid, weights)
        with np.errstate(invalid="ignore"):  # blocks without a value have no mean
            mean = block_sums(grid, values * weights) / cells
            spread = mean
            for axis, (n, side) in enumerate(zip(values.shape, grid.block_shape, strict=True)):
                spread = np.repeat(spread, side, axis=axis).take(range(n), axis=axis)
            deviation = np.where(weights > 0, values - spread, 0)
            means[rows] = mean
            variances[rows] = block_sums(grid, deviation * deviation) / cells
    return drivers.asarray(means), drivers.asarray(variances)


def wasserstein_distance(a: "CompressedArray", b: "CompressedArray", *, order: float = 1.0) -> CertifiedFloat:
    """Return the approximate Wasserstein distance of PyBlaz between two arrays.

    The means of the blocks, through a softmax, are taken for masses; the distance is the p-mean of the differences of
    the sorted masses. The bound is with respect to the same number for the original data, with the same blocks. Blocks
    of which an array has no value are left out.

    Parameters
    ----------
    a, b : CompressedArray
        Of one shape, layout and block shape, with a value.
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
    fields = [_gathered(array) for array in (a, b)]
    both = np.isfinite(fields[0].values) & np.isfinite(fields[1].values)
    check_values(a, int(both.sum()), "Wasserstein distance")
    for field in fields:
        error = float(field.error[both].max())
        means = field.values[both]
        means = means - means.max()
        mass = np.exp(means)
        means = means - math.log(mass.sum())
        masses.append(np.sort(mass / mass.sum()))
        shift = 2 * error + 64 * UNIT  # of the logarithm of a mass, which may have underflowed itself
        moved.append(np.exp(means) * math.expm1(shift) if shift < 1 else np.exp(np.minimum(means + shift, 0.0)))
    value = _power_mean(np.abs(masses[0] - masses[1]), order)
    bound = sum(_power_mean(move, order) for move in moved)
    return CertifiedFloat(value, bound * (1 + 2.0**-30) + 64 * UNIT * value)


def _gathered(a: "CompressedArray") -> BlockField:
    """Return the means of the blocks of all ranks, in host memory."""
    field, drivers = block_mean(a), drivers_of(a._blocks)
    pieces = a._comm.gather_objects((drivers.asnumpy(field.values).ravel(), drivers.asnumpy(field.error).ravel()))
    return BlockField(*(np.concatenate(parts) for parts in zip(*pieces, strict=True)))


def _power_mean(values: NDArray[np.float64], order: float) -> float:
    largest = float(values.max())
    if largest == 0:
        return 0.0
    return float(largest * float(np.mean((values / largest) ** order)) ** (1 / order))
