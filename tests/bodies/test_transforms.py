from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from hpcblaz.bodies.transforms import KINDS, SIDES, depth, matrix, straight_line
from hpcblaz.fields.codec import growth


def evaluate(kind: str, n: int, values: Any, inverse: bool, real: type = np.float64) -> np.ndarray[Any, Any]:
    """Run the generated statements on vectors, values[i] being sample or coefficient i of all of them."""
    names = [f"x{i}" for i in range(n)]
    scope: dict[str, Any] = {"REAL": real} | dict(zip(names, values, strict=True))
    exec("\n".join(straight_line(kind, names, [f"y{i}" for i in range(n)], inverse, "t")), scope)
    return np.array([scope[f"y{i}"] for i in range(n)])


@pytest.mark.parametrize("n", range(1, 17))
@pytest.mark.parametrize("kind", KINDS)
def test_matrices_are_orthonormal(kind: str, n: int) -> None:
    m = matrix(kind, n)
    assert m.shape == (n, n)
    np.testing.assert_allclose(m @ m.T, np.eye(n), atol=4e-15)
    np.testing.assert_allclose(m.T @ m, np.eye(n), atol=4e-15)
    if kind != "identity":
        np.testing.assert_allclose(m[0], 1 / math.sqrt(n), rtol=1e-15)
        np.testing.assert_allclose(m[1:].sum(axis=1), 0, atol=4e-15)


def test_dct_matches_the_definition_for_two_samples() -> None:
    np.testing.assert_allclose(matrix("dct", 2), np.array([[1, 1], [1, -1]]) / math.sqrt(2), atol=1e-15)


def test_haar_of_powers_of_two_is_the_classical_one() -> None:
    root = math.sqrt(0.5)
    expected = [[0.5, 0.5, 0.5, 0.5], [0.5, 0.5, -0.5, -0.5], [root, -root, 0, 0], [0, 0, root, -root]]
    np.testing.assert_allclose(matrix("haar", 4), expected, atol=1e-15)


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("n", SIDES)
@pytest.mark.parametrize("kind", KINDS)
def test_straight_line_code_is_the_product_with_the_matrix(kind: str, n: int, inverse: bool) -> None:
    values = np.random.default_rng(n).normal(size=(n, 50))
    m = matrix(kind, n)
    np.testing.assert_allclose(evaluate(kind, n, values, inverse), (m.T if inverse else m) @ values, atol=1e-14)


@pytest.mark.parametrize("inverse", [False, True])
@pytest.mark.parametrize("n", SIDES)
@pytest.mark.parametrize("kind", KINDS)
def test_depth_bounds_the_rounding_of_single_precision(kind: str, n: int, inverse: bool) -> None:
    rng = np.random.default_rng(n)
    values = np.concatenate(
        [rng.normal(size=(n, 4000)), rng.choice([-1.0, 1.0], (n, 2000)) * rng.random((n, 2000))], axis=1
    )
    values = values.astype(np.float32)
    m = matrix(kind, n).astype(np.longdouble)
    m = m.T if inverse else m
    got = evaluate(kind, n, values, inverse, np.float32)
    assert got.dtype == np.float32  # no constant has promoted it
    unit = depth(kind, n) * 2.0**-24
    bound = unit / (1 - unit) * (np.abs(m) @ np.abs(values).astype(np.longdouble))
    assert (np.abs(got - m @ values.astype(np.longdouble)) <= bound).all()


@pytest.mark.parametrize("n", [n for n in range(1, 17) if n not in SIDES])
@pytest.mark.parametrize("kind", KINDS)
def test_depth_bounds_products_with_a_rounded_matrix(kind: str, n: int) -> None:
    values = np.random.default_rng(n).normal(size=(n, 4000)).astype(np.float32)
    m = matrix(kind, n)
    got = np.zeros_like(values)
    for i in range(n):  # one product after the other, in single precision
        got += m.astype(np.float32)[:, i, None] * values[i]
    unit = depth(kind, n) * 2.0**-24
    bound = unit / (1 - unit) * (np.abs(m) @ np.abs(values.astype(float)))
    assert (np.abs(got - m @ values.astype(float)) <= bound + 1e-15).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", SIDES)
def test_growth_is_the_largest_gain_of_a_bounded_error(kind: str, n: int) -> None:
    bound = growth(kind, (n,))
    for m in range(1, n + 1):
        errors = np.sign(matrix(kind, m))  # row k is the worst case for sample k, of a transposed transform
        assert np.abs(matrix(kind, m).T @ errors).max() <= bound * (1 + 1e-12)
    assert bound <= math.sqrt(n) * (1 + 1e-12)


def test_every_statement_assigns_once() -> None:
    statements = straight_line("dct", [f"x{i}" for i in range(16)], [f"y{i}" for i in range(16)], False, "t")
    targets = [statement.split(" = ")[0] for statement in statements]
    assert len(targets) == len(set(targets))
