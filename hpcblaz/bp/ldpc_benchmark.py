"""How many bits of a code are decoded a second, and how many messages that takes."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from hpcblaz.backend.threads import threads
from hpcblaz.bp.batches import decode
from hpcblaz.bp.codes import channel, parity_checks
from hpcblaz.bp.parity import ParityChecks

if TYPE_CHECKING:
    from hpcblaz.bp.benchmark import Settings

__all__ = ["noise_of", "rates"]

_RATE = 0.5  # of a code whose bits have three checks, and whose checks six bits
_ERRORS_OF = 1000  # words that the frame error rate is counted on
_REPEATS = 9


def noise_of(decibels: float, rate: float) -> float:
    """Return the standard deviation of Gaussian noise, for bits sent as 1 and -1.

    Parameters
    ----------
    decibels : float
        Eb/N0: energy of a bit of the message, over the density of the noise.
    rate : float
        Bits of the message, over bits that are sent.

    Examples
    --------
    >>> round(noise_of(3.0, rate=0.5), 4)
    0.7079
    """
    return 1 / math.sqrt(2 * rate * 10 ** (decibels / 10))


def rates(settings: "Settings") -> list[dict[str, Any]]:
    """Measure the decoding of a regular code, with three checks a bit and six bits a check.

    Words are received over Gaussian noise and decoded until they are code words, 50 iterations at most.

    Parameters
    ----------
    settings : hpcblaz.bp.benchmark.Settings
        `quick`, `threads` and `say` are looked at.

    Returns
    -------
    list of dict
        With ``code``, ``decibels`` (Eb/N0), ``task``, ``schedule``, ``batch``; ``bits_per_second`` and
        ``messages_per_second`` of the best of some runs; ``iterations``, the mean of a word; and ``frame_errors``, the
        share of words that were not decoded, of ``frames``.
    """
    bits, batch = (600, 16) if settings.quick else (3000, 64)
    code = ParityChecks.from_rows(bits, parity_checks(bits, 3, 6, seed=0))
    found = []
    with threads(settings.threads):
        for task in ("marginals", "map"):
            for schedule in ("sweep", "lbp"):
                for decibels in (3.0,) if settings.quick else (2.0, 2.5, 3.0):
                    settings.say(f"bits a second: code of {bits} bits, {decibels:g} dB, {task}, {schedule}")
                    found.append(_rate(code, decibels, batch, task, schedule, settings.quick))
    return found


def _rate(code: ParityChecks, decibels: float, batch: int, task: str, schedule: str, quick: bool) -> dict[str, Any]:
    noise = noise_of(decibels, _RATE)
    zeros = np.zeros((batch, code.bits), np.int64)
    best, iterations = math.inf, 0.0
    for repeat in range(2 if quick else _REPEATS):  # the first one compiles
        result = decode(code, channel(zeros, noise, seed=repeat), task=task, schedule=schedule)
        if repeat and result.seconds < best:
            best, iterations = result.seconds, float(result.iterations.mean())
    frames = batch if quick else _ERRORS_OF
    many = decode(code, channel(np.zeros((frames, code.bits), np.int64), noise, seed=100), task=task, schedule=schedule)
    return {
        "code": f"ldpc (3,6) {code.bits}",
        "decibels": decibels,
        "task": task,
        "schedule": schedule,
        "batch": batch,
        "bits_per_second": batch * code.bits / best,
        "messages_per_second": iterations * batch * len(code.scopes) / best,
        "iterations": float(many.iterations.mean()),
        "frame_errors": float((many.assignment.any(axis=1)).mean()),
        "frames": frames,
    }
