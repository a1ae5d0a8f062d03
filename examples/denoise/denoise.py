"""A drawing in three greys, with noise and holes, and the clean one that belief propagation infers.

python denoise.py
python denoise.py --image noisy.npy --levels 2
"""

import argparse
import time

import numpy as np
from matplotlib.figure import Figure

from hpcblaz import bp

NOISE = 0.4  # standard deviation, of the range of greys
HOLES = 0.15  # share of the pixels that are lost
COUPLING = 1.2  # how much neighbours like to be alike


def drawing(side):
    """Return levels 0, 1 and 2: a sky, hills and a sun, shapes with smooth and with sharp edges."""
    y, x = np.mgrid[0:side, 0:side] / side
    levels = np.zeros((side, side), int)
    levels[(y > 0.62 + 0.12 * np.sin(9 * x)) | (y > 0.45 + 0.9 * abs(x - 0.3))] = 1
    levels[(x - 0.74) ** 2 + (y - 0.25) ** 2 < 0.025] = 2
    levels[(y > 0.78 + 0.06 * np.cos(14 * x)) | ((abs(x - 0.62) < 0.03) & (y > 0.5))] = 2
    return levels


def spoil(levels, seed):
    """Return greys from 0 to 1 with noise, and NaN where pixels are lost."""
    rng = np.random.default_rng(seed)
    image = np.clip(levels / 2 + NOISE * rng.standard_normal(levels.shape), 0, 1)
    image[rng.random(levels.shape) < HOLES] = np.nan
    return image


def restore(image, levels):
    """Return three answers: each pixel for itself, the most probable state of each pixel, the most probable image."""
    model = bp.denoise(image, levels, noise=NOISE, coupling=COUPLING)
    found = {"each pixel alone": model.log_unaries.reshape(*image.shape, levels).argmax(axis=2)}
    runs = {}
    for name, task in (("marginals", "marginals"), ("MAP", "map")):
        runs[name] = bp.infer(model, task=task, damping=0.3 if task == "map" else 0.0, time_limit=20)
        found[name] = runs[name].assignment.reshape(image.shape)
    return found, runs


def draw(path, image, found, runs, truth):
    figure = Figure(figsize=(8.4, 2.2), layout="constrained")
    sure = runs["marginals"].marginals.reshape(*image.shape, -1).max(axis=2)
    panels = [
        ("before", image, {"cmap": "gray"}),
        *((name, levels, {"cmap": "gray"}) for name, levels in found.items()),
    ]
    panels.append(("how probable", sure, {"cmap": "magma", "vmin": 0, "vmax": 1}))
    for ax, (title, values, colors) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        ax.imshow(values, interpolation="nearest", **colors)
        wrong = "" if truth is None or title not in found else f"\n{100 * np.mean(found[title] != truth):.1f} % wrong"
        ax.set_title(title + wrong, fontsize=9)
        ax.axis("off")
    figure.savefig(path, dpi=80)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", metavar="PNG", default="denoise.png", help="the picture")
    parser.add_argument("--side", type=int, default=120, help="pixels along a side, default: 120")
    parser.add_argument("--image", metavar="NPY", help="your own greys, with NaN where nothing is known")
    parser.add_argument("--levels", type=int, default=3, help="greys of your own image, default: 3")
    parser.add_argument("--seed", type=int, default=0, help="of the noise, default: 0")
    arguments = parser.parse_args(argv)
    truth = None if arguments.image else drawing(arguments.side)
    image = np.load(arguments.image) if arguments.image else spoil(truth, arguments.seed)
    began = time.perf_counter()
    found, runs = restore(image, arguments.levels if arguments.image else 3)
    print(f"{image.shape[0]} x {image.shape[1]} pixels, {np.isnan(image).mean():.0%} of them lost")
    for name, levels in found.items():
        how = f", {runs[name].status} after {runs[name].iterations:.0f} iterations" if name in runs else ""
        print(f"  {name:17}" + ("" if truth is None else f" {100 * np.mean(levels != truth):5.1f} % wrong") + how)
    print(f"{time.perf_counter() - began:.1f} s")
    draw(arguments.output, image, found, runs, truth)
    print(f"picture: {arguments.output}")
    return {"truth": truth, "found": found, "runs": runs}


if __name__ == "__main__":
    main()
