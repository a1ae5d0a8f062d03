"""Pictures of a benchmark: the share of models that have converged over time, and errors of the answers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hpcblaz.bp.benchmark_rows import SCHEDULES
from hpcblaz.bp.plotting import picture
from hpcblaz.errors import ConfigurationError

__all__ = ["draw_convergence", "draw_quality"]

_COLORS = {
    "auto": "#0b6e99",
    "sweep": "#d9822b",
    "lbp": "#7a7a7a",
    "rnbp": "#8c3b4a",
    "rbp": "#5b8c3b",
    "splash": "#7b5ea7",
    "queue": "#111111",
}
_PEERS = {"C++ residual": "#111111", "C++ sweep": "#d9822b", "PGMax, damping 0.5": "#7a7a7a"}  # dashed
_LEAST = 1e-6  # errors below it are drawn there: exact answers have six digits
_DPI = 110

_Row = Mapping[str, Any]


def draw_convergence(cases: Sequence[_Row], path: Path) -> None:
    """Draw the cumulative share of converged models against time, a curve a schedule and a panel a coupling.

    Parameters
    ----------
    cases : sequence of dict
        As `hpcblaz.bp.benchmark.run` returns them. Those of the largest Ising grid are drawn.
    path : Path

    Raises
    ------
    ConfigurationError
        If there is no Ising grid, or the path has an ending that no picture has.
    MissingDependencyError, StorageError
        If matplotlib is not installed, or the file cannot be written.
    """
    grids = [case["models"] for case in cases if case["models"].startswith("ising")]
    if not grids:
        raise ConfigurationError("expected cases of Ising grids to draw, got none")
    last = grids[-1].rpartition(" ")[0]
    panels = [name for name in dict.fromkeys(grids) if name.rpartition(" ")[0] == last]
    with picture(path, (9, 3.4), "a picture of a benchmark", _DPI) as figure:
        axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for ax, panel in zip(axes, panels, strict=True):
            chosen = {case["who"]: case for case in cases if case["models"] == panel}
            for who, color in (_COLORS | _PEERS).items():
                if who in chosen:
                    _steps(ax, chosen[who], color, "-" if who in _COLORS else "--")
            ax.set_xscale("log")
            ax.set_title(panel, fontsize=10)
            ax.set_xlabel("seconds")
            ax.set_ylim(-3, 103)
            ax.grid(alpha=0.3)
        axes[0].set_ylabel("models that have converged, %")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right center", fontsize=8, frameon=False)


def _steps(ax: Any, case: _Row, color: str, style: str) -> None:
    """Draw the share of models that have converged by each time; a mark at the last one."""
    times = sorted(time for time in case["times"] if time is not None)
    shares = [100 * number / case["of"] for number in range(len(times) + 1)]
    if times:
        ax.step([times[0], *times], shares, where="post", color=color, ls=style, lw=1.4, label=case["who"])
        ax.plot(times[-1], shares[-1], "o", color=color, ms=3)
    else:
        ax.plot([], [], color=color, ls=style, label=case["who"])


def draw_quality(rows: Sequence[_Row], path: Path) -> None:
    """Draw how far the marginals of each schedule are from the exact ones, model by model.

    Parameters
    ----------
    rows : sequence of dict
        The ``quality`` that `hpcblaz.bp.benchmark.run` returns. Runs that did not converge are drawn hollow.
    path : Path

    Raises
    ------
    ConfigurationError
        If there are no rows with an error, or the path has an ending that no picture has.
    MissingDependencyError, StorageError
        If matplotlib is not installed, or the file cannot be written.
    """
    rows = [row for row in rows if row["error"] is not None]
    if not rows:
        raise ConfigurationError("expected exact marginals to draw how far answers are from them, got none")
    models = list(dict.fromkeys(row["model"] for row in rows))
    with picture(path, (8, max(2.4, 0.7 + 0.25 * len(models))), "a picture of a benchmark", _DPI) as figure:
        ax = figure.add_subplot()
        for number, who in enumerate(SCHEDULES):
            for row in (row for row in rows if row["schedule"] == who):
                fill = _COLORS[who] if row["status"] == "converged" else "none"
                height = models.index(row["model"]) + 0.09 * (number - 3)
                ax.plot(max(row["error"], _LEAST), height, "o", mec=_COLORS[who], mfc=fill, ms=5)
            ax.plot([], [], "o", color=_COLORS[who], label=who)
        ax.plot([], [], "o", mec="black", mfc="none", label="not converged")
        ax.set_xscale("log")
        ax.set_yticks(range(len(models)), models, fontsize=8)
        ax.invert_yaxis()
        ax.set_xlabel("mean absolute error of marginals")
        ax.grid(alpha=0.3)
        ax.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
