"""The programs of collective operations, carried out on sets: who contributed to what every rank has in the end."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence

import pytest

from hpcblaz.mpi import schedules
from hpcblaz.mpi.schedules import Program

SIZES = [1, 2, 3, 4, 5, 6, 7, 8, 11, 16, 17]
ALGORITHMS = ["ring", "halving"]
State = list[dict[int, frozenset[int]]]


def carry_out(programs: Sequence[Program], state: State) -> State:
    """Send and receive sets of contributors until nothing moves any more."""
    queues: dict[tuple[int, int], deque[tuple[int, frozenset[int]]]] = {}
    waiting = [deque(program) for program in programs]
    moved = True
    while moved:
        moved = False
        for rank, operations in enumerate(waiting):
            while operations:
                operation = operations[0]
                if operation.sends:
                    message = operation.segment, state[rank][operation.segment]
                    queues.setdefault((rank, operation.peer), deque()).append(message)
                else:
                    queue = queues.get((operation.peer, rank))
                    if not queue:
                        break
                    segment, given = queue.popleft()
                    assert segment == operation.segment
                    if operation.adds:
                        assert not state[rank][segment] & given, "a contribution would be counted twice"
                        given = state[rank][segment] | given
                    state[rank][segment] = given
                operations.popleft()
                moved = True
    assert not any(waiting), "a rank waits for ever"
    assert not any(queues.values()), "a message is never received"
    return state


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_allreduce_sums_everything_everywhere(size: int, algorithm: str) -> None:
    count, _ = schedules.allreduce(0, size, algorithm)
    programs = [schedules.allreduce(rank, size, algorithm)[1] for rank in range(size)]
    state: State = [dict.fromkeys(range(count), frozenset([rank])) for rank in range(size)]
    assert carry_out(programs, state) == [dict.fromkeys(range(count), frozenset(range(size)))] * size


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_reduce_scatter_sums_the_own_segment(size: int, algorithm: str) -> None:
    programs = [schedules.reduce_scatter(rank, size, algorithm) for rank in range(size)]
    state: State = [dict.fromkeys(range(size), frozenset([rank])) for rank in range(size)]
    found = carry_out(programs, state)
    assert all(found[rank][rank] == frozenset(range(size)) for rank in range(size))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_allgather_hands_every_segment_to_all(size: int, algorithm: str) -> None:
    programs = [schedules.allgather(rank, size, algorithm) for rank in range(size)]
    state: State = [{k: frozenset([k] if k == rank else []) for k in range(size)} for rank in range(size)]
    assert carry_out(programs, state) == [{k: frozenset([k]) for k in range(size)}] * size


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_broadcast_hands_the_root_s_to_all(size: int, algorithm: str) -> None:
    for root in range(size):
        programs = [schedules.broadcast(rank, size, root, algorithm) for rank in range(size)]
        state: State = [{0: frozenset([rank])} for rank in range(size)]
        assert carry_out(programs, state) == [{0: frozenset([root])}] * size


@pytest.mark.parametrize("size", [2, 4, 16])
def test_no_rank_sends_more_than_an_optimal_one(size: int) -> None:
    """Ring and halving send 2 (size - 1) / size of the array; halving in twice log2(size) exchanges with a peer."""
    for algorithm in ALGORITHMS:
        for rank in range(size):
            count, program = schedules.allreduce(rank, size, algorithm)
            sent = sum(operation.sends for operation in program)
            assert sent * size == 2 * (size - 1) * count
            peers = [operation.peer for operation in program if operation.sends]
            changes = 1 + sum(a != b for a, b in itertools.pairwise(peers))
            assert algorithm == "ring" or changes == 2 * (size.bit_length() - 1) - 1 or size == 2
