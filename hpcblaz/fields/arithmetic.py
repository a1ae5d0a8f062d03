"""Linear arithmetic on compressed arrays: scalars cost nothing, sums are sums of coefficients."""

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from hpcblaz.backend.dispatch import drivers_of
from hpcblaz.backend.payload import Blocks, FixedBlocks, Numerics, PackedBlocks
from hpcblaz.errors import CodecError, HpcblazError, LayoutError, ShapeError, ToleranceError, UnsupportedOperationError
from hpcblaz.fields.certificates import UNIT
from hpcblaz.fields.missing import Missing, sum_of
from hpcblaz.fields.scalars import ErrorBound

if TYPE_CHECKING:
    from hpcblaz.fields.array import CompressedArray

FUZZ = 8 * UNIT  # relative rounding of factors, offsets and their products
UNDERFLOW = 2.0**-530  # squares of what is rounded away may vanish below it
SPREAD = 12  # a step this many powers of two below the coarser operand's rounds away nothing that matters


def is_array(value: Any) -> bool:
    """Say whether a value is a compressed array."""
    return hasattr(value, "_blocks") and hasattr(value, "_numerics")


def real(value: Any, operation: str) -> float:
    """Return a scalar operand as a float.

    Raises
    ------
    UnsupportedOperationError
        If it is no real, finite number.
    """
    if (isinstance(value, np.ndarray) and value.ndim) or isinstance(value, (list, tuple)):
        raise UnsupportedOperationError(
            f"expected a number or a CompressedArray to {operation}, got {type(value).__name__}: compress it first"
        )
    if isinstance(value, (str, bytes)):
        raise UnsupportedOperationError(f"expected a number or a CompressedArray to {operation}, got {value!r}")
    try:
        if np.iscomplexobj(value):
            raise TypeError
        number = float(value)
    except OverflowError:
        number = math.inf
    except (TypeError, ValueError):
        shown = repr(value) if np.isscalar(value) or value is None else type(value).__name__
        raise UnsupportedOperationError(
            f"expected a real number or a CompressedArray to {operation}, got {shown}"
        ) from None
    if not math.isfinite(number):
        raise UnsupportedOperationError(f"expected a finite number to {operation}, got {number}")
    return number


def result_dtype(a: "CompressedArray", other: Any) -> np.dtype[Any]:
    """Return the type of a result as NumPy has it, with float64 for integers."""
    if is_array(other):
        other = other.dtype
    elif not isinstance(other, (int, float, np.generic, np.ndarray)):
        other = 1.0  # a Fraction, for example, converts to float
    dtype = np.result_type(a.dtype, other)
    return dtype if dtype.kind == "f" and dtype.itemsize <= 8 else np.dtype(np.float64)


def scale(a: "CompressedArray", factor: float, dtype: np.dtype[Any], offset: float = 0.0) -> "CompressedArray":
    """Return ``factor * a + offset``: the payload is shared and nothing is rounded away from it."""
    new_factor = a._factor * factor
    new_offset = a._offset * factor + offset
    magnitude = abs(factor) * a._magnitude + abs(offset)
    if not (math.isfinite(new_factor) and math.isfinite(new_offset) and math.isfinite(magnitude)):
        raise UnsupportedOperationError(f"expected a result that float64 holds, got {factor:g} * a + {offset:g}")
    added = FUZZ * (abs(factor) * (a._magnitude + a._field_error.max_abs) + abs(offset))
    if abs(new_factor) < 1e-290 and a._factor != 0 != factor:
        added += magnitude  # the factor has lost its own precision
    if factor in (-1.0, 1.0) and offset == 0.0:
        added = 0.0
    error = ErrorBound(
        abs(factor) * a._field_error.max_abs + added, abs(factor) * a._field_error.l2 + added * math.sqrt(a.size)
    )
    return a._replace(
        factor=new_factor,
        offset=new_offset,
        magnitude=magnitude,
        field_error=error,
        dtype=dtype,
        missing=_scaled(a._missing, factor, dtype),
    )


def _scaled(missing: Missing | None, factor: float, dtype: np.dtype[Any]) -> Missing | None:
    return None if missing is None else missing.scaled(factor).with_dtype(dtype)


def multiply(a: "CompressedArray", other: Any) -> "CompressedArray":
    """Return ``other * a`` for a number."""
    return scale(a, real(other, "multiply by"), result_dtype(a, other))


def divide(a: "CompressedArray", other: Any) -> "CompressedArray":
    """Return ``a / other`` for a number."""
    number = real(other, "divide by")
    if number == 0:
        raise UnsupportedOperationError("expected a divisor other than zero")
    inverse = 1.0 / number
    if not math.isfinite(inverse):
        raise UnsupportedOperationError(f"expected a divisor whose inverse float64 holds, got {number:g}")
    return scale(a, inverse, result_dtype(a, other))


def check_partners(a: "CompressedArray", b: "CompressedArray") -> None:
    """Raise unless two arrays have one shape, one layout and one device."""
    if a.shape != b.shape:
        raise ShapeError(f"expected two arrays of one shape, got {a.shape} and {b.shape}: there is no broadcasting")
    if a.layout != b.layout:
        raise LayoutError(f"expected two arrays of one layout, got {a.layout} and {b.layout}")
    if a.device != b.device:
        raise UnsupportedOperationError(
            f"expected two arrays on one device, got {a.device} and {b.device}: move one with a.to_device(...)"
        )


def check_same_codec(a: "CompressedArray", b: "CompressedArray") -> None:
    """Raise CodecError unless two arrays have the same kind of codec, block shape and transform."""
    same = type(a.codec) is type(b.codec) and (a.codec.block_shape, a.codec.transform) == (
        b.codec.block_shape,
        b.codec.transform,
    )
    if same and isinstance(a._blocks, FixedBlocks):
        same = a.codec == b.codec
    if not same:
        raise CodecError(
            f"expected two arrays of one codec to add, got {a.codec} and {b.codec}: "
            "compress one of them anew with the other's codec"
        )


def add(a: "CompressedArray", other: Any, weight_a: float, weight_b: float) -> "CompressedArray":
    """Return ``weight_a * a + weight_b * other``; the weights are 1 or -1."""
    if not is_array(other):
        number = real(other, "add")
        return scale(a, weight_a, result_dtype(a, other), weight_b * number)
    with a._comm.together():
        check_partners(a, other)
        check_same_codec(a, other)
    dtype = result_dtype(a, other)
    missing = sum_of(_scaled(a._missing, weight_a, dtype), _scaled(other._missing, weight_b, dtype))
    return _add_fields(a, other, weight_a, weight_b, dtype)._replace(missing=missing)


def _add_fields(
    a: "CompressedArray", other: "CompressedArray", weight_a: float, weight_b: float, dtype: np.dtype[Any]
) -> "CompressedArray":
    """Return the sum of two arrays with one codec, but for their missing cells."""
    lead = a._factor * weight_a
    if lead == 0.0 or other._factor == 0.0:
        constant, varying, weight = (a, other, weight_b) if lead == 0.0 else (other, a, weight_a)
        return _add_constant(varying, weight, constant, weight_b if weight == weight_a else weight_a, dtype)
    if abs(other._factor) > 2.0**32 * abs(lead):  # the payload is that of the larger one: it stays in range
        return _add_fields(other, a, weight_b, weight_a, dtype)
    ratio = other._factor * weight_b / lead
    numerics = a._numerics if a._numerics.precision == "float64" else other._numerics
    if not value_bound(a) + value_bound(other) < 2.0**100 * abs(lead):
        numerics = replace(numerics, precision="float64")
    error: HpcblazError | None = None
    blocks: Blocks = a._blocks
    lost_max = lost_l2 = 0.0
    try:
        blocks, lost_max, lost_l2 = _combine(a, ratio, other, numerics)
    except HpcblazError as refusal:
        error = refusal
    a._comm.agree(error)
    lost = a._comm.allgather(np.array([lost_max, lost_l2]))
    lost_max = float(lost[:, 0].max()) + UNDERFLOW
    lost_l2 = float(np.hypot.reduce(lost[:, 1])) + UNDERFLOW * math.sqrt(a.size)
    ea, eb = a._field_error, other._field_error
    added = FUZZ * (a._magnitude + ea.max_abs + other._magnitude + eb.max_abs)
    return a._replace(
        blocks=blocks,
        numerics=numerics,
        factor=lead,
        offset=weight_a * a._offset + weight_b * other._offset,
        magnitude=a._magnitude + other._magnitude,
        dtype=dtype,
        field_error=ErrorBound(
            ea.max_abs + eb.max_abs + abs(lead) * lost_max * (1 + 2.0**-40) + added,
            ea.l2 + eb.l2 + abs(lead) * lost_l2 * (1 + 2.0**-40) + added * math.sqrt(a.size),
        ),
    )


def value_bound(a: "CompressedArray") -> float:
    """Return a bound of the magnitudes of factor times payload."""
    return a._magnitude + a._field_error.max_abs + abs(a._offset)


def _add_constant(
    varying: "CompressedArray", weight: float, constant: "CompressedArray", other_weight: float, dtype: np.dtype[Any]
) -> "CompressedArray":
    """Add an array whose factor is zero: a constant field with an error."""
    result = scale(varying, weight, dtype, other_weight * constant._offset)
    error = ErrorBound(
        result._field_error.max_abs + constant._field_error.max_abs, result._field_error.l2 + constant._field_error.l2
    )
    return result._replace(field_error=error, magnitude=varying._magnitude + constant._magnitude)


def _combine(
    a: "CompressedArray", ratio: float, b: "CompressedArray", numerics: Numerics
) -> tuple[Blocks, float, float]:
    """Return the payload of ``a + ratio * b`` and what was rounded away from it."""
    first, second = a._blocks, b._blocks
    if isinstance(first, FixedBlocks) and isinstance(second, FixedBlocks):
        first = replace(first, scales=first.scales.astype(numerics.dtype, copy=False))  # the result's precision
        fixed: tuple[Blocks, float, float] = drivers_of(first).combine_fixed(first, 1.0, second, ratio, numerics)
        return fixed
    if not (isinstance(first, PackedBlocks) and isinstance(second, PackedBlocks)):
        raise CodecError("expected two arrays of one codec")
    if abs(ratio) < 2.0**-900:
        raise ToleranceError("expected a sum that 32-bit indices hold, got operands of too different magnitude")
    shift = math.floor(math.log2(abs(ratio)))
    exponent = _common(first.exponent, second.exponent + shift)
    mean_exponent = _common(first.mean_exponent, second.mean_exponent + shift)
    combine = drivers_of(first).combine
    result: tuple[Blocks, float, float] | None
    for coarser in range(0, 32, 4):
        result = combine(first, 1.0, second, ratio, numerics, exponent + coarser, mean_exponent + coarser)
        if result is not None:
            return result
    raise ToleranceError("expected a sum that 32-bit indices hold, got operands of too different magnitude")


def _common(first: int, second: int) -> int:
    return max(min(first, second), max(first, second) - SPREAD)
