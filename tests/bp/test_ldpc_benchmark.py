"""The benchmark of decoding says what was decoded, and how."""

from __future__ import annotations

import pytest

from hpcblaz.bp.benchmark import Settings
from hpcblaz.bp.ldpc_benchmark import noise_of, rates


def test_the_rates_of_decoding() -> None:
    said: list[str] = []
    found = rates(Settings(quick=True, say=said.append))
    assert [(row["task"], row["schedule"]) for row in found] == [
        ("marginals", "sweep"), ("marginals", "lbp"), ("map", "sweep"), ("map", "lbp"),
    ]  # fmt: skip
    assert len(said) == 4
    for row in found:
        assert row["code"] == "ldpc (3,6) 600" and row["batch"] == row["frames"] == 16
        assert row["frame_errors"] == 0 and 1 < row["iterations"] < 15
        assert row["bits_per_second"] > 0
        # each word has 3 messages a bit, and needs its iterations
        assert 1 < row["messages_per_second"] / row["bits_per_second"] / 3 < 15


def test_noise_of_an_energy() -> None:
    assert noise_of(0.0, 1.0) == pytest.approx(0.5**0.5)
    assert noise_of(10.0, 0.5) == pytest.approx(0.1**0.5)
