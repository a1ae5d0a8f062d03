"""Where the values of each block lie, from its coefficients, and the values of single blocks.

A value of a block differs from the block's mean by the sum of the coefficients but the first, each times its basis
function. That is at most the sum of magnitudes times the largest values of those functions; and at most the 2-norm of
the coefficients (Cauchy-Schwarz), because the squares of all functions of an orthonormal basis sum to one in each cell.
"""

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpcblaz.backend import dense
from hpcblaz.errors import UnsupportedOperationError
from hpcblaz.fields.codec import rounding
from hpcblaz.fields.gaps import cells_of_blocks
from hpcblaz.fields.moments import has_means, payload_bound, squares_are_safe

if TYPE_CHECKING:
    from hpcblaz.fields.array import CompressedArray

_LEAST = 2.0**-500  # squares of what is smaller may vanish


class BlockRanges(NamedTuple):
    """What the decoded values of the payload's blocks lie between.

    Parameters
    ----------
    low, high : numpy.ndarray
        float64, one a block in C order.
    """

    low: NDArray[np.float64]
    high: NDArray[np.float64]


def check_on_host(a: "CompressedArray", operation: str) -> None:
    """Raise UnsupportedOperationError unless an array is where single blocks can be decoded."""
    if a._blocks.device != "cpu":
        raise UnsupportedOperationError(
            f"expected an array on the CPU for {operation}, got one on {a.device}: move it with a.to_device('cpu')"
        )


def block_ranges(a: "CompressedArray") -> BlockRanges:
    """Return the ranges of the payload's blocks of the local part, rounding of any decoder included."""
    grid, numerics = a._numerics.grid, a._numerics
    if not squares_are_safe(a):
        largest = np.full(math.prod(grid.blocks), 2 * payload_bound(a))
        return BlockRanges(-largest, largest)
    means, spread = dense.block_ranges(a._blocks, numerics)
    spread = spread * (1 + 2.0**-30) + _LEAST
    if not has_means(a):  # the identity: coefficient 0 is the first sample, and the others are samples of their own
        first = means * np.sqrt(cells_of_blocks(grid).ravel()) * (1 + 2.0**-40)
        return BlockRanges(np.minimum(first, -spread) - _LEAST, np.maximum(first, spread) + _LEAST)
    room = spread + (rounding(numerics.transform, grid.block_shape, numerics.precision) + 2.0**-40) * (
        np.abs(means) + spread
    )
    return BlockRanges(means - room, means + room)


def block_values(a: "CompressedArray", numbers: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the payload's values in some blocks: float64, shape (blocks, block size).

    Cells that a partial block lacks, and missing ones, are NaN.
    """
    values = dense.decode_blocks(a._blocks, a._numerics, numbers).astype(np.float64)
    missing = a._missing
    if missing is not None:
        grid = a._numerics.grid
        for row, place in zip(values, np.stack(np.unravel_index(numbers, grid.blocks), axis=1), strict=True):
            low = tuple(int(p) * side for p, side in zip(place, grid.block_shape, strict=True))
            high = tuple(min(o + side, n) for o, side, n in zip(low, grid.block_shape, grid.shape, strict=True))
            window = tuple(slice(0, h - o) for o, h in zip(low, high, strict=True))
            row.reshape(grid.block_shape)[window][missing.window(low, high)] = np.nan
    return values


def cell_of(a: "CompressedArray", number: int, sample: int) -> tuple[int, ...]:
    """Return the index in the whole field of one sample of one block of the local part."""
    grid = a._numerics.grid
    start = a.layout.offset if a.layout is not None else (0,) * grid.ndim
    places = np.unravel_index(number, grid.blocks), np.unravel_index(sample, grid.block_shape)
    return tuple(
        int(o) + int(p) * side + int(s) for o, p, s, side in zip(start, *places, grid.block_shape, strict=True)
    )
