"""Rate and distortion: how many bits a value costs at which error, beside the other compressors that are installed."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpcblaz.errors import ShapeError, ToleranceError
from hpcblaz.fields import peers
from hpcblaz.fields.compress import compress

TOLERANCES = tuple(10 ** (-k / 2) for k in range(2, 11))  # over the range: from 1e-1 to 1e-5
MOST_CELLS = 1 << 24  # a greater field is cut to the middle


class Rate(NamedTuple):
    """A point of a rate-distortion curve.

    Parameters
    ----------
    tolerance, largest : float
        The error that was allowed and the largest that there is, over the range of the field.
    bits : float
        Bits a value.
    psnr : float
        In decibel; infinite where nothing is lost.
    """

    tolerance: float
    bits: float
    largest: float
    psnr: float


def middle(shape: tuple[int, ...]) -> tuple[slice, ...]:
    """Return the middle of a field along its first axes, of about `MOST_CELLS` cells if it has more."""
    size, cells = math.prod(shape), []
    for n in shape:
        keep = max(1, min(n, n * MOST_CELLS // max(1, size)))
        start = (n - keep) // 2
        cells.append(slice(start, start + keep))
        size = size // max(1, n) * keep
    return tuple(cells)


def rates(
    x: NDArray[Any], tolerances: Sequence[float] = TOLERANCES, absent: list[str] | None = None
) -> dict[str, list[Rate]]:
    """Return the rate-distortion curves of a field, for hpcblaz and for zfp and SZ3 where they are installed.

    Parameters
    ----------
    x : numpy.ndarray
        Of 1 to 4 axes. Types that float32 does not hold become float64, all others float32. Cells without a finite
        number are given the mean of the others: not every compressor takes them.
    tolerances : sequence of float
        Largest errors, over the range of the field.
    absent : list of str, optional
        What is not installed is appended to it, in words.

    Returns
    -------
    dict of str to list of Rate
        By compressor.

    Raises
    ------
    ShapeError, ToleranceError
        If the field is empty, or constant.
    """
    x = np.ascontiguousarray(x, np.float64 if np.result_type(x.dtype, np.float32) == np.float64 else np.float32)
    there = np.isfinite(x)
    if not there.any():
        raise ShapeError(f"expected a field with numbers, got {x.size} cells without any")
    if not there.all():
        x = np.where(there, x, x[there].mean(dtype=np.float64)).astype(x.dtype)
    span = float(x.max()) - float(x.min())
    if not (span > 0 and math.isfinite(span)):
        raise ToleranceError(f"expected a field with a finite range, got {span}: there is no relative error")
    curves: dict[str, list[Rate]] = {"hpcblaz": []}
    for relative in tolerances:
        a = compress(x, tolerance=relative * span)
        curves["hpcblaz"].append(_rate(x, a.decompress(), relative, a.nbytes, span))
    for codec in peers.codecs(absent):
        points = curves.setdefault(codec.name, [])
        for relative in tolerances:
            stream = codec.compress(x, relative * span)
            points.append(_rate(x, codec.decompress(stream, x), relative, codec.nbytes(stream), span))
    return curves


def _rate(x: NDArray[Any], values: NDArray[Any], relative: float, nbytes: int, span: float) -> Rate:
    difference = (values.astype(np.float64) - x) / span
    rms = math.sqrt(float(np.mean(difference * difference)))
    psnr = -20 * math.log10(rms) if rms else math.inf
    return Rate(relative, 8 * nbytes / x.size, float(np.abs(difference).max()), psnr)
