"""Operations on fields that are split over ranks: the answers of one rank, for any number of ranks, on each of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import oracles
import pytest

import hpcblaz as hb
from hpcblaz.errors import HpcblazError
from hpcblaz.mpi import Communicator

pytestmark = pytest.mark.mpi

CASES = pytest.mark.parametrize("case", [oracles.DCT_2D, oracles.INT8_2D, oracles.IDENTITY_2D], ids=lambda c: c.name)
SHAPES = [(67, 45), (9, 16), (8, 200)]


def compress(x: Any, case: oracles.Case, layout: hb.Layout | None) -> hb.CompressedArray:
    part = x if layout is None else layout.local(x)
    if case.fixed:
        return hb.compress(part, codec=case.codec, layout=layout)
    return hb.compress(part, tolerance=1e-2, codec=case.codec, layout=layout)


def fields(comm: Communicator, case: oracles.Case) -> Any:
    """Yield fields with their arrays, on one rank and split."""
    for shape in SHAPES:
        xs = [oracles.field(kind, shape, 3).astype(np.float32) for kind in ("noise", "smooth", "spikes")]
        serial = [2 * compress(x, case, None) + 1 for x in xs]
        for splits in ((comm.size, 1), (1, comm.size)):
            layout = hb.Layout(shape, comm, block_shape=case.codec.block_shape, splits=splits)
            yield [2 * x.astype(float) + 1 for x in xs], serial, [2 * compress(x, case, layout) + 1 for x in xs]


def same_everywhere(comm: Communicator, value: Any) -> None:
    pieces = comm.gather_objects(np.asarray(value).tolist())
    assert all(piece == pieces[0] for piece in pieces)


@CASES
def test_numbers(comm: Communicator, case: oracles.Case) -> None:
    for xs, serial, split in fields(comm, case):
        a, s, x = split[0], serial[0], xs[0]
        for kind in ("max", "min"):
            mine, expected = hb.extremum(a, kind), hb.extremum(s, kind)
            assert (float(mine.value), mine.index, mine.blocks) == (
                float(expected.value), expected.index, expected.blocks,
            )  # fmt: skip
            oracles.assert_holds(mine.value, getattr(x, kind)())
        for q in (0.0, 0.3, 0.5, 1.0):
            assert float(hb.quantile(a, q)) == float(hb.quantile(s, q))
        pairs: list[tuple[Any, Any]] = [(hb.norm(a, order=p), hb.norm(s, order=p)) for p in (1, 3, np.inf)]
        pairs += [(hb.value_wasserstein_distance(*split[:2]), hb.value_wasserstein_distance(*serial[:2]))]
        if min(a.shape) >= 7:
            pairs += [(hb.local_structural_similarity(*split[:2]), hb.local_structural_similarity(*serial[:2]))]
        for mine, expected in pairs:
            assert float(mine) == pytest.approx(float(expected), rel=1e-12)
            assert mine.error == pytest.approx(expected.error, rel=1e-3)
            same_everywhere(comm, [float(mine), mine.error])
        for mine, expected in (
            (hb.gram(split), hb.gram(serial)),
            (hb.pairwise_distances(split), hb.pairwise_distances(serial)),
        ):
            np.testing.assert_allclose(mine.values, expected.values, rtol=1e-11, atol=1e-11)
            np.testing.assert_allclose(mine.error, expected.error, rtol=1e-3, atol=1e-9)
            same_everywhere(comm, mine.values)
        mine, expected = hb.histogram(a, 12, limits=(-3, 4)), hb.histogram(s, 12, limits=(-3, 4))
        for part, other in zip(mine, expected, strict=True):
            np.testing.assert_array_equal(part, other)


@CASES
def test_fields_of_sums(comm: Communicator, case: oracles.Case) -> None:
    for xs, serial, split in fields(comm, case):
        for axis in (0, 1):
            mine, expected = split[0].mean(axis), serial[0].mean(axis)
            np.testing.assert_array_equal(mine.decompress(), expected.decompress())
            oracles.assert_within_certificate(xs[0].mean(axis=axis), mine.astype(np.float64))
            assert mine.layout is None


@CASES
def test_fields(comm: Communicator, case: oracles.Case) -> None:
    for xs, serial, split in fields(comm, case):
        combined = hb.linear_combination([0.5, -1.0, 0.3], split)
        found: Any = combined.astype(np.float64).gather()
        if found is not None:
            truth = 0.5 * xs[0] - xs[1] + 0.3 * xs[2]
            assert np.abs(found - truth).max() <= combined.astype(np.float64).error.max_abs
        for axis, part in enumerate(hb.gradient(split[1], [0.1, 2.0])):
            found = part.astype(np.float64).gather()
            if found is not None:
                truth = np.gradient(xs[1], 0.1, 2.0)[axis]
                assert np.abs(found - truth).max() <= part.astype(np.float64).error.max_abs
        box = (slice(0, 8), slice(8, None))
        cropped = hb.crop(split[0], box)
        whole = cropped.gather()
        if whole is not None:
            np.testing.assert_array_equal(whole, serial[0][box])
        if split[0].shape[0] % 8 == 0:
            joined = hb.concatenate(split).gather()
            if joined is not None:
                np.testing.assert_array_equal(joined, np.concatenate([s.decompress() for s in serial]))


def test_an_error_on_one_rank_is_an_error_on_all(comm: Communicator) -> None:
    layout = hb.Layout((64, 24), comm, block_shape=(8, 8), splits=(comm.size, 1))
    a = compress(oracles.field("noise", (64, 24)).astype(np.float32), oracles.DCT_2D, layout)
    here = comm.rank == comm.size - 1
    calls = [
        lambda: hb.gram([a, "b" if here else a]),  # type: ignore[list-item]
        lambda: hb.linear_combination([1.0] if here else [1.0, 2.0], [a, a]),
        lambda: a.mean(5 if here else 0),
        lambda: hb.crop(a, slice(1 if here else 0, 8)),
        lambda: hb.concatenate([a, a], axis=7 if here else 0),
        lambda: hb.gradient(a, -1.0 if here else 1.0),
        lambda: hb.histogram(a, 0 if here else 3, limits=(0, 1)),
    ]
    for call in calls:
        with pytest.raises(HpcblazError):
            call()
        comm.barrier()
