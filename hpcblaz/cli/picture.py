"""The picture of the demonstration: slices of fields, the same decompressed, and their difference."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpcblaz.fields.pictures import draw_difference, draw_image, limits, picture
from hpcblaz.fields.sampling import Section


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
    with picture(path, 8, 0.5 + 2.5 * len(panels)) as figure:
        figure.suptitle(
            "Fields compressed by hpcblaz: no value is farther from its original than the tolerance", fontsize=11
        )
        rows = figure.subplots(len(panels), 3, squeeze=False)
        for axes, panel in zip(rows, panels, strict=True):
            _draw_row(figure, axes, panel)


def _draw_row(figure: Any, axes: Any, panel: Panel) -> None:
    decompressed = panel.decompressed.astype(np.float64)
    original = decompressed if panel.original is None else panel.original.astype(np.float64)
    cells = tuple(map(range, original.shape))
    section = Section(original, cells, ("cell along axis 1", "cell along axis 2"), "")
    unit = "value" if panel.unit == "1" else panel.unit
    low, high = limits(original)
    images = [
        draw_image(axes[0], section, original, low, high),
        draw_image(axes[1], section, decompressed, low, high),
        draw_difference(axes[2], section, decompressed - original, panel.tolerance),
    ]
    titles = (panel.name, f"decompressed, ratio {panel.ratio:.1f}", "error (scale: tolerance)")
    for ax, image, title, label in zip(axes, images, titles, (unit, unit, f"error ({unit})"), strict=True):
        ax.set_title(title)
        ax.set_aspect("auto")
        bar = figure.colorbar(image, ax=ax, fraction=0.06, label=label)
        if label != unit:
            ticks = [fraction * panel.tolerance for fraction in (-1, -0.5, 0, 0.5, 1)]
            bar.set_ticks(ticks, labels=[f"{tick:.2g}" for tick in ticks])
    for ax in axes[1:]:
        ax.set_ylabel("")
