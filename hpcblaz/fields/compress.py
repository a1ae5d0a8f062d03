"""From an array to a compressed array."""

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hpcblaz.backend import gpu
from hpcblaz.backend.blocks import BlockGrid
from hpcblaz.backend.dispatch import choose_device
from hpcblaz.backend.payload import Blocks, PackedBlocks, Progress
from hpcblaz.errors import (
    ConfigurationError,
    DtypeError,
    HpcblazError,
    LayoutError,
    ToleranceError,
)
from hpcblaz.fields.array import CompressedArray
from hpcblaz.fields.codec import (
    BlockCodec,
    Codec,
    empty_blocks,
    growth,
    half_unit,
    rounding,
)
from hpcblaz.fields.encoding import encode_within, measured
from hpcblaz.fields.inputs import Input, StreamedInput, is_lazy
from hpcblaz.fields.scalars import ErrorBound
from hpcblaz.fields.streaming import assemble
from hpcblaz.fields.target import Target
from hpcblaz.mpi import Communicator, Layout, communicator, device_number


def compress(
    x: ArrayLike,
    *,
    tolerance: float | None = None,
    relative: float | None = None,
    psnr: float | None = None,
    rate: float | None = None,
    codec: Codec | None = None,
    fill_value: float | None = None,
    layout: Layout | None = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> CompressedArray:
    """Compress an array.

    With one of `tolerance`, `relative`, `psnr` and `rate` the error is measured and guaranteed; with a
    :class:`BlockCodec`, which takes none of them, it is measured.

    NaN, infinities, cells that hold `fill_value` and masked cells are missing: they come back as they were, bounds
    are those of the others, and statistics skip them.

    Parameters
    ----------
    x : array_like
        1 to 4 axes, any strides and byte order; float16, float32 or float64, or integers that a float64 holds exactly.
        An array on a GPU (of CuPy, or of any library with DLPack or ``__cuda_array_interface__``) stays there.
        Masked cells of a masked array become `fill_value` if it is given, else NaN, and its own fill value if it holds
        integers. With a layout: this rank's part of the field.
    tolerance : float, optional
        ``abs(x - a) <= tolerance`` holds for every value.
    relative : float, optional
        The same, as a fraction of the range ``x.max() - x.min()`` of the whole field, missing cells left out.
    psnr : float, optional
        Least peak signal-to-noise ratio, ``20 log10(range / rmse)``, in decibel.
    rate : float, optional
        Most bits a value, headers included; the smallest tolerance that keeps to it (within 2 %) is used.
    codec : ToleranceCodec or BlockCodec, optional
        Default: ``ToleranceCodec()``.
    fill_value : int or float, optional
        The number that stands for a missing one, such as -9999.
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
        kind = StreamedInput if is_lazy(x) else Input
        source = kind.of(x, target.codec, layout, where, fill_value)
    extent = source.global_extent(comm)
    if isinstance(target.codec, BlockCodec):
        return _compress_fixed(source, target.codec, extent, comm)
    valid = int(comm.allgather(np.array([source.valid])).sum())
    return target.search(
        lambda t: _compress_within(source, t, extent, comm, progress), (source.cells, valid), extent, comm
    )


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


def _compress_within(
    source: Input,
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
        missing=source.missing,
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


def _precisions(source: Input, tolerance: float, largest: float) -> list[str]:
    """Return the precisions to try, the fastest first."""
    if source.wide == np.float64:
        return ["float64"]
    ordinary = tolerance > 2.0**-40 and largest < 2.0**55
    if not ordinary or tolerance <= 2.0**-20 * largest:
        return ["float64"]
    return ["float32", "float64"]


def _encode(
    source: Input, precision: str, tolerance: float, largest: float, progress: Progress | None
) -> tuple[PackedBlocks, float, float] | None:
    numerics = source.numerics(precision)
    pieces: list[tuple[BlockGrid, Blocks]] = []
    most = squares = 0.0
    for piece in source.pieces():
        values = piece.values.astype(precision, copy=False)
        if largest == 0.0:
            values = source.drivers.array_module().zeros_like(values)
        own = piece.numerics(precision)
        done = None if progress is None else _part_of(progress, source, pieces)
        result = encode_within(values, own, tolerance, largest, source.drivers, done)
        if result is None:
            return None
        blocks, max_abs, l2 = result
        pieces.append((own.grid, blocks))
        most, squares = max(most, max_abs), math.hypot(squares, l2) * (1 + 2.0**-51)
    joined = assemble(pieces, numerics, None)
    if not isinstance(joined, PackedBlocks):
        raise TypeError("expected packed blocks of packed pieces")
    return joined, most, squares


def _part_of(progress: Progress, source: Input, pieces: list[tuple[BlockGrid, Blocks]]) -> Progress:
    """Return what reports the progress of one more piece."""
    before, of = sum(len(grid.tiles) for grid, _ in pieces), len(source.grid.tiles)
    return lambda done, _: progress(before + done, of)


def _smallest(source: Input, largest: float) -> float:
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


def _check_magnitude(source: Input, largest: float) -> None:
    """Raise DtypeError if squares of coefficients could leave double precision."""
    if largest > 1e150:
        raise DtypeError(f"expected values of at most 1e150 in magnitude, got {largest:g}: rescale the data")


def _compress_fixed(
    source: Input, codec: BlockCodec, extent: tuple[float, float], comm: Communicator
) -> CompressedArray:
    sides = source.grid.block_shape
    largest = max(abs(extent[0]), abs(extent[1]))
    index_dtype = np.dtype(codec.index_dtype)
    single = source.wide == np.float32 and index_dtype.itemsize < 4
    precision = "float32" if single and (largest == 0 or 2.0**-50 < largest < 2.0**55) else "float64"
    _check_magnitude(source, largest)
    numerics = source.numerics(precision)
    slack = rounding(codec.transform, sides, precision)
    pieces: list[tuple[BlockGrid, Blocks]] = []
    most = squares = 0.0
    for piece in source.pieces():
        own = piece.numerics(precision)
        template = empty_blocks(codec, own, source.device)
        part, found, norm = source.drivers.encode_fixed(
            piece.values.astype(precision, copy=False), own, template, slack
        )
        max_abs, l2 = measured(found, norm, own)
        pieces.append((own.grid, part))
        most, squares = max(most, max_abs), math.hypot(squares, l2) * (1 + 2.0**-51)
    blocks = assemble(pieces, numerics, empty_blocks(codec, numerics, source.device) if len(pieces) > 1 else None)
    bounds = comm.allgather(np.array([most, squares]))
    field_error = ErrorBound(float(bounds[:, 0].max()), _root_of_squares(bounds[:, 1]))
    return CompressedArray(
        blocks,
        numerics,
        source.codec,
        source.dtype,
        field_error,
        magnitude=largest,
        layout=source.layout,
        missing=source.missing,
    )
