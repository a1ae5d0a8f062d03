"""Drivers on the CPU that open compressed fields for others: sums over pairs of fields, single blocks, combinations.

Like those of :mod:`hpcblaz.backend.cpu` they share tiles out among threads, and results never depend on how.
"""

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hpcblaz.backend.cpu import SCRATCH_WORDS, Sink, record_limit
from hpcblaz.backend.payload import Blocks, FixedBlocks, Numerics, PackedBlocks
from hpcblaz.backend.threads import map_ranges
from hpcblaz.backend.vectors import PANEL
from hpcblaz.bodies.records import LANES, TILE

_BUFFER_BYTES = 1 << 22  # what a thread unpacks of all fields at a time
_PADDING = 80  # elements between the rows of fields, which would else fall into the same sets of a cache
_JOBS = 256  # parts of a sum, however many threads there are: its order never changes


@dataclass(frozen=True)
class Term:
    """A field ``factor * payload + offset`` among others on one grid."""

    blocks: Blocks
    factor: float
    offset: float


def pair_sums(terms: Sequence[Term], numerics: Numerics, differences: bool) -> tuple[NDArray[np.float64], ...]:
    """Return, for all pairs of fields, the sums of the products (or squared differences) of their coefficients.

    Parameters
    ----------
    terms : sequence of Term
        Of one form, block shape and transform, which is not the identity.
    numerics : Numerics
        Its precision is that of the sums over one block.
    differences : bool
        Squared differences instead of products.

    Returns
    -------
    tuple of numpy.ndarray
        float64, shape (fields, fields): that of coefficient 0 of the blocks, and that of all others.
    """
    grid, form = numerics.grid, terms[0].blocks.form
    fields, size = -(-len(terms) // PANEL) * PANEL, TILE * grid.block_size
    batch = max(1, _BUFFER_BYTES // (fields * size * numerics.dtype.itemsize))
    batches = -(-len(grid.tiles) // batch)
    jobs = min(_JOBS, batches)
    out = np.zeros((2, max(1, jobs), fields, fields))
    extract, pairs = numerics.kernel("extract", form), numerics.kernel("pairs", form)
    sources = [(term.blocks.operands, term.factor, term.offset) for term in terms]

    scratch = threading.local()

    def work(begin: int, end: int) -> None:
        if not hasattr(scratch, "rows"):
            scratch.rows = np.zeros((fields, batch * size + _PADDING), numerics.dtype)
            scratch.means = np.zeros((fields, batch * TILE))
        rows, means = scratch.rows, scratch.means
        for job in range(begin, end):
            for number in range(batches * job // jobs, batches * (job + 1) // jobs):
                start, stop = number * batch, min(len(grid.tiles), (number + 1) * batch)
                for (operands, factor, offset), row, mean in zip(sources, rows, means, strict=False):
                    extract.coefficients(
                        operands[0], operands[1], grid.tiles, start, stop, operands[2], operands[3], numerics.roots,
                        factor, offset, row, mean,
                    )  # fmt: skip
                count = (stop - start) * (TILE // LANES)
                pairs.pairs(means.reshape(-1), fields, batch * TILE, count, differences, out[0, job])
                pairs.pairs(rows.reshape(-1), fields, rows.shape[1], count * grid.block_size, differences, out[1, job])

    map_ranges(work, jobs)
    sums = np.ascontiguousarray(np.moveaxis(out, 1, -1)).sum(axis=-1)[:, : len(terms), : len(terms)]
    whole = np.triu(sums) + np.swapaxes(np.triu(sums, 1), -1, -2)
    return whole[0], whole[1]


def block_ranges(blocks: Blocks, numerics: Numerics) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return, for each block in C order, coefficient 0 over the root of its cells, and what the others can add to it.

    The latter bounds the magnitude of their part of any sample, but for rounding: by the sum of their magnitudes times
    the largest of their basis functions, or by their 2-norm.
    """
    grid = numerics.grid
    peaks = np.abs(numerics.matrices.astype(np.float64)).max(axis=2) * (1 + 2.0**-20)
    counts = np.array((1,) * (4 - grid.ndim) + grid.blocks, np.int64)
    centers, spreads = np.zeros((2, math.prod(grid.blocks)))
    main, side, steps, mean_step = blocks.operands
    module = numerics.kernel("extract", blocks.form)

    def work(start: int, stop: int) -> None:
        module.block_ranges(
            main, side, grid.regions, grid.tiles, start, stop, steps, mean_step, numerics.roots, counts, peaks, centers,
            spreads,
        )  # fmt: skip

    map_ranges(work, len(grid.tiles), 16)
    return centers, spreads


def decode_blocks(blocks: Blocks, numerics: Numerics, numbers: NDArray[np.int64]) -> NDArray[np.floating]:
    """Return the samples of some blocks: shape (blocks, block size), NaN where a partial block has no cell.

    Parameters
    ----------
    blocks : Blocks
    numerics : Numerics
    numbers : numpy.ndarray
        int64: which blocks, in C order of the grid; none twice.
    """
    grid = numerics.grid
    targets = np.full(math.prod(grid.blocks), -1, np.int64)
    targets[numbers] = np.arange(len(numbers))
    out = np.empty((len(numbers), grid.block_size), numerics.dtype)
    counts = np.array((1,) * (4 - grid.ndim) + grid.blocks, np.int64)
    chosen = np.unique(grid.tiles_of(numbers))
    main, side, steps, mean_step = blocks.operands
    module = numerics.kernel("extract", blocks.form)

    def work(start: int, stop: int) -> None:
        module.decode_blocks(
            main, side, grid.regions, grid.tiles, chosen, start, stop, numerics.matrices, steps, mean_step, counts,
            targets, out,
        )  # fmt: skip

    map_ranges(work, len(chosen), 4)
    return out


def combine_many(
    terms: Sequence[Term], numerics: Numerics, exponent: int, mean_exponent: int, finer: int
) -> tuple[Blocks, float, float] | None:
    """Return the sum of some fields (offsets are for all transforms but the identity), and the norms of what is lost.

    Coefficients are summed in double precision and rounded once. Packed fields get the steps
    ``2**(exponent + level)``: a block gets one that is `finer` powers of two below the finest that a field has there.
    Fixed ones get new scales. None if an integer outgrows 32 bits.
    """
    first = terms[0].blocks
    tiles, size = numerics.grid.tiles, numerics.grid.block_size
    extract, module = numerics.kernel("extract", first.form), numerics.kernel("requantise", first.form)
    stats = np.zeros((len(tiles), 2))

    def total(start: int, stop: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        c, least = np.zeros((stop - start) * TILE * size), np.full((stop - start) * TILE, np.inf)
        for term in terms:
            main, side, steps, mean_step = term.blocks.operands
            extract.add_coefficients(
                main, side, tiles, start, stop, steps, mean_step, numerics.roots, term.factor, term.offset, c, least
            )
        return c, least * 2.0**-finer

    def norms() -> tuple[float, float]:
        return float(stats[:, 0].max(initial=0.0)), math.sqrt(stats[:, 1].sum())

    per_job = max(1, min(64, SCRATCH_WORDS // (TILE * size)))
    if isinstance(first, FixedBlocks):
        scales = np.empty(first.scales.shape, numerics.dtype)
        result = FixedBlocks(np.empty_like(first.indices), scales, first.starts, first.kept)

        def work(begin: int, end: int) -> None:
            for start in range(begin, end, per_job):
                stop = min(end, start + per_job)
                module.requantise_fixed(
                    total(start, stop)[0], tiles, start, stop, float(first.limit), result.indices, result.scales,
                    result.starts, result.kept, stats,
                )  # fmt: skip

        map_ranges(work, len(tiles), 8)
        return result, *norms()
    limit = record_limit(size)
    packed = PackedBlocks(first.words, first.offsets, exponent, mean_exponent)
    sink = Sink(len(tiles), limit * len(tiles))

    def job(start: int, stop: int, out: NDArray[np.uint32], sizes: NDArray[np.int64]) -> bool:
        c, least = total(start, stop)
        return bool(
            module.requantise(
                c, least, tiles, start, stop, packed.steps, packed.mean_step, out, sizes, stats[start:stop]
            )
        )

    if not sink.run(job, limit, max(1, min(per_job, SCRATCH_WORDS // limit)), None):
        return None
    return PackedBlocks(sink.words(), sink.offsets, exponent, mean_exponent), *norms()
