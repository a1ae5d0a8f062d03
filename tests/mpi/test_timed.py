"""What communication costs is counted, and nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest

from hpcblaz.mpi import Communicator, Layout
from hpcblaz.mpi.exchange import exchange
from hpcblaz.mpi.timed import TimedCommunicator, Traffic

pytestmark = pytest.mark.mpi


@pytest.fixture
def timed(comm: Communicator) -> TimedCommunicator:
    if comm.size == 1:
        pytest.skip("needs several ranks")
    return TimedCommunicator(comm._comm)


def test_bytes_are_counted_for_every_rank_that_gets_them(timed: TimedCommunicator) -> None:
    others = timed.size - 1
    timed.allgather(np.zeros(5))
    assert timed.traffic.bytes_sent == 40 * others
    timed.traffic.clear()
    timed.agree(None)
    assert timed.traffic.bytes_sent == 4 * others
    timed.traffic.clear()
    timed.broadcast(b"x" * 1000)
    assert (
        timed.traffic.bytes_sent // max(1, others) in range(1000, 1100)
        if timed.rank == 0
        else not timed.traffic.bytes_sent
    )
    timed.traffic.clear()
    timed.gather_objects(b"x" * 1000)
    assert 1000 * others < timed.traffic.bytes_sent < 1100 * others
    timed.traffic.clear()
    after, before = (timed.rank + 1) % timed.size, (timed.rank - 1) % timed.size
    exchange(timed, {after: np.zeros(77, np.uint8)}, {before: 77})
    assert timed.traffic.bytes_sent == 77


def test_waiting_is_time_in_mpi(timed: TimedCommunicator) -> None:
    assert timed.traffic == Traffic()
    timed.barrier()
    assert timed.traffic.seconds > 0 and timed.traffic.cpu_seconds >= 0 and timed.traffic.bytes_sent == 0


def test_answers_are_the_same(comm: Communicator, timed: TimedCommunicator) -> None:
    x = np.arange(35.0).reshape(7, 5)
    layout = Layout(x.shape, timed, block_shape=(2, 2))
    part = timed.scatter(x if timed.rank == 0 else None, layout)
    np.testing.assert_array_equal(part, layout.local(x))
    whole = timed.gather(part, layout)
    if whole is not None:
        np.testing.assert_array_equal(whole, x)
    np.testing.assert_array_equal(timed.allgather([timed.rank]), comm.allgather([comm.rank]))
