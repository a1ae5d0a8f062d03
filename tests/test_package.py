from __future__ import annotations

import doctest
import importlib
import os
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import hpcblaz

MODULES = [
    info.name
    for info in pkgutil.walk_packages(hpcblaz.__path__, "hpcblaz.")
    if "templates" not in info.name and not info.name.endswith("__main__")
]


@pytest.mark.parametrize("name", ["hpcblaz", *MODULES])
def test_examples_of_docstrings_work(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = doctest.testmod(importlib.import_module(name))
    assert found.failed == 0


def test_there_are_examples() -> None:
    finder = doctest.DocTestFinder()
    examples = {name: sum(len(t.examples) for t in finder.find(importlib.import_module(name))) for name in MODULES}
    for name in (
        "hpcblaz.fields.array",
        "hpcblaz.fields.codec",
        "hpcblaz.fields.compress",
        "hpcblaz.fields.statistics",
    ):
        assert examples[name] > 0


def python(code: str) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PMI", "MPI_", "SLURM_", "OMPI_"))}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        cwd=Path(hpcblaz.__file__).parents[1],
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_importing_loads_nothing_optional_and_compiles_nothing() -> None:
    code = (
        "import sys, hpcblaz;"
        "optional = {'mpi4py', 'cupy', 'matplotlib', 'zarr', 'xarray', 'h5py', 'netCDF4'};"
        "print(sorted(optional & set(sys.modules)));"
        "print([name for name in sys.modules if name.startswith('hpcblaz_kernels')])"
    )
    assert python(code).splitlines() == ["[]", "[]"]


def test_using_one_rank_does_not_load_mpi() -> None:
    code = (
        "import sys, numpy as np, hpcblaz as hb;"
        "a = hb.compress(np.zeros((4, 4), np.float32), tolerance=1, layout=hb.Layout((4, 4)));"
        "print(float(a.mean()), 'mpi4py' in sys.modules)"
    )
    assert python(code) == "0.0 False"


def test_public_names() -> None:
    assert sorted(hpcblaz.__all__) == sorted(set(hpcblaz.__all__))
    for name in hpcblaz.__all__:
        assert getattr(hpcblaz, name) is not None
    assert hpcblaz.__version__.split(".")[0].isdigit()
    for name in MODULES:
        module = importlib.import_module(name)
        assert module.__doc__, name
