"""How much is read and decoded: counted where it happens, for those who want to know."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass


@dataclass
class ReadCounts:
    """What one process has read of compressed files and stores.

    Parameters
    ----------
    chunks : int
        Records: chunks of a store, or parts of a file.
    bytes_read : int
        Of these, compressed.
    bytes_decoded : int
        Of the values that were made of chunks of a store.
    """

    chunks: int = 0
    bytes_read: int = 0
    bytes_decoded: int = 0


_counts: ContextVar[ReadCounts | None] = ContextVar("counts", default=None)
_lock = threading.Lock()  # Zarr decodes chunks in several threads


@contextmanager
def counting_reads() -> Iterator[ReadCounts]:
    """Count what this thread reads of files and stores of hpcblaz, and has Zarr read.

    Examples
    --------
    >>> with counting_reads() as counts:
    ...     count_read(chunks=1, bytes_read=100)
    >>> counts
    ReadCounts(chunks=1, bytes_read=100, bytes_decoded=0)
    """
    counts = ReadCounts()
    token = _counts.set(counts)
    try:
        yield counts
    finally:
        _counts.reset(token)


def count_read(chunks: int = 0, bytes_read: int = 0, bytes_decoded: int = 0) -> None:
    """Add to what is being counted, if anything is."""
    counts = _counts.get()
    if counts is not None:
        with _lock:
            counts.chunks += chunks
            counts.bytes_read += bytes_read
            counts.bytes_decoded += bytes_decoded
