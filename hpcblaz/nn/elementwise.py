"""Operations on each number of tensors; those of two tensors broadcast as NumPy's do."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from hpcblaz.backend.nn import array_module
from hpcblaz.backend.nn import erf as array_erf
from hpcblaz.nn.tape import Array, Tensor, record, tensor

__all__ = [
    "absolute",
    "add",
    "clip",
    "divide",
    "dropout",
    "elu",
    "erf",
    "exp",
    "gelu",
    "hard_sigmoid",
    "hard_swish",
    "leaky_relu",
    "log",
    "maximum",
    "minimum",
    "multiply",
    "negate",
    "power",
    "reciprocal",
    "relu",
    "sigmoid",
    "silu",
    "softplus",
    "sqrt",
    "subtract",
    "summed_to",
    "tanh",
    "where",
]

_SQRT_HALF = math.sqrt(0.5)
_GELU_SCALE = math.sqrt(2 / math.pi)
_GELU_CUBE = 0.044715


def summed_to(gradient: Array, shape: tuple[int, ...]) -> Array:
    """Return the gradient of an operand of this shape that was broadcast to the shape of the gradient."""
    if tuple(gradient.shape) == shape:
        return gradient
    axes = tuple(range(gradient.ndim - len(shape)))
    gradient = gradient.sum(axis=axes) if axes else gradient
    axes = tuple(k for k, n in enumerate(shape) if n == 1 and gradient.shape[k] != 1)
    return gradient.sum(axis=axes, keepdims=True) if axes else gradient


def _binary(a: Any, b: Any, data: Array, left: Callable[[Array], Array], right: Callable[[Array], Array]) -> Tensor:
    def pull(gradient: Array) -> tuple[Array | None, Array | None]:
        return (
            summed_to(left(gradient), a.shape) if a.needs_gradient else None,
            summed_to(right(gradient), b.shape) if b.needs_gradient else None,
        )

    return record(data, (a, b), pull)


def add(a: Any, b: Any) -> Tensor:
    """Return a + b."""
    a, b = tensor(a), tensor(b)
    return _binary(a, b, a.data + b.data, lambda g: g, lambda g: g)


def subtract(a: Any, b: Any) -> Tensor:
    """Return a - b."""
    a, b = tensor(a), tensor(b)
    return _binary(a, b, a.data - b.data, lambda g: g, lambda g: -g)


def multiply(a: Any, b: Any) -> Tensor:
    """Return a * b."""
    a, b = tensor(a), tensor(b)
    return _binary(a, b, a.data * b.data, lambda g: g * b.data, lambda g: g * a.data)


def divide(a: Any, b: Any) -> Tensor:
    """Return a / b; integers are divided as C does it, towards zero."""
    a, b = tensor(a), tensor(b)
    if a.dtype.kind in "iu" and b.dtype.kind in "iu":
        xp = array_module(a.data, b.data)
        quotient = xp.abs(a.data) // xp.abs(b.data) * (xp.sign(a.data) * xp.sign(b.data))
        return Tensor(quotient.astype(xp.result_type(a.data, b.data)))
    quotient = a.data / b.data
    return _binary(a, b, quotient, lambda g: g / b.data, lambda g: -g * quotient / b.data)


def power(a: Any, b: Any) -> Tensor:
    """Return a ** b, of the type of a."""
    a, b = tensor(a), tensor(b)
    xp = array_module(a.data, b.data)
    exponent = b.data.astype(a.dtype)
    result = a.data * a.data if exponent.size == 1 and float(exponent.reshape(-1)[0]) == 2 else a.data**exponent
    if exponent.ndim > a.ndim:
        result = xp.broadcast_to(result, xp.broadcast_shapes(a.shape, exponent.shape))

    def right(gradient: Array) -> Array:
        logarithm = xp.log(xp.where(a.data > 0, a.data, 1))
        return gradient * result * logarithm

    return _binary(a, b, result, lambda g: g * exponent * a.data ** (exponent - 1), right)


def _chosen(a: Tensor, b: Tensor, data: Array) -> Tensor:
    """Return the larger or smaller of two tensors; both have half the gradient where they are equal."""

    def share(x: Array, other: Array) -> Array:
        both = ((x == data) & (other == data)).astype(data.dtype)
        return (x == data) - both / 2

    return _binary(
        a,
        b,
        data,
        lambda g: g * share(a.data, b.data).astype(g.dtype),
        lambda g: g * share(b.data, a.data).astype(g.dtype),
    )


def maximum(a: Any, b: Any) -> Tensor:
    """Return the larger of a and b."""
    a, b = tensor(a), tensor(b)
    return _chosen(a, b, array_module(a.data, b.data).maximum(a.data, b.data))


def minimum(a: Any, b: Any) -> Tensor:
    """Return the smaller of a and b."""
    a, b = tensor(a), tensor(b)
    return _chosen(a, b, array_module(a.data, b.data).minimum(a.data, b.data))


def where(condition: Any, a: Any, b: Any) -> Tensor:
    """Return a where a condition holds, b elsewhere."""
    condition, a, b = tensor(condition), tensor(a), tensor(b)
    xp = array_module(condition.data, a.data, b.data)
    data = xp.where(condition.data, a.data, b.data)
    return _binary(a, b, data, lambda g: xp.where(condition.data, g, 0), lambda g: xp.where(condition.data, 0, g))


def _unary(x: Tensor, data: Array, slope: Callable[[], Array]) -> Tensor:
    return record(data, (x,), lambda gradient: (gradient * slope(),))


def negate(x: Any) -> Tensor:
    """Return -x."""
    x = tensor(x)
    return record(-x.data, (x,), lambda gradient: (-gradient,))


def absolute(x: Any) -> Tensor:
    """Return abs(x)."""
    x = tensor(x)
    xp = array_module(x.data)
    return _unary(x, xp.abs(x.data), lambda: xp.sign(x.data))


def exp(x: Any) -> Tensor:
    """Return e to the power of x."""
    x = tensor(x)
    data = array_module(x.data).exp(x.data)
    return _unary(x, data, lambda: data)


def log(x: Any) -> Tensor:
    """Return the natural logarithm."""
    x = tensor(x)
    return _unary(x, array_module(x.data).log(x.data), lambda: 1 / x.data)


def sqrt(x: Any) -> Tensor:
    """Return the square root."""
    x = tensor(x)
    data = array_module(x.data).sqrt(x.data)
    return _unary(x, data, lambda: 0.5 / data)


def reciprocal(x: Any) -> Tensor:
    """Return 1 / x."""
    x = tensor(x)
    data = 1 / x.data
    return _unary(x, data, lambda: -data * data)


def erf(x: Any) -> Tensor:
    """Return the error function."""
    x = tensor(x)
    xp = array_module(x.data)
    return _unary(x, array_erf(x.data), lambda: (2 / math.sqrt(math.pi)) * xp.exp(-x.data * x.data))


def relu(x: Any) -> Tensor:
    """Return the larger of x and 0."""
    x = tensor(x)
    data = array_module(x.data).maximum(x.data, 0)
    return _unary(x, data, lambda: data > 0)


def leaky_relu(x: Any, slope: float = 0.01) -> Tensor:
    """Return x where it is positive, slope * x elsewhere."""
    x = tensor(x)
    xp = array_module(x.data)
    factor = xp.where(x.data > 0, 1, slope).astype(x.dtype)
    return _unary(x, x.data * factor, lambda: factor)


def elu(x: Any, scale: float = 1.0) -> Tensor:
    """Return x where it is positive, scale * (e**x - 1) elsewhere."""
    x = tensor(x)
    xp = array_module(x.data)
    below = scale * xp.expm1(xp.minimum(x.data, 0))
    return _unary(
        x, xp.where(x.data > 0, x.data, below), lambda: xp.where(x.data > 0, 1, below + scale).astype(x.dtype)
    )


def _logistic(x: Array) -> Array:
    """Return 1 / (1 + e**-x), exact for small results too, and without overflow."""
    xp = array_module(x)
    small = xp.exp(-xp.abs(x))
    return xp.where(x >= 0, 1, small) / (1 + small)


def sigmoid(x: Any) -> Tensor:
    """Return 1 / (1 + e**-x)."""
    x = tensor(x)
    data = _logistic(x.data)
    return _unary(x, data, lambda: data * (1 - data))


def hard_sigmoid(x: Any, slope: float = 0.2, middle: float = 0.5) -> Tensor:
    """Return slope * x + middle, kept between 0 and 1."""
    x = tensor(x)
    line = slope * x.data + middle
    data = array_module(x.data).clip(line, 0, 1)
    return _unary(x, data, lambda: ((line > 0) & (line < 1)) * x.dtype.type(slope))


def hard_swish(x: Any) -> Tensor:
    """Return x * clip(x / 6 + 1/2, 0, 1)."""
    x = tensor(x)
    xp = array_module(x.data)
    gate = x.data + 3
    xp.clip(gate, 0, 6, out=gate)
    gate *= x.dtype.type(1 / 6)
    data = x.data * gate
    return _unary(x, data, lambda: gate + ((gate > 0) & (gate < 1)) * x.data / 6)


def silu(x: Any) -> Tensor:
    """Return x * sigmoid(x)."""
    x = tensor(x)
    gate = _logistic(x.data)
    return _unary(x, x.data * gate, lambda: gate * (1 + x.data * (1 - gate)))


def softplus(x: Any) -> Tensor:
    """Return log(1 + e**x)."""
    x = tensor(x)
    xp = array_module(x.data)
    return _unary(x, xp.logaddexp(x.data, x.dtype.type(0)), lambda: _logistic(x.data))


def tanh(x: Any) -> Tensor:
    """Return the hyperbolic tangent."""
    x = tensor(x)
    data = array_module(x.data).tanh(x.data)
    return _unary(x, data, lambda: 1 - data * data)


def gelu(x: Any, approximate: bool = False) -> Tensor:
    """Return x * Phi(x), with the normal distribution Phi or its approximation by tanh."""
    x = tensor(x)
    xp = array_module(x.data)
    if approximate:
        inner = xp.tanh(_GELU_SCALE * (x.data + _GELU_CUBE * x.data**3))
        gate = 0.5 * (1 + inner)
        return _unary(
            x,
            x.data * gate,
            lambda: gate + 0.5 * x.data * (1 - inner * inner) * _GELU_SCALE * (1 + 3 * _GELU_CUBE * x.data**2),
        )
    gate = 0.5 * (1 + array_erf(x.data * x.dtype.type(_SQRT_HALF)))
    density = 1 / math.sqrt(2 * math.pi)
    return _unary(x, x.data * gate, lambda: gate + x.data * density * xp.exp(-0.5 * x.data * x.data))


def clip(x: Any, least: float | None = None, most: float | None = None) -> Tensor:
    """Return x, kept between two numbers."""
    x = tensor(x)
    data = array_module(x.data).clip(x.data, least, most).astype(x.dtype, copy=False)
    return _unary(x, data, lambda: x.data == data)


def dropout(x: Any, share: float, random: Any) -> Tensor:
    """Return x with a share of its numbers, drawn by a NumPy generator, set to zero, and the others enlarged."""
    x = tensor(x)
    xp = array_module(x.data)
    kept = xp.asarray(random.random(x.shape) >= share) / x.dtype.type(1 - share)
    kept = kept.astype(x.dtype)
    return _unary(x, x.data * kept, lambda: kept)
