"""Proper orthogonal decomposition of a climate series, straight from compressed snapshots.

python climate_pod.py                        240 years of air temperature that come with iris-sample-data
python climate_pod.py --data series.npy      your own series: the first axis is time
"""

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import hpcblaz as hb

MODES = 8


def air_temperature():
    """Return the years, and the yearly air temperature over North America in the scenario A1B, in kelvin."""
    import iris_sample_data
    import netCDF4

    with netCDF4.Dataset(Path(iris_sample_data.path) / "A1B_north_america.nc") as file:
        time = file["time"]
        years = [d.year for d in netCDF4.num2date(time[:], time.units, time.calendar)]
        return np.array(years), np.asarray(file["air_temperature"][:], np.float64)


def decompose(arrays):
    """Return singular values and time series of the anomalies of compressed snapshots, and the bound of the values.

    Inner products of anomalies are those of snapshots, with the means of rows and columns taken off. By Weyl's
    inequality no singular value is farther from that of the original anomalies than the norm of all errors; taking
    the mean off, a projection, makes no error greater. Roundings in double precision are left out: they are about
    1e-13 of the norm of the snapshots squared, for the squares of the singular values.
    """
    products = hb.gram(arrays).values
    centred = products - products.mean(axis=0) - products.mean(axis=1)[:, None] + products.mean()
    squares, series = np.linalg.eigh(centred)
    squares, series = squares[::-1].clip(0), series[:, ::-1]
    bound = float(np.sqrt(sum(a.error.l2**2 for a in arrays)))
    return np.sqrt(squares), series, bound


def mode(arrays, series):
    """Return the map of a mode as a compressed array: snapshots weighted by its time series, which is of mean 0."""
    return hb.linear_combination(series - series.mean(), arrays)


def shares(values, bound):
    """Return the least and the greatest share of the variance that each singular value can stand for."""
    total = np.sqrt((values**2).sum())
    low = (np.maximum(values - bound, 0) / (total + bound)) ** 2
    return low, np.minimum(((values + bound) / (total - bound)) ** 2, 1.0)


def draw(path, years, found, truth, bound, picture, unit, bits):
    (values, series), (exact, exact_series) = found, truth
    figure = Figure(figsize=(8, 5.6), layout="constrained")
    figure.suptitle(f"Modes of {len(years)} snapshots kept at {bits:.1f} bits a value", fontsize=10)
    grid = figure.add_gridspec(2, 2, width_ratios=(1, 1.1))
    ax = figure.add_subplot(grid[0, 0])
    where = np.arange(1, MODES + 1)
    share, exact_share = (100 * v[:MODES] ** 2 / (v**2).sum() for v in (values, exact))
    low, high = (100 * ends[:MODES] for ends in shares(values, bound))
    ax.errorbar(where, share, (share - low, high - share), fmt="o", color="#0b6e99", capsize=3, label="compressed")
    ax.plot(where, exact_share, "x", color="#222222", markersize=8, label="NumPy, original data")
    ax.set_yscale("log")
    ax.set_title("variance of each mode, with its bound", fontsize=9)
    ax.set_xlabel("mode", fontsize=8)
    ax.set_ylabel("share of the variance (%)", fontsize=8)
    ax.set_xticks(where)
    ax.legend(fontsize=8, frameon=False)
    map_axes = figure.add_subplot(grid[0, 1])
    greatest = float(np.abs(picture).max())
    image = map_axes.imshow(
        picture, origin="lower", cmap="RdBu_r", vmin=-greatest, vmax=greatest, interpolation="nearest"
    )
    map_axes.set_title("mode 1: standard deviation, with its sign", fontsize=9)
    map_axes.set_xlabel("cell along axis 2", fontsize=8)
    map_axes.set_ylabel("cell along axis 1", fontsize=8)
    bar = figure.colorbar(image, ax=map_axes)
    bar.set_label(unit, fontsize=8)
    bar.ax.tick_params(labelsize=8)
    time_axes = figure.add_subplot(grid[1, :])
    for number, color in ((0, "#0b6e99"), (1, "#d9822b")):
        scale = np.sqrt(len(years))
        time_axes.plot(years, scale * exact_series[:, number], color="#bbbbbb", lw=4)
        time_axes.plot(years, scale * series[:, number], color=color, lw=1, label=f"mode {number + 1}")
    time_axes.plot([], [], color="#bbbbbb", lw=4, label="NumPy, original data")
    time_axes.set_title("time series of the first modes, of variance 1", fontsize=9)
    time_axes.set_xlabel("time", fontsize=8)
    time_axes.legend(fontsize=8, frameon=False, ncols=3)
    for axes in (ax, time_axes):
        axes.spines[["top", "right"]].set_visible(False)
    for axes in (ax, map_axes, time_axes):
        axes.tick_params(labelsize=8)
    figure.savefig(path, dpi=110)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", metavar="FILE", help="a series as .npy; default: the air temperature")
    parser.add_argument("--output", metavar="PNG", default="climate_pod.png", help="the picture")
    parser.add_argument("--relative", type=float, default=1e-3, help="tolerance over the range, default: 1e-3")
    parser.add_argument("--steps", type=int, help="take the first snapshots only")
    arguments = parser.parse_args(argv)
    if arguments.data is None:
        unit, (years, x) = "K", air_temperature()
    else:
        unit, x = "unit of the data", np.load(arguments.data).astype(np.float64)
        years = np.arange(len(x))
    years, x = years[: arguments.steps], x[: arguments.steps]
    arrays = [hb.compress(snapshot, tolerance=arguments.relative * np.ptp(x)) for snapshot in x]
    bits = 8 * sum(a.nbytes for a in arrays) / x.size
    values, series, bound = decompose(arrays)

    anomalies = (x - x.mean(axis=0)).reshape(len(x), -1)
    exact_series, exact, _ = np.linalg.svd(anomalies, full_matrices=False)
    series = series[:, : exact_series.shape[1]]
    series = series * np.where((series * exact_series).sum(axis=0) < 0, -1, 1)  # a mode has no sign of its own

    print(f"{' x '.join(map(str, x.shape))}: {bits:.2f} bits a value, tolerance {arguments.relative * np.ptp(x):.3g}")
    print("mode  singular value     (NumPy)      error    bound   variance     at least   at most   cosine of series")
    low, high = shares(values, bound)
    for i in range(MODES):
        error = abs(values[i] - exact[i])
        if error > bound:
            raise SystemExit(f"singular value {i + 1}: the error {error} is beyond its bound {bound}")
        share, cosine = values[i] ** 2 / (values**2).sum(), (series[:, i] * exact_series[:, i]).sum()
        print(
            f"{i + 1:4} {values[i]:15.4f} {exact[i]:11.4f} {error:10.2g} {bound:8.3g} {share:10.3%} {low[i]:12.3%}"
            f" {high[i]:9.3%} {cosine:14.8f}"
        )
    first = mode(arrays, series[:, 0]) / float(np.sqrt(len(x)))
    error = first.error.max_abs
    print(f"map of mode 1, a weighted sum of compressed snapshots: within {error:.2g} of that of the original ones")
    draw(arguments.output, years, (values, series), (exact, exact_series), bound, first.decompress(), unit, bits)
    print(f"picture: {arguments.output}")
    return {"values": values[:MODES], "exact": exact[:MODES], "bound": bound, "bits": bits}


if __name__ == "__main__":
    main()
