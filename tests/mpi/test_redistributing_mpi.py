"""Arrays that are split in another way hold the same; run under mpirun by test_launch.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import hpcblaz as hb
from hpcblaz.errors import CodecError, HpcblazError, LayoutError, UnsupportedOperationError
from hpcblaz.mpi import Communicator, Layout
from hpcblaz.mpi.pairwise import exchange_in_turn

pytestmark = pytest.mark.mpi

SIDES = (4, 4, 4)
CODECS: dict[str, Any] = {
    "packed": {"tolerance": 1e-2},
    "fixed": {"codec": hb.BlockCodec(SIDES, index_dtype="int8", keep=0.4)},
}
KINDS = pytest.mark.parametrize("kind", CODECS)
SHAPES = [(22, 13, 9), (3, 3, 3), (4, 0, 5), (40, 4, 4)]


def whole(shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    x = np.random.default_rng(7).normal(size=shape).astype(np.float32).cumsum(0)
    x[1:3, :2, 1:], x[-1:, -1:, -1:] = np.nan, -999
    return x


def layouts(comm: Communicator, shape: tuple[int, ...]) -> list[Layout]:
    n = comm.size
    ways = [(n, 1, 1), (1, n, 1), (1, 1, n)] + ([(2, 1, 2), (2, 2, 1)] if n == 4 else [])
    return [Layout(shape, comm, block_shape=SIDES, splits=way) for way in ways]


def compressed(shape: tuple[int, ...], kind: str, layout: Layout | None) -> hb.CompressedArray:
    x = whole(shape)
    part = x if layout is None else layout.local(x)
    return 2 * hb.compress(part, layout=layout, fill_value=-999, **CODECS[kind]) + 1


def assert_same(b: hb.CompressedArray, a: hb.CompressedArray, values: np.ndarray[Any, Any]) -> None:
    """Check a part against the values of the whole field, and what is the same for both against `a`."""
    slices = b.layout.slices if b.layout is not None else (slice(None),) * b.ndim
    np.testing.assert_array_equal(b.decompress(), values[slices])
    for name in ("error", "dtype", "codec", "attributes", "_promise", "_magnitude", "_factor", "_offset", "shape"):
        assert getattr(b, name) == getattr(a, name), name


@KINDS
@pytest.mark.parametrize("shape", SHAPES)
def test_from_any_split_to_any(comm: Communicator, shape: tuple[int, ...], kind: str) -> None:
    first = layouts(comm, shape)[0]
    a = compressed(shape, kind, first)._replace(attributes={"units": "K"}, promise=0.5)
    values = comm.broadcast(a.gather())
    current, missing = a, whole(shape)
    for layout in [*layouts(comm, shape)[1:], first]:
        current = hb.redistribute(current, layout)  # type: ignore[assignment]
        assert current.layout == layout
        assert_same(current, a, values)
        part = missing[layout.slices]
        np.testing.assert_array_equal(current.missing(), ~np.isfinite(part) | (part == -999))
    total, expected = current.sum(), a.sum()
    assert float(total) == pytest.approx(float(expected), rel=1e-6, nan_ok=True)
    difference = current - a
    assert not difference.decompress()[~difference.missing()].any()


@KINDS
@pytest.mark.parametrize("shape", SHAPES)
def test_to_one_rank_and_back(comm: Communicator, shape: tuple[int, ...], kind: str) -> None:
    layout, last = layouts(comm, shape)[-1], comm.size - 1
    a = compressed(shape, kind, layout)
    values = comm.broadcast(a.gather())
    one = hb.redistribute(a, None, root=last)
    assert (one is None) == (comm.rank != last)
    if one is not None:
        assert one.layout is None
        assert_same(one, a, values)
    back = hb.redistribute(one, layouts(comm, shape)[0])
    assert back is not None and back.layout == layouts(comm, shape)[0]
    assert_same(back, a, values)


def test_what_does_not_fit_is_refused_by_all(comm: Communicator) -> None:
    shape = SHAPES[0]
    layout = layouts(comm, shape)[0]
    a = compressed(shape, "packed", layout)
    with pytest.raises(LayoutError, match="as the array has them"):
        hb.redistribute(a, Layout(shape, comm, block_shape=(8, 4, 4)))
    with pytest.raises(LayoutError, match="expected a Layout of rank"):
        hb.redistribute(a, Layout(shape, block_shape=SIDES, rank=3, size=7))
    with pytest.raises(LayoutError, match="expected a root from 0"):
        hb.redistribute(a, None, root=comm.size)
    with pytest.raises(UnsupportedOperationError, match="got ndarray"):
        hb.redistribute(np.zeros(3), layout)  # type: ignore[arg-type]
    if comm.size > 1:
        with pytest.raises(CodecError, match="other factor on rank 1"):
            hb.redistribute(a._replace(factor=1.0 + comm.rank), layout)
        with pytest.raises(LayoutError, match="whole ones on"):
            hb.redistribute(a.local, layout)
        with pytest.raises(LayoutError, match="expected an array that is split over all ranks"):
            hb.redistribute(a if comm.rank else None, layout)
        with pytest.raises(LayoutError, match="expected the same layout on all ranks"):
            hb.redistribute(a, layouts(comm, shape)[1 if comm.rank else 0])
    assert hb.redistribute(a, layout).mean() == a.mean()  # type: ignore[union-attr]


def test_buffers_of_any_size(comm: Communicator) -> None:
    """Longer than a message, empty, many, or none at all."""
    small = Communicator(comm._comm, chunk_bytes=7) if comm.size > 1 else comm

    def buffers(sender: int, rank: int) -> list[bytes]:
        return [bytes([sender, rank, number]) * (11 * number) for number in range((sender + 2 * rank) % 4)]

    counts = [len(buffers(comm.rank, rank)) for rank in range(comm.size)]
    found = exchange_in_turn(small, counts, lambda rank: buffers(comm.rank, rank))
    for rank in range(comm.size):
        expected = buffers(rank, comm.rank) if rank != comm.rank else []
        assert [bytes(buffer) for buffer in found.get(rank, [])] == expected


@pytest.mark.parametrize("failing", [0, 1])
def test_a_rank_that_fails_leaves_nobody_waiting(comm: Communicator, failing: int) -> None:
    if comm.size == 1:
        pytest.skip("one rank sends nothing")

    def make(rank: int) -> list[bytes]:
        if comm.rank == failing:
            raise MemoryError("no room")
        return [b"x" * 100]

    with pytest.raises((MemoryError, HpcblazError), match="no room"):
        exchange_in_turn(comm, [1] * comm.size, make)
    with pytest.raises(HpcblazError, match="expected 1 buffers for rank"):
        exchange_in_turn(comm, [1] * comm.size, lambda rank: [] if comm.rank == failing else [b"x"])
    comm.barrier()
