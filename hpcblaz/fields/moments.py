"""Sums over the cells of one or two arrays, over all ranks, and how exact they are: what statistics are made of."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hpcblaz.backend.dispatch import drivers_of
from hpcblaz.errors import ShapeError, UnsupportedOperationError
from hpcblaz.fields.arithmetic import check_partners, is_array
from hpcblaz.fields.certificates import UNIT, mean_error
from hpcblaz.fields.codec import UNIT_ROUNDOFF
from hpcblaz.fields.gaps import Gaps, decode_window, gaps_of, slabs, valid_cells
from hpcblaz.fields.scalars import CertifiedFloat

if TYPE_CHECKING:
    from hpcblaz.fields.array import CompressedArray

_SEQUENTIAL = 256  # double precision: most additions in a row, products included


@dataclass(frozen=True)
class Moments:
    """Sums over the cells of one or two fields: number, means, and centred sums of squares and of products."""

    n: float
    mean_a: float = 0.0
    square_a: float = 0.0
    mean_b: float = 0.0
    square_b: float = 0.0
    product: float = 0.0

    def merge(self, other: "Moments") -> "Moments":
        """Return the moments of both sets of cells (Chan, Golub and LeVeque, 1983)."""
        if self.n == 0 or other.n == 0:
            return other if self.n == 0 else self
        n = self.n + other.n
        weight = self.n * other.n / n
        da, db = other.mean_a - self.mean_a, other.mean_b - self.mean_b
        return Moments(
            n,
            self.mean_a + da * other.n / n,
            self.square_a + other.square_a + weight * da * da,
            self.mean_b + db * other.n / n,
            self.square_b + other.square_b + weight * db * db,
            self.product + other.product + weight * da * db,
        )

    @property
    def norm_a(self) -> float:
        """2-norm of the first field."""
        return math.sqrt(self.square_a + self.n * (self.mean_a * self.mean_a))

    @property
    def norm_b(self) -> float:
        """2-norm of the second field."""
        return math.sqrt(self.square_b + self.n * (self.mean_b * self.mean_b))

    @property
    def dot(self) -> float:
        """Inner product of both fields."""
        return self.product + self.n * self.mean_a * self.mean_b

    @property
    def std_a(self) -> float:
        """Standard deviation of the first field."""
        return math.sqrt(self.square_a / self.n)

    @property
    def std_b(self) -> float:
        """Standard deviation of the second field."""
        return math.sqrt(self.square_b / self.n)


def check_array(a: Any, name: str) -> None:
    """Raise UnsupportedOperationError unless an operand is a compressed array."""
    if not is_array(a):
        raise UnsupportedOperationError(
            f"expected {name} to be a CompressedArray, got {type(a).__name__}: compress it first with hb.compress"
        )


def check_values(a: "CompressedArray", n: float, what: str) -> None:
    """Raise ShapeError if there is no value to look at: n is the number of values."""
    if n == 0:
        state = ", all of it missing" if a.size else ""
        raise ShapeError(f"expected an array with values for its {what}, got shape {a.shape}{state}")


def relative_rounding(*arrays: "CompressedArray") -> float:
    """Return the relative rounding of sums of squares or products, with respect to the sum of their magnitudes."""
    precision = "float64" if any(a._numerics.precision == "float64" for a in arrays) else "float32"
    return 20 * UNIT_ROUNDOFF[precision] + _SEQUENTIAL * UNIT


def check_no_missing(operation: str, *arrays: "CompressedArray") -> None:
    """Raise UnsupportedOperationError if an array has missing values, which its coefficients know nothing of."""
    if any(a._missing is not None for a in arrays):
        raise UnsupportedOperationError(
            f"expected arrays without missing values for {operation}, got some: decompress, and use NumPy's functions "
            "for them"
        )


def payload_bound(a: "CompressedArray") -> float:
    """Return a bound of the magnitudes of the payload's values."""
    largest = a._magnitude + a._field_error.max_abs + abs(a._offset)
    return largest / abs(a._factor) if a._factor else largest


def squares_are_safe(a: "CompressedArray") -> bool:
    """Say whether squares of values, and of those of the payload, stay within double precision."""
    largest, payload = a._magnitude + a._field_error.max_abs + abs(a._offset), payload_bound(a)
    return not largest or (min(largest, payload) > 2.0**-450 and max(largest, payload) < 2.0**450)


def certified(value: float, bound: float, *arrays: "CompressedArray") -> CertifiedFloat:
    """Return an answer made of squares or products, without a bound where those could leave double precision."""
    return CertifiedFloat(value, bound if all(map(squares_are_safe, arrays)) else math.inf)


def value_rounding(a: "CompressedArray") -> float:
    """Return how far rounding can move a mean."""
    return 16 * UNIT * (a._magnitude + a._field_error.max_abs + abs(a._offset))


def moments_of(a: "CompressedArray", means_only: bool = False) -> Moments:
    """Return the moments of a whole array; with `means_only` its sum of squares may be left at 0.

    Tiles without a missing cell are summed as coefficients, others cell by cell.
    """
    if not has_means(a):
        return _merge(a, _stream(a, None, None))
    gaps = gaps_of(a)
    n = _cells_of(a, gaps)
    local = Moments(0.0)
    if n:
        drivers = drivers_of(a._blocks)
        chosen = None if gaps is None else ~gaps.tiles
        center = drivers.total(a._blocks, a._numerics, chosen) / n
        square = 0.0
        if not means_only:
            _, means, rest = drivers.moments(a._blocks, a._numerics, center, chosen)
            square = a._factor * (a._factor * float(means + rest))
        local = Moments(float(n), a._factor * center + a._offset, square)
    return _merge(a, local if gaps is None else local.merge(_stream(a, None, gaps)))


def moments_of_pair(a: "CompressedArray", b: "CompressedArray", squares: bool) -> Moments:
    """Return the moments of two whole arrays over the cells that neither misses.

    Without `squares` their own sums of squares may be left at 0.
    """
    with a._comm.together():
        check_array(b, "b")
        check_partners(a, b)
    if not can_meet(a, b):
        return _merge(a, _stream(a, b, None))
    gaps = gaps_of(a, b)
    n = _cells_of(a, gaps)
    local = Moments(0.0)
    if n:
        numerics = a._numerics if a._numerics.precision == "float64" else b._numerics
        drivers = drivers_of(a._blocks)
        chosen = None if gaps is None else ~gaps.tiles
        center_a = drivers.total(a._blocks, a._numerics, chosen) / n
        center_b = drivers.total(b._blocks, b._numerics, chosen) / n
        sums = drivers.products(a._blocks, center_a, b._blocks, center_b, numerics, squares, chosen)
        local = Moments(
            float(n),
            a._factor * center_a + a._offset,
            a._factor * (a._factor * float(sums[2] + sums[5])),
            b._factor * center_b + b._offset,
            b._factor * (b._factor * float(sums[3] + sums[6])),
            a._factor * (b._factor * float(sums[4] + sums[7])),
        )
    return _merge(a, local if gaps is None else local.merge(_stream(a, b, gaps)))


def _cells_of(a: "CompressedArray", gaps: Gaps | None) -> int:
    """Return how many cells of the local array lie in tiles without a gap."""
    grid = a._numerics.grid
    if gaps is None:
        return grid.size
    return int((grid.tiles[:, 2] * grid.block_cells)[~gaps.tiles].sum())


def _merge(a: "CompressedArray", local: Moments) -> Moments:
    if a.layout is None:
        return local
    rows = a._comm.allgather(
        np.array([local.n, local.mean_a, local.square_a, local.mean_b, local.square_b, local.product])
    )
    whole = Moments(0.0)
    for row in rows:
        whole = whole.merge(Moments(*map(float, row)))
    return whole


def has_means(a: "CompressedArray") -> bool:
    """Say whether coefficient 0 of a block stands for its mean."""
    return a.codec.transform != "identity"


def can_meet(a: "CompressedArray", b: "CompressedArray") -> bool:
    """Say whether the coefficients of two arrays can be multiplied: one grid, one transform, one form."""
    return (
        has_means(a)
        and a._blocks.form == b._blocks.form
        and (a.codec.block_shape, a.codec.transform) == (b.codec.block_shape, b.codec.transform)
    )


def _stream(a: "CompressedArray", b: "CompressedArray | None", gaps: Gaps | None) -> Moments:
    """Decode slabs of one or two local arrays, and sum in double precision what is not missing.

    With `gaps` only cells of tiles that have some are counted.
    """
    whole = Moments(0.0)
    for low, high in slabs(*(a,) if b is None else (a, b)):
        if gaps is not None and not gaps.near(low[0], high[0]).any():
            continue
        x = decode_window(a, low, high)
        y = x if b is None else decode_window(b, low, high)
        valid = valid_cells(low, high, a, *([] if b is None else [b]))
        if gaps is not None:
            chosen = gaps.cells(low[0], high[0])
            valid = chosen if valid is None else valid & chosen
        if valid is not None:
            flags = drivers_of(a._blocks).asarray(valid)
            x = x[flags]
            y = x if b is None else y[flags]
        if not x.size:
            continue
        mx, my = float(x.mean()), float(y.mean())
        dx, dy = (x - mx).ravel(), (y - my).ravel()
        whole = whole.merge(
            Moments(float(x.size), mx, float((dx * dx).sum()), my, float((dy * dy).sum()), float((dx * dy).sum()))
        )
    return whole


def delta_of(a: "CompressedArray", n: float) -> float:
    """Return the bound of the root mean square of an array's errors over `n` of its cells."""
    return mean_error(a._field_error.max_abs, a._field_error.l2, n)
