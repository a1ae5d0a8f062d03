"""Weights of schemes in files, in as few bytes as their form takes.

Numbers that are mostly zero are stored without the zeros, with either a bit for each place or the gaps between those
that are left, a byte each, whichever is less. Integers take 2, 4 or 8 bits, as they need.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcblaz.backend.nn import to_host
from hpcblaz.errors import FileFormatError
from hpcblaz.nn.compressible import Scheme, Weights
from hpcblaz.nn.network import Network
from hpcblaz.nn.safetensors import load_tensors, save_tensors

__all__ = ["load_packed", "nbytes", "save_packed"]

_FULL = 255  # a gap of this many and no number after it
_UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
_KEY = "packed"


def save_packed(path: str | os.PathLike[str], network: Network, scheme: Scheme) -> int:
    """Write the parameters of a network in the form of a scheme, whole or not at all.

    Parameters
    ----------
    path : str or os.PathLike
        Of a safetensors file.
    network : Network
    scheme : Scheme

    Returns
    -------
    int
        Bytes of the file.

    Raises
    ------
    StorageError
        If it cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from hpcblaz import nn
    >>> path = Path(tempfile.mkdtemp()) / "small.safetensors"
    >>> save_packed(path, nn.lenet(), nn.parse_scheme("Prune(0.05)+Quantize(float16)")) < 4 * 61706 / 20
    True
    """
    weights = {name: network.parameters[name] for name in network.trainable}
    whole: Weights = {**network.parameters, **scheme.pi(weights, network)}
    arrays: dict[str, NDArray[Any]] = {}
    forms: dict[str, Any] = {}
    for name, x in whole.items():
        array = np.asarray(to_host(x))
        parts, form = _pack(array, name in weights and f"{name}/zero" not in whole)
        arrays.update({name + end: part for end, part in parts.items()})
        if form:
            forms[name] = form
    save_tensors(path, arrays, {_KEY: json.dumps(forms, separators=(",", ":"))})
    return Path(path).stat().st_size


def load_packed(path: str | os.PathLike[str], network: Network, scheme: Scheme) -> Network:
    """Return a network with the parameters of a file of :func:`save_packed`, to compute with.

    Parameters
    ----------
    path : str or os.PathLike
    network : Network
        Of the same nodes.
    scheme : Scheme
        The same as when it was written.

    Returns
    -------
    Network

    Raises
    ------
    FileFormatError
        If the file is damaged, or does not fit the network and the scheme.
    StorageError
        If it cannot be read.
    """
    arrays, metadata = load_tensors(path)
    try:
        forms = json.loads(metadata[_KEY])
        largest = max((int(x.size) for x in network.parameters.values()), default=0)
        for name, form in forms.items():
            arrays[name] = _unpack(arrays, name, form, largest)
        spare = {f"{name}/places" for name, form in forms.items() if "places" in form}
        weights = {name: x for name, x in arrays.items() if name not in spare}
        trainable = set(network.trainable)
        fixed = {name: x for name, x in weights.items() if name in network.parameters and name not in trainable}
        real = scheme.delta({name: x for name, x in weights.items() if name not in fixed}, network) | fixed
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise FileFormatError(f"{path}: expected packed weights of this network and scheme, got {error!r}") from error
    shapes = {name: x.shape for name, x in network.parameters.items()}
    found = {name: x.shape for name, x in real.items()}
    if found != shapes:
        bad = next(iter({*found.items()} ^ {*shapes.items()}))
        raise FileFormatError(f"{path}: expected the weights of this network, got a difference in {bad[0]!r}")
    return network.replace(parameters=real)


def nbytes(network: Network, scheme: Scheme) -> int:
    """Return the bytes that a file of :func:`save_packed` takes on disk, indices and header included.

    Parameters
    ----------
    network : Network
    scheme : Scheme

    Returns
    -------
    int
    """
    with TemporaryDirectory() as folder:
        return save_packed(Path(folder) / "weights", network, scheme)


def _pack(x: NDArray[Any], sparse: bool) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Return the arrays that hold an array, by the ends of their names, and what is to be known to read them."""
    codes = np.ascontiguousarray(x).reshape(-1)
    form: dict[str, Any] = {}
    parts: dict[str, NDArray[Any]] = {}
    places = np.flatnonzero(codes.view(_UNSIGNED[x.dtype.itemsize])) if sparse else np.arange(0)
    if sparse:
        gaps = _gaps(places)
        marks = np.packbits(codes.view(_UNSIGNED[x.dtype.itemsize]) != 0)
        least = min((gaps, marks), key=len)
        bits = _bits(codes)
        if len(least) + len(places) * bits / 8 < len(codes) * bits / 8:
            parts["/places"] = least
            form = {"places": "gaps" if least is gaps else "marks"}
            codes = codes[places]
    bits = _bits(codes)
    if bits < 8 * x.dtype.itemsize:
        form["bits"] = bits
        codes = _narrow(codes, bits)
    if form:
        form["shape"] = list(x.shape)
        form["dtype"] = str(x.dtype)
        form["count"] = len(places) if "places" in form else x.size
    parts[""] = codes if form else x
    return parts, form


def _unpack(arrays: Mapping[str, NDArray[Any]], name: str, form: Mapping[str, Any], largest: int) -> NDArray[Any]:
    codes = arrays[name]
    shape, count = [int(n) for n in form["shape"]], int(form["count"])
    size = math.prod(shape)
    if not 0 <= count <= size <= largest:
        raise ValueError(f"up to {largest} numbers expected in {name!r}, {size} found")
    if "bits" in form:
        codes = _widen(codes, int(form["bits"]), count)
    if codes.shape != (count,) or codes.dtype != np.dtype(form["dtype"]):
        raise ValueError(f"{count} numbers of {form['dtype']} expected in {name!r}, {codes.size} found")
    if "places" not in form:
        return codes.reshape(shape)
    stored = arrays[f"{name}/places"]
    if stored.dtype != np.uint8:
        raise ValueError(f"bytes expected as the places of {name!r}")
    places = _places(stored) if form["places"] == "gaps" else np.flatnonzero(np.unpackbits(stored))
    if len(places) != count or (count and places[-1] >= size):
        raise ValueError(f"{count} places below {size} expected in {name!r}")
    result = np.zeros(size, codes.dtype)
    result[places] = codes
    return result.reshape(shape)


def _bits(codes: NDArray[Any]) -> int:
    """Return the bits that each of some numbers needs."""
    if codes.dtype != np.int8 or not codes.size:
        return 8 * codes.dtype.itemsize
    least, most = int(codes.min()), int(codes.max())
    return 2 if least >= -2 and most <= 1 else 4 if least >= -8 and most <= 7 else 8


def _narrow(codes: NDArray[Any], bits: int) -> NDArray[Any]:
    each = 8 // bits
    padded = np.zeros(-(-len(codes) // each) * each, np.uint8)
    padded[: len(codes)] = codes.view(np.uint8) & np.uint8(2**bits - 1)
    shifts = (np.arange(each) * bits).astype(np.uint8)
    return np.asarray(np.bitwise_or.reduce(padded.reshape(-1, each) << shifts, axis=1).astype(np.uint8))


def _widen(packed: NDArray[Any], bits: int, count: int) -> NDArray[Any]:
    if bits not in (2, 4) or packed.dtype != np.uint8 or packed.size != -(-count * bits // 8):
        raise ValueError(f"{count} integers of 2 or 4 bits expected, {packed.size} bytes found")
    shifts = (np.arange(8 // bits) * bits).astype(np.uint8)
    codes = ((packed[:, None] >> shifts) & np.uint8(2**bits - 1)).reshape(-1)[:count].astype(np.int16)
    return np.where(codes >= 2 ** (bits - 1), codes - 2**bits, codes).astype(np.int8)


def _gaps(places: NDArray[Any]) -> NDArray[Any]:
    """Return the zeros before each place, as bytes; :data:`_FULL` stands for so many of them and no number."""
    more, rest = np.divmod(np.diff(places, prepend=-1) - 1, _FULL)
    result = np.full(int(more.sum()) + len(places), _FULL, np.uint8)
    result[np.cumsum(more + 1) - 1] = rest
    return result


def _places(gaps: NDArray[Any]) -> NDArray[Any]:
    ends = np.flatnonzero(gaps != _FULL)
    return np.asarray(np.cumsum(gaps, dtype=np.int64)[ends] + np.arange(len(ends)))
