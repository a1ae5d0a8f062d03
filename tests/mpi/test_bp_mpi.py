"""Belief propagation on ranks: what one rank finds, for any number of them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from bp.reference import grid_edges, random_pairwise

from hpcblaz.bp import (
    FactorGraph,
    PairwiseModel,
    infer,
    infer_partitioned,
    ising,
    partitioned_ising,
    read_evidence,
    read_model,
    read_partitioned,
    save_marginals,
    split,
    write_model,
)
from hpcblaz.bp.schedules import SCHEDULES
from hpcblaz.errors import ConfigurationError, FileFormatError, HpcblazError, ModelError, StoppedError
from hpcblaz.mpi import Communicator

pytestmark = pytest.mark.mpi

EXACT: dict[str, Any] = {"tolerance": 1e-11, "precision": "float64", "max_iterations": 400}


@pytest.fixture(scope="module")
def folder(comm: Communicator) -> Iterator[Path]:
    """A folder that all ranks have."""
    made = tempfile.TemporaryDirectory() if comm.rank == 0 else None
    yield Path(comm.broadcast(made.name if made is not None else None))
    comm.barrier()
    if made is not None:
        made.cleanup()


def model_of(kind: str) -> Any:
    rng = np.random.default_rng(5)
    if kind == "binary":
        return ising(8, 1.0, seed=1).clamp({3: 1})
    if kind == "pairwise":
        return random_pairwise(rng, rng.integers(1, 5, 25), grid_edges(5, 5), 0.5)
    cards = rng.integers(1, 4, 13)  # the last variable is in no factor
    scopes = [[0, 1, 2], [2, 3, 4], [4, 5, 0], [6, 7], [7, 8, 1], [9, 10, 11, 3], [11, 6], [5], [8, 9], []]
    return FactorGraph.from_tables(cards, [(s, rng.normal(0, 0.5, tuple(cards[s]))) for s in scopes], log=True)


def check_same(comm: Communicator, one: Any, other: Any, atol: float) -> None:
    """Compare the answers of one rank alone with those of all."""
    whole = other.gather()
    if one.task == "map":
        assert other.score == pytest.approx(one.score, abs=1e-9)
    else:
        assert other.log_partition == pytest.approx(one.log_partition, abs=max(1e-9, atol))
    with comm.together():
        if whole is not None:
            assert whole[0].tolist() == one.offsets.tolist()
            np.testing.assert_allclose(whole[1], one.beliefs, rtol=0, atol=atol)
    np.testing.assert_array_equal(other.assignment, one.assignment[other.variables])


@pytest.mark.parametrize("kind", ["binary", "pairwise", "factors"])
def test_messages_are_those_of_one_rank(comm: Communicator, kind: str) -> None:
    model = model_of(kind)
    parts = split(model if comm.rank == comm.size - 1 else None, comm, root=comm.size - 1)
    for schedule, task in (("lbp", "marginals"), ("rnbp", "marginals"), ("rnbp", "map")):
        one = infer(model, schedule, task, tolerance=1e-6, seed=3)
        other = infer_partitioned(parts, schedule, task, tolerance=1e-6, seed=3)
        assert (other.status, other.iterations, other.updates) == (one.status, one.iterations, one.updates)
        assert other.residual == one.residual
        check_same(comm, one, other, 1e-12)
    assert sum(comm.gather_objects(len(other.variables))) == model.variables
    report = parts.report()
    assert sum(report.messages) == parts.messages and len(report.halo) == comm.size


@pytest.mark.parametrize("kind", ["binary", "pairwise", "factors"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_all_schedules_find_the_fixed_point(comm: Communicator, kind: str, schedule: str) -> None:
    model = model_of(kind)
    parts = split(model, comm, method="bisection")
    one = infer(model, "sweep", **EXACT)
    for sweeps in (1, 3) if schedule in ("sweep", "lbp") else (1,):
        other = infer_partitioned(parts, schedule, local_sweeps=sweeps, share=0.1, **EXACT)
        assert other.converged and other.residual <= 1e-11
        check_same(comm, one, other, 1e-9)


def test_iterations_of_a_hard_grid(comm: Communicator) -> None:
    """The one that reports are about: 100 x 100, C = 2.5."""
    model = ising(100, 2.5, seed=0)
    made = partitioned_ising(100, 2.5, 0, comm)
    for schedule in ("lbp", "rnbp"):
        one = infer(model, schedule, max_iterations=150)
        other = infer_partitioned(made, schedule, max_iterations=150)
        assert (other.status, other.iterations) == (one.status, one.iterations)
        check_same(comm, one, other, 1e-9)


@pytest.mark.parametrize("name", ["Promedus_24", "DBN_11", "ObjectDetection_11"])
def test_models_of_the_competition(comm: Communicator, data_directory: Path, name: str) -> None:
    path = data_directory / "uai" / "uai2014" / f"{name}.uai"
    if not path.exists():
        pytest.skip(f"no {path}")
    seen = read_evidence(f"{path}.evid")
    model, parts = read_model(path).clamp(seen), read_partitioned(path, comm, evidence=seen)
    for schedule in ("lbp", "rnbp"):
        one, other = infer(model, schedule), infer_partitioned(parts, schedule)
        assert (other.status, other.iterations) == (one.status, one.iterations)
        check_same(comm, one, other, 1e-9)


@pytest.mark.parametrize("shape", [(9, 13), (1, 40), (30, 4)])
def test_a_grid_made_on_ranks_is_the_same_model(comm: Communicator, shape: tuple[int, int]) -> None:
    model, found = ising(shape, 2.0, seed=7), partitioned_ising(shape, 2.0, 7, comm)
    assert (found.variables, found.messages) == (model.variables, 2 * len(model.edges))
    other = infer_partitioned(found, "rnbp", "map", max_iterations=20)
    check_same(comm, infer(model, "rnbp", "map", max_iterations=20), other, 1e-12)
    strong = infer_partitioned(partitioned_ising(shape, 40.0, 7, comm), "lbp", max_iterations=3)
    assert strong.precision == "float64"
    check_same(comm, infer(ising(shape, 40.0, seed=7), "lbp", max_iterations=3), strong, 1e-12)


@pytest.mark.parametrize("kind", ["binary", "pairwise", "factors"])
def test_a_file_is_dealt_out_as_it_is_read(comm: Communicator, folder: Path, kind: str) -> None:
    path = folder / f"{kind}.uai"
    with comm.together():
        if comm.rank == 0:
            write_model(path, model_of(kind))
    seen = {2: 0, 12: 0}
    one = infer(read_model(path).clamp(seen), "lbp", max_iterations=6)
    check_same(
        comm, one, infer_partitioned(read_partitioned(path, comm, evidence=seen), "lbp", max_iterations=6), 1e-12
    )
    text = path.read_text()
    for number, broken in enumerate((text[: len(text) // 2], text + " 1", text.replace("0.", "-0."), "MARKOV 2 2")):
        damaged = folder / f"{kind}{number}.uai"
        with comm.together():
            if comm.rank == 0:
                damaged.write_text(broken)
        with pytest.raises(FileFormatError, match="line"):
            read_partitioned(damaged, comm)


@pytest.mark.parametrize("schedule", ["lbp", "rnbp", "auto"])
def test_a_run_is_continued_where_it_was(comm: Communicator, folder: Path, schedule: str) -> None:
    path, parts = folder / f"{schedule}.messages", partitioned_ising(16, 2.5, 2, comm)
    whole = infer_partitioned(parts, schedule, max_iterations=60)
    first = infer_partitioned(parts, schedule, max_iterations=7, checkpoint=path)
    assert first.status == "iterations" and path.exists()
    asked = iter([False, True])
    with pytest.raises(StoppedError):
        infer_partitioned(parts, schedule, max_iterations=60, checkpoint=path, stop=lambda: next(asked))
    with pytest.raises(ConfigurationError, match="damping"):
        infer_partitioned(parts, schedule, damping=0.5, checkpoint=path)
    with pytest.raises(ConfigurationError, match="model"):
        infer_partitioned(partitioned_ising(16, 2.5, 3, comm), schedule, checkpoint=path)
    last = infer_partitioned(parts, schedule, max_iterations=60, checkpoint=path)
    if schedule != "auto":  # which may take the limit for a good time to compute all messages
        assert (last.status, last.updates) == (whole.status, whole.updates)
        np.testing.assert_array_equal(last.beliefs, whole.beliefs)
    assert path.exists() == (last.status != "converged")
    comm.barrier()


def test_a_run_is_continued_on_another_number_of_ranks(comm: Communicator, folder: Path) -> None:
    """Rank 0 alone begins, all go on, and rank 0 alone ends it."""
    path, options = folder / "others.messages", {"damping": 0.1, "checkpoint": folder / "others.messages"}
    alone = partitioned_ising((12, 15), 2.5, 4)
    if comm.rank == 0:
        infer_partitioned(alone, "lbp", max_iterations=5, **options)
    comm.barrier()
    assert (
        infer_partitioned(partitioned_ising((12, 15), 2.5, 4, comm), "lbp", max_iterations=12, **options).iterations
        == 12
    )
    if comm.rank == 0:
        last = infer_partitioned(alone, "lbp", max_iterations=20, **options)
        whole = infer(ising((12, 15), 2.5, seed=4), "lbp", max_iterations=20, damping=0.1)
        assert last.iterations == 20 and path.exists()
        np.testing.assert_allclose(last.beliefs, whole.beliefs, rtol=0, atol=1e-14)


def test_what_is_no_checkpoint_is_refused(comm: Communicator, folder: Path) -> None:
    path, parts = folder / "damaged", partitioned_ising(6, 9.0, 2, comm)
    infer_partitioned(parts, "lbp", max_iterations=2, checkpoint=path)
    good = path.read_bytes()
    for bad in (b"something else", good[:-4], good[:-1] + bytes([good[-1] ^ 1]), good[:60]):
        comm.barrier()
        if comm.rank == 0:
            path.write_bytes(bad)
        comm.barrier()
        with pytest.raises(FileFormatError):
            infer_partitioned(parts, "lbp", max_iterations=3, checkpoint=path)
    assert infer_partitioned(parts, "lbp", max_iterations=3, checkpoint=path, restart=True).iterations == 3


def test_contradictions_are_named_on_all_ranks(comm: Communicator) -> None:
    unlike = [[0, 1], [1, 0]]
    edges = np.stack([np.arange(7), np.arange(1, 8)], axis=1)
    model = PairwiseModel.from_tables([[1, 1]] * 8, edges, [unlike], table_of=[0] * 7)
    parts = split(model.clamp({0: 0, 7: 0}), comm)
    for schedule in SCHEDULES:
        with pytest.raises(ModelError, match=r"every state of variable \d is impossible"):
            infer_partitioned(parts, schedule)
    with pytest.raises(ModelError, match="every state of variable 5 is impossible"):
        infer_partitioned(split(model.weigh({5: [0, 0]}), comm))


def test_refusals_are_those_of_all_ranks(comm: Communicator, folder: Path) -> None:
    model, last = ising(4, 1.0), comm.rank == comm.size - 1
    calls: list[Any] = [
        lambda: split(None if last else model, comm),
        lambda: split(model, comm, owners=np.full(16, comm.size)),
        lambda: split(model, comm, method="magic"),
        lambda: split(model, comm, root=comm.size),
        lambda: partitioned_ising(4, np.inf, 0, comm),
        lambda: partitioned_ising(4, 1.0, 0, comm, splits=(5, 1)),
        lambda: partitioned_ising((1, 1), 1.0, 0, comm, splits=(2, comm.size)),
        lambda: read_partitioned(folder / "none.uai", comm),
        lambda: infer_partitioned(split(model, comm), local_sweeps=0 if last else 1),
        lambda: infer_partitioned(split(model, comm), "lbp", checkpoint=folder / "no" / "where", max_iterations=1),
    ]
    for call in calls:
        with pytest.raises(HpcblazError):
            call()
        comm.barrier()


def test_models_of_little_are_dealt_out(comm: Communicator) -> None:
    """Some ranks have nothing."""
    for model in (ising((1, 2), 1.0), ising((1, 1), 1.0), FactorGraph.from_tables([2], [([0], [1, 3]), ([], 2.0)])):
        for schedule in SCHEDULES:
            other = infer_partitioned(split(model, comm), schedule, **EXACT)
            check_same(comm, infer(model, schedule, **EXACT), other, 1e-9)


def test_marginals_in_a_store(comm: Communicator, folder: Path) -> None:
    zarr = pytest.importorskip("zarr", reason="zarr is not installed: pip install 'hpcblaz[io]'")
    model = model_of("pairwise")
    path = folder / "out.zarr"
    for _ in range(2):  # the second one takes the place of the first
        save_marginals(path, infer_partitioned(split(model, comm), "lbp"))
    found, one = zarr.open_group(str(path), mode="r"), infer(model, "lbp")
    states = found["states"][:]
    np.testing.assert_array_equal(states, model.cardinalities)
    rows = found["marginals"][:]
    np.testing.assert_allclose(rows[~np.isnan(rows)], one.marginals, atol=1e-12)
    assert found.attrs["status"] == one.status
