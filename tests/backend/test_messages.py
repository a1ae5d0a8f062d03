"""Drivers of messages: what they count, and the order of queues."""

from __future__ import annotations

import numpy as np
import pytest

from hpcblaz.backend import messages as backend
from hpcblaz.backend.messages import Propagation, Queue
from hpcblaz.backend.threads import threads
from hpcblaz.bp import ising, potts
from hpcblaz.bp.plans import prepare


def propagation(precision: str = "float32", states: int = 2, damping: float = 0.0) -> Propagation:
    model = ising(9, 2.0, seed=0) if states == 2 else potts(9, states, 1.0, seed=0)
    prepared = prepare(model, precision)
    found = Propagation(prepared.plan, prepared.uniform(), False, damping, 1e-4)
    found.compute()
    return found


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_what_is_not_a_number_has_not_converged(precision: str) -> None:
    found = propagation(precision)
    found.residuals[:] = 1e-5
    assert found.measure() == (0, pytest.approx(1e-5))
    found.residuals[7] = np.nan
    left, largest = found.measure()
    assert left == 1 and np.isnan(largest)
    found.residuals[7] = -np.nan
    assert found.measure()[0] == 1
    found.residuals[7] = np.inf
    assert found.measure() == (1, np.inf)


@pytest.mark.parametrize("states", [2, 3])
@pytest.mark.parametrize("by_unit", [False, True])
def test_queues_send_the_largest_first_and_keep_fresh_messages_fresh(states: int, by_unit: bool) -> None:
    found = propagation("float64", states)
    queue = Queue(found, by_unit)
    for _ in range(200):
        residuals, before = found.residuals.copy(), found.messages.copy()
        if residuals.max() <= 1e-4:
            break
        sent = queue.send(1)
        changed = np.flatnonzero((found.messages != before).reshape(len(residuals), -1).any(axis=1))
        assert int(np.argmax(residuals)) in changed
        assert len(changed) == sent and (by_unit or sent == 1)
        kept, largest = found.fresh.copy(), found.residuals.copy()
        found.compute()
        np.testing.assert_allclose(kept, found.fresh, rtol=1e-12)
        np.testing.assert_allclose(largest, found.residuals, atol=1e-12)
    assert queue.send(10**6) < 10**6
    found.compute()
    assert found.measure()[0] == 0
    assert queue.send(5) == 0


@pytest.mark.parametrize("states", [2, 3])
def test_damping_takes_a_part_of_the_way(states: int) -> None:
    half, whole = propagation("float64", states, 0.5), propagation("float64", states)
    start = half.messages.copy()
    for found in (half, whole):
        found.flood(1)
    as_vector = (lambda odds: odds / (1 + odds)) if states == 2 else (lambda weights: weights)
    np.testing.assert_allclose(
        as_vector(half.messages), (as_vector(start) + as_vector(whole.messages)) / 2, rtol=0, atol=1e-14
    )
    assert (half.residuals == whole.residuals).all()


@pytest.mark.parametrize("states", [2, 3])
@pytest.mark.parametrize("schedule", ["flood", "sweep"])
def test_what_is_not_a_number_is_never_within_the_tolerance(states: int, schedule: str) -> None:
    found = propagation("float64", states)
    found.messages[:] = np.nan
    done, left, largest = found.flood(3) if schedule == "flood" else found.sweep(3, False)
    assert done == 3 and (left == found.count).all() and np.isnan(largest).all()


def test_measures_do_not_depend_on_what_is_kept() -> None:
    prepared = prepare(ising(9, 2.0, seed=0), "float32")
    lean = Propagation(prepared.plan, prepared.uniform(), False, 0.0, 1e-4)
    lean.sweep(3, False)
    left, largest = lean.measure_anew()
    assert "residuals" not in vars(lean)
    lean.compute()
    assert lean.measure() == lean.measure_anew() == (left, largest)
    assert 0 < left < lean.count


def test_threads_that_share_rounds_stop_at_the_same_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "_MESSAGES_A_PART", 8)
    counts = []
    for workers in (1, 2, 5):
        with threads(workers):
            found = propagation("float32")
            done, left, _ = found.flood(1000)
            assert left[-1] == 0 and (left[:-1] > 0).all()
            counts.append((done, left.tolist(), found.messages.tolist()))
    assert counts[0] == counts[1] == counts[2]
    assert counts[0][0] < 1000
