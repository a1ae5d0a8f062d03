"""What the verbs share: printing from one rank, tables, progress, and options that several of them have."""

import argparse
import contextlib
import json
import math
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hpcblaz.backend.dispatch import DEVICES
from hpcblaz.errors import ConfigurationError, StorageError
from hpcblaz.fields.array import CompressedArray
from hpcblaz.fields.codec import Codec
from hpcblaz.fields.compress import compress
from hpcblaz.fields.fileformat import MAGIC
from hpcblaz.fields.open_field import Field, has_variables, is_store, open_field
from hpcblaz.fields.storage import load
from hpcblaz.fields.storage import open as open_compressed
from hpcblaz.fields.views import FieldView
from hpcblaz.fields.zarr_reading import is_compressed_store
from hpcblaz.mpi import Communicator, Layout
from hpcblaz.mpi.atomic import storage_errors

_PATIENCE = 1.0  # seconds before progress is shown


class Console:
    """Prints on rank 0 of a job, and nothing on the others.

    A reader that goes away, as in ``hpcblaz stats a.hbz | head -1``, ends the output and not the program.

    Parameters
    ----------
    comm : Communicator
    """

    def __init__(self, comm: Communicator) -> None:
        self.comm = comm
        self._closed = comm.rank != 0

    def line(self, text: str = "") -> None:
        """Print a line."""
        self.text(text + "\n")

    def data(self, value: Any) -> None:
        """Print a value as JSON, with null for what is no finite number."""
        self.text(json.dumps(_finite(value), indent=2, allow_nan=False) + "\n")

    def table(self, rows: Sequence[Sequence[str]]) -> None:
        """Print a table: the first row are titles; the first column is aligned to the left, the others to the right."""
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        for number, row in enumerate(rows):
            cells = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
            self.line("  ".join(cells).rstrip())
            if number == 0:
                self.line("  ".join("-" * width for width in widths))

    def text(self, text: str) -> None:
        """Print text as it is."""
        if self._closed:
            return
        encoding = sys.stdout.encoding or "utf-8"
        try:
            sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except OSError as error:  # no rank may fail alone: finish_output tells all of them
            self._closed = True
            _output.failure = error


class _Output:
    """What went wrong with the standard output, if anything did."""

    failure: OSError | None = None


_output = _Output()


def finish_output(comm: Communicator) -> None:
    """Bring what was printed to its reader; a collective call.

    Raises
    ------
    StorageError
        If it was sent to a file and the disk is full, for example. A reader that has gone away is no error.
    """
    with comm.together():
        failure, _output.failure = _output.failure, None
        try:
            sys.stdout.flush()
        except OSError as error:
            failure = failure or error
        if failure is not None:
            with contextlib.suppress(OSError, ValueError):  # what is left must not fail once more at exit
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            if not isinstance(failure, BrokenPipeError):
                raise StorageError(f"expected to write the output, got: {failure.strerror}") from failure


class Progress:
    """Says on the standard error how far long work is, if that is a terminal.

    Parameters
    ----------
    comm : Communicator
        Rank 0 reports, of its own work.
    what : str
        The work.
    """

    def __init__(self, comm: Communicator, what: str) -> None:
        self._what = what
        self._shows = comm.rank == 0 and sys.stderr.isatty()
        self._start = self._last = time.monotonic()
        self._length = 0

    def __call__(self, done: int, of: int) -> None:
        """Report; as hpcblaz.compress does."""
        now = time.monotonic()
        if not self._shows or now - self._start < _PATIENCE or (now - self._last < 0.1 and done < of):
            return
        self._last = now
        text = f"{self._what}: {100 * done // max(1, of)} %, {now - self._start:.0f} s"
        print("\r" + text.ljust(self._length), end="", file=sys.stderr, flush=True)
        self._length = len(text)

    def close(self) -> None:
        """Clear the line."""
        if self._length:
            print("\r" + " " * self._length + "\r", end="", file=sys.stderr, flush=True)


def integers(text: str) -> tuple[int, ...]:
    """Read integers separated by commas, for argparse."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected integers separated by commas, such as 64,64,64, got {text!r}"
        ) from None


def add_target(parser: argparse.ArgumentParser, required: bool) -> None:
    """Add the options that say how exact a compressed array is to be."""
    group = parser.add_argument_group("how exact").add_mutually_exclusive_group(required=required)
    group.add_argument("--tolerance", type=float, metavar="X", help="largest absolute error of a value")
    group.add_argument("--relative", type=float, metavar="X", help="the same, as a fraction of the range")
    group.add_argument("--psnr", type=float, metavar="X", help="least peak signal-to-noise ratio, in decibel")
    group.add_argument("--rate", type=float, metavar="X", help="most bits a value")


def add_input(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which field of a file is meant."""
    parser.add_argument("-v", "--variable", metavar="NAME", help="which field of a file that has several")
    parser.add_argument("--shape", type=integers, metavar="N,N,N", help="shape of raw files")


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add the option that says where the work is done."""
    parser.add_argument(
        "--device", choices=DEVICES, default="cpu", help="where to work; each rank takes a card of its node"
    )


def target(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return which of these options was given, and its value."""
    names = ("tolerance", "relative", "psnr", "rate")
    return {name: value for name in names if (value := getattr(arguments, name)) is not None}


def is_compressed(path: str) -> bool:
    """Say whether a file is one of compressed arrays, by its first bytes or else its suffix."""
    with contextlib.suppress(OSError), Path(path).open("rb") as file:
        head = file.read(len(MAGIC))
        if head == MAGIC:
            return True
    return Path(path).suffix == ".hbz"


def layout_for(comm: Communicator, shape: tuple[int, ...], block_shape: tuple[int, ...] | None) -> Layout | None:
    """Return how a field is split over the ranks of the job; None on one rank."""
    return None if comm.size == 1 else Layout(shape, comm, block_shape=block_shape)


def read_field(
    path: str, arguments: argparse.Namespace, console: Console, partner: CompressedArray | None = None
) -> CompressedArray:
    """Read a compressed file, or read a plain one and compress it as the options say; a collective call.

    Parameters
    ----------
    path : str
    arguments : argparse.Namespace
        With the options of :func:`add_target` and :func:`add_device`, and ``shape``.
    console : Console
    partner : CompressedArray, optional
        An array whose layout and codec to take.
    """
    comm = console.comm
    variable = arguments.variable
    with comm.together():
        stored = is_store(path) and not target(arguments)
        compressed = is_compressed(path)
    if compressed or stored:
        split = partner.layout if partner is not None and partner.layout is not None else comm
        if stored:
            return open_compressed(path, variable, split, device=arguments.device)
        return load(path, split, device=arguments.device)
    with comm.together():
        if not target(arguments):
            raise ConfigurationError(
                f"expected a compressed file, or with {path} one of --tolerance, --relative, --psnr and --rate, "
                "got neither"
            )
        field = open_field(path, variable, arguments.shape)
        codec = partner.codec if partner is not None else None
        layout = layout_for(comm, field.shape, codec.block_shape if codec is not None else None)
        if partner is not None and partner.layout is not None and partner.shape == field.shape:
            layout = partner.layout
    return compress_field(path, field, codec, layout, arguments, comm)


def compress_field(
    path: str,
    field: Field,
    codec: Codec | None,
    layout: Layout | None,
    arguments: argparse.Namespace,
    comm: Communicator,
) -> CompressedArray:
    """Compress a field of a file as the options say, and show how far that is; a collective call."""
    with comm.together():
        slices = tuple(slice(0, n) for n in field.shape) if layout is None else layout.slices
        own = field if layout is None and has_variables(path) else field[slices]  # a whole variable is read by slabs
    progress = Progress(comm, f"compressing {path}")
    try:
        return compress(
            own,
            codec=codec,
            layout=layout,
            fill_value=field.fill_value,
            device=arguments.device,
            progress=progress,
            **target(arguments),
        )
    finally:
        progress.close()


def read_view(
    path: str, arguments: argparse.Namespace, console: Console, partner: FieldView | None = None
) -> FieldView:
    """Read a field to look at; a collective call.

    A compressed file stays compressed, and a plain one plain, unless the options say how exactly to compress it.

    Parameters
    ----------
    path : str
    arguments : argparse.Namespace
        As for :func:`read_field`.
    console : Console
    partner : FieldView, optional
        One whose layout to take.
    """
    comm = console.comm
    with comm.together():
        plain = not (target(arguments) or is_compressed(path) or is_compressed_store(path, arguments.variable))
    if plain:
        return read_plain(path, arguments, console, partner)
    known = partner.field if partner is not None and isinstance(partner.field, CompressedArray) else None
    return FieldView.of(path, read_field(path, arguments, console, known))


def read_plain(
    path: str, arguments: argparse.Namespace, console: Console, partner: FieldView | None = None
) -> FieldView:
    """Map a plain field into memory, whatever the options say of how to compress it; a collective call."""
    with console.comm.together():
        field = open_field(path, arguments.variable, arguments.shape)
        same = partner is not None and partner.shape == field.shape
        layout = partner.layout if partner is not None and same else layout_for(console.comm, field.shape, None)
        names = {"dims": field.dims} if has_variables(path) else {}
        return FieldView.of(path, field, layout, {**field.attributes, **names}, field.fill_value)


def read_pair(first: str, second: str, arguments: argparse.Namespace, console: Console) -> tuple[FieldView, FieldView]:
    """Read two fields to look at, split over the ranks alike; a collective call."""
    a = read_view(first, arguments, console)
    b = read_view(second, arguments, console, a)
    if a.shape == b.shape and not isinstance(a.field, CompressedArray):
        a = a._replace(layout=b.layout)  # a plain field can be split in any way
    return a, b


def payload_bytes(a: CompressedArray, comm: Communicator) -> int:
    """Return the bytes of the payload of all ranks; a collective call."""
    return int(comm.allgather([float(a.local.nbytes)]).sum())


def seconds(comm: Communicator, start: float) -> float:
    """Return the seconds since `start`, a time.perf_counter(), of the slowest rank; a collective call."""
    return float(comm.allgather([time.perf_counter() - start]).max())


def number(value: float, digits: int = 6) -> str:
    """Write a number for people."""
    return "unknown" if math.isinf(value) else f"{value:.{digits}g}"


def file_size(path: str, comm: Communicator) -> int:
    """Return the size of a file as rank 0 sees it; a collective call."""
    size = 0
    with comm.together(), storage_errors("read", Path(path)):
        if comm.rank == 0:
            size = os.stat(path).st_size
    return int(comm.broadcast(size))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if math.isfinite(value) else None
    return int(value) if isinstance(value, np.integer) else value
