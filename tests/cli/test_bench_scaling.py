"""The benchmark of weak scaling, on two ranks."""

from __future__ import annotations

import argparse
import copy
import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from hpcblaz.cli import bench, bench_scaling
from hpcblaz.cli.console import Console
from hpcblaz.errors import CommunicatorError, ConfigurationError
from hpcblaz.fields import scaling_benchmark
from hpcblaz.mpi import SerialCommunicator
from hpcblaz.mpi.spawn import find_mpirun


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    bench.register(parser.add_subparsers())
    return parser.parse_args(["bench", "scaling", *arguments])


@pytest.fixture
def _mpirun() -> None:
    try:
        find_mpirun()
    except CommunicatorError as error:
        pytest.skip(str(error))
    if importlib.util.find_spec("mpi4py") is None:
        pytest.skip("no mpi4py: pip install 'hpcblaz[mpich]'")


@pytest.mark.usefixtures("_mpirun")
def test_the_verb_measures_two_ranks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("matplotlib")
    found, drawn = tmp_path / "scaling.json", tmp_path / "scaling.png"
    assert bench.run(parse("--quick", "--ranks", "2", "--json", str(found), "--plot", str(drawn))) == 0
    out = capsys.readouterr().out
    assert "QUICK TRIAL, 32^3 cells" in out and "all within a relative 1e-12" in out
    assert drawn.read_bytes().startswith(b"\x89PNG")
    document = json.loads(found.read_text())
    assert [one["ranks"] for one in document["runs"]] == [1, 2]
    one, two = (one["operations"] for one in document["runs"])
    assert list(one) == list(two) == list(document["differences"])
    assert len(one) >= 11 and all(name in out for name in one)
    for name in one:
        assert one[name]["bytes_sent"] == one[name]["in_mpi"] == 0
        assert two[name]["bytes_sent"] > 0 and 0 < two[name]["in_mpi"] < 1
        assert one[name]["seconds"] > 0 and two[name]["seconds"] > 0
        assert all(apart is not None and apart <= 1e-12 for apart in document["differences"][name])


def made_up(ranks: int, mean: float, fields: str) -> dict[str, Any]:
    costs = {"seconds": 0.1 * ranks, "computing": 0.1, "in_mpi": 0.5, "bytes_sent": 8.0}
    return {
        "ranks": ranks,
        "operations": {"mean": costs, "compress": costs},
        "answers": {"mean": mean, "compress": fields},
    }


def test_answers_that_differ_are_named(capsys: pytest.CaptureFixture[str]) -> None:
    runs = [made_up(1, 1.0, "a"), made_up(2, 1.0 + 1e-9, "a"), made_up(8, 1.0, "b")]
    assert bench_scaling.differences(runs)["compress"] == [0.0, 0.0, None]
    settings = {"quick": False, "side": 128, "cores": 2}
    bench_scaling._print(Console(SerialCommunicator()), copy.deepcopy(runs), settings)
    out = capsys.readouterr().out
    assert "MORE THAN 1e-12 APART are mean, compress." in out and "OTHER BITS" in out and "1.0e-09" in out
    assert "8 ranks share 2 cores" in out and "efficiencies at most 25%" in out and "2 ranks share" not in out


def test_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scaling_benchmark, "run", lambda *arguments: pytest.fail("measured"))
    with pytest.raises(ConfigurationError, match="at least 1, got 0"):
        bench.run(parse("--ranks", "0,2"))
    for option in (["--gpu"], ["--threads", "2"]):
        with pytest.raises(ConfigurationError, match=f"without {option[0]}"):
            bench.run(parse(*option))


@pytest.mark.usefixtures("_mpirun")
def test_ranks_that_fail_are_an_error() -> None:
    with pytest.raises(CommunicatorError, match=r"(?s)expected 1 ranks to run, got exit status .*LayoutError"):
        scaling_benchmark.run(1, -1, 1)
