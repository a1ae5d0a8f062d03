"""A large file, compressed, read back and computed on, with the peak memory of each.

pip install 'hpcblaz[io]'
python examples/large_file.py --gibibytes 4 --folder /tmp
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import netCDF4
import numpy as np

SLAB = 16
COMPARE = f"""
import netCDF4, sys, xarray
new = xarray.open_zarr(sys.argv[2], chunks=None, consolidated=False).u
old = netCDF4.Dataset(sys.argv[1])["u"]
worst = max(float(abs(new[z : z + {SLAB}].values - old[z : z + {SLAB}]).max()) for z in range(0, len(old), {SLAB}))
print(f"largest difference, read slab by slab with xarray: {{worst:.3g}}")
"""
OPEN = """
import hpcblaz as hb, sys
a = hb.open(sys.argv[1])
print(a, f"mean {float(a.mean()):.6g} within {a.mean().error:.2g}")
"""
MEASURE = "import resource, subprocess, sys; code = subprocess.call(sys.argv[1:])\n" + (
    "print(f'  peak {resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024:.0f} MiB'); sys.exit(code)"
)


def make(path: Path, side: int, layers: int) -> None:
    rng = np.random.default_rng(0)
    k = np.linspace(0, 20, side, dtype=np.float32)
    with netCDF4.Dataset(path, "w") as file:
        for name, n in (("z", layers), ("y", side), ("x", side)):
            file.createDimension(name, n)
        u = file.createVariable("u", "f4", ("z", "y", "x"))
        for z in range(0, layers, SLAB):
            depth = np.arange(z, min(layers, z + SLAB), dtype=np.float32) / 50
            wave = np.sin(k[None, :, None] + depth[:, None, None]) * np.cos(2 * k)
            u[z : z + SLAB] = wave + 1e-3 * rng.standard_normal(wave.shape, np.float32)


def run(what: str, *arguments: str) -> None:
    start = time.perf_counter()
    print(what, flush=True)
    subprocess.run([sys.executable, "-c", MEASURE, sys.executable, *arguments], check=True)
    print(f"  {time.perf_counter() - start:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure time and memory with a large file.")
    parser.add_argument("--gibibytes", type=int, default=4, metavar="N")
    parser.add_argument("--folder", type=Path, metavar="FOLDER", help="where the files are for a while")
    arguments = parser.parse_args()
    with TemporaryDirectory(dir=arguments.folder) as folder:
        source, store = str(Path(folder) / "large.nc"), str(Path(folder) / "large.zarr")
        make(Path(source), 1024, 256 * arguments.gibibytes)
        print(f"{source}: {Path(source).stat().st_size / 2**30:.2f} GiB")
        run("hpcblaz compress", "-m", "hpcblaz.cli.main", "compress", source, store, "--relative", "1e-3")
        run("xarray", "-c", COMPARE, source, store)
        run("hb.open", "-c", OPEN, store)


if __name__ == "__main__":
    main()
