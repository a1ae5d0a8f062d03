"""Kernels compiled once: specialised copies of the templates, in a cache that cannot go stale.

The kernel templates in ``hpcblaz/backend/templates`` (and ``cuda_templates``) are written for one block shape,
transform, precision and form, named in two generated modules (constants, and transforms or columns). A specialised
copy is written into the cache folder, and the machine code is kept beside it. The folder's name is a hash of every
source that a kernel is made of, of the versions of Python, NumPy, Numba and llvmlite, and of the processor: when any of
them changes, another folder is used. It lies in the first of ``HPCBLAZ_CACHE_DIR``, ``NUMBA_CACHE_DIR``,
``XDG_CACHE_HOME/hpcblaz`` and ``~/.cache/hpcblaz`` that is set; the folder must belong to the user alone, since code is
executed from it.
"""

import atexit
import fcntl
import hashlib
import importlib
import importlib.util
import math
import os
import platform
import shutil
import stat
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import llvmlite
import llvmlite.binding
import numba
import numpy as np
from numba.core.dispatcher import Dispatcher

from hpcblaz import bodies
from hpcblaz.backend.generate import columns_source, transforms_source
from hpcblaz.bodies.records import TILE

_TEMPLATES = Path(__file__).parent / "templates"
_CUDA_TEMPLATES = Path(__file__).parent / "cuda_templates"
_PRECISIONS = {
    "float32": "np.float32\nINTEGER, FRACTION_BITS, EXPONENT_MASK, EXPONENT_BIAS = np.int32, 23, 255, 126\n"
    "LEAST_SCALE = REAL(1e-33)",
    "float64": "np.float64\nINTEGER, FRACTION_BITS, EXPONENT_MASK, EXPONENT_BIAS = np.int64, 52, 2047, 1022\n"
    "LEAST_SCALE = REAL(1e-290)",
}
_IN_REGISTERS = 64  # cells of a block that a GPU thread holds in registers
_lock = threading.RLock()

Sides = tuple[int, int, int, int]


def kernel(template: str, sides: Sides, transform: str, precision: str, form: str) -> Any:
    """Return the specialised copy of a template for the CPU.

    Parameters
    ----------
    template : str
        Name of a module of ``hpcblaz/backend/templates``.
    sides : tuple of 4 int
        Block sides.
    transform : {'dct', 'haar', 'identity'}
        Block transform.
    precision : {'float32', 'float64'}
        Type of the samples and coefficients while they are computed with.
    form : {'packed', 'fixed', 'binary', 'pairwise', 'factors'}
        Records of :mod:`hpcblaz.bodies.records`, or indices of fixed width; or the messages of
        :mod:`hpcblaz.backend.messages`, to which sides and transform mean nothing.

    Returns
    -------
    object
        Its compiled functions are the template's.
    """
    with _lock:
        return _kernel(template, sides, transform, precision, form)


class _OneAtATime:
    """The compiled functions of a module. What a first call compiles, only one process of a machine compiles.

    The others wait, and load it from the cache: the ranks of a job would otherwise all compile the same, on the cores
    that one of them could have.
    """

    def __init__(self, module: ModuleType, lock: Path) -> None:
        self._module = module
        self._lock = lock
        self._guard = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._module, name)

        def first(*arguments: Any) -> Any:
            with self._guard:
                if name not in self.__dict__:
                    with _alone(self._lock):
                        result = function(*arguments)
                    setattr(self, name, function)
                    return result
            return function(*arguments)

        return first if isinstance(function, Dispatcher) else function


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Keep other processes out of a ``with`` block, where the file system can; a killed process keeps nobody out."""
    with ExitStack() as stack:
        with suppress(OSError):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            stack.callback(os.close, descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


@cache
def _kernel(template: str, sides: Sides, transform: str, precision: str, form: str) -> _OneAtATime:
    name = f"{transform}_{'x'.join(map(str, sides))}_{precision}_{form}"
    generated = {
        "constants": _constants(sides, transform, precision, form),
        "transforms": transforms_source(transform, sides),
    }
    return _OneAtATime(_module(template, name, _TEMPLATES, generated), _folder() / name / "lock")


def cuda_kernel(
    template: str, sides: Sides, transform: str, precision: str, form: str, in_registers: bool
) -> ModuleType:
    """Return the specialised copy of a template for the GPU: functions that are not compiled yet.

    Parameters
    ----------
    template : str
        Name of a module of ``hpcblaz/backend/cuda_templates``.
    sides, transform, precision, form
        As for :func:`kernel`.
    in_registers : bool
        A thread holds its block in registers, of full blocks that are small enough; otherwise in device memory.

    Returns
    -------
    module
        Its functions are the template's.
    """
    with _lock:
        return _cuda_kernel(template, sides, transform, precision, form, in_registers)


def fits_registers(sides: Sides) -> bool:
    """Say whether a GPU thread can hold a block in registers."""
    return math.prod(sides) <= _IN_REGISTERS


@cache
def _cuda_kernel(
    template: str, sides: Sides, transform: str, precision: str, form: str, in_registers: bool
) -> ModuleType:
    place = "registers" if in_registers else "memory"
    name = f"cuda_{transform}_{'x'.join(map(str, sides))}_{precision}_{form}_{place}"
    # Columns of a tile in shared memory are apart by so much that threads which load neighbouring cells of a few blocks
    # meet different banks
    stride = TILE + 32 // sides[3] if in_registers else TILE
    constants = (
        f"from numba import {precision} as KIND, int{precision[5:]} as INTEGER_KIND\n\n"
        f"IN_REGISTERS = {in_registers}\nSTRIDE = {stride}\nSHIFT3 = {sides[3].bit_length() - 1}\n"
    )
    generated = {
        "constants": _constants(sides, transform, precision, form) + constants,
        "columns": columns_source(transform, sides, in_registers),
    }
    return _module(template, name, _CUDA_TEMPLATES, generated)


def _constants(sides: Sides, transform: str, precision: str, form: str) -> str:
    return (
        '"""Generated: what this copy of the templates is for."""\n\nimport numpy as np\n\n'
        f"SIDE0, SIDE1, SIDE2, SIDE3 = {sides}\nSIZE = {math.prod(sides)}\nREAL = {_PRECISIONS[precision]}\n"
        f"FORM = {form!r}\nTRANSFORM = {transform!r}\n"
    )


def _module(template: str, name: str, templates: Path, generated: dict[str, str]) -> ModuleType:
    """Return a module of a package of specialised copies, which is written and imported if need be."""
    package = f"hpcblaz_kernels_{_source_hash()[:16]}_{name}"
    if package not in sys.modules:
        folder = _folder() / name
        if not folder.is_dir():
            _write(folder, templates, generated)
        location = importlib.util.spec_from_file_location(
            package, folder / "__init__.py", submodule_search_locations=[str(folder)]
        )
        if location is None or location.loader is None:
            raise ImportError(f"expected a package of kernels at {folder}, found none: delete that folder")
        module = importlib.util.module_from_spec(location)
        sys.modules[package] = module
        location.loader.exec_module(module)
    return importlib.import_module(f"{package}.{template}")


def _write(folder: Path, templates: Path, generated: dict[str, str]) -> None:
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".new-"))
    try:
        for template in templates.glob("*.py"):
            shutil.copyfile(template, temporary / template.name)
        for module, source in generated.items():
            (temporary / f"{module}.py").write_text(source)
        (temporary / "__init__.py").write_text("")
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process was faster
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@cache
def _source_hash() -> str:
    digest = hashlib.sha256()
    for folder in (_TEMPLATES, _CUDA_TEMPLATES, Path(bodies.__file__).parent, Path(__file__).parent):
        for source in sorted(folder.glob("*.py")):
            digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    processor = llvmlite.binding.get_host_cpu_name() + llvmlite.binding.get_host_cpu_features().flatten()
    versions = (platform.python_version(), np.__version__, numba.__version__, llvmlite.__version__, processor)
    digest.update("\0".join(versions).encode())
    return digest.hexdigest()


@cache
def _folder() -> Path:
    for parent in _candidates():
        folder = parent / f"kernels-{_source_hash()[:16]}"
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError:
            continue
        if _is_private(folder) and os.access(folder, os.W_OK | os.X_OK):
            return folder
    folder = Path(tempfile.mkdtemp(prefix="hpcblaz-kernels-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def cache_folder() -> Path:
    """Return the folder of the compiled kernels (a temporary one where no private folder can be written)."""
    return _folder()


def _candidates() -> list[Path]:
    for name in ("HPCBLAZ_CACHE_DIR", "NUMBA_CACHE_DIR"):
        if value := os.environ.get(name):
            return [Path(value)]
    if value := os.environ.get("XDG_CACHE_HOME"):
        return [Path(value) / "hpcblaz"]
    try:
        return [Path.home() / ".cache" / "hpcblaz"]
    except RuntimeError:
        return []


def _is_private(folder: Path) -> bool:
    if not hasattr(os, "geteuid"):
        return True
    status = folder.stat()
    return status.st_uid == os.geteuid() and not status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
