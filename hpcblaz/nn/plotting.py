"""Pictures of how trainings went."""

import importlib
import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hpcblaz.errors import ConfigurationError, MissingDependencyError
from hpcblaz.mpi.atomic import AtomicFile
from hpcblaz.nn.training import History

__all__ = ["plot_training"]

_SUFFIXES = (".png", ".pdf", ".svg")


def plot_training(path: str | os.PathLike[str], histories: Mapping[str, History]) -> None:
    """Draw the loss and the validation of some trainings, epoch by epoch.

    Parameters
    ----------
    path : str or os.PathLike
        Ends with .png, .pdf or .svg. It is written whole or not at all.
    histories : mapping of str to History
        By the name that each is to have.

    Raises
    ------
    ConfigurationError
        If the path has another ending.
    MissingDependencyError
        If matplotlib is not installed.
    StorageError
        If the file cannot be written.
    """
    target = Path(path)
    if target.suffix.lower() not in _SUFFIXES:
        raise ConfigurationError(f"expected a picture that ends with {', '.join(_SUFFIXES)}, got {target.name}")
    try:
        figure = importlib.import_module("matplotlib.figure").Figure(figsize=(8, 3.2), layout="constrained")
    except ImportError as error:
        raise MissingDependencyError.needs("a picture of a training", "matplotlib", "plot") from error
    left, right = figure.subplots(1, 2)
    for name, history in histories.items():
        numbers = [epoch.number for epoch in history.epochs]
        left.plot(numbers, [epoch.loss for epoch in history.epochs], label=name)
        known = [(e.number, 100 * e.validation) for e in history.epochs if e.validation is not None]
        if known:
            right.plot(*zip(*known, strict=True), label=name)
        if history.best is not None:
            right.axvline(history.best, color="0.7", linewidth=0.8)
    _label(left, "loss")
    left.set_yscale("log")
    left.legend()
    _label(right, "right answers, %")
    buffer = io.BytesIO()
    figure.savefig(buffer, format=target.suffix[1:].lower(), dpi=150)
    with AtomicFile(target) as file:
        file.write_at(0, buffer.getvalue())
        file.commit()


def _label(axes: Any, what: str) -> None:
    axes.set_xlabel("epoch")
    axes.set_ylabel(what)
