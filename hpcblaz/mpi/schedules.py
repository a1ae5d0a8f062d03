"""Who sends what to whom in a collective operation: programs of one rank, in pure integers.

An array is cut into segments. The program of a rank is a list of operations, in an order in which they can be carried
out; between two ranks, messages are received in the order in which they are sent. Any of the programs of one collective
gives the same sums, since integers are added.
"""

from typing import NamedTuple

__all__ = ["Operation", "allgather", "allreduce", "broadcast", "reduce_scatter"]


class Operation(NamedTuple):
    """One message, of a whole segment: sent as it is by then, or received, and added to what is there or put in place.

    `adds` means nothing where a segment is sent.
    """

    sends: bool
    peer: int
    segment: int
    adds: bool = False


Program = list[Operation]


def ring_reduce_scatter(rank: int, size: int) -> Program:
    """Return a program after which segment `rank` has the sum: every segment goes once round the ring.

    Each of ``size - 1`` steps sends and receives one segment, so that no rank sends more than the array.
    """
    program = []
    for step in range(size - 1):
        program.append(Operation(True, (rank + 1) % size, (rank - 1 - step) % size))
        program.append(Operation(False, (rank - 1) % size, (rank - 2 - step) % size, True))
    return program


def ring_allgather(rank: int, size: int) -> Program:
    """Return a program that hands segment `rank` of each rank on to all others, round the ring."""
    program = []
    for step in range(size - 1):
        program.append(Operation(True, (rank + 1) % size, (rank - step) % size))
        program.append(Operation(False, (rank - 1) % size, (rank - 1 - step) % size))
    return program


def halving_reduce_scatter(rank: int, size: int) -> Program:
    """Return a program after which segment `rank` has the sum, in log2(size) steps; `size` is a power of two.

    Rabenseifner (2004): each step exchanges half of what a rank still sums with a partner, who sums the other half.
    """
    program = []
    low, high = 0, size
    while high - low > 1:
        half = (high - low) // 2
        partner = rank ^ half
        kept, given = range(low, low + half), range(low + half, high)
        if rank & half:
            kept, given = given, kept
        program += [Operation(True, partner, segment) for segment in given]
        program += [Operation(False, partner, segment, True) for segment in kept]
        low, high = kept.start, kept.stop
    return program


def doubling_allgather(rank: int, size: int) -> Program:
    """Return a program that hands segment `rank` of each rank on to all, in log2(size) steps, a power of two."""
    program = []
    count = 1
    while count < size:
        partner = rank ^ count
        own, other = rank & -count, partner & -count
        program += [Operation(True, partner, segment) for segment in range(own, own + count)]
        program += [Operation(False, partner, segment) for segment in range(other, other + count)]
        count *= 2
    return program


def _halving_allreduce(rank: int, size: int) -> Program:
    """Return the program of recursive halving and doubling for any number of ranks.

    Where that is no power of two, the first ranks pair up: the even one of a pair gives all to the odd one before, and
    gets the sum afterwards.
    """
    power = power_below(size)
    pairs = size - power
    segments = range(power)
    if rank < 2 * pairs and rank % 2 == 0:
        return [
            *(Operation(True, rank + 1, segment) for segment in segments),
            *(Operation(False, rank + 1, segment) for segment in segments),
        ]

    def rank_of(number: int) -> int:
        return 2 * number + 1 if number < pairs else number + pairs

    number = rank // 2 if rank < 2 * pairs else rank - pairs
    inner = [*halving_reduce_scatter(number, power), *doubling_allgather(number, power)]
    program = [operation._replace(peer=rank_of(operation.peer)) for operation in inner]
    if rank < 2 * pairs:
        program = [
            *(Operation(False, rank - 1, segment, True) for segment in segments),
            *program,
            *(Operation(True, rank - 1, segment) for segment in segments),
        ]
    return program


def power_below(size: int) -> int:
    """Return the largest power of two that is not larger than a positive number."""
    return 1 << (size.bit_length() - 1)


def allreduce(rank: int, size: int, algorithm: str) -> tuple[int, Program]:
    """Return into how many segments to cut, and the program after which every segment has the sum.

    Parameters
    ----------
    rank, size : int
    algorithm : {'ring', 'halving'}

    Examples
    --------
    >>> from hpcblaz.mpi.schedules import allreduce
    >>> allreduce(0, 2, "ring")[1][0]
    Operation(sends=True, peer=1, segment=1, adds=False)
    """
    if algorithm == "ring":
        return size, [*ring_reduce_scatter(rank, size), *ring_allgather(rank, size)]
    return power_below(size), _halving_allreduce(rank, size)


def reduce_scatter(rank: int, size: int, algorithm: str) -> Program:
    """Return the program after which segment `rank` of as many as there are ranks has the sum.

    Recursive halving is for powers of two; other numbers of ranks use the ring.
    """
    if algorithm == "halving" and power_below(size) == size:
        return halving_reduce_scatter(rank, size)
    return ring_reduce_scatter(rank, size)


def allgather(rank: int, size: int, algorithm: str) -> Program:
    """Return the program after which every rank has all segments; each begins with its own, of as many as ranks."""
    if algorithm == "halving" and power_below(size) == size:
        return doubling_allgather(rank, size)
    return ring_allgather(rank, size)


def broadcast(rank: int, size: int, root: int, algorithm: str) -> Program:
    """Return the program that hands the only segment of the root on to all: along a chain, or down a binomial tree.

    A chain is as fast as one link for long arrays, whose pieces follow one another; a tree takes log2(size) steps.
    """
    place = (rank - root) % size
    if algorithm == "ring":
        before, after = place > 0, place + 1 < size
        program = [Operation(False, (rank - 1) % size, 0)] if before else []
        return program + ([Operation(True, (rank + 1) % size, 0)] if after else [])
    lowest = place & -place if place else 1 << (size - 1).bit_length()
    program = [Operation(False, (place - lowest + root) % size, 0)] if place else []
    step = lowest >> 1
    while step:
        if place + step < size:
            program.append(Operation(True, (place + step + root) % size, 0))
        step >>= 1
    return program
