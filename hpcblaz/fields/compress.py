"""From an array to a compressed array."""

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hpcblaz.backend import gpu
from hpcblaz.backend.dispatch import choose_device, drivers
from hpcblaz.backend.payload import Numerics, PackedBlocks, Progress
from hpcblaz.errors import (
    ConfigurationError,
    DtypeError,
    HpcblazError,
    LayoutError,
    NonFiniteError,
    ShapeError,
    ToleranceError,
    UnsupportedOperationError,
)
from hpcblaz.fields.array import CompressedArray
from hpcblaz.fields.codec import (
    BlockCodec,
    Codec,
    empty_blocks,
    grid_of,
    growth,
    half_unit,
    rounding,
    with_block_shape,
)
from hpcblaz.fields.encoding import encode_within, measured
from hpcblaz.fields.scalars import ErrorBound
from hpcblaz.fields.target import Target
from hpcblaz.mpi import Communicator, Layout, communicator, device_number

_EXACT_IN_SINGLE = ("float16", "float32", "int8", "uint8", "int16", "uint16")
_SUPPORTED = (*_EXACT_IN_SINGLE, "float64", "int32", "uint32", "int64", "uint64")


def compress(
    x: ArrayLike,
    *,
    tolerance: float | None = None,
    relative: float | None = None,
    psnr: float | None = None,
    rate: float | None = None,
    codec: Codec | None = None,
    layout: Layout | None = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> CompressedArray:
    """Compress an array.

    With one of `tolerance`, `relative`, `psnr` and `rate` the error is measured and guaranteed; with a
    :class:`BlockCodec`, which takes none of them, it is measured.

    Parameters
    ----------
    x : array_like
        1 to 4 axes, any strides and byte order; float16, float32 or float64, or integers that a float64 holds exactly.
        An array on a GPU (of CuPy, or of any library with DLPack or ``__cuda_array_interface__``) stays there.
        With a layout: this rank's part of the field.
    tolerance : float, optional
        ``abs(x - a) <= tolerance`` holds for every value.
    relative : float, optional
        The same, as a fraction of the range ``x.max() - x.min()`` of the whole field.
    psnr : float, optional
        Least peak signal-to-noise ratio, ``20 log10(range / rmse)``, in decibel.
    rate : float, optional
        Most bits a value, headers included; the smallest tolerance that keeps to it (within 2 %) is used.
    codec : ToleranceCodec or BlockCodec, optional
        Default: ``ToleranceCodec()``.
    layout : Layout, optional
        How the field is split over ranks. A collective call: every rank passes its part, and errors are raised on every
        rank or on none.
    device : {'cpu', 'gpu'}, optional
        Where to compress, and where the compressed array lives. Default: where `x` is. On several ranks of a node
        with several cards, arrays in host memory go to the card of the rank.
    progress : callable, optional
        Called now and then with the tiles done and the tiles of this rank.

    Returns
    -------
    CompressedArray

    Raises
    ------
    ToleranceError
        If the tolerance is not positive, or smaller than 32-bit indices can hold (the message names the smallest).
    NonFiniteError
        If there is a NaN or an infinity.
    DtypeError, ShapeError, CodecError, LayoutError, ConfigurationError
        If an argument is not as described above.
    DeviceError, MissingDependencyError
        If a GPU is asked for and there is none, or what drives it is not installed.

    Examples
    --------
    >>> import numpy as np, hpcblaz as hb
    >>> x = np.sin(np.linspace(0, 20, 100_000)).astype(np.float32)
    >>> a = hb.compress(x, tolerance=1e-3)
    >>> bool(np.abs(x - a.decompress()).max() <= 1e-3), a.ratio > 4
    (True, True)
    """
    comm = communicator(layout.comm if layout is not None else None)
    with comm.together():
        if layout is not None and (layout.size, layout.rank) != (comm.size, comm.rank):
            raise LayoutError(
                f"expected a layout of the communicator's rank {comm.rank} of {comm.size}, got rank {layout.rank} of "
                f"{layout.size}: pass the communicator to Layout"
            )
        target = Target.of(tolerance, relative, psnr, rate, codec)
        where = choose_device(device, x)
    if layout is not None:
        _settle(where, x, comm)
    with comm.together():
        source = _Source.of(x, target.codec, layout, where)
    extent = source.global_extent(comm)
    if isinstance(target.codec, BlockCodec):
        return _compress_fixed(source, target.codec, extent, comm)
    return target.search(lambda t: _compress_within(source, t, extent, comm, progress), source.cells, extent, comm)


def _settle(where: str, x: Any, comm: Communicator) -> None:
    """Have all ranks use one kind of device, and each the card that is its own."""
    on_gpu = comm.allgather(np.array([where == "gpu"]))[:, 0]
    error: HpcblazError | None = None
    if on_gpu.any() and not on_gpu.all():
        error = ConfigurationError("expected all ranks to compress on one kind of device, got 'cpu' and 'gpu'")
    comm.agree(error)
    if on_gpu.any():
        number = device_number(comm, gpu.device_count())
        if not gpu.is_device_array(x):
            gpu.use_device(number)


class _Source:
    """A checked, C-contiguous input with all that the codec has to know of it."""

    def __init__(
        self, values: NDArray[Any], codec: Codec, dtype: np.dtype[Any], layout: Layout | None, device: str
    ) -> None:
        self.values = values
        self.codec = codec
        self.dtype = dtype
        self.layout = layout
        self.device = device
        self.drivers = drivers(device)
        self.grid = grid_of(codec, values.shape)

    @classmethod
    def of(cls, x: ArrayLike, codec: Codec, layout: Layout | None, device: str) -> "_Source":
        if isinstance(x, CompressedArray):
            raise UnsupportedOperationError(
                "expected an array, got a CompressedArray: decompress it first, or keep it as it is"
            )
        masked = int(np.count_nonzero(np.ma.getmaskarray(x))) if isinstance(x, np.ma.MaskedArray) else 0
        if masked:
            raise NonFiniteError(f"expected an array without masked values, got {masked} masked: fill them first")
        try:
            array: Any = x if gpu.is_device_array(x) else np.asarray(x)
        except ValueError as error:
            raise DtypeError(f"expected an array of numbers, got {type(x).__name__}: {error}") from None
        backend = drivers(device)
        if gpu.is_device_array(array):
            array = backend.asarray(array)
        if array.dtype.newbyteorder("=").name not in _SUPPORTED:
            raise DtypeError(
                f"expected dtype float16, float32, float64 or an integer type, got {array.dtype}: "
                "convert with x.astype(...), or compress real and imaginary parts separately"
            )
        dtype = array.dtype.newbyteorder("=")
        if array.ndim == 0:
            raise ShapeError("expected an array of 1 to 4 axes, got a single number: wrap it as np.array([x])")
        codec = with_block_shape(codec, array.ndim)
        if layout is not None:
            if layout.block_shape != codec.block_shape:
                raise LayoutError(
                    f"expected a layout of the codec's block shape {codec.block_shape}, got {layout.block_shape}: "
                    "pass block_shape= to Layout"
                )
            if array.shape != layout.local_shape:
                raise ShapeError(
                    f"expected this rank's part of shape {layout.local_shape}, got {array.shape}: "
                    "layout.local(x) cuts it out of a whole array"
                )
        if isinstance(codec, BlockCodec):
            codec.mask(codec.block_shape or ())
        wide = np.float32 if dtype.name in _EXACT_IN_SINGLE else np.float64
        if dtype.name in ("int64", "uint64") and array.size and max(-int(array.min()), int(array.max())) > 2**53:
            raise DtypeError(
                "expected integers of at most 2**53 in magnitude, which float64 holds exactly, "
                f"got {int(array.min())} to {int(array.max())}"
            )
        if isinstance(array, np.ndarray):  # in order on the host: cards have one byte order
            array = backend.asarray(np.ascontiguousarray(array, dtype=wide))
        return cls(backend.array_module().ascontiguousarray(array, dtype=wide), codec, dtype, layout, device)

    def numerics(self, precision: str) -> Numerics:
        return Numerics(self.grid, self.codec.transform, precision)

    def global_extent(self, comm: Communicator) -> tuple[float, float]:
        """Return the least and greatest value of the whole field, (0, 0) if it is empty; raise if one is not finite."""
        error: HpcblazError | None = None
        extent: tuple[float, float] | None = (math.inf, -math.inf)
        if self.values.size:
            extent = self.drivers.value_range(self.values, self.numerics(self.values.dtype.name))
            if extent is None:
                bad = ~np.isfinite(self.drivers.asnumpy(self.values))
                first = tuple(int(i) for i in np.unravel_index(int(np.argmax(bad)), bad.shape))
                error = NonFiniteError(
                    f"expected finite values, got {int(bad.sum())} NaN or infinite of {bad.size}, the first at index "
                    f"{first}: replace them first, for example with np.nan_to_num"
                )
        comm.agree(error)
        extents = comm.allgather(np.array(extent))
        low, high = float(extents[:, 0].min()), float(extents[:, 1].max())
        return (low, high) if low <= high else (0.0, 0.0)

    @property
    def cells(self) -> int:
        """Cells of the whole field."""
        return math.prod(self.layout.global_shape) if self.layout is not None else self.values.size


def _compress_within(
    source: _Source,
    tolerance: float,
    extent: tuple[float, float],
    comm: Communicator,
    progress: Progress | None,
) -> CompressedArray:
    largest = max(abs(extent[0]), abs(extent[1]))
    constant = extent[0] == extent[1]
    if not constant:
        _check_magnitude(source, largest)
    error: HpcblazError | None = None
    result: tuple[PackedBlocks, float, float] | None = None
    precision = "float64"
    for precision in _precisions(source, tolerance, largest):
        error = None
        # Zeros are nearer than that; without the limit, allowances for rounding would grow with the tolerance
        asked = tolerance if constant else min(tolerance, max(2 * largest, 2.0**-900))
        aim = _field_tolerance(asked, source.dtype, precision, largest)
        try:
            result = _encode(source, precision, 1.0 if constant else aim, 0.0 if constant else largest, progress)
        except HpcblazError as refusal:
            error = refusal
        failed = comm.allgather(np.array([result is None]))
        if not failed.any():
            break
        result = None
    if result is None and error is None:
        error = ToleranceError(
            f"expected a tolerance that 32-bit indices can hold on values up to {largest:g}, got {tolerance:g}: "
            f"the smallest usable is about {1.005 * _smallest(source, largest):.3g}"
        )
    comm.agree(error)
    if result is None:  # agree has raised on every rank
        raise ToleranceError(f"expected a larger tolerance, got {tolerance:g}")
    blocks, max_abs, l2 = result
    if constant:
        max_abs = l2 = 0.0
    bounds = comm.allgather(np.array([max_abs, l2]))
    field_error = ErrorBound(float(bounds[:, 0].max()), _root_of_squares(bounds[:, 1]))
    return CompressedArray(
        blocks,
        source.numerics(precision),
        source.codec,
        source.dtype,
        field_error,
        magnitude=largest,
        offset=extent[0] if constant else 0.0,
        layout=source.layout,
        promise=tolerance,
    )


def _field_tolerance(tolerance: float, dtype: np.dtype[Any], precision: str, largest: float) -> float:
    """Return the tolerance of the field before it is rounded to the array's dtype.

    The original is a number of that dtype, so rounding to the nearest one at most doubles an error (and adds at most
    half a unit in the last place); and of an integer an error below a half disappears.
    """
    if dtype.kind in "iu":
        return min(tolerance, math.floor(tolerance) + 0.499)
    if dtype.name == precision:  # errors are measured on the very values that are returned
        return tolerance
    return max(tolerance / 2, tolerance - half_unit(dtype, largest + tolerance))


def _precisions(source: _Source, tolerance: float, largest: float) -> list[str]:
    """Return the precisions to try, the fastest first."""
    if source.values.dtype == np.float64:
        return ["float64"]
    ordinary = tolerance > 2.0**-40 and largest < 2.0**55
    if not ordinary or tolerance <= 2.0**-20 * largest:
        return ["float64"]
    return ["float32", "float64"]


def _encode(
    source: _Source, precision: str, tolerance: float, largest: float, progress: Progress | None
) -> tuple[PackedBlocks, float, float] | None:
    numerics = source.numerics(precision)
    values = source.values.astype(precision, copy=False)
    if largest == 0.0:
        values = source.drivers.array_module().zeros_like(values)
    return encode_within(values, numerics, tolerance, largest, source.drivers, progress)


def _smallest(source: _Source, largest: float) -> float:
    """Return a tolerance that is surely large enough for 32-bit indices and double precision."""
    sides = source.codec.block_shape or ()
    gain = growth(source.codec.transform, sides)
    root = math.sqrt(math.prod(sides))
    indices = gain * root * largest * 2.0**-29
    roundings = 4 * rounding(source.codec.transform, sides, "float64") * (1 + root) * largest
    least = max(indices, roundings, 2.0**-990)
    if source.dtype.kind in "iu":
        return least if least % 1 < 0.499 else float(math.ceil(least))
    if source.dtype.name == "float64":
        return least
    return min(2 * least, least + half_unit(source.dtype, 2 * largest))


def _root_of_squares(norms: NDArray[np.float64]) -> float:
    """Return the norm of the norms of all ranks, rounded up: hypot is wrong by a unit at most, once a rank."""
    return float(np.hypot.reduce(norms)) * (1 + 2.0**-51 * (1 + len(norms)))


def _check_magnitude(source: _Source, largest: float) -> None:
    """Raise DtypeError if squares of coefficients could leave double precision."""
    if largest > 1e150:
        raise DtypeError(f"expected values of at most 1e150 in magnitude, got {largest:g}: rescale the data")


def _compress_fixed(
    source: _Source, codec: BlockCodec, extent: tuple[float, float], comm: Communicator
) -> CompressedArray:
    sides = source.grid.block_shape
    largest = max(abs(extent[0]), abs(extent[1]))
    index_dtype = np.dtype(codec.index_dtype)
    single = source.values.dtype == np.float32 and index_dtype.itemsize < 4
    precision = "float32" if single and (largest == 0 or 2.0**-50 < largest < 2.0**55) else "float64"
    _check_magnitude(source, largest)
    numerics = source.numerics(precision)
    template = empty_blocks(codec, numerics, source.device)
    values = source.values.astype(precision, copy=False)
    slack = rounding(codec.transform, sides, precision)
    blocks, max_abs, l2 = source.drivers.encode_fixed(values, numerics, template, slack)
    bounds = comm.allgather(np.array(measured(max_abs, l2, numerics)))
    field_error = ErrorBound(float(bounds[:, 0].max()), _root_of_squares(bounds[:, 1]))
    return CompressedArray(
        blocks, numerics, source.codec, source.dtype, field_error, magnitude=largest, layout=source.layout
    )
