from __future__ import annotations

from typing import Any

import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import basic_indices

import hpcblaz as hb
from hpcblaz.backend.blocks import BlockGrid
from hpcblaz.errors import UnsupportedOperationError

ARRAYS: dict[str, tuple[hb.CompressedArray, Any]] = {}


def example(case: oracles.Case) -> tuple[hb.CompressedArray, Any]:
    if case.name not in ARRAYS:
        shape = {1: (77,), 2: (21, 34), 3: (9, 10, 11), 4: (5, 6, 3, 7)}[case.ndim]
        x = oracles.field("noise", shape, 1).astype(case.dtypes[0])
        a = hb.compress(x, codec=case.codec) if case.fixed else hb.compress(x, tolerance=1e-2, codec=case.codec)
        a = 2 * a - 1
        ARRAYS[case.name] = a, a.decompress()
    return ARRAYS[case.name]


@pytest.mark.parametrize("case", [*oracles.PACKED, oracles.INT16_2D], ids=lambda case: case.name)
@settings(max_examples=60)
@given(data=st.data())
def test_any_basic_index_takes_the_same_values(case: oracles.Case, data: st.DataObject) -> None:
    a, values = example(case)
    index = data.draw(basic_indices(values.shape, allow_newaxis=True, max_dims=8))
    expected, found = values[index], a[index]
    assert np.shape(found) == np.shape(expected)
    np.testing.assert_array_equal(found, expected)
    assert np.asarray(found).dtype == a.dtype


@pytest.mark.parametrize(
    "index",
    [3, (3, 5), (slice(8, 16), slice(0, 8)), (slice(9, 10), -1), (slice(None, None, 7), 3), (slice(3, 3),), (..., 33)],
)
def test_only_tiles_with_wanted_blocks_are_decoded(index: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    x = oracles.field("noise", (300, 340), 1).astype(np.float32)
    a = hb.compress(x, tolerance=1e-2, codec=oracles.DCT_2D.codec)
    values = a.decompress()
    asked: list[Any] = []
    original = BlockGrid.tiles_touching

    def spy(grid: BlockGrid, low: Any, high: Any) -> Any:
        tiles = original(grid, low, high)
        asked.append((low.tolist(), high.tolist(), len(tiles)))
        return tiles

    monkeypatch.setattr(BlockGrid, "tiles_touching", spy)
    np.testing.assert_array_equal(a[index], values[index])
    touched = np.arange(x.size).reshape(x.shape)[index].ravel()
    if not touched.size:
        assert not asked or asked[0][2] == 0
        return
    rows, columns = np.unravel_index(touched, x.shape)
    ((low, high, tiles),) = asked
    assert (low, high) == ([0, 0, rows.min(), columns.min()], [1, 1, rows.max() + 1, columns.max() + 1])
    assert tiles <= len(a._numerics.grid.tiles) // (2 if index == (3, 5) else 1)


def test_damage_outside_the_window_does_not_matter() -> None:
    """Proof that other tiles are not read: they may hold anything."""
    x = oracles.field("noise", (64, 800), 1).astype(np.float32)
    a = hb.compress(x, tolerance=1e-2, codec=oracles.DCT_2D.codec)
    expected = a.decompress()[:8, :8]
    blocks = a._blocks
    words, offsets = blocks.words.copy(), blocks.offsets  # type: ignore[union-attr]
    words[offsets[1] + 32 : -64] = 0xFFFFFFFF
    damaged = a._replace(blocks=type(blocks)(words, offsets, blocks.exponent, blocks.mean_exponent))  # type: ignore[union-attr,call-arg,arg-type]
    np.testing.assert_array_equal(damaged[:8, :8], expected)


@pytest.mark.parametrize("index", [21, -22, (0, 34), (0, 0, 0), "a", 1.0, (..., ...), (0, "b")])
def test_indices_that_do_not_fit(index: Any) -> None:
    a, _ = example(oracles.DCT_2D)
    with pytest.raises(IndexError, match="expected"):
        a[index]


@pytest.mark.parametrize(
    "index", [[1, 2], np.array([1, 2]), True, np.array([True, False]), (0, [1]), np.bool_(True), []]
)
def test_advanced_indices_are_refused(index: Any) -> None:
    a, _ = example(oracles.DCT_2D)
    with pytest.raises(UnsupportedOperationError, match="expected integers and slices in an index, got"):
        a[index]


def test_integers_of_any_kind_and_empty_arrays() -> None:
    a, values = example(oracles.DCT_2D)
    assert a[np.int8(3), np.uint64(2)] == values[3, 2]
    assert a[np.array(3)].shape == (34,)
    with pytest.raises(ValueError, match="step"):
        a[::0]
    empty = hb.compress(np.zeros((0, 5)), tolerance=1)
    assert empty[:, 2:4].shape == (0, 2)
    assert empty[...].shape == (0, 5)
    with pytest.raises(IndexError):
        empty[0]
