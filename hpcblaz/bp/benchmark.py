"""How fast belief propagation is, and how often it converges; beside a program that is given as source, if one is."""

import re
import shutil
import statistics
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from hpcblaz.backend.threads import threads
from hpcblaz.bp.builders import chain, ising
from hpcblaz.bp.inference import infer
from hpcblaz.bp.models import PairwiseModel
from hpcblaz.errors import ConfigurationError

__all__ = ["Case", "Rate", "Settings", "run"]

_SCHEDULES = ("auto", "sweep", "lbp", "rnbp", "rbp", "splash", "queue")
_PROGRAM = {"sync": "LBP", "seq": "sweep", "rbp": "residual"}
_LINE = re.compile(r"^cpp-(\w+) (\S+) conv=([01]) time=(\S+)", re.MULTILINE)
_FLAGS = ("-O3", "-march=native", "-ffast-math", "-fno-finite-math-only")


@dataclass(frozen=True)
class Settings:
    """What is measured.

    Parameters
    ----------
    quick : bool
        Small models and few of them.
    threads : int
        Threads that both sides may use; the program uses one.
    time_limit : float
        Seconds after which a model counts as not converged.
    baseline : Path, optional
        C++ source of a program that is called as ``PROGRAM sync|seq|rbp LIMIT TOLERANCE - NAME...``, and reads
        ``data/NAME.mrf``.
    say : callable
        Told what is being measured.
    """

    quick: bool = False
    threads: int = 2
    time_limit: float = 3.0
    baseline: Path | None = None
    say: Callable[[str], None] = field(default=lambda text: None, repr=False)


@dataclass(frozen=True)
class Rate:
    """Messages a second of a schedule that sends all of them."""

    model: str
    schedule: str
    precision: str
    messages_per_second: float


@dataclass(frozen=True)
class Case:
    """How many models converged, and the median time of those: in all, and without putting the model in order.

    ``who`` is a schedule of this package, or one of the program, with ``C++`` before it: its time is without
    preparation. ``seconds`` and ``iterations`` are None if no model converged.
    """

    models: str
    who: str
    converged: int
    of: int
    seconds: float | None
    propagation_seconds: float | None
    iterations: float | None


def run(settings: Settings) -> dict[str, Any]:
    """Measure rates and convergence.

    Parameters
    ----------
    settings : Settings

    Returns
    -------
    dict
        ``rates`` and ``cases``, lists of what `Rate` and `Case` hold.

    Raises
    ------
    ConfigurationError
        If the program cannot be compiled or does not answer as it should.

    Examples
    --------
    >>> from hpcblaz.bp.benchmark import Settings, run
    >>> found = run(Settings(quick=True))  # doctest: +SKIP
    """
    with threads(settings.threads), TemporaryDirectory(prefix="hpcblaz-bench-") as folder:
        program = None if settings.baseline is None else _compiled(settings.baseline, Path(folder))
        rates = [asdict(rate) for rate in _rates(settings)]
        cases: list[Case] = []
        for name, models in _sets(settings):
            settings.say(name)
            cases += [_measure(name, schedule, models, settings) for schedule in _SCHEDULES]
            if program is not None:
                cases += _measure_program(name, program, models, settings)
    return {"rates": rates, "cases": [asdict(case) for case in cases]}


def _rates(settings: Settings) -> Iterator[Rate]:
    for size in (30,) if settings.quick else (100, 500):
        model = ising(size, 2.5, 0)
        rounds = max(10, 20_000_000 // (4 * size * size))
        for schedule in ("lbp", "sweep"):
            for precision in ("float32", "float64"):
                settings.say(f"messages a second: {size} x {size}, {schedule}, {precision}")
                best = 0.0
                for _ in range(4):  # the first time compiles
                    result = infer(model, schedule, tolerance=1e-30, max_iterations=rounds, precision=precision)
                    best = max(best, result.updates / (result.seconds - result.preparation_seconds))
                yield Rate(f"ising {size}x{size}", schedule, precision, best)


def _sets(settings: Settings) -> Iterator[tuple[str, list[PairwiseModel]]]:
    size, seeds = (20, 2) if settings.quick else (100, 10)
    for coupling in (2.0, 2.5, 3.0):
        yield f"ising {size}x{size} C={coupling:g}", [ising(size, coupling, seed) for seed in range(seeds)]
    length = 1000 if settings.quick else 100_000
    yield f"chain {length} C=10", [chain(length, 10.0, seed=0)]


def _measure(name: str, schedule: str, models: list[PairwiseModel], settings: Settings) -> Case:
    infer(models[0], schedule, max_iterations=1)  # compiles what it needs
    infer(models[0], schedule, max_iterations=40, time_limit=settings.time_limit)
    results = [infer(model, schedule, time_limit=settings.time_limit, max_iterations=2**20) for model in models]
    good = [result for result in results if result.converged]
    return Case(
        name,
        schedule,
        len(good),
        len(models),
        statistics.median([result.seconds for result in good]) if good else None,
        statistics.median([result.seconds - result.preparation_seconds for result in good]) if good else None,
        statistics.median([result.iterations for result in good]) if good else None,
    )


def _compiled(source: Path, folder: Path) -> Path:
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        raise ConfigurationError("expected a C++ compiler for --baseline, got none: install g++")
    program = folder / "baseline"
    done = subprocess.run(
        [compiler, *_FLAGS, "-o", str(program), str(source.resolve())], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise ConfigurationError(f"expected C++ that compiles, got {source}: {done.stderr.strip()[:300]}")
    return program


def _measure_program(name: str, program: Path, models: list[PairwiseModel], settings: Settings) -> list[Case]:
    folder = program.parent
    (folder / "data").mkdir(exist_ok=True)
    for number, model in enumerate(models):
        _write(folder / "data" / f"m{number}.mrf", model)
    cases = []
    for argument, called in _PROGRAM.items():
        command = [
            str(program),
            argument,
            str(settings.time_limit),
            "1e-4",
            "-",
            *(f"m{i}" for i in range(len(models))),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)
        found = _LINE.findall(done.stdout)
        if done.returncode or len(found) != len(models):
            raise ConfigurationError(f"expected a line of each model of --baseline, got {done.stdout[:200]!r}")
        times = [float(seconds) for _, _, good, seconds in found if good == "1"]
        median = statistics.median(times) if times else None
        cases.append(Case(name, f"C++ {called}", len(times), len(models), None, median, None))
    return cases


def _write(path: Path, model: PairwiseModel) -> None:
    """Write a model as the program reads it: states, weights, and edges with their tables."""
    with path.open("w") as file:
        file.write(f"{model.variables}\n{' '.join(map(str, model.cardinalities))}\n")
        for variable in range(model.variables):
            file.write(_numbers(np.exp(model.log_unary(variable))) + "\n")
        file.write(f"{len(model.edges)}\n")
        for edge, (a, b) in enumerate(model.edges):
            file.write(f"{a} {b} {_numbers(np.exp(model.log_table(edge)).ravel())}\n")


def _numbers(values: Any) -> str:
    return " ".join(f"{value:.17g}" for value in values)
