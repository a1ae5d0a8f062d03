"""The side chains of a protein: which rotamer each residue takes, so that all of them together have the least energy.

python protein.py                    a made-up protein
python protein.py --model pdb.uai    a model of your own, pairwise
"""

import argparse
import time
from itertools import pairwise

import numpy as np
from matplotlib.figure import Figure

from hpcblaz import bp

CONTACT = 5.0  # angstroms between side chains that feel each other
FACTORS = (2, 4)  # how many times colder
CLASH = 3.2  # angstroms: nearer than that, atoms repel


def fold(residues, seed):
    """Return where the residues of a made-up backbone are: a walk that stays compact, in steps of 3.8 angstroms."""
    rng = np.random.default_rng(seed)
    places = np.zeros((residues, 3))
    for i in range(1, residues):
        steps = rng.standard_normal((60, 3))
        steps *= 3.8 / np.linalg.norm(steps, axis=1, keepdims=True)
        tried = places[i - 1] + steps
        nearest = np.linalg.norm(tried[:, None] - places[None, : max(1, i - 1)], axis=2).min(axis=1)
        spread = np.linalg.norm(tried - places[:i].mean(axis=0), axis=1)
        places[i] = tried[np.where(nearest > 6.5, spread, 100 + spread - nearest).argmin()]
    return places


def rotamers(places, seed):
    """Return for each residue where the ends of its side chain can be, and the energy of each way by itself."""
    rng = np.random.default_rng(seed)
    ends, energies = [], []
    for place in places:
        count = int(rng.choice([1, 3, 9, 27], p=[0.15, 0.35, 0.35, 0.15]))  # from glycine to lysine
        ways = rng.standard_normal((count, 3))
        length = rng.uniform(1.5, 2.0 + 1.2 * np.log(count + 1) / 2)
        ends.append(place + length * ways / np.linalg.norm(ways, axis=1, keepdims=True))
        energies.append(rng.exponential(1.0, count))
    return ends, energies


def made_up(residues, seed):
    """Return the model of a protein: weights are e to the minus energy, over kT; edges join residues that touch."""
    places = fold(residues, seed)
    ends, energies = rotamers(places, seed + 1)
    edges, tables = [], []
    for a in range(residues):
        for b in range(a + 1, residues):
            apart = np.linalg.norm(ends[a][:, None] - ends[b][None], axis=2)
            if apart.min() < CONTACT:
                energy = 4 * np.clip(CLASH - apart, 0, None) ** 2 - 0.5 * np.exp(-((apart - 4.5) ** 2))
                edges.append((a, b))
                tables.append(-energy)
    model = bp.PairwiseModel.from_tables([-energy for energy in energies], edges, tables, log=True)
    return model, places


def cooled(model, factor):
    """Return a model whose energies are so many times as large: the colder, the more the best assignment weighs."""
    return bp.PairwiseModel(
        model.cardinalities,
        model.unary_offsets,
        factor * model.log_unaries,
        model.edges,
        model.table_of,
        model.table_offsets,
        factor * model.log_tables,
    )


def pack(model):
    """Return assignments by name, each with its score and how it went; and the run at the real temperature."""
    alone = np.array([model.log_unaries[a:b].argmax() for a, b in pairwise(model.unary_offsets)])
    run = warm = bp.infer(model, damping=0.3)
    found = {"each residue alone": (alone, ""), "marginals": (run.assignment, run.status)}
    for factor in FACTORS:
        warm = bp.infer(cooled(model, factor), damping=0.3, initial=warm, max_iterations=300, time_limit=10)
        found[f"at 1/{factor} of kT"] = (warm.assignment, warm.status)
    best = bp.infer(model, task="map", damping=0.3, max_iterations=300, time_limit=10)
    found["largest products"] = (best.assignment, best.status)
    plan = bp.plan_elimination(model)
    if plan.complete and plan.peak_bytes < 2**28:
        found["exact"] = (bp.exact(model, "map").assignment, "")
    return {name: (states, float(model.score(states)), how) for name, (states, how) in found.items()}, run


def draw(path, model, places, found, run):
    figure = Figure(figsize=(8.2, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    sure = [run.beliefs[a:b].max() for a, b in pairwise(run.offsets)]
    if places is None:
        left.hist(model.cardinalities, bins=30, color="#0b6e99")
        left.set(xlabel="rotamers", ylabel="residues")
    else:
        for a, b in model.edges:
            left.plot(*places[[a, b], :2].T, color="0.85", lw=0.5, zorder=1)
        left.plot(*places[:, :2].T, color="0.3", lw=1.2, zorder=2)
        dots = left.scatter(*places[:, :2].T, c=sure, s=8 + 2 * model.cardinalities, cmap="magma_r", vmin=0, vmax=1,
                            zorder=3, edgecolors="0.3", linewidths=0.4)  # fmt: skip
        figure.colorbar(dots, ax=left, label="largest belief", location="bottom", shrink=0.7)
        left.set_aspect("equal")
        left.axis("off")
        left.set_title("backbone, contacts, and how sure each side chain is", fontsize=9)
    best = max(score for _, score, _ in found.values())
    names = list(found)
    energies = [best - found[name][1] for name in names]
    right.barh(names[::-1], energies[::-1], color="#0b6e99")
    right.bar_label(right.containers[0], fmt="%.2f", fontsize=8, padding=2)
    right.set_xlabel("energy above the best, kT")
    right.margins(x=0.15)
    figure.savefig(path, dpi=95)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", metavar="PNG", default="protein.png", help="the picture")
    parser.add_argument("--residues", type=int, default=80, help="of the made-up protein, default: 80")
    parser.add_argument("--model", metavar="UAI", help="a pairwise model of your own")
    parser.add_argument("--seed", type=int, default=0, help="of the made-up protein, default: 0")
    arguments = parser.parse_args(argv)
    if arguments.model:
        model, places = bp.read_model(arguments.model).to_pairwise(), None
    else:
        model, places = made_up(arguments.residues, arguments.seed)
    began = time.perf_counter()
    found, run = pack(model)
    what = arguments.model or "MADE-UP protein"
    print(
        f"{what}: {model.variables} residues, {len(model.edges)} contacts, up to {model.cardinalities.max()} rotamers"
    )
    print(f"  marginals: {run.status}, {1e3 * run.seconds:.1f} ms; in all {time.perf_counter() - began:.1f} s")
    for name, (_, score, how) in found.items():
        print(f"  {name:18} energy {-score:9.3f} kT  {how}")
    draw(arguments.output, model, places, found, run)
    print(f"picture: {arguments.output}")
    return {"found": found, "run": run, "model": model}


if __name__ == "__main__":
    main()
