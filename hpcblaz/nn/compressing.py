"""Networks made smaller by a scheme, in files and in work, and compared with what they were."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcblaz.backend.nn import to_host
from hpcblaz.errors import DtypeError, NetworkError, ShapeError
from hpcblaz.nn.compressible import Scheme
from hpcblaz.nn.network import Network
from hpcblaz.nn.quantizing import Quantize, calibrate, quantized
from hpcblaz.nn.report import report
from hpcblaz.nn.schemes import Compose, compressed
from hpcblaz.nn.shrinking import shrink
from hpcblaz.nn.tape import Array
from hpcblaz.nn.training import predict

__all__ = ["Comparison", "compare", "compress"]

_ROUNDS = 5
_BATCH = 256


def compress(
    network: Network,
    scheme: Scheme,
    data: Array | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> Network:
    """Return a network that is smaller: weights removed, then what they leave taken away, then the others rounded.

    Parameters
    ----------
    network : Network
    scheme : Scheme
    data : array, optional
        Inputs. With a scheme of integers, what goes into the layers with weights is then rounded too, to 8 bits.
    shapes : mapping of str to sequence of int, optional
        Of inputs whose axes have any length.

    Returns
    -------
    Network
        It gives what the schemes before the last one give, to rounding, and what rounding makes of that. The steps
        of integers are those of the weights that are left, so they may be smaller than without taking away.

    Raises
    ------
    NetworkError
        If nothing would be left of a layer, or the data do not fit.

    Examples
    --------
    >>> from hpcblaz import nn
    >>> smaller = compress(nn.lenet(), nn.parse_scheme("FilterPrune(0.5)+Quantize(int8)"))
    >>> smaller.parameters["conv3.weight"].dtype, smaller.parameters["conv3.weight"].shape
    (dtype('int8'), (9, 2, 5, 5))
    """
    schemes = list(scheme.schemes) if isinstance(scheme, Compose) else [scheme]
    last = schemes.pop() if isinstance(schemes[-1], Quantize) else None
    result = compressed(network, Compose(schemes)) if schemes else network
    result = shrink(result, shapes)
    if not isinstance(last, Quantize):
        return result
    real = last.dtype in ("float16", "bfloat16")
    ranges = None if data is None or real else calibrate(result, _fitting(result, data))
    return quantized(result, last, ranges)


@dataclass(frozen=True)
class Comparison:
    """How the answers of two networks differ, and what each costs.

    Attributes
    ----------
    examples : int
    agreement : float
        Share of examples with the same answer, the greatest output.
    agreement_by_class : dict of str to float
        The same for each answer of the reference.
    largest_difference : float
        Of outputs, over the largest output of the reference.
    divergence : float or None
        Mean Kullback-Leibler divergence of the answers, as probabilities, in nats; outputs that are not probabilities
        go through a softmax.
    accuracy : tuple of 2 float, or None
        Of the reference and of the other one, where labels are known.
    flops : tuple of 2 int
        Of one image.
    milliseconds : tuple of 2 float
        Of all examples, the median of some runs in turn.
    """

    examples: int
    agreement: float
    agreement_by_class: dict[str, float]
    largest_difference: float
    divergence: float
    accuracy: tuple[float, float] | None
    flops: tuple[int, int]
    milliseconds: tuple[float, float]

    def as_dict(self) -> dict[str, Any]:
        """Return all of it for JSON; the keys are part of the interface."""
        return asdict(self)


def compare(reference: Network, other: Network, data: Array, labels: Array | None = None) -> Comparison:
    """Return how the answers of a network differ from those of another one, and what both cost.

    Parameters
    ----------
    reference, other : Network
        Of one input and one output each, of classes.
    data : array, shape (examples, ...)
    labels : array of int, shape (examples,), optional

    Returns
    -------
    Comparison

    Raises
    ------
    NetworkError
        If there are several inputs or outputs, no examples, or outputs that are not one number for each class.
    ShapeError
        If the data or labels do not fit.
    """
    both = (reference, other)
    data = _fitting(reference, data)
    _fitting(other, data)
    answers = [_answers(network, data) for network in both]
    if answers[0].shape != answers[1].shape:
        raise ShapeError(f"expected outputs of equal shapes, got {answers[0].shape} and {answers[1].shape}")
    chosen = [a.argmax(axis=1) for a in answers]
    same = chosen[0] == chosen[1]
    right = None
    if labels is not None:
        labels = np.asarray(to_host(labels))
        if labels.shape != same.shape:
            raise ShapeError(f"expected {len(same)} labels, got an array of shape {labels.shape}")
        if labels.dtype.kind not in "iu" or labels.min() < 0 or labels.max() >= answers[0].shape[1]:
            raise NetworkError(f"expected labels from 0 to {answers[0].shape[1] - 1}, got others")
        right = (float((chosen[0] == labels).mean()), float((chosen[1] == labels).mean()))
    times: list[list[float]] = [[], []]
    for _ in range(_ROUNDS):
        for k, network in enumerate(both):
            start = time.perf_counter()
            predict(network, data, _size(network))
            times[k].append(1e3 * (time.perf_counter() - start))
    scale = float(abs(answers[0]).max()) or 1.0
    likely = [_probabilities(a) for a in answers]
    tiny = np.finfo(np.float64).tiny
    divergence = (likely[0] * (np.log(likely[0] + tiny) - np.log(likely[1] + tiny))).sum(axis=1).mean()
    one = [n.inputs[0].shape[0] or 1 for n in both]
    costs = [report(n, {n.inputs[0].name: (k, *data.shape[1:])}).flops // k for n, k in zip(both, one, strict=True)]
    return Comparison(
        len(same),
        float(same.mean()),
        {str(k): float(same[chosen[0] == k].mean()) for k in np.unique(chosen[0]).tolist()},
        float(abs(answers[0] - answers[1]).max()) / scale,
        max(float(divergence), 0.0),
        right,
        (costs[0], costs[1]),
        (float(np.median(times[0])), float(np.median(times[1]))),
    )


def _fitting(network: Network, data: Array) -> Array:
    """Return data in the type that a network takes, if they are some and fit."""
    if len(network.inputs) != 1 or len(network.outputs) != 1:
        raise NetworkError(
            f"expected a network of one input and one output, got {len(network.inputs)} and {len(network.outputs)}"
        )
    port = network.inputs[0]
    if data.dtype.kind not in "fiub":
        raise DtypeError(f"expected numbers as data, got {data.dtype}")
    shape = port.shape[1:]
    fits = data.ndim == len(port.shape) and all(m in (None, n) for m, n in zip(shape, data.shape[1:], strict=True))
    if not fits:
        shown = ", ".join("any" if n is None else str(n) for n in shape)
        raise ShapeError(f"expected data of shape (examples, {shown}), got {data.shape}")
    if not len(data):
        raise NetworkError("expected some examples, got none")
    if data.dtype.kind == "f" and not bool(np.isfinite(to_host(data)).all()):
        raise NetworkError("expected data that are finite, got NaN or infinite numbers")
    if port.shape[0] and len(data) % port.shape[0]:
        raise ShapeError(f"expected {port.shape[0]} examples at a time, got {len(data)}")
    return data.astype(port.dtype)


def _size(network: Network) -> int:
    """Return the examples of a batch."""
    return network.inputs[0].shape[0] or _BATCH


def _answers(network: Network, data: Array) -> NDArray[Any]:
    found = to_host(predict(network, data, _size(network))).astype(np.float64)
    if found.ndim != 2 or len(found) != len(data):
        raise NetworkError(f"expected one number for each class and example, got outputs of shape {found.shape}")
    if not np.isfinite(found).all():
        raise NetworkError("expected finite outputs, got NaN or infinite numbers")
    return np.asarray(found)


def _probabilities(answers: NDArray[Any]) -> NDArray[Any]:
    if (answers >= 0).all() and (abs(answers.sum(axis=1) - 1) < 1e-3).all():
        return answers
    raised = np.exp(answers - answers.max(axis=1, keepdims=True))
    return np.asarray(raised / raised.sum(axis=1, keepdims=True))
