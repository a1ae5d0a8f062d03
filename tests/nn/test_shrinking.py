"""Networks without removed structure: equal answers, smaller arrays, and what has to stay."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcblaz import nn
from hpcblaz.errors import NetworkError
from hpcblaz.nn import Network, Node, Port

RANDOM = np.random.default_rng(0)


def with_noise(network: Network) -> Network:
    """A network whose biases and statistics are no zeros and ones."""
    for name, x in network.parameters.items():
        if x.dtype.kind == "f" and x.ndim == 1:
            network.parameters[name] = (abs(RANDOM.normal(size=x.shape)) + 0.3).astype(x.dtype)
    return network


def shrunk(network: Network, scheme: Any) -> tuple[Network, Network]:
    """A compressed network and the same without what was removed, whose answers are equal."""
    before = nn.compressed(network, scheme)
    after = nn.shrink(before)
    arrays = [RANDOM.normal(size=[3 if n is None else n for n in p.shape]).astype(p.dtype) for p in network.inputs]
    first, second = before(*arrays), after(*arrays)
    assert first.shape == second.shape and first.std() > 0
    np.testing.assert_allclose(second, first, atol=2e-6 * abs(first).max(), rtol=0)
    return before, after


@pytest.mark.parametrize("density", [0.3, 0.6])
@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.lenet((1, 16, 16)),
        lambda: nn.vgg((1, 16, 16), widths=(6, 10)),
        lambda: nn.resnet((3, 8, 8), widths=(6, 10), blocks=2),
        lambda: nn.mlp(6, (12, 9), 4),
    ],
)
def test_ready_networks(make: Any, density: float) -> None:
    network = with_noise(make())
    _, after = shrunk(network, nn.StructurePrune(density, per_layer=True))
    assert after.parameter_count < 0.8 * network.parameter_count


def test_every_removed_filter_is_gone() -> None:
    network = with_noise(nn.vgg((1, 16, 16), widths=(6, 10)))
    before, after = shrunk(network, nn.StructurePrune(0.5))
    for name in nn.compressible(network):
        kept = before.parameters[name].reshape(len(before.parameters[name]), -1).any(axis=1).sum()
        assert len(after.parameters[name]) == kept, name
    assert nn.report(after).flops < 0.6 * nn.report(network).flops


def test_what_a_sum_needs_stays() -> None:
    """A channel of a sum goes if all that is added is zero, and stays if a part of it is not."""
    network = with_noise(nn.build((3, 6, 6), [
        nn.Conv2d(8, 3, padding=1), nn.Residual([nn.Conv2d(8, 3, padding=1)], []), nn.Relu(),
        nn.GlobalAveragePool(), nn.Dense(3),
    ]))  # fmt: skip
    first, second = list(nn.compressible(network))[:2]
    for name, gone in ((first, [1, 2, 5]), (second, [2, 5, 7])):
        network.parameters[name][gone] = 0
        network.parameters[name.replace("weight", "bias")][gone] = 0
    _, after = shrunk(network, nn.Prune(1.0))
    assert [len(after.parameters[name]) for name in (first, second)] == [6, 6]


def imported() -> Network:
    """Squeeze-excite, depthwise and grouped convolutions, concatenation and a reshape with numbers."""
    draw = RANDOM.normal
    shapes = {
        "stem": (8, 3, 3, 3), "deep": (8, 1, 3, 3), "less": (4, 8, 1, 1), "more": (8, 4, 1, 1), "point": (12, 8, 1, 1),
        "side": (6, 8, 3, 3), "many": (12, 6, 3, 3), "dense": (5 * 5 * 18, 7), "last": (4, 7),
    }  # fmt: skip
    parameters: dict[str, Any] = {name: draw(size=shape).astype("f") for name, shape in shapes.items()}
    for name, shape in shapes.items():
        parameters[f"{name}.bias"] = draw(size=shape[1] if name == "dense" else shape[0]).astype("f")
    parameters |= {
        "flat": np.array([-1, 450]), "six": np.array(6, "f"), "zero": np.array(0, "f"),
        "scale": draw(size=(1, 18, 1, 1)).astype("f"), "axes": np.array([2, 3]),
    }  # fmt: skip
    nodes = [
        Node("Conv", ("x", "stem", "stem.bias"), ("a",), {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
        Node("Clip", ("a", "zero", "six"), ("b",)),
        Node("Conv", ("b", "deep", "deep.bias"), ("c",), {"group": 8, "pads": [1, 1, 1, 1]}),
        Node("HardSwish", ("c",), ("d",)),
        Node("ReduceMean", ("d", "axes"), ("e",), {"keepdims": 1}),
        Node("Conv", ("e", "less", "less.bias"), ("f",)),
        Node("Relu", ("f",), ("g",)),
        Node("Conv", ("g", "more", "more.bias"), ("h",)),
        Node("HardSigmoid", ("h",), ("i",)),
        Node("Mul", ("d", "i"), ("j",)),
        Node("Conv", ("j", "point", "point.bias"), ("k",)),
        Node("Conv", ("k", "many", "many.bias"), ("l",), {"group": 2, "pads": [1, 1, 1, 1]}),
        Node("Relu", ("l",), ("m",)),
        Node("Conv", ("b", "side", "side.bias"), ("n",), {"pads": [1, 1, 1, 1]}),
        Node("Concat", ("m", "n"), ("o",), {"axis": 1}),
        Node("Mul", ("o", "scale"), ("p",)),
        Node("Reshape", ("p", "flat"), ("q",)),
        Node("MatMul", ("q", "dense"), ("r",)),
        Node("Add", ("r", "dense.bias"), ("s",)),
        Node("Tanh", ("s",), ("t",)),
        Node("Gemm", ("t", "last", "last.bias"), ("u",), {"transB": 1}),
        Node("Softmax", ("u",), ("y",)),
    ]
    return Network(nodes, parameters, [Port("x", (None, 3, 10, 10))], ["y"])


def test_a_network_as_exporters_write_them() -> None:
    network = imported()
    for name, gone in (("stem", [0, 3]), ("deep", [0, 3, 4]), ("less", [1]), ("side", [2, 4]), ("dense", [5])):
        place = (slice(None), gone) if name == "dense" else gone
        network.parameters[name][place] = 0
        network.parameters[f"{name}.bias"][gone] = 0
    for name in ("many", "many.bias"):  # a whole group
        network.parameters[name][:6] = 0
    _, after = shrunk(network, nn.Prune(1.0))
    shapes = {name: x.shape for name, x in after.parameters.items()}
    assert shapes["stem"][0] == shapes["deep"][0] == shapes["more"][0] == shapes["point"][1] == 6  # "side" reads 4
    assert shapes["less"][0] == 3 and shapes["side"][0] == 4
    assert shapes["many"][0] == 6 and shapes["point"][0] == 6
    assert shapes["dense"] == (25 * 10, 6) and shapes["scale"] == (1, 10, 1, 1)
    nodes = {node.outputs[0]: node for node in after.nodes}
    assert nodes["l"].attributes["group"] == 1 and nodes["c"].attributes["group"] == shapes["deep"][0]


MIXED = [imported(), with_noise(nn.resnet((3, 6, 6), widths=(4, 6))), with_noise(nn.vgg((1, 8, 8), widths=(4, 6)))]


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(MIXED))
def test_answers_stay_whatever_is_zero(seed: int, network: Network) -> None:
    """Outputs, inputs and single biases of random layers are zero, in any combination."""
    random = np.random.default_rng(seed)
    network = network.copy()
    for name, x in network.parameters.items():
        if x.dtype.kind == "f" and x.ndim in (1, 2, 4) and random.random() < 0.7 and "var" not in name:
            axis = int(random.integers(min(x.ndim, 2)))
            gone = random.random(x.shape[axis]) < 0.6
            network.parameters[name] = np.where(gone.reshape([-1 if k == axis else 1 for k in range(x.ndim)]), 0, x)
    after = nn.shrink(network)
    port = network.inputs[0]
    x = random.normal(size=(3, *port.shape[1:])).astype("f")  # type: ignore[misc]
    first, second = network(x), after(x)
    np.testing.assert_allclose(second, first, atol=1e-5 * max(abs(first).max(), 1e-3), rtol=0)
    assert after.parameter_count <= network.parameter_count
    assert nn.shrink(after).parameter_count == after.parameter_count


def test_constants_go_into_the_bias() -> None:
    network = with_noise(nn.build((5,), [nn.Dense(6), nn.Activation("Sigmoid"), nn.Dense(3)]))
    network.parameters["dense1.weight"][[1, 4]] = 0
    _, after = shrunk(network, nn.Prune(1.0))
    assert after.parameters["dense1.weight"].shape == (4, 5)


def test_what_is_not_understood_stays() -> None:
    """Weights that two layers share, and channels that a softmax reads, are left."""
    parameters = {"w": np.eye(4, dtype="f"), "v": np.ones((2, 4), "f")}
    parameters["w"][1] = 0
    shared = [Node("Gemm", ("x", "w"), ("a",), {"transB": 1}), Node("Gemm", ("a", "w"), ("y",), {"transB": 1})]
    likely = [
        Node("Gemm", ("x", "w"), ("a",), {"transB": 1}), Node("Softmax", ("a",), ("b",)),
        Node("Gemm", ("b", "v"), ("y",), {"transB": 1}),
    ]  # fmt: skip
    for nodes in (shared, likely):
        network = Network(nodes, parameters, [Port("x", (None, 4))], ["y"])
        after = nn.shrink(network)
        assert after.parameters["w"].shape == (4, 4)
        x = RANDOM.normal(size=(3, 4)).astype("f")
        np.testing.assert_array_equal(after(x), network(x))


def test_a_layer_of_zeros_keeps_a_channel() -> None:
    network = with_noise(nn.mlp(4, (5,), 2))
    network.parameters["dense1.weight"][:] = 0
    network.parameters["dense1.bias"][:] = 0
    after = nn.shrink(network)
    assert after.parameters["dense1.weight"].shape == (1, 4)
    np.testing.assert_allclose(after(np.ones((2, 4), "f")), network(np.ones((2, 4), "f")))


def test_shapes_that_are_not_known() -> None:
    network = nn.build((None, 3), [nn.Dense(4), nn.Relu(), nn.Dense(2)])
    with pytest.raises(NetworkError, match="give one"):
        nn.shrink(network)
    smaller = nn.shrink(nn.compressed(network, nn.NeuronPrune(0.5)), {"x": (1, 5, 3)})
    assert smaller.parameters["dense1.weight"].shape == (3, 2)
