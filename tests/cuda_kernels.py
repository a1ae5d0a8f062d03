"""GPU kernels compiled by several processes, each of which compiles what its kernels share only once.

A module of its own: the processes import it by its name.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from hpcblaz.backend.cuda_build import CudaCode
from hpcblaz.backend.cuda_report import Specialisation


def package(kernel: Specialisation) -> Any:
    """Return what kernels with the same device functions have in common, whatever the card."""
    return kernel.in_registers, kernel.form == "packed", kernel.precision, kernel.sides


def collect_seldom() -> None:
    """Let the compiler make its many small objects undisturbed: looking for garbage is an eighth of its time."""
    gc.set_threshold(200_000, 20, 20)


def build_group(group: Sequence[Specialisation]) -> list[CudaCode]:
    return [kernel.build() for kernel in group]


def build_together(wanted: Sequence[Specialisation]) -> dict[Specialisation, CudaCode]:
    """Return the machine code of many kernels."""
    ordered = sorted(wanted, key=package, reverse=True)  # what takes longest comes first
    groups = [list(group) for _, group in groupby(ordered, key=package)]
    with multiprocessing.get_context("spawn").Pool(len(os.sched_getaffinity(0)), collect_seldom) as pool:
        codes = pool.map(build_group, groups, chunksize=1)
    return dict(zip(ordered, (code for group in codes for code in group), strict=True))
