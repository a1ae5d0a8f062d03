"""Numbers for missing cells, so that the blocks around them cost few bits. None of them is ever seen by a user."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcblaz.backend.blocks import BlockGrid

_SWEEPS = 24
_CELLS_AT_ONCE = 1 << 20


def fill(
    values: Any, missing: NDArray[np.bool_], grid: BlockGrid, xp: Any, place: Callable[[NDArray[Any]], Any]
) -> None:
    """Write numbers between the least and the greatest valid value into the missing cells.

    Within a block that has valid cells they solve Laplace's equation with no flux through the faces of the block,
    approximately: of all ways to fill it this has the least energy in gradients, that is in high frequencies of the
    DCT. A block without any gets the mean of the valid one before it, which costs nothing to store, or else any number.

    Parameters
    ----------
    values : numpy.ndarray or cupy.ndarray
        C-contiguous, of the grid's shape; changed in place.
    missing : numpy.ndarray
        bool, of the same shape, in host memory.
    grid : BlockGrid
    xp : module
        The array module of the values.
    place : callable
        Brings an array to their device.
    """
    shape = tuple(int(n) for n in grid.shape4)
    values, missing = values.reshape(shape), missing.reshape(shape)
    spare = values.reshape(-1)[int(missing.argmin())] if not missing.all() else 0
    for first, blocks, sides in grid.regions.reshape(-1, 3, 4).tolist():
        cells = tuple(slice(f, f + n * v) for f, n, v in zip(first, blocks, sides, strict=True))
        split = tuple(n for pair in zip(blocks, sides, strict=True) for n in pair)
        order = (0, 2, 4, 6, 1, 3, 5, 7)
        own = values[cells].reshape(split).transpose(order)  # a view: blocks, then the cells of each
        flags = missing[cells].reshape(split).transpose(order)
        some = np.asarray(flags.any(axis=(4, 5, 6, 7)))
        if some.any():
            _fill_region(own, flags, some, spare, xp, place)


def _fill_region(
    own: Any,
    flags: NDArray[np.bool_],
    some: NDArray[np.bool_],
    spare: Any,
    xp: Any,
    place: Callable[[NDArray[Any]], Any],
) -> None:
    every = np.asarray(flags.all(axis=(4, 5, 6, 7)))
    mixed = np.nonzero(some & ~every)
    batch = max(1, _CELLS_AT_ONCE // int(np.prod(own.shape[4:])))
    for start in range(0, len(mixed[0]), batch):
        which = tuple(part[start : start + batch] for part in mixed)
        here = tuple(place(part) for part in which)
        own[here] = _relaxed(own[here], place(flags[which]), xp)
    if every.any():
        number = np.where(every.reshape(-1), -1, np.arange(every.size))
        valid = number[number >= 0]
        source = np.maximum.accumulate(number)
        source[source < 0] = valid[0] if len(valid) else 0
        empty = np.flatnonzero(every.reshape(-1))
        target = tuple(place(part) for part in np.unravel_index(empty, every.shape))
        if not len(valid):
            own[target] = spare
            return
        used, position = np.unique(source[empty], return_inverse=True)
        origin = tuple(place(part) for part in np.unravel_index(used, every.shape))
        means = own[origin].mean(axis=(1, 2, 3, 4), dtype=np.float64).astype(own.dtype)
        own[target] = means[place(position)].reshape(-1, 1, 1, 1, 1)


def _relaxed(blocks: Any, missing: Any, xp: Any) -> Any:
    """Return blocks with their missing cells filled: from their mean, by sweeps of averages over neighbours."""
    axes = tuple(axis for axis in range(1, 5) if blocks.shape[axis] > 1)
    every = (1, 2, 3, 4)
    valid = xp.where(missing, 0, blocks)
    count = (~missing).sum(axis=every, keepdims=True)
    mean = (valid.sum(axis=every, keepdims=True, dtype=np.float64) / count).astype(blocks.dtype)
    low = xp.where(missing, np.inf, blocks).min(axis=every, keepdims=True)
    high = xp.where(missing, -np.inf, blocks).max(axis=every, keepdims=True)
    filled = xp.where(missing, mean, blocks)
    for _ in range(_SWEEPS):
        total = xp.zeros_like(filled)
        for axis in axes:
            first, last = xp.take(filled, [0], axis=axis), xp.take(filled, [-1], axis=axis)
            padded = xp.concatenate([first, filled, last], axis=axis)
            n = filled.shape[axis]
            total += _part(padded, axis, 0, n) + _part(padded, axis, 2, n + 2)
        filled = xp.where(missing, total / (2 * len(axes)), filled) if axes else filled
    return xp.clip(filled, low, high)


def _part(x: Any, axis: int, start: int, stop: int) -> Any:
    return x[tuple(slice(start, stop) if i == axis else slice(None) for i in range(x.ndim))]
