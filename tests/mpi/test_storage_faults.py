"""What becomes of a store while ranks are killed, stopped, or run out of space: real processes, real signals."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from mpi.test_launch import launch

import hpcblaz as hb
from hpcblaz.mpi.leftovers import remove_leftovers, temporary_name

pytest.importorskip("zarr", reason="zarr is not installed: pip install 'hpcblaz[io]'")

RANKS = 3
WRITER = """
import os, resource, signal, sys, time
import numpy as np, hpcblaz as hb
from hpcblaz.mpi.atomic import AtomicFolder
from hpcblaz.mpi import Layout, world

path, what, victim = sys.argv[1], sys.argv[2], int(sys.argv[3])
comm = world()
layout = Layout((24, 16, 16), comm, block_shape=(4, 4, 4), splits=(comm.size, 1, 1))
x = np.random.default_rng(1).normal(size=(24, 16, 16))
a = hb.compress(layout.local(x), layout=layout, tolerance=1e-3)
write, calls = AtomicFolder.write, []

def hindered(self, name, data):
    calls.append(name)
    if len(calls) == 2 and what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if len(calls) == 2 and what == "terminate":
        os.kill(os.getsid(0), signal.SIGTERM)  # mpirun, which has a session of its own
        time.sleep(60)
    write(self, name, data)

if comm.rank == victim:
    AtomicFolder.write = hindered
    if what == "limit":
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    a.save(path, chunks=(4, 16, 16))
except hb.errors.StorageError as error:
    print(f"said {error}", flush=True)
    sys.exit(3)
"""


def save_on_ranks(path: Path, what: str, victim: int) -> tuple[int | None, str]:
    return launch(RANKS, ["-c", WRITER, str(path), what, str(victim)], 90)


def contents(store: Path) -> dict[str, bytes]:
    return {str(file.relative_to(store)): file.read_bytes() for file in store.rglob("*") if file.is_file()}


def hidden(folder: Path) -> list[str]:
    return sorted(name for name in os.listdir(folder) if name.startswith("."))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "a.zarr"
    hb.compress(np.ones((24, 16, 16)), tolerance=1e-3).save(path)
    return path


def gone_process(code: str, *arguments: str) -> str:
    """Return what a process prints that has ended by then."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize("victim", [0, RANKS - 1])
def test_a_rank_is_killed_while_all_save(store: Path, victim: int) -> None:
    before = contents(store)
    status, output = save_on_ranks(store, "kill", victim)
    assert status not in (0, None) and output.strip(), output
    assert contents(store) == before
    (left,) = hidden(store.parent)  # whoever is killed cannot tidy up
    others = [
        store.parent / temporary_name("a.zarr"),  # of this process, which is alive
        store.parent / gone_process("from hpcblaz.mpi.leftovers import *; print(temporary_name('b.zarr'))"),
        store.parent / ".hpcblaz-0123456789abcdef.tmp",
    ]
    for other in others:
        other.mkdir()
    status, output = save_on_ranks(store, "nothing", 0)
    assert status == 0, output
    assert hidden(store.parent) == sorted(other.name for other in others) and left not in hidden(store.parent)
    x = np.random.default_rng(1).normal(size=(24, 16, 16))
    assert np.abs(hb.open(store).decompress() - x).max() <= 1e-3


def test_the_job_is_terminated_while_all_save(store: Path) -> None:
    before = contents(store)
    status, output = save_on_ranks(store, "terminate", 1)
    assert status not in (0, None), output
    assert contents(store) == before and hb.open(store).mean() == pytest.approx(1, abs=1e-3)
    assert len(hidden(store.parent)) == 1 and len(os.listdir(store.parent)) == 2


def test_one_rank_runs_out_of_space(store: Path) -> None:
    before = contents(store)
    status, output = save_on_ranks(store, "limit", 1)
    assert status not in (0, None), output
    assert output.count("larger than this process may write") == RANKS and output.count("said rank 1:") == 2, output
    assert contents(store) == before and os.listdir(store.parent) == ["a.zarr"]


def test_leftovers_of_other_machines_stay(tmp_path: Path) -> None:
    """What is not provably of a process of this machine, and gone, is left alone; files are removed as folders are."""
    name = gone_process("from hpcblaz.mpi.leftovers import *; print(temporary_name('a.hbz'))")
    start, target, machine, pid, began, token = name.split("-")
    elsewhere = "-".join([start, target, "f" * 16, pid, began, token])
    odd = "-".join([start, target, machine, "x", began, token])
    (tmp_path / name).write_text("half a file")
    (tmp_path / elsewhere).mkdir()
    (tmp_path / odd).mkdir()
    (tmp_path / "link").symlink_to(tmp_path / elsewhere)
    os.rename(tmp_path / "link", tmp_path / "-".join([start, target, machine, pid, began, "1234.tmp"]))
    hb.compress(np.ones(100), tolerance=1).save(tmp_path / "a.hbz")
    assert sorted(os.listdir(tmp_path)) == sorted([elsewhere, odd, "a.hbz"])
    remove_leftovers(tmp_path / "missing", "a.hbz")


def test_a_name_is_taken_by_another_process_since(tmp_path: Path) -> None:
    """Numbers of processes come back: when it began tells them apart."""
    start, target, machine, pid, began, token = temporary_name("a.hbz").split("-")
    again = "-".join([start, target, machine, pid, str(int(began) - 1), token])
    (tmp_path / again).mkdir()
    remove_leftovers(tmp_path, "a.hbz")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("can_swap", [True, False])
def test_a_link_to_a_store(tmp_path: Path, store: Path, can_swap: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store that a link names is replaced, the link is not; also where two names cannot change places at once."""
    link = tmp_path / "link.zarr"
    link.symlink_to(store)
    if not can_swap:
        monkeypatch.setattr("hpcblaz.mpi.atomic._swap", lambda one, other: False)
    hb.compress(np.zeros((16, 16)), tolerance=1e-3).save(link)
    assert link.is_symlink() and hb.open(store).shape == (16, 16) and hidden(tmp_path) == []
