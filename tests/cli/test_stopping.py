"""Signals: long work stops where it can be continued, and every other verb ends with a message and no half file."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from hpcblaz.cli import stopping
from hpcblaz.cli.main import main
from hpcblaz.cli.stopping import Terminated, end_on_signals, stop_on_signals
from hpcblaz.errors import CommunicatorError
from hpcblaz.mpi.spawn import find_mpirun

pytest.importorskip("zarr", reason="zarr is not installed: pip install 'hpcblaz[io]'")

SLOW = """
import sys, time
from hpcblaz.cli.main import main
from hpcblaz.fields import converting
converting.CHUNK_CELLS = 2000
class Slow(converting.Checkpoint):
    def write(self, name, data):
        time.sleep(float(sys.argv[1]))
        super().write(name, data)
converting.Checkpoint = Slow
sys.exit(main(sys.argv[2:]))
"""
HELD = """
import sys, time
from hpcblaz.cli import decompress, main
from hpcblaz.mpi.atomic import AtomicFile
from hpcblaz.mpi import world
def run(arguments):
    if world().rank == 0:
        with AtomicFile(arguments.output) as file:
            file.write_at(0, b"half")
            print("half", file=sys.stderr, flush=True)
            time.sleep(60)
    world().barrier()
    return 0
decompress.run = run
sys.exit(main.main(sys.argv[1:]))
"""
CHUNKS = 40


def start(ranks: int, arguments: list[str]) -> subprocess.Popen[str]:
    launcher = []
    if ranks > 1:
        try:
            launcher = [find_mpirun(), "-n", str(ranks)]
        except CommunicatorError as error:
            pytest.skip(str(error))
    environment = os.environ | {"HYDRA_LAUNCHER": "fork", "OMPI_ALLOW_RUN_AS_ROOT": "1"}
    environment |= {"OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1", "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe"}
    return subprocess.Popen(
        [*launcher, sys.executable, "-c", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    try:
        output, _ = process.communicate(timeout=180)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        pytest.fail(f"no end: {output}")
    return process.returncode, output


def wait_for_chunks(folder: Path, count: int) -> None:
    until = time.monotonic() + 180
    while len([path for path in folder.glob("a.zarr.partial/store-*/x/c/**/*") if path.is_file()]) < count:
        assert time.monotonic() < until, list(folder.rglob("*"))
        time.sleep(0.02)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("source") / "x.npy"
    np.save(path, np.random.default_rng(2).normal(size=(CHUNKS * 4, 16, 28)).cumsum(0))
    return path


@pytest.fixture(scope="module")
def expected(source: Path) -> dict[str, bytes]:
    store = source.with_name("e.zarr")
    status, output = finish(start(1, [SLOW, "0", "compress", str(source), str(store), "--relative", "1e-3"]))
    assert status == 0, output
    return files(store)


def files(store: Path) -> dict[str, bytes]:
    return {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("ranks", "number", "status"),
    [(1, signal.SIGTERM, 75), (1, signal.SIGINT, 75), (1, signal.SIGKILL, -9), (3, signal.SIGTERM, 75)],
    ids=["one, SIGTERM", "one, Ctrl-C", "one, SIGKILL", "three, SIGTERM"],
)
def test_a_signal_stops_compressing_and_the_same_command_continues(
    source: Path, tmp_path: Path, expected: dict[str, bytes], ranks: int, number: signal.Signals, status: int
) -> None:
    arguments = ["compress", str(source), str(tmp_path / "a.zarr"), "--relative", "1e-3"]
    process = start(ranks, [SLOW, "0.2", *arguments])
    wait_for_chunks(tmp_path, 4)
    process.send_signal(number)
    code, output = finish(process)
    assert code == status, output
    assert [path.name for path in tmp_path.iterdir()] == ["a.zarr.partial"]
    if number != signal.SIGKILL:
        assert re.search(rf"stopped as asked: \d+ of {CHUNKS} chunks are done", output), output
        assert output.count("is kept in") == 1, output
    code, output = finish(start(2 if ranks == 1 else 1, [SLOW, "0", *arguments]))
    assert code == 0, output
    done = re.findall(rf"continuing: (\d+) of {CHUNKS} chunks are done", output)
    assert len(done) == 1 and 4 <= int(done[0]) < CHUNKS, output
    assert files(tmp_path / "a.zarr") == expected
    assert [path.name for path in tmp_path.iterdir()] == ["a.zarr"]


def test_a_second_signal_ends_at_once(source: Path, tmp_path: Path) -> None:
    process = start(1, [SLOW, "30", "compress", str(source), str(tmp_path / "a.zarr"), "--tolerance", "1"])
    until = time.monotonic() + 180
    while not list(tmp_path.glob("a.zarr.partial/store-*/x")):
        assert time.monotonic() < until
        time.sleep(0.02)
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    time.sleep(1.2)
    process.send_signal(signal.SIGINT)
    code, output = finish(process)
    assert code == 130 and "interrupted" in output
    assert not list(tmp_path.iterdir())  # not one chunk was done


@pytest.mark.parametrize("ranks", [1, 3])
def test_another_verb_ends_with_a_message_and_no_half_file(source: Path, tmp_path: Path, ranks: int) -> None:
    process = start(ranks, [HELD, "decompress", str(source), str(tmp_path / "y.npy")])
    assert process.stdout is not None
    assert process.stdout.readline() == "half\n"
    assert len(list(tmp_path.iterdir())) == 1
    process.send_signal(signal.SIGTERM)
    code, output = finish(process)
    assert code == 143 and output.count("hpcblaz: ended by SIGTERM") == 1, output
    assert not list(tmp_path.iterdir())


def test_only_a_store_can_be_restarted(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compress", "a.npy", "a.hbz", "--tolerance", "1", "--restart"]) == 1
    assert "OUT.zarr" in capsys.readouterr().err


def test_handlers_are_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stopping, "_ONCE", 0.2)
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with pytest.raises(Terminated), end_on_signals(), stop_on_signals() as asked:
        os.kill(os.getpid(), signal.SIGTERM)
        assert asked()
        os.kill(os.getpid(), signal.SIGTERM)  # the same one, that came twice
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGTERM)
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_a_thread_that_is_not_the_main_one_leaves_signals_alone() -> None:
    found = []

    def look() -> None:
        with end_on_signals(), stop_on_signals() as asked:
            found.append((signal.getsignal(signal.SIGTERM), asked()))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [(signal.getsignal(signal.SIGTERM), False)]
