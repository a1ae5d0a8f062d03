r"""How long an allreduce takes: latency, bandwidth and computation, fitted to measurements.

An array of `N` values on `P` ranks is sent in `M` messages one after the other, and each rank sends `B` bytes and
computes on `V` values:

.. math:: T = \lambda M + \max(B / \beta, \gamma V) + \min(B / \beta, \gamma V) / K

since all but one of the `K` pieces of a message are computed on while others are on their way. Uncompressed, `V` stands
for the additions alone.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hpcblaz.errors import MissingDependencyError
from hpcblaz.mpi.agreement import choose_algorithm

_PIECES = 8


@dataclass(frozen=True)
class Measurement:
    """One allreduce that was measured. `gigabits` is that of the links, and None for shared memory."""

    ranks: int
    values: int
    gigabits: float | None
    bits: float | None  # a value, on the wire; None: not compressed
    cores: int
    seconds: float


@dataclass(frozen=True)
class Model:
    """The parameters, in seconds and in the share of the links' bandwidth.

    Attributes
    ----------
    latency : float
        Of one message, uncompressed.
    compressed_latency : float
        Of one message, compressed; to begin and to end count as two messages.
    share : float
        Of the bandwidth of a link that messages reach.
    addition : float
        Seconds a value for adding floats.
    computation : float
        Seconds a value for rounding, packing, unpacking and adding.
    """

    latency: float
    compressed_latency: float
    share: float
    addition: float
    computation: float

    def seconds(self, ranks: int, values: int, gigabits: float, bits: float | None, ranks_a_core: float = 1.0) -> float:
        """Return the time of an allreduce; `bits` a value on the wire, None for float32 as they are."""
        part = 2 * (ranks - 1) / ranks
        ring = bits is not None and choose_algorithm(None, 4 * values, ranks) == "ring"
        messages = 2 * (ranks - 1) if ring else 2 * math.ceil(math.log2(ranks))
        wire = part * values * (32 if bits is None else bits) / (1e9 * gigabits * self.share)
        if bits is None:
            return self.latency * messages * ranks_a_core + wire + self.addition * values * part / 2 * ranks_a_core
        work = self.computation * values * ranks_a_core
        return self.compressed_latency * (messages + 2) * ranks_a_core + max(wire, work) + min(wire, work) / _PIECES


def fit(measured: Sequence[Measurement]) -> tuple[Model, float, float]:
    """Return the model that fits measurements over links best, where ranks had cores of their own.

    Returned with it is the factor by which it is off, typically, there; and where ranks shared cores, on the assumption
    that all but the wire takes longer in proportion (NaN if there are no such measurements).

    Raises
    ------
    MissingDependencyError
        If SciPy is not installed.
    """
    try:
        from scipy.optimize import least_squares
    except ImportError as error:
        raise MissingDependencyError.needs("fitting the model", "scipy", "bench") from error
    linked = [point for point in measured if point.gigabits is not None]
    free = [point for point in linked if point.ranks <= point.cores] or linked
    crowded = [point for point in linked if point not in free]

    def deviations(parameters: np.ndarray, points: Sequence[Measurement]) -> list[float]:
        model = Model(*(float(number) for number in np.exp(parameters)))
        return [math.log(_predict(model, point) / point.seconds) for point in points]

    def typical(points: Sequence[Measurement]) -> float:
        return math.exp(float(np.sqrt(np.mean(np.square(deviations(found.x, points)))))) if points else math.nan

    start = np.log([5e-5, 2e-4, 0.9, 1e-9, 2e-9])
    low, high = np.log([1e-7, 1e-6, 0.05, 1e-12, 1e-11]), np.log([1e-1, 1e-1, 1.0, 1e-6, 1e-6])
    found = least_squares(deviations, start, args=(free,), bounds=(low, high), loss="soft_l1")
    return Model(*(float(number) for number in np.exp(found.x))), typical(free), typical(crowded)


def _predict(model: Model, point: Measurement) -> float:
    crowded = max(1.0, point.ranks / point.cores)
    return model.seconds(point.ranks, point.values, point.gigabits or 1.0, point.bits, crowded)
