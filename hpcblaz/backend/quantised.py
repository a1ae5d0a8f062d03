"""Values as integers over one step, and records of such integers, which can be added: drivers of the CPU.

A chunk is a run of values of a flattened array. A message is a run of 32-bit words: a word that says whether it is
sound, the lengths of its records, and the records. docs/collectives.md describes both.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpcblaz.backend import cpu
from hpcblaz.backend.compile import kernel
from hpcblaz.backend.payload import SPARE_WORDS
from hpcblaz.backend.threads import map_ranges
from hpcblaz.bodies.sums import LIMIT, TILE

SOUND = np.uint32(0x53554D31)  # begins a message
MANTISSAS = (4, 5, 6, 7)  # a step is one of these times a power of two
SINGLE_LIMIT = 2.0**16  # steps of a value up to which single precision finds the nearest multiple, but for 1/64 step
INTEGER_LIMIT = 2.0**31  # a sum of integers must stay below it
_TILES_A_THREAD = 8  # fewer are not worth another thread
_SAMPLED, _RUNS = 2048, 8  # values in a row, and rows of them, by which strides are chosen

Words = NDArray[np.uint32]
Integers = NDArray[np.int32]


class Step(NamedTuple):
    """A step of quantisation, ``mantissa * 2**exponent``: its multiples are dyadic rationals, and floats hold them."""

    mantissa: int
    exponent: int

    @property
    def value(self) -> float:
        """The step itself."""
        return math.ldexp(self.mantissa, self.exponent)

    def is_exact(self, largest: float, dtype: np.dtype[Any]) -> bool:
        """Say whether a floating-point type holds all multiples up to a magnitude without rounding."""
        info = np.finfo(dtype)
        exponent = int(info.minexp) - int(info.nmant)  # of the least subnormal number
        return bool(
            largest < 2.0 ** (int(info.nmant) + 1 + self.exponent)
            and self.exponent >= exponent
            and largest <= float(info.max)
        )


def largest_step(width: float) -> Step:
    """Return the largest step that is not larger than a positive number.

    Examples
    --------
    >>> from hpcblaz.backend.quantised import largest_step
    >>> largest_step(1e-3).value <= 1e-3 < 1.25 * largest_step(1e-3).value
    True
    """
    fraction, exponent = math.frexp(width)  # 0.5 <= fraction < 1
    mantissa = max(m for m in MANTISSAS if m <= 8 * fraction)
    return Step(mantissa, exponent - 3)


def extent(x: NDArray[Any]) -> tuple[float, float] | None:
    """Return the least and greatest value of a flat array, zeros if it is empty; None if not all are finite."""
    if not x.size:
        return 0.0, 0.0
    return cpu.scan(x if x.dtype.itemsize >= 4 else x.astype(np.float32))


def empty(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """Return an array in host memory."""
    return np.empty(shape, dtype)


def flat(x: NDArray[Any]) -> NDArray[Any]:
    """Return the values of an array one after the other, in the machine's byte order."""
    return np.asarray(x, dtype=x.dtype.newbyteorder("="), order="C").reshape(-1)


def strange(x: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Return the places and the values of what is not finite."""
    places = np.flatnonzero(~np.isfinite(x))
    return places, x[places]


def _take(x: NDArray[Any], places: NDArray[np.int64]) -> NDArray[Any]:
    return x[places]


def sampled_bits(
    x: Any,
    step: float,
    sets: Sequence[Sequence[int]],
    take: Callable[[Any, NDArray[np.int64]], NDArray[Any]] = _take,
) -> tuple[float, ...]:
    """Return about how many bits a value takes as differences over each set of strides, by some of the values.

    `take` brings values of some places of `x` to host memory.
    """
    longest = max((sum(strides) for strides in sets), default=0)
    if len(x) <= longest:
        return (0.0,) * len(sets)
    count = min(_SAMPLED, len(x) - longest)
    runs = max(1, min(_RUNS, (len(x) - longest) // count))
    starts = np.linspace(longest, len(x) - count, runs).astype(np.int64)
    places = starts[:, None] + np.arange(count)
    found = []
    for strides in sets:
        terms = [(1, 0)]
        for stride in strides:
            terms += [(-sign, shift + stride) for sign, shift in terms]
        q = sum(sign * np.rint(take(x, places - shift).astype(np.float64) / step) for sign, shift in terms)
        found.append(float(np.log2(1 + 2 * np.abs(q)).mean()))
    return tuple(found)


def tiles_of(count: int) -> int:
    """Return how many tiles hold so many values."""
    return -(-count // TILE)


def most_words(count: int) -> int:
    """Return the most words that a message of so many values takes, with words that may be read past its end."""
    return 1 + tiles_of(count) * (1 + LIMIT) + SPARE_WORDS


def quantise(x: NDArray[Any], step: Step, precision: str, q: Integers) -> tuple[float, float]:
    """Write the nearest multiples of the step; return the largest error and the 2-norm of the errors, rounded up.

    Parameters
    ----------
    x : numpy.ndarray
        One axis, of floats, finite.
    step : Step
    precision : {'float32', 'float64'}
        To compute in. In single precision, of values up to SINGLE_LIMIT steps; in double up to INTEGER_LIMIT.
    q : numpy.ndarray of int32
        As long as `x`.
    """
    real = np.dtype(precision).type
    values = cpu.read_only(np.ascontiguousarray(x, dtype=precision))
    module = _kernels(precision)
    operands = real(step.value), real(1.0) / real(step.value)

    def work(start: int, stop: int) -> NDArray[np.float64]:
        stats = np.zeros(2)
        module.quantise(values, start, stop, *operands, q, stats)
        return stats

    found = map_ranges(work, tiles_of(len(values)), _TILES_A_THREAD)
    if not found:
        return 0.0, 0.0
    unit = float(np.finfo(precision).eps)
    squares = math.fsum(float(stats[1]) for stats in found) * (1 + (TILE + 4) * unit)
    # Squares of tiny errors vanish in single precision
    tiny = math.sqrt(len(values)) * (2.0**-70 if precision == "float32" else 2.0**-530)
    return max(float(stats[0]) for stats in found), math.sqrt(squares) * (1 + 2.0**-50) + tiny


def restore(q: Integers, step: Step, out: NDArray[Any], exact: bool) -> None:
    """Write the multiples of the step to `out`; `exact` says that its type holds them all without rounding.

    Otherwise they are rounded once, from double precision.
    """
    if exact and out.dtype.itemsize >= 4 and out.dtype.isnative and out.flags.c_contiguous:
        module, real = _kernels(out.dtype.name), out.dtype.type
        module.restore(q, real(step.value), out)
        return
    wide = np.empty(len(q), np.float64)
    _kernels("float64").restore(q, step.value, wide)
    with np.errstate(over="ignore"):
        out[...] = wide


def pack(q: Integers, strides: Sequence[int], scratch: Integers, out: Words) -> int:
    """Write the message of a chunk; return its length in words.

    Parameters
    ----------
    q : numpy.ndarray of int32
        The integers, which are left as they are.
    strides : sequence of int
        Values are replaced by their differences from those a stride before, for each of these. 1 is the last of them.
    scratch : numpy.ndarray of int32
        Two rows, at least as long as `q`.
    out : numpy.ndarray of uint32
        At least ``most_words(len(q))`` long.
    """
    module = _kernels("float32")
    source, rows = q, list(scratch[:, : len(q)])
    for stride in strides:
        if stride != 1:
            module.difference(source, stride, rows[0])
            source = rows[0]
            rows.reverse()
    tiles = tiles_of(len(q))
    lengths = np.zeros(tiles, np.int64)
    head = 1 + tiles

    def work(start: int, stop: int) -> tuple[int, int]:
        begin = head + start * LIMIT
        return begin, int(module.pack(source, start, stop, 1 in strides, out[begin:], lengths[start:stop]))

    position = head
    for begin, length in map_ranges(work, tiles, _TILES_A_THREAD):
        if begin != position:
            out[position : position + length] = out[begin : begin + length]
        position += length
    out[0] = SOUND
    out[1:head] = lengths
    return position


def unpack(message: Words, strides: Sequence[int], q: Integers, add: bool, scratch: Integers) -> None:
    """Write the integers of a message to `q`, or add them to what is there.

    Parameters
    ----------
    message : numpy.ndarray of uint32
        With SPARE_WORDS words after its end.
    strides, scratch
        As for :func:`pack`.
    q : numpy.ndarray of int32
    add : bool
    """
    module = _kernels("float32")
    tiles = tiles_of(len(q))
    offsets = np.zeros(tiles + 1, np.int64)
    np.cumsum(message[1 : 1 + tiles], out=offsets[1:])
    offsets += 1 + tiles
    planes = [stride for stride in strides if stride != 1]
    direct = not (add and planes)
    target = q if direct else scratch[0, : len(q)]

    def work(start: int, stop: int) -> None:
        module.unpack(message, offsets, start, stop, 1 in strides, add and direct, target)

    map_ranges(work, tiles, _TILES_A_THREAD)
    for stride in reversed(planes):
        module.integrate(target, stride)
    if not direct:
        np.add(q, target, out=q)


def _kernels(precision: str) -> Any:
    return kernel("quantised", (1, 1, 1, 1), "identity", precision, "packed")
