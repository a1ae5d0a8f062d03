"""Gradients by finite differences, in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from hpcblaz.nn import Tensor, backward


def check_gradients(function: Callable[..., Tensor], *arrays: Any, step: float = 1e-6, tolerance: float = 2e-6) -> None:
    """Compare the gradients of a function of arrays with central differences, in every direction of every array."""
    random = np.random.default_rng(0)
    tensors = [Tensor(np.array(x, np.float64), needs_gradient=True) for x in arrays]
    result = function(*tensors)
    weights = random.normal(size=result.shape)
    backward(result, weights)

    def value(*values: Any) -> float:
        return float((function(*map(Tensor, values)).data * weights).sum())

    for place, x in enumerate(tensors):
        expected = np.zeros(x.shape)
        for index in np.ndindex(x.shape):
            ends = []
            for sign in (1, -1):
                values = [t.data.copy() for t in tensors]
                values[place][index] += sign * step
                ends.append(value(*values))
            expected[index] = (ends[0] - ends[1]) / (2 * step)
        got = np.zeros(x.shape) if x.gradient is None else x.gradient
        assert got.shape == x.shape
        np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance * max(1, np.abs(expected).max()))
