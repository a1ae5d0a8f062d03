from __future__ import annotations

import math
import pickle
import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcblaz.errors import LayoutError
from hpcblaz.mpi import Layout

SHAPES = st.integers(1, 4).flatmap(
    lambda ndim: st.tuples(st.tuples(*[st.integers(0, 13)] * ndim), st.tuples(*[st.integers(1, 5)] * ndim))
)


@given(shapes=SHAPES, size=st.integers(1, 12))
def test_every_cell_has_one_owner(shapes: tuple[tuple[int, ...], tuple[int, ...]], size: int) -> None:
    shape, block = shapes
    owners = np.full(shape, -1)
    for rank in range(size):
        layout = Layout(shape, block_shape=block, rank=rank, size=size)
        part = layout.local(owners)
        assert part.shape == layout.local_shape == layout.shape_of(rank)
        assert (part == -1).all()
        part[...] = rank
    assert (owners >= 0).all()
    layout = Layout(shape, block_shape=block, size=size)
    for cell in list(np.ndindex(*shape))[::7]:
        assert layout.owner(cell) == owners[cell]


@given(shapes=SHAPES, size=st.integers(1, 12))
def test_parts_begin_and_end_at_blocks(shapes: tuple[tuple[int, ...], tuple[int, ...]], size: int) -> None:
    shape, block = shapes
    layout = Layout(shape, block_shape=block, size=size)
    for rank in range(size):
        for part, extent, side in zip(layout.slices_of(rank), shape, block, strict=True):
            assert 0 <= part.start <= part.stop <= extent
            assert part.start % side == 0 or part.start == part.stop == extent
            assert part.stop % side == 0 or part.stop == extent


@given(shapes=SHAPES, splits=st.lists(st.integers(1, 4), min_size=4, max_size=4))
def test_blocks_of_an_axis_are_dealt_evenly(shapes: tuple[tuple[int, ...], tuple[int, ...]], splits: list[int]) -> None:
    shape, block = shapes
    chosen = tuple(splits[: len(shape)])
    layout = Layout(shape, block_shape=block, splits=chosen, size=math.prod(chosen))
    assert layout.splits == chosen
    for axis, side in enumerate(block):
        counts = [-(-layout.shape_of(rank)[axis] // side) for rank in range(layout.size)]
        assert max(counts) - min(counts) <= 1


@given(shapes=SHAPES, size=st.integers(1, 16))
def test_no_other_split_has_a_smaller_largest_part(shapes: tuple[tuple[int, ...], tuple[int, ...]], size: int) -> None:
    shape, block = shapes

    def largest(layout: Layout) -> int:
        return max(math.prod(layout.shape_of(rank)) for rank in range(size))

    layout = Layout(shape, block_shape=block, size=size)
    candidates = [c for c in np.ndindex(*(size + 1,) * len(shape)) if math.prod(c) == size] if len(shape) < 4 else []
    for candidate in candidates:
        other = Layout(shape, block_shape=block, size=size, splits=candidate)
        assert (largest(layout), [-s for s in layout.splits]) <= (largest(other), [-s for s in candidate])


@pytest.mark.parametrize(
    ("shape", "block", "size", "splits"),
    [
        ((64, 64), (4, 4), 4, (4, 1)),  # slabs where they are as good
        ((8, 64), (4, 4), 4, (2, 2)),
        ((4, 64), (4, 4), 4, (1, 4)),
        ((16, 16, 16), (4, 4, 4), 8, (4, 2, 1)),
        ((4, 4), (4, 4), 3, (3, 1)),  # more ranks than blocks
        ((0, 8), (4, 4), 2, (2, 1)),
        ((10**6, 10**6, 10**6), (4, 4, 4), 1000, (1000, 1, 1)),
    ],
)
def test_default_splits(shape: tuple[int, ...], block: tuple[int, ...], size: int, splits: tuple[int, ...]) -> None:
    assert Layout(shape, block_shape=block, size=size).splits == splits


def test_attributes() -> None:
    layout = Layout((10, 8), block_shape=(4, 4), splits=(2, 2), rank=3, size=4)
    assert layout.global_shape == (10, 8)
    assert layout.block_shape == (4, 4)
    assert (layout.rank, layout.size, layout.ndim, layout.comm) == (3, 4, 2, None)
    assert layout.offset == layout.offset_of(3) == (8, 4)
    assert layout.local_shape == (2, 4)
    assert layout.slices == (slice(8, 10), slice(4, 8))
    assert repr(layout) == "Layout((10, 8), block_shape=(4, 4), splits=(2, 2), rank=3, size=4)"
    assert Layout((10, 8)).block_shape == Layout((10, 8), block_shape=Layout((10, 8)).block_shape).block_shape


def test_comparison_hash_and_pickle() -> None:
    comm = SimpleNamespace(rank=1, size=2)
    layout = Layout((10, 8), comm, block_shape=(4, 4))
    same = Layout(np.array([10, 8]), block_shape=[4, 4], rank=1, size=2)  # type: ignore[arg-type]
    assert layout.comm is comm
    assert layout == same
    assert hash(layout) == hash(same)
    assert layout != Layout((10, 8), block_shape=(4, 4), rank=0, size=2)
    assert layout != "layout"
    copy = pickle.loads(pickle.dumps(layout))
    assert copy == layout
    assert copy.comm is None


def test_local_is_a_view() -> None:
    array = np.zeros((8, 8))
    Layout((8, 8), block_shape=(4, 4), rank=1, size=2).local(array)[...] = 1
    assert array.sum() == 32


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"global_shape": ()}, "at least one axis"),
        ({"global_shape": (-1,)}, "integers of at least 0"),
        ({"global_shape": (1.5,)}, "sequence of integers"),
        ({"global_shape": 3}, "sequence of integers"),
        ({"global_shape": (8, 8), "block_shape": (4,)}, "one extent for each of the 2 axes"),
        ({"global_shape": (8,), "block_shape": (0,)}, "integers of at least 1"),
        ({"global_shape": (8, 8), "size": 4, "splits": (3, 1)}, "product is the number of ranks, 4; got"),
        ({"global_shape": (8, 8), "size": 4, "splits": (4,)}, "2 numbers, one for each axis"),
        ({"global_shape": (8,), "rank": 2, "size": 2}, "0 <= rank < 2, got 2"),
        ({"global_shape": (8,), "rank": 0, "size": 0}, "integers of at least 1"),
        ({"global_shape": (8,), "comm": "world"}, "integer rank and size; got 'world'"),
        ({"global_shape": (8,), "comm": SimpleNamespace(rank=0, size=1), "size": 1}, "got both"),
    ],
)
def test_senseless_arguments_are_refused(arguments: dict[str, Any], text: str) -> None:
    with pytest.raises(LayoutError, match=text):
        Layout(**{"block_shape": (4,) * np.size(arguments["global_shape"])} | arguments)


def test_senseless_questions_are_refused() -> None:
    layout = Layout((8, 8), block_shape=(4, 4), size=2)
    with pytest.raises(LayoutError, match="0 <= rank < 2, got 2"):
        layout.slices_of(2)
    with pytest.raises(LayoutError, match="cell inside an array of shape"):
        layout.owner((8, 0))
    with pytest.raises(LayoutError, match="cell inside an array of shape"):
        layout.owner((0,))
    with pytest.raises(LayoutError, match="at least 0"):
        layout.owner((-1, 0))
    with pytest.raises(LayoutError, match="pass the whole array"):
        layout.local(np.zeros((4, 8)))


def test_needs_no_mpi() -> None:
    code = (
        "import sys; sys.modules['mpi4py'] = None; from hpcblaz.mpi import Layout; "
        "print(Layout((8,), block_shape=(4,), size=2).splits)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout.strip() == "(2,)", done.stderr
