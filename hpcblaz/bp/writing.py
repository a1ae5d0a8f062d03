"""Numbers as text that gives the same numbers when it is read."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from hpcblaz.bp.ragged import Floats
from hpcblaz.errors import ModelError


def join(values: Iterable[Any], between: str = " ") -> str:
    """Return numbers with something between them.

    Examples
    --------
    >>> join([3, 0.1, 1e-300]), join(np.arange(3), ",")
    ('3 0.1 1e-300', '0,1,2')
    """
    plain = values.tolist() if isinstance(values, np.ndarray) else values
    return between.join(map(repr, plain))


def linear(logarithms: Floats) -> Floats:
    """Return weights of which these are the logarithms.

    Raises
    ------
    ModelError
        If one is infinite, or so small that it would become zero.
    """
    with np.errstate(over="ignore", under="ignore"):
        weights = np.exp(logarithms)
    lost = (weights == np.inf) | ((weights == 0) & (logarithms > -np.inf))
    if lost.any():
        raise ModelError(
            f"expected weights that a number in a file can hold, got e^{logarithms[lost][0]:.6g}: multiply its table "
            "by a constant"
        )
    return weights
