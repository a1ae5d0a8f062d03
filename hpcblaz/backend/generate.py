"""Source of what is written for one block shape: its transforms, and what is done to all coefficients of a block.

Three storages of a block are known. On the CPU 16 blocks lie side by side in a *strip*, and loops over the lanes are
vectorised. On the GPU a thread has one block: in *registers* where they suffice, an array that is only ever
indexed by constants; or in a *column* of an array in device memory.
"""

import itertools
import math

from hpcblaz.bodies.transforms import straight_line

_FUSED = 16  # samples that one lane or thread holds in registers at a time
_CONTRACTED = "times({}, {})"  # products that are followed by a sum, on the GPU


def transforms_source(kind: str, sides: tuple[int, int, int, int]) -> str:
    """Return the source of a module with ``forward(samples, v)`` and ``inverse(v)``.

    The one writes the coefficients of a strip, the other transforms a strip in place. A strip is an array of
    ``prod(sides) * LANES`` values, blocks of `sides` in C order, with the lanes (one block a lane) innermost.
    Neighbouring axes are transformed together while their samples fit the registers, so that values are loaded and
    stored once for two axes of side 4.

    Parameters
    ----------
    kind : {'dct', 'haar', 'identity'}
        The transform.
    sides : tuple of 4 int
        Block sides, each 1, 2, 4, 8 or 16.

    Returns
    -------
    str
        Python source.
    """
    head = '"""Generated: the transforms of full blocks."""\n\nfrom numba import njit\n\n'
    head += "from hpcblaz.bodies.records import LANES\n\nfrom .constants import REAL\n\n\n"
    forward = ["@njit", "def forward(samples, v):"]
    inverse = ["@njit", "def inverse(v):"]
    stages = _stages(kind, sides)
    if not stages:
        forward += ["    for i in range(len(v)):", "        v[i] = samples[i]"]
        inverse += ["    return"]
    for number, stage in enumerate(stages):
        forward += _strip_stage(stage, kind, sides, False, "v" if number else "samples")
    for stage in reversed(stages):
        inverse += _strip_stage(stage[::-1], kind, sides, True, "v")
    return head + "\n".join(forward) + "\n\n\n" + "\n".join(inverse) + "\n"


def columns_source(kind: str, sides: tuple[int, int, int, int], in_registers: bool) -> str:
    """Return the source of a module that handles one block a thread, on the GPU.

    ``samples`` and ``integers`` are arrays of tiles, where coefficient or cell k of column c is at
    ``k * STRIDE + column``; ``r`` (and ``c``) is the block that the thread works on: an array indexed by constants, or,
    unless `in_registers`, another array of tiles, of which the thread uses the column ``own``.

    Parameters
    ----------
    kind : {'dct', 'haar', 'identity'}
        The transform.
    sides : tuple of 4 int
        Block sides, each 1, 2, 4, 8 or 16.
    in_registers : bool
        Straight-line code on constants, or loops.

    Returns
    -------
    str
        Python source.
    """
    size = math.prod(sides)
    lines = [
        '"""Generated: what one thread does with one block."""',
        "",
        "import numpy as np",
    ]
    lines += ["from numba.extending import register_jitable", "", "from .constants import REAL, SIZE, STRIDE"]
    lines += ["from .scalars import cuda, nearest, times", "", ""]

    def place(array: str, offset: str, column: str) -> str:
        if array in ("r", "c") and in_registers:
            return f"{array}[{offset}]"
        return f"{array}[np.uint64({offset} * STRIDE + {column})]"

    def function(name: str, parameters: str, body: list[str]) -> None:
        lines.extend(["@register_jitable(forceinline=True)", f"def {name}({parameters}):", *body, "", ""])

    def every(first: int, *statements: str) -> list[str]:
        numbers = range(first, size) if in_registers else ["k"]
        head = [] if in_registers else [f"    for k in range({first}, SIZE):"]
        indent = "    " if in_registers else "        "
        return head + [
            indent
            + statement.format(
                r=place("r", k, "own"),
                c=place("c", k, "own"),
                s=place("samples", k, "column"),
                q=place("integers", k, "column"),
                k=k,
            )
            for k in map(str, numbers)
            for statement in statements
        ]

    def transform(inverse: bool) -> list[str]:
        body = []
        stages = _stages(kind, sides)
        if not inverse and not stages:
            return every(0, "{r} = {s}")
        for number, stage in enumerate([s[::-1] for s in reversed(stages)] if inverse else stages):
            source = ("samples", "column") if not inverse and number == 0 else ("r", "own")
            if in_registers:
                for first in _bases(stage, sides):
                    body += _stage(
                        stage, kind, sides, inverse, "    ", _CONTRACTED,
                        lambda offset, first=first, source=source: place(source[0], str(first + offset), source[1]),
                        lambda offset, first=first: place("r", str(first + offset), "own"),
                    )  # fmt: skip
            else:
                loops, base, indent = _loops(stage, sides)
                body += [*loops, f"{indent}base = {base}"]
                body += _stage(
                    stage, kind, sides, inverse, indent, _CONTRACTED,
                    lambda offset, source=source: place(source[0], f"(base + {offset})", source[1]),
                    lambda offset: place("r", f"(base + {offset})", "own"),
                )  # fmt: skip
        return body or ["    return"]

    function("forward", "samples, column, r, own", transform(False))
    function("inverse", "r, own", transform(True))
    function(
        "measure_coefficients",
        "r, own",
        [
            "    largest = REAL(0)",
            "    square = REAL(0)",
            *every(1, "a = abs({r})", "largest = a if a > largest else largest", "square = square + times(a, a)"),
            "    return largest, square",
        ],
    )
    function(
        "quantise",
        "c, r, own, mean, step, inverse_step",
        [*every(1, "{r} = times(nearest(times({c}, inverse_step)), step)"), "    set_first(r, own, mean)"],
    )
    function(
        "measure_error",
        "samples, column, r, own",
        [
            "    error = REAL(0)",
            "    square = REAL(0)",
            *every(0, "e = abs({r} - {s})", "error = e if e > error else error", "square = square + times(e, e)"),
            "    return error, square",
        ],
    )
    function("clear_all", "r, own", every(0, "{r} = REAL(0)") if in_registers else ["    return"])
    first = place("r", "0", "own")
    function("first_of", "r, own", [f"    return {first}"])
    function("set_first", "r, own, value", [f"    {first} = value"])
    function("round_all", "r, own, inverse_step", every(0, "{r} = nearest(times({r}, inverse_step))"))
    function(
        "cost",
        "r, own",
        ["    bits = 0", *every(1, "bits += 32 - cuda.clz(np.uint32(abs({r})))"), "    return bits"],
    )
    function("store_integers", "r, own, integers, column", every(0, "{q} = np.int32({r})"))
    function("load_integers", "integers, column, r, own, step", every(0, "{r} = times(REAL({q}), step)"))
    function("scale_all", "r, own, step", every(0, "{r} = times({r}, step)"))
    function("store_samples", "r, own, samples, column", every(0, "{s} = {r}"))
    function(
        "largest_kept",
        "r, own, kept",
        [
            "    largest = REAL(0)",
            *every(0, "a = abs({r}) if kept[{k}] >= 0 else REAL(0)", "largest = a if a > largest else largest"),
            "    return largest",
        ],
    )
    function(
        "store_indices",
        "r, own, kept, indices, position, lanes",
        every(0, "if kept[{k}] >= 0:", "    indices[np.uint64(position + kept[{k}] * lanes)] = np.int32({r})"),
    )
    function("keep_only", "r, own, kept", every(0, "{r} = {r} if kept[{k}] >= 0 else REAL(0)"))
    return "\n".join(lines).rstrip() + "\n"


def _stages(kind: str, sides: tuple[int, ...]) -> list[list[int]]:
    """Return the axes of a forward transform, last one first, gathered into those that are done together."""
    stages: list[list[int]] = []
    for axis in reversed(range(4)):
        if sides[axis] == 1 or kind == "identity":
            continue
        if stages and math.prod(sides[a] for a in stages[-1]) * sides[axis] <= _FUSED:
            stages[-1].append(axis)
        else:
            stages.append([axis])
    return stages


def _strides(sides: tuple[int, ...]) -> list[int]:
    return [math.prod(sides[axis + 1 :]) for axis in range(4)]


def _loops(stage: list[int], sides: tuple[int, ...]) -> tuple[list[str], str, str]:
    """Return loops over the axes that a stage leaves alone, the position of their sample, and the indent in them."""
    lines, base, indent = [], ["0"], "    "
    for axis in reversed(range(4)):
        if sides[axis] > 1 and axis not in stage:
            lines.append(f"{indent}for i{axis} in range({sides[axis]}):")
            indent += "    "
            base.append(f"i{axis} * {_strides(sides)[axis]}")
    return lines, " + ".join(base), indent


def _bases(stage: list[int], sides: tuple[int, ...]) -> list[int]:
    """Return the positions that the loops of :func:`_loops` would visit."""
    others = [axis for axis in reversed(range(4)) if axis not in stage]
    return [
        sum(i * _strides(sides)[axis] for i, axis in zip(sample, others, strict=True))
        for sample in itertools.product(*(range(sides[axis]) for axis in others))
    ]


def _strip_stage(stage: list[int], kind: str, sides: tuple[int, ...], inverse: bool, source: str) -> list[str]:
    loops, base, indent = _loops(stage, sides)
    lines = [*loops, f"{indent}base = {base}", f"{indent}for lane in range(LANES):"]
    return lines + _stage(
        stage, kind, sides, inverse, indent + "    ", "{} * {}",
        lambda offset: f"{source}[(base + {offset}) * LANES + lane]",
        lambda offset: f"v[(base + {offset}) * LANES + lane]",
    )  # fmt: skip


def _stage(stage, kind, sides, inverse, indent, product, read, write) -> list[str]:
    """Return statements that transform some axes of the samples at one base: read, computed with, and written."""
    samples = list(itertools.product(*(range(sides[axis]) for axis in stage)))

    def offset(sample: tuple[int, ...]) -> int:
        return sum(i * _strides(sides)[axis] for i, axis in zip(sample, stage, strict=True))

    def name(sample: tuple[int, ...], step: int) -> str:
        return f"s{step}_" + "_".join(map(str, sample))

    lines = [f"{indent}{name(sample, 0)} = {read(offset(sample))}" for sample in samples]
    for step, axis in enumerate(stage):
        others = itertools.product(*(range(1) if other == axis else range(sides[other]) for other in stage))
        for fixed in others:
            line = [(*fixed[:step], i, *fixed[step + 1 :]) for i in range(sides[axis])]
            inputs = [name(sample, step) for sample in line]
            outputs = [name(sample, step + 1) for sample in line]
            prefix = f"t{step}_" + "_".join(map(str, fixed)) + "_"
            lines += [indent + text for text in straight_line(kind, inputs, outputs, inverse, prefix, product)]
    return lines + [f"{indent}{write(offset(sample))} = {name(sample, len(stage))}" for sample in samples]
