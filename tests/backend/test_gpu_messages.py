"""Messages on a GPU are those of the CPU, whatever sends them. They run where tests/backend/test_gpu.py does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpcblaz.backend import gpu
from hpcblaz.backend.gpu_messages import GpuPropagation
from hpcblaz.backend.messages import Propagation
from hpcblaz.bp import FactorGraph, PairwiseModel, chain, grid_edges, infer, ising, split, write_model
from hpcblaz.bp.gpu_schedules import GPU_SCHEDULES
from hpcblaz.bp.plans import Prepared, prepare
from hpcblaz.cli.main import main
from hpcblaz.errors import ConfigurationError, HpcblazError, ModelError


def usable() -> bool:
    try:
        gpu.array_module()
    except HpcblazError:
        return False
    return True


pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not usable(), reason="no GPU, and not in the simulator")]


def with_zeros(rng: np.random.Generator, shape: tuple[int, ...]) -> Any:
    table = np.where(rng.random(shape) < 0.25, -np.inf, rng.normal(size=shape))
    table[(0,) * len(shape)] = 0.0  # something is possible
    return table


def model(kind: str) -> PairwiseModel | FactorGraph:
    rng = np.random.default_rng(1)
    if kind == "alike":
        return ising(4, 2.0, seed=0)
    if kind == "any":
        edges = grid_edges(4, 4)
        return PairwiseModel.from_tables(rng.normal(size=(16, 2)), edges, rng.normal(size=(len(edges), 2, 2)), log=True)
    cards = np.array([2, 3, 1, 4, 2, 3])
    if kind == "pairwise":
        edges = grid_edges(2, 3)
        return PairwiseModel.from_tables(
            [rng.normal(size=n) for n in cards], edges, [with_zeros(rng, tuple(cards[[a, b]])) for a, b in edges],
            log=True,
        )  # fmt: skip
    scopes: list[tuple[int, ...]] = [(0, 1, 2), (2, 3), (3, 4, 1), (5,), (0, 4), (5, 2, 3, 0)]
    factors: list[Any] = [(scope, with_zeros(rng, tuple(cards[list(scope)]))) for scope in scopes]
    return FactorGraph.from_tables(cards, [*factors, ((), np.array(0.5))], log=True)


CASES = [("alike", "float32", False), ("any", "float64", True), ("pairwise", "float64", False),
         ("factors", "float64", True)]  # fmt: skip
each = pytest.mark.parametrize(("kind", "precision", "maximise"), CASES, ids=[case[0] for case in CASES])


class Pair:
    """The same messages twice: on the CPU and on the GPU."""

    def __init__(self, prepared: Prepared, maximise: bool, damping: float) -> None:
        rule = (maximise, damping, 1e-4)
        self.cpu = Propagation(prepared.plan, prepared.uniform(), *rule)
        self.gpu = GpuPropagation(prepared.plan, prepared.uniform(), *rule)
        self.tolerance = 64 * np.finfo(prepared.plan.precision).eps

    def do(self, name: str, *arguments: Any) -> None:
        """Do the same with both, and look whether the same came of it."""
        expected, found = (getattr(one, name)(*arguments) for one in (self.cpu, self.gpu))
        if isinstance(expected, tuple):
            for a, b in zip(expected, found, strict=True):
                np.testing.assert_allclose(b, a, rtol=100 * self.tolerance)
        else:
            assert found == expected
        np.testing.assert_allclose(gpu.asnumpy(self.gpu.messages), self.cpu.messages, rtol=self.tolerance)
        assert (self.gpu.trouble is None) == (self.cpu.trouble is None)

    def fresh(self) -> None:
        """Look whether what would be sent is the same."""
        np.testing.assert_allclose(gpu.asnumpy(self.gpu.fresh), self.cpu.fresh, rtol=self.tolerance)
        np.testing.assert_allclose(gpu.asnumpy(self.gpu.residuals), self.cpu.residuals, atol=self.tolerance)


@each
def test_all_messages_are_those_of_the_cpu(kind: str, precision: str, maximise: bool) -> None:
    prepared = prepare(model(kind), precision)
    assert (prepared.plan.family, prepared.plan.precision) == (kind if kind[0] in "pf" else "binary", precision)
    both = Pair(prepared, maximise, 0.3)
    both.do("compute")
    both.fresh()
    both.do("measure")
    both.do("flood", 3)
    both.do("sweep", 2, True)
    both.do("sweep", 1, False)
    both.do("measure_anew")
    both.do("measure")
    both.do("flood", 2)


@each
def test_selected_messages_are_those_of_the_cpu(kind: str, precision: str, maximise: bool) -> None:
    both = Pair(prepare(model(kind), precision), maximise, 0.3)
    both.do("compute")
    for share in (0.4, 0.1):  # of few, only the listeners are computed again
        both.do("send_drawn", share, 7)
        both.do("measure")
        both.fresh()
    both.do("send_largest", 3)
    both.do("measure")
    both.fresh()


def test_draws_in_a_row_are_draws_one_by_one() -> None:
    prepared = prepare(model("alike"), "float32")
    both = Pair(prepared, False, 0.0)
    both.do("compute")
    before, left = 0, both.cpu.measure()[0]
    sent, lefts, most = [], [], []
    for _ in range(4):
        share = 0.9 if left < 0.9 * before else 0.5
        sent.append(both.cpu.send_drawn(share, 2))
        before, (left, largest) = left, both.cpu.measure()
        lefts.append(left)
        most.append(largest)
    found = both.gpu.send_drawn_often(4, 0.5, 0.9, 2, 0, both.gpu.measure()[0])
    assert found[0] == 4 and found[1].tolist() == sent and found[2].tolist() == lefts
    np.testing.assert_allclose(found[3], most, rtol=1e-4)
    both.do("measure")


def test_of_equal_residuals_the_first_are_sent() -> None:
    prepared = prepare(model("alike"), "float32")
    found = GpuPropagation(prepared.plan, prepared.uniform(), False, 0.0, 1e-4)
    found.compute()
    found.residuals[...] = 0.5
    found.residuals[30] = 0.75
    before = gpu.asnumpy(found.messages).copy()
    assert found.send_largest(5) == 5
    assert np.flatnonzero(gpu.asnumpy(found.messages) != before).tolist() == [0, 1, 2, 3, 30]


@each
def test_a_splash_is_sent_a_distance_at_a_time(kind: str, precision: str, maximise: bool) -> None:
    plan = prepare(model(kind), precision).plan
    graph, places = plan.graph, plan.places
    both = Pair(prepare(model(kind), precision), maximise, 0.3)
    for one in (both.cpu, both.gpu):
        one.compute()
    keys = np.zeros(len(graph.listener_offsets) - 1)
    np.maximum.at(keys, graph.variables, both.cpu.residuals)
    hearers = np.split(graph.listeners, graph.listener_offsets[1:-1])
    near = [set(hearers[int(np.argmax(keys))])]
    told = np.split(graph.variables, graph.offsets[1:-1])
    near.append({int(w) for u in near[0] for v in told[u] for w in hearers[v]} - near[0])
    for ring in (near[1], near[0], near[1]):  # as floods whose other messages are taken back
        before = both.cpu.messages.copy()
        both.cpu.flood(1)
        sent = np.zeros(len(before), np.bool_)
        for u in ring:
            sent[places[graph.offsets[u]] : places[graph.offsets[u + 1]]] = True
        both.cpu.messages[~sent] = before[~sent]
    both.cpu.compute()
    messages = [sum(len(told[u]) for u in ring) for ring in near]
    assert both.gpu.splash(1, 1) == messages[0] + 2 * messages[1]
    np.testing.assert_allclose(gpu.asnumpy(both.gpu.messages), both.cpu.messages, rtol=both.tolerance)
    both.fresh()


def test_splashes_are_the_same_in_every_run() -> None:
    first, second = (infer(ising(3, 1.0, seed=1), "splash", device="gpu", max_iterations=1) for _ in range(2))
    assert first.updates == second.updates
    np.testing.assert_array_equal(first.messages, second.messages)


def test_a_splash_reaches_as_far_as_its_depth() -> None:
    prepared = prepare(chain(9, 1.0, seed=0), "float64")
    for depth in (2, 2**31 - 1):
        found = GpuPropagation(prepared.plan, prepared.uniform(), False, 0.0, 1e-9)
        found.compute()
        found.residuals[...] = 0.5
        told = int(np.flatnonzero(prepared.plan.graph.variables == 4)[0])
        found.residuals[told] = 0.75
        before = gpu.asnumpy(found.messages).copy()
        sent = found.splash(1, depth)
        changed = np.flatnonzero(gpu.asnumpy(found.messages) != before)
        units = np.unique(np.searchsorted(prepared.plan.graph.offsets, changed, "right") - 1)
        near = [u for u in range(9) if abs(prepared.variable_of[u] - prepared.variable_of[4]) <= depth]
        assert units.tolist() == near
        degrees = np.diff(prepared.plan.graph.offsets)[near].sum()
        assert sent == 2 * degrees - 2  # all but the root twice
        # What would be sent now is up to date
        fresh = gpu.asnumpy(found.fresh).copy()
        found.compute()
        np.testing.assert_array_equal(gpu.asnumpy(found.fresh), fresh)


def test_what_is_not_a_number_has_not_converged() -> None:
    prepared = prepare(model("alike"), "float32")
    start = prepared.uniform()
    start[3] = np.nan
    found = [kind(prepared.plan, start.copy(), False, 0.0, 10.0) for kind in (Propagation, GpuPropagation)]
    for one in found:
        one.compute()
    (left, largest), again = (one.measure() for one in found)
    assert again[0] == left > 0
    assert np.isnan(largest) and np.isnan(again[1])


@pytest.mark.parametrize("schedule", GPU_SCHEDULES)
def test_inference_is_that_of_the_cpu(schedule: str) -> None:
    grid = ising(3, 1.0, seed=2)
    found = infer(grid, schedule, device="gpu", seed=3, tolerance=1e-2, share=0.25)
    assert found.converged and found.residual <= 1e-2
    assert isinstance(found.messages, np.ndarray)
    if schedule == "auto":
        assert found.updates % 24 == 0  # of sweeps
        return
    expected = infer(grid, schedule, seed=3, tolerance=1e-2, share=0.25)
    if schedule == "splash":  # whose order is another one
        np.testing.assert_allclose(found.marginals, expected.marginals, atol=1e-2)
        return
    assert found.updates == expected.updates
    np.testing.assert_allclose(found.marginals, expected.marginals, rtol=1e-6)
    assert found.log_partition == pytest.approx(expected.log_partition)


def test_auto_sends_at_random_and_damps_where_sweeps_get_nowhere() -> None:
    # A frustrated triangle: undamped messages go round for ever
    tables = 4.0 * np.array([[-1.0, 1.0], [1.0, -1.0]])[None].repeat(3, axis=0)
    edges = [[0, 1], [1, 2], [2, 0]]
    triangle = PairwiseModel.from_tables([[0.3, 0.0], [0.0, 0.1], [0.0, 0.0]], edges, tables, log=True)
    found = infer(triangle, device="gpu", max_iterations=35)
    assert found.status == "iterations"
    sent = np.diff(found.history.updates)
    assert (sent[:31] == 6).all() and (sent[31:-1] < 6).any()  # 32 sweeps, and then a part at a time


def test_what_has_no_place_on_a_gpu_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="auto, sweep, lbp, rnbp, rbp, splash on a GPU"):
        infer(ising(3, 1.0), "queue", device="gpu")
    with pytest.raises(ConfigurationError, match="lbp, rnbp on GPUs of ranks"):
        infer(split(ising(3, 1.0)), device="gpu")
    with pytest.raises(ConfigurationError, match="'gpu'"):
        infer(ising(3, 1.0), device="tpu")


def test_the_command_line_sends_on_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_model("grid.uai", ising(3, 1.0, seed=2))
    command = ["bp", "infer", "grid.uai", "--schedule", "lbp", "--tolerance", "0.1", "--json"]
    found = []
    for more in ([], ["--device", "gpu"], ["--device", "gpu", "--checkpoint", "messages"]):  # the last one as ranks do
        assert main([*command, *more]) == 0
        found.append(json.loads(capsys.readouterr().out))
    for one in found[1:]:
        assert one["message_updates"] == found[0]["message_updates"]
        np.testing.assert_allclose(one["marginals"], found[0]["marginals"], rtol=1e-6)


def test_contradictions_are_found() -> None:
    never = [[0.0, 0.0], [0.0, 1.0]]
    chain = PairwiseModel.from_tables([[1, 0], [1, 1], [1, 1]], [[0, 1], [1, 2]], [never, never])
    with pytest.raises(ModelError, match="every state of variable"):
        infer(chain, device="gpu")


def test_bench_in_quick_form(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bp", "bench", "--gpu", "--quick", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["copy_bytes_per_second"] > 0
    assert [rate["schedule"] for rate in found["rates"]] == 2 * ["lbp", "sweep", "rnbp"]
    for rate in found["rates"]:
        assert rate["messages_per_second"] > 0
        assert rate["times_floor"] == rate["seconds"] / rate["floor_seconds"]
