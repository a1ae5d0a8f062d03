"""Drivers of the kernels on the CPU: tiles are shared out among threads, and results never depend on how.

Numba's own parallel loops are not used: ranges of tiles on a pool of Python threads compile in a fraction of the time,
live with MPI and with other thread pools, and give every tile its own result, so that sums are taken in one order.
"""

import math
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcblaz.backend import gpu
from hpcblaz.backend.compile import kernel
from hpcblaz.backend.payload import SPARE_WORDS, Blocks, FixedBlocks, Numerics, PackedBlocks, Progress
from hpcblaz.backend.threads import map_ranges, thread_count
from hpcblaz.bodies.records import TILE, header_limit
from hpcblaz.bodies.steps import LEVELS

SCRATCH_WORDS = 1 << 20  # a round of encoding keeps about this many words a thread
_MOMENT_TILES = 64  # fewer tiles than this are not worth another thread


def array_module() -> ModuleType:
    """Return NumPy."""
    return np


def asarray(x: Any) -> NDArray[Any]:
    """Return an array in host memory, wherever it was."""
    return gpu.asnumpy(gpu.asarray(x)) if gpu.is_device_array(x) else np.asarray(x)


def asnumpy(x: Any) -> NDArray[Any]:
    """Return an array in host memory, where it is."""
    return np.asarray(x)


def stage(x: Any) -> NDArray[Any]:
    """Return an array in host memory from which MPI can send."""
    return np.asarray(x)


def zeros(count: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return an array of zeros."""
    return np.zeros(count, dtype)


def encode(
    x: NDArray[Any],
    numerics: Numerics,
    tolerance: float,
    allowance: float,
    exponent: int,
    mean_level: int,
    progress: Progress | None = None,
) -> tuple[PackedBlocks, float, float] | None:
    """Compress a field so that no decoded value is farther than `tolerance` from its original.

    Parameters
    ----------
    x : numpy.ndarray
        C-contiguous, of the numerics' precision and the grid's shape, finite.
    numerics : Numerics
    tolerance : float
        Exact in the precision.
    allowance : float
        What rounding on another backend may add to an error, relative to the magnitude of the samples.
    exponent : int
        The step of level 0.
    mean_level : int
        The level of coefficient 0.
    progress : callable, optional
        Called with the tiles done and all tiles.

    Returns
    -------
    tuple of (PackedBlocks, float, float) or None
        With the largest error and the 2-norm of the errors, allowances included; None if the tolerance cannot be held
        in this precision.
    """
    module = numerics.kernel("encode", "packed")
    grid, real = numerics.grid, numerics.dtype.type
    tiles = grid.tiles
    size = grid.block_size
    limit = record_limit(size)
    per_job = max(1, min(64, SCRATCH_WORDS // limit))
    steps = np.ldexp(1.0, exponent + np.arange(LEVELS)).astype(numerics.dtype)
    flat = read_only(x)
    stats = np.zeros((len(tiles), 3))
    sink = Sink(len(tiles), limit * len(tiles))

    def job(start: int, stop: int, out: NDArray[np.uint32], sizes: NDArray[np.int64]) -> bool:
        return bool(
            module.encode(
                flat, grid.shape4, grid.regions, tiles, start, stop, numerics.matrices, real(tolerance),
                real(allowance), steps, mean_level, out, sizes, stats[start:stop],
            )
        )  # fmt: skip

    if not sink.run(job, limit, per_job, progress):
        return None
    blocks = PackedBlocks(sink.words(), sink.offsets, exponent, exponent + mean_level)
    if not len(tiles):
        return blocks, 0.0, 0.0
    norm = math.sqrt(stats[:, 1].sum()) + math.sqrt(stats[:, 2].sum())
    return blocks, float(stats[:, 0].max()), norm


class Sink:
    """Collects records of unknown size in the order of their tiles, whatever the number of threads.

    Memory is reserved for the worst case, and touched only as far as records reach.
    """

    def __init__(self, tiles: int, capacity: int) -> None:
        self._payload = np.empty(capacity + SPARE_WORDS, np.uint32)
        self.offsets = np.zeros(tiles + 1, np.int64)
        self._tiles = tiles

    def run(
        self,
        job: Callable[[int, int, NDArray[np.uint32], NDArray[np.int64]], bool],
        limit: int,
        per_job: int,
        progress: Progress | None,
    ) -> bool:
        """Run `job` over all tiles; False as soon as one returns False."""
        jobs = min(4 * thread_count(), -(-self._tiles // per_job))
        scratch = [np.empty(per_job * limit, np.uint32) for _ in range(jobs)]
        sizes = np.zeros(self._tiles, np.int64)
        position = 0
        for first in range(0, self._tiles, max(1, jobs * per_job)):
            bounds = list(range(first, min(self._tiles, first + jobs * per_job), per_job))
            ends = [min(self._tiles, start + per_job) for start in bounds]

            def work(begin: int, end: int, bounds: list[int] = bounds, ends: list[int] = ends) -> bool:
                return all(job(bounds[i], ends[i], scratch[i], sizes[bounds[i] : ends[i]]) for i in range(begin, end))

            if not all(map_ranges(work, len(bounds))):
                return False
            for i, (start, stop) in enumerate(zip(bounds, ends, strict=True)):
                words = int(sizes[start:stop].sum())
                self._payload[position : position + words] = scratch[i][:words]
                position += words
            if progress is not None:
                progress(ends[-1], self._tiles)
        np.cumsum(sizes, out=self.offsets[1:])
        return True

    def words(self) -> NDArray[np.uint32]:
        """Return the payload, cut to its size; the rest of the reserved memory is given back."""
        used = int(self.offsets[-1])
        self._payload[used : used + SPARE_WORDS] = 0
        self._payload.resize(used + SPARE_WORDS, refcheck=False)
        return self._payload


def encode_fixed(
    x: NDArray[Any], numerics: Numerics, blocks: FixedBlocks, allowance: float
) -> tuple[FixedBlocks, float, float]:
    """Compress a field into the index and scale arrays of `blocks`; return them with the errors, as `encode` does."""
    module = numerics.kernel("fixed", "fixed")
    grid = numerics.grid
    stats = np.zeros((len(grid.tiles), 3))
    flat = read_only(x)

    def work(start: int, stop: int) -> None:
        module.encode_fixed(
            flat, grid.shape4, grid.regions, grid.tiles, start, stop, numerics.matrices, float(blocks.limit),
            allowance, blocks.indices, blocks.scales, blocks.starts, blocks.kept, stats,
        )  # fmt: skip

    map_ranges(work, len(grid.tiles), 8)
    if not len(stats):
        return blocks, 0.0, 0.0
    return blocks, float(stats[:, 0].max()), math.sqrt(stats[:, 1].sum()) + math.sqrt(stats[:, 2].sum())


def decode(
    blocks: Blocks,
    numerics: Numerics,
    factor: float,
    offset: float,
    low: tuple[int, ...] | None = None,
    high: tuple[int, ...] | None = None,
    out: NDArray[Any] | None = None,
) -> NDArray[Any]:
    """Decode ``factor * field + offset`` between the cells `low` and `high` (all cells by default).

    Returns an array of the numerics' precision, in C order; `out` if it is given. Only tiles with a block in the
    window are touched.
    """
    grid, real = numerics.grid, numerics.dtype.type
    pad = (0,) * (4 - grid.ndim)
    begin = np.array(pad + (low or (0,) * grid.ndim), np.int64)
    end = np.array((1,) * len(pad) + (high or grid.shape), np.int64)
    shape = tuple(int(n) for n in (end - begin)[len(pad) :])
    out = np.empty(shape, numerics.dtype) if out is None else out
    if not out.size:
        return out
    whole = bool((begin == 0).all() and (end == grid.shape4).all())
    chosen = np.arange(len(grid.tiles)) if whole else grid.tiles_touching(begin, end)
    flat = out.reshape(-1)
    main, side, steps, mean_step = blocks.operands
    module = numerics.kernel("decode", blocks.form)

    def work(start: int, stop: int) -> None:
        module.decode(
            main, side, grid.regions, grid.tiles, chosen, start, stop, numerics.matrices, steps, mean_step,
            real(factor), real(offset), flat, begin, end, end - begin,
        )  # fmt: skip

    map_ranges(work, len(chosen), 8)
    return out


def _sum_tiles(rows: NDArray[np.float64], chosen: NDArray[np.bool_] | None) -> NDArray[np.float64]:
    """Sum over the chosen tiles, pairwise: NumPy does so along the contiguous axis only."""
    rows = rows if chosen is None else rows[chosen]
    return np.asarray(np.ascontiguousarray(rows.T).sum(axis=1))


def read_only(x: NDArray[Any]) -> NDArray[Any]:
    """Return a flat view that kernels are compiled for once, whether the array may be written to or not."""
    flat = x.reshape(-1).view()
    flat.flags.writeable = False
    return flat


def total(blocks: Blocks, numerics: Numerics, chosen: NDArray[np.bool_] | None = None) -> float:
    """Return the sum of the decoded samples, of the chosen tiles (all by default)."""
    main, side, _, mean_step = blocks.operands
    sums = numerics.kernel("moments", blocks.form).sums
    if chosen is None:
        return float(sums(main, side, 0, len(numerics.grid.tiles), mean_step, numerics.roots))
    edges = np.flatnonzero(np.diff(chosen, prepend=False, append=False))
    spans = edges.reshape(-1, 2).tolist()
    return math.fsum(sums(main, side, start, stop, mean_step, numerics.roots) for start, stop in spans)


def moments(
    blocks: Blocks, numerics: Numerics, center: float, chosen: NDArray[np.bool_] | None = None
) -> NDArray[np.float64]:
    """Return the sum of (sample - center), and the sums of squares of the block means' and the other parts.

    float64, shape (3,): sum of deviations; sum over blocks of cells * (block mean - center)**2; sum of squares of all
    coefficients but the first. `chosen` are flags of the tiles to sum over, all by default.
    """
    main, side, steps, mean_step = blocks.operands
    tiles = numerics.grid.tiles
    out = np.zeros((len(tiles), 3))
    module = numerics.kernel("moments", blocks.form)

    def work(start: int, stop: int) -> None:
        module.moments(main, side, tiles, start, stop, steps, mean_step, numerics.roots, center, out)

    map_ranges(work, len(tiles), _MOMENT_TILES)
    return _sum_tiles(out, chosen)


def products(
    a: Blocks,
    center_a: float,
    b: Blocks,
    center_b: float,
    numerics: Numerics,
    squares: bool,
    chosen: NDArray[np.bool_] | None = None,
) -> NDArray[np.float64]:
    """Return sums over two fields on one grid, float64, shape (8,).

    Deviations of a and of b from their centers; for the block means their squares and products (aa, bb, ab); and the
    same for all other coefficients (aa and bb only if `squares`, else 0). `chosen` are flags of the tiles to sum over.
    """
    tiles = numerics.grid.tiles
    out = np.zeros((len(tiles), 8))
    module = numerics.kernel("moments", a.form)

    def work(start: int, stop: int) -> None:
        module.products(*a.operands, center_a, *b.operands, center_b, tiles, start, stop, numerics.roots, squares, out)

    map_ranges(work, len(tiles), _MOMENT_TILES)
    return _sum_tiles(out, chosen)


def block_moments(
    blocks: Blocks, numerics: Numerics, squares: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64] | None]:
    """Return the mean of each block and, if wanted, the sum of squares of its other coefficients, by block."""
    main, side, steps, mean_step = blocks.operands
    grid = numerics.grid
    means = np.zeros(grid.blocks)
    energies = np.zeros(grid.blocks if squares else (1,) * grid.ndim)
    counts = np.array((1,) * (4 - grid.ndim) + grid.blocks, np.int64)
    module = numerics.kernel("moments", blocks.form)

    def work(start: int, stop: int) -> None:
        module.block_moments(
            main, side, grid.regions, grid.tiles, start, stop, steps, mean_step, numerics.roots, counts, squares,
            means.reshape(-1), energies.reshape(-1),
        )  # fmt: skip

    map_ranges(work, len(grid.tiles), _MOMENT_TILES)
    return means, energies if squares else None


def combine(
    a: PackedBlocks,
    weight_a: float,
    b: PackedBlocks,
    weight_b: float,
    numerics: Numerics,
    exponent: int,
    mean_exponent: int,
) -> tuple[PackedBlocks, float, float] | None:
    """Return ``weight_a * a + weight_b * b``, packed, with steps 2**(exponent + level).

    With it come the largest 2-norm that was rounded away from a block, and the 2-norm of all; None if an integer
    outgrows 32 bits.
    """
    tiles = numerics.grid.tiles
    size = numerics.grid.block_size
    limit = record_limit(size)
    per_job = max(1, min(64, SCRATCH_WORDS // limit))
    stats = np.zeros((len(tiles), 2))
    module = numerics.kernel("combine", "packed")
    result = PackedBlocks(a.words, a.offsets, exponent, mean_exponent)
    steps, mean_step = result.steps, result.mean_step
    sink = Sink(len(tiles), limit * len(tiles))

    def job(start: int, stop: int, out: NDArray[np.uint32], sizes: NDArray[np.int64]) -> bool:
        return bool(
            module.combine(
                a.operands, weight_a, b.operands, weight_b, tiles, start, stop, steps, mean_step, out, sizes,
                stats[start:stop],
            )
        )  # fmt: skip

    if not sink.run(job, limit, per_job, None):
        return None
    return (
        PackedBlocks(sink.words(), sink.offsets, exponent, mean_exponent),
        float(stats[:, 0].max(initial=0.0)),
        math.sqrt(stats[:, 1].sum()),
    )


def combine_fixed(
    a: FixedBlocks, weight_a: float, b: FixedBlocks, weight_b: float, numerics: Numerics
) -> tuple[FixedBlocks, float, float]:
    """Return ``weight_a * a + weight_b * b`` with indices rounded anew, and the norms of what was rounded away."""
    tiles = numerics.grid.tiles
    result = FixedBlocks(np.empty_like(a.indices), np.empty_like(a.scales), a.starts, a.kept)
    stats = np.zeros((len(tiles), 2))
    module = numerics.kernel("fixed", "fixed")
    main_a, side_a = a.operands[:2]
    main_b, side_b = b.operands[:2]

    def work(start: int, stop: int) -> None:
        module.combine_fixed(
            main_a, side_a, weight_a, main_b, side_b, weight_b, tiles, start, stop, float(a.limit),
            result.indices, result.scales, result.starts, result.kept, stats,
        )  # fmt: skip

    map_ranges(work, len(tiles), 8)
    return result, float(stats[:, 0].max(initial=0.0)), math.sqrt(stats[:, 1].sum())


def value_range(x: NDArray[Any], numerics: Numerics) -> tuple[float, float] | None:
    """Return the least and greatest value of a contiguous, non-empty array; None if not all are finite."""
    return scan(x)


def scan(x: NDArray[Any]) -> tuple[float, float] | None:
    """Return what :func:`value_range` does, of an array of float32 or float64."""
    integer = np.int32 if x.dtype.itemsize == 4 else np.int64
    bits = read_only(x).view(integer)
    module = kernel("scan", (1, 1, 1, 1), "identity", x.dtype.name, "packed")

    def work(start: int, stop: int) -> tuple[int, int]:
        least, most = module.scan(bits, start, stop)
        return int(least), int(most)

    found = map_ranges(work, len(bits), 1 << 18)
    keys: NDArray[Any] = np.array([min(least for least, _ in found), max(most for _, most in found)], integer)
    values = np.where(keys < 0, keys ^ np.iinfo(integer).max, keys).view(x.dtype)
    if not np.isfinite(values).all():
        return None
    return float(values[0]), float(values[1])


def to_integers(blocks: PackedBlocks, numerics: Numerics) -> tuple[NDArray[np.int32], NDArray[np.int8]]:
    """Return the integer coefficients and the level of every block, in C order of the blocks.

    int32 of shape (*grid.blocks, block size) and int8 of shape grid.blocks; this takes as much memory as the field.
    """
    grid = numerics.grid
    indices = np.zeros((*grid.blocks, grid.block_size), np.int32)
    levels = np.zeros(grid.blocks, np.int8)
    counts = np.array((1,) * (4 - grid.ndim) + grid.blocks, np.int64)
    module = numerics.kernel("integers", "packed")
    rows, flat = indices.reshape(-1, grid.block_size), levels.reshape(-1)

    def work(start: int, stop: int) -> None:
        module.explode(
            blocks.words, blocks.offsets, grid.regions, grid.tiles, start, stop, counts, rows, flat
        )  # fmt: skip

    map_ranges(work, len(grid.tiles), 8)
    return indices, levels


def from_integers(
    indices: NDArray[np.int32], levels: NDArray[np.int8], numerics: Numerics, exponent: int, mean_exponent: int
) -> PackedBlocks:
    """Pack the integer coefficients of blocks; the inverse of :func:`to_integers`."""
    grid = numerics.grid
    counts = np.array((1,) * (4 - grid.ndim) + grid.blocks, np.int64)
    module = numerics.kernel("integers", "packed")
    limit = record_limit(grid.block_size)
    rows, flat = np.ascontiguousarray(indices).reshape(-1, grid.block_size), np.ascontiguousarray(levels).reshape(-1)
    sink = Sink(len(grid.tiles), limit * len(grid.tiles))

    def job(start: int, stop: int, out: NDArray[np.uint32], sizes: NDArray[np.int64]) -> bool:
        return bool(module.implode(rows, flat, grid.regions, grid.tiles, start, stop, counts, out, sizes))

    sink.run(job, limit, max(1, min(64, SCRATCH_WORDS // limit)), None)
    return PackedBlocks(sink.words(), sink.offsets, exponent, mean_exponent)


def is_sound(blocks: PackedBlocks, numerics: Numerics) -> bool:
    """Say whether records that come from outside can be read without leaving them."""
    tiles = numerics.grid.tiles
    if blocks.offsets.shape != (len(tiles) + 1,) or len(blocks.words) < SPARE_WORDS:
        return False
    return bool(numerics.kernel("integers", "packed").is_sound(blocks.words, blocks.offsets, tiles))


def record_limit(size: int) -> int:
    """Return the greatest number of words of a record of blocks of `size` cells, spare words included."""
    return int(header_limit(TILE, size)) + TILE * (size + 2) + 2 * SPARE_WORDS
