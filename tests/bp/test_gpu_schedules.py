"""Schedules of a GPU, with messages of the CPU in their place; and what is said where there is no GPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hpcblaz.backend import gpu
from hpcblaz.backend.messages import Propagation
from hpcblaz.bp import infer, inference, ising
from hpcblaz.bp.gpu_schedules import start
from hpcblaz.errors import DeviceError, HpcblazError, MissingDependencyError


class InARow(Propagation):
    """Messages of the CPU that can be sent at random several times in a row."""

    def sweep(self, sweeps: int, backward: bool) -> Any:
        return super().sweep(min(sweeps, 16), backward)

    def send_drawn_often(self, rounds: int, low: float, high: float, seed: int, before: int, left: int) -> Any:
        sent, lefts, most = [], [], []
        for _ in range(min(rounds, 16)):
            sent.append(self.send_drawn(high if left < 0.9 * before else low, seed))
            before, (left, largest) = left, self.measure()
            lefts.append(left)
            most.append(largest)
            if left == 0:
                break
        return len(sent), np.array(sent), np.array(lefts), np.array(most)


def usable() -> bool:
    try:
        gpu.array_module()
    except HpcblazError:
        return False
    return True


def test_auto_converges_where_sweeps_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "engine", lambda *_: (InARow, start))
    model = ising(60, 3.0, 0)
    found = infer(model, device="gpu", max_iterations=400)
    assert found.converged and found.residual <= 1e-4
    assert found.iterations < 150
    assert (np.diff(found.history.updates) < 2 * len(model.edges)).any()  # not all of it sweeps


def test_draws_are_those_of_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"schedule": "rnbp", "seed": 3, "low": 0.3, "high": 0.6}
    expected = infer(ising(20, 2.0, 0), **options)
    monkeypatch.setattr(inference, "engine", lambda *_: (InARow, start))
    found = infer(ising(20, 2.0, 0), **options, device="gpu")
    assert found.updates == expected.updates
    assert (found.messages == expected.messages).all()


@pytest.mark.skipif(gpu.SIMULATED or usable(), reason="there is a GPU")
def test_without_a_gpu_the_error_says_what_is_missing() -> None:
    with pytest.raises((DeviceError, MissingDependencyError), match=r"cuda13|CUDA device"):
        infer(ising(3, 1.0), device="gpu")
