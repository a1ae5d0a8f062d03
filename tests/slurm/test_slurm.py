"""The scripts of slurm/ on a real Slurm of several nodes: what they compute, and what they survive."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from slurm.one_machine import CARDS, OneMachine, missing

import hpcblaz as hb
from hpcblaz.mpi.launch import library_info
from hpcblaz.mpi.spawn import run_ranks

ROOT = Path(__file__).resolve().parents[2]
CHUNKS = 40
PATIENCE = 180  # seconds for a job that nothing holds up, on cores that other tests use, too
ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")
HPCBLAZ = f"""#!{sys.executable}
# hpcblaz with small chunks. Of a job's first start each takes $PAUSE seconds, and rank $KILLED dies at its third one;
# a checkpoint of messages takes as long.
# With $HOLD a file takes a minute to be complete.
import os, signal, sys, time
from hpcblaz.bp import distributed
from hpcblaz.cli.main import main
from hpcblaz.fields import converting
from hpcblaz.mpi import atomic
converting.CHUNK_CELLS = 2000
class Slow(converting.Checkpoint):
    written = 0
    def write(self, name, data):
        if "SLURM_RESTART_COUNT" not in os.environ:
            time.sleep(float(os.environ.get("PAUSE", "0")))
            if os.environ.get("KILLED") == os.environ["SLURM_PROCID"] and self.written == 2:
                os.kill(os.getpid(), signal.SIGKILL)
        super().write(name, data)
        self.written += 1
converting.Checkpoint = Slow
class SlowMessages(distributed.InferenceCheckpoint):
    def save(self, *arguments):
        super().save(*arguments)
        if "SLURM_RESTART_COUNT" not in os.environ:
            time.sleep(float(os.environ.get("PAUSE", "0")))
distributed.InferenceCheckpoint = SlowMessages
if "HOLD" in os.environ:
    atomic.AtomicFile.commit = lambda file: time.sleep(60)
sys.exit(main())
"""

pytestmark = pytest.mark.slurm


class Cluster:
    """Submits scripts and looks after their jobs; all files are in one folder."""

    def __init__(self, machine: OneMachine, folder: Path) -> None:
        self.machine, self.folder = machine, folder
        programs = folder / "bin"
        programs.mkdir()
        (programs / "hpcblaz").write_text(HPCBLAZ)
        (programs / "hpcblaz").chmod(0o755)
        path = os.pathsep.join([str(programs), str(Path(sys.executable).parent), os.environ["PATH"]])
        modules = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        self.environment = machine.environment() | {"PATH": path, "PYTHONPATH": modules, "SLURM_WAIT": "5"}
        self.environment |= {"MPIR_CVAR_CH4_NETMOD": "ofi"}

    def submit(self, script: str, *arguments: str, options: str = "", **variables: str) -> str:
        """Put a script into the queue; return the number of the job."""
        command = ["sbatch", "--parsable", "--output=%A_%a.out", "--cpus-per-task=1", *options.split()]
        done = subprocess.run(
            [*command, str(ROOT / "slurm" / script), *arguments],
            env=self.environment | variables,
            cwd=self.folder,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def facts(self, job: str) -> dict[str, str]:
        """Return what Slurm says of a job."""
        return dict(re.findall(r"(\S+?)=(\S*)", self.machine.run("scontrol", "-o", "show", "job", job)))

    def wait(self, job: str, until: Callable[[], bool] | None = None, patience: float = PATIENCE) -> str:
        """Wait until a job has ended, or for something else; return the state of the job."""
        last = time.monotonic() + patience
        while True:
            reached = until is not None and until()
            state = self.facts(job).get("JobState", "")  # asked for afterwards: it is at least as new
            if reached or (until is None and state in ENDED):
                return state
            assert time.monotonic() < last, f"{state}: {self.output(job)}"
            time.sleep(0.1)

    def output(self, job: str) -> str:
        """Return what a job has printed."""
        number, _, case = job.partition("_")
        path = self.folder / f"{number}_{case or 4294967294}.out"  # the number that stands for no array
        return path.read_text() if path.exists() else ""

    def chunks(self, store: str) -> int:
        """Return how many chunks of unfinished work are done."""
        return sum(path.is_file() for path in self.folder.glob(f"{store}.partial/store-*/x/c/**/*"))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    reason = missing()
    if reason:
        pytest.skip(reason)
    if "mpich" not in str(library_info()["wheel"]):
        pytest.skip("no MPICH of PyPI, which Slurm's pmi2 fits: pip install 'hpcblaz[mpich]'")
    pytest.importorskip("zarr", reason="zarr is not installed: pip install 'hpcblaz[io]'")
    machine = OneMachine(tmp_path_factory.mktemp("slurm"))
    try:
        machine.start()
        folder = tmp_path_factory.mktemp("jobs")
        np.save(folder / "x.npy", np.random.default_rng(2).normal(size=(CHUNKS * 4, 16, 28)).cumsum(0))
        yield Cluster(machine, folder)
    finally:
        machine.run("scancel", "--full", "--user=root")
        machine.stop()


@pytest.fixture(scope="module")
def time_is_up(cluster: Cluster) -> str:
    """A job that its time limit stops; it takes a minute, in which the other tests run."""
    options = "--nodes=2 --nodelist=n1,n2 --ntasks-per-node=1 --time=2"
    return cluster.submit("cpu.sbatch", *compress("limit.zarr"), options=options, PAUSE="5")


@pytest.fixture(scope="module")
def expected(cluster: Cluster, time_is_up: str) -> dict[str, bytes]:
    """The files of a store that was made without a break."""
    job = cluster.submit("cpu.sbatch", *compress("whole.zarr"), options="--nodes=1 --ntasks-per-node=1")
    assert cluster.wait(job) == "COMPLETED", cluster.output(job)
    return files(cluster, "whole.zarr")


def compress(store: str) -> list[str]:
    return ["compress", "x.npy", store, "--relative", "1e-3"]


def files(cluster: Cluster, store: str) -> dict[str, bytes]:
    root = cluster.folder / store
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_ranks_of_two_nodes_compute_together(cluster: Cluster, time_is_up: str) -> None:
    arguments = ["stats", "x.npy", "--tolerance", "1e-2", "--json"]
    job = cluster.submit("cpu.sbatch", *arguments, options="--nodelist=n3,n4")
    assert cluster.wait(job) == "COMPLETED", cluster.output(job)
    output = cluster.output(job)
    assert "2 nodes, 4 ranks, 1 threads a rank" in output
    assert cluster.facts(job)["NodeList"] == "n[3-4]"
    found = json.loads(output[output.index("{") :])
    x = np.load(cluster.folder / "x.npy").astype(np.longdouble)
    truth = {"mean": x.mean(), "sum": x.sum(), "variance": x.var(), "norm": np.linalg.norm(x.ravel())}
    assert found["ranks"] == 4
    for name, value in truth.items():
        answer = found["statistics"][name]
        assert abs(answer["value"] - value) <= answer["error"], name


def test_a_store_is_within_the_tolerance(cluster: Cluster, expected: dict[str, bytes]) -> None:
    assert sum("/c/" in name for name in expected) == CHUNKS
    x = np.load(cluster.folder / "x.npy")
    a = hb.open(cluster.folder / "whole.zarr", "x")
    error = np.abs(a.decompress() - x).max()
    assert 0 < error <= a.error.max_abs <= 1e-3 * np.ptp(x) * (1 + 1e-12)


@pytest.mark.parametrize("event", ["its node fails", "it is queued again"])
def test_a_job_is_continued_after(cluster: Cluster, expected: dict[str, bytes], event: str) -> None:
    options, store = "--nodes=2 --nodelist=n3,n4 --ntasks-per-node=1", f"{event}.zarr"
    job = cluster.submit("cpu.sbatch", *compress(store), options=options, PAUSE="0.5")
    cluster.wait(job, lambda: cluster.chunks(store) >= 4)
    if event == "its node fails":
        cluster.machine.run("scontrol", "update", "NodeName=n4", "State=DOWN", "Reason=test")
    else:
        cluster.machine.run("scontrol", "requeue", job)
    cluster.wait(job, lambda: cluster.facts(job)["Restarts"] == "1")
    assert not (cluster.folder / store).exists()
    cluster.machine.run("scontrol", "update", "NodeName=n4", "State=RESUME")
    assert cluster.wait(job) == "COMPLETED", cluster.output(job)
    done = re.search(rf"continuing: (\d+) of {CHUNKS} chunks are done", cluster.output(job))
    assert done and int(done[1]) >= 4, cluster.output(job)
    assert cluster.output(job).count("2 nodes, 2 ranks") == 2  # of both starts: the output was added to
    assert files(cluster, store) == expected


def test_a_rank_that_is_killed_ends_the_job_and_another_one_continues(
    cluster: Cluster, expected: dict[str, bytes]
) -> None:
    """The other ranks wait for it in a collective call."""
    options = "--nodes=2 --nodelist=n3,n4 --ntasks-per-node=1"
    job = cluster.submit("cpu.sbatch", *compress("killed.zarr"), options=options, KILLED="1")
    assert cluster.wait(job) == "FAILED"
    assert "task 1: Killed" in cluster.output(job)
    assert not (cluster.folder / "killed.zarr").exists() and cluster.chunks("killed.zarr") >= 2
    job = cluster.submit("cpu.sbatch", *compress("killed.zarr"), options="--nodes=1 --ntasks-per-node=3")
    assert cluster.wait(job) == "COMPLETED", cluster.output(job)
    assert f" of {CHUNKS} chunks are done" in cluster.output(job)
    assert files(cluster, "killed.zarr") == expected


def test_a_sweep_has_a_job_for_each_line(cluster: Cluster, expected: dict[str, bytes]) -> None:
    """The last one is stopped by a signal, and goes back into the queue alone."""
    cases = [f'compress x.npy "case {tolerance}.zarr" --tolerance {tolerance}' for tolerance in (1e-1, 1e-2)]
    (cluster.folder / "cases.txt").write_text("\n".join([*cases, " ".join(compress("case.zarr"))]) + "\n")
    job = cluster.submit("sweep.sbatch", "cases.txt", options="--array=1-4", PAUSE="0.2")
    cluster.wait(f"{job}_3", lambda: cluster.chunks("case.zarr") >= 3)
    cluster.machine.run("scancel", "--signal=TERM", f"{job}_3")
    assert cluster.wait(f"{job}_4") == "FAILED"
    assert "expected a case in line 4" in cluster.output(f"{job}_4")
    for case in (1, 2, 3):
        assert cluster.wait(f"{job}_{case}") == "COMPLETED", cluster.output(f"{job}_{case}")
        assert cluster.facts(f"{job}_{case}")["Restarts"] == ("1" if case == 3 else "0")
    assert "continuing: " in cluster.output(f"{job}_3")
    assert files(cluster, "case.zarr") == expected
    sizes = [len(b"".join(files(cluster, f"case {tolerance}.zarr").values())) for tolerance in (1e-1, 1e-2)]
    assert 0 < sizes[0] < sizes[1]


def test_a_job_that_is_cancelled_stays_out(cluster: Cluster, time_is_up: str) -> None:
    options = "--nodes=1 --ntasks-per-node=1"
    job = cluster.submit("cpu.sbatch", *compress("cancelled.zarr"), options=options, PAUSE="0.5")
    cluster.wait(job, lambda: cluster.chunks("cancelled.zarr") >= 2)
    cluster.machine.run("scancel", job)
    assert cluster.wait(job, lambda: "EndTime" in cluster.facts(job) and not steps(cluster, job)) == "CANCELLED"
    assert cluster.facts(job)["Restarts"] == "0"
    assert not (cluster.folder / "cancelled.zarr").exists() and cluster.chunks("cancelled.zarr") >= 2


def test_a_verb_that_is_ended_leaves_no_half_file(cluster: Cluster, expected: dict[str, bytes]) -> None:
    options = "--nodes=2 --nodelist=n3,n4 --ntasks-per-node=1"
    job = cluster.submit("cpu.sbatch", "decompress", "whole.zarr", "y.npy", options=options, HOLD="1")
    cluster.wait(job, lambda: any(cluster.folder.glob(".hpcblaz-*")))
    cluster.machine.run("scancel", "--signal=TERM", job)
    assert cluster.wait(job) == "FAILED"
    assert cluster.output(job).count("hpcblaz: ended by SIGTERM") == 1, cluster.output(job)
    assert not any(cluster.folder.glob(".hpcblaz-*")) and not (cluster.folder / "y.npy").exists()


def steps(cluster: Cluster, job: str) -> str:
    return cluster.machine.run("squeue", "--noheader", "--states=RUNNING,COMPLETING", f"--job={job}")


@pytest.mark.parametrize("arguments", [["info"], ["stats", "x.npy", "--tolerance", "1e-2"]], ids=lambda words: words[0])
def test_ranks_that_are_not_connected_are_refused(cluster: Cluster, time_is_up: str, arguments: list[str]) -> None:
    options = "--nodes=2 --nodelist=n3,n4 --ntasks-per-node=1"
    job = cluster.submit("cpu.sbatch", *arguments, options=options, HPCBLAZ_MPI="none")
    assert cluster.wait(job) == "FAILED"
    output = cluster.output(job)
    assert output.count("hpcblaz: expected 2 connected ranks, which srun started, but MPI sees 1") == 1, output
    assert "--mpi=pmi2" in output and "Traceback" not in output
    assert re.search(r"n3: task 0: Exited with exit code 1\b", output), output
    assert re.search(r"n4: task 1: Exited with exit code 1\b", output), output


def test_every_rank_has_a_card_of_its_own(cluster: Cluster, time_is_up: str) -> None:
    options = f"--nodes=2 --nodelist=n3,n4 --ntasks-per-node={CARDS}"
    job = cluster.submit("gpu.sbatch", "info", "--json", options=options)
    assert cluster.wait(job) == "COMPLETED", cluster.output(job)
    output = cluster.output(job)
    cards = re.findall(r"rank (\d): card (\S+) of (n\d)", output)
    assert sorted(rank for rank, _, _ in cards) == ["0", "1", "2", "3"]
    assert sorted((node, card) for _, card, node in cards) == [(n, str(i)) for n in ("n3", "n4") for i in range(CARDS)]
    found = json.loads(output[output.index("{") :])
    assert found["mpi"]["size"] == 2 * CARDS and found["mpi"]["local_rank"] == 0


@pytest.mark.parametrize("asked", ["--gpus-per-task=1", f"--gpus-per-node={CARDS}"])
def test_ranks_of_a_node_take_different_cards(cluster: Cluster, time_is_up: str, asked: str) -> None:
    """Whether Slurm lets each see its own, or all see all."""
    code = (
        "import os; from hpcblaz.mpi import device_number, world\n"
        "cards = os.environ['CUDA_VISIBLE_DEVICES'].split(',')\n"
        "print(os.environ['SLURMD_NODENAME'], cards[device_number(world(), len(cards))])\n"
    )
    where = ["--nodes=2", "--nodelist=n3,n4", f"--ntasks-per-node={CARDS}", "--mpi=pmi2", asked]
    done = subprocess.run(
        ["srun", *where, sys.executable, "-c", code],
        env=cluster.environment,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert sorted(done.stdout.splitlines()) == [f"{n} {i}" for n in ("n3", "n4") for i in range(CARDS)], done.stderr


def test_without_a_card_a_gpu_job_fails_with_one_message(cluster: Cluster, time_is_up: str) -> None:
    if os.path.exists("/proc/driver/nvidia/version"):
        pytest.skip("there is a card")
    options = "--nodes=2 --nodelist=n3,n4 --ntasks-per-node=1"
    job = cluster.submit("gpu.sbatch", "stats", "x.npy", "--tolerance", "1e-2", options=options)
    assert cluster.wait(job) == "FAILED"
    assert cluster.output(job).count("hpcblaz: ") == 1, cluster.output(job)


@pytest.mark.parametrize("script", ["cpu.sbatch", "gpu.sbatch", "sweep.sbatch"])
def test_a_script_without_arguments_says_what_it_expects(cluster: Cluster, time_is_up: str, script: str) -> None:
    job = cluster.submit(script, options="--nodes=1 --ntasks-per-node=1")
    assert cluster.wait(job) == "FAILED"
    assert re.match(r"expected .*, got .*: sbatch .*slurm/", cluster.output(job)), cluster.output(job)


def test_belief_propagation_is_continued(cluster: Cluster, time_is_up: str) -> None:
    """The same command line under mpirun finds the same, without a break."""
    settings = ["--size", "60,90", "--coupling", "9", "--schedule", "lbp", "--max-iterations", "25"]
    command = ["bp", "infer", "--generate", "ising", *settings, "--checkpoint-every", "1e-3"]
    arguments = [*command, "--checkpoint", "bp.messages", "-o", "bp.MAR"]
    options = "--nodes=2 --nodelist=n3,n4 --ntasks-per-node=1"
    job = cluster.submit("cpu.sbatch", *arguments, options=options, PAUSE="2")
    cluster.wait(job, lambda: (cluster.folder / "bp.messages").exists())
    cluster.machine.run("scancel", "--signal=TERM", job)
    assert cluster.wait(job) == "COMPLETED", cluster.output(job)
    output = cluster.output(job)
    assert re.search(r"stopped as asked after \d+ iterations", output) and "continuing after " in output, output
    assert cluster.facts(job)["Restarts"] == "1"
    other = [str(cluster.folder / name) for name in ("other.messages", "other.MAR")]
    more = [*command, "--checkpoint", other[0], "-o", other[1]]
    done = run_ranks(["-m", "hpcblaz.cli.main", *more], 3, timeout=PATIENCE, merge=True)
    assert done.status == 0, done.output
    assert (cluster.folder / "bp.MAR").read_bytes() == Path(other[1]).read_bytes()


def test_a_job_whose_time_is_up_is_continued(cluster: Cluster, time_is_up: str, expected: dict[str, bytes]) -> None:
    """Last, as it takes longest."""
    assert cluster.wait(time_is_up, patience=2 * PATIENCE) == "COMPLETED", cluster.output(time_is_up)
    output = cluster.output(time_is_up)
    assert re.search(rf"stopped as asked: \d+ of {CHUNKS} chunks are done", output), output
    assert output.count("requeued, to continue") == 1 and "continuing: " in output, output
    assert cluster.facts(time_is_up)["Restarts"] == "1"
    assert files(cluster, "limit.zarr") == expected
