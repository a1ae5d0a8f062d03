"""Boxes cut out of parts and put together again are what the whole field has there."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hpcblaz as hb
from hpcblaz.errors import FileFormatError
from hpcblaz.fields import boxes as boxes_module
from hpcblaz.fields.boxes import (
    Box,
    array_of,
    chunks_sharing,
    held_part,
    keeper,
    packed,
    put_together,
    ranks_sharing,
    unpacked,
)
from hpcblaz.fields.zarr_store import chunk_shape_for, chunks_of

SIDES = (8, 8)
CODECS: list[dict[str, Any]] = [
    {"tolerance": 0.1, "codec": hb.ToleranceCodec(SIDES)},
    {"codec": hb.BlockCodec(SIDES, index_dtype="int8", keep=0.5)},
]


@st.composite
def layouts(draw: st.DrawFn) -> hb.Layout:
    shape = draw(st.tuples(st.integers(0, 70), st.integers(0, 50)))
    splits = draw(st.tuples(st.integers(1, 4), st.integers(1, 3)))
    return hb.Layout(shape, block_shape=SIDES, splits=splits, rank=0, size=splits[0] * splits[1])


@st.composite
def aligned_boxes(draw: st.DrawFn, shape: tuple[int, ...]) -> Box:
    first, extents = [], []
    for n, side in zip(shape, SIDES, strict=True):
        begin = draw(st.integers(0, max(0, -(-n // side) - 1))) * side
        end = min(n, begin + side * draw(st.integers(1, 9)))
        first.append(begin)
        extents.append(max(0, end - begin))
    return Box(tuple(first), tuple(extents))


@settings(max_examples=50)
@given(data=st.data(), layout=layouts(), kind=st.sampled_from(CODECS), whole=st.booleans())
def test_parts_give_back_any_box(data: st.DataObject, layout: hb.Layout, kind: dict[str, Any], whole: bool) -> None:
    x = np.random.default_rng(1).normal(size=layout.global_shape).cumsum(0).astype(np.float32)
    x[3:6, 1:9], x[-1:, -2:] = np.nan, np.inf
    a = hb.compress(x, **kind)
    values = a.decompress()
    boxes = [Box.of(layout.slices_of(rank)) for rank in range(layout.size)]
    parts = [put_together([held_part(a)], box, a._numerics, a.codec) for box in boxes]
    parts = [unpacked(packed(a, part), part.first) for part in parts]  # as they travel
    box = Box((0, 0), a.shape) if whole else data.draw(aligned_boxes(a.shape))
    found = array_of(a, put_together(parts, box, a._numerics, a.codec))
    np.testing.assert_array_equal(found.decompress(), values[box.slices])
    np.testing.assert_array_equal(found.missing(), ~np.isfinite(x[box.slices]))
    assert found.error.max_abs == a.error.max_abs or not box.size
    assert found.error.l2 <= a.error.l2


@pytest.mark.parametrize("kind", CODECS, ids=["tolerance", "block"])
@pytest.mark.parametrize("width", [128, 136, 131])
def test_slabs_of_whole_tiles_are_put_together_as_they_are(
    kind: dict[str, Any], width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where slabs begin and end with tiles records are copied; elsewhere they are packed anew: the same integers."""
    x = np.random.default_rng(2).normal(size=(300, 8 * width)).cumsum(0).astype(np.float32)
    x[17, 3:9] = np.nan
    a = hb.compress(x, **kind)
    values = a.decompress()
    bounds = [0, 64, 192, 256, 300]
    boxes = [Box((low, 0), (high - low, x.shape[1])) for low, high in itertools.pairwise(bounds)]
    parts = [put_together([held_part(a)], box, a._numerics, a.codec) for box in boxes]
    for low, high in [(0, 300), (64, 300), (128, 256), (192, 224), (128, 300), (0, 64)]:
        box = Box((low, 0), (high - low, x.shape[1]))
        with monkeypatch.context() as patch:
            if width == 128:  # a row of blocks is a tile
                patch.setattr(boxes_module, "regroup", None)
            found = array_of(a, put_together(parts[::-1], box, a._numerics, a.codec))
        np.testing.assert_array_equal(found.decompress(), values[low:high])
        alone = put_together([held_part(a)], box, a._numerics, a.codec)
        assert packed(a, alone) == packed(a, held_part(found, box.first))


@settings(max_examples=100)
@given(data=st.data(), layout=layouts())
def test_every_chunk_has_one_writer_that_has_cells_of_it(data: st.DataObject, layout: hb.Layout) -> None:
    chunk = data.draw(st.tuples(st.integers(1, 9).map(lambda n: 8 * n), st.integers(1, 9).map(lambda n: 8 * n)))
    owners = np.full(layout.global_shape, -1)
    for rank in range(layout.size):
        owners[layout.slices_of(rank)] = rank
    seen: dict[tuple[int, ...], list[int]] = {}
    for rank in range(layout.size):
        for index, box in chunks_sharing(layout.global_shape, chunk, Box.of(layout.slices_of(rank))):
            sharing = ranks_sharing(layout, box)
            assert dict(sharing) == {
                int(r): int((owners[box.slices] == r).sum()) for r in np.unique(owners[box.slices])
            }
            assert rank in dict(sharing) and dict(sharing)[keeper(sharing)] == max(dict(sharing).values())
            seen.setdefault(index, []).append(keeper(sharing))
    wanted = [index for index, _, extents in chunks_of(layout.global_shape, chunk) if 0 not in extents]
    assert sorted(seen) == sorted(wanted)
    assert all(len(set(writers)) == 1 for writers in seen.values())


@given(layout=layouts(), cells=st.integers(1, 400))
def test_default_chunks_are_whole_blocks(layout: hb.Layout, cells: int) -> None:
    if min(layout.global_shape) == 0:
        return
    chunk = chunk_shape_for(layout, cells)
    for n, side, extent, part in zip(chunk, SIDES, layout.global_shape, layout.shape_of(0), strict=True):
        assert n >= 1 and (n % side == 0 or n >= extent) and n <= max(side, -(-part // side) * side)
    assert np.prod(np.minimum(chunk, layout.global_shape)) <= max(cells, np.prod(SIDES))


def test_a_damaged_message_is_refused() -> None:
    a = hb.compress(np.arange(64.0).reshape(8, 8), tolerance=1e-3)
    record = bytearray(packed(a, held_part(a)))
    record[-3] ^= 1
    with pytest.raises(FileFormatError, match="message: expected the checksum"):
        unpacked(record, (0, 0))
