"""Linear combinations of many compressed arrays in one pass."""

import functools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hpcblaz.backend import dense
from hpcblaz.backend.payload import Blocks, Numerics, PackedBlocks
from hpcblaz.errors import HpcblazError, ShapeError, ToleranceError, UnsupportedOperationError
from hpcblaz.fields.arithmetic import (
    FUZZ,
    SPREAD,
    UNDERFLOW,
    check_partners,
    check_same_codec,
    real,
    result_dtype,
    scale,
    value_bound,
)
from hpcblaz.fields.certificates import UNIT
from hpcblaz.fields.missing import sum_of
from hpcblaz.fields.moments import check_array
from hpcblaz.fields.scalars import ErrorBound

if TYPE_CHECKING:
    from hpcblaz.fields.array import CompressedArray

_FINER = 2  # powers of two by which sums that need rounding have finer steps: it adds an eighth of an error or so


def linear_combination(weights: Sequence[float], arrays: "Sequence[CompressedArray]") -> "CompressedArray":
    """Return the sum of ``weights[i] * arrays[i]``, compressed.

    Coefficients are summed in double precision and rounded once, however many arrays there are. Where the quotients of
    weights are powers of two nothing is rounded at all; otherwise a block gets a quarter of the finest step that any of
    them has there, times its weight. Nothing is decoded.

    Parameters
    ----------
    weights : sequence of float
        Finite; one for each array.
    arrays : sequence of CompressedArray
        At least one; of one shape, layout and codec, as for ``a + b``. Arrays on a GPU are added one by one.

    Returns
    -------
    CompressedArray
        Its error is at most the sum of ``abs(weights[i])`` times those of the arrays, and what rounding adds.

    Raises
    ------
    ShapeError, LayoutError, CodecError
        If shapes, layouts or codecs differ, or there are not as many weights as arrays.
    ToleranceError
        If the sum is of magnitudes too different for 32-bit indices.

    Examples
    --------
    >>> import numpy as np, hpcblaz as hb
    >>> x = np.random.default_rng(0).normal(size=(3, 50, 50))
    >>> c = hb.linear_combination([0.5, -0.25, 2.0], [hb.compress(step, tolerance=1e-3) for step in x])
    >>> bool(abs(c.decompress() - np.tensordot([0.5, -0.25, 2.0], x, 1)).max() <= c.error.max_abs <= 3e-3)
    True
    """
    operands = list(arrays)
    if not operands:
        raise ShapeError("expected at least one array for a linear combination, got none")
    first = operands[0]
    check_array(first, "arrays[0]")
    with first._comm.together():
        for number, a in enumerate(operands):
            check_array(a, f"arrays[{number}]")
            check_partners(first, a)
            check_same_codec(first, a)
        numbers = [real(weight, "multiply by") for weight in weights]
        if len(numbers) != len(operands):
            raise ShapeError(f"expected a weight for each of {len(operands)} arrays, got {len(numbers)}")
        if not math.isfinite(sum(abs(w) * value_bound(a) for w, a in zip(numbers, operands, strict=True))):
            raise UnsupportedOperationError("expected a linear combination that float64 holds, got larger values")
    if first._blocks.device != "cpu":
        return _one_by_one(numbers, operands)
    result = _combine(numbers, operands)
    gaps = [None if a._missing is None else a._missing.scaled(w) for w, a in zip(numbers, operands, strict=True)]
    missing = functools.reduce(sum_of, gaps)
    return result._replace(missing=None if missing is None else missing.with_dtype(result.dtype))


def _one_by_one(weights: list[float], arrays: "list[CompressedArray]") -> "CompressedArray":
    scaled = [scale(a, weight, result_dtype(a, weight)) for weight, a in zip(weights, arrays, strict=True)]
    total = scaled[0]
    for term in scaled[1:]:
        total = total + term
    return total


def _combine(weights: list[float], arrays: "list[CompressedArray]") -> "CompressedArray":
    first = arrays[0]
    pairs = list(zip(weights, arrays, strict=True))
    factors = [w * a._factor for w, a in pairs]
    lead = max(map(abs, factors))
    used = [(f / lead, a) for f, a in zip(factors, arrays, strict=True) if f]
    largest = sum(abs(w) * (value_bound(a) + abs(a._offset)) for w, a in pairs)
    double = any(a._numerics.precision == "float64" for a in arrays) or not largest < 2.0**50 * lead
    numerics = replace(first._numerics, precision="float64" if double else "float32")
    blocks, lost_max, lost_l2, error = first._blocks, 0.0, 0.0, None
    if used:
        try:
            blocks, lost_max, lost_l2 = _sum(used, numerics)
        except HpcblazError as refusal:
            error = refusal
    first._comm.agree(error)
    finest = math.ldexp(lead, blocks.exponent) if isinstance(blocks, PackedBlocks) else math.inf
    wide = math.sqrt(first._numerics.grid.block_size) * largest > 2.0**24 * finest
    lost = first._comm.allgather(np.array([lost_max, lost_l2, wide]))
    if lost[:, 2].any():  # single precision does not hold all integers of the sum
        numerics = replace(numerics, precision="float64")
    root, cells = math.sqrt(first.size), math.sqrt(first._numerics.grid.block_size)
    rounding = ((len(arrays) + 4) * UNIT + FUZZ) * largest
    kept_max = lead * (float(lost[:, 0].max()) + UNDERFLOW) * (1 + 2.0**-40)
    kept_l2 = lead * (float(np.hypot.reduce(lost[:, 1])) + UNDERFLOW * root) * (1 + 2.0**-40)
    dtype: Any = np.result_type(*(result_dtype(a, w) for w, a in pairs))
    return first._replace(
        blocks=blocks,
        numerics=numerics if used else first._numerics,
        factor=lead,
        offset=math.fsum(w * a._offset for w, a in pairs),
        magnitude=sum(abs(w) * a._magnitude for w, a in pairs),
        dtype=dtype,
        field_error=ErrorBound(
            (sum(abs(w) * a._field_error.max_abs for w, a in pairs) + kept_max) * (1 + 2.0**-40) + cells * rounding,
            (sum(abs(w) * a._field_error.l2 for w, a in pairs) + kept_l2) * (1 + 2.0**-40) + root * rounding,
        ),
    )


def _sum(used: "list[tuple[float, CompressedArray]]", numerics: Numerics) -> tuple[Blocks, float, float]:
    """Return the payload of a sum of payloads, and what was rounded away from it."""
    terms = [dense.Term(a._blocks, ratio, 0.0) for ratio, a in used]
    exact = all(math.frexp(ratio)[0] in (0.5, -0.5) for ratio, _ in used)
    finer = 0 if exact else _FINER
    exponents, mean_exponents = [0], [0]
    packed = [(math.frexp(ratio)[1] - 1, a._blocks) for ratio, a in used if isinstance(a._blocks, PackedBlocks)]
    if packed:
        exponents = [blocks.exponent + shift for shift, blocks in packed]
        mean_exponents = [blocks.mean_exponent + shift for shift, blocks in packed]
    if max(exponents) - min(exponents) < 900:
        for coarser in range(0, 32, 4):
            exponent, mean_exponent = (
                max(min(steps), max(steps) - SPREAD) - finer + coarser for steps in (exponents, mean_exponents)
            )
            result = dense.combine_many(terms, numerics, exponent, mean_exponent, finer)
            if result is not None:
                return result
    raise ToleranceError("expected a sum that 32-bit indices hold, got operands of too different magnitude")
