"""Networks: built, read, trained and written.

``tape``
    Tensors and gradients in reverse; ``elementwise``, ``shaping``, ``linear``, ``convolutions``, ``normalising``,
    ``recurrent`` and ``losses`` are the operations.
``network``, ``operators``, ``shape_operators``
    Networks as operators of ONNX in order, and what each operator computes.
``layers``, ``builder``, ``zoo``
    Layers, networks that are built of them, and ready ones.
``batches``, ``optimizers``, ``training``, ``plotting``
    Training, and pictures of it.
``safetensors``, ``checkpoints``
    Files of weights.
``onnx_reading``, ``onnx_writing``
    Files of networks; ``onnx_versions`` knows the older operators, ``onnx_package`` loads the package.
``folding``, ``report``
    Fewer operators, and what a network costs.
``schemes``, ``pruning``, ``quantizing``, ``compressible``
    Weights brought to a form that takes less room.
``shrinking``, ``channels``
    What was removed taken away.
``packing``, ``compressing``
    Files of what is left, and smaller networks in one call, compared with what they were.
"""

from hpcblaz.nn.batches import Batches
from hpcblaz.nn.builder import build
from hpcblaz.nn.checkpoints import load_weights, save_weights
from hpcblaz.nn.compressing import Comparison, compare, compress
from hpcblaz.nn.folding import fold
from hpcblaz.nn.layers import (
    GRU,
    LSTM,
    Activation,
    AveragePool,
    BatchNorm,
    Conv1d,
    Conv2d,
    Dense,
    Dropout,
    Embedding,
    Flatten,
    GlobalAveragePool,
    LayerNorm,
    MaxPool,
    Relu,
    Residual,
    Silu,
)
from hpcblaz.nn.losses import cross_entropy, distillation, squared_error
from hpcblaz.nn.network import Branch, Network, Node, Port
from hpcblaz.nn.onnx_reading import read_onnx
from hpcblaz.nn.onnx_writing import to_onnx, write_onnx
from hpcblaz.nn.optimizers import SGD, Adam, constant, cosine, exponential, steps
from hpcblaz.nn.packing import load_packed, nbytes, save_packed
from hpcblaz.nn.plotting import plot_training
from hpcblaz.nn.quantizing import calibrate, quantized
from hpcblaz.nn.report import Report, report
from hpcblaz.nn.safetensors import load_tensors, save_tensors
from hpcblaz.nn.schemes import (
    BlockPrune,
    Compose,
    FilterPrune,
    NeuronPrune,
    NMPrune,
    Prune,
    Quantize,
    StructurePrune,
    compressed,
    compressible,
    parse_scheme,
)
from hpcblaz.nn.shrinking import shrink
from hpcblaz.nn.tape import Tensor, backward
from hpcblaz.nn.training import Epoch, History, accuracy, gradients, predict, train
from hpcblaz.nn.zoo import lenet, lstm_classifier, mlp, resnet, silero_vad, vgg

__all__ = [
    "GRU",
    "LSTM",
    "SGD",
    "Activation",
    "Adam",
    "AveragePool",
    "BatchNorm",
    "Batches",
    "BlockPrune",
    "Branch",
    "Comparison",
    "Compose",
    "Conv1d",
    "Conv2d",
    "Dense",
    "Dropout",
    "Embedding",
    "Epoch",
    "FilterPrune",
    "Flatten",
    "GlobalAveragePool",
    "History",
    "LayerNorm",
    "MaxPool",
    "NMPrune",
    "Network",
    "NeuronPrune",
    "Node",
    "Port",
    "Prune",
    "Quantize",
    "Relu",
    "Report",
    "Residual",
    "Silu",
    "StructurePrune",
    "Tensor",
    "accuracy",
    "backward",
    "build",
    "calibrate",
    "compare",
    "compress",
    "compressed",
    "compressible",
    "constant",
    "cosine",
    "cross_entropy",
    "distillation",
    "exponential",
    "fold",
    "gradients",
    "lenet",
    "load_packed",
    "load_tensors",
    "load_weights",
    "lstm_classifier",
    "mlp",
    "nbytes",
    "parse_scheme",
    "plot_training",
    "predict",
    "quantized",
    "read_onnx",
    "report",
    "resnet",
    "save_packed",
    "save_tensors",
    "save_weights",
    "shrink",
    "silero_vad",
    "squared_error",
    "steps",
    "to_onnx",
    "train",
    "vgg",
    "write_onnx",
]
