"""The benchmark of storage, on a small field: what is read is what a rank needs, and nothing is decoded for it."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from hpcblaz.cli import bench
from hpcblaz.errors import CommunicatorError, ConfigurationError
from hpcblaz.fields import storage_benchmark
from hpcblaz.fields.storage_benchmark import FILE, RAW, STORE
from hpcblaz.mpi.spawn import Finished, find_mpirun

pytest.importorskip("zarr", reason="zarr is not installed: pip install 'hpcblaz[io]'")


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    bench.register(parser.add_subparsers())
    return parser.parse_args(["bench", "storage", *arguments])


def test_a_quick_trial(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        find_mpirun()
    except CommunicatorError as error:
        pytest.skip(str(error))
    pytest.importorskip("mpi4py", reason="mpi4py is not installed: pip install 'hpcblaz[mpich]'")
    path = tmp_path / "storage.json"
    assert bench.run(parse("--quick", "--ranks", "2", "--json", str(path))) == 0
    found = json.loads(path.read_text())
    assert found["settings"] == {"quick": True, "side": 32, "repeats": 1, "ranks": 2}
    assert [(row["what"], row["ranks"]) for row in found["written"]] == [(STORE, 2), (FILE, 2), (RAW, 2)]
    size = 4 * 32**3
    for row in found["written"]:
        assert row["seconds"] > row["compress"] >= 0 and 0 < row["stored_bytes"] < 1.1 * size
    read = {(row["what"], row["ranks"]): row for row in found["read"]}
    assert set(read) == {(what, ranks) for what in (STORE, FILE, RAW) for ranks in (1, 2, 3)}
    stored = {row["what"]: row["stored_bytes"] for row in found["written"]}
    for (what, ranks), row in read.items():
        assert len(row["bytes_read"]) == len(row["bytes_decoded"]) == ranks and row["values"] > 0
        assert all(0 < count < stored[what] for count in row["bytes_read"])
        assert all((count > 0) == (what == RAW) for count in row["bytes_decoded"])
    assert sum(read[STORE, 2]["bytes_read"]) == sum(read[STORE, 1]["bytes_read"])  # a chunk for each rank
    assert read[RAW, 1]["bytes_decoded"] == [size]
    printed = capsys.readouterr().out
    assert printed.count(f"| {STORE} |") == 4 and "on the disk" not in printed and "load" in printed


@pytest.mark.parametrize("option", [("--gpu",), ("--ranks", "0"), ("--against", "x.json"), ("--plot", "x.png")])
def test_options_that_make_no_sense(option: tuple[str, ...]) -> None:
    with pytest.raises(ConfigurationError, match="expected"):
        bench.run(parse(*option))


@pytest.mark.parametrize("status", [1, None])
def test_ranks_that_fail(monkeypatch: pytest.MonkeyPatch, status: int | None) -> None:
    def fail(*arguments: Any, **options: Any) -> Finished:
        return Finished(status, "", "no room on the\ndisk")

    monkeypatch.setattr(storage_benchmark, "run_ranks", fail)
    with pytest.raises(CommunicatorError, match=r"expected 4 ranks to write, got .*: no room on the disk"):
        bench.run(parse("--quick"))
