"""GPU kernels to machine code, with no need of a GPU: what a card runs is what any machine can compile and check.

numba-cuda compiles a function to PTX, and nvJitLink that to the code of one architecture. It is kept in the folder of
its specialised source (see :mod:`hpcblaz.backend.compile`), so that a second start loads it and compiles nothing.
"""

import contextlib
import hashlib
import importlib
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from hpcblaz.errors import MissingDependencyError

Architecture = tuple[int, int]

_COMPILERS = ("nvidia-nvvm", "nvidia-nvjitlink", "nvidia-cuda-nvcc-cu12", "nvidia-nvjitlink-cu12", "cuda-bindings")


@dataclass(frozen=True)
class CudaCode:
    """The machine code of one kernel.

    Parameters
    ----------
    path : pathlib.Path
        The file that holds it, a cubin.
    entry : str
        Name of the kernel in it.
    parameters : int
        How many parameters the kernel takes, arrays taken apart.
    registers, stack_bytes, spill_bytes, shared_bytes : int
        What a thread needs of registers and of local memory, and a tile of threads of (static) shared memory.
    contracted : int
        Operations of PTX that multiply and add with one rounding.
    wide_counts : int
        Operations of PTX that count leading zeros of 64 bits.
    """

    path: Path
    entry: str
    parameters: int
    registers: int
    stack_bytes: int
    spill_bytes: int
    shared_bytes: int
    contracted: int
    wide_counts: int


def flatten(arguments: tuple[Any, ...]) -> list[Any]:
    """Return kernel arguments as the kernels of numba-cuda take them: arrays of C order taken apart.

    An array is: two null pointers, its size, its item size, its data, its shape and its strides.
    """
    flat: list[Any] = []
    for argument in arguments:
        if isinstance(argument, tuple):
            flat += flatten(argument)
        elif getattr(argument, "ndim", 0):  # scalars of NumPy have strides, too
            flat += [0, 0, int(argument.size), int(argument.itemsize), argument, *argument.shape, *argument.strides]
        else:
            flat.append(argument)
    return flat


def build(kernel: Callable[..., None], arguments: tuple[Any, ...], architecture: Architecture) -> CudaCode:
    """Return the machine code of a kernel for arguments of these types; compile it if no earlier start has done so.

    Parameters
    ----------
    kernel : function
        Of a module that :func:`hpcblaz.backend.compile.cuda_kernel` has returned.
    arguments : tuple
        Arrays of C order (anything with dtype and ndim), NumPy scalars, and tuples of them.
    architecture : tuple of int
        Compute capability of the card, for example (9, 0).

    Raises
    ------
    MissingDependencyError
        If numba-cuda is not installed.
    """
    kinds = str([_describe(argument) for argument in arguments])
    key = hashlib.sha256(f"{kinds} {_versions()}".encode()).hexdigest()[:16]
    folder = Path(kernel.__code__.co_filename).parent
    stem = f"{kernel.__module__.rpartition('.')[2]}-{kernel.__name__}-sm_{architecture[0]}{architecture[1]}-{key}"
    described, code = folder / f"{stem}.json", folder / f"{stem}.cubin"
    if not described.is_file():
        cubin, facts = _compile(kernel, arguments, architecture)
        _put(code, cubin)
        _put(described, json.dumps(facts).encode())
    return CudaCode(code, **json.loads(described.read_text()))


def _versions() -> str:
    """Return the versions of what makes machine code."""
    try:
        found = [metadata.version("numba-cuda")]
    except metadata.PackageNotFoundError:
        raise MissingDependencyError.needs("GPU kernels", "numba-cuda", "cuda13") from None
    for package in _COMPILERS:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found.append(f"{package} {metadata.version(package)}")
    return " ".join(found)


def _describe(argument: Any) -> Any:
    """Return a name of the type of an argument."""
    if isinstance(argument, tuple):
        return [_describe(entry) for entry in argument]
    return f"{argument.dtype}[{getattr(argument, 'ndim', 0)}]"


def _put(path: Path, content: bytes) -> None:
    """Write a file at once: whoever opens it finds all of it."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".new-")
    with os.fdopen(handle, "wb") as file:
        file.write(content)
    os.replace(temporary, path)


def _compile(
    kernel: Callable[..., None], arguments: tuple[Any, ...], architecture: Architecture
) -> tuple[bytes, dict[str, Any]]:
    try:
        cuda = importlib.import_module("numba.cuda")
        dispatcher = importlib.import_module("numba.cuda.dispatcher")
        nvvm = importlib.import_module("numba.cuda.cudadrv.nvvm")
        from numba import types
    except ImportError:
        raise MissingDependencyError.needs("GPU kernels", "numba-cuda", "cuda13") from None

    def kind(argument: Any) -> Any:
        if isinstance(argument, tuple):
            return types.Tuple([kind(entry) for entry in argument])
        scalar = types.__dict__[np.dtype(argument.dtype).name]
        return types.Array(scalar, argument.ndim, "C") if getattr(argument, "ndim", 0) else scalar

    separate = bool(kernel.__globals__.get("SEPARATE_ROUNDING", False))
    with _architecture_of_functions(dispatcher, architecture), _rounding(nvvm, separate):
        signature = types.void(*(kind(argument) for argument in arguments))
        ptx, _ = cuda.compile(kernel, signature, device=False, abi="numba", cc=architecture, output="ptx")
    text = ptx.decode() if isinstance(ptx, bytes) else ptx
    cubin, log = _assemble(text, architecture)
    entry = re.search(r"\.entry\s+(\w+)\s*\(([^)]*)\)", text)
    if entry is None:
        raise RuntimeError(f"expected a kernel in the PTX of {kernel.__name__}, got none")

    def number(pattern: str) -> int:
        return max((int(found) for found in re.findall(pattern, log)), default=0)

    return cubin, {
        "entry": entry[1],
        "parameters": entry[2].count(".param"),
        "registers": number(r"[Uu]sed (\d+) registers"),
        "stack_bytes": number(r"(\d+) bytes stack frame"),
        "spill_bytes": number(r"(\d+) bytes spill stores") + number(r"(\d+) bytes spill loads"),
        "shared_bytes": number(r"(\d+) bytes smem"),
        "contracted": len(re.findall(r"\b(?:fma|mad)\.\w*\.?f(?:32|64)\b", text)),
        "wide_counts": text.count("clz.b64"),
    }


@contextlib.contextmanager
def _architecture_of_functions(dispatcher: Any, architecture: Architecture) -> Iterator[None]:
    """Have functions that a kernel calls compiled for an architecture: numba-cuda asks the current card for its own."""
    asked = dispatcher.get_current_device
    dispatcher.get_current_device = lambda: SimpleNamespace(compute_capability=architecture)
    try:
        yield
    finally:
        dispatcher.get_current_device = asked


@contextlib.contextmanager
def _rounding(nvvm: Any, separate: bool) -> Iterator[None]:
    """Have each product and sum rounded by itself, if it is to be: numba-cuda lets the compiler contract them."""
    compiled = nvvm.compile_ir
    if separate:
        nvvm.compile_ir = lambda ir, **options: compiled(ir, **options, fma=False)
    try:
        yield
    finally:
        nvvm.compile_ir = compiled


def _assemble(ptx: str, architecture: Architecture) -> tuple[bytes, str]:
    """Return machine code, and what the assembler says of it."""
    from cuda.bindings import nvjitlink

    options = [f"-arch=sm_{architecture[0]}{architecture[1]}", "-Xptxas=-v", "-verbose"]
    handle = nvjitlink.create(len(options), options)
    try:
        data = ptx.encode()
        nvjitlink.add_data(handle, nvjitlink.InputType.PTX, data, len(data), "kernel")
        nvjitlink.complete(handle)
        cubin = bytearray(nvjitlink.get_linked_cubin_size(handle))
        nvjitlink.get_linked_cubin(handle, cubin)
        log = bytearray(nvjitlink.get_info_log_size(handle))
        nvjitlink.get_info_log(handle, log)
    finally:
        nvjitlink.destroy(handle)
    return bytes(cubin), log.rstrip(b"\0").decode(errors="replace")
