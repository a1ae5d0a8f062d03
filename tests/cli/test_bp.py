"""``hpcblaz bp``: models are generated, converted, described and solved, and files of others refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mpi.test_launch import launch

from hpcblaz.bp import (
    FactorGraph,
    exact,
    ising,
    read_assignment,
    read_log_partition,
    read_marginals,
    read_model,
    write_evidence,
    write_model,
)
from hpcblaz.cli.main import main

Output = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with grid.uai and its evidence."""
    monkeypatch.chdir(tmp_path)
    assert main(["bp", "generate", "ising", "--size", "5", "--coupling", "2", "--seed", "3", "-o", "grid.uai"]) == 0
    write_evidence("grid.evid", {0: 1, 24: 0})
    return tmp_path


def run(output: Output, *argv: str) -> Any:
    output.readouterr()
    assert main(["bp", *argv, "--json"]) == 0
    return json.loads(output.readouterr().out)


def test_generate(capsys: Output, folder: Path) -> None:
    found = read_model("grid.uai").to_pairwise()
    np.testing.assert_allclose(found.log_tables, ising(5, 2.0, seed=3).log_tables, atol=1e-14)
    np.save("image.npy", np.eye(4))
    np.save("right.npy", np.roll(np.eye(4), 1, 1))
    kinds = [
        ("potts --size 3,4 --states 3 --coupling 1", 12),
        ("chain --variables 7 --coupling 1", 7),
        ("tree --variables 9 --coupling 1 --states 4", 9),
        ("regular --variables 10 --degree 3 --coupling 1", 10),
        ("ldpc --bits 24 --channel flip --noise 0.05", 24),
        ("denoise image.npy --states 3 --smoothness linear", 16),
        ("stereo image.npy right.npy --disparities 2", 16),
    ]
    for arguments, variables in kinds:
        for name in ("m.uai", "m.fg.gz"):
            found = run(capsys, "generate", *arguments.split(), "-o", name)
            assert found["variables"] == variables == read_model(name).variables
            assert found["output"] == name and found["kind"] == arguments.split()[0]


def test_info(capsys: Output, folder: Path) -> None:
    found = run(capsys, "info", "grid.uai", "--cost")
    assert found == {
        "model": "grid.uai", "variables": 25, "factors": 65, "edges": 105, "largest_arity": 2, "least_states": 2,
        "most_states": 2, "largest_degree": 5, "table_entries": 210, "zero_entries": 0,
        "cost": found["cost"],
    }  # fmt: skip
    assert found["cost"]["width"] == 5 and found["cost"]["log2_largest_table"] == 6
    assert run(capsys, "info", "grid.uai", "--evidence", "grid.evid")["zero_entries"] > 0
    assert main(["bp", "info", "grid.uai", "--cost"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "variables                  25" in lines and "cost width                 5" in lines


def test_convert(capsys: Output, folder: Path) -> None:
    for name in ("a.fg", "b.txt", "c.uai.xz"):
        assert run(capsys, "convert", "grid.uai", name)["output"] == name
        states = np.arange(25) % 2
        np.testing.assert_allclose(read_model(name).score(states), read_model("grid.uai").score(states))
    run(capsys, "convert", "grid.uai", "seen.uai", "--evidence", "grid.evid")
    assert np.isneginf(read_model("seen.uai").score(np.zeros(25, int)))


def test_exact(capsys: Output, folder: Path) -> None:
    model = read_model("grid.uai")
    solution = exact(model, evidence={0: 1, 24: 0})
    with_evidence = ["grid.uai", "--evidence", "grid.evid"]
    found = run(capsys, "exact", *with_evidence)
    assert list(found) == [
        "model", "task", "evidence", "cost", "seconds", "output", "log_partition", "log10_partition", "marginals"
    ]  # fmt: skip
    assert found["evidence"] == 2 and found["log_partition"] == pytest.approx(solution.log_partition)
    np.testing.assert_allclose(np.concatenate(found["marginals"]), solution.marginals)
    assert "marginals" not in run(capsys, "exact", *with_evidence, "-o", "grid.MAR")
    np.testing.assert_allclose(read_marginals("grid.MAR")[1], solution.marginals)
    found = run(capsys, "exact", *with_evidence, "--task", "MAP", "-o", "grid.MAP")
    assert found["score"] == model.score(read_assignment("grid.MAP"))
    assert len(run(capsys, "exact", *with_evidence, "--task", "MAP")["assignment"]) == 25
    capsys.readouterr()
    assert main(["bp", "exact", *with_evidence, "--task", "PR"]) == 0
    printed = capsys.readouterr()
    Path("grid.PR").write_text(printed.out)
    assert read_log_partition("grid.PR") == pytest.approx(solution.log_partition)
    assert printed.err.startswith("hpcblaz: 2^") and printed.err.count("\n") == 1
    assert main(["bp", "exact", *with_evidence, "-o", "again.MAR"]) == 0
    assert Path("again.MAR").read_text() == Path("grid.MAR").read_text()
    assert "log10 partition" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("info none.uai", "no such file"),
        ("info grid.evid", "entries|expected"),
        ("convert grid.uai grid.json", "ends with .uai"),
        ("convert none.uai grid.json", "ends with .uai"),
        ("generate ising --size 5,5,5 --coupling 1 -o g.uai", "rows and columns"),
        ("generate chain --variables 0 --coupling 1 -o g.uai", "positive integer"),
        ("generate denoise none.npy -o g.uai", "no such file"),
        ("exact grid.uai --memory 0", "positive"),
        ("exact grid.uai --memory 0.001", "raise the limit"),
        ("exact grid.uai --evidence bad.evid", "state from 0 to 1"),
    ],
)
def test_errors_are_one_line(capsys: Output, folder: Path, arguments: str, words: str) -> None:
    write_evidence("bad.evid", {3: 7})
    capsys.readouterr()
    assert main(["bp", *arguments.split()]) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("hpcblaz: ") and any(word in error for word in words.split("|"))
    assert not Path("g.uai").exists()


def test_a_contradiction_is_an_error(capsys: Output, folder: Path) -> None:
    write_model("never.uai", FactorGraph.from_tables([2], [([0], [0, 0])]))
    assert main(["bp", "exact", "never.uai"]) == 1
    assert "variable 0 are impossible" in capsys.readouterr().err
    assert run(capsys, "exact", "never.uai", "--task", "PR")["log_partition"] is None


def test_on_several_ranks(folder: Path) -> None:
    command = ["-m", "hpcblaz.cli.main", "bp", "exact", str(folder / "grid.uai"), "--json", "--task", "PR"]
    status, output = launch(3, command, 300)
    assert status == 0 and json.loads(output)["log_partition"] == pytest.approx(exact(ising(5, 2.0, 3)).log_partition)
    status, output = launch(2, [*command[:4], str(folder / "none.uai")], 300)
    assert status == 1 and output.count("no such file") == 1
