"""HDF5 files: what is written is what any reader of HDF5 finds, or nothing is."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import hpcblaz as hb
from hpcblaz.cli.main import main
from hpcblaz.errors import StorageError
from hpcblaz.fields.hdf5 import has_parallel_hdf5, write_hdf5

h5py = pytest.importorskip("h5py", reason="h5py is not installed: pip install 'hpcblaz[io]'")


def test_decompress_to_hdf5(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x = np.random.default_rng(0).normal(size=(20, 31)).astype(np.float32)
    hb.save(hb.compress(x, tolerance=1e-3), tmp_path / "wind.hbz", attributes={"units": "m/s", "axes": ["y", "x"]})
    assert main(["decompress", str(tmp_path / "wind.hbz"), str(tmp_path / "back.h5")]) == 0
    field = hb.open_field(tmp_path / "back.h5")
    assert (field.shape, field.dtype, field.attributes["units"]) == (x.shape, x.dtype, "m/s")
    np.testing.assert_array_equal(field[:, :], hb.load(tmp_path / "wind.hbz").decompress())
    with h5py.File(tmp_path / "back.h5", "r") as file:
        assert list(file) == ["wind"]
    assert "parallel HDF5" not in capsys.readouterr().out
    assert sorted(os.listdir(tmp_path)) == ["back.h5", "wind.hbz"]


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "x.h5"
    write_hdf5(path, np.arange(3.0))
    code = (
        "import resource, sys, numpy as np\n"
        "from hpcblaz.errors import StorageError\n"
        "from hpcblaz.fields.hdf5 import write_hdf5\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))\n"
        "try:\n"
        "    write_hdf5(sys.argv[1], np.zeros(100_000))\n"
        "except StorageError as error:\n"
        "    sys.exit(str(error))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith(f"expected to write {path}, got: "), done
    with h5py.File(path, "r") as file:
        np.testing.assert_array_equal(file["field"][...], np.arange(3.0))
    assert os.listdir(tmp_path) == ["x.h5"]
    with pytest.raises(StorageError, match="it is a folder"):
        write_hdf5(tmp_path, np.zeros(3))


def test_what_is_said_of_parallel_hdf5(monkeypatch: pytest.MonkeyPatch) -> None:
    assert has_parallel_hdf5() is bool(h5py.get_config().mpi)

    def missing(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", missing)
    assert has_parallel_hdf5() is None
