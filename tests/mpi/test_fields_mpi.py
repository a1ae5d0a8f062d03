"""Fields that are split over ranks: the same answers as one rank has, for any number of ranks."""

from __future__ import annotations

from typing import Any

import numpy as np
import oracles
import pytest

import hpcblaz as hb
from hpcblaz.errors import DtypeError, HpcblazError, LayoutError, ShapeError, ToleranceError
from hpcblaz.mpi import Communicator

pytestmark = pytest.mark.mpi

# Ranks without blocks among them: the second field has 2 x 2 blocks, the last one has none at all
SHAPES = {2: [(67, 45), (9, 16), (8, 200), (0, 30)], 3: [(13, 14, 15), (3, 3, 50)]}
CASES = pytest.mark.parametrize(
    "case",
    [oracles.DCT_2D, oracles.IDENTITY_2D, oracles.DCT_3D, oracles.INT8_2D],
    ids=lambda case: case.name,
)


def splits_of(ranks: int, ndim: int) -> list[tuple[int, ...] | None]:
    """Return the default and a few other ways to deal a field out."""
    along = [tuple(ranks if axis == cut else 1 for axis in range(ndim)) for cut in range(ndim)]
    return [None, *along, *([(2, ranks // 2) + (1,) * (ndim - 2)] if ranks % 2 == 0 else [])]


def compress(x: Any, case: oracles.Case, layout: hb.Layout | None) -> hb.CompressedArray:
    part = x if layout is None else layout.local(x)
    if case.fixed:
        return hb.compress(part, codec=case.codec, layout=layout)
    return hb.compress(part, tolerance=1e-2, codec=case.codec, layout=layout)


def numbers(a: hb.CompressedArray, b: hb.CompressedArray) -> list[tuple[float, float]]:
    answers = [a.sum(), a.norm(), hb.dot(a, b)]
    if (a + b).count():
        answers += [a.mean(), a.variance(1), a.std(), hb.covariance(a, b, ddof=1), hb.cosine_similarity(a, b)]
        answers += [hb.structural_similarity(a, b), hb.wasserstein_distance(a, b, order=2)]
    return [(float(answer), answer.error) for answer in answers]


@CASES
def test_missing_cells_are_those_of_one_rank(comm: Communicator, case: oracles.Case) -> None:
    for shape in SHAPES[case.ndim]:
        x, y = (oracles.field(kind, shape, 3).astype(np.float32) for kind in ("noise", "smooth"))
        x[3:12, 5:40], y[:5] = np.nan, -999  # on some ranks only
        for splits in splits_of(comm.size, case.ndim):
            layout = hb.Layout(shape, comm, block_shape=case.codec.block_shape, splits=splits)
            pairs = []
            for way in (None, layout):
                own = (x, y) if way is None else (way.local(x), way.local(y))
                options: Any = {} if case.fixed else {"tolerance": 1e-2}
                a = hb.compress(own[0], codec=case.codec, layout=way, **options)
                pairs.append((a, hb.compress(own[1], fill_value=-999, codec=case.codec, layout=way, **options)))
            (a, b), (c, d) = pairs
            np.testing.assert_array_equal(c.decompress(), layout.local(a.decompress()))
            np.testing.assert_array_equal((c + d).decompress(), layout.local((a + b).decompress()))
            assert (c.count(), d.count(), (c + d).count()) == (a.count(), b.count(), (a + b).count())
            for serial, split in zip(numbers(a, b), numbers(c, d), strict=True):
                np.testing.assert_allclose(split[0], serial[0], rtol=1e-6, atol=1e-6)
                np.testing.assert_allclose(split[1], serial[1], rtol=0.5, atol=1e-6)  # fillings differ
            np.testing.assert_array_equal(c[1:, 2:30], a[1:, 2:30])


@CASES
def test_answers_are_those_of_one_rank(comm: Communicator, case: oracles.Case) -> None:
    for shape in SHAPES[case.ndim]:
        x, y = (oracles.field(kind, shape, 3).astype(np.float32) for kind in ("noise", "smooth"))
        serial = compress(x, case, None), compress(y, case, None)
        expected = serial[0] - 2 * serial[1] + 1
        scale = float(np.abs(x).max(initial=1)) + float(np.abs(y).max(initial=1))
        for splits in splits_of(comm.size, case.ndim):
            layout = hb.Layout(shape, comm, block_shape=case.codec.block_shape, splits=splits)
            a, b = compress(x, case, layout), compress(y, case, layout)
            assert (a.shape, a.size, a.layout) == (x.shape, x.size, layout)
            np.testing.assert_array_equal(a.decompress(), layout.local(serial[0].decompress()))
            assert a.error.max_abs == serial[0].error.max_abs
            assert a.error.l2 == pytest.approx(serial[0].error.l2, rel=1e-3)  # a sum of two norms, on each rank
            c = a - 2 * b + 1
            for mine, other in ((numbers(a, b), numbers(*serial)), (numbers(c, a), numbers(expected, serial[0]))):
                for (value, error), (serial_value, serial_error) in zip(mine, other, strict=True):
                    assert value == pytest.approx(serial_value, rel=1e-12, abs=1e-13 * scale)
                    assert error == pytest.approx(serial_error, rel=1e-3, abs=1e-10)
                assert comm.gather_objects(mine) == [mine] * comm.size  # bit for bit, on every rank
            np.testing.assert_array_equal(c.decompress(), layout.local(expected.decompress()))
            assert c.error.max_abs == pytest.approx(expected.error.max_abs, rel=1e-12)
            assert sum(comm.gather_objects(a.local.size)) == x.size


@CASES
def test_certificates_are_those_of_the_whole_field(comm: Communicator, case: oracles.Case) -> None:
    shape = SHAPES[case.ndim][0]
    x = oracles.field("mixed magnitudes", shape, comm.size).astype(np.float32)
    a = compress(x, case, hb.Layout(shape, comm, block_shape=case.codec.block_shape))
    for answer, truth in (
        (a.mean(), oracles.mean(x)),
        (a.norm(), oracles.norm(x)),
        (a.variance(), oracles.variance(x)),
    ):
        oracles.assert_holds(answer, truth)
    whole = a.gather()
    assert (whole is None) == (comm.rank != 0)
    if whole is not None:
        e = oracles.exact(x) - oracles.exact(whole)
        assert np.abs(e).max() <= a.error.max_abs
        assert np.sqrt((e * e).sum()) <= a.error.l2 * (1 + 1e-15)
    field = a.local.block_mean()
    assert field.values.shape == a.local._numerics.grid.blocks


@CASES
def test_gather_scatter_and_windows(comm: Communicator, case: oracles.Case) -> None:
    for shape in SHAPES[case.ndim]:
        x = oracles.field("noise", shape, 1).astype(np.float32)
        expected = compress(x, case, None).decompress()
        for splits in splits_of(comm.size, case.ndim):
            layout = hb.Layout(shape, comm, block_shape=case.codec.block_shape, splits=splits)
            part = hb.scatter(x if comm.rank == 0 else None, layout)
            np.testing.assert_array_equal(part, layout.local(x))
            a = (
                hb.compress(part, codec=case.codec, layout=layout)
                if case.fixed
                else hb.compress(part, tolerance=1e-2, codec=case.codec, layout=layout)
            )
            root = comm.size - 1
            whole = a.gather(root)
            if comm.rank == root:
                np.testing.assert_array_equal(whole, expected)
            else:
                assert whole is None
            indices: list[Any] = [
                ...,
                (slice(2, 9), slice(None, None, -3)),
                (slice(4, 4),),
                (None, slice(-5, None)),
                (..., -1),
            ]
            if x.size:
                indices += [0, (-1, 2), (slice(None, None, 5), 1)]
            for index in indices:
                found = a[index]
                np.testing.assert_array_equal(found, expected[index])
                assert np.shape(found) == np.shape(expected[index])


@pytest.mark.parametrize("target", [{"relative": 1e-2}, {"psnr": 40.0}, {"rate": 6.0}])
def test_targets_are_those_of_the_whole_field(comm: Communicator, target: dict[str, float]) -> None:
    x = oracles.field("spikes", (64, 200), 5).astype(np.float32)
    layout = hb.Layout(x.shape, comm, block_shape=(8, 8))
    a = hb.compress(layout.local(x), codec=oracles.DCT_2D.codec, layout=layout, **target)  # type: ignore[arg-type]
    span = float(x.max() - x.min())
    whole = a.gather()
    if whole is not None:
        e = oracles.exact(x) - oracles.exact(whole)
        if "relative" in target:
            assert np.abs(e).max() <= 1e-2 * span
        if "psnr" in target:
            assert np.sqrt((e * e).mean()) <= span * 10 ** (-40 / 20)
    if "rate" in target:
        assert 8 * sum(comm.gather_objects(a.nbytes)) <= 6 * x.size


def test_a_field_that_is_constant_on_each_rank_only(comm: Communicator) -> None:
    x = np.repeat(np.arange(8.0, dtype=np.float32), 8)[:, None] * np.ones((1, 16), np.float32)
    layout = hb.Layout(x.shape, comm, block_shape=(8, 8), splits=(comm.size, 1))
    a = hb.compress(layout.local(x), tolerance=1e-3, codec=oracles.DCT_2D.codec, layout=layout)
    assert np.abs(a.decompress() - layout.local(x)).max(initial=0) <= 1e-3
    oracles.assert_holds(a.mean(), oracles.mean(x))
    oracles.assert_holds(a.variance(), oracles.variance(x))


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_an_error_on_one_rank_is_an_error_on_all(comm: Communicator, failing: int) -> None:
    failing %= comm.size
    layout = hb.Layout((64, 24), comm, block_shape=(8, 8), splits=(comm.size, 1))
    x = oracles.field("noise", (64, 24)).astype(np.float32)
    a = hb.compress(layout.local(x), tolerance=1e-2, codec=oracles.DCT_2D.codec, layout=layout)
    here = comm.rank == failing

    def attempt(error: type[HpcblazError], call: Any) -> None:
        with pytest.raises(error):
            call()
        comm.barrier()  # everybody is back

    bad = layout.local(x).astype(complex if here else np.float32)
    attempt(DtypeError, lambda: hb.compress(bad, tolerance=1e-2, codec=oracles.DCT_2D.codec, layout=layout))
    attempt(DtypeError, lambda: hb.compress(bad, codec=hb.BlockCodec((8, 8)), layout=layout))
    short = layout.local(x)[:-1] if here else layout.local(x)
    attempt(ShapeError, lambda: hb.compress(short, tolerance=1e-2, codec=oracles.DCT_2D.codec, layout=layout))
    attempt(ToleranceError, lambda: hb.compress(layout.local(x), tolerance=-1.0 if here else 1.0, layout=layout))
    attempt(HpcblazError, lambda: hb.dot(a, "b" if here else a))
    attempt(ShapeError, lambda: a + _smaller(comm))
    attempt(ToleranceError, lambda: hb.compress(layout.local(x), tolerance=1e-30, layout=layout))
    if comm.size > 1:
        attempt((IndexError, HpcblazError), lambda: a[64 if here else 0])  # type: ignore[arg-type]
        attempt(LayoutError, lambda: hb.dot(a, _other_layout(comm, x)))


def _smaller(comm: Communicator) -> hb.CompressedArray:
    layout = hb.Layout((64, 16), comm, block_shape=(8, 8), splits=(comm.size, 1))
    return hb.compress(np.zeros(layout.local_shape, np.float32), tolerance=1, codec=oracles.DCT_2D.codec, layout=layout)


def _other_layout(comm: Communicator, x: Any) -> hb.CompressedArray:
    layout = hb.Layout(x.shape, comm, block_shape=(8, 8), splits=(1, comm.size))
    return hb.compress(layout.local(x), tolerance=1, codec=oracles.DCT_2D.codec, layout=layout)
