"""Structural similarity of all windows of two arrays, averaged: decoded part by part, summed slab by slab."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from hpcblaz.backend.dispatch import drivers_of
from hpcblaz.errors import ShapeError, UnsupportedOperationError
from hpcblaz.fields.arithmetic import check_partners
from hpcblaz.fields.halo import doubles_with_halo
from hpcblaz.fields.moments import check_array, check_no_missing, check_values, value_rounding
from hpcblaz.fields.scalars import CertifiedFloat

if TYPE_CHECKING:
    from hpcblaz.fields.array import CompressedArray

_CELLS = 1 << 20  # cells whose windows are computed at a time
_ROUNDING = 2.0**-38  # of sums over windows, relative to what is summed, generously


def local_structural_similarity(
    a: "CompressedArray",
    b: "CompressedArray",
    *,
    window: int = 7,
    data_range: float | None = None,
    k1: float = 0.01,
    k2: float = 0.03,
) -> CertifiedFloat:
    """Return the mean structural similarity of all windows of two arrays (Wang, Bovik, Sheikh and Simoncelli, 2004).

    Windows are cubes with equal weights, wholly inside the field; variances are divided by their cells less one. That
    is what ``skimage.metrics.structural_similarity`` computes by default. This rank's parts are decoded in double
    precision, with ``window - 1`` cells of their neighbours.

    Parameters
    ----------
    a, b : CompressedArray
        Of one shape and layout, at least `window` cells along every axis.
    window : int, default 7
        Side of the windows, at least 2.
    data_range : float, optional
        L. Default: twice the greatest magnitude of either array (1 if both are zero).
    k1, k2 : float
        Stabilisers, positive.

    Returns
    -------
    CertifiedFloat

    Raises
    ------
    ShapeError, LayoutError
        If shapes or layouts differ, or windows do not fit.
    UnsupportedOperationError
        If a number makes no sense.

    Examples
    --------
    >>> import numpy as np, hpcblaz as hb
    >>> x = np.sin(np.linspace(0, 20, 10_000)).reshape(100, 100)
    >>> a, b = hb.compress(x, tolerance=1e-4), hb.compress(x + 0.01 * np.cos(9 * x), tolerance=1e-4)
    >>> s = hb.local_structural_similarity(a, b, data_range=2.0)
    >>> bool(0.9 < s <= 1), s.error < 0.1
    (True, True)
    """
    check_array(a, "a")
    check_values(a, a.size, "structural similarity")
    with a._comm.together():
        check_array(b, "b")
        check_partners(a, b)
        check_no_missing("structural similarity", a, b)
        span = data_range if data_range is not None else 2 * max(a._magnitude, b._magnitude) or 1.0
        if not all(math.isfinite(number) and number > 0 for number in (span, k1, k2)):
            raise UnsupportedOperationError(
                f"expected k1, k2 and data_range to be positive, got {k1}, {k2} and {data_range}"
            )
        if isinstance(window, bool) or not isinstance(window, (int, np.integer)) or window < 2:
            raise UnsupportedOperationError(f"expected a window of at least 2 cells, got {window!r}")
        if min(a.shape) < window:
            raise ShapeError(f"expected at least {window} cells along every axis, got shape {a.shape}")
    x, y = (doubles_with_halo(array, 0, int(window) - 1) for array in (a, b))
    errors = [array._field_error.max_abs + value_rounding(array) for array in (a, b)]
    constants = ((k1 * span) ** 2, (k2 * span) ** 2)
    xp = drivers_of(a._blocks).array_module()
    sums = np.zeros(3)
    if min(x.values.shape) >= window:
        rest = math.prod(x.values.shape[1:])
        rows = max(1, _CELLS // rest)
        for start in range(0, x.values.shape[0] - window + 1, rows):
            slab = slice(start, start + rows + int(window) - 1)
            sums += _sums(x.values[slab], y.values[slab], int(window), errors, constants, xp)
    total, bound, count = a._comm.allgather(sums).sum(axis=0)
    return CertifiedFloat(total / count, min(2.0, bound / count * (1 + 2.0**-30)) + 2.0**-36)


def _sums(x: Any, y: Any, window: int, errors: list[float], constants: tuple[float, float], xp: Any) -> Any:
    """Return the sum over all windows of the similarity and of its bound, and the number of windows."""
    cells = float(window**x.ndim)
    center_x, center_y = float(x.mean()), float(y.mean())
    dx, dy = x - center_x, y - center_y

    def mean(values: Any) -> Any:
        for axis in range(values.ndim):
            length, before = values.shape[axis] - window + 1, (slice(None),) * axis
            total = values[(*before, slice(0, length))].copy()
            for first in range(1, window):
                total += values[(*before, slice(first, first + length))]
            values = total
        return values / cells

    mx, my, xx, yy, xy = mean(dx), mean(dy), mean(dx * dx), mean(dy * dy), mean(dx * dy)
    correction = cells / (cells - 1)
    sizes = _ROUNDING * (xx + yy)
    vx, vy = correction * xp.maximum(xx - mx * mx, 0), correction * xp.maximum(yy - my * my, 0)
    covariance = correction * (xy - mx * my)
    mx, my = mx + center_x, my + center_y
    ea, eb = errors
    sa, sb = (math.sqrt(correction) * error for error in errors)
    c1, c2 = constants
    square = mx * mx + my * my
    luminance, luminance_error = _quotient(
        2 * mx * my + c1,
        2 * (abs(mx) * eb + abs(my) * ea + ea * eb) + _ROUNDING * square,
        square + c1,
        2 * (abs(mx) * ea + abs(my) * eb) + ea * ea + eb * eb + _ROUNDING * square,
        c1,
        xp,
    )
    rx, ry = xp.sqrt(vx + sizes), xp.sqrt(vy + sizes)
    contrast, contrast_error = _quotient(
        2 * covariance + c2,
        2 * (rx * sb + ry * sa + sa * sb) + 4 * sizes,
        vx + vy + c2,
        2 * (rx * sa + ry * sb) + sa * sa + sb * sb + 4 * sizes,
        c2,
        xp,
    )
    bound = xp.minimum(2.0, luminance_error + contrast_error)
    return np.array([float((luminance * contrast).sum()), float(bound.sum()), float(bound.size)])


def _quotient(above: Any, above_error: Any, below: Any, below_error: Any, least: float, xp: Any) -> tuple[Any, Any]:
    """Return a quotient that lies in [-1, 1], and the bound of its error; its true denominator is `least` or more."""
    value = xp.clip(above / below, -1.0, 1.0)
    return value, (above_error + abs(value) * below_error) / xp.maximum(least, below - below_error) + 2.0**-48
