"""From a checked input to a compressed array: precisions are tried, and the errors of all ranks put together."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hpcblaz.backend.blocks import BlockGrid
from hpcblaz.backend.payload import Blocks, PackedBlocks, Progress
from hpcblaz.errors import DtypeError, HpcblazError, ToleranceError
from hpcblaz.fields.codec import BlockCodec, empty_blocks, growth, half_unit, rounding
from hpcblaz.fields.encoding import encode_within, measured
from hpcblaz.fields.inputs import Input
from hpcblaz.fields.scalars import ErrorBound
from hpcblaz.fields.streaming import assemble
from hpcblaz.fields.target import Target
from hpcblaz.mpi import Communicator

if TYPE_CHECKING:
    from hpcblaz.fields.array import CompressedArray

Make = Callable[..., "CompressedArray"]


def compress_input(
    source: Input, target: Target, comm: Communicator, progress: Progress | None, make: Make
) -> "CompressedArray":
    """Compress an input; a collective call.

    Parameters
    ----------
    source : Input
    target : Target
    comm : Communicator
        Of the input's layout.
    progress : callable, optional
        Called with the tiles done and all tiles of this rank.
    make : callable
        The class of compressed arrays.
    """
    extent = source.global_extent(comm)
    if isinstance(target.codec, BlockCodec):
        return _compress_fixed(source, target.codec, extent, comm, make)
    valid = int(comm.allgather(np.array([source.valid])).sum())
    return target.search(
        lambda t: _compress_within(source, t, extent, comm, progress, make), (source.cells, valid), extent, comm
    )


def _compress_within(
    source: Input,
    tolerance: float,
    extent: tuple[float, float],
    comm: Communicator,
    progress: Progress | None,
    make: Make,
) -> "CompressedArray":
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
        if result is None and error is None:
            error = ToleranceError(
                f"expected a tolerance that 32-bit indices can hold on values up to {largest:g}, got {tolerance:g}: "
                f"the smallest usable is about {1.005 * _smallest(source, largest):.3g}"
            )
        result = None  # here it may have worked: then the others say why it did not
    comm.agree(error)
    if result is None:  # agree has raised on every rank
        raise ToleranceError(f"expected a larger tolerance, got {tolerance:g}")
    blocks, max_abs, l2 = result
    if constant:
        max_abs = l2 = 0.0
    bounds = comm.allgather(np.array([max_abs, l2]))
    field_error = ErrorBound(float(bounds[:, 0].max()), _root_of_squares(bounds[:, 1]))
    return make(
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
    source: Input, codec: BlockCodec, extent: tuple[float, float], comm: Communicator, make: Make
) -> "CompressedArray":
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
    with comm.together():  # a slab that is read may fail on one rank
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
    return make(
        blocks,
        numerics,
        source.codec,
        source.dtype,
        field_error,
        magnitude=largest,
        layout=source.layout,
        missing=source.missing,
    )
