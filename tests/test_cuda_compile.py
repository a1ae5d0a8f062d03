"""Every GPU kernel compiles for real cards, keeps its blocks in registers, and is launched as it was compiled.

The compiler needs neither a card nor a driver, but numba-cuda: ``pip install "hpcblaz[cuda13]"``.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cuda_kernels import build_together

from hpcblaz.backend import (
    cpu,
    cuda_build,
    cuda_message_report,
    cuda_report,
    gpu,
    gpu_messages,
    gpu_quantised,
    messages,
    quantised,
)
from hpcblaz.backend.blocks import BlockGrid
from hpcblaz.backend.compile import fits_registers
from hpcblaz.backend.payload import Numerics
from hpcblaz.bp import FactorGraph, ising, potts
from hpcblaz.bp.plans import prepare
from hpcblaz.fields.codec import BlockCodec, empty_blocks

compiler = pytest.mark.skipif(
    importlib.util.find_spec("numba_cuda") is None, reason="numba-cuda is not installed: hpcblaz[cuda13]"
)

# Kernels whose threads may keep something in local memory, by name, precision and block shape; none does
SPILLED: set[tuple[str, str, tuple[int, ...]]] = set()
# Products and sums may be one operation where the result is a sum with a bound, not a coefficient
CONTRACTED = {"sums", "moments", "products", "block_moments", "combine", "combine_fixed"}


# The older card has as many registers for a thread, and less shared memory, which is reckoned for both
OLDER, NEWER = cuda_report.ARCHITECTURES
SYSTEM_BYTES = 1 << 10


def for_the_older_card() -> list[cuda_report.Specialisation]:
    """Return one variant of each kernel and form: the one that takes most registers."""
    found = {}
    for kernel in cuda_report.specialisations():
        if kernel.architecture == OLDER:
            best = found.setdefault((kernel.name, kernel.form), kernel)
            if (kernel.in_registers, kernel.precision) > (best.in_registers, best.precision):
                found[kernel.name, kernel.form] = kernel
    return list(found.values())


def for_the_newer_card() -> list[cuda_report.Specialisation]:
    """Return every variant of every kernel."""
    return [kernel for kernel in cuda_report.specialisations() if kernel.architecture == NEWER]


def for_other_shapes() -> list[cuda_report.Specialisation]:
    """Return the kernels that transform blocks, for other block shapes: in memory if there is no other way."""
    return [
        kernel
        for kernel in cuda_report.specialisations(cuda_report.SHAPES[1:])
        if kernel.name in ("measure", "encode_fixed") and kernel.precision == "float32"
        if kernel.architecture == NEWER
        if kernel.in_registers == fits_registers(kernel.sides)
    ]


def test_every_kernel_is_compiled_for_every_card() -> None:
    every = {(name, form) for _, name, form, _ in cuda_report.KERNELS}
    for kernels in (for_the_older_card(), for_the_newer_card()):
        assert {(kernel.name, kernel.form) for kernel in kernels} == every
    assert {kernel.sides for kernel in for_other_shapes()} == set(cuda_report.SHAPES[1:])


@pytest.fixture(scope="module")
def built() -> dict[cuda_report.Specialisation, cuda_build.CudaCode]:
    return build_together([*for_the_older_card(), *for_the_newer_card(), *for_other_shapes()])


@compiler
def test_every_kernel_compiles_without_local_memory(built: dict[cuda_report.Specialisation, Any]) -> None:
    wanted = [*for_the_older_card(), *for_the_newer_card()]
    codes = [built[kernel] for kernel in wanted]
    for kernel, code in zip(wanted, codes, strict=True):
        where = (kernel.name, kernel.precision, kernel.sides)
        assert code.path.stat().st_size > 1000, where
        if where not in SPILLED:
            assert code.stack_bytes == 0, where
            assert code.spill_bytes == 0, where
        if kernel.name not in CONTRACTED:
            assert code.contracted == 0, f"{where}: a product and a sum became one operation"
        assert code.wide_counts == 0, f"{where}: leading zeros of 64 bits are counted, not of 32"
        flat = sum(
            5 + 2 * argument.ndim if argument.ndim else 1
            for argument in leaves(cuda_report.arguments(kernel.name, kernel.precision, kernel.form))
        )
        assert code.parameters == flat, where
        for card in cuda_report.ARCHITECTURES:
            # The newer card's assembler counts what the system keeps of each tile's shared memory
            kept = SYSTEM_BYTES if (kernel.architecture, card) == (NEWER, OLDER) else 0
            there = replace(code, shared_bytes=max(0, code.shared_bytes - kept))
            assert cuda_report.tiles_at_once(replace(kernel, architecture=card), there) >= 2, (where, card)
    table = cuda_report.table(wanted, codes)
    committed = Path(__file__).parents[1] / "docs" / "results" / "kernels.md"
    for kernel in {kernel.name for kernel in wanted}:
        assert f"| {kernel} |" in table
        assert f"| {kernel} |" in committed.read_text(), f"docs/results/kernels.md has no {kernel}: make it anew"


def leaves(arguments: Any) -> Iterator[cuda_report.Argument]:
    for argument in arguments:
        if isinstance(argument, tuple):
            yield from leaves(argument)
        else:
            yield argument


@compiler
@pytest.mark.parametrize("sides", cuda_report.SHAPES[1:], ids=str)
def test_other_block_shapes_compile(built: dict[cuda_report.Specialisation, Any], sides: tuple[int, ...]) -> None:
    for kernel in for_other_shapes():
        if kernel.sides == sides:
            assert built[kernel].stack_bytes == built[kernel].spill_bytes == 0, kernel


@compiler
def test_a_second_start_compiles_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = next(kernel for kernel in for_the_newer_card() if kernel.name == "sums")
    code = kernel.build()
    monkeypatch.setattr(cuda_build, "_compile", lambda *_: pytest.fail("compiled again"))
    assert kernel.build() == code


def described(arguments: tuple[Any, ...]) -> Any:
    return [cuda_build._describe(argument) for argument in arguments]


def test_kernels_are_compiled_as_they_are_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    """The drivers run on NumPy's arrays with launches that only take notes."""
    monkeypatch.setattr(gpu, "SIMULATED", True)
    gpu.array_module.cache_clear()
    gpu._tables_of.cache_clear()
    launched: dict[tuple[str, str, str], Any] = {}

    def note(numerics, form, in_registers, template, name, arguments, tiles, shared=0):  # type: ignore[no-untyped-def]
        launched[name, form, numerics.precision] = described(arguments)
        flat = cuda_build.flatten(arguments)
        assert len(flat) == sum(5 + 2 * a.ndim if a.ndim else 1 for a in leaves(arguments))
        assert [a for a in leaves(arguments) if not a.ndim] == [a for a in flat if isinstance(a, np.generic)]

    def note_without_blocks(xp, kernel, arguments, tiles, shared):  # type: ignore[no-untyped-def]
        launched[kernel.__name__, "packed", "float32"] = described(arguments)

    monkeypatch.setattr(gpu, "_launch", note)
    monkeypatch.setattr(gpu_quantised, "launch", note_without_blocks)
    try:
        for precision in ("float32", "float64"):
            numerics = Numerics(BlockGrid((9, 8, 8), (4, 4, 4)), "dct", precision)
            x = np.ones((9, 8, 8), precision)
            packed = gpu.encode(x, numerics, 0.1, 1e-6, -9, 2)
            assert packed is not None
            a = packed[0]
            fixed = gpu.encode_fixed(x, numerics, empty_blocks(BlockCodec((4, 4, 4)), numerics, "gpu"), 1e-6)[0]
            for blocks in (a, fixed):
                gpu.decode(blocks, numerics, 1.0, 0.0)
                gpu.decode(blocks, numerics, 1.0, 0.0, (1, 1, 1), (3, 3, 3))
                gpu.total(blocks, numerics)
                gpu.moments(blocks, numerics, 0.0)
                gpu.products(blocks, 0.0, blocks, 0.0, numerics, True)
                gpu.block_moments(blocks, numerics, True)
            gpu.combine(a, 1.0, a, 1.0, numerics, -9, -7)
            gpu.combine_fixed(fixed, 1.0, fixed, 1.0, numerics)
            gpu.value_range(x, numerics)
        q, message = np.zeros(9, np.int32), np.zeros(quantised.most_words(9), np.uint32)
        gpu_quantised.pack(q, (1,), np.zeros((2, 9), np.int32), message)
        gpu_quantised.unpack(message, (1,), q, False, np.zeros((2, 9), np.int32))
    finally:
        gpu.array_module.cache_clear()
        gpu._tables_of.cache_clear()
    checked = {(name, form) for _, name, form, _ in cuda_report.KERNELS}
    assert {(name, form) for name, form, _ in launched} == checked
    for (name, form, precision), found in launched.items():
        assert found == described(cuda_report.arguments(name, precision, form)), (name, form, precision)


@compiler
def test_every_kernel_of_messages_compiles_without_local_memory() -> None:
    wanted = cuda_message_report.specialisations()
    codes = cuda_report.build_all(wanted)
    committed = (Path(__file__).parents[1] / "docs" / "results" / "message_kernels.md").read_text()
    for kernel, code in zip(wanted, codes, strict=True):
        assert code.stack_bytes == code.spill_bytes == 0, kernel
        assert code.contracted == 0, f"{kernel}: a product and a sum became one operation: not what the CPU does"
        types = cuda_message_report.arguments(kernel.name, kernel.family, kernel.precision)
        assert code.parameters == sum(5 + 2 * a.ndim if a.ndim else 1 for a in leaves(types)), kernel
        assert cuda_report.tiles_at_once(kernel, code) >= gpu_messages._AT_ONCE, kernel
        assert f"| {kernel.name} |" in committed, f"docs/results/message_kernels.md has no {kernel.name}: make it anew"
    assert cuda_message_report.table(wanted, codes).count("\n") == len(wanted) + 2


def test_kernels_of_messages_are_compiled_as_they_are_launched(monkeypatch: pytest.MonkeyPatch) -> None:
    launched: dict[tuple[str, str, str], Any] = {}
    together = set()

    def note(xp, kernel, arguments, tiles, shared, at_once=False):  # type: ignore[no-untyped-def]
        launched[kernel.__name__, plan.family, plan.precision] = described(arguments)
        assert shared == 0
        if at_once:
            together.add(kernel.__name__)

    monkeypatch.setattr(gpu, "SIMULATED", True)
    monkeypatch.setattr(gpu_messages, "SIMULATED", True)
    monkeypatch.setattr(gpu_messages, "launch", note)
    gpu.array_module.cache_clear()
    table = np.ones((2, 2, 2))
    models = [(ising(3, 1.0), "float32"), (ising(3, 1.0), "float64"), (potts(3, 3, 1.0), "float64"),
              (FactorGraph.from_tables([2, 2, 2], [((0, 1, 2), table)]), "float64")]  # fmt: skip
    try:
        for model, precision in models:
            prepared = prepare(model, precision)
            plan = prepared.plan
            found = gpu_messages.GpuPropagation(plan, prepared.uniform(), False, 0.0, 1e-4)
            monkeypatch.setattr(gpu_messages, "SIMULATED", False)
            found._widest, found._processors = 10**6, 100
            found.sweep(1, True)
            with monkeypatch.context() as small:
                small.setattr(gpu_messages, "TILE", 1)
                found.splash(3, 1)
            monkeypatch.setattr(gpu_messages, "SIMULATED", True)
            found.compute()
            found.measure()
            found.send_drawn(0.5, 0)
            found.send_largest(3)
            some = np.zeros(1, np.int64)
            found.gather(found.messages, some, found.messages[:1])
            found.take_in(found.messages[:1], 0, some, (some, some), np.int32(1))
    finally:
        gpu.array_module.cache_clear()
    assert together == {"sweep", "splash"}
    assert {(name, family, precision) for name, family, precision in launched} >= {
        (kernel.name, kernel.family, kernel.precision) for kernel in cuda_message_report.specialisations()
    }
    for (name, family, precision), types in launched.items():
        assert types == described(cuda_message_report.arguments(name, family, precision)), (name, family, precision)


def test_both_backends_have_the_same_drivers() -> None:
    shared = {"encode", "encode_fixed", "decode", "total", "moments", "products", "block_moments", "combine"}
    shared |= {"combine_fixed", "value_range", "array_module", "asarray", "asnumpy", "stage", "zeros"}
    for name in shared:
        assert callable(getattr(cpu, name))
        assert callable(getattr(gpu, name))
    for name in ("compute", "measure", "flood", "sweep", "send_drawn", "send_largest", "afresh"):
        assert callable(getattr(messages.Propagation, name))
        assert callable(getattr(gpu_messages.GpuPropagation, name))


def names_of(module: Path, roots: set[str]) -> set[tuple[str, ...]]:
    """Return the dotted names in a source that begin with one of some names, without it."""
    found = set()
    for node in ast.walk(ast.parse(module.read_text())):
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if isinstance(node, ast.Name) and node.id in roots and parts:
            found.add(tuple(reversed(parts)))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("array_module") and parts:
            found.add(tuple(reversed(parts)))
    return found


def test_every_name_of_cupy_exists() -> None:
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed: hpcblaz[cuda13]", exc_type=ImportError)
    names = set()
    for module in Path(gpu.__file__).parents[1].rglob("*.py"):
        if "array_module" in module.read_text() or module.name.startswith("gpu"):
            names |= names_of(module, {"xp", "cupy"})
    assert {("cuda", "Event"), ("RawModule",), ("ascontiguousarray",), ("vdot",)} <= names
    for name in names:
        owner: Any = cupy
        for part in name:
            assert hasattr(owner, part), f"cupy.{'.'.join(name)}"
            owner = getattr(owner, part)
            if not isinstance(owner, type) and not hasattr(owner, "__path__") and not hasattr(owner, "__file__"):
                break
    for part in ("max_dynamic_shared_size_bytes",):
        assert hasattr(cupy.RawKernel, part)
    assert "enable_cooperative_groups" in (cupy.RawModule.__doc__ or "")
    for part in ("compute_capability", "attributes", "use", "__enter__"):
        assert hasattr(cupy.cuda.Device, part)
