"""Models that are built: their weights, their graphs, and what the builders refuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from bp_models import assignments
from hypothesis import given
from hypothesis import strategies as st

from hpcblaz.bp import (
    chain,
    channel,
    code_model,
    denoise,
    grid_edges,
    ising,
    ldpc,
    parity_checks,
    potts,
    random_regular,
    stereo,
    tree,
)
from hpcblaz.errors import ModelError


def test_ising_is_that_of_the_paper() -> None:
    model = ising(20, coupling=2.5, seed=7)
    rng = np.random.default_rng(7)
    weights = rng.random(400)
    strengths = 2.5 * rng.uniform(-0.5, 0.5, 2 * 20 * 19)
    np.testing.assert_allclose(np.exp(model.log_unaries), np.stack([weights, 1 - weights], 1).ravel(), rtol=1e-15)
    expected = np.stack([strengths, -strengths, -strengths, strengths], axis=1)
    np.testing.assert_array_equal(model.log_tables.reshape(-1, 4), expected)
    at = np.arange(400).reshape(20, 20)
    along = {(a, b) for a, b in zip(at[:, :-1].flat, at[:, 1:].flat, strict=True)}
    across = {(a, b) for a, b in zip(at[:-1].flat, at[1:].flat, strict=True)}
    assert {(a, b) for a, b in model.edges.tolist()} == along | across
    assert sorted(set(model.degrees.tolist())) == [2, 3, 4]


def test_seeds() -> None:
    assert np.array_equal(ising(5, 2, seed=3).log_tables, ising(5, 2, seed=3).log_tables)
    assert not np.array_equal(ising(5, 2, seed=3).log_tables, ising(5, 2, seed=4).log_tables)


def test_shapes() -> None:
    model = potts((3, 4), states=5, coupling=1.0)
    assert model.cardinalities.tolist() == [5] * 12 and len(model.edges) == 3 * 3 + 2 * 4
    assert (np.exp(model.log_unaries) <= 1).all() and model.log_table(0).shape == (5, 5)
    assert chain(1, 1.0).edges.shape == (0, 2) and chain(4, 1.0, states=3).cardinalities.tolist() == [3] * 4
    assert grid_edges(1, 1).shape == (0, 2) and ising((1, 3), 1.0).edges.tolist() == [[0, 1], [1, 2]]


@given(st.integers(1, 60), st.integers(0, 5))
def test_trees_are_connected(count: int, seed: int) -> None:
    edges = tree(count, 1.0, seed).edges
    assert len(edges) == count - 1 and (edges[:, 0] < edges[:, 1]).all()
    assert edges[:, 1].tolist() == list(range(1, count))


@given(st.integers(1, 24), st.data())
def test_random_graphs_are_regular(count: int, data: st.DataObject) -> None:
    degree = data.draw(st.integers(0, count - 1).filter(lambda d: count * d % 2 == 0))
    model = random_regular(count, degree, 1.0, data.draw(st.integers(0, 3)))  # a model has no loop and no pair twice
    assert model.degrees.tolist() == [degree] * count


def test_large_grids_are_built_at_once() -> None:
    assert ising(300, 2.0).variables == 90_000 and random_regular(20_000, 3, 1.0).degrees.max() == 3


@given(st.integers(1, 4), st.integers(1, 3), st.integers(2, 4), st.integers(0, 9))
def test_codes(rows: int, column_weight: int, row_weight: int, seed: int) -> None:
    bits = rows * row_weight
    checks = parity_checks(bits, column_weight, row_weight, seed)
    assert np.bincount(checks.ravel(), minlength=bits).tolist() == [column_weight] * bits
    ratios = np.random.default_rng(seed).normal(size=bits)
    model = code_model(checks, ratios)
    words = assignments([2] * bits)[: 2**10]
    even = (words[:, checks].sum(axis=2) % 2 == 0).all(axis=1)
    probabilities = np.stack([1 / (1 + np.exp(-ratios)), 1 / (1 + np.exp(ratios))])
    expected = np.log(probabilities[words, np.arange(bits)]).sum(axis=1)
    np.testing.assert_allclose(model.score(words), np.where(even, expected, -np.inf), rtol=1e-9, atol=1e-12)


def test_channels() -> None:
    word = np.tile([0, 1], 5000)
    for kind, noise in (("gaussian", 0.8), ("flip", 0.1)):
        ratios = channel(word, noise, kind, seed=1)  # type: ignore[arg-type]
        wrong = float(((ratios < 0) != word).mean())
        assert abs(wrong - 0.1) < 0.02  # both are wrong in one bit of ten: the normal tail beyond 1/0.8 is 0.106
    assert ldpc(600, noise=0.5).score(np.zeros(600, int)) > -600


def test_denoise() -> None:
    image = np.array([[0.0, 10.0, np.nan], [10.0, 5.1, 0.0]])
    model = denoise(image, states=3, noise=0.25, coupling=2.0)
    unaries = model.log_unaries.reshape(6, 3)
    assert unaries[[0, 1, 3, 4, 5]].argmax(axis=1).tolist() == [0, 2, 2, 1, 0] and (unaries[2] == 0).all()
    np.testing.assert_allclose(unaries[0, 1], -(0.5**2) / (2 * 0.25**2))
    assert model.tables == 1 and model.log_table(3).tolist() == (2 * np.eye(3)).tolist()
    linear = denoise(image, states=3, coupling=2.0, smoothness="linear")
    assert linear.log_table(0).tolist() == [[0, -2, -4], [-2, 0, -2], [-4, -2, 0]]
    assert denoise(np.full((2, 2), np.nan)).log_unaries.tolist() == [0] * 8


def test_stereo() -> None:
    right = np.random.default_rng(0).random((6, 12, 3))
    left = np.roll(right, 2, axis=1)
    model = stereo(left, right, disparities=5, limit=1.5)
    unaries = model.log_unaries.reshape(6, 12, 5)
    assert (unaries[:, 4:].argmax(axis=2) == 2).all() and (unaries[:, 2:, 2] == 0).all()
    assert (unaries[:, 0, 1:] == -2).all()  # beyond the edge
    assert model.log_table(0)[0].tolist() == [0, -1, -1.5, -1.5, -1.5]
    gray = stereo(left[..., 0], right[..., 0], disparities=20)
    assert gray.cardinalities.tolist() == [20] * 72


@pytest.mark.parametrize(
    "call",
    [
        lambda: ising(0, 1.0),
        lambda: ising((3, 3, 3), 1.0),
        lambda: ising(3, np.nan),
        lambda: ising(3, 1.0, seed=-1),
        lambda: potts(3, 0, 1.0),
        lambda: chain(2.5, 1.0),  # type: ignore[arg-type]
        lambda: random_regular(5, 3, 1.0),
        lambda: random_regular(5, 5, 1.0),
        lambda: parity_checks(10, 3, 6),
        lambda: parity_checks(12, 0, 6),
        lambda: channel([0, 2], 0.5),
        lambda: channel([0, 1], 0.5, "flip"),
        lambda: channel([0, 1], 0.0),
        lambda: code_model(np.arange(17)[None], np.zeros(17)),
        lambda: code_model([[0, 0]], [1.0]),
        lambda: denoise(np.zeros(4)),
        lambda: denoise([[0.0, np.inf]]),
        lambda: denoise([[0.0, 1.0]], smoothness="none"),  # type: ignore[arg-type]
        lambda: denoise([[0.0, 1.0]], states=1),
        lambda: stereo(np.zeros((2, 2)), np.zeros((2, 3)), 2),
        lambda: stereo(np.zeros((2, 2)), np.zeros((2, 2)), 0),
        lambda: stereo([["a"]], [["b"]], 2),
    ],
)
def test_refusals(call: Any) -> None:
    with pytest.raises(ModelError, match="expected"):
        call()
