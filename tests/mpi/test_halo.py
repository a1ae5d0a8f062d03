"""Halos of plain arrays: plans without MPI, and what arrives on any number of ranks."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpcblaz.errors import CommunicatorError, DtypeError, LayoutError, ShapeError
from hpcblaz.mpi import Communicator, Layout, SerialCommunicator
from hpcblaz.mpi.exchange import exchange, exchange_unsized
from hpcblaz.mpi.halo import Halo, HaloPlan, exchange_halo, plan_halo


def around(x: Any, slices: Any, halo: Halo) -> Any:
    """Return what lies around a part: indices of every cell of the neighbourhood, one axis after the other."""
    for axis, part in enumerate(slices):
        n = x.shape[axis]
        cells = np.arange(part.start - halo.below[axis], part.stop + halo.above[axis])
        cells = cells % max(1, n) if halo.periodic[axis] else cells[(cells >= 0) & (cells < n)]
        x = np.take(x, cells, axis=axis)
    return x


@st.composite
def cases(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], Halo]:
    ndim = draw(st.integers(1, 3))
    shape = tuple(draw(st.integers(0, 9)) for _ in range(ndim))
    blocks = tuple(draw(st.sampled_from([1, 2, 4])) for _ in range(ndim))
    splits = tuple(draw(st.integers(1, 3)) for _ in range(ndim))
    width = [(draw(st.integers(0, 11)), draw(st.integers(0, 11))) for _ in range(ndim)]
    return shape, blocks, splits, Halo.of(ndim, width, [draw(st.booleans()) for _ in range(ndim)])


def plans(shape: Any, blocks: Any, splits: Any, halo: Halo) -> list[tuple[Layout, HaloPlan]]:
    size = math.prod(splits)
    layouts = [Layout(shape, block_shape=blocks, splits=splits, rank=rank, size=size) for rank in range(size)]
    return [(layout, plan_halo(layout, halo)) for layout in layouts]


@given(cases())
def test_every_cell_arrives_exactly_once_and_from_its_owner(case: Any) -> None:
    shape, _, _, halo = case
    x = np.arange(math.prod(shape)).reshape(shape)
    planned = plans(*case)
    for layout, plan in planned:
        times, values = np.zeros(plan.shape, int), np.full(plan.shape, -1)
        for box in plan.incoming:
            assert all(o >= p.start for o, p in zip(box.low, layout.slices_of(box.rank), strict=True))
            assert all(h <= p.stop for h, p in zip(box.high, layout.slices_of(box.rank), strict=True))
            times[box.target] += 1
            values[box.target] = x[tuple(slice(o, h) for o, h in zip(box.low, box.high, strict=True))]
        assert (times == 1).all()
        empty = not all(layout.local_shape)
        np.testing.assert_array_equal(values, layout.local(x) if empty else around(x, layout.slices, halo))
        np.testing.assert_array_equal(values[plan.inner], layout.local(x))


@given(cases())
def test_what_one_rank_sends_is_what_another_expects(case: Any) -> None:
    planned = plans(*case)
    for (layout, plan), (other, theirs) in itertools.permutations(planned, 2):
        sent = [box[1:] for box in plan.outgoing if box.rank == other.rank]
        assert sent == [box[1:] for box in theirs.incoming if box.rank == layout.rank]


def test_a_plan_of_many_ranks_has_its_neighbours_only() -> None:
    layout = Layout((4096, 4096, 512), block_shape=(4, 4, 4), splits=(64, 64, 8), rank=12345, size=64 * 64 * 8)
    plan = plan_halo(layout, Halo.of(3, 1, True))
    assert len({box.rank for box in plan.incoming}) == len(plan.incoming) == 27
    assert {box.rank for box in plan.outgoing} == {box.rank for box in plan.incoming} - {12345}
    wide = plan_halo(layout, Halo.of(3, [(0, 130), 0, 0]))
    assert len({box.rank for box in wide.incoming}) == 4  # itself, and three behind it, of 64 cells each


@pytest.mark.parametrize(
    ("width", "periodic"),
    [(-1, False), (1.5, False), ([1], False), ([(1, 2, 3), 1], False), ("1", False), (1, [True]), (1, 1)],
)
def test_widths_that_make_no_sense_are_refused(width: Any, periodic: Any) -> None:
    with pytest.raises(ShapeError, match="expected"):
        Halo.of(2, width, periodic)


def test_parts_that_do_not_fit_are_refused() -> None:
    comm, layout = SerialCommunicator(), Layout((4, 4))
    with pytest.raises(ShapeError, match=r"part \(4, 4\), got \(4,\)"):
        exchange_halo(comm, np.zeros(4), layout, 1)
    with pytest.raises(DtypeError, match="plain numbers"):
        exchange_halo(comm, np.full((4, 4), None), layout, 1)
    with pytest.raises(LayoutError, match="rank 0 of 1, got rank 1 of 2"):
        exchange_halo(comm, np.zeros((4, 4)), Layout((4, 4), rank=1, size=2), 1)


@pytest.mark.mpi
def test_halos_are_those_of_the_whole_array(comm: Communicator) -> None:
    for shape, width, periodic in (
        ((30, 17), 1, True),
        ((30, 17), [(0, 2), (3, 0)], False),
        ((9, 7, 6), 2, [True, False, True]),
        ((9, 40), [(15, 12), 50], True),  # beyond the nearest neighbours, and around more than once
        ((3, 5), 4, [False, True]),  # ranks without cells
        ((0, 5), 1, True),
        ((40,), 0, True),
    ):
        x = np.random.default_rng(0).integers(0, 1 << 40, shape)
        halo = Halo.of(len(shape), width, periodic)
        for splits in itertools.product(range(1, comm.size + 1), repeat=len(shape)):
            if math.prod(splits) != comm.size:
                continue
            layout = Layout(shape, comm, block_shape=(4,) * len(shape), splits=splits)
            for values in (x, x.astype(">f4"), np.asfortranarray(x)):
                got = exchange_halo(comm, layout.local(values), layout, width, periodic=periodic)
                own = layout.local(values)
                np.testing.assert_array_equal(got, around(values, layout.slices, halo) if own.size else own)
                assert got.dtype == values.dtype.newbyteorder("=")


@pytest.mark.mpi
def test_a_periodic_halo_is_numpy_s_wrapped_padding(comm: Communicator) -> None:
    x = np.random.default_rng(1).normal(size=(24, 20))
    layout = Layout(x.shape, comm, block_shape=(4, 4))
    for width in (1, 3, 25):
        wrapped = np.pad(x, width, mode="wrap")
        slices = tuple(slice(part.start, part.stop + 2 * width) for part in layout.slices)
        np.testing.assert_array_equal(
            exchange_halo(comm, layout.local(x), layout, width, periodic=True), wrapped[slices]
        )


@pytest.mark.mpi
def test_long_messages_are_cut_and_arrive_in_order(comm: Communicator) -> None:
    short = Communicator(comm._comm, chunk_bytes=7) if comm.size > 1 else comm
    peers = range(short.size)
    sizes = {(s, r): 31 * s + 5 * r for s in peers for r in peers}
    data = {key: np.random.default_rng(key).integers(0, 256, size, np.uint8) for key, size in sizes.items()}
    for _ in range(3):
        got = exchange(
            short, {r: data[short.rank, r] for r in peers}, {s: sizes[s, short.rank] for s in peers}
        )  # fmt: skip
        also = exchange_unsized(short, {r: data[short.rank, r].tobytes() for r in peers}, list(peers))
        for s in peers:
            np.testing.assert_array_equal(got[s], data[s, short.rank])
            np.testing.assert_array_equal(also[s], data[s, short.rank])


@pytest.mark.mpi
def test_what_fails_meanwhile_is_raised_when_all_has_arrived(comm: Communicator) -> None:
    after, before = (comm.rank + 1) % comm.size, (comm.rank - 1) % comm.size

    def fails() -> None:
        if comm.rank == 0:
            raise ValueError("meanwhile")

    for number in range(2):  # a message that was left over would be taken for one of the second round
        message = np.full(1 << 20, 10 * number + comm.rank, np.uint8)
        try:
            got = exchange(comm, {after: message}, {before: 1 << 20}, fails)
        except ValueError:
            assert comm.rank == 0
        else:
            assert comm.rank and (got[before] == 10 * number + before).all()
    assert (exchange(comm, {after: message}, {before: 1 << 20})[before] == 10 + before).all()


@pytest.mark.mpi
def test_ranks_that_ask_for_different_halos_are_told_so(comm: Communicator) -> None:
    if comm.size == 1:
        pytest.skip("needs several ranks")
    layout = Layout((16, 16), comm, block_shape=(4, 4))
    part = np.zeros(layout.local_shape)
    with pytest.raises(LayoutError, match="one width"):
        exchange_halo(comm, part, layout, comm.rank)
    with pytest.raises(LayoutError, match="one dtype"):
        exchange_halo(comm, part.astype(np.int64 if comm.rank else np.float64), layout, 1)
    with pytest.raises((ShapeError, CommunicatorError)):  # one rank fails: all raise, and none waits
        exchange_halo(comm, part if comm.rank else part[:1, :0], layout, 1)
