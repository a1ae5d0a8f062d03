"""What a model, its plan and its messages take: 40 bytes for each state of a message, or fewer."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from hpcblaz.backend.messages import Propagation
from hpcblaz.bp import PairwiseModel, grid_edges, ising
from hpcblaz.bp.plans import prepare


def arrays_of(thing: Any) -> list[np.ndarray]:
    """Return all arrays in dataclasses, tuples and attributes, those of which others are views."""
    if isinstance(thing, np.ndarray):
        while isinstance(thing.base, np.ndarray):
            thing = thing.base
        return [thing]
    if isinstance(thing, (tuple, list)):
        return [array for item in thing for array in arrays_of(item)]
    if dataclasses.is_dataclass(thing) or isinstance(thing, Propagation):
        return arrays_of(list(vars(thing).values()))
    return []


@pytest.mark.parametrize("tables", ["alike", "any"])
@pytest.mark.parametrize("schedule", ["flood", "sweep"])
def test_a_grid_of_binary_variables_with_a_table_an_edge(tables: str, schedule: str) -> None:
    model = ising(60, 2.0, seed=0)
    if tables == "any":
        rng = np.random.default_rng(0)
        model = PairwiseModel.from_tables(
            rng.normal(size=(3600, 2)), grid_edges(60, 60), rng.normal(size=(len(model.edges), 2, 2)), log=True
        )
    prepared = prepare(model, "float32")
    assert prepared.plan.precision == "float32"
    found = Propagation(prepared.plan, prepared.uniform(), False, 0.0, 1e-4)
    assert (found.flood(2) if schedule == "flood" else found.sweep(2, False))[0] == 2
    assert found.measure_anew()[0] > 0
    held = {id(array): array.nbytes for array in arrays_of([prepared, found])}
    assert id(arrays_of(model.log_tables)[0]) in held
    assert sum(held.values()) <= 40 * 2 * found.count
