"""``hpcblaz plot``: pictures of every kind of field are drawn, and what cannot be drawn is refused."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hpcblaz as hb
from hpcblaz.cli.main import main
from hpcblaz.cli.plot import index

pytest.importorskip("matplotlib")
Output = pytest.CaptureFixture[str]
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with x.npy, x.hbz and y.npy, in which cells are missing."""
    x = np.random.default_rng(3).normal(size=(12, 30, 20)).astype(np.float32).cumsum(1)
    np.save(tmp_path / "x.npy", x)
    attributes = {"units": "K", "dims": ["time", "y", "x"], "long_name": "air_temperature"}
    hb.compress(x, tolerance=1e-2).save(tmp_path / "x.hbz", attributes=attributes)
    x[:, 3:6, 8:15] = np.nan
    np.save(tmp_path / "y.npy", x)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def plot(output: Output, *argv: str) -> Any:
    picture = Path("picture.png")
    picture.unlink(missing_ok=True)
    assert main(["plot", *argv, "-o", str(picture), "--json"]) == 0
    found = json.loads(output.readouterr().out)
    assert found["picture"] == "picture.png" and picture.read_bytes()[:8] == PNG
    return found


def test_fields(capsys: Output, folder: Path) -> None:
    assert plot(capsys, "x.hbz") == {"picture": "picture.png", "fields": ["x.hbz"], "slice": "time: 6 of 12"}
    assert plot(capsys, "y.npy", "--slice", "1,:,:")["slice"] == "axis 0: 1 of 12"
    assert plot(capsys, "x.npy", "--slice=-1,::-1,3")["slice"] == "axis 0: 11 of 12, axis 2: 3 of 20"
    found = plot(capsys, "x.npy", "--tolerance", "0.1")
    assert found["fields"] == ["x.npy", "compressed"]
    assert 0 < found["statistics"]["largest_difference"]["value"] <= 0.1
    for other in ("x.npy", "y.npy", "x.hbz"):
        assert plot(capsys, "y.npy", "--compare", other)["fields"] == ["y.npy", other]
    assert plot(capsys, "y.npy", "--compare", "x.hbz", "--slice", "0,:,10")["slice"] == "time: 0 of 12, x: 10 of 20"
    assert main(["stats", "x.hbz", "--plot", "stats.png"]) == 0
    assert main(["stats", "x.hbz", "x.npy", "--tolerance", "0.1", "--plot", "stats.svg"]) == 0
    assert Path("stats.png").read_bytes()[:8] == PNG and b"<svg" in Path("stats.svg").read_bytes()


@pytest.mark.parametrize(
    "x",
    [
        np.full((8, 9), 3.0),
        np.zeros((2, 3)),
        np.full((8, 9), np.nan),
        np.array([[1, np.inf, 3, 5]] * 6),
        np.array([5.0]),
        np.arange(6000.0),
        np.full(70, 1e-300),
        np.arange(24, dtype=np.uint8).reshape(2, 3, 4, 1),
        np.random.default_rng(0).normal(size=(50, 60)) * 1e300,
    ],
    ids=["constant", "small", "missing", "infinite", "one", "line", "tiny", "four axes", "huge"],
)
def test_odd_fields(capsys: Output, folder: Path, x: Any) -> None:
    np.save("odd.npy", x)
    plot(capsys, "odd.npy")
    plot(capsys, "odd.npy", "--compare", "odd.npy")


def test_rate_distortion(capsys: Output, folder: Path) -> None:
    for name in ("x.npy", "x.hbz"):
        found = plot(capsys, name, "--rate-distortion")
        assert found["shape"] == [12, 30, 20] and "hpcblaz" in found["curves"]
        assert list(found["curves"]["hpcblaz"][0]) == ["tolerance", "bits", "largest", "psnr"]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3,:,10:20", (3, slice(None), slice(10, 20))),
        ("-1,::-2,5:", (-1, slice(None, None, -2), slice(5, None))),
        (":", (slice(None),)),
    ],
)
def test_an_index(text: str, value: Any) -> None:
    assert index(text) == value


@pytest.mark.parametrize("text", ["", "a", "1,,2", "1:2:3:4", "::0"])
def test_what_is_no_index(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="expected integers"):
        index(text)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["missing.npy"], "no such file"),
        (["x.npy", "--slice", "0,0,0"], "one or two of them"),
        (["x.npy", "--slice", "99,:,:"], "from -12 to 11"),
        (["x.npy", "--compare", "small.npy"], "one shape"),
        (["x.npy", "-o", "picture.txt"], "named .png"),
        (["x.npy", "-o", "nowhere/picture.png"], "no such file or folder"),
        (["x.npy", "--rate-distortion", "--compare", "x.hbz"], "alone"),
        (["constant.npy", "--rate-distortion"], "range"),
        (["empty.npy"], "cells and axes"),
    ],
)
def test_errors(capsys: Output, folder: Path, argv: list[str], message: str) -> None:
    np.save("small.npy", np.zeros((3, 3)))
    np.save("constant.npy", np.ones((3, 3)))
    np.save("empty.npy", np.ones((0, 3)))
    assert main(["plot", *argv]) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and message in captured.err and captured.err.count("\n") == 1


def test_without_matplotlib(capsys: Output, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert main(["plot", "x.npy"]) == 1
    assert capsys.readouterr().err == "hpcblaz: hpcblaz plot needs matplotlib: pip install 'hpcblaz[plot]'\n"
