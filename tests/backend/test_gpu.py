"""The kernels of the GPU make what those of the CPU make: the same records, bit by bit, and the same values.

They run on a card where there is one; in Numba's simulator otherwise, in a process of its own
(tests/backend/test_simulator.py), or with ``NUMBA_ENABLE_CUDASIM=1 python -m pytest -m gpu tests/backend/test_gpu.py``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import hpcblaz as hb
from hpcblaz.backend import cpu, gpu
from hpcblaz.backend.blocks import BlockGrid
from hpcblaz.backend.payload import Blocks, FixedBlocks, Numerics, PackedBlocks
from hpcblaz.bodies.records import NATURAL
from hpcblaz.errors import DeviceError, HpcblazError, MissingDependencyError
from hpcblaz.fields.codec import BlockCodec, empty_blocks, growth


def usable() -> str | None:
    """Return why the GPU cannot be used, None if it can."""
    try:
        gpu.array_module()
    except HpcblazError as error:
        return str(error)
    return None


on_gpu = pytest.mark.skipif(usable() is not None, reason="no GPU, and not in the simulator")


@dataclass(frozen=True)
class Case:
    name: str
    shape: tuple[int, ...]
    sides: tuple[int, ...]
    transform: str = "dct"
    precision: str = "float32"
    relative: float = 1e-3

    @property
    def numerics(self) -> Numerics:
        return Numerics(BlockGrid(self.shape, self.sides), self.transform, self.precision)

    def field(self, seed: int) -> Any:
        axes = np.meshgrid(*[np.linspace(0, 3, n) for n in self.shape], indexing="ij")
        smooth = sum(np.sin(2 * seed + (i + 1) * axis) for i, axis in enumerate(axes))
        noise = np.random.default_rng(seed).normal(size=self.shape)
        return (smooth + 0.02 * noise * (np.indices(self.shape)[0] % 8 < 4)).astype(self.precision)

    def options(self, x: Any) -> tuple[float, int, int]:
        """Return the tolerance, the exponent of the least step, and the level of the means."""
        tolerance = float(x.dtype.type(np.ptp(x) * self.relative))
        exponent = math.floor(math.log2(2 * tolerance / growth(self.transform, self.sides))) - 1
        return tolerance, exponent, 0 if self.transform == "identity" else 2


# Kernels of the CPU are compiled for each block shape, transform and precision: these are those of other tests, too
CASES = [
    Case("a full tile", (32, 16, 16), (4, 4, 4), relative=1e-2),
    Case("partial blocks", (5, 9, 6), (4, 4, 4), relative=1e-2),
    Case("double precision, wide integers", (6, 3, 2, 9), (4, 2, 1, 4), "haar", "float64", 1e-8),
    Case("one axis", (300,), (16,)),
    Case("blocks beyond the registers", (4, 5, 4, 4), (4, 4, 4, 4)),
    Case("cells as they are", (9, 13), (4, 8), "identity"),
    Case("long and thin blocks", (18, 3, 3), (16, 1, 2), "haar"),
]
WIDE = Case("double precision", (9, 5, 6), (4, 4, 4), "haar", "float64")
each = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)


def encode(module: Any, case: Case, seed: int) -> PackedBlocks:
    x = case.field(seed)
    tolerance, exponent, mean_level = case.options(x)
    allowance = 24 * 2.0 ** (-24 if case.precision == "float32" else -53)
    result = module.encode(module.asarray(x), case.numerics, tolerance, allowance, exponent, mean_level)
    assert result is not None
    blocks, largest, norm = result
    error = np.abs(np.asarray(gpu.asnumpy(module.decode(blocks, case.numerics, 1.0, 0.0)), float) - x)
    assert error.max() <= largest <= tolerance
    assert math.sqrt((error**2).sum()) <= norm * (1 + 1e-5)
    return blocks  # type: ignore[no-any-return]


def same(a: Blocks, b: Blocks) -> bool:
    b = gpu.to_host(b)
    if isinstance(a, PackedBlocks) and isinstance(b, PackedBlocks):
        return np.array_equal(a.words, b.words) and np.array_equal(a.offsets, b.offsets)
    if isinstance(a, FixedBlocks) and isinstance(b, FixedBlocks):
        return np.array_equal(a.indices, b.indices) and np.array_equal(a.scales, b.scales)
    return False


@on_gpu
@pytest.mark.gpu
@each
def test_both_backends_make_the_same_records_and_values(case: Case) -> None:
    numerics = case.numerics
    a, on_card = encode(cpu, case, 1), encode(gpu, case, 1)
    assert same(a, on_card)
    assert np.array_equal(cpu.decode(a, numerics, 2.5, 1.0), gpu.asnumpy(gpu.decode(on_card, numerics, 2.5, 1.0)))
    low, high = tuple(n // 3 for n in case.shape), tuple(n - 1 for n in case.shape)
    window = gpu.asnumpy(gpu.decode(on_card, numerics, 1.0, 0.0, low, high))
    assert np.array_equal(cpu.decode(a, numerics, 1.0, 0.0, low, high), window)


@on_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("case", [CASES[0], CASES[1], CASES[2], CASES[4]], ids=lambda case: case.name)
def test_sums_are_those_of_the_cpu(case: Case) -> None:
    numerics = case.numerics
    a, b = encode(cpu, case, 1), encode(cpu, case, 2)
    c, d = gpu.to_device(a), gpu.to_device(b)
    close = {"rtol": 1e-5 if case.precision == "float32" else 1e-11, "atol": 1e-9}
    assert math.isclose(gpu.total(c, numerics), cpu.total(a, numerics), rel_tol=1e-12, abs_tol=1e-12)
    assert np.allclose(gpu.moments(c, numerics, 0.25), cpu.moments(a, numerics, 0.25), **close)
    for squares in (True, False):
        known = cpu.products(a, 0.1, b, -0.2, numerics, squares)
        assert np.allclose(gpu.products(c, 0.1, d, -0.2, numerics, squares), known, **close)
    means, energies = gpu.block_moments(c, numerics, True)
    known_means, known_energies = cpu.block_moments(a, numerics, True)
    assert np.array_equal(gpu.asnumpy(means), known_means)
    assert np.allclose(gpu.asnumpy(energies), known_energies, rtol=1e-12)


@on_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("case", [CASES[0], CASES[1], CASES[4]], ids=lambda case: case.name)
def test_sums_of_fields_are_the_same_records(case: Case) -> None:
    numerics = case.numerics
    a, b = encode(cpu, case, 1), encode(cpu, case, 2)
    for weight in (-1.0, 0.3):  # nothing is rounded with a power of two
        exponents = (min(a.exponent, b.exponent), min(a.mean_exponent, b.mean_exponent))
        known = cpu.combine(a, 1.0, b, weight, numerics, *exponents)
        found = gpu.combine(gpu.to_device(a), 1.0, gpu.to_device(b), weight, numerics, *exponents)
        assert known is not None
        assert found is not None
        assert same(known[0], found[0])
        assert np.allclose(known[1:], found[1:], rtol=1e-12)


@on_gpu
@pytest.mark.gpu
@pytest.mark.parametrize(
    ("case", "index_dtype", "keep"),
    [(CASES[1], "int8", 1.0), (WIDE, "int32", 0.4), (CASES[4], "int16", 0.5)],
    ids=["int8", "int32, some kept", "int16, beyond the registers"],
)
def test_the_fixed_form_is_the_same(case: Case, index_dtype: str, keep: float) -> None:
    numerics = case.numerics
    codec = BlockCodec(case.sides, case.transform, index_dtype, keep)
    found: dict[Any, list[FixedBlocks]] = {}
    for module, device in ((cpu, "cpu"), (gpu, "gpu")):
        for seed in (1, 2):
            template = empty_blocks(codec, numerics, device)
            blocks, largest, _ = module.encode_fixed(module.asarray(case.field(seed)), numerics, template, 1e-6)
            error = np.abs(gpu.asnumpy(module.decode(blocks, numerics, 1.0, 0.0)) - case.field(seed))
            assert error.max() <= largest
            found.setdefault(device, []).append(blocks)
    (a, b), (c, d) = found["cpu"], found["gpu"]
    assert same(a, c)
    assert same(b, d)
    assert np.array_equal(cpu.decode(a, numerics, 1.0, 0.0), gpu.asnumpy(gpu.decode(c, numerics, 1.0, 0.0)))
    assert math.isclose(cpu.total(a, numerics), gpu.total(c, numerics), rel_tol=1e-11)
    assert np.allclose(cpu.products(a, 0.1, b, 0.2, numerics, True), gpu.products(c, 0.1, d, 0.2, numerics, True), 1e-5)
    known, sums = cpu.combine_fixed(a, 1.0, b, -0.3, numerics), gpu.combine_fixed(c, 1.0, d, -0.3, numerics)
    assert same(known[0], sums[0])
    assert np.allclose(known[1:], sums[1:], rtol=1e-12)


@on_gpu
@pytest.mark.gpu
def test_sorted_and_natural_tiles_and_empty_ones_are_met() -> None:
    """What the other tests compare would be worth little if all tiles were alike."""
    masks = [int(encode(cpu, CASES[0], seed).words[0]) for seed in (1, 2)]
    assert [bool(mask & NATURAL) for mask in masks] == [False, True]
    numerics = CASES[0].numerics
    zeros = gpu.asarray(np.zeros(CASES[0].shape, np.float32))
    blocks, largest, _ = gpu.encode(zeros, numerics, 0.5, 1e-6, -5, 1) or pytest.fail("zeros hold any tolerance")
    assert int(blocks.words[0]) == 0
    assert largest < 0.5
    assert not gpu.asnumpy(gpu.decode(blocks, numerics, 1.0, 0.0)).any()


@on_gpu
@pytest.mark.gpu
def test_a_step_that_no_index_holds_is_reported() -> None:
    case = CASES[0]
    x = case.field(1)
    assert cpu.encode(x, case.numerics, 1e-7, 1e-6, -40, 1) is None
    assert gpu.encode(gpu.asarray(x), case.numerics, 1e-7, 1e-6, -40, 1) is None


@on_gpu
@pytest.mark.gpu
@pytest.mark.parametrize("bad", [None, np.nan, -np.inf])
def test_the_range_of_values(bad: float | None) -> None:
    numerics = CASES[0].numerics
    x = CASES[0].field(3)
    if bad is None:
        assert gpu.value_range(gpu.asarray(x), numerics) == (float(x.min()), float(x.max()))
    else:
        x[2, 3, 4] = bad
        assert gpu.value_range(gpu.asarray(x), numerics) is None


@on_gpu
@pytest.mark.gpu
@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.tuples(*[st.integers(1, 12)] * 2),
    st.integers(0, 2**32),
    st.floats(1e-6, 1.0),
    st.sampled_from([1.0, 1e-20, 1e12]),
)
def test_any_field_gives_the_same_records(shape: Any, seed: int, relative: float, scale: float) -> None:
    x = (np.random.default_rng(seed).standard_cauchy(shape) * scale).astype(np.float32)
    codec = hb.ToleranceCodec((8, 8))
    tolerance = relative * float(np.ptp(x)) or relative * scale
    on_host = hb.compress(x, tolerance=tolerance, codec=codec)
    on_card = hb.compress(x, tolerance=tolerance, codec=codec, device="gpu")
    assert same(on_host._blocks, on_card._blocks)
    assert on_card.error.max_abs == on_host.error.max_abs
    assert np.abs(np.asarray(on_card, float) - x).max() <= min(tolerance, on_card.error.max_abs)


@on_gpu
@pytest.mark.gpu
def test_arrays_live_where_they_are_wanted(tmp_path: Any) -> None:
    x = CASES[1].field(1)
    a = hb.compress(x, tolerance=1e-3, device="gpu")
    assert a.device.startswith("gpu")
    assert a.to_device("cpu").device == "cpu"
    assert hb.compress(x, tolerance=1e-3).device == "cpu"
    a.save(tmp_path / "a.hbz")
    again = hb.load(tmp_path / "a.hbz", device="gpu")
    assert again.device == a.device
    assert np.array_equal(np.asarray(again), np.asarray(a))
    assert np.array_equal(gpu.asnumpy(again[1, ::-1, 2:4]), np.asarray(a)[1, ::-1, 2:4])
    with pytest.raises(hb.errors.UnsupportedOperationError, match="to_device"):
        hb.dot(a, a.to_device("cpu"))
    assert math.isclose(a.mean(), a.to_device("cpu").mean(), rel_tol=1e-12)


@on_gpu
@pytest.mark.gpu
def test_missing_cells_are_those_of_the_cpu() -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 9, 10, 13)).astype(np.float32)
    x[2:6, 3:9, 1:8], x[8, 9, 12], y[0] = np.nan, -9, np.inf
    pairs = [
        (hb.compress(x, tolerance=1e-2, fill_value=-9, device=device), hb.compress(y, tolerance=1e-2, device=device))
        for device in ("cpu", "gpu")
    ]
    (a, b), (c, d) = pairs
    np.testing.assert_array_equal(np.asarray(c), np.asarray(a))
    np.testing.assert_array_equal(np.asarray(c + d), np.asarray(a + b))
    np.testing.assert_array_equal(gpu.asnumpy(c[3, :, 2:9]), a[3, :, 2:9])
    np.testing.assert_allclose(gpu.asnumpy(hb.block_variance(c).values), hb.block_variance(a).values)
    for ours, theirs in ((c.mean(), a.mean()), (c.norm(), a.norm()), (hb.dot(c, d), hb.dot(a, b))):
        assert math.isclose(ours, theirs, rel_tol=1e-12)


@pytest.mark.skipif(gpu.SIMULATED or usable() is None, reason="there is a GPU")
def test_without_a_gpu_the_error_says_what_is_missing() -> None:
    with pytest.raises((DeviceError, MissingDependencyError), match=r"cuda13|CUDA device"):
        hb.compress(np.zeros((4, 4)), tolerance=1.0, device="gpu")


def test_other_devices_are_refused() -> None:
    with pytest.raises(hb.errors.ConfigurationError, match="'tpu'"):
        hb.compress(np.zeros((4, 4)), tolerance=1.0, device="tpu")


def test_arrays_of_other_libraries_are_told_apart() -> None:
    class OnCard:
        def __dlpack_device__(self) -> tuple[int, int]:
            return 2, 0

    class Broken:
        def __dlpack_device__(self) -> tuple[int, int]:
            raise ValueError

    assert gpu.is_device_array(OnCard())
    assert not gpu.is_device_array(Broken())
    assert not gpu.is_device_array(np.zeros(3))
    assert not gpu.is_device_array([1.0])
