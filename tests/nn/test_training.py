"""Training, and files of weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from hpcblaz import nn
from hpcblaz.errors import ConfigurationError, DtypeError, FileFormatError, NetworkError, ShapeError, StorageError

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(300, 6)).astype("f")
Y = (X[:, 0] * X[:, 1] > 0).astype(int)


def test_a_problem_that_is_not_linear_is_learnt() -> None:
    for optimizer in (nn.SGD(0.1, 0.9), nn.SGD(0.1, 0.9, nesterov=False), nn.Adam(0.01, decay=1e-3)):
        network = nn.mlp(6, (32,), 2, seed=0)
        seen: list[nn.Epoch] = []
        history = nn.train(network, X, Y, optimizer, epochs=40, batch=32, schedule=nn.cosine(), progress=seen.append)
        assert nn.accuracy(network, X, Y) > 0.95
        assert seen == history.epochs and [epoch.number for epoch in seen] == list(range(1, 41))
        assert seen[-1].loss < seen[0].loss / 2


def test_the_same_seed_gives_the_same_weights() -> None:
    networks = []
    for seed in (3, 3, 4):
        layers = [nn.Dense(8), nn.Relu(), nn.Dropout(0.2), nn.Dense(2)]
        networks.append(nn.build((6,), layers, seed=0))
        nn.train(networks[-1], X, Y, nn.Adam(0.01), epochs=2, batch=50, seed=seed)
    first, same, other = (network.parameters["dense1.weight"] for network in networks)
    np.testing.assert_array_equal(first, same)
    assert (first != other).any()


def reference_steps(kind: str) -> Any:
    """Three steps on the gradients 1, 2, -1 of a weight that is 1, by the formulas."""
    w, speed, mean, square = 1.0, 0.0, 0.0, 0.0
    for t, g in enumerate((1.0, 2.0, -1.0), 1):
        if kind == "adam":
            mean, square = 0.9 * mean + 0.1 * g, 0.999 * square + 0.001 * g * g
            w -= 0.1 * (mean / (1 - 0.9**t)) / (np.sqrt(square / (1 - 0.999**t)) + 1e-8)
        else:
            speed = 0.9 * speed + g
            w -= 0.1 * (g + 0.9 * speed if kind == "nesterov" else speed)
    return w


@pytest.mark.parametrize("kind", ["adam", "nesterov", "momentum"])
def test_steps_of_optimizers(kind: str) -> None:
    optimizer: Any = nn.Adam(0.1) if kind == "adam" else nn.SGD(0.1, 0.9, nesterov=kind == "nesterov")
    weights = {"w": np.array([1.0])}
    for gradient in (1.0, 2.0, -1.0):
        optimizer.step(weights, {"w": np.array([gradient])})
    np.testing.assert_allclose(weights["w"], reference_steps(kind), rtol=1e-12)


def test_schedules() -> None:
    assert [nn.exponential(0.01)(s) for s in (0, 0.5, 1)] == pytest.approx([1, 0.1, 0.01])
    assert [nn.cosine(0.2, 0.5)(s) for s in (0, 0.25, 0.5, 0.75, 1)] == pytest.approx([0, 0.5, 1, 0.6, 0.2])
    assert [nn.steps({0.5: 0.1, 0.8: 0.01})(s) for s in (0, 0.5, 0.9)] == [1.0, 0.1, 0.01]
    assert nn.constant()(0.3) == 1


def test_stopping_early_keeps_the_best() -> None:
    network = nn.mlp(6, (16,), 2, seed=0)
    history = nn.train(
        network, X[:100], Y[:100], nn.Adam(0.05), epochs=200, validation=(X[200:], Y[200:]), patience=5, seed=1
    )
    assert history.stopped and history.best is not None and len(history.epochs) == history.best + 5
    best = max(epoch.validation for epoch in history.epochs if epoch.validation is not None)
    assert history.epochs[history.best - 1].validation == best == nn.accuracy(network, X[200:], Y[200:])


def test_gradients_can_be_adjusted() -> None:
    network = nn.mlp(6, (4,), 2, seed=0)
    before = network.parameters["dense1.weight"].copy()

    def mask(parameters: dict[str, Any], gradients: dict[str, Any]) -> None:
        gradients["dense1.weight"][:] = 0

    nn.train(network, X, Y, nn.SGD(0.1, 0.9), epochs=1, adjust=mask)
    np.testing.assert_array_equal(network.parameters["dense1.weight"], before)


@pytest.mark.parametrize("make", [lambda: nn.Adam(0.01), lambda: nn.SGD(0.1, 0.9)])
def test_a_training_goes_on_where_it_ended(make: Any, tmp_path: Path) -> None:
    options: dict[str, Any] = {"batch": 64, "validation": (X[200:], Y[200:]), "schedule": nn.cosine()}
    whole = nn.mlp(6, (8,), 2, seed=0)
    expected = nn.train(whole, X, Y, make(), epochs=6, **options)

    class Ended(Exception):
        pass

    def end(epoch: nn.Epoch) -> None:
        if epoch.number == 3:
            raise Ended

    path = str(tmp_path / "training.safetensors")
    with pytest.raises(Ended):
        nn.train(nn.mlp(6, (8,), 2, seed=0), X, Y, make(), epochs=6, checkpoint=path, progress=end, **options)
    network = nn.mlp(6, (8,), 2, seed=9)
    history = nn.train(network, X, Y, make(), epochs=6, checkpoint=path, **options)
    for name, x in whole.parameters.items():
        np.testing.assert_array_equal(network.parameters[name], x)
    assert [e.loss for e in history.epochs] == [e.loss for e in expected.epochs] and history.best == expected.best
    with pytest.raises(NetworkError, match=r"'dense1.weight' of shape \(8, 6\) instead of \(9, 6\)"):
        nn.train(nn.mlp(6, (9,), 2), X, Y, make(), epochs=6, checkpoint=path)
    Path(path).write_bytes(Path(path).read_bytes()[:-9])
    with pytest.raises(FileFormatError, match="truncated"):
        nn.train(network, X, Y, make(), epochs=7, checkpoint=path)


def test_what_cannot_be_trained_with_is_refused_before_work_is_lost() -> None:
    network = nn.mlp(6, (4,), 2)
    before = network.parameters["dense1.weight"].copy()
    bad = X.copy()
    bad[7, 3] = np.nan
    for error, text, arguments, options in (
        (NetworkError, "empty", (X[:0], Y[:0]), {}),
        (ShapeError, "a label for each of 300", (X, Y[:-1]), {}),
        (NetworkError, "labels from 0 to 1, got 0 to 2", (X, Y + (np.arange(300) == 299) * (2 - Y)), {}),
        (NetworkError, "integers", (X, Y.astype(float)), {}),
        (NetworkError, "NaN", (bad, Y), {}),
        (NetworkError, "labels from 0 to 1", (X, Y), {"validation": (X, Y + 1)}),
        (NetworkError, "empty", (X, Y), {"validation": (X[:0], Y[:0])}),
        (ShapeError, "shape", (X[:, :5], Y), {}),
        (ConfigurationError, "epoch", (X, Y), {"epochs": 0}),
        (ConfigurationError, "validation data", (X, Y), {"patience": 3}),
        (ConfigurationError, "batch", (X, Y), {"batch": 0}),
    ):
        with pytest.raises(error, match=text):
            nn.train(network, *arguments, nn.SGD(0.1), **options)
    for make in (
        lambda: nn.SGD(-1),
        lambda: nn.SGD(0.1, 1.0),
        lambda: nn.Adam(float("nan")),
        lambda: nn.exponential(0),
    ):
        with pytest.raises(ConfigurationError, match="expected"):
            make()
    with pytest.raises(ShapeError, match="share"):
        nn.build((3,), [nn.Dropout(1.0)])
    np.testing.assert_array_equal(network.parameters["dense1.weight"], before)


@pytest.mark.filterwarnings("ignore:overflow encountered", "ignore:invalid value encountered")
def test_a_loss_that_is_no_longer_finite_ends_the_training() -> None:
    with pytest.raises(NetworkError, match="learning rate smaller"):
        nn.train(nn.mlp(6, (4,), 2), X, Y, nn.SGD(1e30), epochs=5)


def test_a_picture_of_trainings(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    history = nn.train(nn.mlp(6, (4,), 2), X, Y, nn.SGD(0.1), epochs=3, validation=(X, Y))
    nn.plot_training(tmp_path / "curve.svg", {"sgd": history})
    assert b"right answers" in (tmp_path / "curve.svg").read_bytes() or (tmp_path / "curve.svg").stat().st_size > 1000
    with pytest.raises(ConfigurationError, match="png"):
        nn.plot_training(tmp_path / "curve.txt", {"sgd": history})


KINDS = ("?", "u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f2", "f4", "f8", ">f4")


@settings(max_examples=40)
@given(st.dictionaries(st.text(max_size=8).filter(lambda name: name != "__metadata__"), st.sampled_from(KINDS).flatmap(
    lambda kind: st_numpy.arrays(kind, st_numpy.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
), max_size=5))  # fmt: skip
def test_tensors_come_back(tmp_path_factory: Any, tensors: Any) -> None:
    path = tmp_path_factory.mktemp("tensors") / "t.safetensors"
    nn.save_tensors(path, tensors, {"a": "b"})
    found, metadata = nn.load_tensors(path)
    assert metadata == {"a": "b"} and set(found) == set(tensors)
    for name, x in tensors.items():
        assert found[name].dtype == x.dtype.newbyteorder("=") and found[name].shape == x.shape
        np.testing.assert_array_equal(found[name], x)


def test_the_package_safetensors_agrees(tmp_path: Path) -> None:
    package = pytest.importorskip("safetensors.numpy", reason="the package safetensors is not installed")
    tensors = {"w": RANDOM.normal(size=(3, 4)).astype("f"), "n": np.arange(5), "s": np.array(2.5, np.float16)}
    nn.save_tensors(tmp_path / "ours", tensors)
    package.save_file(tensors, tmp_path / "theirs")
    for found in (package.load_file(tmp_path / "ours"), nn.load_tensors(tmp_path / "theirs")[0]):
        for name, x in tensors.items():
            np.testing.assert_array_equal(found[name], x)
            assert found[name].dtype == x.dtype


def test_bfloat16_is_read(tmp_path: Path) -> None:
    header = json.dumps({"w": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}).encode()
    bits = np.array([1.5, -2.0], np.float32).view(np.uint32) >> 16
    (tmp_path / "b").write_bytes(len(header).to_bytes(8, "little") + header + bits.astype("<u2").tobytes())
    assert nn.load_tensors(tmp_path / "b")[0]["w"].tolist() == [1.5, -2.0]


def test_damaged_files_of_tensors_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t"
    nn.save_tensors(path, {"a": np.arange(10.0), "b": np.arange(4)})
    good = path.read_bytes()
    for size in range(len(good)):
        path.write_bytes(good[:size])
        with pytest.raises(FileFormatError, match="expected"):
            nn.load_tensors(path)
    path.write_bytes(good + b"x")
    with pytest.raises(FileFormatError, match="damaged"):
        nn.load_tensors(path)
    for header in (b"[]", b"{", b'{"a": 1}', b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, -4]}}',
                   b'{"a": {"dtype": "C64", "shape": [0], "data_offsets": [0, 0]}}', b"\xff\xfe",
                   b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}', b'{"__metadata__": 3}',
                   b'{"a": {"dtype": [], "shape": [1], "data_offsets": [0, 4]}}'):  # fmt: skip
        path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
        with pytest.raises(FileFormatError):
            nn.load_tensors(path)
    with pytest.raises(DtypeError, match="complex128"):
        nn.save_tensors(tmp_path / "c", {"z": np.ones(2, complex)})
    assert not (tmp_path / "c").exists()
    with pytest.raises(StorageError):
        nn.load_tensors(tmp_path / "nothing")


def test_weights_are_given_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "w"
    network = nn.mlp(6, (4,), 2, seed=0)
    nn.save_weights(path, network)
    other = nn.mlp(6, (4,), 2, seed=1)
    nn.load_weights(path, other)
    np.testing.assert_array_equal(other(X), network(X))
    nn.save_tensors(path, {"dense1.weight": np.zeros((4, 6), "f"), "dense1.bias": np.full(4, np.nan, "f")})
    with pytest.raises(NetworkError, match=r"NaN in 'dense1.bias', no 'dense2.weight', no 'dense2.bias'"):
        nn.load_weights(path, other)
    np.testing.assert_array_equal(other(X), network(X))
