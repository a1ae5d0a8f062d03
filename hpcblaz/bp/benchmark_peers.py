"""Other programs that are measured in the same run: one that is given as C++ source, and PGMax."""

import json
import os
import re
import shutil
import statistics
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hpcblaz.bp import pgmax_peer
from hpcblaz.bp.benchmark_rows import Case, Rate, Settings
from hpcblaz.bp.models import PairwiseModel
from hpcblaz.bp.ragged import Floats
from hpcblaz.bp.tokens import Numbers
from hpcblaz.errors import ConfigurationError

__all__ = ["Peers", "difference"]

_PROGRAM = {"sync": "LBP", "seq": "sweep", "rbp": "residual"}
_LINE = re.compile(r"^cpp-(\w+) (\S+) conv=([01]) time=(\S+)", re.MULTILINE)
_FLAGS = ("-O3", "-march=native", "-ffast-math", "-fno-finite-math-only")
_DAMPING = (0.0, 0.5)  # the second is the default of PGMax
_XLA_FLAGS = "--xla_cpu_use_thunk_runtime=false"  # the newer runtime of XLA takes 50 times as long to scatter


class Peers:
    """The other programs of a run.

    Parameters
    ----------
    settings : Settings
    folder : pathlib.Path
        Where files for them are written.

    Raises
    ------
    ConfigurationError
        If a program cannot be compiled or started.

    Attributes
    ----------
    versions : dict
        What there is, by name.
    """

    def __init__(self, settings: Settings, folder: Path) -> None:
        self._settings, self._folder = settings, folder
        self.versions: dict[str, Any] = {}
        self._program = None if settings.baseline is None else _compiled(settings.baseline, folder)
        if self._program is not None:
            self.versions["C++"] = f"{Path(str(settings.baseline)).name}, {' '.join(_FLAGS)}"
        if settings.pgmax is not None:
            self.versions["PGMax"] = self._pgmax([], {})["version"]

    def rates(self, name: str, model: PairwiseModel) -> Iterator[Rate]:
        """Yield the messages a second of PGMax, if it is there."""
        if self._settings.pgmax is not None:
            found = self._pgmax([model], {"rate": True})
            yield Rate(name, "PGMax", "float32", found["messages_per_second"])

    def cases(self, name: str, models: list[PairwiseModel], reference: list[Floats | None]) -> Iterator[Case]:
        """Yield the rows of a set of models.

        Parameters
        ----------
        name : str
        models : list of PairwiseModel
        reference : list of numpy.ndarray or None
            Marginals that theirs are compared with.
        """
        if self._program is not None:
            yield from self._cpp_cases(name, models, reference)
        if self._settings.pgmax is not None:
            for damping in _DAMPING:
                found = self._pgmax(models, {"damping": damping, "time_limit": self._settings.time_limit})
                called = "PGMax" if not damping else f"PGMax, damping {damping:g}"
                marginals: list[Floats | None] = [None if m is None else np.array(m) for m in found["marginals"]]
                yield _case(name, called, found["seconds"], difference(marginals, reference), found["iterations"])

    def _cpp_cases(self, name: str, models: list[PairwiseModel], reference: list[Floats | None]) -> Iterator[Case]:
        (self._folder / "data").mkdir(exist_ok=True)
        (self._folder / "out").mkdir(exist_ok=True)
        for number, model in enumerate(models):
            _write(self._folder / "data" / f"m{number}.mrf", model)
        names = [f"m{number}" for number in range(len(models))]
        for argument, called in _PROGRAM.items():
            command = [str(self._program), argument, str(self._settings.time_limit), "1e-4", "out", *names]
            done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=self._folder)
            found = _LINE.findall(done.stdout)
            if done.returncode or len(found) != len(models):
                raise ConfigurationError(f"expected a line of each model of --baseline, got {done.stdout[:200]!r}")
            seconds = [float(time) if good == "1" else None for _, _, good, time in found]
            marginals = [
                None if time is None else self._marginals(model_name, model)
                for model_name, model, time in zip(names, models, seconds, strict=True)
            ]
            yield _case(name, f"C++ {called}", seconds, difference(marginals, reference))

    def _marginals(self, name: str, model: PairwiseModel) -> Floats | None:
        """Return the marginals that the program wrote, if it did."""
        path = self._folder / "out" / f"{name}.marg"
        if not path.exists():
            return None
        values = Numbers(path).values
        if values.size != model.log_unaries.size:
            raise ConfigurationError(
                f"expected {model.log_unaries.size} marginals of {name} from --baseline, got {values.size}"
            )
        return values

    def _pgmax(self, models: Sequence[PairwiseModel], options: dict[str, Any]) -> dict[str, Any]:
        """Run PGMax on models, in a process of its own."""
        settings = self._settings
        arrays: dict[str, Any] = {}
        for number, model in enumerate(models):
            arrays |= {
                f"cardinalities{number}": model.cardinalities,
                f"log_unaries{number}": model.log_unaries,
                f"edges{number}": model.edges,
                f"log_tables{number}": np.concatenate(
                    [np.zeros(0), *(model.log_table(edge).ravel() for edge in range(len(model.edges)))]
                ),
            }
        path = self._folder / "models.npz"
        options = {"models": len(models), "threads": settings.threads} | options
        np.savez(path, **arrays)
        command = [str(settings.pgmax), pgmax_peer.__file__, str(path), json.dumps(options)]
        environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": _XLA_FLAGS}
        environment.pop("PYTHONPATH", None)
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        except OSError as error:
            raise ConfigurationError(f"expected a Python for --pgmax, got {settings.pgmax}: {error}") from error
        if done.returncode:
            raise ConfigurationError(
                f"expected a Python that has PGMax, got {settings.pgmax}: {done.stderr.strip()[-300:]}"
            )
        answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return answer


def difference(ones: Sequence[Floats | None], others: Sequence[Floats | None]) -> float | None:
    """Return the median over the models of the mean absolute difference of marginals, where both sides have some.

    Examples
    --------
    >>> difference([np.array([0.5, 0.5]), None], [np.array([0.25, 0.75]), np.array([0.0, 1.0])])
    0.25
    """
    pairs = [(a, b) for a, b in zip(ones, others, strict=True) if a is not None and b is not None]
    return statistics.median([float(np.abs(a - b).mean()) for a, b in pairs]) if pairs else None


def _case(
    name: str,
    who: str,
    seconds: list[float | None],
    apart: float | None,
    iterations: Sequence[float | None] = (),
) -> Case:
    times = [time for time in seconds if time is not None]
    turns = [turn for turn in iterations if turn is not None]
    return Case(
        name,
        who,
        len(times),
        len(seconds),
        None,
        statistics.median(times) if times else None,
        statistics.median(turns) if turns else None,
        seconds,
        apart,
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
