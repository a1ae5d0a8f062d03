"""``hpcblaz bp bench``: what it measures, writes and refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from hpcblaz.bp import chain, exact, ising, write_evidence, write_log_partition, write_marginals, write_model
from hpcblaz.bp.benchmark_rows import SCHEDULES
from hpcblaz.cli.main import main

Output = pytest.CaptureFixture[str]

PROGRAM = r"""
#include <cstdio>
#include <cstring>
int main(int count, char** words) {  // says that all converged but for those of LBP, and that all is even
    for (int i = 5; i < count; i++) {
        std::printf("cpp-%s %s conv=%d time=0.25\n", words[1], words[i], std::strcmp(words[1], "sync") != 0);
        char name[200];
        std::snprintf(name, sizeof name, "data/%s.mrf", words[i]);
        int variables = 0;
        FILE* file = std::fopen(name, "r");
        if (!file || std::fscanf(file, "%d", &variables) != 1) return 1;
        std::snprintf(name, sizeof name, "%s/%s.marg", words[4], words[i]);
        file = std::fopen(name, "w");
        for (int v = 0; v < variables; v++) std::fprintf(file, "0.5 0.5\n");
        std::fclose(file);
    }
}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with two exactly solved models in `uai` and one in `protein`."""
    monkeypatch.chdir(tmp_path)
    for name in ("uai", "protein", "empty"):
        Path(name).mkdir()
    write_model("protein/chain.uai", chain(5, 1.0, seed=2))
    for number, model in enumerate([ising(4, 1.0, seed=0), chain(6, 2.0, seed=1)]):
        path = f"uai/Small_{number}.uai"
        solution = exact(model, evidence={0: 1})
        write_model(path, model)
        write_evidence(f"{path}.evid", {0: 1})
        write_marginals(f"{path}.MAR", solution.offsets, solution.marginals)
        write_log_partition(f"{path}.PR", solution.log_partition)
    return tmp_path


def test_what_is_measured(capsys: Output, folder: Path) -> None:
    pytest.importorskip("matplotlib")
    compiler = shutil.which("c++") or shutil.which("g++")
    Path("program.cpp").write_text(PROGRAM)
    program = ["--baseline", "program.cpp"] if compiler else []
    files = ["--json", "bp.json", "--report", "bp.md", "--plot", "."]
    assert main(["bp", "bench", "--quick", *program, "--protein", "protein", "--uai", "uai", *files]) == 0
    said = capsys.readouterr().out
    found = json.loads(Path("bp.json").read_text())
    assert all(rate["messages_per_second"] > 0 for rate in found["rates"])
    assert all(row["message_states"] == 4 * 2 * 60 * 59 and row["bytes_a_state"] > 4 for row in found["memory"])
    cases = {(case["models"], case["who"]): case for case in found["cases"]}
    sets = dict.fromkeys(models for models, _ in cases)
    assert len(sets) == 5
    for models in sets:
        auto = cases[models, "auto"]
        assert auto["converged"] == auto["of"] == len(auto["times"]) and None not in auto["times"]
        assert cases[models, "sweep"]["difference"] < 0.01
    if program:
        case = cases["ising 20x20 C=2", "C++ sweep"]
        assert (case["converged"], case["propagation_seconds"], case["times"]) == (2, 0.25, [0.25, 0.25])
        assert case["difference"] > 0.1  # its marginals are all even
        assert cases["ising 20x20 C=2", "C++ LBP"]["converged"] == 0 and "program.cpp" in found["peers"]["C++"]
    assert [(row["model"], row["schedule"]) for row in found["quality"]] == [
        (f"Small_{number}", schedule) for number in (1, 0) for schedule in SCHEDULES
    ]
    for row in found["quality"]:
        assert row["family"] == "Small" and row["status"] == "converged"
        exactly = row["model"] == "Small_1"  # a chain
        assert row["error"] < (1e-4 if exactly else 0.05) and abs(row["log10_partition"]) < (1e-4 if exactly else 0.1)
    report = Path("bp.md").read_text()
    assert "Families" in said and "| Small | 2 |" in report and "### Millions of messages a second" in report
    for name in ("bp_schedules.png", "bp_quality.png"):
        data = Path(name).read_bytes()
        assert data[1:4] == b"PNG" and len(data) < 100_000


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("--baseline none.cpp", "expected a file for --baseline, got none.cpp"),
        ("--pgmax none", "expected a file for --pgmax, got none"),
        ("--pgmax program.cpp", "--pgmax, got program.cpp"),
        ("--uai none", "expected a folder for --uai, got none"),
        ("--json no/such.json", "make"),
        ("--time-limit 0", "positive"),
    ],
)
def test_refusals_come_before_the_work(capsys: Output, folder: Path, options: str, reason: str) -> None:
    Path("program.cpp").write_text("int main() { return nothing; }")
    assert main(["bp", "bench", "--quick", *options.split()]) == 1
    said = capsys.readouterr().err
    assert said.startswith("hpcblaz: ") and reason in said


@pytest.mark.skipif(not (shutil.which("c++") or shutil.which("g++")), reason="no C++ compiler")
def test_a_program_that_does_not_compile(capsys: Output, folder: Path) -> None:
    Path("broken.cpp").write_text("int main() { return nothing; }")
    assert main(["bp", "bench", "--quick", "--baseline", "broken.cpp"]) == 1
    assert "broken.cpp" in capsys.readouterr().err
