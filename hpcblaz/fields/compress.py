"""From an array to a compressed array."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from hpcblaz.backend import gpu
from hpcblaz.backend.dispatch import choose_device
from hpcblaz.backend.payload import Progress
from hpcblaz.errors import (
    ConfigurationError,
    HpcblazError,
    LayoutError,
)
from hpcblaz.fields.array import CompressedArray
from hpcblaz.fields.codec import (
    Codec,
)
from hpcblaz.fields.compressing import compress_input
from hpcblaz.fields.inputs import Input, Sliceable, StreamedInput, is_lazy
from hpcblaz.fields.target import Target
from hpcblaz.mpi import Communicator, Layout, communicator, device_number


def compress(
    x: ArrayLike | Sliceable,
    *,
    tolerance: float | None = None,
    relative: float | None = None,
    psnr: float | None = None,
    rate: float | None = None,
    codec: Codec | None = None,
    fill_value: float | None = None,
    layout: Layout | None = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> CompressedArray:
    """Compress an array.

    With one of `tolerance`, `relative`, `psnr` and `rate` the error is measured and guaranteed; with a
    :class:`BlockCodec`, which takes none of them, it is measured.

    NaN, infinities, cells that hold `fill_value` and masked cells are missing: they come back as they were, bounds
    are those of the others, and statistics skip them.

    Parameters
    ----------
    x : array_like
        1 to 4 axes, any strides and byte order; float16, float32 or float64, or integers that a float64 holds exactly.
        An array on a GPU (of CuPy, or of any library with DLPack or ``__cuda_array_interface__``) stays there.
        Variables of files (anything else with ``shape``, ``dtype`` and slices) are read slab by slab.
        Masked cells of a masked array become `fill_value` if it is given, else NaN, and its own fill value if it holds
        integers. With a layout: this rank's part of the field.
    tolerance : float, optional
        ``abs(x - a) <= tolerance`` holds for every value.
    relative : float, optional
        The same, as a fraction of the range ``x.max() - x.min()`` of the whole field, missing cells left out.
    psnr : float, optional
        Least peak signal-to-noise ratio, ``20 log10(range / rmse)``, in decibel.
    rate : float, optional
        Most bits a value, headers included; the smallest tolerance that keeps to it (within 2 %) is used.
    codec : ToleranceCodec or BlockCodec, optional
        Default: ``ToleranceCodec()``.
    fill_value : int or float, optional
        The number that stands for a missing one, such as -9999.
    layout : Layout, optional
        How the field is split over ranks. A collective call: every rank passes its part, and errors are raised on every
        rank or on none.
    device : {'cpu', 'gpu'}, optional
        Where to compress, and where the compressed array lives. Default: where `x` is. On several ranks of a node
        with several cards, arrays in host memory go to the card of the rank.
    progress : callable, optional
        Called now and then with the tiles done and the tiles of this rank.

    Returns
    -------
    CompressedArray

    Raises
    ------
    ToleranceError
        If the tolerance is not positive, or smaller than 32-bit indices can hold (the message names the smallest).
    DtypeError, ShapeError, CodecError, LayoutError, ConfigurationError
        If an argument is not as described above.
    DeviceError, MissingDependencyError
        If a GPU is asked for and there is none, or what drives it is not installed.

    Examples
    --------
    >>> import numpy as np, hpcblaz as hb
    >>> x = np.sin(np.linspace(0, 20, 100_000)).astype(np.float32)
    >>> a = hb.compress(x, tolerance=1e-3)
    >>> bool(np.abs(x - a.decompress()).max() <= 1e-3), a.ratio > 4
    (True, True)
    """
    comm = communicator(layout.comm if layout is not None else None)
    with comm.together():
        if layout is not None and (layout.size, layout.rank) != (comm.size, comm.rank):
            raise LayoutError(
                f"expected a layout of the communicator's rank {comm.rank} of {comm.size}, got rank {layout.rank} of "
                f"{layout.size}: pass the communicator to Layout"
            )
        target = Target.of(tolerance, relative, psnr, rate, codec)
        where = choose_device(device, x)
    if layout is not None:
        _settle(where, x, comm)
    with comm.together():
        kind = StreamedInput if is_lazy(x) else Input
        source = kind.of(x, target.codec, layout, where, fill_value)
    return compress_input(source, target, comm, progress, CompressedArray)


def _settle(where: str, x: Any, comm: Communicator) -> None:
    """Have all ranks use one kind of device, and each the card that is its own."""
    on_gpu = comm.allgather(np.array([where == "gpu"]))[:, 0]
    error: HpcblazError | None = None
    if on_gpu.any() and not on_gpu.all():
        error = ConfigurationError("expected all ranks to compress on one kind of device, got 'cpu' and 'gpu'")
    comm.agree(error)
    if on_gpu.any():
        number = device_number(comm, gpu.device_count())
        if not gpu.is_device_array(x):
            gpu.use_device(number)
