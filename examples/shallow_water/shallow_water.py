"""Shallow water in float16, float32 and float64, and with its fields kept compressed between the steps.

python shallow_water.py                      an own solver: two vortices on a rotating torus
python shallow_water.py --data FOLDER        also the fields of the PyBlaz paper: eta_float16.npy and so on
"""

import argparse
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

import hpcblaz as hb

CORIOLIS, VISCOSITY, TIME_STEP = 0.1, 0.005, 0.3  # units: a cell, and the time a wave takes to cross one; depth 1
NAMES = ("surface elevation", "velocity u", "velocity v")
COLORS = {"float16": "#8c3b4a", "float32": "#7a7a7a"}


def start(n, dtype):
    """Return surface elevation and velocities of two vortices, in geostrophic balance, on n x n cells of a torus."""
    y, x = np.mgrid[:n, :n] / n

    # u and v live on the faces of the cells: half a cell to the left, half a cell below
    def elevation(dx, dy):
        bumps = [(0.42, 0.44, 0.20), (0.58, 0.56, 0.16)]
        distance2 = [np.sin(np.pi * (x + dx / n - a)) ** 2 + np.sin(np.pi * (y + dy / n - b)) ** 2 for a, b, _ in bumps]
        return sum(height * np.exp(-d / 0.05) for d, (_, _, height) in zip(distance2, bumps, strict=True))

    u = -(elevation(-0.5, 0.5) - elevation(-0.5, -0.5)) / CORIOLIS
    v = (elevation(0.5, -0.5) - elevation(-0.5, -0.5)) / CORIOLIS
    eta = elevation(0, 0)
    return [field.astype(dtype) for field in (eta - eta.mean(), u, v)]


def before(field, axis):
    return np.roll(field, 1, axis)


def after(field, axis):
    return np.roll(field, -1, axis)


def laplacian(field):
    return before(field, 0) + after(field, 0) + before(field, 1) + after(field, 1) - 4 * field


def tendency(eta, u, v):
    """Return the time derivatives on a C-grid, with the energy-conserving scheme of Sadourny (1975)."""
    y, x = 0, 1
    h = 1 + eta
    h_u, h_v = (h + before(h, x)) / 2, (h + before(h, y)) / 2
    flux_u, flux_v = h_u * u, h_v * v
    vorticity = v - before(v, x) - (u - before(u, y))
    q = (CORIOLIS + vorticity) / ((h_u + before(h_u, y)) / 2)  # at the lower left corner of a cell
    head = eta + (u * u + after(u * u, x) + v * v + after(v * v, y)) / 4
    turn_u = q * (flux_v + before(flux_v, x)) / 2
    turn_v = q * (flux_u + before(flux_u, y)) / 2
    return (
        flux_u - after(flux_u, x) + flux_v - after(flux_v, y),
        (turn_u + after(turn_u, y)) / 2 - (head - before(head, x)) + VISCOSITY * laplacian(u),
        -(turn_v + after(turn_v, x)) / 2 - (head - before(head, y)) + VISCOSITY * laplacian(v),
    )


def step(state):
    """Return the state one time step later, by the third-order Runge-Kutta method of Shu and Osher (1988)."""
    one = [f + TIME_STEP * d for f, d in zip(state, tendency(*state), strict=True)]
    two = [0.75 * f + 0.25 * (g + TIME_STEP * d) for f, g, d in zip(state, one, tendency(*one), strict=True)]
    return [(f + 2 * (g + TIME_STEP * d)) / 3 for f, g, d in zip(state, two, tendency(*two), strict=True)]


def run(n, steps, every, dtype, tolerance=None):
    """Return compressed surface elevations, one after every few steps, and bits a value of what is kept meanwhile.

    With a tolerance (over the range at the start) the fields are compressed after every step, and decompressed before
    the next one; nothing else is kept.
    """
    state = start(n, dtype)
    spans = [float(np.ptp(field)) for field in state]
    snapshots, bits = [], 8.0 * np.dtype(dtype).itemsize
    for number in range(steps + 1):
        if number:
            state = step(state)
        if tolerance is not None:
            kept = [hb.compress(f, tolerance=tolerance * span) for f, span in zip(state, spans, strict=True)]
            bits = 8 * sum(a.nbytes for a in kept) / sum(a.size for a in kept)
            state = [a.decompress() for a in kept]
        if number % every == 0:  # for the comparison: kept nearly exactly
            snapshots.append(hb.compress(state[0].astype(np.float64), tolerance=1e-7 * spans[0]))
    return snapshots, bits


def compare(title, pairs):
    """Print what can be said of pairs of compressed fields, with bounds, and return it."""
    print(title)
    print("  fields                        norm of difference       cosine similarity    structural similarity")
    found = {}
    for name, (a, b) in pairs.items():
        answers = [hb.norm(a - b), hb.cosine_similarity(a, b), hb.structural_similarity(a, b)]
        text = "".join(f"{float(answer):13.6f} ± {answer.error:<7.1e}" for answer in answers)
        print(f"  {name:26}{text}")
        found[name] = answers
    return found


def compare_files(folder, relative):
    """Compare fields of the paper in two precisions, compressed within a fraction of their range."""
    pairs = {}
    for name in ("eta", "u", "v", "sst"):
        halves, singles = (np.load(Path(folder) / f"{name}_{dtype}.npy") for dtype in ("float16", "float32"))
        pairs[name] = tuple(hb.compress(x.astype(np.float32), relative=relative) for x in (halves, singles))
    shape = " x ".join(map(str, pairs["eta"][0].shape))
    bits = 8 * sum(a.nbytes for pair in pairs.values() for a in pair) / sum(a.size for p in pairs.values() for a in p)
    title = f"fields of the paper, float16 against float32, {shape} cells, tolerance {relative:g} of the range"
    return compare(f"{title}: {bits:.1f} bits a value", pairs)


def draw(path, every, reference, runs, drifts, shown):
    figure = Figure(figsize=(8, 5.6), layout="constrained")
    top, bottom = figure.subfigures(2, 1, height_ratios=(1, 1))
    axes = top.subplots(1, 3)
    truth = reference[-1].decompress()
    image = axes[0].imshow(truth, origin="lower", interpolation="nearest")
    axes[0].set_title(f"elevation after {every * (len(reference) - 1)} steps", fontsize=9)
    bars = [top.colorbar(image, ax=axes[0], location="bottom")]
    differences = [(runs[name][0][-1] - reference[-1]).decompress() for name in shown]  # subtracted while compressed
    greatest = float(np.abs(differences).max())
    for ax, name, difference in zip(axes[1:], shown, differences, strict=True):
        image = ax.imshow(
            difference, origin="lower", cmap="RdBu_r", vmin=-greatest, vmax=greatest, interpolation="nearest"
        )
        ax.set_title(f"{name} − float64", fontsize=9)
        bars.append(top.colorbar(image, ax=ax, location="bottom"))
    for ax in axes:
        ax.tick_params(labelsize=7)
        ax.set_xlabel("cell", fontsize=8)
    for bar in bars:
        bar.formatter.set_powerlimits((-2, 3))
        bar.ax.tick_params(labelsize=7)
        bar.ax.xaxis.get_offset_text().set_fontsize(7)
    ax = bottom.subplots()
    ax.set_title("drift of the surface elevation, and bits a value of the fields between the steps", fontsize=9)
    shades = iter(("#a6d5e6", "#4fa3c4", "#0b6e99", "#043f5a"))
    for name, values in drifts.items():
        where = every * np.arange(1, len(values) + 1)
        style = {"color": COLORS[name], "ls": "--"} if name in COLORS else {"color": next(shades)}
        ax.semilogy(where, values, label=f"{name}: {runs[name][1]:.1f} bits", **style)
    ax.set_xlabel("time step", fontsize=8)
    ax.set_ylabel("norm of difference to float64\nover norm of the field", fontsize=8)
    ax.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=8)
    ax.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", metavar="FOLDER", help="fields of the paper: compare them too")
    parser.add_argument("--output", metavar="PNG", default="shallow_water.png", help="the picture")
    parser.add_argument("--cells", type=int, default=64, help="cells along a side, default: 64")
    parser.add_argument("--steps", type=int, default=1000, help="time steps, default: 1000")
    arguments = parser.parse_args(argv)
    results = {}
    if arguments.data is not None:
        results["paper"] = compare_files(arguments.data, 1e-3)
    every = max(1, arguments.steps // 40)
    plain = {dtype: run(arguments.cells, arguments.steps, every, dtype) for dtype in ("float64", "float16", "float32")}
    reference, _ = plain.pop("float64")
    runs = dict(plain)
    for tolerance in (1e-2, 1e-3, 1e-4, 1e-5):
        runs[f"compressed, {tolerance:g}"] = run(arguments.cells, arguments.steps, every, "float64", tolerance)
    title = f"own solver, surface elevation after {every * (len(reference) - 1)} steps against the float64 run"
    results["runs"] = compare(title, {name: (snapshots[-1], reference[-1]) for name, (snapshots, _) in runs.items()})
    drifts = {
        name: [hb.norm(a - b) / hb.norm(b) for a, b in zip(snapshots[1:], reference[1:], strict=True)]
        for name, (snapshots, _) in runs.items()
    }
    draw(arguments.output, every, reference, runs, drifts, ("float16", "compressed, 0.0001"))
    print(f"picture: {arguments.output}")
    return results | {"drifts": drifts, "bits": {name: bits for name, (_, bits) in runs.items()}}


if __name__ == "__main__":
    main()
