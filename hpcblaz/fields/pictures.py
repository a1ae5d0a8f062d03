"""Pictures of fields. matplotlib is imported when one is drawn; the extra ``plot`` installs it.

Values are drawn in viridis and differences in red and blue around zero, cells without a number in grey.
"""

import importlib
import io
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hpcblaz.errors import ConfigurationError, MissingDependencyError
from hpcblaz.fields.sampling import RunningHistogram, Section, spectrum
from hpcblaz.fields.views import FieldView, Values
from hpcblaz.mpi.atomic import AtomicFile

COLORS = {"hpcblaz": "#0b6e99", "zfpy": "#d9822b", "SZ3": "#7a7a7a"}
_FIRST, _SECOND, _ERROR, _BOUND, _MISSING = "#0b6e99", "#d9822b", "#8c3b4a", "#222222", "#b8b8b8"
_FORMATS = (".png", ".pdf", ".svg")
_DOTS_PER_INCH = 120
_WAVE_NUMBERS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)  # ticks over one decade, and over more
_DECADES = (0.001, 0.01, 0.1, 0.5)
_STYLE = {
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "axes.formatter.limits": (-3, 5),
    "axes.formatter.use_mathtext": True,
}


@contextmanager
def picture(path: str | os.PathLike[str], width: float, height: float, what: str = "the picture") -> Iterator[Any]:
    """Give a figure to draw on, and write it to a file at the end, whole or not at all.

    Parameters
    ----------
    path : str or os.PathLike
        Its suffix says the format: .png, .pdf or .svg.
    width, height : float
        In inches; a picture is seen at about 8 inches.
    what : str
        What needs matplotlib, for the error.

    Yields
    ------
    matplotlib.figure.Figure

    Raises
    ------
    ConfigurationError
        If the suffix is another one.
    MissingDependencyError
        If matplotlib is not installed.
    StorageError
        If the file cannot be written.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in _FORMATS:
        raise ConfigurationError(f"expected a picture named {', '.join(_FORMATS)}, got {os.fspath(path)!r}")
    matplotlib = require_matplotlib(what)
    with matplotlib.rc_context(_STYLE):
        figure = matplotlib.figure.Figure(figsize=(width, height), layout="constrained")
        figure.get_layout_engine().set(h_pad=0.07)
        yield figure
        buffer = io.BytesIO()
        figure.savefig(buffer, format=suffix[1:], dpi=_DOTS_PER_INCH)
    with AtomicFile(path) as file:
        file.write_at(0, buffer.getvalue())
        file.commit()


def require_matplotlib(what: str) -> Any:
    """Return matplotlib, with its figures.

    Raises
    ------
    MissingDependencyError
        If it is not installed.
    """
    try:
        importlib.import_module("matplotlib.figure")
        return importlib.import_module("matplotlib")
    except ImportError as error:
        raise MissingDependencyError.needs(what, "matplotlib", "plot") from error


class Look(NamedTuple):
    """What is drawn of a field: a slice, and how all its values are distributed.

    Parameters
    ----------
    view : FieldView
    section : Section
    histogram : RunningHistogram
    """

    view: FieldView
    section: Section
    histogram: RunningHistogram

    @property
    def unit(self) -> str:
        """Unit of the values; empty if it is not known."""
        unit = self.view.attributes.get("units", "")
        return unit if isinstance(unit, str) and unit != "1" else ""

    @property
    def title(self) -> str:
        """Name of the file, shortened."""
        name = Path(self.view.name).name
        return name if len(name) <= 28 else f"{name[:12]}…{name[-14:]}"


def draw_field(path: str | os.PathLike[str], look: Look) -> None:
    """Draw a field: a slice, the distribution of its values, and its spectrum.

    Parameters
    ----------
    path : str or os.PathLike
    look : Look

    Raises
    ------
    ConfigurationError, MissingDependencyError, StorageError
        See `picture`.
    """
    section = look.section
    flat = section.values.ndim == 1
    with picture(path, 8, 5.6 if flat else 4.6) as figure:
        figure.suptitle(_heading(look), fontsize=10)
        if flat:
            grid = figure.add_gridspec(2, 2, height_ratios=(1.5, 1))
            main, left, right = grid[0, :], grid[1, 0], grid[1, 1]
        else:
            grid = figure.add_gridspec(2, 2, width_ratios=(1.6, 1))
            main, left, right = grid[:, 0], grid[0, 1], grid[1, 1]
        axes = figure.add_subplot(main)
        if flat:
            draw_lines(axes, section, {look.title: section.values}, look.unit)
        else:
            image = draw_image(axes, section, section.values)
            figure.colorbar(image, ax=axes, label=_quantity(look), location="bottom", aspect=40, pad=0.03)
        _place(axes, section, "")
        axes = figure.add_subplot(left)
        draw_histogram(axes, {look.title: look.histogram}, [_FIRST], "all values", _quantity(look))
        draw_spectra(figure.add_subplot(right), {look.title: section.values}, [_FIRST], look.unit)


def draw_comparison(
    path: str | os.PathLike[str], a: Look, b: Look, difference: Values, errors: RunningHistogram, summary: str
) -> None:
    """Draw two fields and their difference: slices, distributions, and spectra.

    Parameters
    ----------
    path : str or os.PathLike
    a, b : Look
        Of the same cells.
    difference : numpy.ndarray
        The second slice minus the first.
    errors : RunningHistogram
        Of the second field minus the first.
    summary : str
        A line under the title.

    Raises
    ------
    ConfigurationError, MissingDependencyError, StorageError
        See `picture`.
    """
    unit = a.unit or b.unit
    names = (a.title, b.title) if a.title != b.title else (f"{a.title} (A)", f"{b.title} (B)")
    values = dict(zip(names, (a.section.values, b.section.values), strict=True))
    with picture(path, 8, 6.4) as figure:
        figure.suptitle(f"{names[0]} and {names[1]}\n{summary}", fontsize=10)
        grid = figure.add_gridspec(2, 6, height_ratios=(1.3, 1))
        if a.section.values.ndim == 1:
            left, right = figure.add_subplot(grid[0, :3]), figure.add_subplot(grid[0, 3:])
            draw_lines(left, a.section, values, unit)
            _place(left, a.section, "values")
            draw_lines(right, a.section, {"difference": difference}, unit, [_ERROR])
            _place(right, a.section._replace(values=difference), f"{names[1]} − {names[0]}")
        else:
            axes = [figure.add_subplot(grid[0, i : i + 2]) for i in (0, 2, 4)]
            low, high = limits(*values.values())
            for ax, (name, plane) in zip(axes, values.items(), strict=False):
                image = draw_image(ax, a.section, plane, low, high)
                _place(ax, a.section._replace(values=plane), name)
            figure.colorbar(image, ax=axes[:2], location="bottom", label=_quantity(a), aspect=40)
            image = draw_difference(axes[2], a.section, difference)
            _place(axes[2], a.section._replace(values=difference), "difference")
            bar = figure.colorbar(image, ax=axes[2], location="bottom", label=_with_unit("difference", unit))
            bar.ax.locator_params(nbins=4)
            for ax in axes[1:]:
                ax.set_ylabel("")
                ax.tick_params(labelleft=False)
        left, middle, right = (figure.add_subplot(grid[1, i : i + 2]) for i in (0, 2, 4))
        histograms = dict(zip(names, (a.histogram, b.histogram), strict=True))
        draw_histogram(left, histograms, [_FIRST, _SECOND], "all values", _quantity(a))
        bound = a.view.error.max_abs + b.view.error.max_abs
        draw_histogram(middle, {"": errors}, [_ERROR], "all differences", _with_unit("difference", unit), bound=bound)
        draw_spectra(right, values | {"difference": difference}, [_FIRST, _SECOND, _ERROR], unit)


def limits(*planes: Values) -> tuple[float, float]:
    """Return least and greatest number in some slices, or limits around it if there is one or none."""
    found = [plane[np.isfinite(plane)] for plane in planes]
    found = [values for values in found if values.size]
    if not found:
        return 0.0, 1.0
    low, high = min(float(v.min()) for v in found), max(float(v.max()) for v in found)
    return (low, high) if low < high else (low - (abs(low) / 10 or 1.0), high + (abs(high) / 10 or 1.0))


def draw_image(axes: Any, section: Section, plane: Values, low: float | None = None, high: float | None = None) -> Any:
    """Draw values over two axes of a field, and return the image, for a colour bar."""
    if low is None or high is None:
        low, high = limits(plane)
    return _image(axes, section, plane, "viridis", low, high)


def draw_difference(axes: Any, section: Section, plane: Values, greatest: float | None = None) -> Any:
    """Draw differences over two axes of a field, white at zero, and return the image.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
    section : Section
    plane : numpy.ndarray
    greatest : float, optional
        End of the scale. Default: the greatest magnitude.
    """
    greatest = float(np.abs(plane[np.isfinite(plane)]).max(initial=0.0)) if greatest is None else greatest
    return _image(axes, section, plane, "RdBu_r", -(greatest or 1.0), greatest or 1.0)


def _image(axes: Any, section: Section, plane: Values, colors: str, low: float, high: float) -> Any:
    rows, columns = section.cells
    down, across = rows.step, columns.step
    extent = (columns[0] - across / 2, columns[-1] + across / 2, rows[0] - down / 2, rows[-1] + down / 2)
    ratio = abs((extent[3] - extent[2]) / (extent[1] - extent[0]))
    shown = np.ma.masked_invalid(plane)
    image = axes.imshow(
        shown, origin="lower", cmap=colors, interpolation="nearest", vmin=low, vmax=high, extent=extent,
        aspect="equal" if 0.4 <= ratio <= 2.5 else "auto",
    )  # fmt: skip
    axes.set_facecolor(_MISSING)
    axes.locator_params(integer=True)
    axes.set_ylabel(section.axes[0])
    axes.set_xlabel(section.axes[1])
    for side in ("top", "right"):
        axes.spines[side].set_visible(True)
    return image


def draw_lines(
    axes: Any, section: Section, lines: Mapping[str, Values], unit: str, colors: Sequence[str] = (_FIRST, _SECOND)
) -> None:
    """Draw values along one axis of a field; gaps are shaded."""
    cells = np.asarray(section.cells[0])
    missing = ~np.all([np.isfinite(values) for values in lines.values()], axis=0)
    for (name, values), color in zip(lines.items(), colors, strict=False):
        below = len(lines) > 1 and color == _FIRST  # a wide line, seen under a thin one
        style = {"linewidth": 3, "alpha": 0.4} if below else {"linewidth": 1}
        axes.plot(cells, np.ma.masked_invalid(values), color=color, label=name, **style)
    if missing.any():
        axes.fill_between(
            cells,
            0,
            1,
            where=missing,
            step="mid",
            transform=axes.get_xaxis_transform(),
            color=_MISSING,
            label="missing",
        )
    axes.set_xlabel(section.axes[0])
    axes.set_ylabel(_with_unit("value", unit))
    if len(lines) > 1:
        axes.legend()


def draw_histogram(
    axes: Any,
    histograms: Mapping[str, RunningHistogram],
    colors: Sequence[str],
    title: str,
    label: str,
    bound: float = 0.0,
) -> None:
    """Draw how values are distributed, as shares of the cells; a bound is marked on both sides of zero."""
    axes.set_title(title)
    found = [histogram.bars() for histogram in histograms.values()]
    if all(counts.size <= 1 for _, counts in found):
        values = sorted({float(edges[0]) for edges, counts in found if counts.size})
        _say(axes, "all cells hold " + " or ".join(f"{value:.6g}" for value in values) if values else "no numbers")
        return
    greatest, reach = 0.0, bound
    for (name, histogram), color in zip(histograms.items(), colors, strict=False):
        edges, counts = histogram.bars()
        if not counts.size:
            continue
        shares = 100 * counts / counts.sum()
        greatest, reach = max(greatest, float(shares.max())), max(reach, float(np.abs(edges).max()))
        if color == _SECOND:  # over the first, which shows through
            axes.stairs(shares, edges, color=color, label=name, linewidth=1.2)
        else:
            axes.stairs(shares, edges, color=color, fill=True, label=name, alpha=0.5 if len(histograms) > 1 else 1.0)
    if greatest > 40:  # one value is in most cells: show the others too
        axes.set_yscale("log")
    elif greatest:
        axes.set_ylim(0, 1.12 * greatest)
    if np.isfinite(bound) and bound > 0:
        for end in (-bound, bound):
            axes.axvline(end, color=_BOUND, linestyle="--", linewidth=1, label="guaranteed bound" if end > 0 else None)
        axes.set_xlim(-1.08 * reach, 1.08 * reach)
    if len(histograms) > 1 or bound > 0:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.28), ncols=1)
    axes.set_xlabel(label)
    axes.set_ylabel("cells (%)")


def draw_spectra(axes: Any, planes: Mapping[str, Values], colors: Sequence[str], unit: str) -> None:
    """Draw the power of the waves of each length in some slices."""
    for (name, values), color in zip(planes.items(), colors, strict=False):
        wave_number, power = spectrum(values)
        there = power > 0
        if there.any():
            dashed = "--" if color == _SECOND else "-"
            axes.loglog(wave_number[there], power[there], dashed, color=color, label=name, linewidth=1.2)
    axes.set_title("spectrum of the slice")
    if not axes.lines:
        _say(axes, "no waves: constant,\nor fewer than 4 cells")
        return
    low, high = axes.get_xlim()
    ticks = [tick for tick in (_WAVE_NUMBERS if high < 40 * low else _DECADES) if low <= tick <= high]
    axes.set_xticks(ticks, labels=[f"{tick:g}" for tick in ticks])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("wave number (cycles a cell)")
    axes.set_ylabel(_with_unit("mean power", f"{unit}²" if unit else ""))
    if len(planes) > 1:
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.28), ncols=1)


def _say(axes: Any, text: str) -> None:
    axes.set_axis_off()
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes)


def draw_rates(path: str | os.PathLike[str], curves: Mapping[str, Sequence[Any]], title: str) -> None:
    """Draw rate-distortion curves: largest error over range, and PSNR, against bits a value.

    Parameters
    ----------
    path : str or os.PathLike
    curves : mapping of str to sequence of Rate
        By compressor; see `hpcblaz.fields.rates`.
    title : str

    Raises
    ------
    ConfigurationError, MissingDependencyError, StorageError
        See `picture`.
    """
    with picture(path, 8, 4) as figure:
        figure.suptitle(title, fontsize=10)
        left, right = figure.subplots(1, 2)
        for name, points in curves.items():
            bits = [point.bits for point in points]
            style = {
                "color": COLORS.get(name),
                "marker": "o",
                "markersize": 4,
                "linewidth": 1.5,
                "label": name.removesuffix("y"),
            }
            left.semilogy(bits, [point.largest or np.nan for point in points], **style)
            right.plot(bits, [point.psnr if np.isfinite(point.psnr) else np.nan for point in points], **style)
        left.set_ylabel("largest error / range")
        left.set_title("largest error: lower left is better")
        right.set_ylabel("PSNR (dB)")
        right.set_title("PSNR: upper left is better")
        for axes in (left, right):
            axes.set_xlabel("bits a value")
            axes.set_xlim(left=0)
            axes.grid(alpha=0.3)
        left.legend()


def _quantity(look: Look) -> str:
    for key in ("long_name", "name", "standard_name"):
        name = look.view.attributes.get(key)
        if isinstance(name, str) and name:
            return _with_unit(name.replace("_", " "), look.unit)
    return _with_unit("value", look.unit)


def _with_unit(name: str, unit: str) -> str:
    return f"{name} ({unit})" if unit else name


def _place(axes: Any, section: Section, title: str) -> None:
    """Say what is shown, where it was cut, and what grey means."""
    grey = "" if np.isfinite(section.values).all() else "grey: missing"
    place = ", ".join(filter(None, (section.place, grey)))
    axes.set_title("\n".join(filter(None, (title, place))))


def _heading(look: Look) -> str:
    shape = " × ".join(map(str, look.view.shape))
    text = f"{look.title}: {shape} {look.view.dtype}"
    error = look.view.error.max_abs
    return f"{text}, every value within {error:.3g} of the original" if error else text
