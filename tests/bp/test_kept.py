"""Plans that are kept with small models."""

from dataclasses import replace

import numpy as np
import pytest

from hpcblaz.bp import FactorGraph, infer, ising, potts
from hpcblaz.bp.kept import prepare_once
from hpcblaz.errors import ModelError


def test_a_second_inference_takes_the_plan_of_the_first_and_finds_the_same() -> None:
    for model in (ising(4, 1.0), potts(3, 3, 1.0), potts(3, 3, 1.0).to_factor_graph()):
        first, second = infer(model), infer(model)
        assert second.prepared.plan.numbers is first.prepared.plan.numbers
        np.testing.assert_array_equal(second.messages, first.messages)


def test_plans_of_each_precision_are_kept() -> None:
    model = ising(3, 1.0)
    assert [infer(model, precision=kind).precision for kind in ("float32", "float64", "float32")] == [
        "float32",
        "float64",
        "float32",
    ]


def test_a_model_whose_arrays_were_written_to_is_prepared_again() -> None:
    model = ising(3, 1.0)
    infer(model)
    model.log_unaries[0] += 2.0
    fresh = replace(model, log_unaries=model.log_unaries.copy())
    np.testing.assert_array_equal(infer(model).beliefs, infer(fresh).beliefs)


def test_a_contradiction_is_found_every_time_and_does_not_stay() -> None:
    model = FactorGraph.from_tables([3, 3], [([0, 1], np.eye(3)), ([0], [1, 0, 0]), ([1], [0, 1, 0])])
    for _ in range(2):
        with pytest.raises(ModelError, match="impossible"):
            infer(model)
    assert not prepare_once(model, "float32").plan.model[-1].any()


def test_large_models_keep_nothing() -> None:
    model = ising(200, 0.1)
    infer(model, max_iterations=1)
    assert not model.kept
