from __future__ import annotations

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from hpcblaz.backend import compile as compiling

ROOT = Path(__file__).resolve().parents[2]
SCAN = """
import numpy as np
from hpcblaz.backend import cpu
from hpcblaz.backend.blocks import BlockGrid
from hpcblaz.backend.compile import cache_folder
numerics = cpu.Numerics(BlockGrid((4,), (4,)), "identity", "float32")
print(cpu.value_range(np.array([1, -2, 3, 0], np.float32), numerics), cache_folder())
"""


def start(**environment: str) -> subprocess.Popen[str]:
    clean = {k: v for k, v in os.environ.items() if k not in ("HPCBLAZ_CACHE_DIR", "NUMBA_CACHE_DIR", "XDG_CACHE_HOME")}
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", SCAN],
        cwd=ROOT,
        env=clean | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> Path:
    """Wait; return the folder of the kernels that the process has used."""
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    values, folder = output.strip().rsplit(" ", 1)
    assert values == "(-2.0, 3.0)"
    return Path(folder)


def files(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_a_second_process_compiles_nothing(tmp_path: Path) -> None:
    folder = finish(start(HPCBLAZ_CACHE_DIR=str(tmp_path)))
    assert folder.parent == tmp_path
    assert not stat.S_IMODE(folder.stat().st_mode) & 0o077
    before = files(tmp_path)
    assert any(path.suffix == ".nbc" for path in before)  # the machine code itself
    assert finish(start(HPCBLAZ_CACHE_DIR=str(tmp_path))) == folder
    assert files(tmp_path) == before


def test_one_of_several_processes_compiles(tmp_path: Path) -> None:
    processes = [start(HPCBLAZ_CACHE_DIR=str(tmp_path), NUMBA_DEBUG_CACHE="1") for _ in range(3)]
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    saved = [output.count("data saved to") for output in outputs]
    assert sorted(map(bool, saved)) == [False, False, True]
    assert [output.count("data loaded from") > 0 for output in outputs] == [not count for count in saved]


def test_several_processes_may_start_at_once(tmp_path: Path) -> None:
    folders = {finish(process) for process in [start(HPCBLAZ_CACHE_DIR=str(tmp_path)) for _ in range(3)]}
    assert len(folders) == 1
    (folder,) = folders
    names = [path.name for path in folder.iterdir()]
    assert names == ["identity_1x1x1x1_float32_packed"]  # no half-written copies


def test_where_the_folder_lies(tmp_path: Path) -> None:
    names = ("HPCBLAZ_CACHE_DIR", "NUMBA_CACHE_DIR", "XDG_CACHE_HOME", "HOME")
    everything = {name: str(tmp_path / name) for name in names}
    expected = [
        tmp_path / names[0],
        tmp_path / names[1],
        tmp_path / names[2] / "hpcblaz",
        tmp_path / "HOME/.cache/hpcblaz",
    ]
    for first, parent in enumerate(expected):
        with pytest.MonkeyPatch.context() as patch:
            for name in names[:first]:
                patch.delenv(name, raising=False)
            for name in names[first:]:
                patch.setenv(name, everything[name])
            assert compiling._candidates() == [parent]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HPCBLAZ_CACHE_DIR", "")  # as good as unset
        patch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
        assert compiling._candidates() == [tmp_path]


def fresh_folder(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HPCBLAZ_CACHE_DIR", str(cache))
    return compiling._folder.__wrapped__()


def test_another_source_has_another_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = fresh_folder(tmp_path / "cache", monkeypatch)
    assert fresh_folder(tmp_path / "cache", monkeypatch) == before
    changed = tmp_path / "templates"
    changed.mkdir()
    for source in compiling._TEMPLATES.glob("*.py"):
        (changed / source.name).write_bytes(source.read_bytes())
    monkeypatch.setattr(compiling, "_TEMPLATES", changed)
    assert compiling._source_hash.__wrapped__() == compiling._source_hash()  # the place does not matter
    with (changed / "decode.py").open("a") as file:
        file.write("\n")
    altered = compiling._source_hash.__wrapped__()
    assert altered != compiling._source_hash()
    monkeypatch.setattr(compiling, "_source_hash", lambda: altered)
    assert fresh_folder(tmp_path / "cache", monkeypatch) not in (before, None)


@pytest.mark.parametrize("mode", [0o770, 0o702, 0o777])
def test_a_folder_that_others_may_write_is_not_used(mode: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fresh_folder(tmp_path, monkeypatch)
    folder.chmod(mode)
    other = fresh_folder(tmp_path, monkeypatch)
    try:
        assert other != folder
        assert other.parent != tmp_path
        assert not stat.S_IMODE(other.stat().st_mode) & 0o077
    finally:
        other.rmdir()
    folder.chmod(0o755)  # to be read by others does no harm
    assert fresh_folder(tmp_path, monkeypatch) == folder


def test_a_folder_of_somebody_else_is_not_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert compiling._is_private(tmp_path)
    owner = tmp_path.stat().st_uid
    monkeypatch.setattr(os, "geteuid", lambda: owner + 1)
    assert not compiling._is_private(tmp_path)


def test_a_place_that_cannot_be_written_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    folder = fresh_folder(tmp_path / "file" / "below", monkeypatch)
    try:
        assert folder.is_dir()
    finally:
        folder.rmdir()
