"""Functions of neighbourhoods: decoded slab by slab with a halo, applied, and compressed again."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hpcblaz.backend.dispatch import drivers_of
from hpcblaz.errors import ShapeError, UnsupportedOperationError
from hpcblaz.fields.arithmetic import check_partners, real, result_dtype
from hpcblaz.fields.certificates import UNIT
from hpcblaz.fields.codec import BlockCodec, ToleranceCodec, half_unit
from hpcblaz.fields.compressing import compress_input
from hpcblaz.fields.gaps import numbers_or_nan
from hpcblaz.fields.halo import Surroundings, Way
from hpcblaz.fields.inputs import StreamedInput
from hpcblaz.fields.moments import check_array
from hpcblaz.fields.scalars import ErrorBound
from hpcblaz.fields.target import Target
from hpcblaz.mpi.halo import Halo, Width

if TYPE_CHECKING:
    from hpcblaz.fields.array import CompressedArray

_ROUNDING = (
    128 * UNIT
)  # of the function, on the original and on the decompressed data, relative to its gain times values
_FINEST = 2.0**-20  # of the largest value of a result: what compressing it adds, if errors of operands do less


def stencil(
    function: Callable[..., Any],
    *arrays: "CompressedArray",
    width: Width,
    periodic: bool | Sequence[bool] = False,
    outside: float | str = "edge",
    tolerance: float | None = None,
    lipschitz: float | Sequence[float] | None = None,
    exchange: Way = "decoded",
) -> "CompressedArray":
    """Apply a function of neighbourhoods to compressed arrays, slab by slab, and compress the result.

    A collective call. This rank's part is decoded slab by slab with cells of its neighbours around it, and each slab of
    the result is compressed before the next one is computed: the decompressed field is never in memory as a whole.

    Parameters
    ----------
    function : callable
        Takes for each array the values of a slab with its halo, in double precision, and returns those of the slab:
        with a halo of (b, n) cells below and above along an axis, b + n cells fewer. Its value at a cell may depend on
        no more than the cells around it, and not on where the slab begins; slabs are cut along the first axis. Missing
        cells are NaN; infinities stay. It is called twice for each slab, or three times.
    *arrays : CompressedArray
        Of one shape and layout.
    width : int, or sequence of int or pair of int
        Cells around each; as for :func:`hpcblaz.with_halo`.
    periodic : bool or sequence of bool, default False
        Whether cells beyond the faces of the field are those from its other end, for all axes or for each.
    outside : float or 'edge', default 'edge'
        What is beyond the faces of other axes: a number, or the value of the nearest cell of the field.
    tolerance : float, optional
        What compressing the result may add to its error. Default: the sum of the largest errors of the arrays, or a
        millionth of the largest value of the result where that is less.
    lipschitz : float or sequence of float, optional
        How many times the largest error of an array is the error of the result at most, for all arrays or for each:
        the greatest sum of magnitudes of weights, for a function that is linear.
    exchange : {'decoded', 'compressed'}
        What neighbours send, as for :func:`hpcblaz.with_halo`. The answer is the same.

    Returns
    -------
    CompressedArray
        With the block shape, the transform and the layout of the first array. Cells where the function gives no number
        are missing.

        **Without** `lipschitz` its error is with respect to the function of the *decompressed* arrays: what their own
        errors do to it is not known, and not counted. **With** `lipschitz` it is with respect to the function of the
        original data: `lipschitz` times the errors of the arrays, rounding, and what compressing adds.

    Raises
    ------
    ShapeError, LayoutError
        If shapes or layouts differ, or the function does not return the shape described above.
    UnsupportedOperationError
        If an operand is not compressed, or `lipschitz` or `outside` is not as described.
    ToleranceError
        If the tolerance is not positive, or smaller than 32-bit indices can hold.

    See Also
    --------
    hpcblaz.apply : Functions of every value for itself.
    hpcblaz.with_halo : The values with their halo, all at once.

    Examples
    --------
    One step of the heat equation, which does not let errors grow:

    >>> import numpy as np, hpcblaz as hb
    >>> def heat(u):
    ...     return u[1:-1] + 0.25 * (u[:-2] - 2 * u[1:-1] + u[2:])
    >>> x = np.sin(2 * np.pi * np.arange(400) / 400)
    >>> a = hb.compress(x, tolerance=1e-4)
    >>> b = hb.stencil(heat, a, width=1, periodic=True, tolerance=1e-5, lipschitz=1.0)
    >>> bool(abs(b.decompress() - heat(np.pad(x, 1, mode="wrap"))).max() <= b.error.max_abs < 1.2e-4)
    True
    """
    if not arrays:
        raise UnsupportedOperationError("expected a compressed array, got none")
    check_array(arrays[0], "every operand")
    a = arrays[0]
    with a._comm.together():
        for b in arrays[1:]:
            check_array(b, "every operand")
            check_partners(a, b)
        beyond = outside if outside == "edge" else real(outside, "take for the values outside")
        gains = _gains(lipschitz, len(arrays))
        halo = Halo.of(a.ndim, width, periodic)
        codec = a.codec
        if isinstance(codec, BlockCodec) and tolerance is not None:
            codec = ToleranceCodec(codec.block_shape, codec.transform)
        if tolerance is not None:
            Target.of(tolerance, None, None, None, codec)
    around = [
        Surroundings(
            b, width, periodic, exchange, numbers_or_nan, b.dtype if b.dtype.kind == "f" else np.dtype(np.float64)
        )
        for b in arrays
    ]
    applied = _Applied(function, arrays, around, halo, beyond)
    with a._comm.together():
        source = StreamedInput.of(applied, codec, a.layout, "cpu")
    applied.settled = True
    low, high = source.global_extent(a._comm)
    largest = max(abs(low), abs(high))
    if isinstance(codec, BlockCodec):
        target = Target("codec", 0.0, codec)
    else:
        finest = max(_FINEST, 4 * float(np.finfo(applied.dtype).eps)) * largest
        errors = sum(b.error.max_abs for b in arrays)
        usual = max(errors, finest) if math.isfinite(errors) else finest
        wanted = usual if tolerance is None else tolerance
        target = Target.of(wanted or 1.0, None, None, None, codec)
    result = compress_input(source, target, a._comm, None, type(a))
    rounded = half_unit(applied.dtype, largest) if applied.dtype.itemsize < 8 else 0.0
    result = _with_bounds(result, arrays, gains, halo, rounded)
    return result if a.device == "cpu" else result.to_device("gpu")


def _with_bounds(
    result: "CompressedArray", arrays: "Sequence[CompressedArray]", gains: list[float], halo: Halo, rounded: float
) -> "CompressedArray":
    """Return a result whose error counts those of the arrays, as far as gains say how, and rounding to its type."""
    root = math.sqrt(result.size)
    most, l2 = rounded, root * rounded
    reach = math.prod(1 + below + above for below, above in zip(halo.below, halo.above, strict=True))
    for gain, a in zip(gains, arrays, strict=True):
        if gain == 0:
            continue
        rounding = _ROUNDING * gain * (a._magnitude + a.error.max_abs + abs(a._offset))
        moved = gain * a.error.max_abs * (1 + 2.0**-50)
        most += moved + rounding
        # A cell is seen by as many others as there are cells in a neighbourhood
        l2 += min(root * moved, gain * math.sqrt(reach) * a.error.l2 * (1 + 2.0**-50)) + root * rounding
    if not most:
        return result
    bound = result._field_error
    error = ErrorBound((bound.max_abs + most) * (1 + 2.0**-50), (bound.l2 + l2) * (1 + 2.0**-50))
    return result._replace(field_error=error, magnitude=result._magnitude + most)


def _gains(lipschitz: Any, count: int) -> list[float]:
    """Return how errors of each array grow at most; zeros if nothing is said."""
    if lipschitz is None:
        return [0.0] * count
    given = list(lipschitz) if isinstance(lipschitz, (list, tuple, np.ndarray)) else [lipschitz] * count
    gains = [real(gain, "take for lipschitz") for gain in given]
    if len(gains) != count or min(gains) < 0:
        raise UnsupportedOperationError(
            f"expected lipschitz to be a number of at least 0, or one for each of the {count} arrays, got {lipschitz!r}"
        )
    return gains


class _Applied:
    """The values of a function of neighbourhoods, which are computed when they are asked for, by slabs."""

    def __init__(
        self,
        function: Callable[..., Any],
        arrays: "Sequence[CompressedArray]",
        around: Sequence[Surroundings],
        halo: Halo,
        outside: float | str,
    ) -> None:
        self.function = function
        self.arrays = arrays
        self.around = around
        self.halo = halo
        self.outside = outside
        self.settled = False  # whether every slab has been computed once: later errors are of one rank alone
        self.shape: tuple[int, ...] = arrays[0]._numerics.grid.shape
        self.dtype = np.result_type(np.float32, *(result_dtype(a, 1.0) for a in arrays))

    def __getitem__(self, index: Any) -> NDArray[Any]:
        first = index[0] if isinstance(index, tuple) else index
        start, stop, _ = first.indices(self.shape[0])
        shape = (max(0, stop - start), *self.shape[1:])
        if not math.prod(shape):
            return np.zeros((0,) * len(shape) if isinstance(index, tuple) else shape, self.dtype)
        slabs = [self._slab(a, held, start, stop) for a, held in zip(self.arrays, self.around, strict=True)]
        try:
            with np.errstate(all="ignore"):
                values = np.asarray(self.function(*slabs))
        except Exception as error:  # a function of a user can raise anything
            if not self.settled:
                raise
            raise UnsupportedOperationError(
                f"expected a function that succeeds again on values on which it did, got {error!r}"
            ) from error
        if values.shape != shape or values.dtype.kind not in "fiub":
            wide = tuple(n + b + t for n, b, t in zip(shape, self.halo.below, self.halo.above, strict=True))
            raise ShapeError(
                f"expected the function to return real numbers of shape {shape} for values of shape {wide}, got "
                f"{values.dtype} of shape {values.shape}: it is to leave out the halo"
            )
        with np.errstate(over="ignore"):
            return values.astype(self.dtype)

    def _slab(self, a: "CompressedArray", held: Surroundings, start: int, stop: int) -> NDArray[np.float64]:
        """Return the values of rows of this rank's part with their halo; what is beyond the faces is put around."""
        inner = [(part.start, part.stop) for part in held.plan.inner]
        inner[0] = (inner[0][0] + start, inner[0][0] + stop)
        low = [first - below for (first, _), below in zip(inner, self.halo.below, strict=True)]
        high = [end + above for (_, end), above in zip(inner, self.halo.above, strict=True)]
        begin = tuple(max(0, first) for first in low)
        finish = tuple(map(min, high, held.plan.shape))
        found = drivers_of(a._blocks).asnumpy(held.window(begin, finish))
        values: NDArray[np.float64] = found.astype(np.float64)
        pads = [(b - o, h - f) for o, b, h, f in zip(low, begin, high, finish, strict=True)]
        if not any(map(any, pads)):
            return values
        if isinstance(self.outside, str):
            return np.pad(values, pads, mode="edge")
        return np.pad(values, pads, mode="constant", constant_values=self.outside)
