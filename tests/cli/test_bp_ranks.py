"""``hpcblaz bp infer`` under mpirun: what one process finds, and what is left where a rank is killed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from mpi.test_launch import launch

from hpcblaz.bp import chain, exact, infer, ising, read_marginals, write_evidence, write_model

MAIN = ["-m", "hpcblaz.cli.main", "bp", "infer"]
KILLED = """
import os, signal, sys
from hpcblaz.bp import distributed, distributed_checkpoint
from hpcblaz.cli.main import main
class Killed(distributed.InferenceCheckpoint):
    times = 0
    def save(self, *arguments):
        self.times += 1
        if self.times == 3:
            write = distributed_checkpoint._write
            def half(descriptor, array, position):
                write(descriptor, array[: len(array) // 2], position)
                if self._model.comm.rank == 1:
                    os.kill(os.getpid(), signal.SIGKILL)
            distributed_checkpoint._write = half
        super().save(*arguments)
distributed.InferenceCheckpoint = Killed
sys.exit(main(sys.argv[1:]))
"""


def test_the_solution_is_that_of_one_process(tmp_path: Path) -> None:
    model, out = tmp_path / "chain.uai", tmp_path / "out.MAR"
    write_model(model, chain(30, 2.0, seed=1))
    write_evidence(tmp_path / "evidence", {0: 1, 29: 0})
    options = ["--evidence", str(tmp_path / "evidence"), "--tolerance", "1e-10", "--precision", "float64"]
    status, output = launch(3, [*MAIN, str(model), *options, "-o", str(out), "--json"], 120)
    assert status == 0, output
    found, solution = json.loads(output), exact(chain(30, 2.0, seed=1), evidence={0: 1, 29: 0})
    assert (found["ranks"], found["status"], found["evidence"]) == (3, "converged", 2)
    np.testing.assert_allclose(read_marginals(out)[1], solution.marginals, atol=1e-9)
    status, output = launch(2, [*MAIN, str(tmp_path / "none.uai")], 60)
    assert status == 1 and output.count("none.uai") == 1, output


def test_a_rank_that_is_killed_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    """It dies in the midst of writing the third one."""
    kept = tmp_path / "kept"
    made = ["--generate", "ising", "--size", "20", "--coupling", "9", "--schedule", "lbp", "--max-iterations", "9"]
    options = [*made, "--checkpoint", str(kept), "--json"]
    status, output = launch(2, ["-c", KILLED, "bp", "infer", *options, "--checkpoint-every", "1e-9"], 120)
    assert status not in (0, None), output
    status, output = launch(3, [*MAIN, *options], 120)
    assert status == 0 and "continuing after 2 iterations" in output, output
    found = json.loads(output[output.index("{\n") :])
    whole = infer(ising(20, 9.0), "lbp", max_iterations=9)
    assert found["iterations"] == 9
    np.testing.assert_allclose(np.concatenate(found["marginals"]), whole.marginals, atol=1e-12)
