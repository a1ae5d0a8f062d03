"""Schemes: what they keep, and that what they give is the nearest of its form."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcblaz import nn
from hpcblaz.errors import ConfigurationError, NetworkError
from hpcblaz.nn.schemes import Compose, FilterPrune, NeuronPrune, Prune, Quantize, compressed, compressible

NETWORK = nn.build((2, 6, 6), [nn.Conv2d(6, 3), nn.Relu(), nn.Flatten(), nn.Dense(8), nn.Relu(), nn.Dense(3)], seed=0)
MATRICES = ["conv1.weight", "dense1.weight", "dense2.weight"]
for _name in ("conv1.bias", "dense1.bias", "dense2.bias"):
    NETWORK.parameters[_name] += 1


def weights() -> Any:
    return {name: NETWORK.parameters[name] for name in NETWORK.trainable}


def test_what_is_compressible() -> None:
    assert list(compressible(NETWORK)) == MATRICES
    assert list(compressible(NETWORK, ["dense2.weight"])) == MATRICES[:2]
    with pytest.raises(NetworkError, match=r"dense3\.weight"):
        compressible(NETWORK, ["dense3.weight"])


@settings(max_examples=20, deadline=None)
@given(st.floats(0.2, 1))
def test_the_largest_weights_of_all_layers_are_kept(density: float) -> None:
    before, after = weights(), Prune(density).pi(weights(), NETWORK)
    whole = np.concatenate([before[name].reshape(-1) for name in MATRICES])
    kept = np.concatenate([after[name].reshape(-1) for name in MATRICES])
    assert np.count_nonzero(kept) == int(density * whole.size)
    np.testing.assert_array_equal(kept[kept != 0], whole[kept != 0])
    assert abs(whole[kept == 0]).max(initial=0) <= abs(kept[kept != 0]).min()
    again = Prune(density).pi(after, NETWORK)
    for name, x in after.items():
        np.testing.assert_array_equal(again[name], x)
    np.testing.assert_array_equal(after["conv1.bias"], before["conv1.bias"])


def test_of_equal_weights_the_first_are_kept() -> None:
    even = {name: np.ones_like(x) for name, x in weights().items()}
    share = (even["conv1.weight"].size + even["dense1.weight"].size + 4) / sum(even[name].size for name in MATRICES)
    after = Prune(share + 1e-9).pi(even, NETWORK)
    assert np.flatnonzero(after["dense2.weight"].reshape(-1)).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("criterion", ["l2norm", "max", "min", "mean", "sum"])
def test_whole_filters_and_neurons_go_with_their_biases(criterion: str) -> None:
    after = FilterPrune(0.5, criterion).pi(weights(), NETWORK)
    rows = abs(weights()["conv1.weight"].reshape(6, -1))
    value = {"l2norm": np.sqrt((rows**2).sum(1))}.get(criterion)
    value = getattr(rows, criterion)(axis=1) if value is None else value
    kept = after["conv1.weight"].reshape(6, -1).any(axis=1)
    assert kept.sum() == 3 and value[kept].min() >= value[~kept].max()
    np.testing.assert_array_equal(after["conv1.bias"], kept.astype("f"))
    np.testing.assert_array_equal(after["dense1.weight"], weights()["dense1.weight"])
    neurons = NeuronPrune(0.5, criterion, leave=["dense2.weight"]).pi(weights(), NETWORK)
    kept = neurons["dense1.weight"].any(axis=1)
    assert kept.sum() == 4
    np.testing.assert_array_equal(neurons["dense1.bias"], kept.astype("f"))
    np.testing.assert_array_equal(neurons["dense2.weight"], weights()["dense2.weight"])


def test_neurons_of_sequences() -> None:
    network = nn.build((4, 3), [nn.Dense(6), nn.Relu(), nn.Dense(5)], seed=0)
    for name in ("dense1.bias", "dense2.bias"):
        network.parameters[name] += 1
    smaller = compressed(network, NeuronPrune(0.5, leave=["dense2.weight"]))
    kept = smaller.parameters["dense1.weight"].any(axis=0)
    assert kept.sum() == 3
    np.testing.assert_array_equal(smaller.parameters["dense1.bias"], kept.astype("f"))


@pytest.mark.parametrize("dtype", ["float16", "int8", "int4"])
@pytest.mark.parametrize("per_channel", [False, True])
def test_rounding_is_to_the_nearest(dtype: str, per_channel: bool) -> None:
    scheme = Quantize(dtype, per_channel)
    small = scheme.pi(weights(), NETWORK)
    after = scheme.delta(small, NETWORK)
    assert set(after) == set(weights())
    for name in MATRICES:
        x = weights()[name]
        assert small[name].dtype == ("float16" if dtype == "float16" else "int8") and after[name].dtype == np.float32
        if dtype == "float16":
            np.testing.assert_array_equal(after[name], x.astype("float16").astype("f"))
            continue
        most = 127 if dtype == "int8" else 7
        step = small[f"{name}/step"]
        assert step.size == (len(x) if per_channel else 1) and abs(small[name]).max() == most
        assert (abs(after[name] - x) <= step * (0.5 + 1e-5)).all()
    again = scheme.delta(scheme.pi(after, NETWORK), NETWORK)
    for name in MATRICES:
        np.testing.assert_allclose(again[name], after[name], rtol=1e-6)


def test_a_layer_of_zeros_stays_zero() -> None:
    network = NETWORK.copy()
    network.parameters["dense2.weight"][:] = 0
    smaller = compressed(network, Quantize("int8"))
    assert not smaller.parameters["dense2.weight"].any()


def test_composed_schemes() -> None:
    scheme = Compose([Prune(0.5), Quantize("int8")])
    before = {name: x.copy() for name, x in NETWORK.parameters.items()}
    smaller = compressed(NETWORK, scheme)
    pruned = Prune(0.5).pi(weights(), NETWORK)
    for name in MATRICES:
        assert not smaller.parameters[name][pruned[name] == 0].any()
    assert smaller(np.ones((2, 2, 6, 6), "f")).shape == (2, 3)
    for name, x in before.items():
        np.testing.assert_array_equal(NETWORK.parameters[name], x)


def test_schemes_that_make_no_sense() -> None:
    for make in (
        lambda: Prune(0.0),
        lambda: Prune(1.1),
        lambda: Prune(float("nan")),
        lambda: FilterPrune(0.5, "l3"),
        lambda: Quantize("int2"),
        lambda: Compose([]),
        lambda: Compose([Quantize("int8"), Prune(0.5)]),
    ):
        with pytest.raises(ConfigurationError, match="expected"):
            make()
    with pytest.raises(NetworkError, match=r"nothing left of conv1\.weight"):
        FilterPrune(0.1).pi(weights(), NETWORK)
    with pytest.raises(NetworkError, match="weights of this kind"):
        compressed(nn.mlp(3, (4,), 2), FilterPrune(0.5))
