"""Names of what is being written, and the removal of what writers that were killed have left behind.

A name says which path it is for and which process writes it. Only what a process of this machine has left, which is
provably gone, is ever removed: the writer of another machine may be alive.
"""

import contextlib
import hashlib
import os
import secrets
import shutil
from pathlib import Path

_PREFIX, _SUFFIX = ".hpcblaz-", ".tmp"


def temporary_name(target: str) -> str:
    """Return a new name for what will be renamed to `target`, in the same folder."""
    pid = os.getpid()
    return f"{_start_of(target)}{_machine()}-{pid}-{_began(pid)}-{secrets.token_hex(4)}{_SUFFIX}"


def remove_leftovers(folder: str | os.PathLike[str], target: str) -> None:
    """Remove from a folder what killed processes of this user and machine were writing for a name.

    Parameters
    ----------
    folder : str or os.PathLike
    target : str
        The name, in that folder, that is to be written next.
    """
    start = _start_of(target)
    try:
        names = [name for name in os.listdir(folder) if name.startswith(start) and name.endswith(_SUFFIX)]
    except OSError:
        return  # nothing that can be seen, so nothing to remove
    for name in names:
        parts = name.removesuffix(_SUFFIX).removeprefix(start).split("-")
        if len(parts) == 4 and parts[0] == _machine() and _is_gone(parts[1], parts[2]):
            path = Path(folder, name)
            with contextlib.suppress(OSError):
                if path.lstat().st_uid != os.geteuid():
                    continue
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink()


def _start_of(target: str) -> str:
    return f"{_PREFIX}{_short(target)}-"


def _short(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]


def _machine() -> str:
    """Return what two processes share only if each can see whether the other runs: this start of this system."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return _short(boot + os.readlink("/proc/self/ns/pid"))
    except OSError:
        return "unknown" + secrets.token_hex(4)  # equal to no other: nothing is ever provably gone


def _began(pid: int) -> str:
    """Return when a process began, in ticks of this system; empty if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _is_gone(pid: str, began: str) -> bool:
    """Say whether a process has ended; its number may belong to another one by now."""
    return pid.isdigit() and began.isdigit() and _began(int(pid)) != began
