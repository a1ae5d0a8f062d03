from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcblaz.backend.blocks import BlockGrid, default_block_shape
from hpcblaz.bodies.records import TILE
from hpcblaz.bodies.transforms import SIDES
from hpcblaz.errors import CodecError, ShapeError

EXTENTS = {1: 5000, 2: 70, 3: 16, 4: 9}


@st.composite
def grids(draw: st.DrawFn) -> BlockGrid:
    ndim = draw(st.integers(1, 4))
    shape = draw(st.tuples(*[st.integers(0, EXTENTS[ndim])] * ndim))
    sides = draw(st.tuples(*[st.sampled_from(SIDES)] * ndim).filter(lambda s: math.prod(s) <= 4096))
    return BlockGrid(shape, sides)


def boxes(grid: BlockGrid) -> list[tuple[int, tuple[slice, ...]]]:
    """Every block as (tile, its cells on four axes), found by walking over regions and tiles."""
    found = []
    for tile, (region, first, count) in enumerate(grid.tiles):
        low, counts, cells = grid.regions[region].reshape(3, 4)
        for number in range(first, first + count):
            place = low + np.array(np.unravel_index(number, counts)) * np.array(grid.sides)
            found.append((tile, tuple(slice(int(p), int(p + n)) for p, n in zip(place, cells, strict=True))))
    return found


@settings(max_examples=150)
@given(grid=grids())
def test_blocks_cover_every_cell_once(grid: BlockGrid) -> None:
    times = np.zeros(tuple(grid.shape4), np.int8)
    for tile, box in boxes(grid):
        times[box] += 1
        assert times[box].size == grid.block_cells[tile]  # nothing hangs over the edge
    assert (times == 1).all()
    assert len(boxes(grid)) == (math.prod(grid.blocks) if grid.size else 0)


@settings(max_examples=100)
@given(grid=grids())
def test_tiles_are_small_and_in_order(grid: BlockGrid) -> None:
    assert grid.regions.shape[1:] == (12,)
    assert len(grid.regions) <= 2**grid.ndim
    assert (grid.tiles[:, 2] >= 1).all()
    assert (grid.tiles[:, 2] <= TILE).all()
    assert grid.tiles.tolist() == sorted(grid.tiles.tolist())
    for region, row in enumerate(grid.regions):
        assert grid.tiles[grid.tiles[:, 0] == region, 2].sum() == row[4:8].prod()


@settings(max_examples=150)
@given(grid=grids(), data=st.data())
def test_tiles_touching_is_exact(grid: BlockGrid, data: st.DataObject) -> None:
    low, high = [], []
    for n in grid.shape4:
        a, b = sorted(data.draw(st.tuples(st.integers(0, int(n)), st.integers(0, int(n)))))
        low.append(a)
        high.append(b)
    window = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    inside = np.zeros(tuple(grid.shape4), bool)
    inside[window] = True
    expected = sorted({tile for tile, box in boxes(grid) if inside[box].any()})
    assert grid.tiles_touching(np.array(low), np.array(high)).tolist() == expected


@settings(max_examples=100)
@given(grid=grids())
def test_tiles_of_blocks(grid: BlockGrid) -> None:
    expected = np.full(math.prod(grid.blocks), -1)
    for tile, box in boxes(grid):
        place = tuple(part.start // side for part, side in zip(box[4 - grid.ndim :], grid.block_shape, strict=True))
        expected[np.ravel_multi_index(place, grid.blocks)] = tile
    np.testing.assert_array_equal(grid.tiles_of(np.arange(len(expected))), expected)


def test_a_big_grid_needs_no_more_than_its_tiles() -> None:
    grid = BlockGrid((4096, 4096, 4096), (4, 4, 4))
    assert grid.size == 2**36
    assert len(grid.tiles) == 2**30 // TILE
    touched = grid.tiles_touching(np.array([0, 9, 9, 9]), np.array([1, 10, 10, 10]))
    assert len(touched) == 1


@pytest.mark.parametrize(("ndim", "sides"), [(1, (16,)), (2, (8, 8)), (3, (4, 4, 4)), (4, (4, 4, 4, 4))])
def test_default_block_shapes(ndim: int, sides: tuple[int, ...]) -> None:
    assert default_block_shape(ndim) == sides
    assert BlockGrid((5,) * ndim, sides).block_size == math.prod(sides)


@pytest.mark.parametrize("ndim", [0, 5])
def test_other_numbers_of_axes_are_refused(ndim: int) -> None:
    with pytest.raises(ShapeError, match=f"expected an array of 1 to 4 axes, got {ndim}"):
        default_block_shape(ndim)
    with pytest.raises(ShapeError, match=f"expected an array of 1 to 4 axes, got {ndim}"):
        BlockGrid((3,) * ndim, (4,) * ndim)


@pytest.mark.parametrize(
    ("sides", "text"),
    [
        ((4,), "a block side for each of the 2 axes"),
        ((4, 3), "block sides out of"),
        ((4, 32), "block sides out of"),
        ((0, 4), "block sides out of"),
    ],
)
def test_senseless_block_shapes_are_refused(sides: tuple[int, ...], text: str) -> None:
    with pytest.raises(CodecError, match=f"expected {text}.*got block_shape="):
        BlockGrid((9, 9), sides)


def test_too_big_blocks_are_refused() -> None:
    assert BlockGrid((9, 9, 9), (16, 16, 16)).block_size == 4096
    with pytest.raises(CodecError, match="expected at most 4096 cells a block, got"):
        BlockGrid((9, 9, 9, 9), (16, 16, 16, 2))
