"""Straight-line source of the block transforms, for one block shape."""

import itertools
import math

from hpcblaz.bodies.transforms import straight_line

_FUSED = 16  # samples that one lane holds in registers at a time


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
    return head + _function("forward", kind, sides, False) + "\n\n" + _function("inverse", kind, sides, True)


def _function(name: str, kind: str, sides: tuple[int, ...], inverse: bool) -> str:
    parameters = "v" if inverse else "samples, v"
    lines = ["@njit", f"def {name}({parameters}):", f'    """Transform a strip of full blocks: {kind}, {sides}."""']
    axes = [axis for axis in reversed(range(4)) if sides[axis] > 1]
    if kind == "identity":
        axes = []
    stages: list[list[int]] = []
    for axis in axes:
        if stages and math.prod(sides[a] for a in stages[-1]) * sides[axis] <= _FUSED:
            stages[-1].append(axis)
        else:
            stages.append([axis])
    if inverse:
        stages = [stage[::-1] for stage in reversed(stages)]
    if not inverse and not stages:
        lines += ["    for i in range(len(v)):", "        v[i] = samples[i]"]
    for number, stage in enumerate(stages):
        lines += _stage(stage, axes, kind, sides, inverse, "v" if number or inverse else "samples")
    return "\n".join(lines) + "\n"


def _stage(
    stage: list[int], axes: list[int], kind: str, sides: tuple[int, ...], inverse: bool, source: str
) -> list[str]:
    strides = [math.prod(sides[axis + 1 :]) for axis in range(4)]
    lines = []
    indent = "    "
    base = ["0"]
    for axis in axes:
        if axis not in stage:
            lines.append(f"{indent}for i{axis} in range({sides[axis]}):")
            indent += "    "
            base.append(f"i{axis} * {strides[axis]}")
    lines += [f"{indent}base = {' + '.join(base)}", f"{indent}for lane in range(LANES):"]
    indent += "    "
    samples = list(itertools.product(*(range(sides[axis]) for axis in stage)))

    def place(array: str, sample: tuple[int, ...]) -> str:
        offset = sum(i * strides[axis] for i, axis in zip(sample, stage, strict=True))
        return f"{array}[(base + {offset}) * LANES + lane]"

    def name(sample: tuple[int, ...], step: int) -> str:
        return f"s{step}_" + "_".join(map(str, sample))

    lines += [f"{indent}{name(sample, 0)} = {place(source, sample)}" for sample in samples]
    for step, axis in enumerate(stage):
        others = itertools.product(*(range(1) if other == axis else range(sides[other]) for other in stage))
        for fixed in others:
            line = [(*fixed[:step], i, *fixed[step + 1 :]) for i in range(sides[axis])]
            inputs = [name(sample, step) for sample in line]
            outputs = [name(sample, step + 1) for sample in line]
            prefix = f"t{step}_" + "_".join(map(str, fixed)) + "_"
            lines += [indent + statement for statement in straight_line(kind, inputs, outputs, inverse, prefix)]
    return lines + [f"{indent}{place('v', sample)} = {name(sample, len(stage))}" for sample in samples]
