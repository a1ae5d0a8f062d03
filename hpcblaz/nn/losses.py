"""What training makes small: the mean over the examples of a batch."""

from __future__ import annotations

from typing import Any

import numpy as np

from hpcblaz.backend.nn import array_module
from hpcblaz.errors import NetworkError, ShapeError
from hpcblaz.nn.elementwise import multiply, subtract
from hpcblaz.nn.linear import log_softmax, softmax
from hpcblaz.nn.shaping import mean, total
from hpcblaz.nn.tape import Array, Tensor, record, tensor

__all__ = ["check_labels", "cross_entropy", "distillation", "squared_error"]


def check_labels(labels: Array, classes: int) -> None:
    """Raise NetworkError if labels are no integers from 0 to classes - 1."""
    if labels.dtype.kind not in "iu":
        raise NetworkError(f"expected labels that are integers, got {labels.dtype}: round them yourself")
    if labels.size and (int(labels.min()) < 0 or int(labels.max()) >= classes):
        raise NetworkError(f"expected labels from 0 to {classes - 1}, got {int(labels.min())} to {int(labels.max())}")


def cross_entropy(logits: Any, labels: Any) -> Tensor:
    """Return the mean of -log of the probabilities that logits give to labels.

    Parameters
    ----------
    logits : Tensor, shape (examples, classes)
    labels : array of int, shape (examples,)

    Returns
    -------
    Tensor, shape ()

    Raises
    ------
    NetworkError
        If labels are no classes.
    ShapeError
        If there are not as many labels as logits, or none.

    Examples
    --------
    >>> from hpcblaz.nn import cross_entropy
    >>> float(cross_entropy(np.zeros((2, 4)), np.array([0, 3])).data)
    1.3862943611198906
    """
    logits = tensor(logits)
    xp = array_module(logits.data)
    labels = xp.asarray(tensor(labels).data)
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or not len(labels):
        raise ShapeError(f"expected logits (examples, classes) and a label each, got {logits.shape} and {labels.shape}")
    check_labels(labels, logits.shape[1])
    rows = xp.arange(len(labels))
    logs = log_softmax(tensor(logits.data))

    def pull(gradient: Array) -> tuple[Array]:
        slope = xp.exp(logs.data)
        slope[rows, labels] -= 1
        return (slope * (gradient / len(labels)).astype(slope.dtype),)

    return record(xp.asarray(-logs.data[rows, labels].mean()), (logits,), pull)


def distillation(logits: Any, reference: Any, temperature: float = 1.0) -> Tensor:
    """Return the mean cross entropy of probabilities and those of a reference, both softened by a temperature.

    Parameters
    ----------
    logits, reference : Tensor, shape (examples, classes)
    temperature : float
        The result is multiplied by its square, so that gradients stay as large.

    Returns
    -------
    Tensor, shape ()
    """
    logits, reference = tensor(logits), tensor(reference)
    if logits.shape != reference.shape or logits.ndim != 2:
        raise ShapeError(f"expected logits of one shape, got {logits.shape} and {reference.shape}")
    inverse = np.asarray(1 / temperature, logits.dtype)
    target = softmax(reference.data * inverse)
    logs = log_softmax(multiply(logits, inverse))
    return multiply(total(multiply(logs, target.data)), np.asarray(-(temperature**2) / len(logits.data), logits.dtype))


def squared_error(x: Any, target: Any) -> Tensor:
    """Return the mean of the squared differences of two tensors of one shape."""
    x, target = tensor(x), tensor(target)
    if x.shape != target.shape:
        raise ShapeError(f"expected a target of shape {x.shape}, got {target.shape}")
    difference = subtract(x, target)
    return mean(multiply(difference, difference))
