"""Files and folders that are written whole or not at all, and errors of storage in words."""

import errno
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcblaz.errors import StorageError

_ADVICE = {
    errno.ENOSPC: "the disk is full: free some space, or choose another folder",
    errno.EDQUOT: "the disk quota is used up: free some space, or choose another folder",
    errno.EFBIG: "the file is larger than this process may write: see ulimit -f, or choose another file system",
    errno.ENOENT: "there is no such file or folder",
    errno.ENOTDIR: "a part of the path is no folder",
    errno.EISDIR: "it is a folder: name a file",
    errno.EACCES: "permission denied",
    errno.EROFS: "the file system is read-only",
    errno.ENAMETOOLONG: "the name is too long",
}


def storage_error(action: str, path: Path, error: OSError) -> StorageError:
    """Word what went wrong with a file.

    Parameters
    ----------
    action : {'read', 'write'}
    path : pathlib.Path
    error : OSError

    Returns
    -------
    StorageError
        With the same `errno`.
    """
    reason = _ADVICE.get(error.errno or 0) or error.strerror or str(error)
    result = StorageError(f"expected to {action} {path}, got: {reason}")
    result.errno = error.errno
    return result


@contextmanager
def storage_errors(action: str, path: Path) -> Iterator[None]:
    """Turn every OSError of a ``with`` block into a StorageError that says what was done to which file."""
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        raise storage_error(action, path, error) from error


class AtomicFile:
    """A new file that takes its name only when it is complete and on the disk.

    It is written under a temporary name in the same folder. Without :meth:`commit` the temporary file is removed, and a
    file that had the name before is left as it was.

    Parameters
    ----------
    path : str or os.PathLike
        Where the file is to be. A symbolic link is followed.

    Raises
    ------
    StorageError
        If it cannot be written there.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "answer"
    >>> with AtomicFile(path) as file:
    ...     file.write_at(0, b"42")
    ...     file.commit()
    >>> path.read_text()
    '42'
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._target = os.path.realpath(self.path)
        self._descriptor = -1
        folder = os.path.dirname(self._target)
        self.temporary = os.path.join(folder, f".hpcblaz-{secrets.token_hex(8)}.tmp")
        with storage_errors("write", self.path):
            mode = self._mode()
            self._descriptor = os.open(self.temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            if mode is not None:
                os.fchmod(self._descriptor, mode)

    def _mode(self) -> int | None:
        """Return the permissions of the file that is to be replaced; None if there is none."""
        try:
            status = os.stat(self._target)
        except FileNotFoundError:
            return None
        if stat.S_ISDIR(status.st_mode):
            raise StorageError(f"expected to write {self.path}, got: it is a folder: name a file in it")
        if not stat.S_ISREG(status.st_mode):
            raise StorageError(f"expected {self.path} to be a plain file or not to be there, got a device or a pipe")
        return stat.S_IMODE(status.st_mode)

    def write_at(self, position: int, data: bytes | memoryview) -> None:
        """Write bytes at a position; gaps between what is written are zeros.

        Raises
        ------
        StorageError
            If the disk is full, for example.
        """
        view = memoryview(data)
        with storage_errors("write", self.path):
            while view:
                written = os.pwrite(self._descriptor, view[: 1 << 30], position)
                view = view[written:]
                position += written

    def resize(self, size: int) -> None:
        """Make the file so long; what is not written stays zero."""
        with storage_errors("write", self.path):
            os.ftruncate(self._descriptor, size)

    def reserve(self, size: int) -> None:
        """Reserve disk space for the whole file, so that writing through a memory map cannot fail."""
        with storage_errors("write", self.path):
            if size:
                os.posix_fallocate(self._descriptor, 0, size)

    def map(self, dtype: np.dtype[Any], shape: tuple[int, ...], position: int) -> NDArray[Any]:
        """Return a part of the file, reserved before, as an array that can be written to."""
        with storage_errors("write", self.path), os.fdopen(os.dup(self._descriptor), "r+b") as file:
            return np.memmap(file, dtype, "r+", position, shape, "C")

    def commit(self) -> None:
        """Bring the file to the disk and give it its name.

        Raises
        ------
        StorageError
            If that fails; the file that had the name before is still there then.
        """
        with storage_errors("write", self.path):
            os.fsync(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1
            os.replace(self.temporary, self._target)
        _sync_folder(os.path.dirname(self._target), self.path)

    def discard(self) -> None:
        """Remove the temporary file, if there is still one."""
        if self._descriptor < 0:
            if os.path.lexists(self.temporary):
                os.unlink(self.temporary)
            return
        os.close(self._descriptor)
        self._descriptor = -1
        os.unlink(self.temporary)

    def __enter__(self) -> "AtomicFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.discard()


def _sync_folder(folder: str | os.PathLike[str], path: Path) -> None:
    """Bring the names of a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems cannot do it for folders
            raise storage_error("write", path, error) from error
    finally:
        os.close(descriptor)


class AtomicFolder:
    """A new folder that takes its name only when it is complete and on the disk.

    Parameters
    ----------
    path : str or os.PathLike
        Where it is to be. A Zarr store that is there will be replaced; anything else is left alone.
    temporary : pathlib.Path, optional
        The folder that another rank has made to write to; that rank commits and discards it.

    Raises
    ------
    StorageError
        If it cannot be written there.
    """

    def __init__(self, path: str | os.PathLike[str], *, temporary: Path | None = None) -> None:
        self.path = Path(os.path.abspath(path))
        if temporary is not None:
            self.temporary = temporary
            return
        if os.path.lexists(self.path) and not (self.path / "zarr.json").is_file():
            raise StorageError(f"expected {self.path} to be a Zarr store or not to be there, got something else there")
        self.temporary = self.path.parent / f".hpcblaz-{secrets.token_hex(8)}.tmp"
        with storage_errors("write", self.path):
            os.mkdir(self.temporary)

    def write(self, name: str, data: bytes) -> None:
        """Write a file of the folder, and the folders above it."""
        target = self.temporary / name
        with storage_errors("write", self.path / name):
            target.parent.mkdir(parents=True, exist_ok=True)
            with open(target, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())

    def commit(self) -> None:
        """Bring all that is in the folder to the disk, and give it its name; what had it before is removed."""
        with storage_errors("write", self.path):
            for place, _, names in os.walk(self.temporary):  # also what others wrote into it
                for name in names:
                    with open(os.path.join(place, name), "rb") as file:
                        os.fsync(file.fileno())
                _sync_folder(place, self.path)
            if self.path.exists():
                old = self.path.parent / f".hpcblaz-{secrets.token_hex(8)}.old"
                os.rename(self.path, old)
                try:
                    os.rename(self.temporary, self.path)
                except OSError:
                    os.rename(old, self.path)
                    raise
                shutil.rmtree(old)
            else:
                os.rename(self.temporary, self.path)
        _sync_folder(self.path.parent, self.path)

    def discard(self) -> None:
        """Remove the temporary folder, if it is still there."""
        shutil.rmtree(self.temporary, ignore_errors=True)

    def __enter__(self) -> "AtomicFolder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.discard()
