"""Numbers for missing cells, so that the blocks around them cost few bits. None of them is ever seen by a user."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcblaz.backend.blocks import BlockGrid

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
    some, every = any_in_blocks(missing, grid.sides), ~any_in_blocks(~missing, grid.sides)
    spare = values.reshape(-1)[int(missing.argmin())] if not every.all() else 0
    for first, blocks, sides in grid.regions.reshape(-1, 3, 4).tolist():
        cells = tuple(slice(f, f + n * v) for f, n, v in zip(first, blocks, sides, strict=True))
        here = tuple(slice(f // v, f // v + n) for f, n, v in zip(first, blocks, grid.sides, strict=True))
        if not some[here].any():
            continue
        split = tuple(n for pair in zip(blocks, sides, strict=True) for n in pair)
        order = (0, 2, 4, 6, 1, 3, 5, 7)
        own = values[cells].reshape(split).transpose(order)  # a view: blocks, then the cells of each
        flags = missing[cells].reshape(split).transpose(order)
        _fill_mixed(own, flags, np.nonzero(some[here] & ~every[here]), xp, place)
        if every[here].any():
            _fill_empty(own, every[here].reshape(-1), spare, place)


def any_in_blocks(flags: NDArray[np.bool_], sides: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return which blocks have a cell with its flag set."""
    for axis, side in enumerate(sides):
        n = flags.shape[axis]
        if side > 1:
            if n % side:
                flags = np.pad(flags, [(0, -n % side if i == axis else 0) for i in range(flags.ndim)])
            flags = np.logical_or.reduce([_part(flags, axis, start, None, side) for start in range(side)])
    return flags


def _fill_mixed(
    own: Any,
    flags: NDArray[np.bool_],
    mixed: tuple[NDArray[np.intp], ...],
    xp: Any,
    place: Callable[[NDArray[Any]], Any],
) -> None:
    """Fill blocks that have valid cells as well."""
    batch = max(1, _CELLS_AT_ONCE // math.prod(own.shape[4:]))
    for start in range(0, len(mixed[0]), batch):
        which = tuple(part[start : start + batch] for part in mixed)
        here = tuple(place(part) for part in which)
        own[here] = _relaxed(own[here], place(flags[which]), xp)


def _fill_empty(own: Any, every: NDArray[np.bool_], spare: Any, place: Callable[[NDArray[Any]], Any]) -> None:
    """Fill blocks of missing cells with the mean of the block before them, or of the first one after them."""
    number = np.where(every, -1, np.arange(every.size))
    valid = number[number >= 0]
    empty = np.flatnonzero(every)
    target = tuple(place(part) for part in np.unravel_index(empty, own.shape[:4]))
    if not len(valid):
        own[target] = spare
        return
    source = np.maximum.accumulate(number)
    source[source < 0] = valid[0]
    used, position = np.unique(source[empty], return_inverse=True)
    origin = tuple(place(part) for part in np.unravel_index(used, own.shape[:4]))
    whole, every_axis = own[origin], (1, 2, 3, 4)
    means = whole.mean(axis=every_axis, dtype=np.float64, keepdims=True).astype(own.dtype)
    means = means.clip(whole.min(axis=every_axis, keepdims=True), whole.max(axis=every_axis, keepdims=True))
    own[target] = means[place(position)]


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
    for _ in range(2 * max(blocks.shape[1:]) if axes else 0):
        total = xp.zeros_like(filled)
        for axis in axes:  # beyond a face lies the cell itself
            for ahead, behind, face in (((1, None), (None, -1), (0, 1)), ((None, -1), (1, None), (-1, None))):
                _part(total, axis, *ahead)[...] += _part(filled, axis, *behind)
                _part(total, axis, *face)[...] += _part(filled, axis, *face)
        filled = xp.where(missing, total * (0.5 / len(axes)), filled)
    return xp.clip(filled, low, high)


def _part(x: Any, axis: int, start: int | None, stop: int | None, step: int | None = None) -> Any:
    return x[tuple(slice(start, stop, step) if i == axis else slice(None) for i in range(x.ndim))]
