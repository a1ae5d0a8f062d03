"""The demonstration, small."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from hpcblaz.cli import demo
from hpcblaz.cli.main import main
from hpcblaz.mpi import Layout, SerialCommunicator


def test_the_demonstration(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("netCDF4")
    pytest.importorskip("iris_sample_data")
    pytest.importorskip("matplotlib")
    picture = tmp_path / "demo.png"
    assert main(["demo", "--size", "24", "--output", str(picture), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["holds"] and found["missing"] == [] and found["picture"] == str(picture)
    assert picture.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert [field["shape"] for field in found["fields"]] == [[240, 37, 49], [24, 24, 24]]
    for field in found["fields"]:
        assert 0 < field["largest_error"] <= field["tolerance"] and field["ratio"] > 2
        assert list(field["statistics"]) == ["mean", "variance", "norm", "dot", "cosine"]
        for answer in field["statistics"].values():
            assert answer["true_error"] <= answer["bound"]
    assert main(["demo", "--size", "24", "--output", str(picture)]) == 0
    text = capsys.readouterr().out
    assert "All 10 answers lie within their bounds" in text and "total time" in text


def test_it_goes_on_without_optional_packages(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("netCDF4", "matplotlib.figure"):
        monkeypatch.setitem(sys.modules, name, None)
    picture = tmp_path / "demo.png"
    assert main(["demo", "--size", "20", "--output", str(picture)]) == 0
    text = capsys.readouterr().out
    assert "left out: the picture needs matplotlib: pip install 'hpcblaz[plot]'" in text
    assert "hpcblaz[data]" in text and "All 5 answers" in text
    assert not picture.exists()


def test_a_violated_bound_is_reported(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    truth = demo._truth
    monkeypatch.setattr(demo, "_truth", lambda *arguments: {**truth(*arguments), "norm": -1.0})
    assert main(["demo", "--size", "20"]) == 1
    assert "NOT every answer" in capsys.readouterr().out


@pytest.mark.parametrize("size", [1, 2, 6, 30])
def test_the_synthetic_field_does_not_depend_on_the_ranks(size: int) -> None:
    whole = demo._sines(SerialCommunicator(), 20).values
    assert whole.shape == (20, 20, 20) and whole.dtype == np.float32
    for rank in range(size):
        layout = Layout((20, 20, 20), rank=rank, size=size)
        rows = range(layout.slices[0].start, layout.slices[0].stop)
        part = demo._part_of_sines(20, rows, layout.slices[1:])
        np.testing.assert_array_equal(part, whole[layout.slices])
