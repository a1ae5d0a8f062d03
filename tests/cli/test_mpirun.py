"""The command line on several ranks: one output, one error, one exit code, and no rank left waiting."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from mpi.test_launch import launch

import hpcblaz as hb

RANKS = 3
MAIN = ["-m", "hpcblaz.cli.main"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    x = np.random.default_rng(3).normal(size=(40, 9, 10)).astype(np.float32).cumsum(0)
    np.save(folder / "x.npy", x)
    hb.compress(x, tolerance=1e-2).save(folder / "x.hbz")
    return folder


def test_all_verbs_work_on_several_ranks(folder: Path) -> None:
    x = np.load(folder / "x.npy")
    files = {name: str(folder / name) for name in ("x.npy", "x.hbz", "y.hbz", "y.npy")}
    status, output = launch(RANKS, [*MAIN, "compress", files["x.npy"], files["y.hbz"], "--tolerance", "0.01"], 300)
    assert status == 0 and output.count("ratio") == 1, output
    status, output = launch(RANKS, [*MAIN, "decompress", files["y.hbz"], files["y.npy"]], 300)
    assert status == 0 and output.count("40 x 9 x 10 values") == 1, output
    assert np.abs(np.load(files["y.npy"]) - x).max() <= 0.01
    for name in ("x.hbz", "y.hbz"):
        status, output = launch(RANKS, [*MAIN, "stats", files[name], "--json"], 300)
        found = json.loads(output)
        assert status == 0 and found["ranks"] == RANKS
        mean = found["statistics"]["mean"]
        assert abs(mean["value"] - x.mean(dtype=float)) <= mean["error"]
    status, output = launch(RANKS, [*MAIN, "stats", files["x.hbz"], files["x.npy"], "--tolerance", "0.01"], 300)
    assert status == 0 and output.count("norm of difference") == 1, output
    for first, second in (("x.npy", "x.hbz"), ("x.hbz", "x.npy"), ("x.npy", "y.npy")):
        status, output = launch(RANKS, [*MAIN, "compare", files[first], files[second], "--json"], 300)
        largest = json.loads(output)["statistics"]["largest_difference"]
        assert status == 0 and 0 < largest["value"] <= 0.01, output
    status, output = launch(RANKS, [*MAIN, "info"], 300)
    assert status == 0 and re.search(rf"mpi size +{RANKS}\n", output), output


def test_the_demonstration_on_several_ranks(folder: Path) -> None:
    arguments = ["demo", "--size", "24", "--output", str(folder / "demo.png")]
    status, output = launch(2, [*MAIN, *arguments], 300)
    assert status == 0 and output.count("lie within their bounds") == 1, output


def test_a_picture_does_not_depend_on_the_ranks(folder: Path) -> None:
    pytest.importorskip("matplotlib")
    pictures = []
    for ranks in (1, RANKS):
        pictures.append(folder / f"{ranks}.png")
        files = [str(folder / name) for name in ("x.npy", "x.hbz")]
        arguments = ["plot", files[0], "--compare", files[1], "-o", str(pictures[-1])]
        status, output = launch(ranks, [*MAIN, *arguments], 300)
        assert status == 0 and output.count("picture:") == 1, output
    assert pictures[0].read_bytes() == pictures[1].read_bytes()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["stats", "missing.hbz"], 1, "no such file"),
        (["explode"], 2, "usage:"),
        (["compress", "missing.npy", "x.hbz", "--rate", "8"], 1, "no such file"),
    ],
)
def test_an_error_is_printed_once(arguments: list[str], code: int, message: str) -> None:
    status, output = launch(RANKS, [*MAIN, *arguments], 300)
    assert status == code and output.count(message) == 1, output


@pytest.mark.parametrize("error", ["ZeroDivisionError", "KeyboardInterrupt"])
def test_an_unexpected_error_of_one_rank_ends_the_job(error: str) -> None:
    program = (
        "import sys; from hpcblaz.cli import info, main; from hpcblaz.mpi import world\n"
        "def run(arguments):\n"
        f"    if world().rank == 1: raise {error}('on one rank only')\n"
        "    world().barrier()\n"
        "    return 0\n"
        "info.run = run\n"
        "sys.exit(main.main(['info']))"
    )
    status, output = launch(RANKS, ["-c", program], 300)
    assert status not in (0, None), output
    if error == "ZeroDivisionError":
        assert "unexpected error on rank 1 of 3: ZeroDivisionError: on one rank only" in output
