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
    tests = Path(__file__).parent / "test_gpu.py"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "gpu", str(tests)]
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1"}
    done = subprocess.run(command, env=environment, cwd=tests.parents[2], capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    summary = done.stdout.strip().splitlines()[-1]
    assert " passed" in summary
    assert "skipped" not in summary
