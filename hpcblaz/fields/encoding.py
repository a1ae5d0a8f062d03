"""Values to packed blocks within a tolerance: the choice of steps, and what the measured errors are."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcblaz.backend.payload import Numerics, PackedBlocks, Progress
from hpcblaz.fields.codec import UNIT_ROUNDOFF, ToleranceCodec, grid_of, growth, rounding
from hpcblaz.fields.scalars import ErrorBound


def encode_within(
    values: NDArray[Any],
    numerics: Numerics,
    tolerance: float,
    largest: float,
    backend: Any,
    progress: Progress | None = None,
) -> tuple[PackedBlocks, float, float] | None:
    """Return the blocks of values of at most `largest` in magnitude, their largest error and its 2-norm.

    None if this precision, or 32-bit integers, do not hold the tolerance.
    """
    sides = numerics.grid.block_shape
    gain = growth(numerics.transform, sides)
    root = math.sqrt(math.prod(sides))
    widest = 2 * tolerance / gain
    exponent = math.floor(math.log2(widest)) - 1 if widest > 0 else -2000
    mean_level = 0
    if numerics.transform != "identity":
        mean_level = max(0, min(3, math.floor(math.log2(gain * root / 2))))
    if root * largest >= 2.0 ** (30 + exponent + mean_level) or not -1000 < exponent < 1000:
        return None
    # Errors are measured with a relative rounding of a few units; aim that much lower
    aim = float(numerics.dtype.type(tolerance * (1 - 16 * UNIT_ROUNDOFF[numerics.precision])))
    allowance = rounding(numerics.transform, sides, numerics.precision)
    result = backend.encode(values, numerics, aim, allowance, exponent, mean_level, progress)
    if result is None:
        return None
    blocks, max_abs, l2 = result
    return blocks, *measured(max_abs, l2, numerics)


def measured(max_abs: float, l2: float, numerics: Numerics) -> tuple[float, float]:
    """Return bounds of the errors that a kernel has measured in this precision, squares that underflow included."""
    unit, cells = UNIT_ROUNDOFF[numerics.precision], numerics.grid.size
    max_abs *= 1 + 8 * unit
    l2 *= 1 + (8 + numerics.grid.block_size) * unit
    l2 += math.sqrt(cells) * (2.0**-74 if numerics.precision == "float32" else 2.0**-537)
    return max_abs, min(l2, math.sqrt(cells) * max_abs * (1 + 2.0**-50))


def encode_result(
    values: NDArray[np.float64], codec: ToleranceCodec, tolerance: float, backend: Any
) -> tuple[PackedBlocks, Numerics, ErrorBound]:
    """Return the blocks of a result in double precision, with the error that they add.

    The tolerance is what is wanted of it; the least that can be held is taken where that is larger.
    """
    numerics = Numerics(grid_of(codec, values.shape), codec.transform, "float64")
    largest = float(abs(values).max()) if values.size else 0.0
    tolerance = max(min(tolerance, 2 * largest), 2.0**-900)
    while True:
        result = encode_within(values, numerics, tolerance, largest, backend)
        if result is not None:
            return result[0], numerics, ErrorBound(*result[1:])
        tolerance *= 4
