"""Every exception a user of hpcblaz can meet.

All of them derive from `HpcblazError`, and each also derives from the built-in a reader would expect, so that
``except ValueError`` keeps working. They carry one message and survive pickling: they travel between ranks.
This module imports nothing of the package.
"""

from __future__ import annotations

__all__ = [
    "CodecError",
    "CommunicatorError",
    "ConfigurationError",
    "DeviceError",
    "DtypeError",
    "FileFormatError",
    "HpcblazError",
    "LayoutError",
    "MissingDependencyError",
    "ModelError",
    "NetworkError",
    "PeerError",
    "ResourceError",
    "ShapeError",
    "StoppedError",
    "StorageError",
    "ToleranceError",
    "UnsupportedOperationError",
]


class HpcblazError(Exception):
    """Any error that hpcblaz itself raises.

    Examples
    --------
    >>> try:
    ...     raise ShapeError("expected 2 axes, got 3")
    ... except HpcblazError as error:
    ...     print(error)
    expected 2 axes, got 3
    """


class ShapeError(HpcblazError, ValueError):
    """An array has another shape, or another number of axes, than the operation needs."""


class DtypeError(HpcblazError, TypeError):
    """An array has a data type that is not supported here, or two arrays do not have the same one."""


class ToleranceError(HpcblazError, ValueError):
    """An error tolerance is not positive, not finite, or too small for the data's own precision."""


class CodecError(HpcblazError, ValueError):
    """Codec options contradict each other, or operands were compressed on different grids or by different codecs."""


class FileFormatError(HpcblazError, ValueError):
    """A file or buffer is truncated, damaged, or was not written by hpcblaz."""


class StorageError(HpcblazError, OSError):
    """Reading or writing storage failed: a full disk, a missing file, no permission."""


class StoppedError(HpcblazError, RuntimeError):
    """Work was asked to stop, and did; what is done of it is kept, and the same call continues there."""


class LayoutError(HpcblazError, ValueError):
    """An array cannot be split over the ranks as asked, or two layouts do not match."""


class CommunicatorError(HpcblazError, RuntimeError):
    """MPI is missing, was started wrongly, or an object is not a communicator hpcblaz can use."""


class PeerError(HpcblazError, RuntimeError):
    """Another rank failed with an error that is not one of hpcblaz's own; the text names the rank and its error."""


class ConfigurationError(HpcblazError, ValueError):
    """An environment variable or a setting of hpcblaz has a value that makes no sense."""


class ModelError(HpcblazError, ValueError):
    """A graphical model, evidence or an assignment makes no sense: sizes do not match, or a state is not there."""


class NetworkError(HpcblazError, ValueError):
    """A network cannot be what it is asked to be: operators are not supported, or numbers or names make no sense."""


class ResourceError(HpcblazError, RuntimeError):
    """An exact answer needs more memory or work than the limit allows; the text says how much."""


class DeviceError(HpcblazError, RuntimeError):
    """A GPU that is asked for cannot be used: there is none, or it does not do what is needed."""


class MissingDependencyError(HpcblazError, ImportError):
    """An optional package is needed for what was asked, and is not installed."""

    @classmethod
    def needs(cls, feature: str, package: str, extra: str) -> MissingDependencyError:
        """Word the error for a feature that needs an optional package.

        Parameters
        ----------
        feature : str
            What the user asked for, as the subject of a sentence.
        package : str
            The importable package that is missing.
        extra : str
            The extra of hpcblaz that installs it.

        Returns
        -------
        MissingDependencyError
            To be raised by the caller, best ``from`` the `ImportError`.

        Examples
        --------
        >>> print(MissingDependencyError.needs("reading NetCDF", "netCDF4", "io"))
        reading NetCDF needs netCDF4: pip install 'hpcblaz[io]'
        """
        return cls(f"{feature} needs {package}: pip install 'hpcblaz[{extra}]'", name=package)


class UnsupportedOperationError(HpcblazError, TypeError):
    """The operation is not defined for compressed operands like these."""
