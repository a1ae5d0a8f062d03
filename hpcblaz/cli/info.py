"""``hpcblaz info``: what this installation, this machine and this job are made of; or what a file is made of."""

import argparse
import platform
from importlib import metadata
from typing import Any

import llvmlite.binding

from hpcblaz._version import __version__
from hpcblaz.backend import gpu
from hpcblaz.backend.compile import cache_folder
from hpcblaz.backend.threads import thread_count
from hpcblaz.cli.console import Console, is_compressed
from hpcblaz.errors import HpcblazError
from hpcblaz.fields.codec import BlockCodec
from hpcblaz.fields.describing import describe
from hpcblaz.fields.hdf5 import has_parallel_hdf5
from hpcblaz.fields.storage import read_header
from hpcblaz.mpi import Communicator, cuda_aware, library_info, local_rank, world

_PACKAGES = (
    "numpy",
    "numba",
    "llvmlite",
    "mpi4py",
    "matplotlib",
    "netCDF4",
    "iris-sample-data",
    "zarr",
    "xarray",
    "h5py",
)
_GPU_PACKAGES = ("cupy-cuda12x", "cupy-cuda13x", "cupy", "numba-cuda")
_FEATURES = ("avx512f", "avx2", "fma", "avx", "sse4.2", "sve2", "sve", "neon")
_DRIVER = "/proc/driver/nvidia/version"


def register(subparsers: Any) -> None:
    """Add the verb."""
    parser = subparsers.add_parser(
        "info",
        help="show versions, processor, threads, MPI and GPU; or what a file holds",
        description="Show versions, processor, threads, MPI, GPU and the folder of kernels; or describe a file.",
    )
    parser.add_argument("file", nargs="?", metavar="FILE", help="a file to describe: compressed or not")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the verb."""
    console = Console(world())
    if arguments.file is not None:
        with console.comm.together():
            found = _file(arguments.file)
    else:
        found = _machine(console.comm)
    if arguments.json:
        console.data(found)
        return 0
    for key, value in found.items():
        for name, entry in value.items() if isinstance(value, dict) and value else [("", value)]:
            title = (
                f"{key} {name}".strip() if key.startswith("variable ") else f"{key} {name}".strip().replace("_", " ")
            )
            console.line(f"{title:<27} {'-' if entry is None or entry == {} else entry}")
    return 0


def _machine(comm: Communicator) -> dict[str, Any]:
    """Return what is known; keys are part of the interface."""
    features = llvmlite.binding.get_host_cpu_features()
    mpi = library_info()
    if mpi["mpi4py"] is not None and mpi["launched_size"] is not None:
        mpi = library_info(initialise=True)
    return {
        "hpcblaz": __version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "packages": {name: _version(name) for name in _PACKAGES},
        "cpu": {
            "model": _cpu_model(),
            "llvm_name": llvmlite.binding.get_host_cpu_name(),
            "features": " ".join(name for name in _FEATURES if features.get(name)),
            "threads": thread_count(),
        },
        "mpi": mpi | {"local_rank": local_rank(comm), "cuda_aware": str(cuda_aware())},
        "hdf5": {"parallel": has_parallel_hdf5()},
        "gpu": {
            "driver": _driver(),
            "packages": ", ".join(f"{name} {version}" for name in _GPU_PACKAGES if (version := _version(name))) or None,
            "devices": _devices(),
        },
        "kernel_cache": str(cache_folder()),
    }


def _file(path: str) -> dict[str, Any]:
    """Return what a file says of itself; keys are part of the interface."""
    if not is_compressed(path):
        return _fields(path)
    header = read_header(path)
    codec = header.codec
    return {
        "file": path,
        "creator": header.creator,
        "shape": list(header.shape),
        "dtype": header.dtype.name,
        "codec": type(codec).__name__,
        "block_shape": list(header.block_shape),
        "transform": codec.transform,
        "index_dtype": str(codec.index_dtype) if isinstance(codec, BlockCodec) else None,
        "tolerance": header.promise,
        "max_abs_error": header.max_abs,
        "parts": len(header.parts),
        "splits": list(header.splits),
        "payload_bytes": sum(section.length for part in header.parts for section in part.sections.values()),
        "attributes": header.attributes,
    }


def _fields(path: str) -> dict[str, Any]:
    """Return what fields a file or a store holds; keys are part of the interface."""
    return {"file": path} | {f"variable {name}": entry for name, entry in describe(path).items()}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str | None:
    for line in _lines("/proc/cpuinfo"):
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or None


def _driver() -> str | None:
    lines = _lines(_DRIVER)
    return lines[0].removeprefix("NVRM version:").strip() if lines else None


def _devices() -> str | None:
    """Return what cards this process can use; what keeps it from it, where there is a driver; None without one."""
    if not _lines(_DRIVER):
        return None
    try:
        return "; ".join(gpu.describe(number) for number in range(gpu.device_count()))
    except HpcblazError as error:
        return str(error)


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read().splitlines()
    except OSError:
        return []
