"""How fast belief propagation is, how often it converges, and how good it is; beside other programs, if given."""

import statistics
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hpcblaz.backend.threads import threads
from hpcblaz.bp.benchmark_memory import measure_memory
from hpcblaz.bp.benchmark_peers import Peers, difference
from hpcblaz.bp.benchmark_quality import quality
from hpcblaz.bp.benchmark_rows import SCHEDULES, Case, Memory, Rate, Settings
from hpcblaz.bp.builders import chain, ising
from hpcblaz.bp.inference import infer
from hpcblaz.bp.models import PairwiseModel
from hpcblaz.bp.ragged import Floats
from hpcblaz.bp.readers import read_model
from hpcblaz.errors import ConfigurationError

__all__ = ["Settings", "run"]

_PEERS_SIZE = 100  # PGMax takes minutes to make the graph of a larger grid


def run(settings: Settings) -> dict[str, Any]:
    """Measure rates, memory, convergence, and the quality of answers.

    Parameters
    ----------
    settings : Settings

    Returns
    -------
    dict
        ``rates``, ``memory``, ``cases`` and ``quality``: lists of what `Rate`, `Memory`, `Case` and `Quality` hold; and
        ``peers``, the versions of other programs.

    Raises
    ------
    ConfigurationError
        If another program cannot be compiled or does not answer as it should, or a folder has no models.

    Examples
    --------
    >>> from hpcblaz.bp.benchmark import Settings, run
    >>> found = run(Settings(quick=True))  # doctest: +SKIP
    """
    with threads(settings.threads), TemporaryDirectory(prefix="hpcblaz-bench-") as folder:
        peers = Peers(settings, Path(folder))
        found: dict[str, Any] = {"peers": peers.versions}
        found["rates"] = [asdict(rate) for rate in _rates(settings, peers)]
        found["memory"] = [asdict(row) | {"bytes_a_state": row.bytes_a_state} for row in _memory(settings)]
        found["cases"] = [asdict(case) for case in _cases(settings, peers)]
        found["quality"] = [asdict(row) for row in quality(settings)]
    return found


def _rates(settings: Settings, peers: Peers) -> Iterator[Rate]:
    for size in (30,) if settings.quick else (100, 500):
        model, name = ising(size, 2.5, 0), f"ising {size}x{size}"
        rounds = max(10, (2_000_000 if settings.quick else 20_000_000) // (4 * size * size))
        for schedule in ("lbp", "sweep"):
            for precision in ("float32", "float64"):
                settings.say(f"messages a second: {name}, {schedule}, {precision}")
                best = 0.0
                for _ in range(4):  # the first time compiles
                    result = infer(model, schedule, tolerance=1e-30, max_iterations=rounds, precision=precision)
                    best = max(best, result.updates / (result.seconds - result.preparation_seconds))
                yield Rate(name, schedule, precision, best)
        if size <= _PEERS_SIZE:
            yield from peers.rates(name, model)


def _memory(settings: Settings) -> Iterator[Memory]:
    size = 60 if settings.quick else 500
    for schedule in ("lbp",) if settings.quick else ("lbp", "sweep", "auto"):
        settings.say(f"memory: {size} x {size}, {schedule}")
        row = measure_memory(size, schedule)
        if row is not None:
            yield row


def _sets(settings: Settings) -> Iterator[tuple[str, list[PairwiseModel]]]:
    """Yield the models of the paper, by the name of their set."""
    seeds = 2 if settings.quick else 10
    for size in (20,) if settings.quick else (50, 100):
        for coupling in (2.0, 2.5, 3.0):
            yield f"ising {size}x{size} C={coupling:g}", [ising(size, coupling, seed) for seed in range(seeds)]
    length = 1000 if settings.quick else 100_000
    yield f"chain {length} C=10", [chain(length, 10.0, seed=0)]
    if settings.protein is not None:
        paths = sorted(settings.protein.glob("*.uai"))
        if not paths:
            raise ConfigurationError(f"expected files NAME.uai in {settings.protein}, got none")
        yield "protein", [read_model(path).to_pairwise() for path in paths]


def _cases(settings: Settings, peers: Peers) -> Iterator[Case]:
    for name, models in _sets(settings):
        settings.say(name)
        reference: list[Floats | None] = [None] * len(models)
        for schedule in SCHEDULES:
            case, marginals = _measure(name, schedule, models, settings, reference)
            reference = marginals if schedule == "auto" else reference
            yield case
        yield from peers.cases(name, models, reference)


def _measure(
    name: str, schedule: str, models: list[PairwiseModel], settings: Settings, reference: list[Floats | None]
) -> tuple[Case, list[Floats | None]]:
    """Return the row of a schedule, and the marginals of those that converged."""
    infer(models[0], schedule, max_iterations=1)  # compiles what it needs
    infer(models[0], schedule, max_iterations=40, time_limit=settings.time_limit)
    results = [infer(model, schedule, time_limit=settings.time_limit, max_iterations=2**20) for model in models]
    good = [result for result in results if result.converged]
    marginals = [result.marginals if result.converged else None for result in results]
    case = Case(
        name,
        schedule,
        len(good),
        len(models),
        statistics.median([result.seconds for result in good]) if good else None,
        statistics.median([result.seconds - result.preparation_seconds for result in good]) if good else None,
        statistics.median([result.iterations for result in good]) if good else None,
        [result.seconds if result.converged else None for result in results],
        difference(marginals, reference),
    )
    return case, marginals
