"""What the GPU kernels need: registers, memory and the share of a multiprocessor that they can fill, without a GPU.

``python -m hpcblaz.backend.cuda_report`` compiles all kernels of the default blocks and prints the table of
``docs/results/kernels.md``.
"""

import itertools
import math
import multiprocessing
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from hpcblaz.backend import cuda_build
from hpcblaz.backend.compile import Sides, cuda_kernel, fits_registers
from hpcblaz.bodies.records import TILE

ARCHITECTURES = ((8, 0), (9, 0))
SHAPES: tuple[Sides, ...] = ((1, 4, 4, 4), (1, 1, 8, 8), (1, 1, 1, 16), (4, 4, 4, 4))
_SHARED = {(8, 0): 164 << 10, (9, 0): 228 << 10}  # bytes a multiprocessor
_RESERVED = 1 << 10  # of them, for each tile of threads
_REGISTERS = 1 << 16
_THREADS = 2048

# Template, kernel, form, and what columns of a tile it keeps in shared memory: samples, integers, or those of two
KERNELS = (
    ("encode", "measure", "packed", "samples"),
    ("encode", "write", "packed", "samples"),
    ("decode", "decode", "packed", "samples"),
    ("decode", "decode", "fixed", "samples"),
    ("decode", "decode_window", "packed", "samples"),
    ("decode", "decode_window", "fixed", "samples"),
    ("moments", "sums", "packed", ""),
    ("moments", "sums", "fixed", ""),
    ("moments", "moments", "packed", "integers"),
    ("moments", "moments", "fixed", "integers"),
    ("moments", "products", "packed", "both"),
    ("moments", "products", "fixed", "both"),
    ("moments", "block_moments", "packed", "integers"),
    ("moments", "block_moments", "fixed", "integers"),
    ("combine", "combine", "packed", "both"),
    ("fixed", "encode_fixed", "fixed", "samples"),
    ("fixed", "combine_fixed", "fixed", "both"),
    ("scan", "scan", "packed", ""),
    ("quantised", "measure_sums", "packed", ""),
    ("quantised", "write_sums", "packed", ""),
    ("quantised", "unpack_sums", "packed", ""),
)
_OF_INTEGERS = ("measure_sums", "write_sums", "unpack_sums")  # the same code in both precisions
_WITHOUT_BLOCKS = ("sums", "scan", *_OF_INTEGERS)  # one thread a tile, value or group


@dataclass(frozen=True)
class Argument:
    """The type of a kernel argument: all that compiling needs of it."""

    dtype: np.dtype[Any]
    ndim: int = 0


@dataclass(frozen=True)
class Specialisation:
    """One kernel for one block shape, precision and architecture."""

    template: str
    name: str
    form: str
    columns: str
    sides: Sides
    precision: str
    in_registers: bool
    architecture: tuple[int, int]

    def build(self) -> cuda_build.CudaCode:
        """Return its machine code."""
        module = cuda_kernel(self.template, self.sides, "dct", self.precision, self.form, self.in_registers)
        return cuda_build.build(
            getattr(module, self.name), arguments(self.name, self.precision, self.form), self.architecture
        )

    @property
    def dynamic_bytes(self) -> int:
        """Shared memory that it is launched with."""
        if not self.in_registers:
            return 0
        item = {"": 0, "integers": 4, "both": 8, "samples": np.dtype(self.precision).itemsize}[self.columns]
        return math.prod(self.sides) * (TILE + 32 // self.sides[3]) * item


def arguments(name: str, precision: str, form: str, index_dtype: str = "int8") -> tuple[Any, ...]:
    """Return the types of the arguments of a kernel, as the drivers pass them."""

    def array(dtype: str, ndim: int = 1) -> Argument:
        return Argument(np.dtype(dtype), ndim)

    integer, double, real = (Argument(np.dtype(dtype)) for dtype in ("int64", "float64", precision))
    reals, doubles, longs = array(precision), array("float64"), array("int64")
    ints, words, table = array("int32"), array("uint32"), array("int64", 2)
    span, matrices = (integer, integer), array(precision, 3)
    side: Any = (reals, table, table)
    source = (words, longs) if form == "packed" else (array(index_dtype), side)
    exponents = (integer, integer) if form == "packed" else (double, double)
    indices = (array(index_dtype), reals, table, table)
    return {
        "measure": (reals, longs, table, table, *span, matrices, real, real, integer, integer, array("int16"), ints,
                    longs, doubles, reals, ints, ints),
        "write": (reals, longs, table, table, *span, matrices, integer, integer, array("int16"), ints, longs, words,
                  reals, ints, ints, words),
        "decode": (*source, table, table, *span, matrices, *exponents, real, real, reals, longs),
        "decode_window": (*source, table, table, longs, *span, matrices, *exponents, real, real, reals, longs, longs,
                          longs, reals, ints, ints),
        "sums": (*source, *span, double, doubles, doubles),
        "moments": (*source, table, *span, *exponents, doubles, double, doubles, ints, ints),
        "products": (*source, *exponents, double, *source, *exponents, double, table, *span, doubles, integer, doubles,
                     ints, ints),
        "block_moments": (*source, table, table, *span, *exponents, doubles, longs, integer, doubles, doubles, ints,
                          ints),
        "combine": (*source, *exponents, double, *source, *exponents, double, table, *span, integer, integer, integer,
                    words, longs, longs, doubles, ints, ints, words),
        "encode_fixed": (reals, longs, table, table, *span, matrices, double, double, *indices, doubles, reals),
        "combine_fixed": (*source, double, *source, double, table, *span, double, *indices, doubles, ints),
        "scan": (array(f"int{precision[5:]}"),) * 2,
        "measure_sums": (ints, integer, integer, longs),
        "write_sums": (ints, integer, integer, longs, words),
        "unpack_sums": (words, longs, integer, integer, integer, ints),
    }[name]  # fmt: skip


def specialisations(shapes: tuple[Sides, ...] = SHAPES[:1]) -> list[Specialisation]:
    """Return all kernels of some block shapes, in both precisions, for all architectures."""
    found = []
    for architecture, sides, precision in itertools.product(ARCHITECTURES, shapes, ("float32", "float64")):
        for in_registers in (True, False) if fits_registers(sides) else (False,):
            for template, name, form, columns in KERNELS:
                # The same code wherever blocks are kept
                alike = name in _WITHOUT_BLOCKS and not in_registers and fits_registers(sides)
                alike = alike or (name in _OF_INTEGERS and precision == "float64")
                if not alike and (name != "decode" or in_registers):
                    found.append(
                        Specialisation(template, name, form, columns, sides, precision, in_registers, architecture)
                    )
    return found


class AnyKernel(Protocol):
    """A kernel of fields, or another one."""

    @property
    def architecture(self) -> tuple[int, int]:
        """The card that it is for."""

    @property
    def dynamic_bytes(self) -> int:
        """Shared memory that it is launched with."""

    def build(self) -> cuda_build.CudaCode:
        """Return its machine code."""


def build_all(wanted: Sequence[AnyKernel], processes: int = 2) -> list[cuda_build.CudaCode]:
    """Return the machine code of many kernels, compiled by some processes."""
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        return list(pool.imap(_build, wanted, chunksize=1))


def _build(kernel: AnyKernel) -> cuda_build.CudaCode:
    return kernel.build()


def tiles_at_once(kernel: AnyKernel, code: cuda_build.CudaCode) -> int:
    """Return how many tiles of threads a multiprocessor runs at a time."""
    registers = _REGISTERS // (TILE * (-(-max(code.registers, 16) // 8) * 8))
    memory = _SHARED[kernel.architecture] // (code.shared_bytes + kernel.dynamic_bytes + _RESERVED)
    return min(registers, memory, _THREADS // TILE)


def table(wanted: list[Specialisation], codes: list[cuda_build.CudaCode]) -> str:
    """Return the facts of kernels as a table in Markdown."""
    lines = [
        "| kernel | form | blocks | precision | block in | card | registers | stack, B | spilled, B | shared, KiB "
        "| threads a multiprocessor |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for kernel, code in zip(wanted, codes, strict=True):
        sides = "x".join(str(side) for side in kernel.sides if side > 1)
        shared = (code.shared_bytes + kernel.dynamic_bytes) / 1024
        place = "registers" if kernel.in_registers else "memory"
        card = f"sm_{kernel.architecture[0]}{kernel.architecture[1]}"
        lines.append(
            f"| {kernel.name} | {kernel.form} | {sides} | {kernel.precision} | {place} | {card} "
            f"| {code.registers} | {code.stack_bytes} | {code.spill_bytes} | {shared:.1f} "
            f"| {tiles_at_once(kernel, code) * TILE} of {_THREADS} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    chosen = specialisations()
    sys.stdout.write(table(chosen, build_all(chosen)))
