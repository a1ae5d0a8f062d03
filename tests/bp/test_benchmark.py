"""Parts of the benchmark that need no long run: other programs, folders, tables and pictures."""

from __future__ import annotations

import importlib.util
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpcblaz.bp import chain, infer, ising, potts
from hpcblaz.bp.benchmark_memory import measure_memory
from hpcblaz.bp.benchmark_peers import Peers
from hpcblaz.bp.benchmark_pictures import draw_convergence, draw_quality
from hpcblaz.bp.benchmark_quality import quality
from hpcblaz.bp.benchmark_rows import SCHEDULES, Case, Quality, Settings
from hpcblaz.cli.bp_bench_tables import tables
from hpcblaz.errors import ConfigurationError

PNG = b"\x89PNG\r\n\x1a\n"

# Answers as PGMax would, by a Python that has none: each model takes its number of edges in seconds, unless it is odd
FAKE = """#!{python}
import json, sys
import numpy as np
options = json.loads(sys.argv[3])
found = {{"version": "0", "seconds": [], "iterations": [], "marginals": [], "messages_per_second": 5.0}}
with np.load(sys.argv[2]) as file:
    for i in range(options["models"]):
        good = len(file[f"edges{{i}}"]) % 2 == 0
        assert len(file[f"log_tables{{i}}"]) == 4 * len(file[f"edges{{i}}"])
        found["seconds"].append(float(len(file[f"edges{{i}}"])) if good else None)
        found["iterations"].append(10 if good else None)
        found["marginals"].append([0.5] * len(file[f"log_unaries{{i}}"]) if good else None)
print(json.dumps(found))
"""


def fake(folder: Path, text: str) -> Path:
    path = folder / "python"
    path.write_text(text.format(python=sys.executable))
    path.chmod(0o755)
    return path


def test_another_program_is_asked_and_compared(tmp_path: Path) -> None:
    peers = Peers(Settings(pgmax=fake(tmp_path, FAKE)), tmp_path)
    assert peers.versions == {"PGMax": "0"}
    models = [chain(5, 2.0), chain(6, 2.0), chain(7, 2.0)]
    reference = [np.tile([0.25, 0.75], 5), None, None]
    cases = list(peers.cases("chains", models, reference))
    assert [case.who for case in cases] == ["PGMax", "PGMax, damping 0.5"]
    assert cases[0].times == [4.0, None, 6.0] and cases[0].converged == 2
    assert (cases[0].propagation_seconds, cases[0].iterations, cases[0].difference) == (5, 10, 0.25)
    assert [rate.messages_per_second for rate in peers.rates("chain", models[0])] == [5]


def test_a_program_that_fails_says_why(tmp_path: Path) -> None:
    python = fake(tmp_path, "#!{python}\nraise SystemExit('no module named pgmax')\n")
    with pytest.raises(ConfigurationError, match="no module named pgmax"):
        Peers(Settings(pgmax=python), tmp_path)


@pytest.mark.skipif(importlib.util.find_spec("pgmax") is None, reason="PGMax is not installed here")
def test_pgmax_finds_the_same_fixed_points(tmp_path: Path) -> None:
    peers = Peers(Settings(pgmax=Path(sys.executable)), tmp_path)
    models = [ising(5, 1.0, seed=0), ising(5, 1.0, seed=1), potts(3, 3, 1.0, seed=0).to_pairwise()]
    reference = [infer(model, tolerance=1e-8).marginals for model in models]
    for case in peers.cases("grids", models, reference):
        assert case.converged == 3 and case.difference is not None and case.difference < 1e-4


def test_a_folder_without_exact_answers_is_refused(tmp_path: Path) -> None:
    (tmp_path / "alone.uai").write_text("MARKOV\n1\n2\n0\n")
    with pytest.raises(ConfigurationError, match=r"NAME\.uai\.MAR"):
        list(quality(Settings(uai=tmp_path)))
    assert list(quality(Settings())) == []


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the system does not tell peaks of memory")
def test_memory_grows_with_the_model() -> None:
    row = measure_memory(150, "lbp")
    assert row is not None and row.message_states == 8 * 150 * 149
    assert 4 < row.bytes_a_state < 400


def rows() -> dict[str, Any]:
    case = Case("ising 9x9 C=2", "auto", 2, 3, 0.5, 0.25, 3.0, [0.25, None, 0.75])
    cases = [case, replace(case, who="lbp", converged=0, times=[None] * 3, seconds=None), replace(case, who="PGMax")]
    one = Quality("Grid_1", "Grid", "auto", "converged", 0.5, 3.0, 1e-5, 0.03, 0.1, 1.5)
    qualities = [replace(one, schedule=schedule, error=0.02) for schedule in SCHEDULES[1:]]
    qualities[0] = replace(qualities[0], status="iterations", log10_partition=None)
    return {
        "rates": [], "memory": [], "cases": [asdict(case) for case in cases],
        "quality": [asdict(row) for row in [one, *qualities]],
    }  # fmt: skip


def test_tables() -> None:
    found = dict(tables(rows()))
    errors = next(table for title, table in found.items() if title.startswith("Mean absolute error"))
    assert errors[1] == ["Grid_1", "0.03", "(0.02)", *["0.02"] * 5, "1.5"]
    partitions = next(table for title, table in found.items() if title.startswith("log10 Z"))
    assert partitions[1][:4] == ["Grid_1", "1.5", "", "1.5"]
    assert all(len(line) == len(table[0]) for table in found.values() for line in table)


def test_pictures(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    draw_convergence(rows()["cases"], tmp_path / "a.png")
    draw_quality(rows()["quality"], tmp_path / "b.png")
    assert all((tmp_path / name).read_bytes()[:8] == PNG for name in ("a.png", "b.png"))
    with pytest.raises(ConfigurationError, match="Ising"):
        draw_convergence([], tmp_path / "c.png")
    with pytest.raises(ConfigurationError, match="exact marginals"):
        draw_quality([], tmp_path / "c.png")
