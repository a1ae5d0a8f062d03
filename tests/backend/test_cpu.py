from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hpcblaz as hb
from hpcblaz.backend import cpu
from hpcblaz.backend.threads import threads

PACKED = pytest.mark.parametrize("case", oracles.PACKED, ids=lambda case: case.name)
CASES = pytest.mark.parametrize("case", oracles.CASES, ids=lambda case: case.name)


def example(case: oracles.Case, kind: str = "noise", tolerance: float = 1e-3) -> tuple[Any, hb.CompressedArray]:
    shape = {1: (4321,), 2: (131, 75), 3: (21, 18, 37), 4: (9, 7, 11, 10)}[case.ndim]
    x = oracles.to_dtype(oracles.field(kind, shape, 5), case.dtypes[0])
    if case.fixed:
        return x, hb.compress(x, codec=case.codec)
    a = hb.compress(x, tolerance=tolerance, codec=case.codec)
    assert a._numerics.precision == case.precision
    return x, a


def integers_of(a: hb.CompressedArray) -> tuple[Any, Any]:
    assert isinstance(a._blocks, cpu.PackedBlocks)
    return cpu.to_integers(a._blocks, a._numerics)


@PACKED
@pytest.mark.parametrize("kind", ["noise", "spikes", "smooth", "zeros"])
def test_integers_survive(case: oracles.Case, kind: str) -> None:
    _, a = example(case, kind)
    blocks = a._blocks
    assert isinstance(blocks, cpu.PackedBlocks)
    indices, levels = cpu.to_integers(blocks, a._numerics)
    again = cpu.from_integers(indices, levels, a._numerics, blocks.exponent, blocks.mean_exponent)
    np.testing.assert_array_equal(cpu.decode(again, a._numerics, 1.0, 0.0), cpu.decode(blocks, a._numerics, 1.0, 0.0))
    assert cpu.is_sound(again, a._numerics)
    indices_again, levels_again = cpu.to_integers(again, a._numerics)
    np.testing.assert_array_equal(indices_again, indices)
    busy = (indices[..., 1:] != 0).any(axis=-1)
    np.testing.assert_array_equal(levels_again[busy], levels[busy])


@settings(max_examples=40)
@given(data=st.data())
def test_any_integers_survive(data: st.DataObject) -> None:
    case = data.draw(st.sampled_from(oracles.PACKED))
    shape = data.draw(oracles.shapes(case.ndim))
    a = hb.compress(np.zeros(shape, case.dtypes[0]), tolerance=1.0, codec=case.codec)
    numerics = cpu.Numerics(a._numerics.grid, a._numerics.transform, case.precision)
    grid = numerics.grid
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    width = data.draw(st.sampled_from([1, 2, 7, 14, 15, 16, 30, 31]))
    size = (*grid.blocks, grid.block_size)
    indices = rng.integers(-(2**width), 2**width, size).astype(np.int32)
    indices[rng.random(size) < data.draw(st.sampled_from([0.0, 0.5, 0.98, 1.0]))] = 0
    levels = rng.integers(0, 16, grid.blocks).astype(np.int8)
    blocks = cpu.from_integers(indices, levels, numerics, -3, -2)
    assert cpu.is_sound(blocks, numerics)
    found, found_levels = cpu.to_integers(blocks, numerics)
    np.testing.assert_array_equal(found, indices)
    busy = (indices[..., 1:] != 0).any(axis=-1)
    np.testing.assert_array_equal(found_levels[busy], levels[busy])


@CASES
def test_windows_are_parts_of_the_whole(case: oracles.Case) -> None:
    _, a = example(case)
    a = 3 * a + 1
    whole = cpu.decode(a._blocks, a._numerics, a._factor, a._offset)
    rng = np.random.default_rng(1)
    for _ in range(25):
        ends = np.sort([rng.integers(0, n + 1, 2) for n in whole.shape], axis=1)
        low, high = (tuple(int(i) for i in side) for side in ends.T)
        window = cpu.decode(a._blocks, a._numerics, a._factor, a._offset, low, high)
        np.testing.assert_array_equal(window, whole[tuple(slice(*pair) for pair in ends)])


def test_decoding_into_a_given_array() -> None:
    _, a = example(oracles.DCT_2D)
    out = np.full(a.shape, np.nan, np.float32)
    assert cpu.decode(a._blocks, a._numerics, 1.0, 0.0, out=out) is out
    np.testing.assert_array_equal(out, a.decompress())


def parts(blocks: Any) -> list[bytes]:
    if isinstance(blocks, cpu.PackedBlocks):
        return [blocks.words.tobytes(), blocks.offsets.tobytes()]
    return [blocks.indices.tobytes(), blocks.scales.tobytes()]


@CASES
def test_bytes_and_answers_do_not_depend_on_threads(case: oracles.Case) -> None:
    results = []
    for count in (1, 2, 3):
        with threads(count):
            x, a = example(case)
            y = (
                hb.compress(x[::-1], codec=case.codec)
                if case.fixed
                else hb.compress(x[::-1], tolerance=1e-2, codec=case.codec)
            )
            s = a - 2 * y
            numbers = [s.mean(), s.norm(), s.variance(), hb.dot(a, y), hb.structural_similarity(a, y)]
            results.append(
                [*parts(a._blocks), *parts(s._blocks), s.decompress().tobytes(), s.block_variance().values.tobytes()]
                + [(float(n), n.error) for n in numbers]
                + [a.error, s.error]
            )
    assert results[0] == results[1] == results[2]


@PACKED
def test_damaged_records_are_refused_or_read_without_harm(case: oracles.Case) -> None:
    _, a = example(case, "spikes")
    blocks, numerics = a._blocks, a._numerics
    assert isinstance(blocks, cpu.PackedBlocks)
    assert cpu.is_sound(blocks, numerics)
    rng = np.random.default_rng(2)
    used = int(blocks.offsets[-1])
    refused = 0
    for trial in range(300):
        words = blocks.words.copy()
        start = int(rng.choice(blocks.offsets[:-1])) if trial % 2 else 0
        for _ in range(int(rng.integers(1, 4))):
            # half of the damage hits headers, which decide what is read
            place = min(start + int(rng.integers(0, 40)), used - 1) if trial % 2 else int(rng.integers(0, used))
            words[place] ^= np.uint32(1 << int(rng.integers(0, 32))) if trial % 3 else np.uint32(rng.integers(0, 2**32))
        damaged = replace(blocks, words=words)
        if not cpu.is_sound(damaged, numerics):
            refused += 1
            continue
        with np.errstate(all="ignore"):
            cpu.decode(damaged, numerics, 1.0, 0.0)
            cpu.total(damaged, numerics)
            cpu.moments(damaged, numerics, 0.0)
            cpu.to_integers(damaged, numerics)
    assert refused > 30


@PACKED
def test_wrong_offsets_and_lengths_are_refused(case: oracles.Case) -> None:
    _, a = example(case)
    blocks, numerics = a._blocks, a._numerics
    assert isinstance(blocks, cpu.PackedBlocks)
    for i in {0, 1, len(blocks.offsets) // 2, len(blocks.offsets) - 1}:
        for change in (1, -1, 2**40, -(2**40)):
            offsets = blocks.offsets.copy()
            offsets[i] += change
            assert not cpu.is_sound(replace(blocks, offsets=offsets), numerics)
    assert not cpu.is_sound(replace(blocks, offsets=blocks.offsets[:-1]), numerics)
    assert not cpu.is_sound(replace(blocks, words=blocks.words[:-1]), numerics)
    assert not cpu.is_sound(replace(blocks, words=blocks.words[:0]), numerics)
    assert not cpu.is_sound(replace(blocks, words=np.full_like(blocks.words, 0xFFFFFFFF)), numerics)
    assert not cpu.is_sound(replace(blocks, words=np.zeros_like(blocks.words)), numerics)


def test_the_range_finds_extremes_and_what_is_not_finite() -> None:
    for dtype in ("float32", "float64"):
        case = oracles.DCT_2D if dtype == "float32" else oracles.DCT_2D_DOUBLE
        numerics = cpu.Numerics(example(case)[1]._numerics.grid, "dct", dtype)
        info = np.finfo(dtype)
        for values in (
            [0.0],
            [-0.0, 0.0],
            [1, -2, 3],
            [-5, -4],
            [info.smallest_subnormal, -info.smallest_subnormal],
            [info.max, info.min],
        ):
            x = np.array(values, dtype)
            assert cpu.value_range(x, numerics) == (x.min(), x.max())
        for bad in (np.nan, np.inf, -np.inf, -np.nan):
            for place in (0, 5, 9):
                x = np.ones(10, dtype)
                x[place] = bad
                assert cpu.value_range(x, numerics) is None


def test_sums_over_many_tiles_keep_their_precision() -> None:
    """Thousands of equal terms, added one after the other, are wrong by hundreds of units in the last place."""
    rng = np.random.default_rng(3)
    tile = np.repeat(rng.integers(2**18, 2**19, 128), 16).astype(np.float32)
    x = np.tile(tile, 6000)
    a = hb.compress(x, tolerance=1.0, codec=oracles.DCT_1D.codec)
    values = a.decompress()
    if not (values == x).all():
        pytest.skip("the field is not held exactly")
    for answer, truth in (
        (a.mean(), oracles.mean(x)),
        (a.variance(), oracles.variance(x)),
        (a.norm(), oracles.norm(x)),
        (hb.dot(a, a), oracles.dot(x, x)),
    ):
        assert abs(float(answer) / truth - 1) < 100 * 2.0**-53


def test_progress_counts_up_to_all_tiles() -> None:
    seen: list[tuple[int, int]] = []
    x = oracles.field("noise", (300, 300)).astype(np.float32)
    a = hb.compress(
        x, tolerance=1e-2, codec=oracles.DCT_2D.codec, progress=lambda done, tiles: seen.append((done, tiles))
    )
    tiles = len(a._numerics.grid.tiles)
    assert seen[-1] == (tiles, tiles)
    assert seen == sorted(seen)
