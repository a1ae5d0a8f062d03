"""Schedules on a GPU: those of :mod:`hpcblaz.bp.schedules` that send many messages at a time.

The host looks at what was sent once for many times that messages are sent. Docs: docs/bp_inference.md.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

from hpcblaz.backend.dispatch import choose_device
from hpcblaz.backend.gpu_messages import GpuPropagation
from hpcblaz.backend.messages import Propagation
from hpcblaz.bp import schedules
from hpcblaz.bp.schedules import BLOCK, HALVED, Options
from hpcblaz.bp.watch import Watch
from hpcblaz.errors import ConfigurationError

GPU_SCHEDULES = ("auto", "sweep", "lbp", "rnbp", "rbp", "splash")

# What `auto` sends at random once sweeps get nowhere: the share where the number of unconverged messages does not fall,
# how much of old messages stays, and how often; by counts and not by time, so that a seed gives the same run
_STAGES = ((0.3, 0.3, 128), (0.1, 0.6, 512))
_LAST = (0.1, 0.8)

Schedule = Callable[[str, Any, Watch, Options], Iterator[bool]]


def engine(device: str, schedule: str) -> tuple[Callable[..., Any], Schedule]:
    """Return what holds messages on a device, and what starts a schedule there.

    Parameters
    ----------
    device : {'cpu', 'gpu'}
    schedule : str
        The name of the schedule.

    Raises
    ------
    ConfigurationError
        If there is no such device, or the schedule has no place on it.
    MissingDependencyError, DeviceError
        If it is a GPU that cannot be used.
    """
    if device == "cpu":
        return Propagation, schedules.schedule
    if choose_device(str(device)) == "gpu" and schedule not in GPU_SCHEDULES:
        raise ConfigurationError(
            f"schedule: expected one of {', '.join(GPU_SCHEDULES)} on a GPU, got {schedule!r}, which sends one message "
            "after the other: leave device= out to use the CPU"
        )
    return GpuPropagation, start


def start(name: str, propagation: GpuPropagation, watch: Watch, options: Options) -> Iterator[bool]:
    """Return the generator of a schedule of `GPU_SCHEDULES`."""
    if name == "auto":
        return _auto(propagation, watch, options)
    if name == "rnbp":
        return _drawn(propagation, watch, options.low, options.high, options.seed, None)
    any_propagation: Any = propagation  # the schedule takes whatever has the methods
    return schedules.schedule(name, any_propagation, watch, options)


def _drawn(
    propagation: GpuPropagation, watch: Watch, low: float, high: float, seed: int, times: int | None
) -> Iterator[bool]:
    """Send unconverged messages at random, so many times or for ever."""
    propagation.compute()
    before, left = 0, propagation.measure()[0]
    while times is None or times > 0:
        rounds = watch.rounds() if times is None else min(watch.rounds(), times)
        done, sent, lefts, largest = propagation.send_drawn_often(rounds, low, high, seed, before, left)
        watch.note(int(sent.sum()), lefts, largest)
        before, left = int(lefts[-2]) if done > 1 else left, int(lefts[-1])
        times = None if times is None else times - done
        yield left == 0


def _auto(propagation: GpuPropagation, watch: Watch, options: Options) -> Iterator[bool]:
    """Sweep while that halves what is left, then send at random, fewer and fewer, and damp more and more."""
    yield from _promising_sweeps(propagation, watch)
    given = propagation.damping
    for low, damping, times in _STAGES:
        propagation.damping = max(damping, given)
        yield from _drawn(propagation, watch, low, 1.0, options.seed, times)
    low, damping = _LAST
    propagation.damping = max(damping, given)
    yield from _drawn(propagation, watch, low, 1.0, options.seed, None)


def _promising_sweeps(propagation: GpuPropagation, watch: Watch) -> Iterator[bool]:
    """Sweep until a block of sweeps halves neither the number of unconverged messages nor the largest residual.

    The first sweep goes backward: two are all that a tree needs.
    """
    sweeps, backward = 0, True
    before = math.inf, math.inf
    while True:
        done, left, largest = propagation.sweep(min(watch.rounds(), BLOCK - sweeps % BLOCK), backward)
        watch.note(done * propagation.count, left, largest)
        sweeps += done
        backward ^= bool(done & 1)
        yield bool(left[-1] == 0)
        if sweeps % BLOCK == 0:
            now = int(left[-1]), float(largest[-1])
            if now[0] > HALVED * before[0] and not now[1] <= HALVED * before[1]:
                return
            before = now
