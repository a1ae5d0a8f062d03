"""Operations that move the numbers of tensors, or add them up along axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from hpcblaz.backend.nn import array_module
from hpcblaz.errors import ShapeError
from hpcblaz.nn.elementwise import summed_to
from hpcblaz.nn.tape import Array, Tensor, record, tensor

__all__ = [
    "concatenate",
    "expand",
    "gather",
    "largest",
    "least",
    "mean",
    "norm",
    "pad",
    "product",
    "reshape",
    "section",
    "total",
    "transpose",
]


def reshape(x: Any, shape: Sequence[int]) -> Tensor:
    """Return x in another shape; one length may be -1."""
    x = tensor(x)
    try:
        data = x.data.reshape(tuple(shape))
    except ValueError as error:
        raise ShapeError(f"expected a shape of {x.data.size} numbers, got {tuple(shape)}") from error
    return record(data, (x,), lambda gradient: (gradient.reshape(x.shape),))


def transpose(x: Any, axes: Sequence[int] | None = None) -> Tensor:
    """Return x with its axes in another order; default: reversed."""
    x = tensor(x)
    order = tuple(axes) if axes is not None else tuple(reversed(range(x.ndim)))
    back = sorted(range(len(order)), key=lambda k: order[k] % x.ndim)
    return record(x.data.transpose(order), (x,), lambda gradient: (gradient.transpose(back),))


def expand(x: Any, shape: Sequence[int]) -> Tensor:
    """Return x, repeated along axes of length 1 (or that it does not have) to a shape."""
    x = tensor(x)
    return record(
        array_module(x.data).broadcast_to(x.data, tuple(shape)), (x,), lambda gradient: (summed_to(gradient, x.shape),)
    )


def concatenate(tensors: Sequence[Any], axis: int) -> Tensor:
    """Return tensors one after the other along an axis."""
    parts = [tensor(x) for x in tensors]
    xp = array_module(*(x.data for x in parts))
    data = xp.concatenate([x.data for x in parts], axis=axis)

    def pull(gradient: Array) -> list[Array]:
        ends, place = [], 0
        for x in parts[:-1]:
            place += x.shape[axis]
            ends.append(place)
        return list(xp.split(gradient, ends, axis=axis))

    return record(data, parts, pull)


def section(x: Any, key: Any) -> Tensor:
    """Return x[key], for a key of slices and integers."""
    x = tensor(x)

    def pull(gradient: Array) -> tuple[Array]:
        whole = array_module(gradient).zeros(x.shape, gradient.dtype)
        whole[key] = gradient
        return (whole,)

    return record(x.data[key], (x,), pull)


def gather(x: Any, indices: Any, axis: int = 0) -> Tensor:
    """Return the parts of x along an axis that integers name: of an embedding, the rows of words."""
    x = tensor(x)
    xp = array_module(x.data)
    places = xp.asarray(tensor(indices).data)
    length = x.shape[axis]
    if places.size and (int(places.min()) < -length or int(places.max()) >= length):
        raise ShapeError(
            f"expected indices from {-length} to {length - 1}, got {int(places.min())} to {int(places.max())}"
        )

    def pull(gradient: Array) -> tuple[Array]:
        whole = xp.zeros(x.shape, gradient.dtype)
        moved = xp.moveaxis(whole, axis, 0)
        first = axis % x.ndim
        source = xp.moveaxis(gradient, tuple(range(first, first + places.ndim)), tuple(range(places.ndim)))
        xp.add.at(moved, places, source)
        return (whole,)

    return record(xp.take(x.data, places, axis=axis), (x,), pull)


def pad(x: Any, widths: Sequence[tuple[int, int]], mode: str = "constant", value: float = 0) -> Tensor:
    """Return x with numbers added before and after each axis.

    Parameters
    ----------
    x : Tensor
    widths : sequence of (int, int)
        For each axis. Negative ones remove numbers.
    mode : {'constant', 'reflect', 'edge'}
    value : float
        Of 'constant'.

    Returns
    -------
    Tensor
    """
    x = tensor(x)
    cut = tuple(slice(max(0, -a), n - max(0, -b)) for n, (a, b) in zip(x.shape, widths, strict=True))
    if any(a < 0 or b < 0 for a, b in widths):
        x = section(x, cut)
    added = [(max(0, a), max(0, b)) for a, b in widths]
    xp = array_module(x.data)
    if mode == "reflect" and any(max(w) >= n for n, w in zip(x.shape, added, strict=True) if max(w)):
        raise ShapeError(f"expected a reflection of less than the length of an axis of {x.shape}, got {added}")
    if mode == "constant":
        data = xp.pad(x.data, added, constant_values=value)
    else:
        data = xp.pad(x.data, added, mode=mode)
    inner = tuple(slice(a, a + n) for n, (a, _) in zip(x.shape, added, strict=True))

    def pull(gradient: Array) -> tuple[Array]:
        if mode == "constant":
            return (gradient[inner],)
        for axis, (n, (a, b)) in enumerate(zip(x.shape, added, strict=True)):
            if a or b:
                sources = xp.pad(xp.arange(n), (a, b), mode=mode)
                folded = xp.zeros((n, *gradient.shape[:axis], *gradient.shape[axis + 1 :]), gradient.dtype)
                xp.add.at(folded, sources, xp.moveaxis(gradient, axis, 0))
                gradient = xp.moveaxis(folded, 0, axis)
        return (gradient,)

    return record(data, (x,), pull)


def _axes(x: Tensor, axes: Sequence[int] | None) -> tuple[int, ...]:
    chosen = tuple(range(x.ndim)) if axes is None else tuple(int(k) for k in axes)
    if any(not -x.ndim <= k < x.ndim for k in chosen):
        raise ShapeError(f"expected axes of a tensor of {x.ndim} axes, got {chosen}")
    return tuple(k % x.ndim for k in chosen)


def _spread(gradient: Array, x: Tensor, axes: tuple[int, ...], keep: bool) -> Array:
    """Return the gradient of a sum over axes, as an array that broadcasts to the shape of the operand."""
    return gradient if keep else gradient.reshape(tuple(1 if k in axes else n for k, n in enumerate(x.shape)))


def _added(x: Array, along: tuple[int, ...], keep: bool) -> Array:
    """Return the sum over axes, which networks take differences of: numbers of 32 bits are not added one by one.

    Along the last axes of an array NumPy adds up in pairs, whose rounding does not grow with their number; along others
    it does not.
    """
    xp = array_module(x)
    if sorted(along) == list(range(x.ndim - len(along), x.ndim)) and x.size:
        added = x.reshape(*x.shape[: x.ndim - len(along)], -1).sum(axis=-1, dtype=x.dtype)
        return added.reshape([1 if k in along else n for k, n in enumerate(x.shape)]) if keep else xp.asarray(added)
    kind = xp.float64 if x.dtype.kind == "f" and x.dtype.itemsize < 8 else x.dtype
    return xp.asarray(x.sum(axis=along, keepdims=keep, dtype=kind)).astype(x.dtype, copy=False)


def total(x: Any, axes: Sequence[int] | None = None, keep: bool = False) -> Tensor:
    """Return the sum over axes, default all; they stay with length 1 if they are to be kept."""
    x = tensor(x)
    along = _axes(x, axes)
    xp = array_module(x.data)
    data = _added(x.data, along, keep)
    return record(data, (x,), lambda g: (xp.broadcast_to(_spread(g, x, along, keep), x.shape),))


def mean(x: Any, axes: Sequence[int] | None = None, keep: bool = False) -> Tensor:
    """Return the mean over axes."""
    x = tensor(x)
    along = _axes(x, axes)
    xp = array_module(x.data)
    count = math.prod(x.shape[k] for k in along)
    data = _added(x.data, along, keep) / x.dtype.type(count)
    return record(data, (x,), lambda g: (xp.broadcast_to(_spread(g / count, x, along, keep), x.shape),))


def _extreme(x: Tensor, data: Array, along: tuple[int, ...], keep: bool) -> Tensor:
    """Return an extreme over axes; equal ones share the gradient."""

    def pull(gradient: Array) -> tuple[Array]:
        here = (x.data == _spread(data, x, along, keep)).astype(gradient.dtype)
        return (_spread(gradient, x, along, keep) * here / here.sum(axis=along, keepdims=True),)

    return record(data, (x,), pull)


def largest(x: Any, axes: Sequence[int] | None = None, keep: bool = False) -> Tensor:
    """Return the largest number over axes."""
    x = tensor(x)
    along = _axes(x, axes)
    return _extreme(x, array_module(x.data).asarray(x.data.max(axis=along, keepdims=keep)), along, keep)


def least(x: Any, axes: Sequence[int] | None = None, keep: bool = False) -> Tensor:
    """Return the smallest number over axes."""
    x = tensor(x)
    along = _axes(x, axes)
    return _extreme(x, array_module(x.data).asarray(x.data.min(axis=along, keepdims=keep)), along, keep)


def product(x: Any, axes: Sequence[int] | None = None, keep: bool = False) -> Tensor:
    """Return the product over axes."""
    x = tensor(x)
    along = _axes(x, axes)
    xp = array_module(x.data)
    data = xp.asarray(x.data.prod(axis=along, keepdims=keep, dtype=x.dtype))

    def pull(gradient: Array) -> tuple[Array]:
        flat = xp.moveaxis(x.data, along, tuple(range(len(along)))).reshape(
            (-1, *(n for k, n in enumerate(x.shape) if k not in along))
        )
        before, after = xp.ones_like(flat), xp.ones_like(flat)
        before[1:] = xp.cumprod(flat[:-1], axis=0)
        after[:-1] = xp.cumprod(flat[:0:-1], axis=0)[::-1]
        others = (before * after).reshape(
            (*(x.shape[k] for k in along), *(n for k, n in enumerate(x.shape) if k not in along))
        )
        others = xp.moveaxis(others, tuple(range(len(along))), along)
        return (_spread(gradient, x, along, keep) * others,)

    return record(data, (x,), pull)


def norm(x: Any, axes: Sequence[int] | None = None, keep: bool = False) -> Tensor:
    """Return the Euclidean norm over axes; its gradient at zero is zero."""
    x = tensor(x)
    along = _axes(x, axes)
    xp = array_module(x.data)
    data = xp.sqrt(xp.asarray((x.data * x.data).sum(axis=along, keepdims=keep)))

    def pull(gradient: Array) -> tuple[Array]:
        length = _spread(data, x, along, keep)
        return (_spread(gradient, x, along, keep) * x.data / xp.where(length > 0, length, 1),)

    return record(data, (x,), pull)
