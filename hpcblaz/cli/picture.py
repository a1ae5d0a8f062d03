"""The picture of the demonstration: slices of fields, the same decompressed, and their difference."""

import importlib
import io
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpcblaz.errors import MissingDependencyError
from hpcblaz.fields.atomic import AtomicFile

_DPI = 150


class Panel(NamedTuple):
    """A row of the picture."""

    name: str
    unit: str
    original: NDArray[np.float32] | None
    decompressed: NDArray[np.float32]
    tolerance: float
    ratio: float


def write_picture(path: str, panels: list[Panel]) -> None:
    """Draw a row of three images for each panel, as a PNG file.

    Parameters
    ----------
    path : str
    panels : list of Panel

    Raises
    ------
    MissingDependencyError
        If matplotlib is not installed.
    StorageError
        If the file cannot be written.
    """
    try:
        figure_module = importlib.import_module("matplotlib.figure")
    except ImportError as error:
        raise MissingDependencyError.needs("the picture", "matplotlib", "plot") from error
    figure = figure_module.Figure(figsize=(8, 0.5 + 2.5 * len(panels)), layout="constrained")
    figure.suptitle(
        "Fields compressed by hpcblaz: no value is farther from its original than the tolerance", fontsize=11
    )
    rows = figure.subplots(len(panels), 3, squeeze=False)
    for axes, panel in zip(rows, panels, strict=True):
        _draw_row(figure, axes, panel)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=_DPI)
    with AtomicFile(path) as file:
        file.write_at(0, buffer.getvalue())
        file.commit()


def _draw_row(figure: Any, axes: Any, panel: Panel) -> None:
    original = panel.decompressed if panel.original is None else panel.original
    error = panel.decompressed.astype(np.float64) - original
    unit = "value" if panel.unit == "1" else panel.unit
    limits = {"vmin": float(original.min()), "vmax": float(original.max())}
    within = {"vmin": -panel.tolerance, "vmax": panel.tolerance}
    contents = [
        (f"{panel.name}", original, "viridis", limits, unit),
        (f"decompressed, ratio {panel.ratio:.1f}", panel.decompressed, "viridis", limits, unit),
        ("error (scale: tolerance)", error, "RdBu_r", within, f"error ({unit})"),
    ]
    for ax, (title, values, colors, scale, label) in zip(axes, contents, strict=True):
        image = ax.imshow(values, origin="lower", cmap=colors, aspect="auto", interpolation="nearest", **scale)
        ax.set_title(title, fontsize=10)
        ax.set_xlabel("cell along axis 2", fontsize=9)
        ax.tick_params(labelsize=9)
        bar = figure.colorbar(image, ax=ax, fraction=0.06)
        bar.set_label(label, fontsize=9)
        bar.ax.tick_params(labelsize=9)
        if colors == "RdBu_r":
            ticks = [-panel.tolerance, -panel.tolerance / 2, 0.0, panel.tolerance / 2, panel.tolerance]
            bar.set_ticks(ticks, labels=[f"{tick:.2g}" for tick in ticks])
    axes[0].set_ylabel("cell along axis 1", fontsize=9)
