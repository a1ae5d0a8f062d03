"""The tests of the GPU's kernels in Numba's CUDA simulator, which has to be chosen before anything is imported."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import INSIDE_MPIRUN

from hpcblaz.backend import gpu


@pytest.mark.skipif(gpu.SIMULATED or INSIDE_MPIRUN, reason="this is the simulator already, or one rank of several")
def test_the_kernels_in_the_simulator() -> None:
    folder = Path(__file__).parent
    tests = [str(folder / name) for name in ("test_gpu.py", "test_gpu_quantised.py", "test_gpu_messages.py")]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "gpu", *tests]
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1"}
    done = subprocess.run(command, env=environment, cwd=folder.parents[1], capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    summary = done.stdout.strip().splitlines()[-1]
    assert " passed" in summary
    assert "skipped" not in summary
