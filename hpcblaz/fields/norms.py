"""Norms of other orders than 2, from values decoded slab by slab."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from hpcblaz.backend.dispatch import drivers_of
from hpcblaz.fields.certificates import UNIT
from hpcblaz.fields.extremes import extremum
from hpcblaz.fields.gaps import slabs, valid_values
from hpcblaz.fields.moments import value_rounding
from hpcblaz.fields.scalars import CertifiedFloat

if TYPE_CHECKING:
    from hpcblaz.fields.array import CompressedArray


def error_norm(max_abs: float, l2: float, cells: int, order: float) -> float:
    """Return a bound of the norm of an error whose largest magnitude and 2-norm are bounded.

    Up to order 2 by Hölder's inequality, beyond by ``sum |e|**p <= max|e|**(p - 2) * sum e**2``.
    """
    if order == math.inf or max_abs == 0 or not cells:
        return max_abs
    whole = max_abs * float(cells) ** (1 / order)
    if order <= 2:
        return float(min(whole, l2 * float(cells) ** (1 / order - 0.5)) * (1 + 2.0**-48))
    return float(min(whole, max_abs * (l2 / max_abs) ** (2 / order)) * (1 + 2.0**-48))


def power_norm(a: "CompressedArray", order: float) -> CertifiedFloat:
    """Return the p-norm of all values of an array that is not empty; see :func:`hpcblaz.norm`."""
    if not a.count():
        return CertifiedFloat(0.0, 0.0)
    if order == math.inf:
        ends = [extremum(a, kind).value for kind in ("min", "max")]
        return CertifiedFloat(max(abs(float(end)) for end in ends), max(end.error for end in ends))
    largest = a._magnitude + a._field_error.max_abs + value_rounding(a)
    bound = error_norm(a._field_error.max_abs, a._field_error.l2, a.size, order)
    if not largest:
        return CertifiedFloat(0.0, bound)
    xp: Any = drivers_of(a._blocks).array_module()
    local, count = 0.0, 0
    for low, high in slabs(a):
        local += float(((xp.abs(valid_values(a, low, high)) / largest) ** order).sum())
        count += 1
    rows = a._comm.allgather(np.array([local, count]))
    total = float(rows[:, 0].sum())
    relative = (2 * order + 300 + float(rows[:, 1].sum()) + len(rows)) * UNIT
    value = largest * total ** (1 / order)
    high = largest * (total * (1 + relative) + a.size * 2.0**-1070) ** (1 / order)
    low = largest * (total * (1 - relative)) ** (1 / order)
    moved = value_rounding(a) * float(a.size) ** (1 / order) + max(high - value, value - low) + 64 * UNIT * high
    return CertifiedFloat(value, bound + moved * (1 + 2.0**-40))
