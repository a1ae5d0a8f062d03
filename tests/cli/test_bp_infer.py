"""``hpcblaz bp infer``: answers from files, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpcblaz.bp import (
    chain,
    exact,
    infer,
    ising,
    read_assignment,
    read_log_partition,
    read_marginals,
    write_evidence,
    write_model,
)
from hpcblaz.cli.main import main

Output = pytest.CaptureFixture[str]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_model("chain.uai", chain(12, 2.0, seed=1))
    write_evidence("chain.evid", {0: 1, 7: 0})
    return tmp_path


def run(output: Output, *argv: str) -> Any:
    output.readouterr()
    assert main(["bp", *argv, "--json"]) == 0
    return json.loads(output.readouterr().out)


def test_answers_of_a_chain_are_exact(capsys: Output, folder: Path) -> None:
    options = ["infer", "chain.uai", "--evidence", "chain.evid", "--tolerance", "1e-10", "--precision", "float64"]
    solution = exact(chain(12, 2.0, seed=1), evidence={0: 1, 7: 0})
    found = run(capsys, *options)
    assert (found["status"], found["schedule"], found["evidence"], found["output"]) == ("converged", "auto", 2, None)
    np.testing.assert_allclose(np.concatenate(found["marginals"]), solution.marginals, atol=1e-9)
    assert found["log_partition"] == pytest.approx(solution.log_partition, abs=1e-9)
    assert main(["bp", *options, "-o", "out.MAR", "--schedule", "queue"]) == 0
    assert "converged" in capsys.readouterr().out
    offsets, marginals = read_marginals("out.MAR")
    assert offsets.tolist() == list(range(0, 25, 2))
    np.testing.assert_allclose(marginals, solution.marginals, atol=1e-9)
    run(capsys, *options, "--task", "PR", "-o", "out.PR")
    assert read_log_partition("out.PR") == pytest.approx(solution.log_partition, abs=1e-9)
    found = run(capsys, *options, "--task", "MAP", "-o", "out.MAP")
    best = exact(chain(12, 2.0, seed=1), "map", evidence={0: 1, 7: 0})
    assert found["score"] == pytest.approx(best.score, abs=1e-9) and "assignment" not in found
    assert best.assignment is not None
    assert read_assignment("out.MAP").tolist() == best.assignment.tolist()


def test_the_standard_output_is_the_solution(capsys: Output, folder: Path) -> None:
    write_model("grid.uai", ising(6, 9.0, seed=0))
    assert main(["bp", "infer", "grid.uai", "--schedule", "lbp", "--max-iterations", "5"]) == 0
    said = capsys.readouterr()
    Path("said.MAR").write_text(said.out)
    expected = infer(ising(6, 9.0, seed=0), "lbp", max_iterations=5)
    np.testing.assert_allclose(read_marginals("said.MAR")[1], expected.marginals, atol=1e-6)
    assert "not converged after 5 iterations" in said.err


def test_several_samples_are_answered_one_by_one(capsys: Output, folder: Path) -> None:
    write_evidence("samples.evid", [{0: 1, 7: 0}, {3: 1}])
    options = ["infer", "chain.uai", "--evidence", "samples.evid", "--tolerance", "1e-10", "--precision", "float64"]
    solutions = [exact(chain(12, 2.0, seed=1), evidence=sample) for sample in ({0: 1, 7: 0}, {3: 1})]
    found = run(capsys, *options)
    assert (found["samples"], found["samples_converged"]) == (2, 2)
    for row, solution in zip(found["of_each_sample"], solutions, strict=True):
        np.testing.assert_allclose(np.concatenate(row["marginals"]), solution.marginals, atol=1e-9)
    assert main(["bp", *options, "--task", "PR"]) == 0
    word, count, *values = capsys.readouterr().out.split()
    assert (word, count) == ("PR", "2")
    expected = [solution.log_partition / np.log(10) for solution in solutions]
    assert [float(value) for value in values] == pytest.approx(expected, abs=1e-9)
    assert main(["bp", *options, "-o", "out.MAR"]) == 0
    assert "samples converged          2\n" in capsys.readouterr().out
    word, count, *lines = Path("out.MAR").read_text().splitlines()
    assert (word, count) == ("MAR", "2") and [line.split()[0] for line in lines] == ["12", "12"]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["chain.uai", "--damping", "1"], "damping"),
        (["chain.uai", "--time-limit", "0"], "time_limit"),
        (["none.uai"], "none.uai"),
        (["chain.uai", "-o", "no/such/folder.MAR"], "no/such"),
    ],
)
def test_refusals(capsys: Output, folder: Path, arguments: list[str], reason: str) -> None:
    assert main(["bp", "infer", *arguments]) == 1
    said = capsys.readouterr().err
    assert said.startswith("hpcblaz: ") and reason in said and "Traceback" not in said
