"""What is measured of belief propagation, and the rows that it gives."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["SCHEDULES", "Case", "Memory", "Quality", "Rate", "Settings"]

SCHEDULES = ("auto", "sweep", "lbp", "rnbp", "rbp", "splash", "queue")


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Parameters
    ----------
    quick : bool
        Small models and few of them.
    threads : int
        Threads that all sides may use; the C++ program uses one.
    time_limit : float
        Seconds after which a model counts as not converged.
    baseline : Path, optional
        C++ source of a program that is called as ``PROGRAM sync|seq|rbp LIMIT TOLERANCE out NAME...``, and reads
        ``data/NAME.mrf``. Marginals that it writes to ``out/NAME.marg`` are compared.
    pgmax : Path, optional
        A Python that has PGMax 0.6 and JAX before 0.5.
    protein : Path, optional
        Folder of pairwise models in UAI files, measured as one more set.
    uai : Path, optional
        Folder of ``NAME.uai`` with ``NAME.uai.evid`` and exact answers ``NAME.uai.MAR``, ``NAME.uai.PR``.
    say : callable
        Told what is being measured.
    """

    quick: bool = False
    threads: int = 2
    time_limit: float = 3.0
    baseline: Path | None = None
    pgmax: Path | None = None
    protein: Path | None = None
    uai: Path | None = None
    say: Callable[[str], None] = field(default=lambda text: None, repr=False)


@dataclass(frozen=True)
class Rate:
    """Messages a second of a schedule that sends all of them."""

    model: str
    who: str
    precision: str
    messages_per_second: float


@dataclass(frozen=True)
class Memory:
    """Most memory that an inference took, in a process of its own.

    ``model_bytes`` is what the process grew by while it made the model, ``inference_bytes`` what it grew by after that,
    at its peak. A message has as many states as its variable.
    """

    model: str
    schedule: str
    precision: str
    message_states: int
    model_bytes: int
    inference_bytes: int

    @property
    def bytes_a_state(self) -> float:
        """Bytes a message state, of model and inference."""
        return (self.model_bytes + self.inference_bytes) / self.message_states


@dataclass(frozen=True)
class Case:
    """How many models converged, and the median time of those: in all, and without putting the model in order.

    ``who`` is a schedule of this package, or another program, whose time is without preparation. ``times`` has the
    seconds of each model, in the order of the seeds, None if it did not converge; with preparation where ``seconds`` is
    known. ``difference`` is the mean absolute difference of marginals from those of 'auto', the median of the models on
    which both converged: schedules may converge to different fixed points.
    """

    models: str
    who: str
    converged: int
    of: int
    seconds: float | None
    propagation_seconds: float | None
    iterations: float | None
    times: list[float | None]
    difference: float | None = None


@dataclass(frozen=True)
class Quality:
    """How far answers of a schedule are from the exact ones.

    ``error`` is the mean over variables of the mean absolute difference of marginals, ``hellinger`` the mean Hellinger
    distance, ``log10_partition`` the difference of the decimal logarithms of Z.
    """

    model: str
    family: str
    schedule: str
    status: str
    seconds: float
    iterations: float
    residual: float
    error: float | None
    hellinger: float | None
    log10_partition: float | None
