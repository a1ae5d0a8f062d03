"""Laws of schemes: projections change nothing twice, nothing of their form is nearer, and they keep what they say."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hpcblaz import nn
from hpcblaz.errors import ConfigurationError, NetworkError
from hpcblaz.nn.schemes import BlockPrune, Compose, FilterPrune, NeuronPrune, NMPrune, Prune, Quantize, StructurePrune

NETWORK = nn.build((4, 6, 6), [
    nn.Conv2d(8, 3), nn.BatchNorm(), nn.Relu(), nn.Conv2d(12, 3), nn.Relu(), nn.Flatten(), nn.Dense(8), nn.Relu(),
    nn.Dense(4),
], seed=0)  # fmt: skip
MATRICES = list(nn.compressible(NETWORK))
FIRST, SECOND, THIRD, LAST = MATRICES
DRAWS = st.integers(0, 2**32 - 1)


def drawn(seed: int) -> dict[str, Any]:
    random = np.random.default_rng(seed)
    found = {n: random.normal(size=NETWORK.parameters[n].shape).astype("f") for n in NETWORK.trainable}
    found[FIRST][:, 0] = np.round(found[FIRST][:, 0])  # with equal ones, and zeros
    for name in MATRICES:  # of about the same norms
        found[name] *= np.float32((8 / found[name][0].size) ** 0.5)
    return found


def projected(scheme: Any, weights: dict[str, Any]) -> dict[str, Any]:
    """What pi gives, of draws that leave something of each layer."""
    try:
        found: dict[str, Any] = scheme.pi(weights, NETWORK)
    except NetworkError as error:
        assume("nothing left" not in str(error))
        raise
    return found


def distance(a: dict[str, Any], b: dict[str, Any]) -> float:
    return math.sqrt(sum(float(((a[n].astype("f8") - b[n]) ** 2).sum()) for n in MATRICES))


SCHEMES = [
    Prune(0.3), Prune(0.3, per_layer=True), Prune({SECOND: 0.5}), StructurePrune(0.5), StructurePrune(0.4, align=4),
    StructurePrune(0.5, "min", per_layer=True),
    FilterPrune(0.5, "max", per_layer=True), NeuronPrune(0.5, "sum"), BlockPrune(0.5, (2, 4)),
    BlockPrune(0.3, (4, 2), "mean", per_layer=True), NMPrune(), NMPrune(1, 2), Quantize("float16"),
    Quantize("bfloat16"), Quantize("int8"), Quantize("int4", False), Quantize("int8", affine=True),
    Quantize("int4", False, affine=True), Quantize("ternary"), Quantize("ternary", False),
    Compose([Prune(0.3), NMPrune(), Quantize("float16")]), Compose([StructurePrune(0.5), Quantize("int8")]),
]  # fmt: skip


@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
@settings(max_examples=8, deadline=None)
@given(seed=DRAWS)
def test_projections_change_nothing_twice_and_keep_shapes(scheme: Any, seed: int) -> None:
    before = drawn(seed)
    copies = {name: x.copy() for name, x in before.items()}
    after = scheme.delta(projected(scheme, before), NETWORK)
    assert {name: (x.shape, x.dtype) for name, x in after.items()} == {n: (x.shape, x.dtype) for n, x in before.items()}
    again = scheme.delta(scheme.pi(after, NETWORK), NETWORK)
    for name, x in after.items():
        np.testing.assert_allclose(again[name], x, rtol=2e-6, atol=1e-7)
        np.testing.assert_array_equal(before[name], copies[name])


@settings(max_examples=10, deadline=None)
@given(DRAWS, st.floats(0.3, 1))
def test_nothing_with_so_many_weights_or_groups_is_nearer(seed: int, density: float) -> None:
    before = drawn(seed)
    random = np.random.default_rng(seed)
    for scheme in (Prune(density), BlockPrune(density, (2, 2)), NMPrune(2, 4)):
        after = projected(scheme, before)
        kept = np.concatenate([after[n].reshape(-1) != 0 for n in MATRICES])
        whole = np.concatenate([before[n].reshape(-1) for n in MATRICES]).astype("f8")
        best = distance(before, after)
        assert best == pytest.approx(math.sqrt((whole[~kept] ** 2).sum()), rel=1e-5)
        for _ in range(5):
            other = {n: x.copy() for n, x in before.items()}
            for name in MATRICES:
                other[name] = random.permutation(other[name].reshape(-1)).reshape(other[name].shape)
            masks = projected(scheme, other)
            moved = {n: before[n] * (masks[n] != 0) if n in MATRICES else x for n, x in before.items()}
            assert distance(before, moved) >= best * (1 - 1e-6)


@settings(max_examples=15, deadline=None)
@given(DRAWS)
def test_ternary_weights_are_the_nearest(seed: int) -> None:
    """Against all steps that could be best, for one channel of few weights."""
    x = drawn(seed)[LAST]
    after = Quantize("ternary").delta(Quantize("ternary").pi(drawn(seed), NETWORK), NETWORK)[LAST]
    for row, found in zip(x.astype("f8"), after, strict=True):
        best = ((row - found) ** 2).sum()
        for step in np.linspace(0, abs(row).max(), 300):
            candidate = np.where(abs(row) > step / 2, np.sign(row) * step, 0)
            assert best <= ((row - candidate) ** 2).sum() + 1e-6


@settings(max_examples=15, deadline=None)
@given(DRAWS, st.sampled_from(["int8", "int4"]), st.booleans())
def test_affine_integers(seed: int, dtype: str, per_channel: bool) -> None:
    scheme = Quantize(dtype, per_channel, affine=True)
    before = drawn(seed)
    before[FIRST] = abs(before[FIRST])
    small = scheme.pi(before, NETWORK)
    after = scheme.delta(small, NETWORK)
    least, most = (-128, 127) if dtype == "int8" else (-8, 7)
    for name in MATRICES:
        assert small[name].min() == least and small[name].max() == most
        assert (abs(after[name] - before[name]) <= small[f"{name}/step"] * 0.5001 + 1e-7).all()
        assert not after[name][before[name] == 0].any()


@settings(max_examples=30, deadline=None)
@given(st.floats(width=32, allow_nan=False, allow_infinity=False))
def test_bfloat16_is_the_nearest(value: float) -> None:
    network = nn.mlp(1, (), 1)
    x = {"dense1.weight": np.full((1, 1), value, "f")}
    scheme = Quantize("bfloat16")
    small = scheme.pi(x, network)["dense1.weight"]
    found = float(scheme.delta({"dense1.weight": small}, network)["dense1.weight"][0, 0])
    for step in (-1, 1):
        bits = np.array([(int(small[0, 0]) + step) % (1 << 16)], np.uint32) << np.uint32(16)
        other = float(bits.view(np.float32)[0])
        assert not math.isfinite(other) or abs(found - value) <= abs(other - value)


def test_so_many_are_kept() -> None:
    before = drawn(3)
    filters = [len(before[n]) for n in (FIRST, SECOND)]
    for density in (0.3, 0.55, 1.0):
        after = FilterPrune(density).pi(before, NETWORK)
        kept = [after[n].reshape(len(after[n]), -1).any(axis=1).sum() for n in (FIRST, SECOND)]
        assert sum(kept) == int(density * sum(filters))
        after = StructurePrune(density, per_layer=True).pi(before, NETWORK)
        for name in (FIRST, SECOND, THIRD):
            rows = after[name].reshape(len(after[name]), -1).any(axis=1)
            assert rows.sum() == int(density * len(rows))
        np.testing.assert_array_equal(after[LAST], before[LAST])
        after = Prune({FIRST: density, LAST: 0.5}).pi(before, NETWORK)
        np.testing.assert_array_equal(after[SECOND], before[SECOND])
        assert np.count_nonzero(after[LAST]) == LAST_SIZE // 2
    after = StructurePrune(0.4, align=4).pi(before, NETWORK)
    assert all(after[n].reshape(len(after[n]), -1).any(axis=1).sum() % 4 == 0 for n in (FIRST, SECOND, THIRD))
    after = NMPrune().pi(before, NETWORK)
    assert (np.count_nonzero(after[SECOND].reshape(12, 2, 4, 3, 3), axis=2) <= 2).all()
    assert (np.count_nonzero(after[LAST].reshape(4, 2, 4), axis=2) == 2).all()
    blocks = BlockPrune(0.5, (2, 4), leave=[FIRST]).pi(before, NETWORK)
    whole = np.concatenate([blocks[n].reshape(len(blocks[n]) // 2, 2, -1, 4).any(axis=(1, 3)).reshape(-1)
                            for n in (SECOND, THIRD, LAST)])  # fmt: skip
    assert whole.sum() == whole.size // 2


LAST_SIZE = NETWORK.parameters[LAST].size


def test_normalisation_of_a_removed_filter_goes_too() -> None:
    network = NETWORK.copy()
    for name, x in network.parameters.items():
        if x.ndim == 1:
            network.parameters[name] = x + 1
    smaller = nn.compressed(network, FilterPrune(0.5, leave=[SECOND]))
    gone = ~smaller.parameters[FIRST].reshape(8, -1).any(axis=1)
    assert gone.sum() == 4
    for node in network.nodes:
        if node.operator == "BatchNormalization":
            assert all(not smaller.parameters[name][gone].any() for name in node.inputs[1:3])


def test_bad_input() -> None:
    for make in (
        lambda: StructurePrune(0), lambda: BlockPrune(1.5), lambda: Prune({"a": 0.0}), lambda: Prune(float("nan")),
        lambda: BlockPrune(0.5, (0, 4)), lambda: BlockPrune(0.5, 4), lambda: BlockPrune(0.5, (2, 2, 2)),
        lambda: NMPrune(5, 4), lambda: NMPrune(0, 4), lambda: StructurePrune(0.5, align=0),
        lambda: Quantize("ternary", affine=True), lambda: Quantize("int8", leave="conv1.weight"),
    ):  # fmt: skip
        with pytest.raises(ConfigurationError, match="expected"):
            make()
    before = drawn(0)
    for scheme, words in (
        (BlockPrune(0.5, (3, 4)), "3 rows and 4 columns divide.*leave="), (NMPrune(2, 16), "16 inputs divide"),
        (Prune({"conv9.weight": 0.5}), r"conv9\.weight"), (Prune(0.001, per_layer=True), "nothing left of"),
        (StructurePrune(0.01), "nothing left of"), (BlockPrune(0.001, (4, 4)), "nothing left of"),
        (NeuronPrune(0.5, leave=[THIRD]), "weights of this kind"), (Prune(0.5, leave=["x"]), "expected names"),
    ):  # fmt: skip
        with pytest.raises(NetworkError, match=words):
            scheme.pi(before, NETWORK)
