"""How far the answers of each schedule are from exact ones, on models in a folder."""

from collections.abc import Iterator
from pathlib import Path

from hpcblaz.bp.benchmark_rows import SCHEDULES, Quality, Settings
from hpcblaz.bp.comparison import Answers, compare
from hpcblaz.bp.inference import infer
from hpcblaz.bp.models import FactorGraph, PairwiseModel
from hpcblaz.bp.readers import read_model
from hpcblaz.bp.solutions import read_log_partition, read_marginals
from hpcblaz.bp.uai import read_evidence
from hpcblaz.errors import ConfigurationError

__all__ = ["quality"]

_WARMING = 5.0  # seconds
_SECONDS = 20.0  # a run may take; nearly all need a fraction of one
_QUICK = 3


def quality(settings: Settings) -> Iterator[Quality]:
    """Yield a row for each model of the folder and each schedule.

    Parameters
    ----------
    settings : Settings

    Raises
    ------
    ConfigurationError
        If the folder has no model with exact answers.
    FileFormatError
        If a file is malformed.
    """
    if settings.uai is None:
        return
    paths = [path for path in sorted(settings.uai.glob("*.uai")) if _exact(path, ".MAR") or _exact(path, ".PR")]
    if not paths:
        raise ConfigurationError(
            f"expected files NAME.uai with exact answers NAME.uai.MAR or NAME.uai.PR in {settings.uai}, got none"
        )
    if settings.quick:
        paths = sorted(paths, key=lambda path: path.stat().st_size)[:_QUICK]
    for path in paths:
        settings.say(path.name)
        evidence = _exact(path, ".evid")
        model = read_model(path).clamp(read_evidence(evidence) if evidence else {})
        answers = _answers(path)
        for schedule in SCHEDULES:
            yield _measure(path.stem, model, schedule, answers)


def _exact(path: Path, suffix: str) -> Path | None:
    beside = path.with_name(path.name + suffix)
    return beside if beside.is_file() else None


def _answers(path: Path) -> Answers:
    marginals, partition = _exact(path, ".MAR"), _exact(path, ".PR")
    offsets, values = read_marginals(marginals) if marginals else (None, None)
    return Answers(offsets, values, read_log_partition(partition) if partition else None)


def _measure(name: str, model: FactorGraph | PairwiseModel, schedule: str, answers: Answers) -> Quality:
    infer(model, schedule, max_iterations=100, time_limit=_WARMING)  # compiles what all of its stages need
    result = infer(model, schedule, time_limit=_SECONDS)
    found = compare(result, answers)
    return Quality(
        name,
        name.rpartition("_")[0] or name,
        schedule,
        result.status,
        result.seconds,
        result.iterations,
        result.residual,
        None if found.mean_absolute is None else float(found.mean_absolute.mean()),
        None if found.hellinger is None else float(found.hellinger.mean()),
        found.log10_partition,
    )
