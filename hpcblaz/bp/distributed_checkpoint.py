"""Messages in a file, from which a run goes on where it was, on any number of ranks.

The file has a line that says what it is, the length of a header and the header (JSON), and for each rank that wrote it
the numbers of its messages (int64), how many entries each has (int32), and the messages, all little-endian.
"""

import json
import os
import time
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from hpcblaz.backend.gpu import asnumpy
from hpcblaz.bp.gpu_ranks import AnyRankPropagation
from hpcblaz.bp.partitioned import PartitionedModel
from hpcblaz.bp.partitioned_plans import LocalPlan
from hpcblaz.bp.ragged import Integers, ranges
from hpcblaz.bp.watch import Watch
from hpcblaz.errors import ConfigurationError, FileFormatError
from hpcblaz.mpi.atomic import AtomicFile, storage_errors

__all__ = ["InferenceCheckpoint"]

_MAGIC = b"messages of hpcblaz, 1\n"
_PIECE = 1 << 18  # messages that are read at a time
_HISTORY = ("seconds", "counts", "left", "largest")


class InferenceCheckpoint:
    """The file of one run; every method but `is_due` is a collective call.

    Parameters
    ----------
    path : pathlib.Path
    facts : mapping
        All that the run depends on beside the model, as JSON has it.
    model : PartitionedModel
    local : LocalPlan
    seconds : float
        How often it is due.
    """

    def __init__(
        self, path: Path, facts: Mapping[str, Any], model: PartitionedModel, local: LocalPlan, seconds: float
    ) -> None:
        self.path, self._model, self._local, self._seconds = path, model, local, seconds
        with model.comm.together():
            own = model.part.fingerprint()
        digest = sum(model.comm.gather_objects(own)) % 2**64
        found = {"variables": model.variables, "messages": model.messages, "family": local.plan.family,
                 "precision": local.plan.precision, "model": f"{digest:016x}"}  # fmt: skip
        self._facts: dict[str, Any] = json.loads(json.dumps({**facts, **found}))
        self._last = time.monotonic()

    def is_due(self) -> bool:
        """Return whether it was long ago that messages were written."""
        return time.monotonic() - self._last >= self._seconds

    def save(self, propagation: AnyRankPropagation, watch: Watch, state: Mapping[str, Any]) -> None:
        """Write the messages of all ranks; the file that was there before stays until all is on the disk.

        Raises
        ------
        StorageError
            On every rank, if it cannot be written.
        """
        comm, local = self._model.comm, self._local
        with comm.together():
            parts = self._parts(asnumpy(propagation.messages))
            sums = [zlib.crc32(part.data) for part in parts]
        sections = comm.gather_objects([local.count, len(parts[2]), *sums])
        width = sum(part.nbytes for part in parts)
        starts = comm.gather_objects(width)
        head = self._head(propagation, watch, state, sections)
        file: AtomicFile | None = None
        try:
            with comm.together():
                if comm.rank == 0:
                    file = AtomicFile(self.path)
            place = comm.broadcast(file.temporary if file is not None else None)
            with comm.together(), storage_errors("write", self.path):
                descriptor = os.open(place, os.O_WRONLY | os.O_CLOEXEC)
                try:
                    position = len(head) + sum(starts[: comm.rank])
                    for part in parts:
                        _write(descriptor, part, position)
                        position += part.nbytes
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
            with comm.together():
                if file is not None:
                    file.write_at(0, head)
                    file.commit()
        finally:
            if file is not None:
                file.discard()
        self._last = time.monotonic()

    def load(self, propagation: AnyRankPropagation, watch: Watch, restart: bool) -> dict[str, Any] | None:
        """Take up what was written, if there is something; return the state of the schedule then.

        Raises
        ------
        FileFormatError
            If the file is damaged, or something else.
        ConfigurationError
            If it is of another run, and `restart` is false.
        StorageError
            If it cannot be read.
        """
        comm = self._model.comm
        there = bool(comm.broadcast(comm.rank == 0 and self.path.exists() and not restart))
        if not there:
            return None
        found: dict[str, Any] = {}
        with comm.together(), storage_errors("read", self.path), open(self.path, "rb") as file:
            found = self._read_head(file)
            self._check(found["facts"])
            filled = np.zeros(len(self._local.numbers), np.bool_)
            order = np.argsort(self._local.numbers)
            messages = asnumpy(propagation.messages)
            for section in found["sections"]:
                self._read_section(file, section, messages, order, filled)
            if not filled.all():
                raise FileFormatError(f"{self.path}: expected all messages of the model, got some only")
            propagation.put(messages)
        propagation.damping = found["damping"]
        propagation._stamp = found["choices"]
        watch.resume(found["updates"], found["elapsed"], {name: found["history"][name] for name in _HISTORY})
        return dict(found["state"])

    def remove(self) -> None:
        """Remove the file: nothing is left to do."""
        with self._model.comm.together(), storage_errors("write", self.path):
            if self._model.comm.rank == 0:
                self.path.unlink(missing_ok=True)

    def _parts(self, messages: NDArray[Any]) -> tuple[Integers, NDArray[np.int32], NDArray[Any]]:
        local = self._local
        sizes = np.diff(local.places[: local.count + 1]).astype("<i4")
        values = messages[: int(local.places[local.count])]
        little = values.astype(values.dtype.newbyteorder("<"), copy=False)
        return np.ascontiguousarray(local.plan.numbers, "<i8"), sizes, little

    def _head(
        self, propagation: AnyRankPropagation, watch: Watch, state: Mapping[str, Any], sections: list[list[int]]
    ) -> bytes:
        entries = {
            "facts": self._facts,
            "state": dict(state),
            "damping": propagation.damping,
            "choices": propagation._stamp,
            "updates": watch.updates,
            "elapsed": watch.elapsed(),
            "history": {name: getattr(watch, name) for name in _HISTORY},
            "sections": sections,
        }
        text = json.dumps(entries).encode()
        text = bytes(self._model.comm.broadcast(text))  # times differ between ranks
        return _MAGIC + len(text).to_bytes(8, "little") + text

    def _read_head(self, file: BinaryIO) -> dict[str, Any]:
        start = file.read(len(_MAGIC) + 8)
        if not start.startswith(_MAGIC) or len(start) < len(_MAGIC) + 8:
            raise FileFormatError(
                f"{self.path}: expected messages of an earlier run, got something else: name another file"
            )
        length = int.from_bytes(start[-8:], "little")
        try:
            found = json.loads(file.read(length)) if length <= os.fstat(file.fileno()).st_size else None
            complete = isinstance(found, dict) and {"facts", "state", "sections", "history"} <= set(found)
        except ValueError:
            complete = False
        if not complete or found is None:
            raise FileFormatError(f"{self.path}: expected a header of messages, got a damaged one: remove the file")
        return dict(found)

    def _check(self, facts: Mapping[str, Any]) -> None:
        for key in sorted(set(facts) | set(self._facts)):
            if facts.get(key) != self._facts.get(key):
                raise ConfigurationError(
                    f"expected the {key} of the run in {self.path}, {facts.get(key)}, got {self._facts.get(key)}: "
                    "restart to throw that run away, or name another file"
                )

    def _read_section(
        self, file: BinaryIO, section: list[int], messages: NDArray[Any], order: Integers, filled: NDArray[np.bool_]
    ) -> None:
        """Take what this rank needs of what another one wrote."""
        local, (count, entries, *sums) = self._local, section
        begin, width = file.tell(), messages.dtype.itemsize
        known = local.numbers[order]
        found, at_entry = [0, 0, 0], 0
        for start in range(0, count, _PIECE):
            some = min(_PIECE, count - start)
            numbers, found[0] = self._read(file, begin + 8 * start, some, "<i8", found[0])
            sizes, found[1] = self._read(file, begin + 8 * count + 4 * start, some, "<i4", found[1])
            total = int(sizes.sum(dtype=np.int64))
            values, found[2] = self._read(
                file, begin + 12 * count + width * at_entry, total, messages.dtype.newbyteorder("<").str, found[2]
            )
            at_entry += total
            place = np.minimum(np.searchsorted(known, numbers), max(0, len(known) - 1))
            mine = np.flatnonzero(known[place] == numbers) if len(known) else np.zeros(0, np.int64)
            slots = order[place[mine]]
            lengths = sizes[mine].astype(np.int64)
            if not np.array_equal(lengths, local.places[slots + 1] - local.places[slots]):
                raise FileFormatError(f"{self.path}: expected messages of other lengths: remove the file")
            first = np.cumsum(sizes, dtype=np.int64)[mine] - lengths
            messages[ranges(local.places[slots], lengths)] = values[ranges(first, lengths)]
            filled[slots] = True
        if found != sums or at_entry != entries:
            raise FileFormatError(f"{self.path}: expected what was written, got damaged messages: remove the file")
        file.seek(begin + 12 * count + width * entries)

    def _read(self, file: BinaryIO, position: int, count: int, dtype: str, check: int) -> tuple[Any, int]:
        file.seek(position)
        data = file.read(count * np.dtype(dtype).itemsize)
        if len(data) < count * np.dtype(dtype).itemsize:
            raise FileFormatError(f"{self.path}: expected more messages, got the end of the file: remove the file")
        return np.frombuffer(data, dtype), zlib.crc32(data, check)


def _write(descriptor: int, array: NDArray[Any], position: int) -> None:
    view = memoryview(array.data).cast("B") if array.size else memoryview(b"")
    while view:
        written = os.pwrite(descriptor, view[: 1 << 30], position)
        view = view[written:]
        position += written
