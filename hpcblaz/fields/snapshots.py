"""Many fields at once, such as the time steps of a simulation: all inner products and distances, and their modes.

The coefficients of each tile of every field are unpacked once, and multiplied with those of all others.
"""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpcblaz.backend import dense
from hpcblaz.backend.dispatch import drivers_of
from hpcblaz.backend.payload import Numerics
from hpcblaz.errors import ShapeError, UnsupportedOperationError
from hpcblaz.fields.arithmetic import check_partners
from hpcblaz.fields.certificates import UNIT
from hpcblaz.fields.codec import UNIT_ROUNDOFF
from hpcblaz.fields.combination import linear_combination
from hpcblaz.fields.gaps import decode_window, slabs
from hpcblaz.fields.moments import (
    can_meet,
    check_array,
    check_no_missing,
    payload_bound,
    squares_are_safe,
)

if TYPE_CHECKING:
    from hpcblaz.fields.array import CompressedArray

Matrix = NDArray[np.float64]
_TERMS = 80  # roundings of a product of coefficients and of its sum over a part of a block
_SINGLE = 2.0**48  # payloads below it have squares, and sums of them, that single precision holds


class CertifiedMatrix(NamedTuple):
    """A symmetric matrix of answers, and the bound of each.

    Parameters
    ----------
    values : numpy.ndarray
        float64, shape (m, m).
    error : numpy.ndarray
        float64, of the same shape: each value is within its error of that of the original data.
    """

    values: Matrix
    error: Matrix


def gram(arrays: "Sequence[CompressedArray]") -> CertifiedMatrix:
    """Return the inner products of every two of several arrays: the Gram matrix ``X @ X.T`` of snapshots.

    Parameters
    ----------
    arrays : sequence of CompressedArray
        At least one, of one shape and layout. If they have one kind of codec, block shape and transform (not the
        identity), and are on the CPU, nothing is decoded; others are decoded slab by slab.

    Returns
    -------
    CertifiedMatrix
        Symmetric, with the sums of products of all values, and their bounds.

    Raises
    ------
    ShapeError, LayoutError
        If shapes or layouts differ, or there is no array.

    Examples
    --------
    >>> import numpy as np, hpcblaz as hb
    >>> x = np.random.default_rng(0).normal(size=(5, 64, 64))
    >>> g = hb.gram([hb.compress(step, tolerance=1e-3) for step in x])
    >>> bool(np.all(abs(g.values - np.tensordot(x, x, ((1, 2), (1, 2)))) <= g.error))
    True
    """
    snapshots = _checked(arrays, "a Gram matrix")
    with np.errstate(over="ignore", invalid="ignore"):
        values, rounding = _products(snapshots)
        norms = np.sqrt(np.maximum(np.diag(values), 0)) + np.sqrt(np.diag(rounding))
        errors = _errors(snapshots) + _shift_rounding(snapshots)
        bound = np.outer(norms, errors) + np.outer(errors, norms) + np.outer(errors, errors) + rounding
    safe = np.array([squares_are_safe(a) for a in snapshots])
    return CertifiedMatrix(values, np.where(safe[:, None] & safe[None], bound * (1 + 2.0**-40), math.inf))


def pairwise_distances(arrays: "Sequence[CompressedArray]") -> CertifiedMatrix:
    """Return the 2-norm of the difference of every two of several arrays.

    Differences are taken of coefficients, so that those of nearly equal arrays are exact to as many digits as others.

    Parameters
    ----------
    arrays : sequence of CompressedArray
        As for :func:`gram`.

    Returns
    -------
    CertifiedMatrix
        With a diagonal of zeros, which are exact. Infinite where squares leave double precision.

    Raises
    ------
    ShapeError, LayoutError
        If shapes or layouts differ, or there is no array.

    Examples
    --------
    >>> import numpy as np, hpcblaz as hb
    >>> x = np.arange(4.0)[:, None] * np.ones(1000)
    >>> d = hb.pairwise_distances([hb.compress(step, tolerance=1e-3) for step in x])
    >>> bool(abs(d.values[0, 3] - 3 * 1000**0.5) <= d.error[0, 3])
    True
    """
    snapshots = _checked(arrays, "distances")
    first = snapshots[0]
    numerics = _joint(snapshots, scaled=True)
    if not all(map(squares_are_safe, snapshots)):
        unknown = np.full((len(snapshots), len(snapshots)), math.inf)
        np.fill_diagonal(unknown, 0.0)
        return CertifiedMatrix(unknown, unknown)
    local = np.zeros((len(snapshots), len(snapshots)))
    if first._numerics.grid.size:
        if _meet(snapshots):
            terms = [dense.Term(a._blocks, a._factor, a._offset) for a in snapshots]
            local = np.add(*dense.pair_sums(terms, numerics, differences=True))
        else:
            local = _stream(snapshots, lambda x, xp: xp.stack([((x - row) ** 2).sum(axis=1) for row in x]))
    squares = first._comm.allgather(local.ravel()).sum(axis=0).reshape(local.shape)
    values = np.sqrt(squares)
    unit = _relative(numerics, first.size)
    own = _errors(snapshots) + _shift_rounding(snapshots, 4 * UNIT_ROUNDOFF[numerics.precision])
    bound = (own[:, None] + own[None]) * (1 + 2.0**-40) + unit * values + math.sqrt(first.size) * 2.0**-70
    np.fill_diagonal(bound, 0.0)
    return CertifiedMatrix(values, bound)


class Decomposition(NamedTuple):
    """The proper orthogonal decomposition of snapshots; see :func:`pod`.

    Parameters
    ----------
    singular_values, error : numpy.ndarray
        float64, shape (modes,), descending; each is within its error of that of the original snapshots.
    coefficients : numpy.ndarray
        float64, shape (modes, snapshots): how much of each mode a snapshot has.
    weights : numpy.ndarray
        float64, shape (modes, snapshots): mode k is the sum of ``weights[k, i] * arrays[i]``.
    arrays : tuple of CompressedArray
        The snapshots.
    """

    singular_values: Matrix
    error: Matrix
    coefficients: Matrix
    weights: Matrix
    arrays: "tuple[CompressedArray, ...]"

    def mode(self, k: int) -> "CompressedArray":
        """Return mode k, a compressed field of norm 1; its certificate is that of the linear combination."""
        return linear_combination(self.weights[k], self.arrays)


def pod(arrays: "Sequence[CompressedArray]", modes: int, *, center: bool = True) -> Decomposition:
    """Return the leading modes of snapshots by proper orthogonal decomposition, also known as PCA.

    The method of snapshots: the Gram matrix is decomposed, and modes are linear combinations of snapshots [1]_.

    Parameters
    ----------
    arrays : sequence of CompressedArray
        As for :func:`gram`.
    modes : int
        How many, at most as many as snapshots. Those whose singular value rounding alone could explain have no
        direction, and weights of zero.
    center : bool, default True
        Subtract the mean of all snapshots from each.

    Returns
    -------
    Decomposition
        Its singular values have bounds; modes and coefficients are those of the compressed snapshots.

    Raises
    ------
    ShapeError, LayoutError
        If shapes or layouts differ, or there are fewer snapshots than modes.
    UnsupportedOperationError
        If squares of values leave double precision.

    References
    ----------
    .. [1] L. Sirovich, "Turbulence and the dynamics of coherent structures", Quarterly of Applied Mathematics 45, 1987.

    Examples
    --------
    >>> import numpy as np, hpcblaz as hb
    >>> t, s = np.linspace(0, 6, 20), np.linspace(0, 9, 400)
    >>> x = np.outer(np.sin(t), np.cos(s)) + 0.1 * np.outer(np.cos(3 * t), np.sin(2 * s))
    >>> p = hb.pod([hb.compress(step, tolerance=1e-4) for step in x], 2)
    >>> exact = np.linalg.svd(x - x.mean(axis=0), compute_uv=False)[:2]
    >>> bool(np.all(abs(p.singular_values - exact) <= p.error))
    True
    """
    snapshots = _checked(arrays, "modes")
    count = len(snapshots)
    with snapshots[0]._comm.together():
        if not 1 <= modes <= count:
            raise ShapeError(f"expected 1 to {count} modes of {count} snapshots, got {modes}")
    if not all(map(squares_are_safe, snapshots)):
        raise UnsupportedOperationError("expected arrays whose squares float64 holds, got others: scale them first")
    values, rounding = _products(snapshots)
    project = np.eye(count) - (1 / count if center else 0.0)
    eigenvalues, vectors = np.linalg.eigh(project @ values @ project)
    eigenvalues, vectors = np.maximum(eigenvalues[::-1][:modes], 0.0), vectors[:, ::-1][:, :modes]
    wrong = float(np.linalg.norm(rounding)) + 64 * count * UNIT * float(np.linalg.norm(values))
    singular = np.sqrt(eigenvalues)
    moved = np.sqrt(eigenvalues + wrong) - np.sqrt(np.maximum(eigenvalues - wrong, 0.0))
    weyl = float(np.linalg.norm(_errors(snapshots) + _shift_rounding(snapshots)))
    error = (weyl + moved) * (1 + 2.0**-40) + 4 * UNIT * singular
    known = eigenvalues > wrong
    weights = np.where(known[:, None], (project @ vectors).T / np.where(known, singular, 1.0)[:, None], 0.0)
    return Decomposition(singular, error, singular[:, None] * vectors.T, weights, tuple(snapshots))


def _checked(arrays: "Sequence[CompressedArray]", operation: str) -> "list[CompressedArray]":
    snapshots = list(arrays)
    if not snapshots:
        raise ShapeError(f"expected at least one array for {operation}, got none")
    check_array(snapshots[0], "arrays[0]")
    with snapshots[0]._comm.together():
        for number, a in enumerate(snapshots):
            check_array(a, f"arrays[{number}]")
            check_partners(snapshots[0], a)
        check_no_missing(operation, *snapshots)
    return snapshots


def _meet(snapshots: "list[CompressedArray]") -> bool:
    """Say whether coefficients can be used: they fit together, and are where the kernels are."""
    return snapshots[0]._blocks.device == "cpu" and all(can_meet(snapshots[0], a) for a in snapshots)


def _joint(snapshots: "list[CompressedArray]", scaled: bool) -> Numerics:
    """Return the numerics to multiply coefficients with: single precision if it holds their products."""
    first = snapshots[0]._numerics
    single = all(
        a._numerics.precision == "float32"
        and payload_bound(a) < _SINGLE
        and (not scaled or 0.125 <= abs(a._factor) <= 8)
        for a in snapshots
    )
    return Numerics(first.grid, first.transform, "float32" if single and _meet(snapshots) else "float64")


def _relative(numerics: Numerics, cells: int) -> float:
    """Return the relative rounding of a sum of products: within blocks, then in double precision over all of them."""
    return _TERMS * UNIT_ROUNDOFF[numerics.precision] + (2.0**16 + cells / 64) * UNIT


def _errors(snapshots: "list[CompressedArray]") -> Matrix:
    return np.array([a._field_error.l2 for a in snapshots])


def _shift_rounding(snapshots: "list[CompressedArray]", relative: float = 0.0) -> Matrix:
    """Return how far, in norm, rounding of values (offsets and factors are applied to) moves each array."""
    largest = np.array([a._magnitude + a._field_error.max_abs + abs(a._offset) for a in snapshots])
    return math.sqrt(snapshots[0].size) * (16 * UNIT + relative) * largest


def _products(snapshots: "list[CompressedArray]") -> tuple[Matrix, Matrix]:
    """Return the inner products of the compressed arrays, and how far rounding can have moved each."""
    first, count = snapshots[0], len(snapshots)
    n, factors = first._numerics.grid.size, np.array([a._factor for a in snapshots])
    numerics = _joint(snapshots, scaled=False)
    means, centred, rest = np.zeros(count), np.zeros((count, count)), np.zeros((count, count))
    if n and _meet(snapshots):
        centers = [drivers_of(a._blocks).total(a._blocks, a._numerics) / n for a in snapshots]
        terms = [dense.Term(a._blocks, 1.0, -center) for a, center in zip(snapshots, centers, strict=True)]
        scale = np.outer(factors, factors)
        centred, rest = (scale * part for part in dense.pair_sums(terms, numerics, differences=False))
        means = factors * centers + np.array([a._offset for a in snapshots])
    elif n:
        means = _stream(snapshots, lambda x, xp: x.sum(axis=1)) / n
        centred = _stream(snapshots, lambda x, xp: x @ x.T, means)
    rows = first._comm.allgather(np.concatenate([[n], means, centred.ravel(), rest.ravel()]))
    cells, means = rows[:, 0], rows[:, 1 : 1 + count]
    centred, rest = rows[:, 1 + count :].sum(axis=0).reshape(2, count, count)
    middle = cells @ means / max(1.0, float(cells.sum()))
    spread = means - middle
    centred = centred + (cells[:, None] * spread).T @ spread
    values = centred + rest + float(cells.sum()) * np.outer(middle, middle)
    double = Numerics(first._numerics.grid, first._numerics.transform, "float64")
    lengths, parts = np.sqrt(np.maximum(np.diag(values), 0.0)), np.sqrt(np.diag(rest))
    rounding = _relative(numerics, first.size) * np.outer(parts, parts)
    rounding += 2 * _relative(double, first.size) * np.outer(lengths, lengths)
    underflow = first.size * 2.0**-140 * np.abs(np.outer(factors, factors))
    return (values + values.T) / 2, rounding * (1 + 2.0**-16) + underflow


def _stream(
    snapshots: "list[CompressedArray]", kernel: Callable[[Any, Any], Any], shift: Matrix | None = None
) -> Matrix:
    """Return the sum over slabs of what `kernel` makes of decoded values, shape (arrays, cells), less a shift.

    It is handed the array module, too.
    """
    drivers = drivers_of(snapshots[0]._blocks)
    xp = drivers.array_module()
    total: Any = 0.0
    for low, high in slabs(*snapshots):
        values = xp.stack([decode_window(a, low, high).ravel() for a in snapshots])
        if shift is not None:
            values -= xp.asarray(shift)[:, None]
        total = total + kernel(values, xp)
    summed: Matrix = drivers.asnumpy(total)
    return summed
