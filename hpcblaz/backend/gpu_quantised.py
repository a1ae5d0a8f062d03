"""Values as integers over one step, and their records, on a GPU: the functions of :mod:`hpcblaz.backend.quantised`.

Values and integers stay on the card; messages are in host memory, where MPI takes them: what crosses the bus is packed.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from hpcblaz.backend import gpu, quantised
from hpcblaz.backend.compile import cuda_kernel
from hpcblaz.backend.gpu_launch import launch
from hpcblaz.backend.payload import SPARE_WORDS
from hpcblaz.backend.quantised import SOUND, Step, Words, tiles_of

_MOST_TILES = 2**16 - 1


def empty(shape: tuple[int, ...], dtype: Any) -> Any:
    """Return an array on the card."""
    return gpu.array_module().empty(shape, dtype)


def flat(x: Any) -> Any:
    """Return the values of an array on the card one after the other, in the machine's byte order."""
    return gpu.array_module().ascontiguousarray(x).reshape(-1)


def extent(x: Any) -> tuple[float, float] | None:
    """Return the least and greatest value of a flat array; see :func:`hpcblaz.backend.quantised.extent`."""
    if not x.size:
        return 0.0, 0.0
    xp = gpu.array_module()
    low, high = float(x.min()), float(x.max())  # NaN, if there is one
    return (low, high) if math.isfinite(low) and math.isfinite(high) and bool(xp.isfinite(x).all()) else None


def strange(x: Any) -> tuple[Any, Any]:
    """Return the places and the values of what is not finite, in host memory."""
    places = gpu.array_module().flatnonzero(~gpu.array_module().isfinite(x))
    return gpu.asnumpy(places), gpu.asnumpy(x[places])


def sampled_bits(x: Any, step: float, sets: Sequence[Sequence[int]]) -> tuple[float, ...]:
    """Return about how many bits a value takes; see :func:`hpcblaz.backend.quantised.sampled_bits`."""
    return quantised.sampled_bits(x, step, sets, lambda x, places: gpu.asnumpy(x[gpu.asarray(places)]))


def quantise(x: Any, step: Step, precision: str, q: Any) -> tuple[float, float]:
    """Write the nearest multiples of the step; see :func:`hpcblaz.backend.quantised.quantise`."""
    if not x.size:
        return 0.0, 0.0
    xp, real = gpu.array_module(), np.dtype(precision).type
    values = x.astype(precision)
    multiples = xp.rint(values * (real(1.0) / real(step.value)))
    q[...] = multiples.astype(np.int32)
    errors = values - multiples * real(step.value)  # two operations, each rounded: nothing is contracted
    wide = errors.astype(np.float64)
    return float(abs(errors).max()), math.sqrt(float((wide * wide).sum())) * (1 + 2.0**-30)


def restore(q: Any, step: Step, out: Any, exact: bool) -> None:
    """Write the multiples of the step; see :func:`hpcblaz.backend.quantised.restore`."""
    real = out.dtype.type if exact and out.dtype.itemsize >= 4 else np.float64
    with np.errstate(over="ignore"):
        out[...] = (q.astype(real) * real(step.value)).astype(out.dtype)


def pack(q: Any, strides: Sequence[int], scratch: Any, out: Words) -> int:
    """Write the message of a chunk to host memory; see :func:`hpcblaz.backend.quantised.pack`."""
    xp = gpu.array_module()
    tiles = tiles_of(len(q))
    out[0] = SOUND
    if not tiles:
        return 1
    source = q
    for stride in strides:
        if stride != 1:
            later = source.copy()
            later[stride:] -= source[:-stride]
            source = later
    neighbours = np.int64(1 in strides)
    lengths = xp.zeros(tiles, np.int64)
    _launch("measure_sums", (source, np.int64(tiles), neighbours, lengths), tiles)
    offsets = xp.cumsum(lengths) - lengths
    sizes = gpu.asnumpy(lengths)
    used = int(sizes.sum())
    words = xp.zeros(used, np.uint32)
    _launch("write_sums", (source, np.int64(tiles), neighbours, offsets, words), tiles)
    head = 1 + tiles
    out[1:head] = sizes
    out[head : head + used] = gpu.asnumpy(words)
    return head + used


def unpack(message: Words, strides: Sequence[int], q: Any, add: bool, scratch: Any) -> None:
    """Write the integers of a message, or add them; see :func:`hpcblaz.backend.quantised.unpack`."""
    xp = gpu.array_module()
    tiles = tiles_of(len(q))
    if not tiles:
        return
    sizes = message[1 : 1 + tiles].astype(np.int64)
    used = int(sizes.sum())
    words = xp.asarray(message[1 + tiles : 1 + tiles + used + SPARE_WORDS])
    offsets = xp.asarray(np.cumsum(sizes) - sizes)
    planes = [stride for stride in strides if stride != 1]
    direct = not (add and planes)
    target = q if direct else scratch[0, : len(q)]
    arguments = (words, offsets, np.int64(tiles), np.int64(1 in strides), np.int64(add and direct), target)
    _launch("unpack_sums", arguments, tiles)
    for stride in reversed(planes):
        rows = len(target) // stride * stride
        whole = target[:rows].reshape(-1, stride)
        whole[...] = xp.cumsum(whole, axis=0, dtype=np.int32)
        if rows and rows < len(target):
            target[rows:] += whole[-1, : len(target) - rows]
    if not direct:
        q += target


def _launch(name: str, arguments: tuple[Any, ...], tiles: int) -> None:
    module = cuda_kernel("quantised", (1, 1, 1, 1), "identity", "float32", "packed", True)
    launch(gpu.array_module(), getattr(module, name), arguments, min(tiles, _MOST_TILES), 0)
