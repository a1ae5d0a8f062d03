"""Find the scission of a nucleus: distances between consecutive densities, computed while they are compressed.

python fission.py                            a synthetic series of a drop that splits
python fission.py --data density_u8.npz      the series of the PyBlaz paper: arrays n, p (neutrons, protons) and step
"""

import argparse
import itertools
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import hpcblaz as hb

ORDERS = (1, 8, 68)
LEVELS = 255  # densities are 8-bit grey levels


def synthetic_series(side=40, steps=15, scission=10):
    """Return densities of a synthetic drop that is stretched and splits after step `scission`.

    The surfaces are Cassini ovals, r1 r2 = b**2 with foci at -c and c, which fall apart at c = b. The neck holds
    until it snaps: c / b creeps towards 1, jumps over it, and the fragments move apart.
    """
    z, y, x = np.meshgrid(*[np.linspace(-1, 1, n) for n in (2 * side, side, side)], indexing="ij", sparse=True)
    z = 1.65 * z
    stretch = np.linspace(0.80, 0.96, scission + 1).tolist() + np.linspace(1.12, 1.2, steps - scission - 1).tolist()
    series = []
    for s in stretch:
        b = 0.62 * (1 + 0.35 * max(0.0, s - 0.8))
        r1, r2 = (np.sqrt(x**2 + y**2 + (z - sign * s * b) ** 2) for sign in (-1, 1))
        series.append(1 / (1 + np.exp((np.sqrt(r1 * r2) - b) / 0.035)))
    return np.arange(steps), {"matter": np.rint(LEVELS * np.array(series)).astype(np.uint8)}


def real_series(path):
    """Return the steps, and the densities of neutrons and protons, of density_u8.npz or the folder that holds it."""
    path = Path(path)
    with np.load(path / "density_u8.npz" if path.is_dir() else path) as file:
        return file["step"], {"neutrons": file["n"], "protons": file["p"]}


def distances(series, relative):
    """Compress a series, and return the bits a value and the distances between consecutive densities."""
    arrays = [hb.compress(x.astype(np.float32), tolerance=relative * LEVELS) for x in series]
    pairs = list(itertools.pairwise(arrays))
    found = {"L2": [hb.norm(b - a) for a, b in pairs]}
    for order in ORDERS:  # masses are a softmax of block means: from 0 to 1, so that no single block has them all
        found[f"Wasserstein, p = {order}"] = [
            hb.wasserstein_distance(a / LEVELS, b / LEVELS, order=order) for a, b in pairs
        ]
    bits = 8 * sum(a.nbytes for a in arrays) / sum(a.size for a in arrays)
    return bits, found


def peak(answers):
    """Return the place of the largest answer, and whether it is certainly that of the original data too."""
    place = int(np.argmax(answers))
    others = [answer.interval[1] for i, answer in enumerate(answers) if i != place]
    return place, answers[place].interval[0] > max(others)


def draw(path, title, steps, series, found):
    figure = Figure(figsize=(8, 5.4), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(1.1, 1.5))
    top.suptitle(f"{title}\n", fontsize=10)
    place, _ = peak(found["L2"])
    axes = top.subplots(1, 2, sharey=True)
    planes = series[place : place + 2, :, :, series.shape[3] // 2]
    for ax, plane, i in zip(axes, planes, (place, place + 1), strict=True):
        image = ax.imshow(plane.T, vmin=planes.min(), vmax=planes.max(), origin="lower", interpolation="nearest")
        ax.set_title(f"step {steps[i]}", fontsize=9)
        ax.set_xlabel("cell along the axis of fission", fontsize=8)
        ax.tick_params(labelsize=8)
    axes[0].set_ylabel("cell", fontsize=8)
    bar = top.colorbar(image, ax=list(axes), shrink=0.8)
    bar.set_label("grey level", fontsize=8)
    bar.ax.tick_params(labelsize=8)
    left, right = bottom.subplots(1, 2)
    where = np.arange(len(steps) - 1)
    left.bar(where, found["L2"], yerr=[a.error for a in found["L2"]], color="#0b6e99", ecolor="#d9822b", capsize=2)
    left.set_title("L2 norm of the difference, with its bound", fontsize=9)
    left.set_ylabel("grey levels", fontsize=8)
    for order, marker, color in zip(ORDERS, "os^", ("#0b6e99", "#d9822b", "#8c3b4a"), strict=True):
        answers = found[f"Wasserstein, p = {order}"]
        scale = max(answers)
        shift = 0.15 * (ORDERS.index(order) - 1)
        values, errors = [a / scale for a in answers], [a.error / scale for a in answers]
        right.errorbar(
            where + shift, values, errors, fmt=marker, color=color, markersize=4, capsize=2, label=f"p = {order}"
        )
    right.set_title("Wasserstein distance over its largest, with its bound", fontsize=9)
    right.set_ylim(bottom=0)
    right.legend(fontsize=8)
    for ax in (left, right):
        ax.axvspan(place - 0.5, place + 0.5, color="#dddddd", zorder=0)
        ax.set_xticks(where, [f"{a}–{b}" for a, b in itertools.pairwise(steps)], rotation=60, fontsize=7)
        ax.tick_params(axis="y", labelsize=8)
        ax.set_xlabel("steps", fontsize=8)
        ax.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", metavar="FILE", help="density_u8.npz; default: a synthetic series")
    parser.add_argument("--output", metavar="PNG", default="fission.png", help="the picture, default: fission.png")
    parser.add_argument("--relative", type=float, default=1e-4, help="tolerance over the range, for the picture")
    parser.add_argument("--side", type=int, default=40, help="cells across the synthetic drop")
    arguments = parser.parse_args(argv)
    real = arguments.data is not None
    steps, fields = real_series(arguments.data) if real else synthetic_series(arguments.side)
    results = {}
    kind = "fission" if real else "SYNTHETIC drop"
    for name, series in fields.items():
        print(f"{kind}, {name}: {len(steps)} steps of {' x '.join(map(str, series.shape[1:]))} cells")
        print("  tolerance   bits  distance             largest at      value     bound  certain")
        for relative in sorted({1e-2, 1e-3, arguments.relative}, reverse=True):
            bits, found = distances(series, relative)
            for distance, answers in found.items():
                place, certain = peak(answers)
                value, step = answers[place], f"{steps[place]}-{steps[place + 1]}"
                row = f"  {relative:<9g} {bits:6.2f}  {distance:20} {step:>10} {float(value):10.4g} {value.error:9.2g}"
                print(f"{row}  {'yes' if certain else 'no'}")
                results[name, relative, distance] = (int(steps[place]), value, certain)
            if relative == arguments.relative and "picture" not in results:
                title = f"{kind}, {name}, compressed to {bits:.1f} bits a value"
                draw(arguments.output, title, steps, series, found)
                results["picture"] = arguments.output
    print(f"picture: {arguments.output}")
    return results


if __name__ == "__main__":
    main()
