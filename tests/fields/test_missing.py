"""Missing cells come back as they were, and nothing that is said of the others depends on them."""

from __future__ import annotations

import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import oracles
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import hpcblaz as hb
from hpcblaz.backend.blocks import BlockGrid
from hpcblaz.errors import DtypeError, FileFormatError, ShapeError
from hpcblaz.fields.filling import fill
from hpcblaz.fields.missing import CellSet, Missing, from_bytes, join, sum_of, to_bytes

SETTINGS = settings(max_examples=25)
CASES = pytest.mark.parametrize("case", oracles.CASES, ids=lambda case: case.name)


@st.composite
def gaps(draw: Any, shape: tuple[int, ...]) -> oracles.Array:
    """Draw flags of missing cells: nothing, single cells, a half, a corner, all."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    kind = draw(st.sampled_from(["none", "one", "few", "half", "corner", "most", "all"]))
    flags = rng.random(shape) < {"few": 0.02, "half": 0.5, "most": 0.97, "all": 1}.get(kind, 0)
    if kind == "one" and flags.size:
        flags.reshape(-1)[rng.integers(flags.size)] = True
    if kind == "corner":
        flags[tuple(slice(0, int(rng.integers(n + 1))) for n in shape)] = True
    return np.asarray(flags)


@st.composite
def gappy(draw: Any, case: oracles.Case) -> tuple[oracles.Array, oracles.Array]:
    """Draw a field of a floating-point type, and its missing cells, which hold NaN and infinities."""
    x = draw(oracles.arrays(case).filter(lambda x: x.dtype.kind == "f"))
    flags = draw(gaps(x.shape))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    values = np.array([np.nan, np.inf, -np.inf], x.dtype)
    x[flags] = values[rng.integers(0, draw(st.sampled_from([1, 3])), int(flags.sum()))]
    return x, flags


def compressed(case: oracles.Case, x: oracles.Array, flags: oracles.Array) -> hb.CompressedArray:
    if case.fixed:
        return hb.compress(x, codec=case.codec)
    largest = float(np.abs(x[~flags].astype(float)).max(initial=0.0)) or 1.0
    return hb.compress(x, tolerance=1e-2 * largest, codec=case.codec)


@CASES
@SETTINGS
@given(data=st.data())
def test_missing_cells_come_back_and_others_keep_their_bounds(case: oracles.Case, data: st.DataObject) -> None:
    x, flags = data.draw(gappy(case))
    a = compressed(case, x, flags)
    y = a.decompress()
    np.testing.assert_array_equal(y[flags], x[flags])
    np.testing.assert_array_equal(a.missing(), flags)
    assert a.count() == int((~flags).sum())
    e = oracles.exact(x[~flags]) - oracles.exact(y[~flags])
    assert np.abs(e).max(initial=0) <= a.error.max_abs
    assert np.sqrt((e * e).sum()) <= a.error.l2 * (1 + 1e-15)
    index = tuple(slice(n // 3, n - n // 4, 1 + n % 2) for n in x.shape)
    np.testing.assert_array_equal(a[index], y[index])
    np.testing.assert_array_equal(a[tuple(n // 2 for n in x.shape)], y[tuple(n // 2 for n in x.shape)])


@CASES
@SETTINGS
@given(data=st.data())
def test_statistics_skip_them_within_their_bounds(case: oracles.Case, data: st.DataObject) -> None:
    x, flags = data.draw(gappy(case))
    a = compressed(case, x, flags)
    valid = x[~flags]
    oracles.assert_holds(a.sum(), oracles.exact(valid).sum())
    oracles.assert_holds(a.norm(), oracles.norm(valid))
    if not valid.size:
        with pytest.raises(ShapeError, match="all of it missing"):
            a.mean()
        return
    oracles.assert_holds(a.mean(), oracles.mean(valid))
    oracles.assert_holds(a.variance(), oracles.variance(valid))
    oracles.assert_holds(a.std(), np.sqrt(oracles.variance(valid)))
    if valid.size > 1:
        oracles.assert_holds(a.variance(ddof=1), oracles.variance(valid, 1))
    found = hb.block_mean(a), hb.block_variance(a)
    for place, block in oracles.blocks(np.where(flags, np.nan, x), case.codec.block_shape or ()).items():
        own = block[~np.isnan(block)]
        assert math.isnan(found[0].values[place]) == (not own.size)
        if own.size:
            assert abs(found[0].values[place] - own.mean()) <= found[0].error[place]
            assert abs(found[1].values[place] - own.var()) <= found[1].error[place]


@pytest.mark.parametrize("case", [oracles.DCT_2D, oracles.IDENTITY_2D, oracles.INT8_2D], ids=lambda case: case.name)
@SETTINGS
@given(data=st.data())
def test_pairs_are_compared_where_both_have_numbers(case: oracles.Case, data: st.DataObject) -> None:
    x, flags = data.draw(gappy(case))
    other = data.draw(gaps(x.shape))
    y = np.where(other, np.nan, np.where(flags, 1.0, x) + 0.5 * data.draw(st.floats(-1, 1))).astype(x.dtype)
    a, b = compressed(case, x, flags), compressed(case, y, ~np.isfinite(y))
    both = ~flags & np.isfinite(y)
    u, v = x[both], y[both]
    oracles.assert_holds(hb.dot(a, b), oracles.dot(u, v))
    if not both.any():
        for function in (hb.covariance, hb.cosine_similarity, hb.structural_similarity):
            with pytest.raises(ShapeError, match="expected an array with values"):
                function(a, b)
        return
    oracles.assert_holds(hb.covariance(a, b), oracles.covariance(u, v))
    span = 2 * max(np.abs(u.astype(float)).max(), np.abs(v.astype(float)).max()) or 1.0
    oracles.assert_holds(hb.structural_similarity(a, b, data_range=span), oracles.similarity(u, v, span))
    if np.any(u) and np.any(v):
        oracles.assert_holds(hb.cosine_similarity(a, b), oracles.dot(u, v) / oracles.norm(u) / oracles.norm(v))


@pytest.mark.parametrize("case", [oracles.DCT_2D, oracles.INT8_2D], ids=lambda case: case.name)
@SETTINGS
@given(data=st.data())
def test_arithmetic_has_the_union_and_numpys_infinities(case: oracles.Case, data: st.DataObject) -> None:
    x, flags = data.draw(gappy(case))
    y, other = x[::-1, ::-1].copy(), flags[::-1, ::-1]
    a, b = compressed(case, x, flags), compressed(case, y, other)
    with np.errstate(all="ignore"):
        pairs = [(a + b, x + y), (a - b, x - y), (-a, -x), (2 - a, 2 - x), (0 * a, 0 * x), (-3 * a - b, -3 * x - y)]
    for found, expected in pairs:
        missing = ~np.isfinite(expected) & (flags | other if expected.shape == x.shape else flags)
        np.testing.assert_array_equal(found.missing() & ~missing, found.missing() & np.isfinite(expected))
        np.testing.assert_array_equal(found.decompress()[missing], expected[missing].astype(found.dtype))
        valid = np.isfinite(expected) & ~found.missing()
        truth = oracles.exact(found.decompress()[valid])
        assert np.abs(truth - oracles.exact(expected[valid])).max(initial=0) <= found.error.max_abs * (1 + 1e-3) + (
            float(np.spacing(np.abs(expected[valid]).max(initial=0)))
        )


@pytest.mark.parametrize("dtype", ["int16", "uint8", "int64", "float32", "float16"])
def test_a_fill_value_comes_back(dtype: str) -> None:
    value = {"uint8": 255, "int64": -(2**63)}.get(dtype, -9999)
    x = np.arange(40 * 30).reshape(40, 30).astype(dtype) % 100
    x[5:17, 3:20] = value
    x[30, 29] = value
    kept = x[5:17, 3:20].copy()
    for options in ({"tolerance": 0.4}, {"codec": hb.BlockCodec((8, 8), index_dtype="int16")}):
        a = hb.compress(x, fill_value=value, **options)  # type: ignore[arg-type]
        y = a.decompress()
        assert y.dtype == x.dtype
        np.testing.assert_array_equal(y[5:17, 3:20], kept)
        assert y[30, 29] == x[30, 29]
        assert a.count() == 40 * 30 - 12 * 17 - 1
        valid = x[~a.missing()]
        oracles.assert_holds(a.mean(), oracles.mean(valid))
        assert valid.max() < 100
        assert (2 * a).decompress()[6, 6] == float(x.dtype.type(value))
    if dtype.startswith("float"):
        assert hb.compress(x, fill_value=value, tolerance=1).astype("float64")[30, 29] == x[30, 29]
        wide = np.where(x == x[30, 29], 1e30, x.astype(float))
        assert np.isnan(hb.compress(wide, fill_value=1e30, tolerance=1).astype("float16")[30, 29])


def test_masked_arrays() -> None:
    x = np.random.default_rng(0).normal(size=(40, 50)).astype(np.float32)
    masked = np.ma.masked_greater(x, 1)
    y = hb.compress(masked, tolerance=0.1).decompress()
    np.testing.assert_array_equal(np.isnan(y), x > 1)
    y = hb.compress(masked, tolerance=0.1, fill_value=-5).decompress()
    np.testing.assert_array_equal(y == -5, x > 1)
    numbers = np.ma.masked_less(np.arange(100).reshape(10, 10), 20)
    numbers.set_fill_value(-1)
    y = hb.compress(numbers, tolerance=0.4).decompress()
    np.testing.assert_array_equal(y, numbers.filled())
    nothing = np.ma.masked_greater(x, 1000)
    np.testing.assert_array_equal(
        hb.compress(nothing, tolerance=1).decompress(), hb.compress(x, tolerance=1).decompress()
    )


@pytest.mark.parametrize(("value", "dtype"), [(-9999, "uint8"), (1e20, "float16"), (0.5, "int32"), ("no", "float32")])
def test_a_fill_value_must_be_of_the_type(value: Any, dtype: str) -> None:
    with pytest.raises(DtypeError, match=f"expected a fill_value that {dtype} holds, got"):
        hb.compress(np.zeros((4, 4), dtype), tolerance=1, fill_value=value)


def test_the_original_is_left_alone_and_targets_are_about_the_numbers() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(64, 64)).astype(np.float32)
    x[:20] = 1e30
    before = x.copy()
    valid = x[20:]
    span = float(valid.max() - valid.min())
    a = hb.compress(x, relative=1e-2, fill_value=1e30)
    assert a.error.max_abs <= 1e-2 * span * (1 + 1e-6)
    b = hb.compress(x, psnr=40, fill_value=1e30)
    rmse = np.sqrt(np.mean((b.decompress()[20:] - valid) ** 2))
    assert 20 * math.log10(span / rmse) >= 40
    c = hb.compress(x, rate=6, fill_value=1e30)
    assert c.nbytes * 8 <= 6 * c.size
    np.testing.assert_array_equal(x, before)


def test_what_is_mostly_land_costs_what_its_sea_costs() -> None:
    rng = np.random.default_rng(2)
    x = rng.normal(size=(256, 256)).astype(np.float32) + 280
    alone = hb.compress(x[:32], tolerance=1e-2)
    x[32:] = np.nan
    whole = hb.compress(x, tolerance=1e-2)
    assert whole.nbytes < 1.05 * alone.nbytes + 1500


def test_blocks_without_a_number_have_no_mass() -> None:
    x = oracles.field("noise", (32, 40))
    y = oracles.field("smooth", (32, 40))
    x[8:16, 8:24], y[24:, 32:], y[3, 4] = np.nan, np.inf, np.nan
    a, b = (hb.compress(v, tolerance=1e-3, codec=oracles.DCT_2D.codec) for v in (x, y))
    means = [
        np.array(
            [
                np.nan if np.isnan(v).all() else np.nanmean(v)
                for v in oracles.blocks(np.where(np.isinf(z), np.nan, z), (8, 8)).values()
            ]
        )
        for z in (x, y)
    ]
    both = ~np.isnan(means[0]) & ~np.isnan(means[1])
    masses = [np.sort(np.exp(m[both]) / np.exp(m[both]).sum()) for m in means]
    truth = np.mean(np.abs(masses[0] - masses[1]) ** 2) ** 0.5
    assert both.sum() == 17
    oracles.assert_holds(hb.wasserstein_distance(a, b, order=2), truth)
    with pytest.raises(ShapeError, match="all of it missing"):
        hb.wasserstein_distance(a, hb.compress(np.full((32, 40), np.nan), tolerance=1, codec=oracles.DCT_2D.codec))


def test_a_mask_takes_little() -> None:
    x = np.random.default_rng(3).normal(size=(100, 64, 64)).astype(np.float32)
    x[77, 3, 5] = np.nan
    assert hb.compress(x, tolerance=0.1).nbytes <= hb.compress(np.nan_to_num(x), tolerance=0.1).nbytes + 300


@settings(max_examples=20)
@given(data=st.data())
def test_order_norms_and_counts_skip_them(data: st.DataObject) -> None:
    x, flags = data.draw(gappy(oracles.DCT_2D))
    a = compressed(oracles.DCT_2D, x, flags)
    valid = oracles.exact(x[~flags])
    if not valid.size:
        for function in (hb.max, hb.median, lambda b: hb.histogram(b, 5)):
            with pytest.raises(ShapeError, match="expected an array with values"):
                function(a)
        assert hb.norm(a, order=1) == hb.norm(a, order=math.inf) == 0
        return
    oracles.assert_holds(hb.max(a), valid.max())
    oracles.assert_holds(hb.min(a), valid.min())
    assert not flags[hb.argmax(a)]
    for q in (0.0, 0.3, 0.5, 1.0):
        oracles.assert_holds(hb.quantile(a, q), np.quantile(valid, q))
    oracles.assert_holds(hb.norm(a, order=1), np.abs(valid).sum())
    oracles.assert_holds(hb.norm(a, order=3), (np.abs(valid) ** 3).sum() ** (1 / np.longdouble(3)))
    oracles.assert_holds(hb.norm(a, order=math.inf), np.abs(valid).max())
    found = hb.histogram(a, 7)
    exact, _ = np.histogram(valid.astype(np.float64), found.edges)
    assert ((found.low <= exact) & (exact <= found.high)).all()
    assert found.high.sum() <= 7 * valid.size


def test_pieces_and_combinations_keep_them() -> None:
    x = oracles.field("noise", (48, 40)).astype(np.float32)
    x[3:20, 5:18], x[30, 2:9], x[41, 30], x[0, 0] = -9999, np.nan, -np.inf, np.inf
    a = hb.compress(x, fill_value=-9999, tolerance=1e-2, codec=oracles.DCT_2D.codec)
    y = a.decompress()
    np.testing.assert_array_equal(hb.crop(a, np.s_[8:32, 16:]).decompress(), y[8:32, 16:])
    np.testing.assert_array_equal(hb.concatenate([a, a]).decompress(), np.concatenate([y, y]))
    np.testing.assert_array_equal(hb.concatenate([a, a], axis=1).missing(), np.hstack([a.missing()] * 2))
    b = hb.compress(x[::-1, ::-1].copy(), fill_value=-9999, tolerance=1e-2, codec=oracles.DCT_2D.codec)
    found, expected = hb.linear_combination([2.0, -3.0], [a, b]), 2.0 * a - 3.0 * b
    np.testing.assert_array_equal(found.missing(), expected.missing())
    gaps = found.missing()
    np.testing.assert_array_equal(found.decompress()[gaps], expected.decompress()[gaps])
    np.testing.assert_allclose(found.decompress()[~gaps], expected.decompress()[~gaps], atol=0.1)


def _cells(flags: oracles.Array) -> CellSet:
    return CellSet.of(flags)


@SETTINGS
@given(data=st.data())
def test_sets_are_those_of_numpy(data: st.DataObject) -> None:
    shape = data.draw(st.sampled_from([(700_000,), (3, 300_000), (70, 90, 101), (2, 1, 600, 500), (5,), (0, 4)]))
    one, two = data.draw(gaps(shape)), data.draw(gaps(shape))
    a, b = _cells(one), _cells(two)
    low = tuple(data.draw(st.integers(0, n)) for n in shape)
    high = tuple(data.draw(st.integers(first, n)) for first, n in zip(low, shape, strict=True))
    window = tuple(slice(*ends) for ends in zip(low, high, strict=True))
    everything = (0,) * len(shape)
    for cells, flags in ((a, one), (a.union(b), one | two), (a.without(b), one & ~two), (a.common(b), one & two)):
        assert cells.count == flags.sum()
        np.testing.assert_array_equal(cells.window(shape, everything, shape), flags)
        np.testing.assert_array_equal(cells.window(shape, low, high), flags[window])
    missing = Missing.of(shape, {"nan": a, "fill": b.without(a)}, 7)
    if missing is not None:
        again = from_bytes(to_bytes(missing), shape, tuple(missing.sets), 7)
        assert again is not None and again.sets == missing.sets
        grid = BlockGrid(shape, (4,) * len(shape))
        expected = one | two
        for axis in range(len(shape)):
            expected = (
                np.logical_or.reduceat(expected, np.arange(0, shape[axis], 4), axis=axis) if shape[axis] else expected
            )
        if 0 not in shape:
            np.testing.assert_array_equal(missing.blocks(grid), expected)


def test_pieces_join() -> None:
    rng = np.random.default_rng(4)
    flags = rng.random((30, 20)) < 0.3
    pieces = []
    for rows in (slice(0, 13), slice(13, 30)):
        own = flags[rows]
        pieces.append((Missing.of(own.shape, {"nan": _cells(own)}), own.shape, (rows.start - 5, -3)))
    joined = join((20, 16), pieces)
    assert joined is not None
    np.testing.assert_array_equal(joined.window((0, 0), (20, 16)), flags[5:25, 3:19])
    assert join((4, 4), [(None, (2, 4), (0, 0))]) is None
    assert sum_of(None, None) is None


@SETTINGS
@given(data=st.data())
def test_fillings_lie_between_the_numbers(data: st.DataObject) -> None:
    shape = data.draw(oracles.shapes(3))
    x = oracles.field("noise", shape)
    flags = data.draw(gaps(shape))
    y = np.where(flags, np.nan, x)
    fill(y, flags, BlockGrid(shape, (4, 4, 4)), np, np.asarray)
    np.testing.assert_array_equal(y[~flags], x[~flags])
    assert np.isfinite(y).all()
    if (~flags).any():
        assert y.min() == x[~flags].min() and y.max() == x[~flags].max()


@pytest.fixture(params=["packed", "fixed"])
def saved(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, hb.CompressedArray]:
    x = oracles.field("smooth", (33, 40)).astype(np.float32)
    x[3:20, 5:18] = -9999
    x[30, 2:9] = np.nan
    x[2, 30] = -np.inf
    options: dict[str, Any] = {"tolerance": 1e-2} if request.param == "packed" else {"codec": hb.BlockCodec((8, 8))}
    a = hb.compress(x, fill_value=-9999, **options)
    a.save(tmp_path / "a.hbz")
    return tmp_path / "a.hbz", a


def test_files_keep_them(saved: tuple[Path, hb.CompressedArray]) -> None:
    path, a = saved
    b = hb.load(path)
    np.testing.assert_array_equal(b.decompress(), a.decompress())
    assert b.mean() == a.mean() and b.nbytes == a.nbytes
    np.testing.assert_array_equal((b + b).decompress(), (a + a).decompress())
    for rank in range(3):
        layout = hb.Layout((33, 40), block_shape=(8, 8), splits=(1, 3), size=3, rank=rank)
        part = hb.load(path, layout).local
        np.testing.assert_array_equal(part.decompress(), layout.local(a.decompress()))


def test_what_has_nothing_missing_is_written_as_before(tmp_path: Path) -> None:
    hb.compress(np.ones((9, 9)), tolerance=1).save(tmp_path / "a.hbz")
    assert struct.unpack("<I", (tmp_path / "a.hbz").read_bytes()[8:12]) == (1,)


def test_damaged_sections_are_refused() -> None:
    shape = (500, 600)
    flags = np.zeros(shape, np.bool_)
    flags[3:, 7] = True
    missing = Missing.of(shape, {"nan": _cells(flags)})
    assert missing is not None
    good = to_bytes(missing)
    chunk = zlib.compress(bytes(10))
    bomb = zlib.compress(bytes(1 << 24) + b"\1")
    heads = [np.array([len(c), 0], "<u4").tobytes() + c for c in (chunk, bomb, b"nonsense", good[8:30])]
    for bad in (b"", good[:-1], good + b"x", good[:9], *heads):
        with pytest.raises(FileFormatError, match="expected"):
            from_bytes(bad, shape, ("nan",), None)


def test_real_fields_with_land() -> None:
    iris = pytest.importorskip("iris_sample_data")
    netcdf = pytest.importorskip("netCDF4")
    with netcdf.Dataset(Path(iris.path) / "ostia_monthly.nc") as file:
        sea = file["surface_temperature"][:]
    with netcdf.Dataset(Path(iris.path) / "orca2_votemper.nc") as file:
        ocean = file["votemper"][:]
    for field, masked in ((sea, 110_970), (ocean, 10_209)):
        a = hb.compress(field, relative=1e-3)
        mask = np.ma.getmaskarray(field)
        valid = np.asarray(field.data[~mask], np.float64)
        assert a.size - a.count() == masked == mask.sum()
        assert np.isnan(a.decompress()[mask]).all()
        assert np.abs(a.decompress()[~mask] - valid).max() <= 1e-3 * (valid.max() - valid.min()) * (1 + 1e-9)
        oracles.assert_holds(a.mean(), oracles.mean(valid))
        oracles.assert_holds(a.std(), np.sqrt(oracles.variance(valid)))
