"""``hpcblaz bp compare``: the measures of two files, as text, as JSON and as a picture."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hpcblaz.bp import write_assignment, write_log_partition, write_marginals
from hpcblaz.cli.main import main

Output = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_marginals("a.MAR", [0, 2, 4], [0.5, 0.5, 1.0, 0.0])
    write_marginals("b.MAR", [0, 2, 4], [0.25, 0.75, 0.0, 1.0])
    write_log_partition("a.PR", 2.302585092994046)
    write_log_partition("b.PR", 0.0)
    write_assignment("a.MAP", [0, 1, 1])
    write_assignment("b.MAP", [0, 0, 1])
    return tmp_path


def test_measures(capsys: Output, folder: Path) -> None:
    assert main(["bp", "compare", "a.MAR", "b.MAR", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["a"], found["b"], found["variables"]) == ("a.MAR", "b.MAR", 2)
    assert found["mean_absolute_difference"] == 0.625 and found["largest_at_variable"] == 1
    assert found["mean_kl"] is None and found["infinite_kl"] == 1
    assert found["of_each_variable"]["mean_absolute"] == [0.25, 1.0]
    assert main(["bp", "compare", "a.PR", "b.PR", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["log10_partition_difference"] == pytest.approx(1)
    assert main(["bp", "compare", "a.MAP", "b.MAP"]) == 0
    assert "states that differ         1\n" in capsys.readouterr().out


def test_the_picture(capsys: Output, folder: Path) -> None:
    pytest.importorskip("matplotlib")
    assert main(["bp", "compare", "a.MAR", "b.MAR", "--plot", "c.png"]) == 0
    assert "c.png" in capsys.readouterr().out and Path("c.png").read_bytes()[1:4] == b"PNG"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ("a.MAR b.PR", "the same question"),
        ("a.MAR none.MAR", "no such file"),
        ("a.PR b.PR --plot c.png", "expected marginals to draw"),
        ("a.MAR b.MAR --plot c.txt", "ends with"),
    ],
)
def test_refusals(capsys: Output, folder: Path, arguments: str, reason: str) -> None:
    assert main(["bp", "compare", *arguments.split()]) == 1
    said = capsys.readouterr().err
    assert said.startswith("hpcblaz: ") and reason in said and not Path("c.txt").exists()
