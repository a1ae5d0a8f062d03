"""Tiles to blocks of a field: all of it, or the blocks that a window of cells touches."""

from numba import int32, int64
from numba.extending import register_jitable

from hpcblaz.bodies.records import STRIPS, TILE

from .blocks import four, region_of, store_block, store_tile, to_samples
from .columns import clear_all, load_integers, scale_all, set_first, store_samples
from .constants import IN_REGISTERS, KIND, REAL, SIZE, STRIDE
from .scalars import cuda
from .source import open_tile, unpack_tile
from .tile import record_memory

COLUMNS = SIZE * STRIDE
WIDTHS = STRIPS * SIZE


@register_jitable(forceinline=True)
def decode_tile(
    main, side, tile, count, region, matrices, exponent, mean_exponent, factor, samples, r, line, integers, widths,
    positions, group_bits, slots, owner,
):  # fmt: skip
    """Decode a tile to the columns of `samples`."""
    t = cuda.threadIdx.x
    mask, step, mean = open_tile(
        main, side, tile, count, exponent, mean_exponent, widths, positions, group_bits, slots, owner
    )
    unpack_tile(main, side, tile, count, mask, widths, group_bits, owner, integers)
    if t < count:
        load_integers(integers, t, r, t, REAL(step))
        set_first(r, t, REAL(mean))
        to_samples(r, t, line, region, matrices)
        if factor != REAL(1):
            scale_all(r, t, factor)
    else:
        clear_all(r, t)
    cuda.syncthreads()
    if t < count:
        store_samples(r, t, samples, t)
    cuda.syncthreads()


def decode(
    main, side, regions, tiles, first_tile, stop_tile, matrices, exponent, mean_exponent, factor, offset, out, extent
):
    """Decode tiles of full blocks, held in registers, to their places in the whole field, factor * payload + offset."""
    samples = cuda.shared.array(0, KIND)
    integers = cuda.shared.array(0, int32)
    r = cuda.local.array(SIZE, KIND)
    widths = cuda.shared.array(WIDTHS, int32)
    starts = cuda.shared.array(TILE, int64)
    positions, group_bits, slots, owner = record_memory()
    for tile in range(first_tile + cuda.blockIdx.x, stop_tile, cuda.gridDim.x):
        count = tiles[tile, 2]
        decode_tile(
            main, side, tile, count, (0, 0), matrices, exponent, mean_exponent, factor, samples, r, samples, integers,
            widths, positions, group_bits, slots, owner,
        )  # fmt: skip
        region = region_of(regions, tiles[tile, 0])
        store_tile(samples, region, tiles[tile, 1], count, starts, offset, out, four(extent))
        cuda.syncthreads()


def decode_window(
    main, side, regions, tiles, chosen, first_tile, stop_tile, matrices, exponent, mean_exponent, factor, offset, out,
    low, high, extent, reals, integers_scratch, table,
):  # fmt: skip
    """Decode the tiles chosen[first_tile:stop_tile] into `out`, which holds the cells from `low` to `high`."""
    t = cuda.threadIdx.x
    if IN_REGISTERS:
        samples = cuda.shared.array(0, KIND)
        integers = cuda.shared.array(0, int32)
        r = cuda.local.array(SIZE, KIND)
        line = samples
        widths = cuda.shared.array(WIDTHS, int32)
    else:
        base = cuda.blockIdx.x * (3 * SIZE + 16) * STRIDE
        samples = reals[base : base + COLUMNS]
        r = reals[base + COLUMNS : base + 2 * COLUMNS]
        line = reals[base + 2 * COLUMNS : base + 2 * COLUMNS + 16 * STRIDE]
        integers = integers_scratch[cuda.blockIdx.x * COLUMNS : (cuda.blockIdx.x + 1) * COLUMNS]
        widths = table[cuda.blockIdx.x * STRIPS * SIZE : (cuda.blockIdx.x + 1) * STRIPS * SIZE]
    positions, group_bits, slots, owner = record_memory()
    for i in range(first_tile + cuda.blockIdx.x, stop_tile, cuda.gridDim.x):
        tile = chosen[i]
        count = tiles[tile, 2]
        decode_tile(
            main, side, tile, count, region_of(regions, tiles[tile, 0]), matrices, exponent, mean_exponent, factor,
            samples, r, line, integers, widths, positions, group_bits, slots, owner,
        )  # fmt: skip
        if t < count:
            region, block = region_of(regions, tiles[tile, 0]), tiles[tile, 1] + t
            store_block(samples, t, region, block, offset, out, four(low), four(high), four(extent))
        cuda.syncthreads()
