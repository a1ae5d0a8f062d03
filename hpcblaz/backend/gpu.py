"""Drivers of the kernels on a GPU: the functions of :mod:`hpcblaz.backend.cpu`, on arrays of CuPy.

Kernels are queued on CuPy's current stream, memory comes from CuPy's pool, and nothing is waited for but where a number
or a size is needed on the host. A block that fits registers is handled by the thread of its own; larger blocks,
and the partial ones at the upper faces of a field, work in a scratch array.

With ``NUMBA_ENABLE_CUDASIM=1`` the kernels run in Numba's simulator, on arrays of NumPy.
"""

import importlib
import math
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cache, lru_cache
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcblaz.backend.compile import fits_registers
from hpcblaz.backend.gpu_launch import SIMULATED, launch
from hpcblaz.backend.gpu_memory import Scratch, Tables, columns_bytes, runs
from hpcblaz.backend.payload import SPARE_WORDS, Blocks, FixedBlocks, Numerics, PackedBlocks, Progress
from hpcblaz.bodies.records import TILE
from hpcblaz.errors import DeviceError, MissingDependencyError

_WAVES = 32  # threads of a reduction, in tiles, for each multiprocessor


@cache
def array_module() -> ModuleType:
    """Return CuPy, with a card that can be used; NumPy in the simulator.

    Raises
    ------
    MissingDependencyError
        If CuPy is not installed.
    DeviceError
        If there is no card.
    """
    if SIMULATED:
        return np
    try:
        cupy = importlib.import_module("cupy")
    except ImportError:
        raise MissingDependencyError.needs("a GPU", "cupy", "cuda13") from None
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise DeviceError(
            f"expected a CUDA device and its driver, got none: {error}. Leave device= out to use the CPU"
        ) from None
    if count == 0:
        raise DeviceError("expected a CUDA device, got none: leave device= out to use the CPU")
    return cupy


def device_count() -> int:
    """Return how many cards this process can see."""
    return 1 if SIMULATED else int(array_module().cuda.runtime.getDeviceCount())


def use_device(number: int) -> None:
    """Make a card the current one of this thread."""
    if not SIMULATED:
        array_module().cuda.Device(number).use()


def is_device_array(x: Any) -> bool:
    """Say whether an array lives on a CUDA device: CuPy's, or one of another library that says so."""
    if hasattr(x, "__cuda_array_interface__"):
        return True
    try:
        kind = int(x.__dlpack_device__()[0])
    except (AttributeError, TypeError, ValueError, IndexError):
        return False
    return kind in (2, 13)  # CUDA, and its managed memory


def asarray(x: Any) -> Any:
    """Return an array of the host or of a card as an array of the current card, without a copy where it is one."""
    xp = array_module()
    if not SIMULATED and not hasattr(x, "__cuda_array_interface__") and is_device_array(x):
        return xp.from_dlpack(x)
    return xp.asarray(x)


def asnumpy(x: Any) -> NDArray[Any]:
    """Return an array in host memory."""
    return np.asarray(x) if SIMULATED or isinstance(x, np.ndarray) else np.asarray(array_module().asnumpy(x))


def stage(x: Any) -> NDArray[Any]:
    """Return an array in host memory from which MPI can send: page-locked, which a card writes to the fastest."""
    if SIMULATED or isinstance(x, np.ndarray) or not x.size:
        return asnumpy(x)
    pinned = importlib.import_module("cupyx").empty_pinned(x.shape, x.dtype)
    return np.asarray(array_module().asnumpy(x, out=pinned))


def staging(count: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return room in host memory for MPI to send from and receive into: page-locked, as of `stage`."""
    if SIMULATED or not count:
        return np.empty(count, dtype)
    return np.asarray(importlib.import_module("cupyx").empty_pinned(count, dtype))


def fetch(x: Any, out: NDArray[Any]) -> None:
    """Copy an array of a card to the host, and wait until it is there."""
    if SIMULATED:
        out[...] = x
    elif x.size:
        x.get(out=out)


def put(x: NDArray[Any], out: Any) -> None:
    """Copy an array of the host to a card, in the order of the current stream; it stays as it is until then."""
    if SIMULATED:
        out[...] = x
    elif x.size:
        out.set(x)


def wait() -> None:
    """Wait for all that is queued on the current stream."""
    if not SIMULATED:
        array_module().cuda.get_current_stream().synchronize()


def zeros(count: int, dtype: np.dtype[Any]) -> Any:
    """Return an array of zeros."""
    return array_module().zeros(count, dtype)


def to_device(blocks: Blocks) -> Blocks:
    """Return a payload with its arrays on the current card."""
    return blocks if blocks.device == "gpu" else _moved(blocks, asarray, "gpu")


def to_host(blocks: Blocks) -> Blocks:
    """Return a payload with its arrays in host memory."""
    return blocks if blocks.device == "cpu" else _moved(blocks, asnumpy, "cpu")


def _moved(blocks: Blocks, move: Callable[[Any], Any], device: str) -> Blocks:
    names = ("words", "offsets") if isinstance(blocks, PackedBlocks) else ("indices", "scales", "starts", "kept")
    return replace(blocks, device=device, **{name: move(getattr(blocks, name)) for name in names})


def device_of(blocks: Blocks) -> str:
    """Return the name of the device that a payload is on."""
    if SIMULATED or blocks.device == "cpu":
        return blocks.device
    return f"gpu:{_main(blocks).device.id}"


def describe(number: int) -> str:
    """Return the number, name, compute capability and memory of a card."""
    if SIMULATED:
        return f"{number}: simulator"
    properties = array_module().cuda.runtime.getDeviceProperties(number)
    capability = f"{properties['major']}.{properties['minor']}"
    memory = properties["totalGlobalMem"] / 2**30
    return f"{number}: {properties['name'].decode()}, compute capability {capability}, {memory:.0f} GiB"


# Launching


def _main(blocks: Blocks) -> Any:
    return blocks.words if isinstance(blocks, PackedBlocks) else blocks.indices


def _on(array: Any) -> AbstractContextManager[Any]:
    """Return a context in which the card of an array is the current one."""
    return nullcontext() if SIMULATED else array.device


def _launch(
    numerics: Numerics,
    form: str,
    in_registers: bool,
    template: str,
    name: str,
    arguments: tuple[Any, ...],
    tiles: int,
    shared: int = 0,
) -> None:
    """Queue a kernel, a tile of 128 threads for each of `tiles`, on the current stream."""
    kernel = getattr(numerics.cuda_kernel(template, form, in_registers), name)
    launch(array_module(), kernel, arguments, tiles, shared)


@lru_cache(maxsize=8)
def _tables_of(numerics: Numerics, device: int) -> Tables:
    tables = Tables(numerics, array_module())
    if not SIMULATED:
        array_module().cuda.get_current_stream().synchronize()  # other streams will read them, too
    return tables


def _tables(numerics: Numerics) -> Tables:
    return _tables_of(numerics, 0 if SIMULATED else array_module().cuda.Device().id)


def _source(blocks: Blocks) -> tuple[Any, Any, Any, Any]:
    """Return what kernels take for a payload: main, side, and the exponents (or units) of steps and of the first."""
    if isinstance(blocks, PackedBlocks):
        return blocks.words, blocks.offsets, np.int64(blocks.exponent), np.int64(blocks.mean_exponent)
    unit = np.float64(1.0 / blocks.limit)
    return blocks.indices, (blocks.scales, blocks.starts, blocks.kept), unit, unit


def _norm(stats: Any) -> float:
    """Return the sum of the norms of the errors and of the allowances of all tiles."""
    return math.sqrt(float(stats[:, 1].sum())) + math.sqrt(float(stats[:, 2].sum()))


# The drivers, as those of hpcblaz.backend.cpu


def encode(
    x: Any,
    numerics: Numerics,
    tolerance: float,
    allowance: float,
    exponent: int,
    mean_level: int,
    progress: Progress | None = None,
) -> tuple[PackedBlocks, float, float] | None:
    """Compress a field; see :func:`hpcblaz.backend.cpu.encode`.

    Sizes are found before anything is written: beside the result, only a few bytes a block are allocated.
    """
    with _on(x):
        xp, real = array_module(), numerics.dtype.type
        tables = _tables(numerics)
        count = tables.count
        flat = x.reshape(-1)
        controls = xp.zeros(max(1, count * TILE), np.int16)
        masks = xp.zeros(max(1, count), np.int32)
        sizes = xp.zeros(count, np.int64)
        stats = xp.zeros((count, 3))
        columns = max(numerics.dtype.itemsize, 4)
        for in_registers, first, stop in runs(numerics, tables.full, count):
            scratch = Scratch(numerics, in_registers, stop - first, array_module())
            arguments = (
                flat, tables.shape, tables.regions, tables.tiles, np.int64(first), np.int64(stop), tables.matrices,
                real(tolerance), real(allowance), np.int64(exponent), np.int64(mean_level), controls, masks, sizes,
                stats.reshape(-1), scratch.reals, scratch.integers, scratch.table,
            )  # fmt: skip
            shared = columns_bytes(numerics, in_registers, columns)
            _launch(numerics, "packed", in_registers, "encode", "measure", arguments, scratch.tiles, shared)
        if count and int(masks.min()) < 0:
            return None
        offsets, words = _place(sizes)
        for in_registers, first, stop in runs(numerics, tables.full, count):
            scratch = Scratch(numerics, in_registers, stop - first, array_module())
            what = (
                flat, tables.shape, tables.regions, tables.tiles, np.int64(first), np.int64(stop), tables.matrices,
                np.int64(exponent), np.int64(mean_level), controls, masks, offsets, words, scratch.reals,
                scratch.integers, scratch.table, scratch.headers,
            )  # fmt: skip
            shared = columns_bytes(numerics, in_registers, columns)
            _launch(numerics, "packed", in_registers, "encode", "write", what, scratch.tiles, shared)
        if progress is not None:
            progress(count, count)
        blocks = PackedBlocks(words, offsets, exponent, exponent + mean_level, "gpu")
        return blocks, float(stats[:, 0].max()) if count else 0.0, _norm(stats)


def _place(sizes: Any) -> tuple[Any, Any]:
    """Return where records of some sizes begin, and an array for them with spare words at its end."""
    xp = array_module()
    offsets = xp.zeros(len(sizes) + 1, np.int64)
    if len(sizes):
        offsets[1:] = xp.cumsum(sizes)
    used = int(offsets[-1])
    words = xp.empty(used + SPARE_WORDS, np.uint32)
    words[used:] = 0
    return offsets, words


def encode_fixed(x: Any, numerics: Numerics, blocks: FixedBlocks, allowance: float) -> tuple[FixedBlocks, float, float]:
    """Compress a field into the arrays of `blocks`; see :func:`hpcblaz.backend.cpu.encode_fixed`."""
    with _on(x):
        xp = array_module()
        tables = _tables(numerics)
        stats = xp.zeros((tables.count, 3))
        flat = x.reshape(-1)
        for in_registers, first, stop in runs(numerics, tables.full, tables.count):
            scratch = Scratch(numerics, in_registers, stop - first, array_module())
            arguments = (
                flat, tables.shape, tables.regions, tables.tiles, np.int64(first), np.int64(stop), tables.matrices,
                np.float64(blocks.limit), np.float64(allowance), blocks.indices, blocks.scales,
                blocks.starts, blocks.kept, stats.reshape(-1), scratch.reals,
            )  # fmt: skip
            shared = columns_bytes(numerics, in_registers, numerics.dtype.itemsize)
            _launch(numerics, "fixed", in_registers, "fixed", "encode_fixed", arguments, scratch.tiles, shared)
        return blocks, float(stats[:, 0].max()) if tables.count else 0.0, _norm(stats)


def decode(
    blocks: Blocks,
    numerics: Numerics,
    factor: float,
    offset: float,
    low: tuple[int, ...] | None = None,
    high: tuple[int, ...] | None = None,
    out: Any = None,
) -> Any:
    """Decode ``factor * field + offset`` between two cells; see :func:`hpcblaz.backend.cpu.decode`."""
    with _on(_main(blocks)):
        xp, real, grid = array_module(), numerics.dtype.type, numerics.grid
        tables = _tables(numerics)
        pad = (0,) * (4 - grid.ndim)
        begin = np.array(pad + (low or (0,) * grid.ndim), np.int64)
        end = np.array((1,) * len(pad) + (high or grid.shape), np.int64)
        shape = tuple(int(n) for n in (end - begin)[len(pad) :])
        out = xp.empty(shape, numerics.dtype) if out is None else out
        if not out.size:
            return out
        whole = bool((begin == 0).all() and (end == grid.shape4).all())
        tiles = np.arange(tables.count) if whole else grid.tiles_touching(begin, end)
        full = int(np.searchsorted(tiles, tables.full))
        chosen, window = xp.asarray(tiles), [xp.asarray(n) for n in (begin, end, end - begin)]
        main, side, *exponents = _source(blocks)
        for in_registers, first, stop in runs(numerics, full, len(tiles)):
            scratch = Scratch(numerics, in_registers, stop - first, array_module())
            what = (tables.matrices, *exponents, real(factor), real(offset), out.reshape(-1))
            span = (np.int64(first), np.int64(stop))
            if whole and in_registers:
                name = "decode"
                arguments = (main, side, tables.regions, tables.tiles, *span, *what, tables.shape)
            else:
                name = "decode_window"
                memory = (scratch.reals, scratch.integers, scratch.table)
                arguments = (main, side, tables.regions, tables.tiles, chosen, *span, *what, *window, *memory)
            shared = columns_bytes(numerics, in_registers, max(numerics.dtype.itemsize, 4))
            _launch(numerics, blocks.form, in_registers, "decode", name, arguments, scratch.tiles, shared)
        return out


def _sum_tiles(rows: Any, chosen: NDArray[np.bool_] | None) -> Any:
    """Sum over the chosen tiles, all by default."""
    return (rows if chosen is None else rows[asarray(chosen)]).sum(axis=0)


def total(blocks: Blocks, numerics: Numerics, chosen: NDArray[np.bool_] | None = None) -> float:
    """Return the sum of the decoded samples, of the chosen tiles (all by default)."""
    with _on(_main(blocks)):
        tables = _tables(numerics)
        sums = array_module().zeros(tables.count)
        if tables.count:
            unit = np.float64(blocks.mean_step if isinstance(blocks, PackedBlocks) else 1.0 / blocks.limit)
            main, side = _source(blocks)[:2]
            arguments = (main, side, np.int64(0), np.int64(tables.count), unit, tables.roots, sums)
            in_registers = fits_registers(numerics.grid.sides)
            grid = min(-(-tables.count // TILE), 2**31 - 1)
            _launch(numerics, blocks.form, in_registers, "moments", "sums", arguments, grid)
        return float(_sum_tiles(sums, chosen))


def moments(
    blocks: Blocks, numerics: Numerics, center: float, chosen: NDArray[np.bool_] | None = None
) -> NDArray[np.float64]:
    """Return centred sums over a field; see :func:`hpcblaz.backend.cpu.moments`."""
    with _on(_main(blocks)):
        tables = _tables(numerics)
        out = array_module().zeros((tables.count, 3))
        main, side, *exponents = _source(blocks)
        for in_registers, first, stop in runs(numerics, tables.full, tables.count):
            scratch = Scratch(numerics, in_registers, stop - first, array_module())
            arguments = (
                main, side, tables.tiles, np.int64(first), np.int64(stop), *exponents, tables.roots,
                np.float64(center), out.reshape(-1), scratch.integers, scratch.table,
            )  # fmt: skip
            shared = columns_bytes(numerics, in_registers, 4)
            _launch(numerics, blocks.form, in_registers, "moments", "moments", arguments, scratch.tiles, shared)
        return asnumpy(_sum_tiles(out, chosen))


def products(
    a: Blocks,
    center_a: float,
    b: Blocks,
    center_b: float,
    numerics: Numerics,
    squares: bool,
    chosen: NDArray[np.bool_] | None = None,
) -> NDArray[np.float64]:
    """Return sums over two fields on one grid; see :func:`hpcblaz.backend.cpu.products`."""
    with _on(_main(a)):
        tables = _tables(numerics)
        out = array_module().zeros((tables.count, 8))
        for in_registers, first, stop in runs(numerics, tables.full, tables.count):
            scratch = Scratch(numerics, in_registers, stop - first, array_module(), 2)
            arguments = (
                *_source(a), np.float64(center_a), *_source(b), np.float64(center_b), tables.tiles, np.int64(first),
                np.int64(stop), tables.roots, np.int64(squares), out.reshape(-1), scratch.integers, scratch.table,
            )  # fmt: skip
            shared = 2 * columns_bytes(numerics, in_registers, 4)
            _launch(numerics, a.form, in_registers, "moments", "products", arguments, scratch.tiles, shared)
        return asnumpy(_sum_tiles(out, chosen))


def block_moments(blocks: Blocks, numerics: Numerics, squares: bool) -> tuple[Any, Any]:
    """Return the mean of each block and, if wanted, the sum of squares of its other coefficients, by block."""
    with _on(_main(blocks)):
        xp, grid = array_module(), numerics.grid
        tables = _tables(numerics)
        means = xp.zeros(grid.blocks)
        energies = xp.zeros(grid.blocks if squares else (1,) * grid.ndim)
        for in_registers, first, stop in runs(numerics, tables.full, tables.count):
            scratch = Scratch(numerics, in_registers, stop - first, array_module())
            main, side, *exponents = _source(blocks)
            arguments = (
                main, side, tables.regions, tables.tiles, np.int64(first), np.int64(stop), *exponents, tables.roots,
                tables.blocks, np.int64(squares), means.reshape(-1), energies.reshape(-1), scratch.integers,
                scratch.table,
            )  # fmt: skip
            shared = columns_bytes(numerics, in_registers, 4)
            _launch(numerics, blocks.form, in_registers, "moments", "block_moments", arguments, scratch.tiles, shared)
        return means, energies if squares else None


def combine(
    a: PackedBlocks,
    weight_a: float,
    b: PackedBlocks,
    weight_b: float,
    numerics: Numerics,
    exponent: int,
    mean_exponent: int,
) -> tuple[PackedBlocks, float, float] | None:
    """Return ``weight_a * a + weight_b * b``, packed; see :func:`hpcblaz.backend.cpu.combine`."""
    with _on(a.words):
        xp = array_module()
        tables = _tables(numerics)
        sizes = xp.zeros(tables.count, np.int64)
        stats = xp.zeros((tables.count, 2))
        offsets, words = xp.zeros(1, np.int64), xp.zeros(1, np.uint32)
        for writing in (0, 1):
            for in_registers, first, stop in runs(numerics, tables.full, tables.count):
                scratch = Scratch(numerics, in_registers, stop - first, array_module(), 2)
                arguments = (
                    *_source(a), np.float64(weight_a), *_source(b), np.float64(weight_b), tables.tiles,
                    np.int64(first), np.int64(stop), np.int64(exponent), np.int64(mean_exponent), np.int64(writing),
                    words, offsets, sizes, stats.reshape(-1), scratch.integers, scratch.table, scratch.headers,
                )  # fmt: skip
                shared = 2 * columns_bytes(numerics, in_registers, 4)
                _launch(numerics, "packed", in_registers, "combine", "combine", arguments, scratch.tiles, shared)
            if not writing:
                if tables.count and int(sizes.min()) < 0:
                    return None
                offsets, words = _place(sizes)
        largest = float(stats[:, 0].max()) if tables.count else 0.0
        return (
            PackedBlocks(words, offsets, exponent, mean_exponent, "gpu"),
            largest,
            math.sqrt(float(stats[:, 1].sum())),
        )


def combine_fixed(
    a: FixedBlocks, weight_a: float, b: FixedBlocks, weight_b: float, numerics: Numerics
) -> tuple[FixedBlocks, float, float]:
    """Return ``weight_a * a + weight_b * b``, indices rounded anew; see :func:`hpcblaz.backend.cpu.combine_fixed`."""
    with _on(a.indices):
        xp = array_module()
        tables = _tables(numerics)
        result = replace(a, indices=xp.empty_like(a.indices), scales=xp.empty_like(a.scales))
        stats = xp.zeros((tables.count, 2))
        for in_registers, first, stop in runs(numerics, tables.full, tables.count):
            scratch = Scratch(numerics, in_registers, stop - first, array_module(), 2)
            arguments = (
                *_source(a)[:2], np.float64(weight_a), *_source(b)[:2], np.float64(weight_b), tables.tiles,
                np.int64(first), np.int64(stop), np.float64(a.limit), result.indices, result.scales, result.starts,
                result.kept, stats.reshape(-1), scratch.integers,
            )  # fmt: skip
            shared = 2 * columns_bytes(numerics, in_registers, 4)
            _launch(numerics, "fixed", in_registers, "fixed", "combine_fixed", arguments, scratch.tiles, shared)
        largest = float(stats[:, 0].max()) if tables.count else 0.0
        return result, largest, math.sqrt(float(stats[:, 1].sum()))


def value_range(x: Any, numerics: Numerics) -> tuple[float, float] | None:
    """Return the least and greatest value of a contiguous, non-empty array; None if not all are finite."""
    with _on(x):
        xp = array_module()
        integer: type[np.signedinteger[Any]] = np.int32 if numerics.dtype.itemsize == 4 else np.int64
        limits = np.iinfo(integer)
        extremes = xp.asarray(np.array([limits.max, limits.min], integer))
        bits = x.reshape(-1).view(integer)
        waves = 2 if SIMULATED else _WAVES * xp.cuda.Device().attributes["MultiProcessorCount"]
        tiles = min(-(-len(bits) // TILE), waves)
        in_registers = fits_registers(numerics.grid.sides)
        _launch(numerics, "packed", in_registers, "scan", "scan", (bits, extremes), tiles)
        keys = asnumpy(extremes)
    values = np.where(keys < 0, keys ^ limits.max, keys).view(numerics.dtype)
    return (float(values[0]), float(values[1])) if np.isfinite(values).all() else None
