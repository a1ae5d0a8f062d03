"""Weights of networks and states of trainings in safetensors files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcblaz.backend.nn import array_module
from hpcblaz.errors import FileFormatError, NetworkError
from hpcblaz.nn.network import Network
from hpcblaz.nn.safetensors import load_tensors, save_tensors

__all__ = ["load_checkpoint", "load_weights", "save_checkpoint", "save_weights"]


def save_weights(path: str | os.PathLike[str], network: Network) -> None:
    """Write the parameters of a network to a safetensors file, whole or not at all.

    Parameters
    ----------
    path : str or os.PathLike
    network : Network

    Raises
    ------
    StorageError
        If it cannot be written.
    """
    save_tensors(path, network.parameters)


def load_weights(path: str | os.PathLike[str], network: Network) -> None:
    """Give a network the parameters of a safetensors file; nothing is changed unless all of them fit.

    Parameters
    ----------
    path : str or os.PathLike
    network : Network

    Raises
    ------
    NetworkError
        If parameters are missing, of another shape, or have NaN; all of them are named.
    FileFormatError
        If the file is truncated or damaged.
    StorageError
        If it cannot be read.
    """
    _give(network, load_tensors(path)[0], Path(path))


def _give(network: Network, tensors: Mapping[str, NDArray[Any]], path: Path) -> None:
    wrong = []
    for name, x in network.parameters.items():
        if name not in tensors:
            wrong.append(f"no {name!r}")
        elif tensors[name].shape != x.shape:
            wrong.append(f"{name!r} of shape {tensors[name].shape} instead of {tuple(x.shape)}")
        elif tensors[name].dtype.kind == "f" and np.isnan(tensors[name]).any():
            wrong.append(f"NaN in {name!r}")
    if wrong:
        raise NetworkError(f"{path}: expected the parameters of the network, got {', '.join(wrong)}")
    for name, x in network.parameters.items():
        network.parameters[name] = array_module(x).asarray(tensors[name].astype(x.dtype))


def save_checkpoint(
    path: str | os.PathLike[str], network: Network, state: Mapping[str, Any], extra: Mapping[str, Any]
) -> None:
    """Write the parameters of a network, the state of an optimizer and other arrays to a safetensors file.

    Parameters
    ----------
    path : str or os.PathLike
    network : Network
    state, extra : mapping of str to array

    Raises
    ------
    StorageError
        If it cannot be written.
    """
    parts = (("network", network.parameters), ("state", state), ("extra", extra))
    tensors = {f"{part}/{name}": x for part, arrays in parts for name, x in arrays.items()}
    save_tensors(path, tensors, {"format": "hpcblaz checkpoint 1"})


def load_checkpoint(
    path: str | os.PathLike[str], network: Network
) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]] | None:
    """Give a network the parameters of a checkpoint.

    Parameters
    ----------
    path : str or os.PathLike
    network : Network

    Returns
    -------
    tuple of two dict of str to numpy.ndarray, or None
        The state of the optimizer and the other arrays; None if there is no such file.

    Raises
    ------
    FileFormatError
        If the file is truncated or damaged, or is no checkpoint.
    NetworkError
        If it is of another network.
    StorageError
        If it cannot be read.
    """
    path = Path(path)
    if not path.exists():
        return None
    tensors, metadata = load_tensors(path)
    if metadata.get("format") != "hpcblaz checkpoint 1":
        raise FileFormatError(f"expected {path} to be a checkpoint of a training, got another safetensors file")
    parts: dict[str, dict[str, NDArray[Any]]] = {"network": {}, "state": {}, "extra": {}}
    for name, x in tensors.items():
        part, _, rest = name.partition("/")
        parts.setdefault(part, {})[rest] = x
    _give(network, parts["network"], path)
    return parts["state"], parts["extra"]
