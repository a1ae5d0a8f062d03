"""Compress real files with the command line, and measure what came out: the table of docs/results/files.md.

pip install 'hpcblaz[io,data,bench]'
python examples/files.py --relative 1e-3 1e-5
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

import hpcblaz as hb

IRIS = ("A1B_north_america.nc", "E1_north_america.nc", "ostia_monthly.nc", "orca2_votemper.nc", "NEMO/*.nc")
MNI = tuple(f"mni_icbm152_{kind}_tal_nlin_sym_09a_converted.nii.gz" for kind in ("t1", "gm", "wm"))


def files() -> list[Path]:
    found: list[Path] = []
    for package, folder, names in (("iris_sample_data", "sample_data", IRIS), ("nilearn", "datasets/data", MNI)):
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            print(f"left out: {package} is not installed", file=sys.stderr)
            continue
        for name in names:
            found += sorted((Path(spec.origin).parent / folder).glob(name))
    return found


def measure(path: Path, relative: float, folder: Path) -> list[str]:
    store = folder / "out.zarr"
    command = ["compress", str(path), str(store), "--relative", str(relative), "--json"]
    report = json.loads(subprocess.check_output([sys.executable, "-m", "hpcblaz.cli.main", *command]))
    (variable,) = report["variables"]
    x, y = hb.open_field(path), hb.open_field(store, variable["variable"])
    whole = (slice(None),) * len(x.shape)
    before, after = x[whole].astype(np.float64), y[whole].astype(np.float64)
    missing = ~np.isfinite(before) | (before == (np.nan if x.fill_value is None else x.fill_value))
    if not np.array_equal(before[missing], after[missing], equal_nan=True):
        raise SystemExit(f"{path}: missing cells came back changed")
    span = np.ptp(before[~missing])
    worst = float(np.abs(before - after)[~missing].max())
    if not worst <= variable["max_abs_error"] <= variable["tolerance"]:
        raise SystemExit(f"{path}: an error of {worst}, beyond {variable['max_abs_error']}")
    return [
        path.name.replace("_tal_nlin_sym_09a_converted", "").replace("nemo_1m_", "NEMO "),
        " x ".join(map(str, variable["shape"])),
        variable["dtype"],
        f"{100 * missing.mean():.0f} %",
        f"{relative:g}",
        f"{variable['ratio']:.2f}",
        f"{variable['bits_per_value']:.2f}",
        f"{worst / span:.2e}",
        f"{variable['max_abs_error'] / span:.2e}",
        f"{variable['seconds']:.2f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description="Compress real files, and print a table in Markdown.")
    parser.add_argument("--relative", type=float, nargs="+", default=[1e-3, 1e-5], metavar="X")
    arguments = parser.parse_args()
    titles = ["file", "shape", "type", "missing", "relative", "ratio", "bits", "error", "bound", "seconds"]
    print("| " + " | ".join(titles) + " |\n|" + "---|" * len(titles))
    with TemporaryDirectory() as folder:
        for path in files():
            for relative in arguments.relative:
                print("| " + " | ".join(measure(path, relative, Path(folder))) + " |", flush=True)


if __name__ == "__main__":
    main()
