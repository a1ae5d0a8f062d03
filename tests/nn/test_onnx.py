"""ONNX in and out: against onnxruntime, on networks of ours and of others."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hpcblaz import nn
from hpcblaz.cli.main import main
from hpcblaz.errors import FileFormatError, HpcblazError, NetworkError, ShapeError, StorageError
from hpcblaz.nn import Network, Node, Port

onnx = pytest.importorskip("onnx", reason="the package onnx is not installed")
runtime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
from onnx import helper, numpy_helper  # noqa: E402  after the skip

RANDOM = np.random.default_rng(0)
TOLERANCE = 1e-5
ROUNDING = 1.2e-7  # of 1 in float32: onnxruntime's small probabilities are what is left of 1


def draw(*shape: int) -> Any:
    return RANDOM.normal(size=shape).astype("f")


def session(model: Any) -> Any:
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return runtime.InferenceSession(model, options)


def assert_close(got: Any, expected: Any) -> None:
    assert got.shape == expected.shape and got.dtype == expected.dtype
    if expected.dtype.kind != "f":
        np.testing.assert_array_equal(got, expected)
        return
    scale = max(float(np.abs(expected[np.isfinite(expected)]).max(initial=0)), 1e-30)
    np.testing.assert_allclose(got, expected, rtol=TOLERANCE, atol=TOLERANCE * scale + ROUNDING)


def compare(path: Path, arrays: Sequence[Any]) -> Network:
    """Read a file, and compare what we and onnxruntime give for it, and for what we write of it."""
    network = nn.read_onnx(path)
    theirs = session(str(path))
    feeds = {port.name: x for port, x in zip(network.inputs, arrays, strict=True)}
    expected = theirs.run(None, feeds)
    got = network(*arrays)
    for one, other in zip(got if isinstance(got, tuple) else (got,), expected, strict=True):
        assert_close(one, other)
    written = session(nn.to_onnx(network))
    for one, other, output in zip(written.run(None, feeds), expected, written.get_outputs(), strict=True):
        assert_close(one, other)
        if output.shape:
            assert len(output.shape) == other.ndim
            assert all(not isinstance(n, int) or n == m for n, m in zip(output.shape, other.shape, strict=True))
    folded = nn.fold(network)(*arrays)
    for one, other in zip(folded if isinstance(folded, tuple) else (folded,), expected, strict=True):
        assert_close(one, other)
    return network


NETWORKS: dict[str, tuple[Callable[[], Network], tuple[int, ...]]] = {
    "gru": (lambda: nn.build((None, 3), [nn.GRU(4, sequences=True, both=True), nn.GRU(3)], seed=2), (2, 5, 3)),
    "lenet": (nn.lenet, (3, 1, 28, 28)),
    "lstm": (lambda: nn.lstm_classifier(3, 5, 4), (2, 6, 3)),
    "mlp": (lambda: nn.mlp(6, (5,), 3), (4, 6)),
    "resnet": (lambda: nn.resnet((3, 16, 16), 4, (4, 8)), (2, 3, 16, 16)),
    "vgg": (lambda: nn.vgg((1, 12, 12), 4, (4, 6)), (2, 1, 12, 12)),
    "others": (
        lambda: nn.build(
            (4, 9),
            [nn.Conv1d(8, 3, 2, 1, groups=2), nn.Activation("Gelu"), nn.Silu(), nn.LayerNorm(), nn.Dropout(0.3),
             nn.Activation("HardSigmoid"), nn.AveragePool(2, 1, 1), nn.Flatten(), nn.Activation("Softmax")],
        ),
        (2, 4, 9),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NETWORKS)
def test_our_networks_run_elsewhere_and_come_back(name: str, tmp_path: Path) -> None:
    make, shape = NETWORKS[name]
    network = make()
    x = RANDOM.normal(size=shape).astype("f")
    path = tmp_path / "network.onnx"
    nn.write_onnx(path, network)
    onnx.checker.check_model(str(path), full_check=True)
    again = compare(path, [x])
    np.testing.assert_array_equal(again(x), network(x))
    output = session(str(path)).get_outputs()[0]
    assert [n for n in output.shape if isinstance(n, int)] == list(network(x).shape[1:])
    target = network(x) + 1
    loss, gradients = nn.gradients(network, x, target, nn.squared_error, training=False)
    other, others = nn.gradients(again, x, target, nn.squared_error, training=False)
    assert loss == other and set(gradients) == set(others)


def model(
    nodes: Sequence[Any], inputs: dict[str, Any], outputs: Sequence[str], constants: dict[str, Any], version: int
) -> Any:
    """A model of the dtypes and shapes of examples."""
    ports = [
        helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape) for k, x in inputs.items()
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        ports,
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(x, k) for k, x in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", version)], ir_version=8)
    for output, found in zip(made.graph.output, onnx.shape_inference.infer_shapes(made).graph.output, strict=True):
        output.CopyFrom(found)
    return made


F = draw(2, 3, 4, 5)
I64 = np.array([1, -1], np.int64)
CASES: dict[str, tuple[Any, ...]] = {
    # name: operator, attributes, inputs (the first is no constant), versions
    "argmax": ("ArgMax", {"axis": 2, "keepdims": 0}, [F], (13,)),
    "average pool": ("AveragePool", {"kernel_shape": [3, 2], "strides": [2, 2], "pads": [1, 0, 1, 1]}, [F], (11,)),
    "average pool, counted": (
        "AveragePool",
        {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1},
        [F],
        (11,),
    ),
    "average pool, ceil": ("AveragePool", {"kernel_shape": [2, 2], "strides": [3, 3], "ceil_mode": 1}, [F], (11, 19)),
    "max pool, ceil": (
        "MaxPool",
        {"kernel_shape": [3, 2], "strides": [2, 2], "ceil_mode": 1, "pads": [1, 0, 0, 0]},
        [F],
        (12,),
    ),
    "max pool, dilated": ("MaxPool", {"kernel_shape": [2, 2], "dilations": [2, 3]}, [F], (12,)),
    "clip, old": ("Clip", {"min": -0.5, "max": 0.5}, [F], (7,)),
    "clip": ("Clip", {}, [F, np.array(-0.5, "f"), None], (13,)),
    "conv, same upper": ("Conv", {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, [F, draw(2, 3, 3, 2)], (11,)),
    "conv, same lower": ("Conv", {"auto_pad": "SAME_LOWER"}, [F, draw(2, 3, 2, 4)], (11,)),
    "conv, valid": ("Conv", {"auto_pad": "VALID", "dilations": [2, 1]}, [F, draw(2, 3, 2, 2)], (11,)),
    "dequantize": (
        "DequantizeLinear",
        {"axis": 1},
        [np.arange(12, dtype=np.int8).reshape(2, 3, 2), np.array([0.5, 1, 2], "f"), np.array([0, 1, -2], np.int8)],
        (13,),
    ),
    "quantize": (
        "QuantizeLinear",
        {"axis": 1},
        [3 * F, np.array([0.5, 1, 0.01], "f"), np.array([0, 1, -2], np.int8)],
        (13,),
    ),
    "div of integers": ("Div", {}, [np.array([7, -7, 9]), np.array([2, 2, -4])], (14,)),
    "elu": ("Elu", {"alpha": 0.7}, [F], (7,)),
    "expand": ("Expand", {}, [F[:, :1], np.array([3, 1, 1])], (13,)),
    "flatten": ("Flatten", {"axis": 2}, [F], (13,)),
    "gather": ("Gather", {"axis": -2}, [F, np.array([[0, -1], [2, 1]])], (13,)),
    "gemm": ("Gemm", {"transA": 1, "alpha": 0.5, "beta": 2.0}, [F[0, :, :, 0], draw(3, 6), np.ones(6, "f")], (11,)),
    "hard sigmoid": ("HardSigmoid", {}, [3 * F], (7,)),
    "leaky relu": ("LeakyRelu", {"alpha": 0.3}, [F], (7,)),
    "log softmax, old": ("LogSoftmax", {}, [F], (11,)),
    "log softmax": ("LogSoftmax", {}, [F], (13,)),
    "norm": ("ReduceL2", {"axes": [1, 3], "keepdims": 0}, [F], (11,)),
    "norm, new": ("ReduceL2", {}, [F, np.array([1])], (18,)),
    "pad, old": ("Pad", {"pads": [0, 0, 1, 2, 0, 0, 0, 1], "value": 1.5}, [F], (7,)),
    "pad, reflected": ("Pad", {"mode": "reflect"}, [F, np.array([0, 0, 1, 2, 0, 0, 3, 1])], (13,)),
    "pad, of axes": ("Pad", {}, [F, np.array([1, 2]), np.array(2, "f"), np.array([-1])], (18,)),
    "product": ("ReduceProd", {"axes": [2]}, [F], (13,)),
    "mean of all": ("ReduceMean", {}, [F], (13,)),
    "no mean": ("ReduceSum", {"noop_with_empty_axes": 1}, [F], (13,)),
    "sum, old": ("ReduceSum", {"axes": [0], "keepdims": 0}, [F], (11,)),
    "reshape": ("Reshape", {}, [F, np.array([0, -1, 2])], (13,)),
    "reshape, zero": ("Reshape", {"allowzero": 1}, [F[:0], np.array([3, 0])], (14,)),
    "slice, old": ("Slice", {"starts": [1, -3], "ends": [99, -1], "axes": [1, 3]}, [F], (9,)),
    "slice, backward": (
        "Slice",
        {},
        [F, np.array([-1, 3]), np.array([-99, 0]), np.array([3, 2]), np.array([-2, -1])],
        (13,),
    ),
    "slice, nothing": ("Slice", {}, [F, np.array([5]), np.array([2]), np.array([3])], (13,)),
    "softmax, old": ("Softmax", {"axis": 2}, [F], (11,)),
    "softmax": ("Softmax", {"axis": 2}, [F], (13,)),
    "squeeze, old": ("Squeeze", {"axes": [1]}, [F[:, :1]], (11,)),
    "squeeze": ("Squeeze", {}, [F[:1, :1]], (13,)),
    "transpose": ("Transpose", {"perm": [1, 3, 0, 2]}, [F], (13,)),
    "unsqueeze, old": ("Unsqueeze", {"axes": [0, 3]}, [F[0]], (11,)),
    "unsqueeze": ("Unsqueeze", {}, [F[0], np.array([-1, 0])], (13,)),
    "where": ("Where", {}, [F > 0, F, np.array(7, "f")], (9,)),
    "cast": ("Cast", {"to": 7}, [3 * F], (13,)),
    "shape": ("Shape", {"start": 1, "end": -1}, [F], (15,)),
    "pow": ("Pow", {}, [np.abs(F), np.array(2, np.int64)], (13,)),
    "gelu": ("Gelu", {"approximate": "tanh"}, [F], (20,)),
    "layer normalization": ("LayerNormalization", {"axis": 2}, [F, np.ones((4, 5), "f"), F[0, 0]], (17,)),
    "lstm": (
        "LSTM",
        {"hidden_size": 2, "direction": "reverse"},
        [F[0], draw(1, 8, 5), draw(1, 8, 2), draw(1, 16), None, draw(1, 4, 2), draw(1, 4, 2)],
        (14,),
    ),
    "gru": (
        "GRU",
        {"hidden_size": 2, "direction": "bidirectional"},
        [F[0], draw(2, 6, 5), draw(2, 6, 2), draw(2, 12)],
        (14,),
    ),
    "gru, late": ("GRU", {"hidden_size": 2, "linear_before_reset": 1}, [F[0], draw(1, 6, 5), draw(1, 6, 2)], (14,)),
}
CASES |= {name.lower(): (name, {}, [np.abs(F) + 0.1], (13,)) for name in (
    "Abs", "Ceil", "Erf", "Exp", "Floor", "GlobalAveragePool", "GlobalMaxPool", "HardSwish", "Identity", "Log", "Neg",
    "ReduceMax", "ReduceMin", "Reciprocal", "Relu", "Round", "Sigmoid", "Sign", "Softplus", "Sqrt", "Tanh",
    "IsNaN", "Size",
)}  # fmt: skip
CASES["hardswish"] = (*CASES["hardswish"][:3], (14,))
CASES |= {name.lower(): (name, {}, [F, F[0, :, :1]], (13,)) for name in (
    "Add", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Min", "Mul", "Sub", "Sum",
)}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_operators(name: str, tmp_path: Path) -> None:
    operator, attributes, operands, versions = CASES[name]
    names = [f"i{k}" if x is not None else "" for k, x in enumerate(operands)]
    count = {"LSTM": 3, "GRU": 2}.get(operator, 1)
    outputs = [f"o{k}" for k in range(count)]
    constants = {k: x for k, x in zip(names[1:], operands[1:], strict=True) if k}
    for version in versions:
        node = helper.make_node(operator, names, outputs, **attributes)
        path = tmp_path / f"{version}.onnx"
        onnx.save(model([node], {"i0": operands[0]}, outputs, constants, version), path)
        compare(path, [operands[0]])


@pytest.mark.parametrize("version", [11, 18])
def test_split(version: int, tmp_path: Path) -> None:
    whole = helper.make_node("Split", ["x"], ["a", "b"], axis=2, **({"num_outputs": 2} if version > 13 else {}))
    onnx.save(model([whole], {"x": F}, ["a", "b"], {}, version), tmp_path / "1.onnx")
    compare(tmp_path / "1.onnx", [F])
    if version > 13:
        parts = helper.make_node("Split", ["x", "n"], ["a", "b"], axis=1)
        onnx.save(model([parts], {"x": F}, ["a", "b"], {"n": np.array([1, 2])}, version), tmp_path / "2.onnx")
    else:
        parts = helper.make_node("Split", ["x"], ["a", "b"], axis=1, split=[1, 2])
        onnx.save(model([parts], {"x": F}, ["a", "b"], {}, version), tmp_path / "2.onnx")
    compare(tmp_path / "2.onnx", [F])


def test_branches_and_constants(tmp_path: Path) -> None:
    def branch(value: float) -> Any:
        inner = [
            helper.make_node("Constant", [], ["c"], value_float=value),
            helper.make_node("Mul", ["x", "c"], ["d"]),
            helper.make_node("Identity", ["d"], ["e"]),
        ]
        return helper.make_graph(inner, "b", [], [helper.make_tensor_value_info("e", 1, None)])

    nodes = [
        helper.make_node("ReduceSum", ["x"], ["s"], keepdims=0),
        helper.make_node("Constant", [], ["zero"], value=numpy_helper.from_array(np.array(0, "f"))),
        helper.make_node("Greater", ["s", "zero"], ["p"]),
        helper.make_node("If", ["p"], ["y"], then_branch=branch(2.0), else_branch=branch(-3.0)),
    ]
    onnx.save(model(nodes, {"x": F}, ["y"], {}, 13), tmp_path / "if.onnx")
    compare(tmp_path / "if.onnx", [F])
    compare(tmp_path / "if.onnx", [-F])


def test_constants_are_folded_and_bfloat16_becomes_float32(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["h"], ["w"], to=1),
        helper.make_node("Transpose", ["w"], ["t"]),
        helper.make_node("MatMul", ["x", "t"], ["y"]),
    ]
    half = helper.make_tensor("h", onnx.TensorProto.BFLOAT16, (2, 5), np.arange(10).tolist())
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", 1, F.shape)],
                              [helper.make_tensor_value_info("y", 1, None)], [half])  # fmt: skip
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(made, tmp_path / "b.onnx")
    network = nn.read_onnx(tmp_path / "b.onnx")
    assert [node.operator for node in network.nodes] == ["MatMul"] and list(network.parameters) == ["t"]
    np.testing.assert_allclose(network(F), F @ np.arange(10, dtype="f").reshape(2, 5).T, rtol=1e-6)


def test_data_in_files_of_their_own(tmp_path: Path) -> None:
    weights = draw(5, 64)
    made = model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"x": F}, ["y"], {"w": weights}, 13)
    path = tmp_path / "outer.onnx"
    onnx.save(made, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    compare(path, [F])
    (tmp_path / "w.bin").write_bytes((tmp_path / "w.bin").read_bytes()[:-1])
    with pytest.raises(FileFormatError, match=r"'w\.bin' is truncated: 1279 of 1280 bytes"):
        nn.read_onnx(path)
    (tmp_path / "w.bin").unlink()
    with pytest.raises(FileFormatError, match=r"'w\.bin' is not there"):
        nn.read_onnx(path)
    (tmp_path / "w.bin").symlink_to("/etc/hostname")
    with pytest.raises(FileFormatError, match=r"'w\.bin' is not beside the file"):
        nn.read_onnx(path)


def test_what_cannot_be_read_is_named_all_at_once(tmp_path: Path) -> None:
    path = tmp_path / "bad.onnx"
    nodes = [
        helper.make_node("Einsum", ["x"], ["a"], equation="abcd->abdc"),
        helper.make_node("Einsum", ["a"], ["b"], equation="abcd->abdc"),
        helper.make_node("Foo", ["b"], ["c"], domain="com.bar"),
        helper.make_node("Pad", ["c", "p"], ["d"], mode="wrap"),
        helper.make_node("LSTM", ["d", "d", "d"], ["y"], hidden_size=2, clip=1.0),
    ]
    graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("x", 1, [None])],
                              [helper.make_tensor_value_info("y", 1, None)],
                              [numpy_helper.from_array(np.array([0, 1]), "p")])  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)]), path)
    with pytest.raises(NetworkError) as error:
        nn.read_onnx(path)
    for text in (
        "Einsum (2 times)",
        "com.bar.Foo (1 times)",
        "Pad of mode 'wrap' (1 times)",
        "LSTM with clip",
        str(path),
    ):
        assert text in str(error.value)
    weights = np.array([1, np.nan], "f")
    onnx.save(
        model([helper.make_node("Add", ["x", "w"], ["y"])], {"x": F[0, 0, 0, :2]}, ["y"], {"w": weights}, 13), path
    )
    with pytest.raises(NetworkError, match="NaN in 'w'"):
        nn.read_onnx(path)
    onnx.save(model([helper.make_node("Relu", ["x"], ["y"])], {"x": F}, ["y"], {}, 6), path)
    with pytest.raises(NetworkError, match="version 7"):
        nn.read_onnx(path)


def test_files_that_are_no_networks_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "n.onnx"
    with pytest.raises(StorageError):
        nn.read_onnx(path)
    nn.write_onnx(path, nn.mlp(4, (3,), 2))
    good = path.read_bytes()
    for bad in (b"", b"not a network", good[: len(good) // 2], good[:-3], RANDOM.bytes(1000)):
        path.write_bytes(bad)
        with pytest.raises((FileFormatError, NetworkError)):
            nn.read_onnx(path)


@pytest.mark.filterwarnings("ignore")  # of arithmetic with damaged weights
def test_damaged_files_are_refused_or_computed(tmp_path: Path) -> None:
    """Nothing but an error of this package comes out of a file in which some bytes are wrong."""
    path = tmp_path / "n.onnx"
    layers = [nn.Conv1d(3, 3), nn.BatchNorm(), nn.MaxPool(2), nn.LSTM(2), nn.Dense(2)]
    good = nn.to_onnx(nn.build((2, 6), layers, seed=0))
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(500):
        bad = bytearray(good)
        for place in random.integers(len(bad), size=random.integers(1, 4)):
            bad[place] = random.integers(256)
        path.write_bytes(bad)
        try:
            network = nn.read_onnx(path)
            network(np.zeros((1, 2, 6), "f"))
            nn.report(nn.fold(network))
        except HpcblazError:
            refused += 1
    assert 0 < refused < 500


def test_a_wrong_shape_is_refused(tmp_path: Path) -> None:
    nn.write_onnx(tmp_path / "n.onnx", nn.lenet())
    network = nn.read_onnx(tmp_path / "n.onnx")
    with pytest.raises(ShapeError, match=r"'x' of shape \(any, 1, 28, 28\), got \(1, 1, 27, 28\)"):
        network(np.zeros((1, 1, 27, 28), "f"))


def test_a_failed_write_leaves_the_file(tmp_path: Path) -> None:
    path = tmp_path / "n.onnx"
    network = nn.mlp(4, (3,), 2)
    nn.write_onnx(path, network)
    before = path.read_bytes()
    broken = Network([Node("Cast", ("x",), ("y",), {"to": object()})], {}, [Port("x", (1,))], ["y"])
    with pytest.raises((TypeError, ValueError)):
        nn.write_onnx(path, broken)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_report_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "n.onnx"
    nn.write_onnx(path, nn.lenet())
    assert main(["nn", "report", str(path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    expected = nn.report(nn.lenet())
    assert (found["parameters"], found["bytes"], found["flops"]) == (61706, 4 * 61706, expected.flops)
    assert sum(layer["flops"] for layer in found["layers"]) == expected.flops and found["outputs"] == {
        next(iter(expected.outputs)): [1, 10]
    }
    assert main(["nn", "report", str(path), "--shape", "x=4,1,28,28"]) == 0
    text = capsys.readouterr().out
    assert "61,706" in text and "4x6x28x28" in text
    nn.write_onnx(path, nn.lstm_classifier(3, 4, 2))
    assert main(["nn", "report", str(path)]) == 1
    assert "expected a shape for the input 'x'" in capsys.readouterr().err
    assert main(["nn", "report", str(path), "--shape", "x=2,a"]) == 1
    assert "NAME=N,N" in capsys.readouterr().err


def package_file(package: str, name: str) -> Path:
    """A file of an installed package, which is not imported."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        pytest.skip(f"the package {package} is not installed")
    path = Path(found.submodule_search_locations[0]) / name
    if not path.is_file():
        pytest.skip(f"{path.name} is not in the package {package}")
    return path


def test_magika() -> None:
    path = package_file("magika", "models/standard_v3_3/model.onnx")
    texts = [Path(__file__).read_bytes(), b"<html><body>hello</body></html>", RANDOM.bytes(3000), path.read_bytes()]
    x = np.full((len(texts), 2048), 256, np.int32)
    for row, text in zip(x, texts, strict=True):
        head, tail = np.frombuffer(text[:1024], np.uint8), np.frombuffer(text[-1024:], np.uint8)
        row[: len(head)] = head
        row[2048 - len(tail) :] = tail
    network = compare(path, [x])
    assert network.parameter_count > 700_000
    assert len(set(network(x).argmax(axis=1).tolist())) > 1


def test_rapidocr() -> None:
    path = package_file("rapidocr_onnxruntime", "models/ch_ppocr_mobile_v2.0_cls_infer.onnx")
    rows, columns = np.mgrid[:48, :192]
    lines = np.sin(columns / 3) * np.cos(rows / 5)
    x = (
        np.stack([lines, lines[::-1, ::-1], 0 * lines, RANDOM.normal(size=lines.shape)])[:, None]
        .repeat(3, 1)
        .astype("f")
    )
    network = compare(path, [x])
    operators = [node.operator for node in nn.fold(network).nodes]
    assert "BatchNormalization" not in operators and operators.count("HardSwish") == 18
    assert len(network.trainable) > 100


@pytest.mark.parametrize("name", ["silero_vad", "silero_vad_16k_op15", "silero_vad_op18_ifless", "silero_vad_half"])
def test_silero(name: str) -> None:
    path = package_file("silero_vad", f"data/{name}.onnx")
    sound = np.sin(np.arange(4 * 576) ** 1.3 / 40).reshape(4, 576).astype("f")
    given = {"input": sound, "state": (RANDOM.normal(size=(2, 4, 128)) / 10).astype("f"), "sr": np.array(16000)}
    compare(path, [given[port.name] for port in nn.read_onnx(path).inputs])


SILERO = {
    "stft.forward_basis_buffer": "stft_conv.weight",
    "decoder.rnn": "lstm_cell",
    "decoder.decoder.2": "final_conv",
    **{f"encoder.{k}.reparam_conv": f"conv{k + 1}" for k in range(4)},
}


def test_silero_by_the_weights_of_its_file() -> None:
    """The network is built by us, with the weights that an ONNX file has under the names of the original."""
    path = package_file("silero_vad", "data/silero_vad_16k_op15.onnx")
    weights = {}
    for name, x in nn.read_onnx(path).parameters.items():
        for theirs, ours in SILERO.items():
            if name.startswith(f"model.{theirs}"):
                weights[ours + name.removeprefix(f"model.{theirs}")] = x
    network, theirs = nn.silero_vad(weights), session(str(path))
    state = other = np.zeros((2, 3, 128), "f")
    for step in range(4):
        sound = np.sin((np.arange(3 * 576) + 512 * step) ** 1.2 / 30).reshape(3, 576).astype("f")
        y, state = network(sound, state)
        expected, other = theirs.run(None, {"input": sound, "state": other, "sr": np.array(16000)})
        assert_close(y, expected)
        assert_close(state, other)


def test_silero_by_its_safetensors() -> None:
    """Its weights are of a training of their own: no ONNX file of the package has them."""
    weights = nn.load_tensors(package_file("silero_vad", "data/silero_vad_16k.safetensors"))[0]
    network = nn.silero_vad(weights)
    sound, state = (RANDOM.normal(size=shape).astype("f") / 10 for shape in ((3, 576), (2, 3, 128)))
    expected = session(nn.to_onnx(network)).run(None, {"input": sound, "state": state})
    for one, other in zip(network(sound, state), expected, strict=True):
        assert_close(one, other)
    with pytest.raises(NetworkError, match=r"got none of conv4.bias"):
        nn.silero_vad({name: x for name, x in weights.items() if name != "conv4.bias"})
