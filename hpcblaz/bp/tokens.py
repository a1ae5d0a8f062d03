"""Numbers in text files, plain or compressed: read in pieces, and refused with the line where they make no sense."""

import gzip
import lzma
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NoReturn

import numpy as np

from hpcblaz.bp.ragged import Floats, Integers
from hpcblaz.errors import FileFormatError
from hpcblaz.mpi.atomic import AtomicFile, storage_errors

_PIECE = 2**22  # bytes that are read at a time
_GZIP, _XZ = b"\x1f\x8b", b"\xfd7zXZ\x00"
_SPACES = b" \n\t\r\f\v"


@contextmanager
def open_text(path: Path) -> Iterator[BinaryIO]:
    """Open a file to read it, decompressed if its first bytes are those of gzip or xz.

    Raises
    ------
    StorageError
        If it cannot be read.
    FileFormatError
        If what was compressed is damaged.
    """
    with storage_errors("read", path):
        try:
            with open(path, "rb") as raw:
                head = raw.read(len(_XZ))
                raw.seek(0)
                if head.startswith(_GZIP):
                    with gzip.open(raw) as file:
                        yield file  # type: ignore[misc]
                elif head == _XZ:
                    with lzma.open(raw) as file:
                        yield file  # type: ignore[misc]
                else:
                    yield raw
        except (gzip.BadGzipFile, EOFError, zlib.error, lzma.LZMAError) as error:
            raise FileFormatError(f"{path}: expected a whole compressed file, got: {error}") from error


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all; compressed if its name ends with .gz or .xz.

    Raises
    ------
    StorageError
        If it cannot be written.
    """
    data = text.encode()
    if path.suffix == ".gz":
        data = gzip.compress(data, 6, mtime=0)
    elif path.suffix == ".xz":
        data = lzma.compress(data)
    with AtomicFile(path) as file:
        file.write_at(0, data)
        file.commit()


class Numbers:
    r"""All numbers of a file, after some words at its beginning.

    Parameters
    ----------
    path : pathlib.Path
    words : int
        How many words come first.
    comments : bool
        Whether the rest of a line after ``#`` is left out.

    Raises
    ------
    FileFormatError
        If something else than numbers is there.
    StorageError
        If the file cannot be read.

    Attributes
    ----------
    words : list of str
    values : numpy.ndarray of float64, shape (numbers,)

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "example"
    >>> _ = path.write_text("MAR 1\n2 0.25 0.75")
    >>> numbers = Numbers(path, words=1)
    >>> numbers.words, numbers.values.tolist()
    (['MAR'], [1.0, 2.0, 0.25, 0.75])
    """

    def __init__(self, path: Path, words: int = 0, comments: bool = False) -> None:
        self.path = path
        self.words: list[str] = []
        self._comments = comments
        parts: list[Floats] = []
        with open_text(path) as file:
            for piece in pieces(file, lines=comments):
                rest = _without_comment(piece, comments)
                while len(self.words) < words and rest.split(None, 1):
                    word, *left = rest.split(None, 1)
                    self.words.append(word[:80].decode("utf-8", "replace"))
                    rest = left[0] if left else b""
                numbers = numbers_of(rest)
                if numbers is None:
                    self._refuse_words(words)
                parts.append(numbers)
        self.values: Floats = np.concatenate(parts) if parts else np.zeros(0)
        if len(self.words) < words:
            raise FileFormatError(f"{path}: expected a word and numbers, got an empty file")

    def integers(self, start: int, count: int, what: str, least: int = 0, most: int = 2**53) -> Integers:
        """Return some of the numbers as integers.

        Raises
        ------
        FileFormatError
            If the file ends before, or if they are no integers or out of range.
        """
        values = self.take(start, count, what)
        bad = ~((values >= least) & (values <= most) & (values == np.floor(values)))
        if bad.any():
            at = int(bad.argmax())
            self.fail(start + at, f"expected {what}, integers from {least} to {most}, got {values[at]:.17g}")
        return values.astype(np.int64)

    def integer(self, at: int, what: str, least: int = 0, most: int = 2**53) -> int:
        """Return one of the numbers as an integer, as `integers` does."""
        return int(self.integers(at, 1, what, least, most)[0])

    def take(self, start: int, count: int, what: str) -> Floats:
        """Return some of the numbers.

        Raises
        ------
        FileFormatError
            If the file ends before.
        """
        if start + count > self.values.size:
            self.fail(self.values.size, f"expected {what}, {count} in all, got the end of the file")
        return self.values[start : start + count]

    def weights(self, places: Integers, what: str) -> Floats:
        """Return the logarithms of the numbers at some places.

        Raises
        ------
        FileFormatError
            If one is negative, infinite or NaN.
        """
        values = self.values[places]
        bad = ~((values >= 0) & (values < np.inf))
        if bad.any():
            at = int(bad.argmax())
            self.fail(int(places[at]), f"expected {what}, 0 or greater and finite, got {values[at]:.17g}")
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(values))

    def end(self, at: int) -> None:
        """Raise FileFormatError if there are more numbers."""
        if at < self.values.size:
            self.fail(at, f"expected the end of the file, got {self.values.size - at} more numbers")

    def fail(self, at: int, reason: str) -> NoReturn:
        """Raise FileFormatError with the line of a number."""
        wanted = at + len(self.words)
        seen, line = 0, 1
        with open_text(self.path) as file:
            for line, text in enumerate(file, 1):  # noqa: B007  the last line is that of the end
                seen += len(_without_comment(text, self._comments).split())
                if seen > wanted:
                    break
        raise FileFormatError(f"{self.path}, line {line}: {reason}")

    def _refuse_words(self, words: int) -> NoReturn:
        """Raise FileFormatError with the first word that is no number."""
        seen = 0
        with open_text(self.path) as file:
            for line, text in enumerate(file, 1):
                for word in _without_comment(text, self._comments).split():
                    seen += 1
                    if seen > words and not _is_number(word):
                        shown = word[:40].decode("utf-8", "replace")
                        raise FileFormatError(f"{self.path}, line {line}: expected a number, got {shown!r}")
        raise FileFormatError(f"{self.path}: expected numbers with spaces between them, got something else")


def pieces(file: BinaryIO, lines: bool) -> Iterator[bytes]:
    """Yield the text in pieces of some megabytes that end between words; between lines, if that is asked for."""
    rest = b""
    while piece := file.read(_PIECE):
        cut = 1 + max(piece.rfind(bytes([space])) for space in (b"\n" if lines else _SPACES))
        if cut:
            yield rest + piece[:cut]
            rest = piece[cut:]
        else:
            rest += piece
    if rest:
        yield rest


def _without_comment(text: bytes, comments: bool) -> bytes:
    if not comments or b"#" not in text:
        return text
    return b"\n".join(line.partition(b"#")[0] for line in text.split(b"\n"))


def parse(text: bytes, between: str) -> Floats:
    """Return the numbers of a text with a character between them, in one go; none if something else is there.

    Examples
    --------
    >>> parse(b"1,2.5", ",").tolist(), parse(b"1,two", ",").tolist()
    ([1.0, 2.5], [])
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)  # NumPy tells by one what it could not read
        try:
            return np.fromstring(text.decode("ascii"), np.float64, sep=between)
        except (ValueError, DeprecationWarning):
            return np.zeros(0)


def numbers_of(text: bytes) -> Floats | None:
    """Return the numbers of a text; None if something else is there."""
    if not text or text.isspace():
        return np.zeros(0)
    spaces = np.frombuffer(text, np.uint8) <= ord(" ")
    words = np.count_nonzero(spaces[:-1] & ~spaces[1:]) + (not spaces[0])
    values = parse(text, " ")
    return values if values.size == words else None


def _is_number(word: bytes) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return b"_" not in word
