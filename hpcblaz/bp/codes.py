"""Low-density parity-check codes as graphical models: bits, checks, and what a noisy channel says of the bits."""

import math
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike

from hpcblaz.bp.checks import generator, integer_array, log_array, positive
from hpcblaz.bp.models import FactorGraph
from hpcblaz.bp.ragged import Floats, Integers, offsets_of
from hpcblaz.errors import ModelError

__all__ = ["channel", "code_model", "ldpc", "parity_checks"]

_LARGEST_ROW = 16  # bits of a check: its table has 2^16 entries


def parity_checks(bits: int, column_weight: int, row_weight: int, seed: int = 0) -> Integers:
    """Return the checks of a random code of Gallager's.

    There are as many bands of checks as each bit has checks. In each band every bit is in one check: in the first band
    in the order of bits, in the others in random order.

    Parameters
    ----------
    bits : int
        Length of a code word, a multiple of `row_weight`.
    column_weight : int
        Checks of a bit.
    row_weight : int
        Bits of a check, at least 2.
    seed : int

    Returns
    -------
    numpy.ndarray of int64, shape (bits * column_weight // row_weight, row_weight)
        The bits of each check, whose sum is even in a code word.

    Raises
    ------
    ModelError
        If there is no such code.

    References
    ----------
    R. G. Gallager, "Low-Density Parity-Check Codes", 1962.

    Examples
    --------
    >>> parity_checks(12, column_weight=3, row_weight=6).shape
    (6, 6)
    """
    for name, value in (("bits", bits), ("column_weight", column_weight), ("row_weight", row_weight)):
        positive(name, value)
    if bits % row_weight or row_weight < 2:
        raise ModelError(f"expected bits that are a multiple of a row_weight of 2 or more, got {bits} and {row_weight}")
    rng = generator(seed)
    bands = [np.arange(bits, dtype=np.int64), *(rng.permutation(bits) for _ in range(column_weight - 1))]
    return np.concatenate(bands).reshape(-1, row_weight)


def channel(word: ArrayLike, noise: float, kind: Literal["gaussian", "flip"] = "gaussian", seed: int = 0) -> Floats:
    """Send bits over a noisy channel, and return what is received as log-likelihood ratios.

    Parameters
    ----------
    word : array_like of int, shape (..., bits)
        0 or 1.
    noise : float
        Of 'gaussian': the standard deviation of the noise that is added to 1 for a bit 0, and to -1 for a bit 1. Of
        'flip': the probability that a bit is received wrongly, less than 1/2.
    kind : {'gaussian', 'flip'}
    seed : int

    Returns
    -------
    numpy.ndarray of float64, shape (..., bits)
        log P(received | 0) - log P(received | 1).

    Raises
    ------
    ModelError
        If there are other bits, or there is no such channel.

    Examples
    --------
    >>> channel([0, 0, 1, 1], noise=0.1).round().astype(int).tolist()
    [203, 197, -187, -198]
    """
    bits = integer_array("the word", word, np.shape(word))
    if ((bits < 0) | (bits > 1)).any():
        raise ModelError("expected bits to be 0 or 1, got other integers")
    rng = generator(seed)
    if kind == "gaussian" and 0 < noise < math.inf:
        received = 1 - 2 * bits + noise * rng.standard_normal(bits.shape)
        return np.asarray(2 * received / noise**2)
    if kind == "flip" and 0 < noise < 0.5:
        flipped = bits ^ (rng.random(bits.shape) < noise)
        return np.asarray((1 - 2 * flipped) * math.log((1 - noise) / noise))
    raise ModelError(
        f"expected a channel 'gaussian' with positive noise or 'flip' with noise below 0.5, got {kind!r} with {noise}"
    )


def code_model(checks: ArrayLike, ratios: ArrayLike) -> FactorGraph:
    """Return the model whose most probable assignment is the code word most likely sent.

    Parameters
    ----------
    checks : array_like of int, shape (checks, row_weight)
        The bits of each check.
    ratios : array_like of float, shape (bits,)
        Log-likelihood ratios of the bits, as from `channel`.

    Returns
    -------
    FactorGraph
        A factor of each bit first, then one of each check.

    Raises
    ------
    ModelError
        If a check has a bit that is not there or has it twice, or has more than 16 bits.

    Examples
    --------
    >>> model = code_model([[0, 1, 2]], [2.0, -1.0, 3.0])
    >>> bool(np.isneginf(model.score([0, 1, 0]))), bool(np.isfinite(model.score([1, 1, 0])))
    (True, True)
    """
    received = log_array("ratios", ratios, (None,))
    rows = integer_array("checks", checks, (None, None))
    bits, (count, weight) = received.size, rows.shape
    if weight > _LARGEST_ROW:
        raise ModelError(f"expected checks of {_LARGEST_ROW} bits at most, got {weight}: their tables are too large")
    half = received / 2
    unaries = np.stack([half, -half], axis=1) - np.logaddexp(half, -half)[:, None]
    parity = np.bitwise_count(np.arange(2**weight, dtype=np.uint64)) % 2
    table = np.where(parity == 0, 0.0, -np.inf)
    return FactorGraph(
        np.full(bits, 2),
        offsets_of(np.repeat([1, weight], [bits, count])),
        np.concatenate([np.arange(bits), rows.ravel()]),
        offsets_of(np.repeat([2, table.size], [bits, count])),
        np.concatenate([unaries.ravel(), np.tile(table, count)]),
    )


def ldpc(
    bits: int,
    column_weight: int = 3,
    row_weight: int = 6,
    noise: float = 0.8,
    kind: Literal["gaussian", "flip"] = "gaussian",
    seed: int = 0,
) -> FactorGraph:
    """Return a random code, and what is received of its word of zeros; any other word would do as well.

    Parameters
    ----------
    bits, column_weight, row_weight : int
        As of `parity_checks`.
    noise : float
        As of `channel`.
    kind : {'gaussian', 'flip'}
    seed : int
        Of the code; the noise has the next one.

    Returns
    -------
    FactorGraph

    Raises
    ------
    ModelError
        If there is no such code or channel.

    Examples
    --------
    >>> model = ldpc(3000)
    >>> model.variables, model.factors, model.arity
    (3000, 4500, 6)
    """
    checks = parity_checks(bits, column_weight, row_weight, seed)
    return code_model(checks, channel(np.zeros(bits, np.int64), noise, kind, seed + 1))
