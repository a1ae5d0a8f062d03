"""Operations: against NumPy, and their gradients against finite differences."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nn.gradient_check import check_gradients

from hpcblaz import nn
from hpcblaz.backend import nn as arrays
from hpcblaz.backend.threads import threads
from hpcblaz.errors import NetworkError, ShapeError
from hpcblaz.nn import Tensor, backward, cross_entropy, distillation, squared_error
from hpcblaz.nn import elementwise as ew
from hpcblaz.nn.convolutions import average_pool, convolution, max_pool
from hpcblaz.nn.linear import dense, log_softmax, matmul, softmax
from hpcblaz.nn.normalising import batch_norm, batch_statistics, layer_norm
from hpcblaz.nn.recurrent import gru, lstm
from hpcblaz.nn.shaping import (
    concatenate,
    expand,
    gather,
    largest,
    least,
    mean,
    norm,
    pad,
    product,
    reshape,
    section,
    total,
    transpose,
)

RANDOM = np.random.default_rng(1)


def draw(*shape: int) -> Any:
    """Numbers that are not near the corners of any activation."""
    x = RANDOM.normal(size=shape)
    return x + 0.01 * np.sign(x)


UNARY = {
    "absolute": (ew.absolute, np.abs),
    "clip": (lambda x: ew.clip(x, -0.7, 0.9), lambda x: np.clip(x, -0.7, 0.9)),
    "elu": (ew.elu, lambda x: np.where(x > 0, x, np.expm1(x))),
    "erf": (ew.erf, np.vectorize(math.erf)),
    "exp": (ew.exp, np.exp),
    "gelu": (ew.gelu, lambda x: x / 2 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))),
    "hard_sigmoid": (ew.hard_sigmoid, lambda x: np.clip(0.2 * x + 0.5, 0, 1)),
    "hard_swish": (ew.hard_swish, lambda x: x * np.clip(x / 6 + 0.5, 0, 1)),
    "leaky_relu": (ew.leaky_relu, lambda x: np.where(x > 0, x, 0.01 * x)),
    "negate": (ew.negate, np.negative),
    "reciprocal": (ew.reciprocal, np.reciprocal),
    "relu": (ew.relu, lambda x: np.maximum(x, 0)),
    "sigmoid": (ew.sigmoid, lambda x: 1 / (1 + np.exp(-x))),
    "silu": (ew.silu, lambda x: x / (1 + np.exp(-x))),
    "softplus": (ew.softplus, lambda x: np.log1p(np.exp(x))),
    "square": (lambda x: ew.power(x, 2.0), np.square),
    "tanh": (ew.tanh, np.tanh),
}


@pytest.mark.parametrize("name", UNARY)
def test_functions_of_each_number(name: str) -> None:
    function, oracle = UNARY[name]
    x = draw(3, 4) * 2
    np.testing.assert_allclose(function(x).data, oracle(x), rtol=1e-13, atol=1e-15)
    check_gradients(function, x)
    assert function(x.astype(np.float32)).dtype == np.float32


def test_gelu_by_tanh() -> None:
    x = draw(3, 4)
    np.testing.assert_allclose(ew.gelu(x, True).data, ew.gelu(x).data, atol=1e-3)
    check_gradients(lambda x: ew.gelu(x, True), x)


def test_functions_of_positive_numbers() -> None:
    x = np.abs(draw(3, 4)) + 0.1
    np.testing.assert_allclose(ew.log(x).data, np.log(x))
    np.testing.assert_allclose(ew.sqrt(x).data, np.sqrt(x))
    check_gradients(ew.log, x)
    check_gradients(ew.sqrt, x)
    check_gradients(ew.power, x, draw(3, 1))
    check_gradients(ew.power, x, draw(2, 3, 1))


@pytest.mark.parametrize(
    "shapes", [((3, 4), (3, 4)), ((3, 4), (4,)), ((2, 3, 1), (1, 4)), ((), (2, 2)), ((1, 1), (1,))]
)
def test_two_operands_broadcast(shapes: Any) -> None:
    a, b = draw(*shapes[0]), draw(*shapes[1]) + 3
    for function, oracle in (
        (ew.add, np.add),
        (ew.subtract, np.subtract),
        (ew.multiply, np.multiply),
        (ew.divide, np.divide),
        (ew.maximum, np.maximum),
        (ew.minimum, np.minimum),
        (lambda a, b: ew.where(np.array(True), a, b), lambda a, b: np.broadcast_arrays(a, b)[0]),
    ):
        np.testing.assert_array_equal(function(a, b).data, oracle(a, b))
        check_gradients(function, a, b)


def test_equal_operands_share_the_gradient_of_an_extreme() -> None:
    a, b = (Tensor(np.ones(2), needs_gradient=True) for _ in range(2))
    backward(ew.maximum(a, b))
    assert a.gradient is not None and b.gradient is not None
    np.testing.assert_array_equal(a.gradient + b.gradient, [1, 1])


def test_integers_are_divided_towards_zero() -> None:
    assert ew.divide(np.array([7, -7, 7]), np.array([2, 2, -2])).data.tolist() == [3, -3, -3]


def test_a_gradient_arrives_by_every_way() -> None:
    x = Tensor(np.array([2.0]), needs_gradient=True)
    y = ew.multiply(x, x)
    backward(ew.add(ew.multiply(y, x), y))  # x**3 + x**2
    assert x.gradient is not None and x.gradient.tolist() == [16.0]


def test_gradients_of_several_results_add_up() -> None:
    x = Tensor(np.array([2.0]), needs_gradient=True)
    backward(ew.multiply(x, 3.0))
    backward(ew.multiply(x, 4.0))
    assert x.gradient is not None and x.gradient.tolist() == [7.0]


def test_what_needs_no_gradient_has_none() -> None:
    with pytest.raises(ShapeError, match="needs_gradient"):
        backward(ew.add(np.ones(2), 1.0))
    x = Tensor(np.ones(2), needs_gradient=True)
    with pytest.raises(ShapeError, match=r"shape \(2,\)"):
        backward(ew.relu(x), np.ones(3))


def test_shapes() -> None:
    x = draw(2, 3, 4)
    for function, expected in (
        (lambda x: reshape(x, (4, -1)), x.reshape(4, 6)),
        (lambda x: transpose(x, (2, 0, 1)), x.transpose(2, 0, 1)),
        (transpose, x.T),
        (lambda x: section(x, (slice(None), 1, slice(None, None, -2))), x[:, 1, ::-2]),
        (lambda x: expand(reshape(x, (2, 1, 3, 4)), (2, 2, 3, 4)), np.stack([x, x], axis=1)),
        (lambda x: concatenate([x, ew.multiply(x, x), x], 1), np.concatenate([x, x * x, x], 1)),
        (lambda x: gather(x, np.array([[2, -1], [0, 2]]), 1), x[:, [[2, -1], [0, 2]]]),
        (lambda x: gather(x, np.array(1), 2), x[:, :, 1]),
        (lambda x: pad(x, [(0, 0), (1, 2), (3, 0)]), np.pad(x, [(0, 0), (1, 2), (3, 0)])),
        (lambda x: pad(x, [(0, 0), (2, 1), (0, 3)], "reflect"), np.pad(x, [(0, 0), (2, 1), (0, 3)], "reflect")),
        (lambda x: pad(x, [(1, 0), (0, 1), (0, 0)], "edge"), np.pad(x, [(1, 0), (0, 1), (0, 0)], "edge")),
        (lambda x: pad(x, [(-1, 0), (0, 0), (0, 1)]), np.pad(x[1:], [(0, 0), (0, 0), (0, 1)])),
    ):
        np.testing.assert_array_equal(function(x).data, expected)
        check_gradients(function, x)


@pytest.mark.parametrize("axes", [None, [0], [-1, 1], [0, 1, 2]])
@pytest.mark.parametrize("keep", [False, True])
def test_reductions(axes: Any, keep: bool) -> None:
    x = draw(2, 3, 2)
    along = None if axes is None else tuple(axes)
    for function, oracle in (
        (total, np.sum),
        (mean, np.mean),
        (largest, np.max),
        (least, np.min),
        (product, np.prod),
        (norm, lambda x, axis, keepdims: np.sqrt((x * x).sum(axis=axis, keepdims=keepdims))),
    ):
        np.testing.assert_allclose(function(x, axes, keep).data, oracle(x, axis=along, keepdims=keep), rtol=1e-14)
        check_gradients(lambda x, function=function: function(x, axes, keep), x)


def test_wrong_shapes_are_refused() -> None:
    for call in (
        lambda: reshape(np.ones(6), (4, 2)),
        lambda: gather(np.ones(3), np.array([3])),
        lambda: matmul(np.ones((2, 3)), np.ones((2, 3))),
        lambda: dense(np.ones((2, 3)), np.ones((4, 2))),
        lambda: total(np.ones(3), [1]),
        lambda: pad(np.ones(3), [(3, 0)], "reflect"),
        lambda: convolution(np.ones((1, 3, 4, 4)), np.ones((2, 2, 3, 3))),
        lambda: convolution(np.ones((1, 2, 4, 4)), np.ones((3, 1, 3, 3)), groups=2),
        lambda: convolution(np.ones((1, 2, 2, 2)), np.ones((2, 2, 3, 3))),
        lambda: max_pool(np.ones((1, 1, 2, 2)), 3),
        lambda: cross_entropy(np.ones((2, 3)), np.array([1])),
    ):
        with pytest.raises(ShapeError, match="expected"):
            call()


@pytest.mark.parametrize(
    "shapes", [((2, 3), (3, 4)), ((5, 2, 3), (3, 4)), ((5, 2, 3), (5, 3, 4)), ((2, 1, 2, 3), (5, 3, 2)), ((3,), (3,)),
               ((3,), (3, 4)), ((2, 3), (3,)), ((3,), (2, 3, 2)), ((2, 2, 3), (3,))]
)  # fmt: skip
def test_products_of_matrices(shapes: Any) -> None:
    a, b = draw(*shapes[0]), draw(*shapes[1])
    np.testing.assert_allclose(matmul(a, b).data, a @ b, rtol=1e-13)
    check_gradients(matmul, a, b)


def test_dense_and_probabilities() -> None:
    x, weights, bias = draw(3, 4), draw(2, 4), draw(2)
    np.testing.assert_allclose(dense(x, weights, bias).data, x @ weights.T + bias)
    check_gradients(dense, x, weights, bias)
    check_gradients(dense, x, weights)
    for axis in (0, 1):
        expected = np.exp(x) / np.exp(x).sum(axis=axis, keepdims=True)
        np.testing.assert_allclose(softmax(x, axis).data, expected, rtol=1e-13)
        np.testing.assert_allclose(log_softmax(x, axis).data, np.log(expected), rtol=1e-12)
        check_gradients(lambda x, axis=axis: softmax(x, axis), x)
        check_gradients(lambda x, axis=axis: log_softmax(x, axis), x)
    assert np.isfinite(log_softmax(np.array([[1e4, -1e4]])).data).all()


def test_losses() -> None:
    x, labels = draw(4, 3), np.array([0, 2, 1, 2])
    check_gradients(lambda x: cross_entropy(x, labels), x)
    check_gradients(lambda x: distillation(x, draw_fixed(), 2.0), x)
    check_gradients(squared_error, x, draw(4, 3))
    with pytest.raises(NetworkError, match="labels from 0 to 2, got 0 to 3"):
        cross_entropy(x, np.array([0, 3, 1, 1]))
    with pytest.raises(NetworkError, match="integers"):
        cross_entropy(x, np.array([0.0, 1, 1, 1]))
    with pytest.raises(ShapeError):
        cross_entropy(np.zeros((0, 3)), np.zeros(0, int))


def draw_fixed() -> Any:
    return np.random.default_rng(3).normal(size=(4, 3))


def test_normalisation() -> None:
    x, scale, shift = draw(3, 2, 4), draw(2), draw(2)

    def trained(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        return batch_norm(x, scale, shift, *batch_statistics(x), 1e-3, False)

    got = trained(Tensor(x), Tensor(np.ones(2)), Tensor(np.zeros(2))).data
    np.testing.assert_allclose(got.mean(axis=(0, 2)), 0, atol=1e-14)
    np.testing.assert_allclose(got.var(axis=(0, 2)), 1, atol=0.01)
    check_gradients(trained, x, scale, shift)
    spread = np.array([2.0, 0.5])
    check_gradients(lambda x, s, t: batch_norm(x, s, t, np.array([0.3, 0.1]), spread, 1e-3, True), x, scale, shift)
    check_gradients(lambda x, s, t: layer_norm(x, s, t, -1, 1e-3), x, draw(4), draw(4))
    check_gradients(lambda x, s: layer_norm(x, s, None, 1, 1e-3), x, draw(2, 4))


def slow_convolution(x: Any, w: Any, strides: Any, pads: Any, dilations: Any, groups: int) -> Any:
    """The definition, output by output."""
    x = np.pad(x, ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])))
    many = len(w) // groups
    rows = (x.shape[2] - dilations[0] * (w.shape[2] - 1) - 1) // strides[0] + 1
    columns = (x.shape[3] - dilations[1] * (w.shape[3] - 1) - 1) // strides[1] + 1
    result = np.zeros((len(x), len(w), rows, columns), x.dtype)
    for o, y, z in np.ndindex(len(w), rows, columns):
        part = x[
            :,
            o // many * w.shape[1] : (o // many + 1) * w.shape[1],
            y * strides[0] : y * strides[0] + dilations[0] * (w.shape[2] - 1) + 1 : dilations[0],
            z * strides[1] : z * strides[1] + dilations[1] * (w.shape[3] - 1) + 1 : dilations[1],
        ]
        result[:, o, y, z] = (part * w[o]).sum(axis=(1, 2, 3))
    return result


@st.composite
def convolutions(draw: Any) -> Any:
    small = st.integers(1, 3)
    groups = draw(small)
    inner, outer = draw(st.integers(1, 2)), draw(st.integers(1, 2))
    kernel, strides, dilations = (tuple(draw(small) for _ in range(2)) for _ in range(3))
    pads = tuple(draw(st.integers(0, 2)) for _ in range(4))
    size = [
        max(1, d * (k - 1) + 1 - pads[axis] - pads[axis + 2]) + draw(st.integers(0, 4))
        for axis, (k, d) in enumerate(zip(kernel, dilations, strict=True))
    ]
    images = draw(st.integers(1, 3))
    random = np.random.default_rng(draw(st.integers(0, 2**32)))
    x = random.normal(size=(images, groups * inner, *size))
    weights = random.normal(size=(groups * outer, inner, *kernel))
    return x, weights, strides, pads, dilations, groups


@settings(max_examples=60)
@given(convolutions())
def test_convolution_is_what_its_definition_says(case: Any) -> None:
    x, weights, strides, pads, dilations, groups = case
    expected = slow_convolution(x, weights, strides, pads, dilations, groups)
    got = convolution(x, weights, None, strides, pads, dilations, groups).data
    np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12)
    # the gradients of something linear are its adjoints: <g, A x> = <A' g, x>
    a, b = Tensor(x, needs_gradient=True), Tensor(weights, needs_gradient=True)
    gradient = np.random.default_rng(0).normal(size=expected.shape)
    backward(convolution(a, b, None, strides, pads, dilations, groups), gradient)
    assert a.gradient is not None and b.gradient is not None
    value = (gradient * expected).sum()
    np.testing.assert_allclose((a.gradient * x).sum(), value, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose((b.gradient * weights).sum(), value, rtol=1e-9, atol=1e-9)
    single = convolution(x.astype("f"), weights.astype("f"), None, strides, pads, dilations, groups)
    assert single.dtype == np.float32
    np.testing.assert_allclose(single.data, expected, rtol=1e-4, atol=1e-4)


@settings(max_examples=30)
@given(convolutions())
def test_array_operations_do_what_the_loops_do(case: Any) -> None:
    """What a card does is made of the same array operations as for a type that has no loops."""
    x, weights, strides, pads, dilations, groups = case
    window = arrays.Window(weights.shape[2:], strides, dilations, pads[:2], pads[2:])
    whole, weights = np.rint(4 * x), np.rint(4 * weights)  # exact in any order of sums
    long, long_weights = whole.astype(np.longdouble), weights.astype(np.longdouble)
    expected = arrays.convolve(whole, weights, window, groups)
    np.testing.assert_array_equal(arrays.convolve(long, long_weights, window, groups), expected)
    gradient = np.rint(4 * np.random.default_rng(0).normal(size=expected.shape))
    wide = gradient.astype(np.longdouble)
    np.testing.assert_array_equal(
        arrays.convolve_adjoint(gradient, weights, x.shape, window, groups),
        arrays.convolve_adjoint(wide, long_weights, x.shape, window, groups),
    )
    np.testing.assert_array_equal(
        arrays.convolve_weights(gradient, whole, weights.shape, window, groups),
        arrays.convolve_weights(wide, long, weights.shape, window, groups),
    )
    values, places = arrays.pool_largest(whole, window)
    slow_values, slow_places = arrays.pool_largest(long, window)
    np.testing.assert_array_equal(values, slow_values)
    np.testing.assert_array_equal(places, slow_places)
    sent = np.rint(4 * np.random.default_rng(1).normal(size=values.shape))
    np.testing.assert_array_equal(
        arrays.pool_largest_adjoint(sent, places, x.shape),
        arrays.pool_largest_adjoint(sent.astype(np.longdouble), places, x.shape),
    )


def test_convolution_by_finite_differences() -> None:
    x, weights, bias = draw(2, 4, 5, 4), draw(6, 2, 3, 2), draw(6)
    check_gradients(lambda x, w, b: convolution(x, w, b, (2, 1), (1, 0, 2, 1), (1, 2), 2), x, weights, bias)
    check_gradients(lambda x, w: convolution(x, w, None, 1, 1, 1, 4), x, draw(8, 1, 3, 3))
    check_gradients(lambda x, w: convolution(x, w, None, 2, 1, 2), draw(2, 2, 9), draw(3, 2, 3))
    check_gradients(convolution, draw(2, 3, 9, 8), draw(2, 3, 1, 1))


def test_convolution_does_not_depend_on_batches_or_threads() -> None:
    x, weights = RANDOM.normal(size=(40, 8, 12, 12)).astype("f"), RANDOM.normal(size=(8, 8, 3, 3)).astype("f")
    window = arrays.Window((3, 3), before=(1, 1), after=(1, 1))
    gradient = RANDOM.normal(size=x.shape).astype("f")
    found = []
    for count in (1, 3):
        with threads(count):
            found.append(
                [
                    arrays.convolve(x, weights, window),
                    arrays.convolve_adjoint(gradient, weights, x.shape, window),
                    arrays.convolve_weights(gradient, x, weights.shape, window),
                ]
            )
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_no_images() -> None:
    none = np.zeros((0, 2, 9, 9), np.float32)
    for kernel in (1, 3):
        assert convolution(none, np.ones((4, 2, kernel, kernel), "f")).shape == (0, 4, 10 - kernel, 10 - kernel)
    assert max_pool(none, 2).shape == (0, 2, 4, 4)


def test_pooling() -> None:
    x = draw(2, 2, 5, 6)
    got = max_pool(x, 2).data
    np.testing.assert_array_equal(got, x[:, :, :4].reshape(2, 2, 2, 2, 3, 2).max(axis=(3, 5)))
    for options in ({}, {"strides": 1}, {"padding": 1}, {"padding": (0, 1, 1, 0), "strides": 2, "ceil": True}):
        check_gradients(lambda x, options=options: max_pool(x, (3, 2), **options), x)
        check_gradients(lambda x, options=options: average_pool(x, (3, 2), **options), x)
        check_gradients(lambda x, options=options: average_pool(x, (3, 2), count_padding=True, **options), x)
    check_gradients(lambda x: max_pool(x, 2, dilations=2), x)
    check_gradients(lambda x: max_pool(x, 3, 2), draw(2, 2, 7))
    np.testing.assert_allclose(average_pool(np.ones((1, 1, 4, 4)), 3, 1, 1).data, 1)
    assert average_pool(np.ones((1, 1, 4, 4)), 3, 1, 1, count_padding=True).data[0, 0, 0, 0] == 4 / 9


@pytest.mark.parametrize("kernel", [2, 3])
def test_nan_is_the_largest_and_the_first_of_equals_is_chosen(kernel: int) -> None:
    x = np.zeros((1, 1, kernel, kernel))
    assert arrays.pool_largest(x, arrays.Window((kernel, kernel), (kernel, kernel)))[1].item() == 0
    for place in range(kernel * kernel):
        y = x.copy()
        y.reshape(-1)[place] = np.nan
        value, where = arrays.pool_largest(y, arrays.Window((kernel, kernel), (kernel, kernel)))
        assert np.isnan(value.item()) and where.item() == place


def test_recurrent_layers_by_finite_differences() -> None:
    steps, images, inputs, units = 3, 2, 3, 2
    x, state = draw(steps, images, inputs), draw(images, units)
    lstm_weights = (draw(4 * units, inputs), draw(4 * units, units), draw(8 * units))
    check_gradients(lstm, x, *lstm_weights, state, draw(images, units))
    gru_weights = (draw(3 * units, inputs), draw(3 * units, units), draw(6 * units))
    for late in (False, True):
        check_gradients(lambda *operands, late=late: gru(*operands, late), x, *gru_weights, state)
    with pytest.raises(ShapeError):
        gru(x, *lstm_weights, state, True)


def test_dropout_keeps_the_mean() -> None:
    x = Tensor(np.ones(20000, np.float32), needs_gradient=True)
    y = ew.dropout(x, 0.25, np.random.default_rng(0))
    assert abs(y.data.mean() - 1) < 0.02 and y.dtype == np.float32
    backward(y)
    np.testing.assert_array_equal(x.gradient, y.data)


@pytest.mark.gpu
def test_a_card_gives_the_same(xp: Any) -> None:
    network = nn.resnet((1, 12, 12), 4, (4, 8), seed=0)
    x = RANDOM.normal(size=(6, 1, 12, 12)).astype("f")
    labels = np.array([0, 1, 2, 3, 0, 1])
    device = "cpu" if xp is np else "gpu"
    loss, found = nn.gradients(network, x, labels)
    other_loss, others = nn.gradients(network.to(device), xp.asarray(x), xp.asarray(labels))
    assert abs(loss - other_loss) < 1e-4
    for name, gradient in found.items():
        np.testing.assert_allclose(arrays.to_host(others[name]), gradient, rtol=1e-3, atol=1e-4)
