"""Pictures of how inferences went."""

import importlib
import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hpcblaz.errors import ConfigurationError, MissingDependencyError
from hpcblaz.mpi.atomic import AtomicFile

if TYPE_CHECKING:
    from hpcblaz.bp.result import Inference

__all__ = ["picture", "plot"]

_SUFFIXES = (".png", ".pdf", ".svg")


def plot(path: str | os.PathLike[str], results: Mapping[str, "Inference"]) -> None:
    """Draw the largest residual and the share of converged messages of some inferences over time.

    Parameters
    ----------
    path : str or os.PathLike
        Ends with .png, .pdf or .svg. It is written whole or not at all.
    results : mapping of str to Inference
        By the name that each is to have.

    Raises
    ------
    ConfigurationError
        If the path has another ending.
    MissingDependencyError
        If matplotlib is not installed.
    StorageError
        If the file cannot be written.

    Examples
    --------
    >>> from hpcblaz.bp import infer, ising
    >>> from hpcblaz.bp.plotting import plot
    >>> model = ising(50, 2.5, seed=0)
    >>> plot("two.png", {name: infer(model, name) for name in ("auto", "lbp")})
    """
    with picture(path, (8, 3.2), "a picture of an inference") as figure:
        left, right = figure.subplots(1, 2)
        for name, result in results.items():
            milliseconds = 1e3 * result.history.seconds
            left.plot(milliseconds, result.history.residual, label=f"{name}: {result.status}")
            right.plot(milliseconds, 100 * result.share_converged(), label=name)
            left.axhline(result.tolerance, color="0.7", linewidth=0.8)
        _label(left, "largest residual")
        left.set_yscale("log")
        left.legend()
        _label(right, "messages within the tolerance, %")


@contextmanager
def picture(path: str | os.PathLike[str], size: tuple[float, float], what: str, dpi: int = 150) -> Iterator[Any]:
    """Give a figure of matplotlib to draw on, and write it afterwards, whole or not at all.

    Parameters
    ----------
    path : str or os.PathLike
        Ends with .png, .pdf or .svg.
    size : pair of float
        Width and height in inches.
    what : str
        What needs matplotlib, for the error where it is missing.
    dpi : int
        Pixels an inch.

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
        figure = importlib.import_module("matplotlib.figure").Figure(figsize=size, layout="constrained")
    except ImportError as error:
        raise MissingDependencyError.needs(what, "matplotlib", "plot") from error
    yield figure
    buffer = io.BytesIO()
    figure.savefig(buffer, format=target.suffix[1:].lower(), dpi=dpi)
    with AtomicFile(target) as file:
        file.write_at(0, buffer.getvalue())
        file.commit()


def _label(axes: Any, what: str) -> None:
    axes.set_xlabel("milliseconds")
    axes.set_ylabel(what)
