"""Graphs dealt out: all parts about as heavy, few edges cut, the same every time; and what the command line says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bp_models import factor_graphs
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcblaz.bp import FactorGraph, ising, partition, random_regular, report_partition, tree, write_model
from hpcblaz.bp.partition import grid_splits, partition_graph
from hpcblaz.bp.scaling_benchmark import Model, fit, measure
from hpcblaz.cli.main import main
from hpcblaz.errors import ConfigurationError


@pytest.mark.parametrize("parts", [2, 3, 4, 7])
def test_parts_are_even_and_cuts_short(parts: int) -> None:
    """No cut of a square grid into p parts is shorter than about side * sqrt(p)."""
    model = ising(48, 1.0)
    owners = partition(model, parts, "bisection")
    report = report_partition(model, owners, parts)
    assert sorted(set(owners.tolist())) == list(range(parts))
    assert report.balance < 1.08
    assert report.cut <= 1.5 * 48 * (parts - 1) ** 0.75
    assert sum(report.halo) == 2 * report.cut
    np.testing.assert_array_equal(owners, partition(model, parts, "bisection"))


def test_trees_and_random_graphs_are_cut_well() -> None:
    model = tree(2000, 1.0)
    assert report_partition(model, partition(model, 4, "bisection"), 4).cut <= 40
    model = random_regular(600, 3, 1.0)
    cuts = [report_partition(model, partition(model, 2, method), 2).cut for method in ("bisection", "blocks")]
    assert cuts[0] < 0.35 * cuts[1]


def test_metis_if_it_is_there() -> None:
    pytest.importorskip("pymetis", reason="pymetis is not installed: pip install 'hpcblaz[metis]'")
    model = ising(48, 1.0)
    report = report_partition(model, partition(model, 4, "metis"), 4)
    assert report.balance < 1.1 and report.cut <= 1.5 * 48 * 3**0.75


@settings(max_examples=60)
@given(factor_graphs(), st.integers(1, 5), st.sampled_from(["bisection", "blocks"]))
def test_everything_goes_somewhere(model: FactorGraph, parts: int, method: str) -> None:
    owners = partition(model, parts, method)
    assert owners.shape == ((model.factors if model.arity > 2 else model.variables),)
    assert ((owners >= 0) & (owners < parts)).all()
    report = report_partition(model, owners, parts)
    assert report.balance >= 1 and len(report.halo) == parts and report.cut <= report.edges
    if parts == 1:
        assert (report.cut, report.halo, report.neighbours) == (0, (0,), (0,))


def test_heavy_vertices_are_balanced() -> None:
    edges = np.stack([np.arange(99), np.arange(1, 100)], axis=1)
    weights = np.ones(100, np.int64)
    weights[0] = 99
    owners = partition_graph(edges, weights, 2, "bisection")
    assert abs(weights[owners == 0].sum() - weights[owners == 1].sum()) <= 4


def test_grids_are_cut_into_blocks() -> None:
    assert grid_splits(100, 100, 6) in ((2, 3), (3, 2))
    assert grid_splits(1, 100, 5) == (1, 5)


def test_refusals() -> None:
    model = ising(3, 1.0)
    for bad in ({"parts": 0}, {"parts": 2, "method": "magic"}):
        with pytest.raises(ConfigurationError):
            partition(model, **bad)  # type: ignore[arg-type]


def test_the_command_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = str(tmp_path / "grid.uai")
    write_model(path, ising(12, 1.0))
    assert main(["bp", "partition", path, "--parts", "3", "--method", "bisection", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["parts"] == 3 and len(found["halo"]) == 3 and 0 < found["cut"] <= 40
    assert main(["bp", "partition", path, "--parts", "0"]) == 1
    assert "parts" in capsys.readouterr().err


def test_inference_with_options_of_ranks(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """On one rank: a generated grid, a checkpoint that is gone on with, and a store."""
    zarr = pytest.importorskip("zarr", reason="zarr is not installed: pip install 'hpcblaz[io]'")
    made = ["bp", "infer", "--generate", "ising", "--size", "8,9", "--coupling", "2", "--schedule", "lbp", "--json"]
    kept, store = str(tmp_path / "kept"), str(tmp_path / "out.zarr")
    assert main([*made, "--max-iterations", "4", "--checkpoint", kept]) == 0
    assert json.loads(capsys.readouterr().out)["iterations"] == 4
    assert main([*made, "--time-limit", "1e-9", "--checkpoint", kept]) == 75
    assert "the same command continues" in capsys.readouterr().err
    assert main([*made, "--checkpoint", kept, "-o", store]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert "continuing after 5 iterations" in said.err and found["status"] == "converged"
    assert not Path(kept).exists()
    assert zarr.open_group(store, mode="r")["marginals"].shape == (72, 2)
    assert main([*made, "--task", "MAP"]) == 0
    assert len(json.loads(capsys.readouterr().out)["assignment"]) == 72
    wrong: list[list[str]] = [["M.uai"], ["--restart"], ["--evidence", "E"], ["--local-sweeps", "0"]]
    for more in wrong:
        assert main([*made, *more]) == 1
    assert main(["bp", "infer"]) == 1 and main(["bp", "infer", "--generate", "ising", "--size", "3"]) == 1


def test_scaling_is_measured_and_fitted() -> None:
    runs: list[dict[str, Any]] = [measure(ranks, (12, 10), "lbp", 4, 1) for ranks in (1, 2)]
    assert runs[0]["log_partition"] == pytest.approx(runs[1]["log_partition"], rel=1e-12)
    assert [one["messages"] for one in runs] == [436, 436] and runs[1]["neighbours"] == 1
    assert runs[1]["bytes_sent"] > 0 == runs[0]["bytes_sent"]
    truth = Model(2e-9, 3e-5, 4e-10)
    made: list[dict[str, Any]] = [
        {"ranks": r, "size": [n, n], "seconds": truth.seconds((n, n), r)} for n in (50, 900) for r in (1, 2, 3, 4)
    ]
    for one in made:
        one["in_mpi"] = truth.waiting(tuple(one["size"]), one["ranks"]) / one["seconds"]
    found = fit(made, 4)
    for name, value in vars(truth).items():
        assert getattr(found, name) == pytest.approx(value, rel=1e-6)
