"""What a compressed array is made of: codecs as values."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from hpcblaz.backend.blocks import BlockGrid, default_block_shape
from hpcblaz.backend.dispatch import drivers
from hpcblaz.backend.payload import FixedBlocks, Numerics
from hpcblaz.bodies.transforms import KINDS, depth, matrix
from hpcblaz.errors import CodecError

UNIT_ROUNDOFF = {"float32": 2.0**-24, "float64": 2.0**-53}


def check_transform(transform: str) -> None:
    """Raise CodecError if a transform is not known."""
    if transform not in KINDS:
        raise CodecError(f"expected transform to be one of {KINDS}, got {transform!r}")


def check_block_shape(block_shape: Any) -> tuple[int, ...] | None:
    """Return a block shape as a tuple of int (None stays None), or raise CodecError."""
    if block_shape is None:
        return None
    try:
        sides = tuple(int(side) for side in block_shape)
    except (TypeError, ValueError):
        raise CodecError(f"expected block_shape to be a sequence of integers, got {block_shape!r}") from None
    if any(side != given for side, given in zip(sides, block_shape, strict=True)):
        raise CodecError(f"expected block_shape to be a sequence of integers, got {block_shape!r}")
    return sides


@dataclass(frozen=True)
class ToleranceCodec:
    """The codec that keeps every value within a tolerance.

    For each block the largest power-of-two step is taken at which the block's measured error is within the tolerance.
    The tolerance itself is given to :func:`hpcblaz.compress`.

    Parameters
    ----------
    block_shape : sequence of int, optional
        A side for each axis: 1, 2, 4, 8 or 16, at most 4096 cells a block. Default: (16,), (8, 8), (4, 4, 4) or
        (4, 4, 4, 4).
    transform : {'dct', 'haar', 'identity'}, default 'dct'
        Block transform.

    Raises
    ------
    CodecError
        If an option is not allowed.

    Examples
    --------
    >>> import numpy as np, hpcblaz as hb
    >>> x = np.linspace(0, 1, 64 * 64, dtype=np.float32).reshape(64, 64)
    >>> a = hb.compress(x, tolerance=1e-3, codec=hb.ToleranceCodec(block_shape=(4, 16)))
    >>> a.codec.block_shape
    (4, 16)
    """

    block_shape: tuple[int, ...] | None = None
    transform: str = "dct"

    def __post_init__(self) -> None:
        check_transform(self.transform)
        object.__setattr__(self, "block_shape", check_block_shape(self.block_shape))


@dataclass(frozen=True, eq=False)
class BlockCodec:
    """The codec of PyBlaz: a scale for each block, and indices of fixed width.

    For each block N is the largest magnitude of the kept coefficients, and a coefficient c becomes the
    index ``round(r c / N)`` with r = 127, 32767 or 2**31 - 1. The compressed size is known beforehand.

    Parameters
    ----------
    block_shape : sequence of int, optional
        As for :class:`ToleranceCodec`.
    transform : {'dct', 'haar', 'identity'}, default 'dct'
        Block transform.
    index_dtype : {'int8', 'int16', 'int32'}, default 'int8'
        Type of the indices.
    keep : float or array_like of bool, default 1.0
        Which coefficients are kept: a fraction of them, lowest frequencies first; or a mask of the block shape.
        A mask without coefficient 0 removes the mean of every block from the field.

    Raises
    ------
    CodecError
        If an option is not allowed.

    References
    ----------
    "What Operations can be Performed Directly on Compressed Arrays, and with What Error?", 2023 (PyBlaz).

    Examples
    --------
    >>> import numpy as np, hpcblaz as hb
    >>> x = np.linspace(0, 1, 64 * 64, dtype=np.float32).reshape(64, 64)
    >>> a = hb.compress(x, codec=hb.BlockCodec(block_shape=(8, 8), index_dtype="int8", keep=0.5))
    >>> a.nbytes == 64 * (32 + 4)
    True
    """

    block_shape: tuple[int, ...] | None = None
    transform: str = "dct"
    index_dtype: DTypeLike = "int8"
    keep: float | ArrayLike = 1.0

    def __post_init__(self) -> None:
        check_transform(self.transform)
        object.__setattr__(self, "block_shape", check_block_shape(self.block_shape))
        try:
            index_dtype = np.dtype(self.index_dtype)
        except TypeError:
            index_dtype = np.dtype(bool)
        if index_dtype.name not in ("int8", "int16", "int32"):
            raise CodecError(f"expected index_dtype to be int8, int16 or int32, got {self.index_dtype!r}")
        object.__setattr__(self, "index_dtype", index_dtype)
        if np.ndim(self.keep) == 0:
            if not isinstance(self.keep, (int, float, np.integer, np.floating)) or not 0 < self.keep <= 1:
                raise CodecError(f"expected keep to be a fraction, 0 < keep <= 1, or a boolean mask, got {self.keep!r}")
            object.__setattr__(self, "keep", float(self.keep))
        else:
            mask = np.array(self.keep)
            if mask.dtype != np.bool_ or not mask.any():
                raise CodecError(f"expected keep to be a boolean mask with a true entry, got dtype {mask.dtype}")
            mask.flags.writeable = False
            object.__setattr__(self, "keep", mask)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, BlockCodec):
            return NotImplemented
        same = (self.block_shape, self.transform, self.index_dtype) == (
            other.block_shape,
            other.transform,
            other.index_dtype,
        )
        return same and np.array_equal(np.asarray(self.keep), np.asarray(other.keep))

    def __hash__(self) -> int:
        return hash((self.block_shape, self.transform, np.dtype(self.index_dtype).name))

    def mask(self, block_shape: tuple[int, ...]) -> NDArray[np.bool_]:
        """Return which coefficients of a block are kept: bool, of the block's shape.

        Raises
        ------
        CodecError
            If `keep` is a mask of another shape.
        """
        if isinstance(self.keep, np.ndarray):
            if self.keep.shape != block_shape:
                raise CodecError(f"expected a mask of the block shape {block_shape}, got shape {self.keep.shape}")
            return self.keep
        count = max(1, round(float(np.asarray(self.keep)) * math.prod(block_shape)))
        frequency = sum(
            (np.arange(side) / side).reshape([-1 if axis == i else 1 for i in range(len(block_shape))])
            for axis, side in enumerate(block_shape)
        )
        order = np.argsort(np.asarray(frequency).ravel(), kind="stable")
        kept = np.zeros(math.prod(block_shape), np.bool_)
        kept[order[:count]] = True
        return kept.reshape(block_shape)


Codec = ToleranceCodec | BlockCodec


def with_block_shape(codec: Codec, ndim: int) -> Codec:
    """Return the codec with its block shape filled in."""
    if codec.block_shape is not None:
        return codec
    sides = default_block_shape(ndim)
    if isinstance(codec, ToleranceCodec):
        return ToleranceCodec(sides, codec.transform)
    return BlockCodec(sides, codec.transform, codec.index_dtype, codec.keep)


def grid_of(codec: Codec, shape: tuple[int, ...]) -> BlockGrid:
    """Return the grid of blocks of a field of `shape`."""
    if codec.block_shape is None:
        return BlockGrid(shape, default_block_shape(len(shape)))
    return BlockGrid(shape, codec.block_shape)


def empty_blocks(codec: BlockCodec, numerics: Numerics, device: str = "cpu") -> FixedBlocks:
    """Return the payload of a field of zeros on a device: where its tiles begin, what they keep, and room for it."""
    grid = numerics.grid
    pad = (1,) * (4 - grid.ndim)
    mask = codec.mask(grid.block_shape).reshape(pad + grid.block_shape)
    kept = np.zeros((len(grid.regions), 1 + grid.block_size), np.int64)
    for row, region in zip(kept, grid.regions, strict=True):
        present = np.zeros_like(mask)
        present[tuple(slice(0, int(v)) for v in region[8:12])] = True
        which = np.flatnonzero(mask & present)
        row[0] = len(which)
        row[1 : 1 + len(which)] = which
    counts = grid.tiles[:, 2]
    starts = np.zeros((len(grid.tiles) + 1, 3), np.int64)
    starts[1:, 0] = np.cumsum(counts * kept[grid.tiles[:, 0], 0]) if len(counts) else 0
    starts[1:, 1] = np.cumsum(counts)
    starts[:-1, 2] = grid.tiles[:, 0]
    backend = drivers(device)
    return FixedBlocks(
        backend.zeros(int(starts[-1, 0]), np.dtype(codec.index_dtype)),
        backend.zeros(int(starts[-1, 1]), numerics.dtype),
        backend.asarray(starts),
        backend.asarray(kept),
        device,
    )


def growth(transform: str, block_shape: tuple[int, ...]) -> float:
    """Return the factor from the largest error of a coefficient to that of a sample: a product of row sums."""
    return math.prod(
        max(float(np.abs(matrix(transform, m)).sum(axis=0).max()) for m in range(1, side + 1)) for side in block_shape
    )


def half_unit(dtype: np.dtype[Any], largest: float) -> float:
    """Return how far rounding to a floating-point type can move a number of at most this magnitude."""
    info = np.finfo(dtype)
    exponent = math.frexp(largest)[1] - 1 if math.isfinite(largest) else info.maxexp
    return math.ldexp(0.5, min(max(exponent, info.minexp), info.maxexp - 1) - info.nmant)


def rounding(transform: str, block_shape: tuple[int, ...], precision: str) -> float:
    """Return a bound of what two backends' decoders may differ by.

    It is relative to ``abs(matrix.T) @ abs(coefficients)``.
    """
    steps = sum(max(depth(transform, m) for m in range(1, side + 1)) for side in block_shape)
    return 2 * steps * UNIT_ROUNDOFF[precision] * 1.01
