"""Models of the UAI 2014 competition, where they are there: answers near the exact ones, and none that is no answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hpcblaz.bp import infer, read_evidence, read_log_partition, read_marginals, read_model

# The mean absolute error of a probability that is not exceeded: other implementations find the same fixed points
ERRORS = {
    "Alchemy_11": 2e-4,
    "CSP_11": 0.022,
    "CSP_12": 0.02,
    "ObjectDetection_11": 0.0025,
    "ObjectDetection_12": 0.0024,
    "Pedigree_11": 0.019,
    "Promedus_11": 0.036,
    "Promedus_24": 6e-4,
    "Segmentation_11": 0.019,
    "Segmentation_15": 4e-5,
    "linkage_11": 0.005,
    "linkage_16": 0.084,  # of several fixed points: rounding decides which one is found
}


@pytest.mark.parametrize("name", ERRORS)
def test_marginals(name: str, data_directory: Path) -> None:
    path = data_directory / "uai" / "uai2014" / f"{name}.uai"
    evidence = read_evidence(f"{path}.evid")
    offsets, exact = read_marginals(f"{path}.MAR")
    result = infer(read_model(path).clamp(evidence))
    assert result.converged
    assert (result.offsets == offsets).all()
    by_variable = np.add.reduceat(abs(result.marginals - exact), offsets[:-1]) / np.diff(offsets)
    assert by_variable.mean() <= ERRORS[name]
    if Path(f"{path}.PR").exists():
        assert abs(result.log_partition - read_log_partition(f"{path}.PR")) < 7


def test_hard_grids_do_not_pretend(data_directory: Path) -> None:
    path = data_directory / "uai" / "uai2014" / "Grids_12.uai"
    result = infer(read_model(path), max_iterations=300)
    assert result.status == "iterations" and result.residual > 1e-4


@pytest.mark.parametrize("name", ["pdb1msc", "pdb2cbp", "pdb2mcm"])
def test_proteins_have_the_same_answers_by_any_schedule(name: str, data_directory: Path) -> None:
    model = read_model(data_directory / "uai" / "protein" / f"{name}.uai")
    results = [infer(model, schedule, tolerance=1e-8) for schedule in ("auto", "sweep", "queue")]
    assert all(result.converged for result in results)
    for result in results[1:]:
        np.testing.assert_allclose(result.marginals, results[0].marginals, atol=1e-4)
