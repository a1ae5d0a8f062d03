"""Networks: built, checked, folded, reported on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpcblaz import nn
from hpcblaz.errors import NetworkError, ShapeError
from hpcblaz.nn import Network, Node, Port

RANDOM = np.random.default_rng(0)
READY = {
    "lenet": (lambda: nn.lenet(seed=1), (3, 1, 28, 28)),
    "lstm": (lambda: nn.lstm_classifier(3, 5, 4, seed=1), (3, 7, 3)),
    "mlp": (lambda: nn.mlp(6, (5, 4), 3, seed=1), (3, 6)),
    "resnet": (lambda: nn.resnet((2, 12, 12), 4, (4, 6), seed=1), (3, 2, 12, 12)),
    "vgg": (lambda: nn.vgg((1, 12, 12), 4, (3, 5), seed=1), (3, 1, 12, 12)),
}
EVERY_LAYER = [
    nn.Conv2d(4, 3, padding=1),
    nn.BatchNorm(),
    nn.Activation("HardSwish"),
    nn.Conv2d(None, 3, 2, 1, groups="depthwise", bias=False),
    nn.Residual([nn.Conv2d(4, 1), nn.Silu()]),
    nn.AveragePool(2, 1),
    nn.MaxPool(2, 1, 1),
    nn.Conv2d(6, (3, 1), padding="same", dilations=(2, 1), groups=2),
    nn.Flatten(),
    nn.Dense(8),
    nn.LayerNorm(),
    nn.Dropout(0.5),
    nn.Dense(3, bias=False),
]


@pytest.mark.parametrize("name", READY)
def test_ready_networks(name: str) -> None:
    make, shape = READY[name]
    network = make()
    x = RANDOM.normal(size=shape).astype("f")
    y = network(x)
    assert y.dtype == np.float32 and y.shape[0] == 3 and np.isfinite(y).all()
    again = make()
    for key, value in network.parameters.items():
        np.testing.assert_array_equal(again.parameters[key], value)
    # one image does not depend on the others
    np.testing.assert_allclose(network(x[1:2]), y[1:2], rtol=1e-4, atol=1e-5)
    loss, gradients = nn.gradients(network, x, np.array([0, 1, 2]))
    assert np.isfinite(loss) and set(gradients) == set(network.trainable)


def test_words_are_embedded() -> None:
    network = nn.lstm_classifier(4, 3, 2, words=10, seed=0)
    assert network(np.array([[1, 2, 9], [0, 0, 1]])).shape == (2, 2)
    with pytest.raises(ShapeError, match="from -10 to 9"):
        network(np.array([[10]]))
    _, gradients = nn.gradients(network, np.array([[1, 1]]), np.array([0]))
    assert np.flatnonzero(gradients["embedding1.weight"].any(axis=1)).tolist() == [1]


@pytest.mark.parametrize("layer", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize("both", [False, True])
def test_last_state_is_that_of_the_sequence(layer: Any, both: bool) -> None:
    x = RANDOM.normal(size=(2, 5, 3)).astype("f")
    whole = nn.build((None, 3), [layer(4, sequences=True, both=both)], seed=1)(x)
    last = nn.build((None, 3), [layer(4, both=both)], seed=1)(x)
    assert whole.shape == (2, 5, 8 if both else 4)
    np.testing.assert_array_equal(last[:, :4], whole[:, -1, :4])
    np.testing.assert_array_equal(last[:, 4:], whole[:, 0, 4:])


@pytest.mark.parametrize("name", [*READY, "every"])
def test_gradients_of_whole_networks(name: str) -> None:
    if name == "every":
        network, shape = nn.build((2, 8, 8), EVERY_LAYER, seed=0), (3, 2, 8, 8)
    else:
        make, shape = READY[name]
        network = make()
    network = network.astype("float64")
    x, y = RANDOM.normal(size=shape), np.array([0, 1, 2])
    if name == "lenet":
        x = x[:1]
        y = y[:1]

    def loss() -> float:
        return nn.gradients(network, x, y, random=np.random.default_rng(5))[0]

    _, gradients = nn.gradients(network, x, y, random=np.random.default_rng(5))
    for key in network.trainable:
        direction = RANDOM.normal(size=network.parameters[key].shape)
        network.parameters[key] += 1e-6 * direction
        up = loss()
        network.parameters[key] -= 2e-6 * direction
        slope = (up - loss()) / 2e-6
        network.parameters[key] += 1e-6 * direction
        np.testing.assert_allclose((gradients[key] * direction).sum(), slope, rtol=1e-4, atol=1e-6)


def test_batch_statistics_are_kept() -> None:
    network = nn.build((2,), [nn.BatchNorm(momentum=0.75)])
    x = RANDOM.normal(3, 2, size=(50, 2)).astype("f")
    nn.gradients(network, x, np.zeros(50, int))
    np.testing.assert_allclose(network.parameters["norm1.mean"], 0.25 * x.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(network.parameters["norm1.variance"], 0.75 + 0.25 * x.var(axis=0), rtol=1e-5)
    with pytest.raises(ShapeError, match="more than one number"):
        nn.gradients(network, x[:1], np.zeros(1, int))


def trained_statistics(network: Network) -> Network:
    """Give batch normalisations something to do."""
    for key, value in network.parameters.items():
        if key.startswith("norm"):
            value += np.abs(RANDOM.normal(size=value.shape)).astype(value.dtype)
    return network


@pytest.mark.parametrize("name", [*READY, "every"])
def test_folded_networks_give_the_same(name: str) -> None:
    if name == "every":
        network, shape = nn.build((2, 8, 8), EVERY_LAYER, seed=0), (3, 2, 8, 8)
    else:
        make, shape = READY[name]
        network = make()
    network = trained_statistics(network).astype("float64")
    before = {key: value.copy() for key, value in network.parameters.items()}
    folded = nn.fold(network)
    x = RANDOM.normal(size=shape)
    np.testing.assert_allclose(folded(x), network(x), rtol=1e-9, atol=1e-11)
    assert "BatchNormalization" not in [node.operator for node in folded.nodes]
    assert "Dropout" not in [node.operator for node in folded.nodes]
    for key, value in before.items():
        np.testing.assert_array_equal(network.parameters[key], value)


SCALARS = {"three": 3.0, "zero": 0.0, "six": 6.0, "two": 2.0}


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("bound", ["six", "two"])
def test_hard_swish_is_found_and_nothing_else(late: bool, bound: str) -> None:
    nodes = [Node("Add", ("x", "three"), ("a",)), Node("Clip", ("a", "zero", bound), ("b",))]
    if late:
        nodes += [Node("Mul", ("x", "b"), ("c",)), Node("Div", ("c", "six"), ("y",))]
    else:
        nodes += [Node("Div", ("b", "six"), ("c",)), Node("Mul", ("c", "x"), ("y",))]
    parameters = {key: np.array(value) for key, value in SCALARS.items()}
    network = Network(nodes, parameters, [Port("x", (None,), "float64")], ["y"])
    folded = nn.fold(network)
    assert [node.operator for node in folded.nodes] == (
        ["HardSwish"] if bound == "six" else ["Add", "Clip", *(["Mul", "Div"] if late else ["Div", "Mul"])]
    )
    x = np.linspace(-5, 5, 41)
    np.testing.assert_allclose(folded(x), network(x), atol=1e-15)
    # what else is read of it must stay
    both = network.replace(outputs=["y", "b"])
    np.testing.assert_allclose(nn.fold(both)(x)[1], both(x)[1])


@settings(max_examples=25)
@given(st.integers(0, 2**32), st.integers(1, 3), st.booleans())
def test_a_bias_by_itself_is_folded(seed: int, groups: int, matrix: bool) -> None:
    random = np.random.default_rng(seed)
    if matrix:
        nodes = [
            Node("Gemm", ("x", "w"), ("a",), {"transB": 1}),
            Node("Add", ("b", "a"), ("c",)),
            Node("Mul", ("c", "s"), ("y",)),
        ]
        parameters = {"w": random.normal(size=(4, 3)), "b": random.normal(size=4), "s": random.normal(size=(1, 4))}
        x = random.normal(size=(2, 3))
    else:
        nodes = [
            Node("Conv", ("x", "w"), ("a",), {"group": groups}),
            Node("Mul", ("a", "s"), ("c",)),
            Node("Add", ("c", "b"), ("y",)),
        ]
        parameters = {
            "w": random.normal(size=(2 * groups, 2, 1, 1)),
            "b": random.normal(size=(2 * groups, 1, 1)),
            "s": random.normal(size=1),
        }
        x = random.normal(size=(2, 2 * groups, 3, 3))
    network = Network(nodes, parameters, [Port("x", (None,) * x.ndim, "float64")], ["y"])
    folded = nn.fold(network)
    assert len(folded.nodes) == 1
    np.testing.assert_allclose(folded(x), network(x), rtol=1e-10, atol=1e-12)


def test_a_bias_along_another_axis_is_not_folded() -> None:
    nodes = [Node("Conv", ("x", "w"), ("a",)), Node("Add", ("a", "b"), ("y",))]
    parameters = {"w": np.ones((3, 3, 1, 1)), "b": np.arange(3.0)}
    network = Network(nodes, parameters, [Port("x", (None, 3, 3, 3), "float64")], ["y"])
    x = RANDOM.normal(size=(2, 3, 3, 3))
    np.testing.assert_allclose(nn.fold(network)(x), network(x))


def test_networks_that_make_no_sense_are_refused() -> None:
    port = Port("x", (None, 2), "float64")
    relu = Node("Relu", ("x",), ("y",))
    cases = {
        r"Foo \(2 times\), com.bar.Baz \(1 times\)": ([Node("Foo", ("x",), ("a",)), Node("Foo", ("a",), ("b",)),
                                                    Node("com.bar.Baz", ("b",), ("y",))], {}, ["y"]),
        "value 'z'": ([Node("Relu", ("z",), ("y",))], {}, ["y"]),
        "'y' again": ([relu, relu], {}, ["y"]),
        "outputs": ([relu], {}, ["z"]),
        "NaN in 'w'": ([relu], {"w": np.array([1, np.nan])}, ["y"]),
        "'x' as an input and as a parameter": ([relu], {"x": np.ones(2)}, ["y"]),
    }  # fmt: skip
    for text, (nodes, parameters, outputs) in cases.items():
        with pytest.raises(NetworkError, match=text):
            Network(nodes, parameters, [port], outputs)
    network = Network([relu], {}, [port], ["y"])
    with pytest.raises(ShapeError, match=r"'x' of shape \(any, 2\), got \(3, 1\)"):
        network(np.ones((3, 1)))
    with pytest.raises(ShapeError, match="1 arrays"):
        network(np.ones((3, 2)), np.ones(1))
    with pytest.raises(ShapeError, match="layer 1, Dense"):
        nn.build((1, 4, 4), [nn.Conv2d(2, 3), nn.Dense(2), nn.MaxPool(9)])
    with pytest.raises(NetworkError, match="layers"):
        nn.build((1,), [])
    with pytest.raises(ShapeError, match="two equal shapes"):
        nn.build((2, 4, 4), [nn.Residual([nn.Conv2d(3, 1)])])


def test_report_counts() -> None:
    found = nn.report(nn.build((3, 8, 8), [nn.Conv2d(4, 3), nn.Relu(), nn.Flatten(), nn.Dense(5)]), {"x": (2, 3, 8, 8)})
    conv, relu, flat, dense = found.lines
    assert (conv.parameters, conv.bytes, conv.shape) == (4 * 27 + 4, 4 * (4 * 27 + 4), (2, 4, 6, 6))
    assert conv.flops == 2 * 4 * 36 * (2 * 27)  # a bias is one more addition
    assert (relu.flops, flat.flops) == (2 * 4 * 36, 0)
    assert dense.flops == 2 * 5 * 2 * 144
    assert found.parameters == sum(line.parameters for line in found.lines)
    assert found.outputs == {"gemm1": (2, 5)} or list(found.outputs.values()) == [(2, 5)]
    with pytest.raises(NetworkError, match="a shape for the input 'x'"):
        nn.report(nn.lstm_classifier(3, 4, 2))
    with pytest.raises(NetworkError, match="got one of 'z'"):
        nn.report(nn.lenet(), {"z": (1,)})


def test_freezing_and_copies() -> None:
    network = nn.lenet()
    network.freeze("conv*")
    assert network.trainable == [f"dense{k}.{part}" for k in (1, 2, 3) for part in ("weight", "bias")]
    copy = network.copy()
    copy.parameters["dense1.bias"] += 1
    assert not network.parameters["dense1.bias"].any() and copy.trainable == network.trainable
    assert network.astype("float64")(np.zeros((1, 1, 28, 28))).dtype == np.float64
