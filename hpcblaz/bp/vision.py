"""Images as graphical models: a label of each pixel, and neighbours that like to be alike."""

import math
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hpcblaz.bp.builders import grid_edges
from hpcblaz.bp.checks import positive
from hpcblaz.bp.models import PairwiseModel
from hpcblaz.bp.ragged import Floats
from hpcblaz.errors import ModelError

__all__ = ["denoise", "stereo"]


def denoise(
    image: ArrayLike,
    states: int = 2,
    noise: float = 0.5,
    coupling: float = 1.0,
    smoothness: Literal["potts", "linear"] = "potts",
) -> PairwiseModel:
    """Return the model of a clean image, given a noisy one.

    Levels are spaced evenly from the least to the greatest value of the image; level k is state k. A pixel has the
    weight exp(-(value - level)^2 / (2 noise^2)), or no preference where its value is NaN.

    Parameters
    ----------
    image : array_like, shape (rows, columns)
    states : int
        Number of levels, at least 2.
    noise : float
        Standard deviation of the noise, as a fraction of the range of values.
    coupling : float
        How much neighbours like to be alike.
    smoothness : {'potts', 'linear'}
        The logarithm of a table is `coupling` for equal levels and 0 for others, or minus `coupling` times how many
        levels they are apart.

    Returns
    -------
    PairwiseModel
        One table, shared by all edges; variables are pixels row by row.

    Raises
    ------
    ModelError
        If the image has another number of axes or infinite values, or an option makes no sense.

    Examples
    --------
    >>> model = denoise([[0.0, 0.1], [0.9, 1.0]])
    >>> [model.log_unary(pixel).argmax().item() for pixel in range(4)]
    [0, 0, 1, 1]
    """
    pixels = _image("the image", image, 2)
    if positive("states", states) < 2 or not 0 < noise < math.inf or not math.isfinite(coupling):
        raise ModelError(
            f"expected 2 states or more, positive noise and a finite coupling, got {states}, {noise} and {coupling}"
        )
    known = pixels[~np.isnan(pixels)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    levels = np.linspace(0, 1, states)
    scaled = (pixels.ravel() - low) / (high - low if high > low else 1.0)
    unaries = np.nan_to_num(-((scaled[:, None] - levels) ** 2) / (2 * noise**2), nan=0.0)
    apart = np.abs(np.subtract.outer(np.arange(states), np.arange(states)))
    if smoothness == "potts":
        table = np.where(apart == 0, coupling, 0.0)
    elif smoothness == "linear":
        table = -coupling * apart
    else:
        raise ModelError(f"expected the smoothness 'potts' or 'linear', got {smoothness!r}")
    return _grid(pixels.shape, unaries, table)


def stereo(
    left: ArrayLike,
    right: ArrayLike,
    disparities: int,
    data_weight: float = 10.0,
    data_limit: float = 0.2,
    smoothness: float = 1.0,
    limit: float = 2.0,
) -> PairwiseModel:
    """Return the model of how far each pixel of the left image is moved in the right one.

    State d of pixel (y, x) means that it shows what pixel (y, x - d) of the right image shows. Its weight is the
    exponential of ``-data_weight * min(difference, data_limit)``, where the difference is the mean over channels of
    absolute differences; beyond the edge of the image it is `data_limit`. An edge has the exponential of
    ``-smoothness * min(difference of states, limit)``.

    Parameters
    ----------
    left, right : array_like, shape (rows, columns) or (rows, columns, channels)
        Rectified images, with values from 0 to 1 for these defaults.
    disparities : int
        Number of states.
    data_weight, data_limit, smoothness, limit : float
        0 or greater.

    Returns
    -------
    PairwiseModel
        One table, shared by all edges; variables are pixels row by row.

    Raises
    ------
    ModelError
        If the images do not match, have values that are no numbers, or an option makes no sense.

    Examples
    --------
    >>> left = np.random.default_rng(0).random((4, 9))
    >>> model = stereo(left, np.roll(left, -2, axis=1), disparities=4)
    >>> model.log_unary(5).argmax().item(), model.tables
    (2, 1)
    """
    one, other = _image("the left image", left, 3), _image("the right image", right, 3)
    if one.shape != other.shape or np.isnan(one).any() or np.isnan(other).any():
        raise ModelError(f"expected two images of one shape without NaN, got the shapes {one.shape} and {other.shape}")
    options = (data_weight, data_limit, smoothness, limit)
    if not all(0 <= option < math.inf for option in options):
        raise ModelError(f"expected options that are 0 or greater, got {options}")
    positive("disparities", disparities)
    rows, columns = one.shape[:2]
    costs = np.full((rows, columns, disparities), float(data_limit))
    for d in range(min(disparities, columns)):
        difference = np.abs(one[:, d:] - other[:, : columns - d]).mean(axis=2)
        costs[:, d:, d] = np.minimum(difference, data_limit)
    steps = np.arange(disparities)
    apart = np.minimum(np.abs(np.subtract.outer(steps, steps)), limit)
    return _grid((rows, columns), -data_weight * costs.reshape(-1, disparities), -smoothness * apart)


def _grid(shape: tuple[int, ...], log_unaries: Floats, log_table: NDArray[Any]) -> PairwiseModel:
    """Return a grid whose edges share a table."""
    edges = grid_edges(shape[0], shape[1])
    return PairwiseModel.from_tables(log_unaries, edges, log_table[None], np.zeros(len(edges), np.int64), log=True)


def _image(name: str, values: ArrayLike, axes: int) -> Floats:
    """Return an image as float64; with three axes if so many are wanted."""
    image = np.asarray(values)
    if image.dtype.kind not in "biuf" or image.ndim not in (2, axes) or image.size == 0:
        raise ModelError(f"expected {name} to be numbers in {axes} axes or 2, got {image.dtype}, shape {image.shape}")
    image = image.astype(np.float64)
    if np.isinf(image).any():
        raise ModelError(f"expected {name} to have finite values, got infinite ones")
    return image[:, :, None] if image.ndim < axes else image
