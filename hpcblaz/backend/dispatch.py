"""Which drivers handle what: those of the CPU, or those of the GPU, which have the same functions."""

from typing import Any

from hpcblaz.backend import cpu, gpu
from hpcblaz.backend.payload import Blocks
from hpcblaz.errors import ConfigurationError

DEVICES = ("cpu", "gpu")


def drivers(device: str) -> Any:
    """Return the drivers of a device, 'cpu' or 'gpu'."""
    return cpu if device == "cpu" else gpu


def drivers_of(blocks: Blocks) -> Any:
    """Return the drivers of the device that a payload is on."""
    return drivers(blocks.device)


def choose_device(device: str | None, x: Any = None) -> str:
    """Return where an array is to be handled: where the caller wants it, or where it is.

    Parameters
    ----------
    device : {'cpu', 'gpu'} or None
        What the caller asked for.
    x : array_like, optional
        The array.

    Returns
    -------
    {'cpu', 'gpu'}

    Raises
    ------
    ConfigurationError
        If `device` is anything else.
    MissingDependencyError, DeviceError
        If it is a GPU that cannot be used: at once, and not in the middle of the work.
    """
    if device is not None and device not in DEVICES:
        raise ConfigurationError(f"expected device to be one of {DEVICES} or None, got {device!r}")
    chosen = device or ("gpu" if gpu.is_device_array(x) else "cpu")
    if chosen == "gpu":
        gpu.array_module()
    return chosen
