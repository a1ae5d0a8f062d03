"""Networks that are ready to build."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hpcblaz.errors import NetworkError
from hpcblaz.nn.builder import Layer, build
from hpcblaz.nn.layers import (
    LSTM,
    BatchNorm,
    Conv2d,
    Dense,
    Embedding,
    Flatten,
    GlobalAveragePool,
    MaxPool,
    Relu,
    Residual,
)
from hpcblaz.nn.network import Network, Node, Port

__all__ = ["lenet", "lstm_classifier", "mlp", "resnet", "silero_vad", "vgg"]


def mlp(inputs: int, hidden: Sequence[int], classes: int, seed: int = 0) -> Network:
    """Return dense layers with ReLU between them.

    Parameters
    ----------
    inputs : int
    hidden : sequence of int
        Units of the layers between.
    classes : int
    seed : int

    Returns
    -------
    Network

    Examples
    --------
    >>> from hpcblaz import nn
    >>> nn.mlp(64, (32, 16), 10).parameter_count
    2778
    """
    layers: list[Layer] = []
    for units in hidden:
        layers += [Dense(units), Relu()]
    return build((inputs,), [*layers, Dense(classes)], seed)


def lenet(shape: Sequence[int] = (1, 28, 28), classes: int = 10, seed: int = 0) -> Network:
    """Return LeNet-5, with ReLU and the largest of each patch.

    Parameters
    ----------
    shape : sequence of int
        Channels, rows and columns of an image.
    classes : int
    seed : int

    Returns
    -------
    Network

    References
    ----------
    LeCun, Bottou, Bengio, Haffner: Gradient-based learning applied to document recognition. Proc. IEEE 86, 1998.

    Examples
    --------
    >>> from hpcblaz import nn
    >>> nn.lenet().parameter_count
    61706
    """
    layers: list[Layer] = [
        *(Conv2d(6, 5, padding=2), Relu(), MaxPool(2)),
        *(Conv2d(16, 5), Relu(), MaxPool(2)),
        *(Flatten(), Dense(120), Relu(), Dense(84), Relu(), Dense(classes)),
    ]
    return build(shape, layers, seed)


def vgg(
    shape: Sequence[int] = (1, 28, 28), classes: int = 10, widths: Sequence[int] = (16, 32, 64), seed: int = 0
) -> Network:
    """Return a small VGG: for each width two convolutions of 3 x 3 with batch normalisation, then half the size.

    Parameters
    ----------
    shape : sequence of int
        Channels, rows and columns of an image.
    classes : int
    widths : sequence of int
    seed : int

    Returns
    -------
    Network
    """
    layers: list[Layer] = []
    for width in widths:
        for _ in range(2):
            layers += [Conv2d(width, 3, padding=1, bias=False), BatchNorm(), Relu()]
        layers.append(MaxPool(2))
    return build(shape, [*layers, Flatten(), Dense(4 * widths[-1]), Relu(), Dense(classes)], seed)


def resnet(
    shape: Sequence[int] = (3, 32, 32),
    classes: int = 10,
    widths: Sequence[int] = (16, 32, 64),
    blocks: int = 1,
    seed: int = 0,
) -> Network:
    """Return a small residual network, of the kind for CIFAR.

    Parameters
    ----------
    shape : sequence of int
        Channels, rows and columns of an image.
    classes : int
    widths : sequence of int
        Channels of each stage; each but the first halves the size.
    blocks : int
        Of two convolutions each, for each stage. 3 gives ResNet-20.
    seed : int

    Returns
    -------
    Network

    References
    ----------
    He, Zhang, Ren, Sun: Deep residual learning for image recognition. CVPR 2016.
    """
    layers: list[Layer] = [Conv2d(widths[0], 3, padding=1, bias=False), BatchNorm(), Relu()]
    before = widths[0]
    for stage, width in enumerate(widths):
        for block in range(blocks):
            stride = 2 if stage and not block else 1
            inner: list[Layer] = [
                *(Conv2d(width, 3, stride, padding=1, bias=False), BatchNorm(), Relu()),
                *(Conv2d(width, 3, padding=1, bias=False), BatchNorm()),
            ]
            same = stride == 1 and width == before
            shortcut: list[Layer] = [] if same else [Conv2d(width, 1, stride, bias=False), BatchNorm()]
            layers += [Residual(inner, shortcut), Relu()]
            before = width
    return build(shape, [*layers, GlobalAveragePool(), Dense(classes)], seed)


def lstm_classifier(inputs: int, units: int, classes: int, words: int = 0, seed: int = 0) -> Network:
    """Return a long short-term memory that reads a sequence, and a dense layer that says its class.

    Parameters
    ----------
    inputs : int
        Numbers of a step, or of the vector of a word.
    units : int
    classes : int
    words : int
        The sequences are of so many different words, integers, instead of numbers.
    seed : int

    Returns
    -------
    Network
    """
    layers: list[Layer] = [LSTM(units), Dense(classes)]
    if words:
        return build((None,), [Embedding(words, inputs), *layers], seed, "int64")
    return build((None, inputs), layers, seed)


def silero_vad(weights: Mapping[str, Any]) -> Network:
    """Return the voice activity detector Silero for 16 kHz, with the weights of its safetensors file.

    It takes 512 new samples after the last 64 of those before, and the state that it gave before (zeros at first); it
    gives the probability of speech, and the state.

    Parameters
    ----------
    weights : mapping of str to array
        As :func:`hpcblaz.nn.load_tensors` reads ``silero_vad_16k.safetensors``.

    Returns
    -------
    Network
        Of (images, 576) and (2, images, 128), giving (images, 1) and (2, images, 128).

    Raises
    ------
    NetworkError
        If weights are missing.
    """
    names = ["stft_conv.weight", *(f"conv{k}.{part}" for k in (1, 2, 3, 4) for part in ("weight", "bias"))]
    names += [f"lstm_cell.{part}_{side}" for part in ("weight", "bias") for side in ("ih", "hh")]
    names += ["final_conv.weight", "final_conv.bias"]
    missing = [name for name in names if name not in weights]
    if missing:
        raise NetworkError(f"expected the weights of Silero for 16 kHz, got none of {', '.join(missing)}")
    parameters: dict[str, Any] = {name: np.array(weights[name]) for name in names if not name.startswith("lstm_cell")}
    order = (
        np.arange(512).reshape(4, 128)[[0, 3, 1, 2]].reshape(-1)
    )  # input, forget, cell, output: ONNX has another order
    cell = {
        name: np.asarray(weights[f"lstm_cell.{name}"])[order]
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    }
    parameters |= {
        "lstm.weight": cell["weight_ih"][None],
        "lstm.recurrence": cell["weight_hh"][None],
        "lstm.bias": np.concatenate([cell["bias_ih"], cell["bias_hh"]])[None],
        "pads": np.array([0, 0, 0, 64]),
        "channel": np.array([1]),
        "two": np.array(2, np.float32),
        "halves": np.array([129, 129]),
        "last": np.array([-1]),
    }
    nodes = [
        Node("Pad", ("input", "pads"), ("padded",), {"mode": "reflect"}),
        Node("Unsqueeze", ("padded", "channel"), ("signal",)),
        Node("Conv", ("signal", "stft_conv.weight"), ("waves",), {"strides": [128]}),
        Node("Split", ("waves", "halves"), ("real", "imaginary"), {"axis": 1}),
        Node("Mul", ("real", "real"), ("real2",)),
        Node("Mul", ("imaginary", "imaginary"), ("imaginary2",)),
        Node("Add", ("real2", "imaginary2"), ("power",)),
        Node("Sqrt", ("power",), ("relu0",)),
    ]
    for k, stride in ((1, 1), (2, 2), (3, 2), (4, 1)):
        attributes = {"strides": [stride], "pads": [1, 1]}
        nodes.append(Node("Conv", (f"relu{k - 1}", f"conv{k}.weight", f"conv{k}.bias"), (f"conv{k}",), attributes))
        nodes.append(Node("Relu", (f"conv{k}",), (f"relu{k}",)))
    operands = ("steps", "lstm.weight", "lstm.recurrence", "lstm.bias", "", "h", "c")
    nodes += [
        Node("Transpose", ("relu4",), ("steps",), {"perm": [2, 0, 1]}),
        Node("Split", ("state",), ("h", "c"), {"axis": 0, "num_outputs": 2}),
        Node("LSTM", operands, ("", "hn", "cn"), {"hidden_size": 128}),
        Node("Concat", ("hn", "cn"), ("stateN",), {"axis": 0}),
        Node("Transpose", ("hn",), ("units",), {"perm": [1, 2, 0]}),
        Node("Relu", ("units",), ("active",)),
        Node("Conv", ("active", "final_conv.weight", "final_conv.bias"), ("sum",)),
        Node("Sigmoid", ("sum",), ("likely",)),
        Node("ReduceMean", ("likely", "last"), ("output",), {"keepdims": 0}),
    ]
    ports = [Port("input", (None, 576)), Port("state", (2, None, 128))]
    return Network(nodes, parameters, ports, ["output", "stateN"])
