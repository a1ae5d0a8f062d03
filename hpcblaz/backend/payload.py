"""What drivers share: how blocks are computed with, and the payloads of compressed fields, wherever they are."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcblaz.backend.blocks import BlockGrid
from hpcblaz.backend.compile import cuda_kernel, kernel
from hpcblaz.bodies.records import LANES
from hpcblaz.bodies.steps import LEVELS
from hpcblaz.bodies.transforms import matrix

SPARE_WORDS = 2 * LANES  # the last lanes of a payload may be read past their end

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Numerics:
    """How blocks are computed with: the grid, the transform, and the precision ('float32' or 'float64')."""

    grid: BlockGrid
    transform: str
    precision: str

    @property
    def dtype(self) -> np.dtype[Any]:
        """The NumPy type of the precision."""
        return np.dtype(self.precision)

    @cached_property
    def matrices(self) -> NDArray[Any]:
        """The transform of every length, shape (17, 16, 16)."""
        stack = np.zeros((17, 16, 16), self.dtype)
        for n in range(1, 17):
            stack[n, :n, :n] = matrix(self.transform, n)
        return stack

    @cached_property
    def roots(self) -> NDArray[np.float64]:
        """Square root of the cells a block, for each tile."""
        return np.sqrt(self.grid.block_cells.astype(np.float64))

    def kernel(self, template: str, form: str) -> Any:
        """Return a template specialised for these numerics."""
        return kernel(template, self.grid.sides, self.transform, self.precision, form)

    def cuda_kernel(self, template: str, form: str, in_registers: bool) -> Any:
        """Return a template of the GPU specialised for these numerics."""
        return cuda_kernel(template, self.grid.sides, self.transform, self.precision, form, in_registers)


@dataclass(frozen=True)
class PackedBlocks:
    """Tiles as packed records.

    Parameters
    ----------
    words : numpy.ndarray
        uint32; the records one after the other, and some spare words.
    offsets : numpy.ndarray
        int64, shape (tiles + 1,): where each record begins.
    exponent : int
        The step of level 0 is 2**exponent.
    mean_exponent : int
        The step of coefficient 0 is 2**mean_exponent.
    device : {'cpu', 'gpu'}
        Where the arrays are; they are CuPy's on a GPU.
    """

    words: NDArray[np.uint32]
    offsets: NDArray[np.int64]
    exponent: int
    mean_exponent: int
    device: str = "cpu"
    form = "packed"

    @property
    def nbytes(self) -> int:
        """Bytes of the payload."""
        return self.words.nbytes + self.offsets.nbytes

    @property
    def steps(self) -> NDArray[np.float64]:
        """The steps of all levels."""
        return np.ldexp(1.0, self.exponent + np.arange(LEVELS))

    @property
    def mean_step(self) -> float:
        """The step of coefficient 0."""
        return math.ldexp(1.0, self.mean_exponent)

    @property
    def operands(self) -> tuple[Any, Any, NDArray[np.float64], float]:
        """What kernels of the CPU take: main, side, steps, mean_step."""
        return self.words, self.offsets, self.steps, self.mean_step


@dataclass(frozen=True)
class FixedBlocks:
    """Tiles as indices of fixed width with a scale a block; see templates/fixed.py.

    Parameters
    ----------
    indices : numpy.ndarray
        int8, int16 or int32.
    scales : numpy.ndarray
        float32 or float64, one a block.
    starts, kept : numpy.ndarray
        Where tiles begin, and which coefficients are kept in each region.
    device : {'cpu', 'gpu'}
        Where the arrays are; they are CuPy's on a GPU.
    """

    indices: NDArray[Any]
    scales: NDArray[Any]
    starts: NDArray[np.int64]
    kept: NDArray[np.int64]
    device: str = "cpu"
    form = "fixed"

    @property
    def nbytes(self) -> int:
        """Bytes of the payload."""
        return self.indices.nbytes + self.scales.nbytes

    @property
    def limit(self) -> int:
        """The largest index, r."""
        return int(np.iinfo(self.indices.dtype).max)

    @property
    def operands(self) -> tuple[Any, Any, NDArray[np.float64], float]:
        """What kernels of the CPU take: main, side, steps, mean_step."""
        return self.indices, (self.scales, self.starts, self.kept), np.full(1, 1.0 / self.limit), 1.0 / self.limit


Blocks = PackedBlocks | FixedBlocks
