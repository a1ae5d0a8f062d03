"""What the tests of fields share: codecs, fields that are hard to compress, and answers in extended precision."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from hypothesis import strategies as st

import hpcblaz as hb

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Case:
    """A codec, and the types of data that it computes with in one precision.

    Every combination of block shape, transform and precision is compiled anew, so random tests draw from these few.
    """

    name: str
    codec: hb.ToleranceCodec | hb.BlockCodec
    precision: str
    dtypes: tuple[str, ...]

    @property
    def ndim(self) -> int:
        return len(self.codec.block_shape or ())

    @property
    def fixed(self) -> bool:
        return isinstance(self.codec, hb.BlockCodec)


NARROW = ("float32", "float16", "int8", "uint8", "int16", "uint16")
WIDE = ("float64", "int32", "uint32", "int64", "uint64")
DCT_2D = Case("dct 8x8", hb.ToleranceCodec((8, 8)), "float32", NARROW)
DCT_3D = Case("dct 4x4x4", hb.ToleranceCodec((4, 4, 4)), "float32", NARROW)
IDENTITY_2D = Case("identity 4x8", hb.ToleranceCodec((4, 8), "identity"), "float32", NARROW)
DCT_2D_DOUBLE = Case("dct 8x8 double", hb.ToleranceCodec((8, 8)), "float64", WIDE)
DCT_1D = Case("dct 16", hb.ToleranceCodec((16,)), "float32", NARROW)
HAAR_4D_DOUBLE = Case("haar 4x2x1x4 double", hb.ToleranceCodec((4, 2, 1, 4), "haar"), "float64", WIDE)
PACKED = (DCT_1D, DCT_2D, DCT_3D, IDENTITY_2D, DCT_2D_DOUBLE, HAAR_4D_DOUBLE)
INT8_2D = Case("int8 8x8", hb.BlockCodec((8, 8)), "float32", NARROW)
INT16_2D = Case("int16 8x8 half", hb.BlockCodec((8, 8), index_dtype="int16", keep=0.5), "float32", NARROW)
INT32_3D = Case("int32 4x4x4 haar", hb.BlockCodec((4, 4, 4), "haar", "int32"), "float64", (*NARROW, *WIDE))
FIXED = (INT8_2D, INT16_2D, INT32_3D)
CASES = (*PACKED, *FIXED)

MOST = {1: 700, 2: 45, 3: 14, 4: 8}  # greatest extents that are drawn
KINDS = ("smooth", "noise", "spikes", "constant", "zeros", "offset", "steps", "checkerboard", "mixed magnitudes")


def shapes(ndim: int, least: int = 1) -> st.SearchStrategy[tuple[int, ...]]:
    """Draw a shape; blocks seldom divide it."""
    return st.tuples(*[st.integers(least, MOST[ndim])] * ndim)


def field(kind: str, shape: tuple[int, ...], seed: int = 0) -> Array:
    """Return a float64 field with values of about one."""
    rng = np.random.default_rng(seed)
    coordinates = np.indices(shape).astype(float)
    if kind == "smooth":
        phase = rng.uniform(0, 6, len(shape) + 1)
        return np.asarray(np.sin(phase[-1] + sum((0.1 + p / 20) * c for p, c in zip(phase, coordinates, strict=False))))
    if kind == "noise":
        return rng.normal(size=shape)
    if kind == "spikes":
        return np.where(rng.random(shape) < 0.03, rng.normal(size=shape), 1e-3 * rng.normal(size=shape))
    if kind == "constant":
        return np.full(shape, rng.normal())
    if kind == "zeros":
        return np.zeros(shape)
    if kind == "offset":
        return 1 + 1e-4 * rng.normal(size=shape)
    if kind == "steps":
        return np.where(coordinates[-1] > shape[-1] / 3, 1.0, -0.5) + 0.0 * coordinates[0]
    if kind == "checkerboard":
        return np.where(coordinates.sum(axis=0) % 2, 1.0, -1.0)
    return rng.normal(size=shape) * 10.0 ** rng.integers(-6, 1, shape)


def to_dtype(values: Array, dtype: str, exponent: int = 0) -> Array:
    """Return values times ``10**exponent`` as another type; integers are rounded, and fill much of their range."""
    target = np.dtype(dtype)
    if target.kind == "f":
        limit = min(float(np.finfo(target).max), 1e150)
        return np.clip(values * 10.0**exponent, -limit, limit).astype(target)
    limits = np.iinfo(target)
    high, low = min(limits.max, 2**40), max(limits.min, -(2**40))
    return np.clip(np.rint(values * high / 3), low, high).astype(target)


@st.composite
def arrays(draw: Any, case: Case, least: int = 1) -> Array:
    """Draw a field for a case."""
    dtype = draw(st.sampled_from(case.dtypes))
    shape = draw(shapes(case.ndim, least))
    values = field(draw(st.sampled_from(KINDS)), shape, draw(st.integers(0, 2**32)))
    reach = {"float16": (-3, 3), "float32": (-8, 12), "float64": (-30, 30)}.get(dtype, (0, 0))
    return to_dtype(values, dtype, draw(st.integers(*reach)))


@st.composite
def compressed(draw: Any, case: Case, x: Array) -> hb.CompressedArray:
    """Compress a field with a drawn tolerance."""
    if case.fixed:
        return hb.compress(x, codec=case.codec)
    largest = float(np.abs(x.astype(float)).max(initial=0.0)) or 1.0
    fraction = draw(st.sampled_from([3.0, 0.3, 1e-2, 1e-4] if case.precision == "float32" else [0.5, 1e-3, 1e-6]))
    return hb.compress(x, tolerance=fraction * largest, codec=case.codec)


def exact(x: Any) -> Array:
    """Return values in extended precision."""
    return np.asarray(x).astype(np.longdouble)


def errors_of(x: Any, a: hb.CompressedArray) -> tuple[float, float]:
    """Return the largest error of the decompressed values, and their 2-norm."""
    e = exact(x) - exact(a.decompress())
    return float(np.abs(e).max(initial=0)), float(np.sqrt((e * e).sum()))


def assert_within_certificate(x: Any, a: hb.CompressedArray) -> None:
    """Assert that the decompressed values are as near to x as the array says."""
    max_abs, l2 = errors_of(x, a)
    assert max_abs <= a.error.max_abs
    assert l2 <= a.error.l2 * (1 + 1e-15)  # this l2 is rounded itself
    assert a.error.l2 <= math.sqrt(a.size) * a.error.max_abs * (1 + 1e-12) or a.size == 0


def mean(x: Any) -> Any:
    return exact(x).mean()


def variance(x: Any, ddof: int = 0) -> Any:
    return exact(x).var(ddof=ddof)


def norm(x: Any) -> Any:
    return np.sqrt((exact(x) ** 2).sum())


def dot(x: Any, y: Any) -> Any:
    return (exact(x) * exact(y)).sum()


def covariance(x: Any, y: Any, ddof: int = 0) -> Any:
    x, y = exact(x), exact(y)
    return ((x - x.mean()) * (y - y.mean())).sum() / (x.size - ddof)


def similarity(
    x: Any, y: Any, span: float, exponents: tuple[float, float, float] = (1, 1, 1), k: Any = (0.01, 0.03)
) -> Any:
    """The structural similarity of two whole fields, from its definition."""
    x, y = exact(x), exact(y)
    c1, c2 = (k[0] * np.longdouble(span)) ** 2, (k[1] * np.longdouble(span)) ** 2
    sx, sy = x.std(), y.std()
    parts = (
        (2 * x.mean() * y.mean() + c1, x.mean() ** 2 + y.mean() ** 2 + c1),
        (2 * sx * sy + c2, sx**2 + sy**2 + c2),
        (covariance(x, y) + c2 / 2, sx * sy + c2 / 2),
    )
    value = np.longdouble(1)
    for (above, below), exponent in zip(parts, exponents, strict=True):
        value *= (above / below if below else np.longdouble(1)) ** exponent
    return value


def blocks(x: Any, block_shape: tuple[int, ...]) -> dict[tuple[int, ...], Array]:
    """Cut a field into its blocks, partial ones included."""
    x = exact(x)
    counts = [-(-n // side) for n, side in zip(x.shape, block_shape, strict=True)]
    return {
        place: x[tuple(slice(p * side, (p + 1) * side) for p, side in zip(place, block_shape, strict=True))]
        for place in np.ndindex(*counts)
    }


def wasserstein(x: Any, y: Any, block_shape: tuple[int, ...], order: float) -> Any:
    """The approximate distance of PyBlaz, from its definition."""
    masses = []
    for field_ in (x, y):
        means = np.array([block.mean() for block in blocks(field_, block_shape).values()])
        means = np.exp(means - means.max())
        masses.append(np.sort(means / means.sum()))
    return np.mean(np.abs(masses[0] - masses[1]) ** np.longdouble(order)) ** (1 / np.longdouble(order))


def assert_holds(answer: hb.CertifiedFloat, truth: Any) -> None:
    """Assert that an answer is within its bound of the truth."""
    assert answer.error >= 0
    assert abs(np.longdouble(float(answer)) - truth) <= answer.error or (
        math.isnan(answer) and answer.error == math.inf
    )
    low, high = answer.interval
    assert math.isnan(answer) or low <= truth <= high
