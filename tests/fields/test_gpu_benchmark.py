"""The benchmark of the GPU: refusals without one, and all its rows in the simulator."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import INSIDE_MPIRUN

from hpcblaz.backend import gpu
from hpcblaz.cli.main import main
from hpcblaz.errors import DeviceError, MissingDependencyError
from hpcblaz.fields import gpu_benchmark
from hpcblaz.fields.benchmark import Settings

OPERATIONS = {"mean", "variance", "norm", "dot", "covariance", "cosine similarity", "structural similarity", "a + b"}
no_gpu = pytest.mark.skipif(
    gpu.SIMULATED or Path("/proc/driver/nvidia/version").exists(), reason="there is a GPU, or the simulator"
)


@no_gpu
def test_without_a_gpu_the_verb_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "fields", "--gpu"]) == 1
    assert any(text in capsys.readouterr().err for text in ("cuda13", "CUDA device"))
    with pytest.raises((DeviceError, MissingDependencyError)):
        gpu_benchmark.run(Settings(quick=True), (8,))


@pytest.mark.skipif(INSIDE_MPIRUN, reason="one rank of several")
def test_every_row_in_the_simulator(tmp_path: Path) -> None:
    path = tmp_path / "gpu.json"
    command = [sys.executable, "-m", "hpcblaz.cli.main", "bench", "fields", "--gpu", "--quick", "--json", str(path)]
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    assert "GPU OPERATIONS" in done.stdout
    found = json.loads(path.read_text())
    assert "simulator" in found["machine"]["card"]
    assert not found["absent"]
    rows = {(row["topic"], row["case"], row["quantity"]): row for row in found["rows"]}
    field = "8^3 float32"
    for name in OPERATIONS:
        assert rows["GPU errors", field, name]["met"], name
    timed = [("GPU operations", field, name) for name in OPERATIONS]
    timed.append(("GPU compression", field, "device copy"))
    for form in ("tolerance 1e-3", "int8 4x4x4"):
        case = f"{field}, {form}"
        timed += [("GPU compression", case, name) for name in ("compress", "decompress", "16^3 window")]
        assert ("GPU compression", case, "size") in rows
        assert rows["GPU errors", case, "worst error"]["met"]
        assert ("GPU memory", case, "beyond input and output") in rows
    assert rows["GPU errors", f"{field}, tolerance 1e-3", "over tolerance"]["met"]
    for key in timed:
        row = rows[key]
        assert row["bytes_moved"] > 0 and row["seconds"] > 0 and row["first_seconds"] > 0, key
        assert row["gigabytes_per_second"] == pytest.approx(row["bytes_moved"] / row["seconds"] / 1e9)
        assert row["share_of_copy"] > 0
    assert {"measure", "write", "encode_fixed", "scan"} <= {name for topic, _, name in rows if topic == "GPU kernels"}
    targets = {row["quantity"]: row["target"] for row in found["rows"] if row["topic"] == "GPU operations"}
    assert (targets["mean"], targets["dot"], targets["norm"], targets["variance"]) == (20.0, 1.0, 1.0, 1.0)
