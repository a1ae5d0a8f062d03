"""How fast messages are sent on a GPU, beside what its memory would allow.

Each call that is timed ends with a small fetch from the card, so that all it has queued is done. The floor is the time
in which the memory moves every array of the model and the messages once, and the new messages once, at the speed of a
copy on the card that is measured in the same run.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from hpcblaz.backend import gpu
from hpcblaz.backend.gpu_launch import SIMULATED
from hpcblaz.backend.gpu_messages import GpuPropagation
from hpcblaz.bp.builders import ising
from hpcblaz.bp.plans import Prepared, prepare

__all__ = ["GpuRate", "run"]

_COUPLING = 3.0  # of grids on which none of these schedules converges soon
_NEVER = 1e-30  # a tolerance that keeps all messages going
_COPIED = 1 << 12 if SIMULATED else 1 << 29  # bytes
_TIMES = 1 if SIMULATED else 5


@dataclass(frozen=True)
class GpuRate:
    """Messages a second of one schedule, and the time of as many messages as there are beside its floor."""

    model: str
    schedule: str
    precision: str
    messages_per_second: float
    seconds: float
    floor_seconds: float

    @property
    def times_floor(self) -> float:
        """How many times the floor it took."""
        return self.seconds / self.floor_seconds


def run(quick: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Measure messages a second of 'lbp', 'sweep' and 'rnbp' on grids of 500x500 and 3000x3000.

    Parameters
    ----------
    quick : bool
        A grid of 100x100 in their place; in the simulator one of 3x3.
    say : callable
        Told what is being measured.

    Returns
    -------
    dict
        ``card``, ``copy_bytes_per_second``, and ``rates``: a list of what `GpuRate` holds.

    Raises
    ------
    MissingDependencyError, DeviceError
        If there is no card, or what drives it is not installed.

    Examples
    --------
    >>> from hpcblaz.bp.gpu_benchmark import run
    >>> found = run(quick=True, say=print)  # doctest: +SKIP
    """
    xp = gpu.array_module()
    speed = _copy_speed(xp)
    rates = []
    for size in (3,) if SIMULATED else (100,) if quick else (500, 3000):
        model = ising(size, _COUPLING, 0)
        for precision in ("float32", "float64"):
            say(f"GPU: {size} x {size}, {precision}")
            rates += list(_rates(f"ising {size}x{size}", prepare(model, precision), speed))
    return {
        "card": gpu.describe(0 if SIMULATED else xp.cuda.Device().id),
        "copy_bytes_per_second": speed,
        "rates": [asdict(rate) | {"times_floor": rate.times_floor} for rate in rates],
    }


def _copy_speed(xp: Any) -> float:
    """Return how many bytes a second are moved by a copy on the card."""
    source, target = xp.zeros(_COPIED, np.uint8), xp.empty(_COPIED, np.uint8)

    def copy() -> None:
        xp.copyto(target, source)
        gpu.asnumpy(target[:1])

    return 2 * _COPIED / _best(copy)


def _best(call: Callable[[], Any]) -> float:
    """Return the least of several times, but the first, which compiles."""
    seconds = []
    for _ in range(_TIMES + 1):
        begin = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - begin)
    return min(seconds[1:])


def _rates(name: str, prepared: Prepared, speed: float) -> Iterator[GpuRate]:
    plan = prepared.plan
    count = len(plan.numbers)
    messages = prepared.uniform()
    floor = (sum(array.nbytes for array in plan.model) + 2 * messages.nbytes) / speed
    found = GpuPropagation(plan, messages, False, 0.0, _NEVER)
    rounds = 1 if SIMULATED else 32

    def rate(schedule: str, seconds: float, times: float) -> GpuRate:
        return GpuRate(name, schedule, plan.precision, times * count / seconds, seconds / times, floor)

    yield rate("lbp", _best(lambda: found.flood(rounds)), rounds)
    sweeps = max(1, rounds // 16)
    yield rate("sweep", _best(lambda: found.sweep(sweeps, False)), sweeps)
    found = found.afresh(messages)
    found.compute()
    sent: list[int] = []
    seconds = _best(lambda: sent.append(int(found.send_drawn_often(rounds, 0.7, 1.0, 0, 1, 1)[1].sum())))
    yield rate("rnbp", seconds, max(1, sent[-1]) / count)
