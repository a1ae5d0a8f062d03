"""Hosts with limited links on one machine, and what is measured over them."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hpcblaz.cli.main import main
from hpcblaz.errors import ConfigurationError, HpcblazError
from hpcblaz.mpi.network import Host, hosts
from hpcblaz.mpi.spawn import find_mpirun

_SEND = """
import socket, sys
with socket.create_connection((sys.argv[1], 7117)) as peer:
    for _ in range(int(sys.argv[2])):
        peer.sendall(bytes(1 << 16))
"""
_RECEIVE = """
import socket, time
with socket.create_server(("", 7117)) as server:
    print("ready", flush=True)
    peer, _ = server.accept()
    begin, count = time.perf_counter(), 0
    while data := peer.recv(1 << 16):
        count += len(data)
    print(8e-9 * count / (time.perf_counter() - begin))
"""


@pytest.fixture
def pair() -> Iterator[list[Host]]:
    try:
        with hosts(2, 0.1) as found:
            yield found
    except ConfigurationError as error:
        pytest.skip(str(error))


def namespaces() -> str:
    return subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout


def test_a_link_is_as_slow_as_it_should_be(pair: list[Host]) -> None:
    receiver = subprocess.Popen([*pair[1].prefix, "python3", "-c", _RECEIVE], stdout=subprocess.PIPE, text=True)
    assert receiver.stdout is not None
    with receiver:
        assert receiver.stdout.readline() == "ready\n"
        sender = [*pair[0].prefix, "python3", "-c", _SEND, "10.231.7.2", "60"]
        subprocess.run(sender, check=True, timeout=60)
        gigabits = float(receiver.stdout.readline())
    assert gigabits < 0.15  # the burst at the beginning is free; a busy machine is slower


def test_hosts_go_when_they_are_not_needed(pair: list[Host]) -> None:
    names = [host.prefix[-1] for host in pair]
    assert all(name in namespaces() for name in names)
    with pytest.raises(KeyError), hosts(1, 1.0) as more:
        names.append(more[0].prefix[-1])
        raise KeyError
    assert names[-1] not in namespaces().split()


def test_a_machine_that_permits_none_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigurationError, match="iproute2"), hosts(1, 1.0):
        pass
    refusing = tmp_path / "ip"
    refusing.write_text("#!/bin/sh\necho Operation not permitted >&2\nexit 1\n")
    refusing.chmod(0o755)
    (tmp_path / "tc").symlink_to(refusing)
    with pytest.raises(ConfigurationError, match="Operation not permitted"), hosts(1, 1.0):
        pass


def test_the_benchmark(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    pytest.importorskip("scipy")
    pytest.importorskip("matplotlib")
    try:
        find_mpirun()
    except HpcblazError as error:
        pytest.skip(str(error))
    path, picture = tmp_path / "found.json", tmp_path / "found.png"
    begin = time.time()
    assert main(["bench", "collectives", "--quick", "--json", str(path), "--plot", str(picture)]) == 0
    found = json.loads(path.read_text())
    for row in found["rows"]:
        assert row["error"] <= row["bound"] * (1 + 1e-6) and row["bound"] <= row["tolerance"]
        assert 0 < row["seconds"] < time.time() - begin
        assert row["bytes_sent"] < row["mpi_bytes_sent"]
    assert {row["data"] for row in found["rows"]} == {"noise", "layers", "field"}
    limited = {row["gigabits"] for row in found["rows"]} == {1.0, 10.0}
    assert limited or found["remarks"]
    assert limited == (found["model"] is not None)
    assert picture.stat().st_size > 10_000
    said = capsys.readouterr().out
    assert "12 of 12 errors within" in said or not limited
