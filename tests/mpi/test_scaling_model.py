"""The model of allreduce: it finds the parameters that made the times, and says what follows from them."""

from __future__ import annotations

import pytest

from hpcblaz.mpi.scaling_model import Measurement, Model, fit

TRUE = Model(latency=4e-5, compressed_latency=2e-4, share=0.9, addition=5e-10, computation=2e-9)


def measured(model: Model) -> list[Measurement]:
    found = []
    for gigabits in (1.0, 10.0):
        for ranks in (2, 3, 4):
            for values in (2**12, 2**18, 2**22, 2**26):
                for bits in (None, 7.0):
                    seconds = model.seconds(ranks, values, gigabits, bits)
                    found.append(Measurement(ranks, values, gigabits, bits, 8, seconds))
    return found


def test_the_fit_finds_what_made_the_times() -> None:
    pytest.importorskip("scipy")
    shared_memory = Measurement(2, 99, None, 7.0, 8, 1e9)
    shared_cores = Measurement(4, 2**20, 1.0, 7.0, 2, 2 * TRUE.seconds(4, 2**20, 1.0, 7.0, ranks_a_core=2.0))
    model, off, crowded = fit([*measured(TRUE), shared_memory, shared_cores])  # the last two have no say
    assert off == pytest.approx(1.0, abs=0.02)
    assert crowded == pytest.approx(2.0, rel=0.05)
    for ranks in (2, 64, 4096):
        for bits in (None, 7.0):
            expected = TRUE.seconds(ranks, 2**24, 1.0, bits)
            assert model.seconds(ranks, 2**24, 1.0, bits) == pytest.approx(expected, rel=0.05)


def test_what_the_model_says() -> None:
    slow, fast = (TRUE.seconds(8, 2**24, gigabits, 7.0) for gigabits in (1.0, 10.0))
    assert slow > fast
    assert TRUE.seconds(8, 2**24, 1.0, None) > 3 * slow  # 32 bits for 7
    assert TRUE.seconds(4096, 64, 1.0, 7.0) < 30 * TRUE.compressed_latency  # a short array: log2 of the ranks
    crowded = TRUE.seconds(8, 2**24, 10.0, 7.0, ranks_a_core=4.0)
    assert crowded > fast
