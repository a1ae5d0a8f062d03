"""The memory an inference takes: ``python -m hpcblaz.bp.benchmark_memory SIZE SCHEDULE PRECISION`` measures it."""

import json
import re
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from hpcblaz.bp.benchmark_rows import Memory
from hpcblaz.bp.builders import ising
from hpcblaz.bp.inference import infer
from hpcblaz.errors import ResourceError

__all__ = ["measure_memory"]

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_TIMEOUT = 300


def measure_memory(size: int, schedule: str, precision: str = "float32") -> Memory | None:
    """Return the most memory that an Ising grid takes, in a process of its own; None where the system does not tell.

    Parameters
    ----------
    size : int
        Of each side.
    schedule : str
    precision : {'float32', 'float64'}

    Raises
    ------
    ResourceError
        If the process fails.
    """
    if not (_STATUS.exists() and _CLEAR.exists()):
        return None
    command = [sys.executable, "-m", "hpcblaz.bp.benchmark_memory", str(size), schedule, precision]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_TIMEOUT)
    if done.returncode:
        raise ResourceError(f"expected a process to measure memory, got: {done.stderr.strip()[-300:]}")
    return Memory(**json.loads(done.stdout))


def _bytes(key: str) -> int:
    found = re.search(rf"^{key}:\s+(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    return 1024 * int(found[1]) if found else 0


def _forget_peak() -> None:
    _CLEAR.write_text("5")


def _main(size: int, schedule: str, precision: str) -> None:
    infer(ising(12, 2.0, seed=1), schedule, precision=precision)  # loads all that is compiled
    before = _bytes("VmRSS")
    model = ising(size, 2.0, seed=0)
    between = _bytes("VmRSS")
    _forget_peak()
    result = infer(model, schedule, precision=precision, max_iterations=20)
    peak = _bytes("VmHWM")
    states = result.vectors.size
    row = Memory(
        f"ising {size}x{size}", schedule, result.precision, states, max(0, between - before), max(0, peak - between)
    )
    sys.stdout.write(json.dumps(asdict(row)) + "\n")


if __name__ == "__main__":
    _main(int(sys.argv[1]), sys.argv[2], sys.argv[3])
