"""Statistics of magnetic resonance images in the fixed form of PyBlaz: int8 and int16 indices, several block shapes.

python brain_mri.py                          the MNI152 templates that come with nilearn: no download
python brain_mri.py --data a.nii.gz b.npy    your own volumes, of one shape
"""

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

import hpcblaz as hb

BLOCKS = ((4, 4, 4), (8, 8, 8), (16, 16, 16), (4, 16, 16))
STATISTICS = ("mean", "variance", "L2 norm", "SSIM")
COLORS = {"int8": "#0b6e99", "int16": "#d9822b", "tolerance": "#8c3b4a"}


def templates():
    """Return the T1-weighted image and the grey and white matter of the MNI ICBM152 template."""
    from nilearn import datasets

    loaders = {
        "T1": datasets.load_mni152_template,
        "grey matter": datasets.load_mni152_gm_template,
        "white matter": datasets.load_mni152_wm_template,
    }
    return {name: np.asarray(load(resolution=1).dataobj, np.float32) for name, load in loaders.items()}


def volumes(paths):
    """Return volumes of files: .npy, or whatever nibabel reads."""

    def read(path):
        if Path(path).suffix == ".npy":
            return np.load(path)
        import nibabel

        return nibabel.load(path).dataobj

    return {Path(path).name: np.asarray(read(path), np.float32) for path in paths}


def truths(x, y, span):
    """Return the statistics of x, and the similarity of x and y, by NumPy in double precision."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    covariance = ((x - x.mean()) * (y - y.mean())).mean()
    luminance = (2 * x.mean() * y.mean() + c1) / (x.mean() ** 2 + y.mean() ** 2 + c1)
    contrast = (2 * x.std() * y.std() + c2) / (x.var() + y.var() + c2)
    structure = (covariance + c2 / 2) / (x.std() * y.std() + c2 / 2)
    return x.mean(), x.var(), np.linalg.norm(x), luminance * contrast * structure


def errors(names, images, exact, span, codec, tolerance=None):
    """Return bits a value, and for every statistic the greatest error and the greatest bound over all images.

    Those of mean, variance and L2 norm are relative to the exact answer.
    """
    arrays = {n: hb.compress(x, codec=codec, tolerance=tolerance) for n, x in images.items()}
    worst = np.zeros((len(STATISTICS), 2))
    for name, other in zip(names, names[1:] + names[:1], strict=True):
        a, b = arrays[name], arrays[other]
        similarity = hb.structural_similarity(a, b, data_range=span)
        for i, (answer, truth) in enumerate(
            zip((a.mean(), a.variance(), a.norm(), similarity), exact[name], strict=True)
        ):
            scale = 1.0 if STATISTICS[i] == "SSIM" else abs(truth)
            error, bound = abs(float(answer) - truth) / scale, answer.error / scale
            if error > bound:
                raise SystemExit(f"{STATISTICS[i]} of {name}: the error {error} is beyond its bound {bound}")
            worst[i] = np.maximum(worst[i], (error, bound))
    bits = 8 * sum(a.nbytes for a in arrays.values()) / sum(a.size for a in arrays.values())
    return bits, worst


def draw(path, rows, plane, name):
    figure = Figure(figsize=(8, 5.6), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1, 2.6))
    ax = left.subplots()
    ax.imshow(plane.T, origin="lower", cmap="viridis")
    ax.set_title(f"{name}, the middle slice", fontsize=9)
    ax.set_axis_off()
    handles = [
        Line2D([], [], color="#444444", marker="o", ls="", label="largest error"),
        Line2D([], [], color="#444444", marker="_", ls="", markersize=12, label="its bound"),
        *(Line2D([], [], color=color, lw=4, label=kind) for kind, color in COLORS.items()),
        Line2D([], [], color="#999999", ls="--", label="one per cent"),
    ]
    left.legend(handles=handles, loc="lower center", fontsize=8, frameon=False)
    axes = right.subplots(2, 2, sharex=True, sharey=True)
    for i, (ax, statistic) in enumerate(zip(axes.flat, STATISTICS, strict=True)):
        for place, (_, kind, _, worst) in enumerate(rows):
            error, bound = np.maximum(worst[i], 1e-12)
            ax.plot([place, place], [error, bound], color=COLORS[kind], lw=1, alpha=0.4)
            ax.plot(place, error, "o", color=COLORS[kind], markersize=5)
            ax.plot(place, bound, "_", color=COLORS[kind], markersize=10, markeredgewidth=2)
        ax.axhline(1e-2, color="#999999", ls="--", lw=1)
        ax.set_yscale("log")
        ax.set_title(statistic, fontsize=9)
        ax.set_xticks(range(len(rows)), [label for label, *_ in rows], rotation=90, fontsize=7)
        ax.tick_params(axis="y", labelsize=8)
        ax.set_ylabel("absolute error" if statistic == "SSIM" else "relative error", fontsize=8)
        ax.spines[["top", "right"]].set_visible(False)
        ax.grid(axis="y", alpha=0.3)
    figure.savefig(path, dpi=110)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", metavar="FILE", nargs="+", help="volumes; default: the templates of nilearn")
    parser.add_argument("--output", metavar="PNG", default="brain_mri.png", help="the picture")
    parser.add_argument("--small", action="store_true", help="every fourth cell and one block shape: a trial")
    arguments = parser.parse_args(argv)
    images = templates() if arguments.data is None else volumes(arguments.data)
    if arguments.small:
        images = {name: np.ascontiguousarray(x[::4, ::4, ::4]) for name, x in images.items()}
    names = list(images)
    span = max(float(x.max()) for x in images.values()) - min(float(x.min()) for x in images.values())
    exact = {n: truths(images[n], images[m], span) for n, m in zip(names, names[1:] + names[:1], strict=True)}
    rows = []
    for block in BLOCKS[:1] if arguments.small else BLOCKS:
        for kind in ("int8", "int16"):
            bits, worst = errors(names, images, exact, span, hb.BlockCodec(block, index_dtype=kind))
            rows.append((f"{kind}, {'×'.join(map(str, block))}", kind, bits, worst))
    for relative in (1e-2, 1e-3):
        bits, worst = errors(names, images, exact, span, hb.ToleranceCodec((4, 4, 4)), relative * span)
        rows.append((f"tolerance, {relative:g}", "tolerance", bits, worst))
    print(
        f"{', '.join(names)}: {' x '.join(map(str, images[names[0]].shape))} cells; greatest error (and bound) over all"
    )
    print(f"{'codec':18} {'bits':>6}" + "".join(f"{statistic:>22}" for statistic in STATISTICS))
    for label, _, bits, worst in rows:
        print(f"{label:18} {bits:6.2f}" + "".join(f"{error:12.1e} ({bound:.1e})" for error, bound in worst))
    draw(arguments.output, rows, images[names[0]][:, :, images[names[0]].shape[2] // 2], names[0])
    print(f"picture: {arguments.output}")
    return rows


if __name__ == "__main__":
    main()
