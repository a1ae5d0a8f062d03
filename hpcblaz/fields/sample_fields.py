"""Fields to try compression on: real ones, where their packages are installed, and two that need nothing.

No package is imported to get at its data: the sample files are looked up where packages are installed.
"""

import importlib
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from hpcblaz.errors import MissingDependencyError

SMALL = 48  # a side of a field that was cut for a quick look

Values = NDArray[np.float32]


class SampleField(NamedTuple):
    """A field of float32 and its name."""

    name: str
    values: Values


def air_temperature() -> Values:
    """Return the air temperature of the A1B scenario over North America, in kelvin.

    Returns
    -------
    numpy.ndarray
        float32, shape (240, 37, 49): years, latitudes, longitudes.

    Raises
    ------
    MissingDependencyError
        If iris-sample-data or netCDF4 is not installed.
    """
    return _netcdf("A1B_north_america.nc", "air_temperature")


def surface_temperature() -> Values:
    """Return the monthly surface temperature of the sea (OSTIA), in kelvin, 0 on land.

    Returns
    -------
    numpy.ndarray
        float32, shape (54, 18, 432): months, latitudes, longitudes.

    Raises
    ------
    MissingDependencyError
        If iris-sample-data or netCDF4 is not installed.
    """
    return _netcdf("ostia_monthly.nc", "surface_temperature")


def brain() -> Values:
    """Return the T1-weighted magnetic resonance image of the MNI ICBM152 template.

    Returns
    -------
    numpy.ndarray
        float32, shape (197, 233, 189).

    Raises
    ------
    MissingDependencyError
        If nilearn or nibabel is not installed.
    """
    path = _data_folder("nilearn") / "datasets" / "data" / "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
    image = _module("nibabel").load(str(path))
    return np.ascontiguousarray(image.dataobj, np.float32)


def sines(n: int, seed: int = 0, phase: float = 0.0) -> Values:
    """Return a smooth field with a little noise: products of sines, and N(0, 1e-3).

    Parameters
    ----------
    n : int
        Cells along each of the three axes.
    seed : int, default 0
        Of the noise.
    phase : float, default 0
        Shift of the sines along the first axis, in radians.

    Returns
    -------
    numpy.ndarray
        float32, shape (n, n, n).
    """
    angle = np.linspace(0, 2 * np.pi, n, endpoint=False, dtype=np.float32)
    x, y, z = np.meshgrid(angle + np.float32(phase), angle, angle, indexing="ij", sparse=True)
    values = np.sin(x) * np.cos(2 * y) * np.sin(3 * z) + np.float32(0.3) * np.sin(7 * x + 5 * y)
    noise = np.random.default_rng(seed).standard_normal((n, n, n), np.float32)
    return np.asarray(values + np.float32(1e-3) * noise, np.float32)


def turbulence(n: int, seed: int = 0) -> Values:
    """Return a random field with the spectrum k**(-5/3) of turbulence, cut off smoothly at k = 5 n / 16.

    Parameters
    ----------
    n : int
        Cells along each of the three axes.
    seed : int, default 0
        Of the random amplitudes.

    Returns
    -------
    numpy.ndarray
        float32, shape (n, n, n), of variance 1.
    """
    rng = np.random.default_rng(seed)
    k = np.fft.fftfreq(n) * n
    grids = np.meshgrid(k, k, k[: n // 2 + 1], indexing="ij", sparse=True)
    length = np.sqrt(sum(axis**2 for axis in grids))
    length[0, 0, 0] = 1
    envelope = length ** (-11 / 6) * np.exp(-((length / (5 * n / 16)) ** 2))
    amplitude = rng.normal(size=length.shape) + 1j * rng.normal(size=length.shape)
    values = np.fft.irfftn(envelope * amplitude, s=(n, n, n), axes=(0, 1, 2))
    return np.asarray(values / values.std(), np.float32)


def sample_fields(quick: bool = False, absent: list[str] | None = None) -> Iterator[SampleField]:
    """Yield all fields that are there, one after the other.

    Parameters
    ----------
    quick : bool, default False
        Smaller fields: real ones are cut to the middle, computed ones have fewer cells.
    absent : list of str, optional
        What is not installed is appended to it, in words.

    Yields
    ------
    SampleField
    """
    sources: list[tuple[str, Callable[[], Values]]] = [
        ("A1B air temperature", air_temperature),
        ("OSTIA surface temperature", surface_temperature),
        ("MNI T1", brain),
        (f"sines {64 if quick else 256}^3", lambda: sines(64 if quick else 256)),
        (f"k^-5/3 {64 if quick else 128}^3", lambda: turbulence(64 if quick else 128)),
    ]
    for name, source in sources:
        try:
            values = source()
        except MissingDependencyError as error:
            if absent is not None:
                absent.append(f"{name}: {error}")
            continue
        if quick:
            starts = [max(0, (side - SMALL) // 2) for side in values.shape]
            values = np.ascontiguousarray(values[tuple(slice(start, start + SMALL) for start in starts)])
        yield SampleField(name, values)


def _netcdf(file: str, variable: str) -> Values:
    path = _data_folder("iris_sample_data") / "sample_data" / file
    with _module("netCDF4").Dataset(str(path)) as dataset:
        return np.ascontiguousarray(np.ma.filled(dataset[variable][:], 0), np.float32)


def _data_folder(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise MissingDependencyError.needs("this sample field", package, "bench")
    return Path(spec.origin).parent


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise MissingDependencyError.needs("this sample field", name, "bench") from error
