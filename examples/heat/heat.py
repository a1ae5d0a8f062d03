"""Heat on a plate, with the temperature kept compressed between the time steps, and a proven bound of its error.

python heat.py                      one process
mpirun -n 4 python heat.py          the same plate, split over four ranks
"""

import argparse
import time

import numpy as np
from matplotlib.figure import Figure

import hpcblaz as hb
from hpcblaz.mpi import world
from hpcblaz.mpi.halo import exchange_halo

STEP = 0.2  # diffusivity * time step / cell size^2; the scheme is stable, and a contraction, up to 1/4
TOLERANCES = (1e-2, 1e-3, 1e-4)  # of degrees; the plate is between 0 and 100
SHADES = {1e-2: "#4fa3c4", 1e-3: "#0b6e99", 1e-4: "#043f5a"}


def start(layout):
    """Return this rank's part of the temperature at the start: a few hot and cold plates with sharp edges."""
    y, x = np.ogrid[layout.slices]
    rows, columns = layout.global_shape
    u = np.full(layout.local_shape, 20.0)
    u += 40 * np.exp(-(((y / rows - 0.3) / 0.15) ** 2) - ((x / columns - 0.7) / 0.2) ** 2)
    u[((y / rows - 0.6) ** 2 + (x / columns - 0.35) ** 2 < 0.03).nonzero()] = 100.0
    u[((abs(y / rows - 0.75) < 0.08) & (abs(x / columns - 0.75) < 0.1)).nonzero()] = 0.0
    return u


def heat(u):
    """Return the temperature one step later of values with a halo of one cell: an average, with weights >= 0."""
    neighbours = u[:-2, 1:-1] + u[2:, 1:-1] + u[1:-1, :-2] + u[1:-1, 2:]
    return (1 - 4 * STEP) * u[1:-1, 1:-1] + STEP * neighbours


def run_compressed(layout, tolerance, steps):
    """Yield the compressed temperature at the start and after every step: nothing else is kept between the steps."""
    a = hb.compress(start(layout), tolerance=tolerance, layout=layout)
    yield a
    for _ in range(steps):
        # Weights are positive and their sum is one, so that a step cannot make an error larger: lipschitz=1
        a = hb.stencil(heat, a, width=1, periodic=True, tolerance=tolerance, lipschitz=1, exchange="compressed")
        yield a


def run_plain(comm, layout, steps):
    """Yield this rank's part of the temperature in float64, at the start and after every step."""
    u = start(layout)
    yield u
    for _ in range(steps):
        u = heat(exchange_halo(comm, u, layout, 1, periodic=True))
        yield u


def follow(comm, layout, steps):
    """Run all at once; return for each tolerance errors, bounds and bits a value over time, and the last fields."""
    runs = {tolerance: run_compressed(layout, tolerance, steps) for tolerance in TOLERANCES}
    found = {tolerance: {"error": [], "bound": [], "bits": []} for tolerance in TOLERANCES}
    for truth in run_plain(comm, layout, steps):
        for tolerance, run in runs.items():
            a = next(run)
            error = comm.allgather([np.abs(a.decompress() - truth).max(initial=0.0), a.nbytes])
            found[tolerance]["error"].append(float(error[:, 0].max()))
            found[tolerance]["bound"].append(a.error.max_abs)
            found[tolerance]["bits"].append(8 * float(error[:, 1].sum()) / a.size)
            found[tolerance]["last"] = a
    return found, truth


def say(found, steps):
    print("  tolerance   error after all steps     its bound    tolerance x (steps + 1)   bits a value, first   last")
    for tolerance, run in found.items():
        print(
            f"  {tolerance:9g}   {run['error'][-1]:21.3g}   {run['bound'][-1]:11.3g}   {tolerance * (steps + 1):23.3g}"
            f"   {run['bits'][0]:19.1f}  {run['bits'][-1]:5.1f}"
        )


def draw(path, begin, end, difference, found, shown):
    figure = Figure(figsize=(8, 6), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(1, 1.1))
    axes = top.subplots(1, 3)
    greatest = float(np.abs(difference).max())
    looks = [
        (begin, "at the start", {"cmap": "inferno", "vmin": 0, "vmax": 100}),
        (end, f"after {len(found[shown]['error']) - 1} compressed steps", {"cmap": "inferno", "vmin": 0, "vmax": 100}),
        (difference, "minus the run in float64", {"cmap": "RdBu_r", "vmin": -greatest, "vmax": greatest}),
    ]
    for ax, (field, title, colors) in zip(axes, looks, strict=True):
        image = ax.imshow(field, origin="lower", interpolation="nearest", **colors)
        ax.set_title(title, fontsize=9)
        ax.set_xlabel("cell", fontsize=8)
        ax.tick_params(labelsize=7)
        bar = top.colorbar(image, ax=ax, location="bottom", label="degrees")
        bar.formatter.set_powerlimits((-2, 3))
        bar.ax.tick_params(labelsize=7)
        bar.ax.xaxis.get_offset_text().set_fontsize(7)
        bar.ax.xaxis.label.set_fontsize(8)
    ax = bottom.subplots()
    for tolerance, run in found.items():
        ax.semilogy(run["bound"], color=SHADES[tolerance], ls="--")
        name = f"tolerance {tolerance:g}: {run['bits'][-1]:.1f} bits a value"
        ax.semilogy(run["error"], color=SHADES[tolerance], label=name)
    ax.plot([], [], color="black", ls="--", label="proven bound")
    ax.set_title("largest error of any cell against the run in float64 (64 bits a value)", fontsize=9)
    ax.set_xlabel("time step", fontsize=8)
    ax.set_ylabel("degrees", fontsize=8)
    ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=8)
    ax.grid(alpha=0.3)
    figure.savefig(path, dpi=95)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", metavar="PNG", default="heat.png", help="the picture")
    parser.add_argument("--cells", type=int, default=256, help="cells along a side, default: 256")
    parser.add_argument("--steps", type=int, default=500, help="time steps, default: 500")
    arguments = parser.parse_args(argv)
    comm = world()
    layout = hb.Layout((arguments.cells, arguments.cells), comm)
    began = time.perf_counter()
    found, truth = follow(comm, layout, arguments.steps)
    shown = TOLERANCES[0]
    last = found[shown]["last"]
    begin, end = (comm.gather(part, layout) for part in (start(layout), last.decompress()))
    difference = comm.gather(last.decompress() - truth, layout)
    if comm.rank == 0:
        size = f"{arguments.cells} x {arguments.cells} cells, {arguments.steps} steps, ranks: {comm.size}"
        print(f"heat on a plate, {size}, {time.perf_counter() - began:.0f} s")
        say(found, arguments.steps)
        draw(arguments.output, begin, end, difference, found, shown)
        print(f"picture: {arguments.output}")
    for run in found.values():
        if any(error > bound for error, bound in zip(run["error"], run["bound"], strict=True)):
            raise SystemExit("an error is beyond its bound")
    return {"runs": found, "last": end}


if __name__ == "__main__":
    main()
