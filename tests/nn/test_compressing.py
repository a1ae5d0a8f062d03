"""Networks made smaller and compared, by calls and by commands; the files run in onnxruntime."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpcblaz import nn
from hpcblaz.cli.main import main
from hpcblaz.errors import ConfigurationError, HpcblazError, NetworkError, ShapeError

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(40, 1, 12, 12)).astype("f")


@pytest.fixture(name="network", scope="module")
def _network() -> nn.Network:
    return nn.build((1, 12, 12), [
        nn.Conv2d(8, 3), nn.BatchNorm(), nn.Relu(), nn.Conv2d(8, 3), nn.Relu(), nn.Flatten(), nn.Dense(12), nn.Relu(),
        nn.Dense(4),
    ], seed=1)  # fmt: skip


@pytest.mark.parametrize(
    "text",
    [
        "FilterPrune(0.5)+Quantize(int8)", "StructurePrune(0.5)", "Quantize(int8, False)", "Prune(0.5)",
        "NeuronPrune(0.5)+Quantize(int8, affine=True)", "FilterPrune(0.5)+Quantize(float16)", "Quantize(bfloat16)",
        "Quantize(ternary)", "Quantize(int4, False, affine=True)",
    ],
)  # fmt: skip
def test_files_give_what_the_scheme_gives(text: str, network: nn.Network, tmp_path: Path) -> None:
    scheme = nn.parse_scheme(text)
    parts = list(scheme.schemes)
    last = parts.pop() if isinstance(parts[-1], nn.Quantize) else nn.Prune(1.0)
    pruned = nn.shrink(nn.compressed(network, nn.Compose(parts))) if parts else network
    expected = nn.compressed(pruned, last)(X)
    smaller = nn.compress(network, scheme)
    path = tmp_path / "s.onnx"
    nn.write_onnx(path, smaller)
    onnx.checker.check_model(str(path), full_check=True)
    theirs = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"x": X})[0]
    for found in (smaller(X), nn.read_onnx(path)(X), theirs):
        np.testing.assert_allclose(found, expected, atol=1e-5 * abs(expected).max(), rtol=0)


def test_calibrated_activations(network: nn.Network, tmp_path: Path) -> None:
    ranges = nn.calibrate(network, X)
    assert len(ranges) == 4 and all(least <= 0 <= most for least, most in ranges.values())
    assert ranges["x"] == (pytest.approx(X.min()), pytest.approx(X.max()))
    narrow = nn.calibrate(network, X, percentile=99)
    assert narrow["x"][1] < ranges["x"][1]
    path = tmp_path / "s.onnx"
    smaller = nn.compress(network, nn.Quantize("int8"), X)
    nn.write_onnx(path, smaller)
    assert [node.operator for node in smaller.nodes].count("QuantizeLinear") == 4
    theirs = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, {"x": X})[0]
    reference = network(X)
    for found in (smaller(X), theirs):
        assert abs(found - reference).max() < 0.05 * abs(reference).max()
    assert abs(smaller(X) - nn.compress(network, nn.Quantize("int8"))(X)).max() > 0
    with pytest.raises(ConfigurationError, match="percentile"):
        nn.calibrate(network, X, percentile=20)
    with pytest.raises(NetworkError, match="none"):
        nn.calibrate(network, X[:0])
    with pytest.raises(NetworkError, match="elsewhere"):
        nn.quantized(network, nn.Quantize("int8"), {"elsewhere": (0.0, 1.0)})


def test_comparisons(network: nn.Network) -> None:
    labels = network(X).argmax(axis=1)
    same = nn.compare(network, network, X, labels)
    assert same.agreement == 1 and same.divergence == same.largest_difference == 0 and same.accuracy == (1, 1)
    other = network.copy()
    other.parameters["dense2.bias"] = other.parameters["dense2.bias"] + np.array([100, 0, 0, 0], "f")
    found = nn.compare(network, other, X, labels)
    share = float((labels == 0).mean())
    assert found.agreement == pytest.approx(share) and found.accuracy == (1, pytest.approx(share))
    assert found.divergence > 1 and found.largest_difference > 1
    assert all(value == (1.0 if name == "0" else 0.0) for name, value in found.agreement_by_class.items())


def test_data_that_do_not_fit(network: nn.Network) -> None:
    bad = X.copy()
    bad[0, 0, 0, 0] = np.nan
    for data in (X[:0], X[:, :, :5], X[0], bad, X.astype("U4")):
        with pytest.raises(HpcblazError, match="expected"):
            nn.compare(network, network, data)
    for labels in (np.zeros(3, int), np.full(40, 4), np.full(40, 0.5)):
        with pytest.raises(HpcblazError, match="expected"):
            nn.compare(network, network, X, labels)
    with pytest.raises(ShapeError, match="equal shapes"):
        nn.compare(network, nn.lenet((1, 12, 12), 3), X)


def run(capsys: Any, *arguments: Any) -> dict[str, Any]:
    assert main([*map(str, arguments), "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_commands(network: nn.Network, tmp_path: Path, capsys: Any) -> None:
    model, small, data, labels = (tmp_path / name for name in ("m.onnx", "s.onnx", "x.npy", "y.npy"))
    nn.write_onnx(model, network)
    np.save(data, X)
    np.save(labels, network(X).argmax(axis=1))
    scheme = "FilterPrune(0.5)+Quantize(int8)"
    found = run(capsys, "nn", "compress", model, "--scheme", scheme, "-o", small)
    assert found["bytes"] == [model.stat().st_size, small.stat().st_size] and found["bytes"][0] > 3 * found["bytes"][1]
    assert found["flops"][0] > 2 * found["flops"][1] and found["parameters"][0] > 1.3 * found["parameters"][1]
    found = run(capsys, "nn", "compare", model, small, "--data", data, "--labels", labels)
    assert found["examples"] == 40 and found["accuracy"][0] == 1 and 0 <= found["agreement"] <= 1
    assert found["accuracy"][1] == pytest.approx(found["agreement"])
    assert main(["nn", "compress", str(model), "--scheme", scheme, "-o", str(small), "--data", str(data)]) == 0
    assert main(["nn", "compare", str(model), str(small), "--data", str(data)]) == 0
    assert "the same answer" in capsys.readouterr().out


@pytest.mark.parametrize(
    "scheme",
    ["FilterPrune(2)", "Prune(0)", "Prune('a')", "BlockPrune(0.5, (4, 4))", "FilterPrune(0.1)", "Quantize(int3)",
     "Nothing(1)", "Prune(0.5", "", "Prune(0.5)-Prune(0.5)", "Quantize(int8)+Prune(0.5)", "Prune(0.5, [a])",
     "Prune(0.5, leave='conv1.weight')", "Prune(0.5, leave=['conv9'])", "Prune(0.5, more=1)", "NMPrune(2, 4)"],
)  # fmt: skip
def test_commands_refuse(scheme: str, network: nn.Network, tmp_path: Path, capsys: Any) -> None:
    model, small = tmp_path / "m.onnx", tmp_path / "s.onnx"
    nn.write_onnx(model, network)
    assert main(["nn", "compress", str(model), "--scheme", scheme, "-o", str(small)]) == 1
    assert "expected" in capsys.readouterr().err and not small.exists()


def test_commands_refuse_files(network: nn.Network, tmp_path: Path, capsys: Any) -> None:
    model, data = tmp_path / "m.onnx", tmp_path / "x.npy"
    nn.write_onnx(model, network)
    np.savez(tmp_path / "several.npz", x=X)
    data.write_bytes(b"\x93NUMPY")
    for other in (data, tmp_path / "several.npz", tmp_path / "none.npy", model):
        assert main(["nn", "compare", str(model), str(model), "--data", str(other)]) == 1
    assert main(["nn", "compress", str(model), "--scheme", "Prune(0.5)", "-o", str(model)]) == 1
    assert "another file" in capsys.readouterr().err
