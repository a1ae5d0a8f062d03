"""What the ranks tell each other before a collective operation, and what follows from it: the same on every rank."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcblaz.backend.quantised import INTEGER_LIMIT, SINGLE_LIMIT, Step, largest_step
from hpcblaz.errors import CommunicatorError, DtypeError, ShapeError, ToleranceError

KINDS = ("allreduce", "reduce_scatter", "allgather", "bcast")
ALGORITHMS = ("ring", "halving")
MOST_AXES = 32
SETS = 4  # of strides that are compared
NEAR = 0.5 + 2.0**-6  # of a step: how far off the multiple that is found can be
_DTYPES = (np.dtype(np.float16), np.dtype(np.float32), np.dtype(np.float64))
_PIECE = 1 << 18  # values of a message, 1 MiB of float32: long for the wire, short for the cache
_SMALL_PIECE = 1 << 15
_SHORT = 1 << 18  # bytes of an array up to which few messages matter more than few bytes
_LONG_SHARE = 1 << 21  # bytes of a rank's share from which on the messages of a ring take no time worth mentioning
_FEW_RANKS = 8
_MOST_STRIDE = 1 << 20


@dataclass(frozen=True)
class Report:
    """What a rank says of its part in a collective operation.

    ``shape`` and ``dtype`` are those of its array, or None if it gives none. The extent is that of the finite values.
    ``bits`` is what each set of strides would take, a value, as far as it was tried.
    """

    kind: str
    root: int
    algorithm: str | None
    tolerance: float | None
    relative: float | None
    shape: tuple[int, ...] | None = None
    dtype: np.dtype[Any] | None = None
    extent: tuple[float, float] = (0.0, 0.0)
    strange: bool = False
    bits: tuple[float, ...] = ()
    failed: bool = False

    def encode(self) -> NDArray[np.float64]:
        """Return numbers, as many on every rank, of which the ranks find the greatest."""
        algorithm = -1 if self.algorithm is None else ALGORITHMS.index(self.algorithm)
        same = [
            KINDS.index(self.kind), self.root, algorithm,
            -1.0 if self.tolerance is None else self.tolerance, -1.0 if self.relative is None else self.relative,
        ]  # fmt: skip
        given = np.full(2 + MOST_AXES, -math.inf)
        if self.shape is not None and self.dtype is not None:
            given[0], given[1] = _DTYPES.index(self.dtype), len(self.shape)
            given[2 : 2 + len(self.shape)] = self.shape
        opposite = np.where(np.isinf(given), -math.inf, -given)
        low, high = self.extent
        bits = np.zeros(SETS)
        bits[: len(self.bits)] = self.bits
        numbers = [float(self.failed), float(self.strange), max(-low, high), high - low]
        return np.concatenate([numbers, bits, same, np.negative(same), given, opposite])


@dataclass(frozen=True)
class Common:
    """What the reports of all ranks say together; see :class:`Report`."""

    strange: bool
    magnitude: float
    width: float
    bits: tuple[float, ...]
    tolerance: float | None
    relative: float | None
    algorithm: str | None
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def read(found: NDArray[np.float64], own: Report) -> Common | None:
    """Return what the greatest numbers of all reports say; None if a rank cannot take part.

    Raises
    ------
    CommunicatorError, ShapeError, DtypeError
        If the ranks' arguments do not belong together.
    """
    if found[0]:
        return None
    numbers, bits, rest = found[:4], found[4 : 4 + SETS], found[4 + SETS :]
    most, least, rest = rest[:5], -rest[5:10], rest[10:]
    for name, high, low in zip(("operation", "root", "algorithm", "tolerance", "relative"), most, least, strict=True):
        if high != low:
            mine = own.kind if name == "operation" else getattr(own, name)
            raise CommunicatorError(f"{name}: expected the same on all ranks, got {mine} here and another elsewhere")
    given, opposite = rest[: 2 + MOST_AXES], -rest[2 + MOST_AXES :]
    free = 2 if own.kind == "allgather" else None  # the first extent
    differs = [i for i in range(len(given)) if given[i] != opposite[i] and not np.isinf(given[i]) and i != free]
    if 0 in differs:
        raise DtypeError(f"array: expected one dtype on all ranks, got {own.dtype} here and another elsewhere")
    if differs:
        raise ShapeError(f"array: expected fitting shapes on all ranks, got {own.shape} here and another elsewhere")
    shape = tuple(int(n) for n in given[2 : 2 + int(given[1])])
    return Common(
        strange=bool(numbers[1]),
        magnitude=float(numbers[2]),
        width=float(numbers[3]),
        bits=tuple(float(number) for number in bits),
        tolerance=own.tolerance,
        relative=own.relative,
        algorithm=own.algorithm,
        shape=shape,
        dtype=_DTYPES[int(given[0])],
    )


@dataclass(frozen=True)
class Plan:
    """How values become integers, and what their sums are at most."""

    step: Step
    precision: str
    exact: bool
    largest: float
    dtype: np.dtype[Any]

    @property
    def rounding(self) -> float:
        """How far rounding to the type of the result can move it."""
        return 0.0 if self.exact else half_unit(self.dtype, self.largest)


def plan(common: Common, terms: int) -> Plan:
    """Return the step with which a sum of so many terms keeps the tolerance.

    Raises
    ------
    ToleranceError
        If 32-bit integers, or the type of the result, do not hold it.
    """
    magnitude, dtype = common.magnitude, common.dtype
    if common.tolerance is not None:
        tolerance = common.tolerance
    else:
        tolerance = (common.relative or 0.0) * (common.width or magnitude) * terms
    if magnitude == 0.0:  # nothing but zeros
        return Plan(Step(4, 0), "float32", True, 0.0, dtype)
    largest = terms * magnitude
    step = largest_step(min(tolerance, largest) / (terms * NEAR))
    reach = largest + terms * step.value
    exact = step.is_exact(reach, dtype)
    if not exact:
        room = tolerance - half_unit(dtype, reach)
        if room <= 0 and not math.isinf(room):
            raise ToleranceError(
                f"expected a tolerance above {half_unit(dtype, reach):.3g}, which {dtype} rounds sums of up to "
                f"{largest:.3g} by, got {tolerance:.3g}: pass a wider type, or a larger tolerance"
            )
        if room > 0:
            step = largest_step(min(room, largest) / (terms * NEAR))
    if not terms * (magnitude / step.value + 1) < INTEGER_LIMIT or step.value < 2.0**-1000:
        least = largest * terms * 2.0**-30
        raise ToleranceError(
            f"expected a tolerance that 32-bit integers hold, about {least:.3g} for {terms} terms of up to "
            f"{magnitude:.3g}, got {tolerance:.3g}"
        )
    single = dtype.itemsize <= 4 and magnitude <= SINGLE_LIMIT * step.value and 2.0**-60 < step.value < 2.0**50
    return Plan(step, "float32" if single else "float64", exact, reach, dtype)


def half_unit(dtype: np.dtype[Any], largest: float) -> float:
    """Return how far rounding to a floating-point type can move a number of at most this magnitude."""
    if largest > float(np.finfo(dtype).max):
        return math.inf
    return 0.5 * float(np.spacing(dtype.type(largest))) * (1 + 2.0**-10)


def choose_algorithm(wanted: str | None, nbytes: int, ranks: int) -> str:
    """Return the algorithm for an array of so many bytes.

    Halving takes fewer messages; but for numbers of ranks that are no powers of two, some ranks send twice as much.
    """
    odd = bool(ranks & (ranks - 1)) and ranks < _FEW_RANKS
    ring = nbytes > _SHORT and (odd or nbytes >= _LONG_SHARE * ranks)
    return wanted or ("ring" if ring else "halving")


def stride_sets(shape: tuple[int, ...], segment: int) -> list[tuple[int, ...]]:
    """Return sets of strides whose differences may be small: none, of neighbours, rows, and planes.

    Parameters
    ----------
    shape : tuple of int
        Of the array in C order.
    segment : int
        Values that a rank sends at a time; longer strides do not pay.
    """
    strides = [1]
    for extent in reversed(shape[1:]):
        if extent > 1:
            strides.append(strides[-1] * extent)
    strides = [stride for stride in strides if stride == 1 or (4 * stride <= segment and stride <= _MOST_STRIDE)]
    return [tuple(reversed(strides[:count])) for count in range(min(SETS, len(strides) + 1))]


def piece_length(segment: int, strides: tuple[int, ...]) -> int:
    """Return how many values a message of a segment of so many holds: a few messages follow one another."""
    piece = min(_PIECE, max(_SMALL_PIECE, segment // 8))
    return max(piece, 8 * max(strides, default=0))
