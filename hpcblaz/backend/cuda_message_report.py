"""What the GPU kernels of messages need: registers, memory and the share of a multiprocessor that they can fill.

``python -m hpcblaz.backend.cuda_message_report`` compiles all of them, without a GPU, and prints the table of
``docs/results/message_kernels.md``.
"""

import itertools
import sys
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from hpcblaz.backend import cuda_build
from hpcblaz.backend.compile import cuda_kernel
from hpcblaz.backend.cuda_report import ARCHITECTURES, Argument, build_all, tiles_at_once
from hpcblaz.backend.messages import arrange_factors, arrange_pairs
from hpcblaz.bodies.records import TILE

FAMILIES = (("binary", "float32"), ("binary", "float64"), ("pairwise", "float64"), ("factors", "float64"))
OF_FAMILIES = ("compute", "sweep", "send_drawn", "send_chosen", "splash")
# The same code in all families of one precision
OF_RESIDUALS = ("measure", "count_digits", "variable_keys", "gather", "take_in")
OF_INTEGERS = ("list_heard", "choose_digit")  # the same code in all of them


@dataclass(frozen=True)
class MessageKernel:
    """One kernel for one family of messages, precision and architecture."""

    name: str
    family: str
    precision: str
    architecture: tuple[int, int]
    dynamic_bytes: int = 0

    def build(self) -> cuda_build.CudaCode:
        """Return its machine code."""
        module = cuda_kernel("message_schedules", (1, 1, 1, 1), "identity", self.precision, self.family, True)
        types = arguments(self.name, self.family, self.precision)
        return cuda_build.build(getattr(module, self.name), types, self.architecture)


def arguments(name: str, family: str, precision: str) -> tuple[Any, ...]:
    """Return the types of the arguments of a kernel, as the driver passes them."""
    integer, stamp, word, real = (Argument(np.dtype(dtype)) for dtype in ("int64", "int32", "uint64", precision))
    reals, longs, ints = (Argument(np.dtype(dtype), 1) for dtype in (precision, "int64", "int32"))
    tally = Argument(np.dtype("int64"), 2)
    levels, numbers, graph, model = _plan(family, precision)
    column = (tally, integer)
    bits = ints if precision == "float32" else longs
    state = (reals, reals, reals, real, real, ints, *column)
    return {
        "compute": (model, integer, longs, reals, reals, reals, real, integer, real, *column),
        "sweep": (model, levels, integer, integer, reals, reals, real, integer, real, tally, longs),
        "send_drawn": (model, graph, word, stamp, numbers, word, word, *state),
        "send_chosen": (model, graph, stamp, longs, *state),
        "splash": (
            model,
            graph,
            stamp,
            longs,
            reals,
            integer,
            reals,
            reals,
            reals,
            real,
            integer,
            real,
            ints,
            ints,
            *column,
            longs,
        ),
        "variable_keys": (graph[1], reals, bits),
        "gather": (reals, longs, reals),
        "take_in": (reals, integer, longs, longs, longs, stamp, reals, ints),
        "measure": (reals, real, *column),
        "list_heard": (ints, stamp, longs, *column),
        "count_digits": (reals, integer, integer, longs, longs),
        "choose_digit": (integer, integer, longs, longs),
    }[name]


@cache
def _plan(family: str, precision: str) -> tuple[Any, ...]:
    """Return the types of levels, of the numbers of messages, of a graph and of a model."""

    def like(array: Any) -> Argument:
        return Argument(array.dtype, array.ndim)

    real, longs, ints = (Argument(np.dtype(dtype), 1) for dtype in (precision, "int64", "int32"))
    if family == "factors":
        scopes = np.array([0, 1], np.int64)
        found = arrange_factors(np.array([0, 2], np.int64), scopes, 2)
        levels, _, offsets, numbers, told_offsets, told, listeners = (like(array) for array in found)
        variables = Argument(np.dtype("uint32"), 1)
        model: tuple[Any, ...] = (offsets, variables, longs, longs, longs, real, told_offsets, told)
        return levels, numbers, (offsets, variables, told_offsets, listeners), (*model, real, real, real, ints)
    found = arrange_pairs(np.array([[0, 1]], np.int64), 2)
    levels, _, offsets, numbers, reverse, targets = (like(array) for array in found)
    if family == "binary":
        model = (offsets, reverse, real, Argument(real.dtype, 2))
    else:
        tables_at = Argument(np.dtype("uint32"), 1)  # int64 where there are more than 2^32 entries
        model = (offsets, reverse, targets, longs, real, longs, tables_at, real, real, real, real)
    return levels, numbers, (offsets, targets, longs, longs), model


def specialisations() -> list[MessageKernel]:
    """Return all kernels, for all architectures."""
    found = []
    for architecture, (family, precision) in itertools.product(ARCHITECTURES, FAMILIES):
        names = [*OF_FAMILIES, *(OF_RESIDUALS if family == "binary" else ())]
        names += OF_INTEGERS if (family, precision) == FAMILIES[0] else ()
        found += [MessageKernel(name, family, precision, architecture) for name in names]
    return found


def table(wanted: list[MessageKernel], codes: list[cuda_build.CudaCode]) -> str:
    """Return the facts of kernels as a table in Markdown."""
    lines = [
        "| kernel | messages | precision | card | registers | stack, B | spilled, B | shared, KiB "
        "| threads a multiprocessor |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for kernel, code in zip(wanted, codes, strict=True):
        threads = tiles_at_once(kernel, code) * TILE
        lines.append(
            f"| {kernel.name} | {kernel.family if kernel.name in OF_FAMILIES else 'all'} | {kernel.precision} "
            f"| sm_{kernel.architecture[0]}{kernel.architecture[1]} | {code.registers} | {code.stack_bytes} "
            f"| {code.spill_bytes} | {code.shared_bytes / 1024:.1f} | {threads} of 2048 |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    chosen = specialisations()
    sys.stdout.write(table(chosen, build_all(chosen)))
