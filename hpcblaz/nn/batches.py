"""Examples, a batch at a time, in an order that a seed decides."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from hpcblaz.errors import ConfigurationError, NetworkError, ShapeError
from hpcblaz.nn.tape import Array

__all__ = ["Batches"]


class Batches:
    """Examples and their labels, which can be iterated over in batches.

    Parameters
    ----------
    x : array, shape (examples, ...)
    y : array, shape (examples, ...), optional
        Labels, or what the network is to give.
    size : int
        Examples of a batch; the last batch of an epoch has what is left.
    seed : int or None
        Of the order; each epoch has another one. None: as they are.

    Raises
    ------
    NetworkError
        If there are no examples, or they have NaN.
    ShapeError
        If there are not as many labels as examples.

    Examples
    --------
    >>> import numpy as np
    >>> from hpcblaz.nn import Batches
    >>> [x.tolist() for x, y in Batches(np.arange(5), size=2)]
    [[0, 1], [2, 3], [4]]
    """

    def __init__(self, x: Array, y: Array | None = None, size: int = 128, seed: int | None = None) -> None:
        if not len(x):
            raise NetworkError("expected examples, got an empty data set")
        if y is not None and len(y) != len(x):
            raise ShapeError(f"expected a label for each of {len(x)} examples, got {len(y)}")
        if isinstance(size, bool) or int(size) != size or size < 1:
            raise ConfigurationError(f"expected a batch of at least 1, got {size}")
        if x.dtype.kind == "f" and bool((x != x).any()):
            raise NetworkError("expected examples without NaN, got NaN")
        self.x, self.y = x, y
        self.size, self.seed = int(size), seed

    def __len__(self) -> int:
        return -(-len(self.x) // self.size)

    def __iter__(self) -> Iterator[tuple[Array, Any]]:
        return self.epoch(0)

    def epoch(self, number: int) -> Iterator[tuple[Array, Any]]:
        """Return the batches of an epoch, in the order that the seed and its number decide."""
        order = None if self.seed is None else np.random.default_rng([self.seed, number]).permutation(len(self.x))
        for start in range(0, len(self.x), self.size):
            part: Any = slice(start, start + self.size) if order is None else order[start : start + self.size]
            yield self.x[part], None if self.y is None else self.y[part]
