"""Compressed collectives: within the certificate, the same bits everywhere, and no rank left waiting."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mpi.test_launch import launch
from numpy.typing import NDArray

import hpcblaz as hb
from hpcblaz.backend import quantised
from hpcblaz.backend.quantised import Step
from hpcblaz.errors import (
    CommunicatorError,
    ConfigurationError,
    DtypeError,
    HpcblazError,
    PeerError,
    ShapeError,
    ToleranceError,
)
from hpcblaz.mpi import Communicator, pipeline
from hpcblaz.mpi.agreement import Plan

DTYPES = ["float16", "float32", "float64"]
SHAPES = [(0,), (1,), (7,), (5000,), (3, 0, 2), (40, 60), (2, 30, 400), (300_001,)]
ALGORITHMS = [None, "ring", "halving"]
mpi = pytest.mark.mpi


def values(comm: Communicator, shape: tuple[int, ...], dtype: str, smooth: bool = True) -> NDArray[Any]:
    rng = np.random.default_rng((comm.rank, *shape))
    x = rng.normal(size=shape)
    return (0.1 * x.cumsum(axis=-1) if smooth else x).astype(dtype)


def of_all(comm: Communicator, x: NDArray[Any]) -> list[NDArray[np.float64]]:
    return [np.asarray(part, np.float64) for part in comm.gather_objects(x)]


def assert_same_everywhere(comm: Communicator, x: NDArray[Any]) -> None:
    found = comm.gather_objects(x.tobytes())
    assert all(one == found[0] for one in found)


def assert_within(found: hb.Reduction, exact: NDArray[np.float64], tolerance: float) -> None:
    errors = abs(found.values.astype(np.float64) - exact)
    assert errors.max(initial=0.0) <= found.max_abs_error * (1 + 1e-12) + 1e-14 * abs(exact).max(initial=0.0)
    assert found.max_abs_error <= tolerance
    assert np.linalg.norm(errors) <= found.l2_error * (1 + 1e-9) + 1e-12


@mpi
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sums_keep_the_tolerance_and_are_the_same_bits_everywhere(
    comm: Communicator, shape: tuple[int, ...], dtype: str
) -> None:
    for smooth in (True, False):
        x = values(comm, shape, dtype, smooth)
        parts = of_all(comm, x)
        exact = np.sum(parts, axis=0)
        tolerance = 2e-2 * max(1.0, float(abs(exact).max(initial=0.0)))
        found = [hb.allreduce(x, tolerance=tolerance, comm=comm, algorithm=way) for way in ALGORITHMS]
        for one in found:
            assert one.values.dtype == x.dtype and one.values.shape == x.shape
            assert_within(one, exact, tolerance)
            assert (one.values == found[0].values).all()
        assert_same_everywhere(comm, found[0].values)
        ways = {one.algorithm for one in found[1:]}
        assert ways == ({"none"} if comm.size == 1 else {"ring", "halving"})
        for way in ALGORITHMS:
            part = hb.reduce_scatter(x, tolerance=tolerance, comm=comm, algorithm=way)
            assert (part.values == np.array_split(found[0].values, comm.size)[comm.rank]).all()
            assert part.max_abs_error == found[0].max_abs_error


@mpi
@pytest.mark.parametrize("dtype", DTYPES)
def test_parts_and_copies_keep_the_tolerance(comm: Communicator, dtype: str) -> None:
    for rows, inner in ((0, 3), (1, 1), (4, 700), (61, 99)):
        x = values(comm, (rows + 2 * comm.rank, inner), dtype)
        exact = np.concatenate(of_all(comm, x))
        found = [hb.allgather(x, tolerance=0.05, comm=comm, algorithm=way) for way in ALGORITHMS]
        for one in found:
            assert one.values.dtype == x.dtype
            assert_within(one, exact, 0.05)
            assert (one.values == found[0].values).all()
        assert_same_everywhere(comm, found[0].values)
        for root in {0, comm.size - 1}:
            exact = of_all(comm, x)[root]
            for way in ALGORITHMS:
                given = x if comm.rank == root else None
                copy = hb.bcast(given, root=root, tolerance=0.05, comm=comm, algorithm=way)
                assert copy.values.dtype == x.dtype
                assert_within(copy, exact, 0.05)
                assert_same_everywhere(comm, copy.values)


@mpi
@settings(max_examples=25)
@given(
    count=st.integers(1, 300),
    scale=st.floats(1e-30, 1e30),
    offset=st.floats(-100, 100),
    relative=st.sampled_from([1e-6, 1e-3, 0.3, 2.0]),
    dtype=st.sampled_from(["float32", "float64"]),
)
def test_any_magnitude(
    comm: Communicator, count: int, scale: float, offset: float, relative: float, dtype: str
) -> None:
    x = (scale * (np.random.default_rng(count + comm.rank).normal(size=count) + offset)).astype(dtype)
    parts = of_all(comm, x)
    width = max(float(np.ptp(part)) for part in parts) or max(float(abs(part).max()) for part in parts)
    try:
        found = hb.allreduce(x, relative=relative, comm=comm)
    except ToleranceError:  # rounding to the dtype takes more than there is
        largest = comm.size * max(float(abs(part).max()) for part in parts)
        assert relative * width * comm.size < 2.1 * float(np.spacing(np.dtype(dtype).type(largest)))
        return
    exact = np.array([math.fsum(column) for column in zip(*parts, strict=True)])
    assert_within(found, exact, relative * width * comm.size * (1 + 1e-12))
    assert_same_everywhere(comm, found.values)


@mpi
def test_what_is_not_finite_stays_so(comm: Communicator) -> None:
    x = np.arange(5000.0)
    last = comm.size - 1
    if comm.rank == 0:
        x[[3, 40, 41]] = math.nan, math.inf, math.inf
    if comm.rank == last:
        x[[41, 4999]] = -math.inf if last else math.nan, -math.inf
    with np.errstate(invalid="ignore"):
        exact = np.sum(of_all(comm, x), axis=0)
    found = hb.allreduce(x, tolerance=0.5, comm=comm)
    special = ~np.isfinite(exact)
    assert np.array_equal(found.values[special], exact[special], equal_nan=True)
    assert abs(found.values[~special] - exact[~special]).max() <= found.max_abs_error
    rows = hb.reduce_scatter(x.reshape(50, 100), tolerance=0.5, comm=comm).values
    assert np.array_equal(rows, np.array_split(found.values.reshape(50, 100), comm.size)[comm.rank], equal_nan=True)
    whole = hb.allgather(x, tolerance=0.5, comm=comm).values
    exact = np.concatenate(of_all(comm, x))
    assert np.array_equal(whole[~np.isfinite(exact)], exact[~np.isfinite(exact)], equal_nan=True)
    copy = hb.bcast(x if comm.rank == last else None, root=last, tolerance=0.5, comm=comm).values
    assert copy[4999] == -math.inf and np.isfinite(copy[:3]).all()


@mpi
def test_constants_zeros_and_scalars(comm: Communicator) -> None:
    assert (hb.allreduce(np.zeros(100), tolerance=1e-9, comm=comm).values == 0).all()
    found = hb.allreduce(np.full(100, 1.5), relative=1e-6, comm=comm)
    assert abs(found.values - 1.5 * comm.size).max() <= 1.5e-6 * comm.size
    number = hb.allreduce(np.float64(comm.rank), tolerance=1e-3, comm=comm)
    assert number.values.shape == ()
    assert abs(float(number.values) - sum(range(comm.size))) <= 1e-3


@mpi
def test_strided_and_foreign_arrays(comm: Communicator) -> None:
    x = values(comm, (60, 80), "float32")
    expected = hb.allreduce(x, tolerance=1e-2, comm=comm).values
    for same in (np.asfortranarray(x), np.repeat(x, 2, axis=1)[:, ::2], x.astype(">f4")):
        assert (hb.allreduce(same, tolerance=1e-2, comm=comm).values == expected).all()
    x.flags.writeable = False
    assert (hb.allreduce(x, tolerance=1e-2, comm=comm).values == expected).all()


@mpi
def test_operations_under_way_at_the_same_time(comm: Communicator) -> None:
    arrays = [values(comm, (count,), "float32") for count in (300_000, 50, 9_000, 120_000)]
    one_by_one = [hb.allreduce(x, relative=1e-3, comm=comm).values for x in arrays]
    pending = [hb.iallreduce(x, relative=1e-3, comm=comm) for x in arrays]
    scattered = hb.ireduce_scatter(arrays[0], relative=1e-3, comm=comm)
    gathered = hb.iallgather(arrays[1], relative=1e-3, comm=comm)
    copied = hb.ibcast(arrays[2], relative=1e-3, comm=comm)
    order = [0, 1, 2, 3] if comm.rank % 2 else [3, 1, 0, 2]  # every rank waits in its own order
    for number in order:
        assert (pending[number].wait().values == one_by_one[number]).all()
    assert len(gathered.wait().values) == 50 * comm.size
    while not copied.test():
        pass
    assert copied.wait() is copied.wait()
    assert (scattered.wait().values == np.array_split(one_by_one[0], comm.size)[comm.rank]).all()


@mpi
def test_many_operations_in_any_order(comm: Communicator) -> None:
    """Ranks are late, ask in orders of their own, and operations of all kinds overtake each other."""
    order, own = np.random.default_rng(5), np.random.default_rng(comm.rank)
    pending, expected = [], []
    for number in range(40):
        kind = order.choice(["allreduce", "reduce_scatter", "allgather", "bcast"])
        x = np.full((int(order.choice([1, 40, 30_000])), 3), 1.0 + number + comm.rank)
        pending.append(getattr(hb, f"i{kind}")(x, tolerance=0.01, comm=comm))
        ranks = np.arange(comm.size)
        whole = number + 1.0 if kind == "bcast" else np.repeat(number + 1.0 + ranks, len(x))[:, None]
        total = number * comm.size + (ranks + 1.0).sum()
        expected.append({"allgather": whole, "bcast": whole}.get(kind, total))
        if own.random() < 0.3:
            time.sleep(0.003)
        if own.random() < 0.5:
            pending[own.integers(len(pending))].test()
    for number in own.permutation(len(pending)):
        assert abs(pending[number].wait().values - expected[number]).max(initial=0.0) <= 0.01


@mpi
def test_a_communicator_of_some_ranks(comm: Communicator) -> None:
    if comm.size == 1:
        pytest.skip("needs two ranks")
    half = comm._comm.Split(comm.rank % 2, comm.rank)
    x = np.full(1000, float(comm.rank))
    found = hb.allreduce(x, tolerance=1e-3, comm=half)
    expected = sum(rank for rank in range(comm.size) if rank % 2 == comm.rank % 2)
    assert abs(found.values - expected).max() <= 1e-3
    half.Free()


@mpi
def test_fewer_bytes_are_sent(comm: Communicator) -> None:
    if comm.size == 1:
        pytest.skip("needs two ranks")
    x = values(comm, (400, 500), "float32")
    found = hb.allreduce(x, relative=1e-3, comm=comm, algorithm="ring")
    plain = 2 * (comm.size - 1) / comm.size * x.nbytes
    assert found.bytes_sent < plain / 4
    assert found.ratio == pytest.approx(plain / found.bytes_sent, rel=1e-2)
    noise = hb.allreduce(values(comm, (400, 500), "float32", smooth=False), relative=1e-3, comm=comm)
    assert 2.5 < noise.ratio < 5


REFUSALS: list[tuple[str, type[HpcblazError], str, Callable[[int], dict[str, Any]]]] = [
    ("no tolerance", ToleranceError, "tolerance", lambda rank: {}),
    ("both", ToleranceError, "tolerance", lambda rank: {"tolerance": 1.0, "relative": 1.0}),
    ("zero", ToleranceError, "positive", lambda rank: {"tolerance": 0.0}),
    ("NaN", ToleranceError, "positive", lambda rank: {"tolerance": math.nan}),
    ("text", ToleranceError, "positive", lambda rank: {"tolerance": "1"}),
    ("algorithm", ConfigurationError, "algorithm", lambda rank: {"tolerance": 1.0, "algorithm": "star"}),
    ("integers", DtypeError, "int64", lambda rank: {"array": np.arange(9), "tolerance": 1.0}),
    ("complex", DtypeError, "complex", lambda rank: {"array": np.ones(9, complex), "tolerance": 1.0}),
    ("masked", DtypeError, "mask", lambda rank: {"array": np.ma.masked_array(np.ones(9)), "tolerance": 1.0}),
    ("too fine", ToleranceError, "32-bit|float64 rounds", lambda rank: {"tolerance": 1e-14}),
    ("too fine for float16", ToleranceError, "wider", lambda rank: {"array": np.ones(9, "f2") * 999, "tolerance": 0.1}),
]


@mpi
@pytest.mark.parametrize("case", REFUSALS, ids=lambda case: case[0])
def test_refusals(comm: Communicator, case: Any) -> None:
    name, kind, text, arguments = case
    if comm.size == 1 and name.startswith("too fine"):
        pytest.skip("one rank has nothing to round")
    with pytest.raises(kind, match=text):
        hb.allreduce(**{"array": np.full(9, 1e3), "comm": comm, **arguments(comm.rank)})


ONE_RANK: list[tuple[str, type[HpcblazError], dict[str, Any]]] = [
    ("dtype", DtypeError, {"array": np.ones(9, np.float32)}),
    ("shape", ShapeError, {"array": np.ones(8)}),
    ("axes", ShapeError, {"array": np.ones((9, 1))}),
    ("tolerance", CommunicatorError, {"tolerance": 0.25}),
    ("algorithm", CommunicatorError, {"algorithm": "ring"}),
    ("relative", CommunicatorError, {"tolerance": None, "relative": 0.5}),
    ("bad value", ToleranceError, {"tolerance": -1.0}),
    ("no array", HpcblazError, {"array": None}),
]


@mpi
@pytest.mark.parametrize("case", ONE_RANK, ids=lambda case: case[0])
def test_one_rank_that_does_not_fit_fails_all(comm: Communicator, case: Any) -> None:
    if comm.size == 1:
        pytest.skip("needs two ranks")
    _, kind, other = case
    arguments = {"array": np.ones(9), "tolerance": 0.5, "comm": comm}
    if comm.rank == comm.size - 1:
        arguments |= other
    with pytest.raises(kind):
        hb.allreduce(**arguments)
    assert (hb.allreduce(np.ones(9), tolerance=1e-3, comm=comm).values > 0.9).all()  # and nothing is left behind


@mpi
@pytest.mark.parametrize("algorithm", ["ring", "halving"])
@pytest.mark.parametrize("what", ["quantise", "unpack"])
def test_a_rank_that_fails_on_the_way_fails_all(
    comm: Communicator, monkeypatch: pytest.MonkeyPatch, algorithm: str, what: str
) -> None:
    if comm.size == 1:
        pytest.skip("needs two ranks")
    calls = 0
    working = getattr(quantised, what)

    def broken(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2 and comm.rank == comm.size - 1:
            raise MemoryError("none left")
        return working(*arguments)

    monkeypatch.setattr(pipeline.quantised, what, broken)
    x = np.linspace(0, 1, 400_000)
    with pytest.raises((MemoryError, PeerError), match="none left"):
        hb.allreduce(x, tolerance=1e-3, comm=comm, algorithm=algorithm)
    monkeypatch.undo()
    assert abs(hb.allreduce(x, tolerance=1e-3, comm=comm).values - comm.size * x).max() <= 1e-3


def test_a_buffer_is_given_back_once() -> None:
    """A segment that was sent to two ranks has two messages of one buffer, which can end at the same time."""
    plan = Plan(Step(4, 0), "float32", True, 0.0, np.dtype(np.float32))
    nothing: dict[str, Any] = {
        "program": [],
        "segments": [(0, 9)],
        "piece": 9,
        "values": None,
        "first": 0,
        "wanted": (),
    }
    one = pipeline.Pipeline(quantised, None, None, 0, out=np.empty(9), plan=plan, strides=(), **nothing)
    buffer = one._take()
    one._release(buffer)
    one._release(buffer)
    assert one._take() is buffer
    assert one._take() is not buffer


def test_a_rank_that_is_killed_ends_the_job() -> None:
    """A rank that dies in the middle of a collective leaves nobody waiting."""
    code = (
        "import os, signal\nimport numpy as np\nimport hpcblaz as hb\nfrom hpcblaz.backend import quantised\n"
        "from hpcblaz.mpi import world\nrank, work, calls = world().rank, quantised.quantise, []\n"
        "def deadly(*arguments):\n"
        "    calls.append(1)\n"
        "    if rank == 1 and len(calls) == 3:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return work(*arguments)\n"
        "quantised.quantise = deadly\n"
        "hb.allreduce(np.linspace(0, 1, 2_000_000), relative=1e-4)\nprint('finished')\n"
    )
    status, output = launch(3, ["-c", code], 300)
    assert status not in (0, None), output
    assert "finished" not in output
    assert "KILLED BY SIGNAL: 9" in output or "signal 9" in output or "Killed" in output, output


def test_arrays_on_cards_of_several_ranks() -> None:
    """In the simulator, where an array that says so counts as one on a card."""
    code = (
        "import os\nos.environ['NUMBA_ENABLE_CUDASIM'] = '1'\nimport numpy as np\nimport hpcblaz as hb\n"
        "from hpcblaz.mpi import world\n"
        "class OnCard(np.ndarray):\n    __cuda_array_interface__ = {}\n"
        "comm = world()\nx = np.random.default_rng(comm.rank).normal(size=(30, 200)).cumsum(axis=1)\n"
        "x[2, 3] = np.inf\n"
        "for way in ('ring', 'halving'):\n"
        "    plain = hb.allreduce(x, tolerance=0.1, algorithm=way)\n"
        "    mixed = hb.allreduce(x.view(OnCard) if comm.rank else x, tolerance=0.1, algorithm=way)\n"
        "    assert (mixed.values == plain.values).all() and mixed.bytes_sent == plain.bytes_sent\n"
        "    assert mixed.max_abs_error == plain.max_abs_error\n"
        "print('equal')\n"
    )
    status, output = launch(2, ["-c", code], 300)
    assert status == 0 and output.count("equal") == 2, output
