"""Work on a store that outlives the processes that do it: what is done stays beside the store, and a later run goes on.

Unfinished work on ``run.zarr`` is in the folder ``run.zarr.partial``: a journal, and the store as far as it is. A chunk
of it counts when its file has its name, which it gets when it is complete and on the disk; the journal says all else.
"""

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
import time
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hpcblaz.errors import ConfigurationError, StorageError
from hpcblaz.mpi.atomic import AtomicFile, AtomicFolder, check_replaceable, storage_errors

SUFFIX = ".partial"
_FORMAT = "unfinished store of hpcblaz, 1"
_JOURNAL, _LOCK = "journal.json", "lock"
_OURS = re.compile(r"journal\.json|lock|store-[0-9a-f]{16}|range-\d+\.[0-9a-f]+-\d+|stop-[0-9a-f]+|.*\.tmp")
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)  # of file systems that have none
_NOTHING: dict[str, Any] = {"continued": False, "begun": False, "tolerances": {}}
_PATIENCE = 5.0  # seconds: ranks of a job that was killed may be a little while in going

Range = tuple[float, float]


class Checkpoint:
    """The unfinished work on a store, as one rank sees it; :meth:`begin` it on rank 0 and :meth:`join` it on others.

    Parameters
    ----------
    path : pathlib.Path
        Where the store is to be.
    shared : mapping
        What :attr:`shared` of rank 0 is.
    rank : int

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "run.zarr"
    >>> work = Checkpoint.begin(path, {"input": "run.nc"})
    >>> work.write("t/c/0", b"a chunk")
    >>> work.close()
    >>> path.exists(), Checkpoint.begin(path, {"input": "run.nc"}).read("t/c/0")
    (False, b'a chunk')
    """

    def __init__(self, path: Path, shared: Mapping[str, Any], rank: int) -> None:
        self.path = path
        self.place = place_of(path)
        self.continued: bool = shared["continued"]
        self.begun: bool = shared["begun"]
        self.tolerances: dict[str, float | None] = dict(shared["tolerances"])
        self._facts: dict[str, Any] = dict(shared["facts"])
        self._token: str = shared["token"]
        self._rank = rank
        self._lock = -1
        self._log = -1
        self._committing: int | None = None
        self.folder = self.place / f"store-{fingerprint(self._facts)}"
        self._stop = self.place / f"stop-{self._token}"

    @property
    def shared(self) -> dict[str, Any]:
        """What other ranks need to know to join."""
        return {
            "continued": self.continued,
            "begun": self.begun,
            "tolerances": self.tolerances,
            "facts": self._facts,
            "token": self._token,
        }

    @classmethod
    def begin(cls, path: Path, facts: Mapping[str, Any], *, restart: bool = False) -> "Checkpoint":
        """Continue the work on a store, or begin it; on one rank.

        Parameters
        ----------
        path : pathlib.Path
            Where the store is to be.
        facts : mapping
            All that the bytes of the store depend on, as JSON has it.
        restart : bool, default False
            Throw away what was done before.

        Returns
        -------
        Checkpoint
            With `continued` if there was something to continue.

        Raises
        ------
        StorageError
            If something else is where the store or the unfinished work is to be, if another process is at work there,
            or if it cannot be written.
        ConfigurationError
            If what is there was begun with other facts, and `restart` is false.
        """
        path = Path(os.path.realpath(path))
        check_replaceable(path)
        place = place_of(path)
        with storage_errors("write", place):
            place.mkdir(exist_ok=True)
            others = sorted(name for name in os.listdir(place) if not _OURS.fullmatch(name))
        if others:
            raise StorageError(
                f"expected {place} to be unfinished work of hpcblaz or not to be there, got {others[0]} in it: move it"
            )
        lock = _locked(place)
        try:
            old = {} if restart else _journal(place)
            known = json.loads(json.dumps(dict(facts)))
            work = cls(path, {**_NOTHING, "facts": known, "token": secrets.token_hex(8)}, 0)
            work._lock = lock
            if old and (old["tolerances"] or any(place.glob("range-*"))):
                _check_same(old["facts"], known, place)
            with storage_errors("write", place):
                if old and old["facts"] == known and work._is_its_own(old["committing"]):
                    work.continued, work.begun, work.tolerances = True, old["begun"], old["tolerances"]
                    for name in os.listdir(place):
                        if name.startswith("stop-") or name.endswith(".tmp"):
                            os.unlink(place / name)
                else:
                    work._empty()
                    work.folder.mkdir()
                    work._write_journal()
            return work
        except BaseException:
            os.close(lock)
            raise

    @classmethod
    def join(cls, path: Path, shared: Mapping[str, Any], rank: int) -> "Checkpoint":
        """Take part in what another rank has begun."""
        return cls(Path(os.path.realpath(path)), shared, rank)

    def mark_begun(self) -> None:
        """Note, on rank 0, that all of the store but the variables to compress is there."""
        _sync(self.folder)
        self.begun = True
        self._write_journal()

    def mark_created(self, name: str, tolerance: float | None) -> None:
        """Note, on rank 0, that the array of a variable is there, and with which tolerance."""
        _sync(self.folder / name)
        self.tolerances[name] = tolerance
        self._write_journal()

    def write(self, name: str, data: bytes) -> None:
        """Write a file of the store, which has its name only when it is complete and on the disk."""
        target = self.folder / name
        temporary = self.place / f"{self._token}-{self._rank}.tmp"  # not in the store, where it could stay
        with storage_errors("write", target):
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)

    def read(self, name: str) -> bytes | None:
        """Return the bytes of a file of the store; None if it is not there."""
        with storage_errors("read", self.folder / name):
            try:
                return (self.folder / name).read_bytes()
            except FileNotFoundError:
                return None

    def note_range(self, number: int, position: int, low: float, high: float) -> None:
        """Note the smallest and the largest value of a chunk of a variable."""
        text = f"{position} {low.hex()} {high.hex()}"
        path = self.place / f"range-{number}.{self._token}-{self._rank}"
        with storage_errors("write", path):
            if self._log < 0:
                self._log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o666)
            os.write(self._log, f"{text} {zlib.crc32(text.encode())}\n".encode())

    def close_ranges(self) -> None:
        """End the notes of this rank for a variable."""
        if self._log >= 0:
            os.close(self._log)
            self._log = -1

    def known_ranges(self, number: int) -> dict[int, Range]:
        """Return what all ranks have noted of a variable, by the positions of chunks; damaged lines do not count."""
        found: dict[int, Range] = {}
        for path in sorted(self.place.glob(f"range-{number}.*")):
            with storage_errors("read", path):
                lines = path.read_bytes().split(b"\n")
            for line in lines:
                words = line.split(b" ")
                text = b" ".join(words[:3])
                if len(words) == 4 and words[3] == str(zlib.crc32(text)).encode():
                    position, low, high = text.decode().split()
                    found[int(position)] = (float.fromhex(low), float.fromhex(high))
        return found

    def asked_to_stop(self, stop: Callable[[], bool] | None) -> bool:
        """Say whether this rank or another one was asked to stop: a rank that was tells the others by a file."""
        if stop is not None and stop():
            with contextlib.suppress(OSError):  # a full disk: the others finish their part then
                self._stop.touch()
            return True
        return self._stop.exists()

    def commit(self) -> None:
        """Bring the store to the disk and give it its name, on rank 0; what had it before is removed."""
        self._committing = self.folder.stat().st_ino
        self._write_journal()
        AtomicFolder(self.path, temporary=self.folder).commit()
        self.discard()

    def discard(self) -> None:
        """Remove all that was done, on rank 0."""
        self.close_ranges()
        self._empty()
        with contextlib.suppress(OSError):
            os.unlink(self.place / _LOCK)
        with contextlib.suppress(OSError):
            os.rmdir(self.place)
        self.close()

    def close(self) -> None:
        """Leave what was done to a later run, which need not wait for this one any more."""
        self.close_ranges()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def holds_results(self) -> bool:
        """Say whether a chunk is done, or the range of one is known."""
        if any(self.place.glob("range-*")):
            return True
        files = (name for name in self.tolerances for _, _, names in os.walk(self.folder / name) for name in names)
        return any(name != "zarr.json" for name in files)

    def _is_its_own(self, committing: int | None) -> bool:
        """Say whether the store is there, and not what had its name before: the two may have changed places."""
        return self.folder.is_dir() and committing in (None, self.folder.stat().st_ino)

    def _empty(self) -> None:
        """Remove all but the lock. The journal goes first: what is left must not pass for work to continue."""
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.place / _JOURNAL)
        for name in os.listdir(self.place) if self.place.is_dir() else []:
            if name.startswith("store-"):
                shutil.rmtree(self.place / name, ignore_errors=True)
            elif name != _LOCK:
                with contextlib.suppress(OSError):
                    os.unlink(self.place / name)

    def _write_journal(self) -> None:
        entries = {
            "format": _FORMAT,
            "facts": self._facts,
            "begun": self.begun,
            "tolerances": self.tolerances,
            "committing": self._committing,
        }
        with AtomicFile(self.place / _JOURNAL) as file:
            file.write_at(0, json.dumps(entries, indent=1).encode())
            file.commit()


def place_of(path: Path) -> Path:
    """Return the folder of unfinished work on a store."""
    return path.with_name(path.name + SUFFIX)


def fingerprint(facts: Mapping[str, Any]) -> str:
    """Return a short name for facts: work of other facts has another folder, and never mixes with it."""
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _journal(place: Path) -> dict[str, Any]:
    """Return what was noted; nothing if there is no journal or it was cut off before it was on the disk."""
    try:
        entries = json.loads((place / _JOURNAL).read_bytes())
    except (OSError, ValueError):
        return {}
    return entries if isinstance(entries, dict) and entries.get("format") == _FORMAT else {}


def _check_same(old: Mapping[str, Any], new: Mapping[str, Any], place: Path) -> None:
    for key in sorted(set(old) | set(new)):
        if old.get(key) != new.get(key):
            raise ConfigurationError(
                f"expected the {key} of the unfinished work in {place}, {_short(old.get(key))}, got "
                f"{_short(new.get(key))}: give --restart to throw that work away, or name another output"
            )


def _short(value: Any) -> str:
    return ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, Mapping) else str(value)


def _sync(folder: Path) -> None:
    """Bring all files of a folder to the disk, and their names."""
    with storage_errors("write", folder):
        for place, _, names in os.walk(folder):
            for name in names:
                with open(os.path.join(place, name), "rb") as file:
                    os.fsync(file.fileno())
            _sync_names(place)
        _sync_names(folder.parent)


def _sync_names(folder: str | os.PathLike[str]) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):  # some file systems cannot do it for folders
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _locked(place: Path) -> int:
    """Return an open file that no other process has locked; the lock goes with the process, however it ends."""
    path = place / _LOCK
    last = time.monotonic() + _PATIENCE
    while True:
        with storage_errors("write", path):
            place.mkdir(exist_ok=True)
            lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(lock), path.stat()):
                return lock
        except FileNotFoundError:  # its last owner has removed it meanwhile
            pass
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return lock
            if not isinstance(error, BlockingIOError) or time.monotonic() > last:
                os.close(lock)
                raise StorageError(
                    f"expected to be the only one to write {place}, got: {error.strerror}: wait for the process that "
                    "is at work there, or name another output"
                ) from error
        os.close(lock)
        time.sleep(0.1)
