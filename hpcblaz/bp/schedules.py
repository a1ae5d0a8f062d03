"""Schedules: the order in which messages are sent.

A schedule is a generator. It sends messages, and yields whether it found that none changes any more; its caller stops
it. Docs: docs/bp_inference.md.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from hpcblaz.backend.messages import Propagation, Queue
from hpcblaz.bp.watch import Watch

__all__ = ["SCHEDULES", "Options", "schedule"]

SCHEDULES = ("auto", "sweep", "lbp", "rnbp", "rbp", "splash", "queue")

FALLING = 0.9  # a share of unconverged messages, after over before: below it, as many as possible are sent
BLOCK = 16  # sweeps after which `auto` looks back
BLOCKS = 2  # and for so many it does not give up
HALVED = 0.5  # the progress that a block has to make
_NEIGHBOURS = 16  # whose messages may change a belief by as many tolerances
UPDATES = 30  # of each message that `auto` sends in residual order, before it damps more
DAMPING = (0.3, 0.6, 0.8)


@dataclass(frozen=True)
class Options:
    """What schedules are told beside the messages.

    Parameters
    ----------
    seed : int
        Of random choices.
    low, high : float
        Shares of messages that `rnbp` sends where it does not, and where it does converge.
    share : float
        Share of messages that `rbp`, or of variables that `splash` takes at a time.
    depth : int
        Depth of the trees of `splash`.
    """

    seed: int = 0
    low: float = 0.7
    high: float = 1.0
    share: float = 1 / 64
    depth: int = 2


def schedule(name: str, propagation: Propagation, watch: Watch, options: Options) -> Iterator[bool]:
    """Return the generator of a schedule.

    Parameters
    ----------
    name : str
        One of `SCHEDULES`, or 'units': a queue of units, each of which sends all that changes.
    propagation : Propagation
        The messages.
    watch : Watch
        Told what was sent.
    options : Options
    """
    if name == "lbp":
        return _flood(propagation, watch)
    if name == "sweep":
        return _sweep(propagation, watch)
    if name == "queue":
        return _queue(propagation, watch)
    if name == "units":
        return _units(propagation, watch)
    if name == "auto":
        return _auto(propagation, watch)
    return _selected(name, propagation, watch, options)


def _flood(propagation: Propagation, watch: Watch) -> Iterator[bool]:
    while True:
        done, left, largest = propagation.flood(watch.rounds())
        watch.note(done * propagation.count, left, largest)
        yield left[-1] == 0


def _sweep(propagation: Propagation, watch: Watch) -> Iterator[bool]:
    yield from _sweep_of_tree(propagation, watch)
    backward = False
    while True:
        done, left, largest = propagation.sweep(watch.rounds(), backward)
        watch.note(done * propagation.count, left, largest)
        backward ^= bool(done & 1)
        yield left[-1] == 0


def _sweep_of_tree(propagation: Propagation, watch: Watch) -> Iterator[bool]:
    """Sweep from the leaves to the roots and back if the model can be a forest, and say that this was enough."""
    plan = propagation.plan
    if plan.family != "factors" and propagation.count < 2 * plan.units:
        done, left, largest = propagation.sweep(2, True)
        watch.note(done * propagation.count, left, largest)
        yield True


def _queue(propagation: Propagation, watch: Watch) -> Iterator[bool]:
    while True:
        yield from _in_order(propagation, watch, False, None)


def _units(propagation: Propagation, watch: Watch) -> Iterator[bool]:
    while True:
        yield from _in_order(propagation, watch, True, None)


def _in_order(propagation: Propagation, watch: Watch, by_unit: bool, most: int | None) -> Iterator[bool]:
    """Send in residual order until nothing changes, or so many messages have been sent."""
    propagation.compute()
    queue = Queue(propagation, by_unit)
    first = watch.updates
    while most is None or watch.updates - first < most:
        asked = watch.sends() if most is None else min(watch.sends(), most - watch.updates + first)
        sent = queue.send(asked)
        watch.note(sent, *propagation.measure())
        if sent < asked:
            yield True
            return
        yield False


def _selected(name: str, propagation: Propagation, watch: Watch, options: Options) -> Iterator[bool]:
    """Choose messages or variables, send, and compute again what they change."""
    propagation.compute()
    left, largest = propagation.measure()
    before = 0
    variables = len(propagation.plan.graph.listener_offsets) - 1
    while True:
        if name == "rnbp":
            share = options.high if left < FALLING * before else options.low
            sent = propagation.send_drawn(share, options.seed)
        elif name == "rbp":
            sent = propagation.send_largest(max(1, round(options.share * propagation.count)))
        else:
            sent = propagation.splash(max(1, round(options.share * variables)), options.depth)
        before = left
        left, largest = propagation.measure()
        watch.note(sent, left, largest)
        yield left == 0


def _auto(propagation: Propagation, watch: Watch) -> Iterator[bool]:
    """Sweep while that halves what is left, then send in residual order, then damp."""
    yield from _promising_sweeps(propagation, watch)
    for damping in (propagation.damping, *(max(d, propagation.damping) for d in DAMPING)):
        propagation.damping = damping
        yield from _in_order(propagation, watch, True, UPDATES * propagation.count)
    yield from _units(propagation, watch)


def _promising_sweeps(propagation: Propagation, watch: Watch) -> Iterator[bool]:
    """Sweep until a block of sweeps halves neither the number of unconverged messages nor the largest residual."""
    yield from _sweep_of_tree(propagation, watch)
    sweeps, backward = 0, False
    lefts: list[int] = []
    most: list[float] = []
    while True:
        done, left, largest = propagation.sweep(min(watch.rounds(), BLOCK - sweeps % BLOCK), backward)
        watch.note(done * propagation.count, left, largest)
        sweeps += done
        backward ^= bool(done & 1)
        if left[-1] == 0:
            yield from _settle(propagation, watch, float(largest[-1]), backward)
        elif sweeps % BLOCK == 0:
            lefts.append(int(left[-1]))
            most.append(float(largest[-1]))
            if len(lefts) >= BLOCKS and lefts[-1] > HALVED * lefts[-2] and not most[-1] <= HALVED * most[-2]:
                yield False
                return
            yield False
        else:
            yield False


def _settle(propagation: Propagation, watch: Watch, largest: float, backward: bool) -> Iterator[bool]:
    """Sweep on where variables have so many neighbours that changes within the tolerance add up; then say so."""
    enough = propagation.tolerance * _NEIGHBOURS / max(_NEIGHBOURS, propagation.plan.most_told)
    for _ in range(BLOCK):
        if largest <= enough:
            break
        done, left, most = propagation.sweep(1, backward)
        watch.note(done * propagation.count, left, most)
        largest = float(most[-1])
        backward = not backward
        yield False
    yield True
