"""Work that is stopped, killed or fails is continued, and ends in the very bytes of work that was never disturbed."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hpcblaz.errors import ConfigurationError, FileFormatError, StoppedError, StorageError
from hpcblaz.fields import checkpoint, converting
from hpcblaz.fields.checkpoint import Checkpoint, place_of
from hpcblaz.fields.codec import ToleranceCodec
from hpcblaz.fields.conversion_plan import facts_of_file
from hpcblaz.fields.converting import convert
from hpcblaz.mpi import Communicator, SerialCommunicator

for package in ("zarr", "xarray", "h5py"):
    pytest.importorskip(package, reason=f"{package} is not installed: pip install 'hpcblaz[io]'")
import h5py  # noqa: E402  what is imported above

Shared = Callable[[str], Path]
FACTS = {"input": "a"}
CHUNKS = 30  # of both variables
NAMES = ["t", "u"]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(converting, "CHUNK_CELLS", 600)


@pytest.fixture(scope="module")
def shared(comm: Communicator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shared]:
    """New folders that all ranks see."""
    root = Path(comm.broadcast(str(tmp_path_factory.mktemp("shared"))))

    def folder(name: str) -> Path:
        path = root / name
        if comm.rank == 0:
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir()
        comm.barrier()
        return path

    yield folder


@pytest.fixture(scope="module")
def source(comm: Communicator, shared: Shared) -> Path:
    path = shared("source") / "a.h5"
    if comm.rank == 0:
        rng = np.random.default_rng(3)
        with h5py.File(path, "w") as file:
            for name in NAMES:
                file[name] = rng.normal(size=(60, 10, 11)).cumsum(0)
    comm.barrier()
    return path


def work(source: Path, store: Path, comm: Communicator, **options: Any) -> list[converting.Converted]:
    target = options.pop("target", {"relative": 1e-3})
    return convert(source, store, NAMES, comm, target=target, codec=ToleranceCodec(), **options)


@pytest.fixture(scope="module")
def expected(source: Path, comm: Communicator, shared: Shared) -> dict[str, bytes]:
    """The files of a store that was made by one rank without a break."""
    path = shared("expected")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(converting, "CHUNK_CELLS", 600)
        if comm.rank == 0:
            work(source, path / "a.zarr", SerialCommunicator())
    comm.barrier()
    return files(path / "a.zarr")


def files(store: Path) -> dict[str, bytes]:
    return {str(path.relative_to(store)): path.read_bytes() for path in store.rglob("*") if path.is_file()}


def after(questions: int) -> Callable[[], bool]:
    """Ask to stop at the question of this number, and from then on."""
    asked = iter(range(10**9))
    return lambda: next(asked) >= questions


def test_what_is_expected_has_many_chunks(expected: dict[str, bytes]) -> None:
    assert sum("/c/" in name for name in expected) == CHUNKS


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(stops=st.lists(st.integers(0, CHUNKS + 4), max_size=4))
def test_any_stops_give_the_same_bytes(
    source: Path, tmp_path_factory: pytest.TempPathFactory, expected: dict[str, bytes], stops: list[int]
) -> None:
    store = tmp_path_factory.mktemp("stops") / "a.zarr"
    said: list[str] = []
    finished = False
    for stop in stops:
        if finished:
            break
        try:
            work(source, store, SerialCommunicator(), stop=after(stop), say=said.append)
            finished = True
        except StoppedError:
            assert not store.exists()
    if not finished:
        work(source, store, SerialCommunicator(), say=said.append)
    assert files(store) == expected
    assert [path.name for path in store.parent.iterdir()] == ["a.zarr"]
    assert sum("continuing" in text for text in said) == sum("kept" in text for text in said)


@pytest.mark.mpi
@pytest.mark.parametrize("questions", [0, 1, 6, 17])
def test_one_rank_stops_all_and_others_continue(
    source: Path, comm: Communicator, shared: Shared, expected: dict[str, bytes], questions: int
) -> None:
    """Begun by one rank, stopped; continued by all, of which only the last is asked to stop; continued by all."""
    store = shared(f"one{questions}") / "a.zarr"
    if comm.rank == 0:
        with pytest.raises(StoppedError):
            work(source, store, SerialCommunicator(), stop=after(questions))
    comm.barrier()
    stop = after(questions) if comm.rank == comm.size - 1 else None
    said: list[str] = []
    try:
        work(source, store, comm, stop=stop)
    except StoppedError as error:
        assert f"of {CHUNKS} chunks are done" in str(error)
        found = work(source, store, comm, say=said.append)
        alone = work(source, store.with_name("b.zarr"), comm)
        assert [(one.missing, one.output_bytes, one.max_abs_error) for one in found] == [
            (one.missing, one.output_bytes, one.max_abs_error) for one in alone
        ]
        assert [one.l2_error for one in found] == pytest.approx([one.l2_error for one in alone], rel=1e-12)
    assert files(store) == expected
    assert not place_of(store).exists()


@pytest.mark.mpi
def test_a_rank_that_fails_keeps_what_others_have_done(
    source: Path, comm: Communicator, shared: Shared, expected: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = shared("fails") / "a.zarr"
    write, done = Checkpoint.write, iter(range(100))

    def full(self: Checkpoint, name: str, data: bytes) -> None:
        if comm.rank == comm.size - 1 and next(done) == 3:
            raise StorageError("the disk is full")
        write(self, name, data)

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "write", full)
        with pytest.raises(StorageError, match="the disk is full"):
            work(source, store, comm)
    assert not store.exists() and place_of(store).exists()
    said: list[str] = []
    work(source, store, comm, say=said.append)
    assert files(store) == expected
    assert comm.rank or int(said[0].split()[1]) >= 3


@pytest.mark.mpi
def test_work_of_other_options_or_input_is_not_continued(
    source: Path, comm: Communicator, shared: Shared, expected: dict[str, bytes]
) -> None:
    folder = shared("other")
    store, copy = folder / "a.zarr", folder / "a.h5"
    if comm.rank == 0:
        shutil.copyfile(source, copy)
        with pytest.raises(StoppedError):
            work(copy, store, SerialCommunicator(), stop=after(16))
    comm.barrier()
    with pytest.raises(ConfigurationError, match=r"error target.*relative 0\.001.*relative 0\.01.*--restart"):
        work(copy, store, comm, target={"relative": 1e-2})
    comm.barrier()
    if comm.rank == 0:
        os.utime(copy)
    comm.barrier()
    with pytest.raises(ConfigurationError, match=r"input.*--restart"):
        work(copy, store, comm)
    assert place_of(store).exists()
    said: list[str] = []
    work(copy, store, comm, restart=True, say=said.append)
    assert files(store) == expected and not said


def test_a_damaged_chunk_is_made_again(source: Path, tmp_path: Path, expected: dict[str, bytes]) -> None:
    store = tmp_path / "a.zarr"
    with pytest.raises(StoppedError):
        work(source, store, SerialCommunicator(), stop=after(15 + 6))
    chunks = sorted(path for path in place_of(store).glob("store-*/t/c/**/*") if path.is_file())
    chunks[0].write_bytes(chunks[0].read_bytes()[:-3])
    chunks[1].write_bytes(b"")
    chunks[2].unlink()
    (place_of(store) / "left.tmp").write_bytes(b"of a process that was killed")
    said: list[str] = []
    work(source, store, SerialCommunicator(), say=said.append)
    assert said == [f"continuing: {6 - 3} of {CHUNKS} chunks are done"]
    assert files(store) == expected


def test_a_chunk_that_somebody_removes_is_missed(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: dict[str, bytes]
) -> None:
    store, write = tmp_path / "a.zarr", Checkpoint.write

    def lose(self: Checkpoint, name: str, data: bytes) -> None:
        write(self, name, data)
        if name == "u/c/3/0/0":
            (self.folder / name).unlink()

    with monkeypatch.context() as patch:
        patch.setattr(Checkpoint, "write", lose)
        with pytest.raises(StorageError, match="was it removed"):
            work(source, store, SerialCommunicator())
    assert not store.exists()
    work(source, store, SerialCommunicator())
    assert files(store) == expected


def test_progress_counts_what_was_done_before(source: Path, tmp_path: Path) -> None:
    store = tmp_path / "a.zarr"
    steps: list[tuple[int, int]] = []

    def progress(done: int, of: int) -> None:
        steps.append((done, of))

    with pytest.raises(StoppedError):  # in the second of four passes: values, chunks, values, chunks
        work(source, store, SerialCommunicator(), stop=after(15 + 6), progress=progress)
    assert steps == [(done, 2 * CHUNKS) for done in range(1, 15 + 6 + 1)]
    steps.clear()
    work(source, store, SerialCommunicator(), progress=progress)
    assert steps == [(done, 45) for done in range(7, 46)]  # the first pass is not made again


def test_an_old_store_does_not_pass_for_the_new_one(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: dict[str, bytes]
) -> None:
    """The two change places, and the process dies before it removes the old one."""
    store = tmp_path / "a.zarr"
    work(source, store, SerialCommunicator(), target={"relative": 1e-1})

    def swap(self: checkpoint.AtomicFolder) -> None:
        os.rename(self.path, tmp_path / "old")
        os.rename(self.temporary, self.path)
        os.rename(tmp_path / "old", self.temporary)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.AtomicFolder, "commit", swap)
        with pytest.raises(KeyboardInterrupt):
            work(source, store, SerialCommunicator())
    assert files(store) == expected and place_of(store).exists()
    said: list[str] = []
    work(source, store, SerialCommunicator(), say=said.append)
    assert not said and files(store) == expected
    assert [path.name for path in tmp_path.iterdir()] == ["a.zarr"]


def test_work_that_dies_before_the_store_has_its_name_is_continued(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: dict[str, bytes]
) -> None:
    store = tmp_path / "a.zarr"

    def die(self: checkpoint.AtomicFolder) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.AtomicFolder, "commit", die)
        with pytest.raises(KeyboardInterrupt):
            work(source, store, SerialCommunicator())
    said: list[str] = []
    work(source, store, SerialCommunicator(), say=said.append)
    assert said == [f"continuing: {CHUNKS} of {CHUNKS} chunks are done"] and files(store) == expected


def test_a_journal_that_was_cut_off_is_none(source: Path, tmp_path: Path, expected: dict[str, bytes]) -> None:
    store = tmp_path / "a.zarr"
    with pytest.raises(StoppedError):
        work(source, store, SerialCommunicator(), stop=after(16))
    journal = place_of(store) / "journal.json"
    journal.write_bytes(journal.read_bytes()[:-20])
    said: list[str] = []
    work(source, store, SerialCommunicator(), say=said.append)
    assert not said and files(store) == expected


def test_a_failure_before_any_chunk_leaves_nothing(source: Path, tmp_path: Path) -> None:
    with pytest.raises(FileFormatError):
        convert(
            source, tmp_path / "a.zarr", ["v"], SerialCommunicator(), target={"tolerance": 1.0}, codec=ToleranceCodec()
        )
    with pytest.raises(StoppedError):
        work(source, tmp_path / "a.zarr", SerialCommunicator(), stop=after(0))
    assert not list(tmp_path.iterdir())


def test_two_processes_do_not_write_one_store(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: dict[str, bytes]
) -> None:
    monkeypatch.setattr(checkpoint, "_PATIENCE", 0.2)
    store = tmp_path / "a.zarr"
    other = Checkpoint.begin(store, FACTS)
    with pytest.raises(StorageError, match="only one to write"):
        work(source, store, SerialCommunicator())
    other.close()
    work(source, store, SerialCommunicator())
    assert files(store) == expected


def test_a_file_system_without_locks_will_do(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: dict[str, bytes]
) -> None:
    def refuse(*arguments: Any) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    work(source, tmp_path / "a.zarr", SerialCommunicator())
    assert files(tmp_path / "a.zarr") == expected


def test_the_folder_of_somebody_else_is_left_alone(source: Path, tmp_path: Path) -> None:
    store = tmp_path / "a.zarr"
    place_of(store).mkdir()
    (place_of(store) / "thesis.tex").write_text("years of work")
    with pytest.raises(StorageError, match=r"thesis\.tex"):
        work(source, store, SerialCommunicator())
    with pytest.raises(StorageError, match=r"thesis\.tex"):
        work(source, store, SerialCommunicator(), restart=True)
    assert (place_of(store) / "thesis.tex").read_text() == "years of work"


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_notes_of_ranges_do_not_count(tmp_path: Path, data: st.DataObject) -> None:
    ranges = data.draw(
        st.dictionaries(st.integers(0, 99), st.tuples(st.floats(allow_nan=False), st.floats(allow_nan=False)))
    )
    place = tmp_path / "a.zarr"
    one = Checkpoint.begin(place, FACTS, restart=True)
    for position, (low, high) in ranges.items():
        one.note_range(0, position, low, high)
    one.close()
    assert one.known_ranges(0) == ranges and not one.known_ranges(1)
    for path in place_of(place).glob("range-*"):
        notes = bytearray(path.read_bytes())
        position = data.draw(st.integers(0, len(notes) - 1))
        if data.draw(st.booleans()):
            del notes[position:]
        else:
            notes[position] ^= 1 << data.draw(st.integers(0, 7))
        path.write_bytes(notes)
    assert one.known_ranges(0).items() <= ranges.items()


def test_facts_of_folders_change_with_their_files(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "c").write_bytes(b"123")
    facts = facts_of_file(tmp_path)
    assert facts["files"] == 1 and facts["bytes"] == 3 and facts == facts_of_file(tmp_path)
    os.utime(tmp_path / "b" / "c", ns=(1, 1))
    assert facts_of_file(tmp_path)["changed"] == 1
    with pytest.raises(StorageError, match="no such file"):
        facts_of_file(tmp_path / "nothing")
