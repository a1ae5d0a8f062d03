"""How far things are, from two pictures taken side by side, and which of them belong together.

python segmentation.py
python segmentation.py --pair left.npy right.npy --disparities 16
"""

import argparse
import time

import numpy as np
from matplotlib.figure import Figure

from hpcblaz import bp

SHAPES = ((0.10, 0.10, 0.42, 0.40, 5), (0.30, 0.55, 0.75, 0.85, 8), (0.62, 0.15, 0.92, 0.48, 11))


def scene(side, seed):
    """Return the left and the right picture, and how many pixels each pixel of the left one is moved in the right one.

    A wall two pixels away with three boards before it, all covered with the same random speckles.
    """
    rng = np.random.default_rng(seed)
    depth = np.full((side, side), 2)
    for top, left, bottom, right, disparity in SHAPES:
        depth[int(top * side) : int(bottom * side), int(left * side) : int(right * side)] = disparity
    speckles = rng.random((side, side + depth.max()))
    left = speckles[:, :side] * 0.7 + 0.15
    right = rng.random((side, side)) * 0.7 + 0.15  # what the left picture does not show
    for disparity in np.unique(depth):  # from the farthest to the nearest, which hide what is behind
        y, x = np.nonzero(depth == disparity)
        inside = x - disparity >= 0
        right[y[inside], x[inside] - disparity] = left[y[inside], x[inside]]
    noise = 0.06 * rng.standard_normal((2, side, side))
    return np.clip(left + noise[0], 0, 1), np.clip(right + noise[1], 0, 1), depth


def see(left, right, disparities):
    """Return the disparity of each pixel for itself, and with its neighbours; and the run."""
    model = bp.stereo(left, right, disparities, data_weight=12.0, data_limit=0.25, smoothness=1.1)
    alone = model.log_unaries.reshape(*left.shape[:2], disparities).argmax(axis=2)
    run = bp.infer(model, task="map", damping=0.3, max_iterations=200, time_limit=60)
    return alone, run.assignment.reshape(left.shape[:2]), run


def segments(depth):
    """Return a number for each pixel, the same for neighbours that are equally far."""
    edges = bp.grid_edges(*depth.shape)
    flat = depth.ravel()
    joined = edges[flat[edges[:, 0]] == flat[edges[:, 1]]]
    label = np.arange(flat.size)
    while True:  # the least number spreads, over long ways by jumps
        before = label.copy()
        np.minimum.at(label, joined[:, 0], label[joined[:, 1]])
        np.minimum.at(label, joined[:, 1], label[joined[:, 0]])
        label = label[label]
        if (label == before).all():
            return np.unique(label, return_inverse=True)[1].reshape(depth.shape)


def draw(path, left, alone, depth, parts):
    figure = Figure(figsize=(8.4, 2.5), layout="constrained")
    sizes = np.bincount(parts.ravel())
    rank = np.empty(sizes.size, int)
    rank[np.argsort(-sizes)] = np.arange(sizes.size)
    panels = [
        ("left picture", left, {"cmap": "gray"}),
        ("each pixel alone", alone, {"cmap": "viridis"}),
        ("with its neighbours", depth, {"cmap": "viridis", "vmin": alone.min(), "vmax": alone.max()}),
        ("segments", rank[parts], {"cmap": "tab10", "vmax": 9}),
    ]
    for ax, (title, values, colors) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        ax.imshow(values, interpolation="nearest", **colors)
        ax.set_title(title, fontsize=9)
        ax.axis("off")
    figure.savefig(path, dpi=75)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", metavar="PNG", default="segmentation.png", help="the picture")
    parser.add_argument("--side", type=int, default=112, help="pixels along a side, default: 112")
    parser.add_argument("--pair", nargs=2, metavar="NPY", help="your own rectified pictures, with values from 0 to 1")
    parser.add_argument("--disparities", type=int, default=14, help="how many there are, default: 14")
    parser.add_argument("--seed", type=int, default=0, help="of the speckles and the noise, default: 0")
    arguments = parser.parse_args(argv)
    truth = None
    if arguments.pair:
        left, right = (np.load(path) for path in arguments.pair)
    else:
        left, right, truth = scene(arguments.side, arguments.seed)
    began = time.perf_counter()
    alone, depth, run = see(left, right, arguments.disparities)
    parts = segments(depth)
    print(f"{depth.shape[0]} x {depth.shape[1]} pixels, {arguments.disparities} disparities: {run.status}, "
          f"{run.iterations:.0f} iterations, {time.perf_counter() - began:.1f} s")  # fmt: skip
    large = int(np.count_nonzero(np.bincount(parts.ravel()) >= depth.size // 200))
    print(f"  segments of half a per cent of the picture or more: {large}")
    if truth is not None:
        for name, found in (("each pixel alone", alone), ("with its neighbours", depth)):
            print(f"  {name:20} {100 * np.mean(found != truth):5.1f} % of the pixels at a wrong disparity")
    draw(arguments.output, left, alone, depth, parts)
    print(f"picture: {arguments.output}")
    return {"truth": truth, "alone": alone, "depth": depth, "segments": large, "run": run}


if __name__ == "__main__":
    main()
