"""A low-density parity-check code over noisy channels: bit errors after decoding, against those without a code."""

import argparse
import math
import time

import numpy as np
from matplotlib.figure import Figure

from hpcblaz import bp

RATE = 1 / 2  # bits of a message, over bits that are sent: half as many checks as bits
DECIBELS = (0.5, 1.0, 1.25, 1.5, 1.75, 2.0, 2.25, 2.5)  # Eb/N0 of the Gaussian channel
FLIPS = (0.04, 0.05, 0.06, 0.065, 0.07, 0.075, 0.08, 0.09, 0.1)  # probabilities of the channel that flips bits
DECODERS = {"marginals": "sum-product", "map": "max-product"}
COLOURS = {"marginals": "#0b6e99", "map": "#c44e52"}


def noise_of(decibels):
    """Return the standard deviation of noise; decibels are the energy of a bit of the message over its density."""
    return 1 / math.sqrt(2 * RATE * 10 ** (decibels / 10))


def uncoded(decibels):
    """Return the share of wrong bits that are sent without a code, with the same energy a bit of the message."""
    return math.erfc(math.sqrt(10 ** (decibels / 10))) / 2


def measure(code, words, channels):
    """Return, by channel and decoder, wrong bits before and after, wrong words, and mean iterations.

    All words sent are zero: noise and decoder treat every other code word alike.
    """
    found = {}
    for number, (name, noise, kind) in enumerate(channels):
        received = bp.channel(np.zeros((words, code.bits), np.int64), noise, kind, seed=number + 1)
        for task in DECODERS:
            result = bp.decode(code, received, task=task, max_iterations=50)
            found[name, task] = {
                "before": float((received < 0).mean()),
                "after": float(result.assignment.mean()),
                "words": float(result.assignment.any(axis=1).mean()),
                "iterations": float(result.iterations.mean()),
            }
    return found


def say(found, unit):
    print(f"  {unit:>8}   decoder       wrong bits received   decoded   wrong words   iterations")
    for (name, task), row in found.items():
        print(
            f"  {name:8g}   {DECODERS[task]:11}   {row['before']:19.4f}   {row['after']:7.1e}   {row['words']:11.4f}"
            f"   {row['iterations']:10.1f}"
        )


def draw(path, gaussian, flips, bits, words):
    figure = Figure(figsize=(8, 3.6), layout="constrained")
    least = 0.5 / (bits * words)
    left, right = figure.subplots(1, 2, sharey=True)
    left.semilogy(DECIBELS, [uncoded(x) for x in DECIBELS], color="black", ls=":", label="without a code")
    right.semilogy(FLIPS, FLIPS, color="black", ls=":", label="without a code")
    for ax, found in ((left, gaussian), (right, flips)):
        for task, name in DECODERS.items():
            points = [(x, row["after"]) for (x, t), row in found.items() if t == task and row["after"] > least]
            ax.semilogy(*zip(*points, strict=True), "o-", ms=4, color=COLOURS[task], label=name)
        ax.legend(fontsize=8, frameon=False)
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=8)
        ax.grid(alpha=0.3)
    left.set_xlabel("Eb/N0 in decibels", fontsize=8)
    right.set_xlabel("probability that a bit is flipped", fontsize=8)
    left.set_ylabel("share of wrong bits", fontsize=8)
    left.set_title("Gaussian noise", fontsize=9)
    right.set_title("flipped bits", fontsize=9)
    figure.suptitle(f"Gallager code of {bits} bits, half of them checks: {words} words a point", fontsize=10)
    figure.savefig(path, dpi=95)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", metavar="PNG", default="ldpc.png", help="the picture")
    parser.add_argument("--bits", type=int, default=3000, help="length of a code word, a multiple of 6, default: 3000")
    parser.add_argument("--words", type=int, default=256, help="words a point, default: 256")
    arguments = parser.parse_args(argv)
    began = time.perf_counter()
    checks = bp.parity_checks(arguments.bits, column_weight=3, row_weight=6)
    code = bp.ParityChecks.from_rows(arguments.bits, checks)
    bp.decode(code, np.ones((1, code.bits)))  # compiles what it needs
    gaussian = measure(code, arguments.words, [(x, noise_of(x), "gaussian") for x in DECIBELS])
    flips = measure(code, arguments.words, [(x, x, "flip") for x in FLIPS])
    print(f"code of {code.bits} bits and {code.count} checks, {time.perf_counter() - began:.0f} s")
    say(gaussian, "Eb/N0")
    say(flips, "flipped")
    draw(arguments.output, gaussian, flips, code.bits, arguments.words)
    print(f"picture: {arguments.output}")
    return {"gaussian": gaussian, "flips": flips}


if __name__ == "__main__":
    main()
