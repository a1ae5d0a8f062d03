"""``hpcblaz compare``: every kind of field against every other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hpcblaz as hb
from hpcblaz.cli.main import main

Output = pytest.CaptureFixture[str]
NAMES = [
    *("largest_difference", "mean_difference", "root_mean_square_error", "relative_l2_error", "psnr"),
    *("cosine_similarity", "structural_similarity", "wasserstein_distance"),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with x.npy, y.npy, x.f32 and x.hbz."""
    x = np.random.default_rng(3).normal(size=(12, 9, 10)).astype(np.float32).cumsum(0)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", x[::-1] + np.float32(1))
    x.tofile(tmp_path / "x.f32")
    hb.compress(x, tolerance=1e-2).save(tmp_path / "x.hbz")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def compare(output: Output, *argv: str) -> Any:
    assert main(["compare", *argv, "--json"]) == 0
    return json.loads(output.readouterr().out)


def test_every_kind_of_field(capsys: Output, folder: Path) -> None:
    x, y = (np.load(name).astype(float) for name in ("x.npy", "y.npy"))
    rms = float(np.sqrt(((y - x) ** 2).mean()))
    cases = [
        (["x.npy", "y.npy"], False),
        (["x.hbz", "y.npy"], False),
        (["x.f32", "y.npy", "--shape", "12,9,10"], False),
        (["x.npy", "y.npy", "--tolerance", "1e-2"], True),
        (["x.hbz", "y.npy", "--relative", "1e-3"], True),
    ]
    for argv, compressed in cases:
        found = compare(capsys, *argv)
        assert list(found) == ["arrays", "cells", "missing", "statistics", "ranks"]
        assert found["cells"] == x.size and found["missing"] == [0, 0]
        assert list(found["statistics"]) == NAMES
        error = found["statistics"]["root_mean_square_error"]
        assert abs(error["value"] - rms) <= error["error"] and list(error) == ["value", "error", "unavailable"]
        distance = found["statistics"]["wasserstein_distance"]
        assert (distance["unavailable"] is None) == compressed and (distance["value"] is not None) == compressed
        assert (found["arrays"][1]["payload_bytes"] is not None) == compressed


def test_a_field_and_what_it_decompresses_to(capsys: Output, folder: Path) -> None:
    largest = compare(capsys, "x.npy", "x.hbz")["statistics"]["largest_difference"]
    assert 0 < largest["value"] <= largest["error"] <= 1e-2 * (1 + 1e-9)
    assert main(["compare", "x.npy", "x.hbz"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "x.npy: 12 x 9 x 10 float32, not compressed"
    assert lines[3].split() == ["statistic", "value", "error", "at", "most"]
    titles = [line.split("  ")[0] for line in lines[5:13]]
    assert titles == [*(name.replace("_", " ").replace("psnr", "PSNR in dB") for name in NAMES)]
    assert lines[13].startswith("no wasserstein distance: expected two compressed arrays")


def test_missing_and_equal_values(capsys: Output, folder: Path) -> None:
    x = np.load("x.npy")
    x[3, 4, :5] = np.nan
    np.save("z.npy", x)
    found = compare(capsys, "z.npy", "x.hbz")
    assert found["missing"] == [5, 0] and found["cells"] == x.size - 5
    assert main(["compare", "z.npy", "x.npy"]) == 0
    text = capsys.readouterr().out
    assert "compared 1075 cells; 5 of A and 0 of B hold no finite number" in text and " inf " in text
    np.save("zeros.npy", np.zeros((3, 3)))
    found = compare(capsys, "zeros.npy", "zeros.npy")["statistics"]
    assert found["cosine_similarity"] == {"value": None, "error": None, "unavailable": "it has no value here"}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["x.npy", "missing.npy"], "no such file"),
        (["x.npy", "small.npy"], "one shape"),
        (["x.hbz", "small.npy"], "one shape"),
        (["x.npy", "complex.npy"], "integers or floats"),
    ],
)
def test_errors(capsys: Output, folder: Path, argv: list[str], message: str) -> None:
    np.save("small.npy", np.zeros((3, 3)))
    np.save("complex.npy", np.zeros((12, 9, 10), complex))
    assert main(["compare", *argv]) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and message in captured.err and captured.err.count("\n") == 1
