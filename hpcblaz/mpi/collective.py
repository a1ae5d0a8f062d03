"""The steps of a collective operation: agree, round, exchange, and put together what is known of the errors."""

import math
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcblaz.backend import gpu, gpu_quantised, quantised
from hpcblaz.bodies.sums import TILE
from hpcblaz.errors import CommunicatorError, ConfigurationError, DtypeError, ShapeError, ToleranceError
from hpcblaz.mpi import agreement, schedules
from hpcblaz.mpi.agreement import ALGORITHMS, MOST_AXES, Common, Plan, Report
from hpcblaz.mpi.channels import Channels, Running
from hpcblaz.mpi.comm import Communicator
from hpcblaz.mpi.pipeline import Pipeline, Span, spans

_SAMPLE_STEPS = 256  # in a rank's range, where strides are compared

Strange = tuple[NDArray[np.int64], NDArray[Any]]


@dataclass(frozen=True, eq=False)
class Reduction:
    """The result of a collective operation, and what it cost.

    Attributes
    ----------
    values : numpy.ndarray or cupy.ndarray
        The result, of the input's dtype, where the input was.
    max_abs_error : float
        No value is farther from the exact result on the ranks' original values.
    l2_error : float
        Bound of the 2-norm of all errors of the whole result.
    algorithm : {'ring', 'halving', 'none'}
        Which way the messages took.
    bytes_sent, bytes_received : int
        Of this rank's messages.
    ratio : float
        Bytes of the values in this rank's messages, uncompressed, over the bytes sent; 1 if nothing was sent.
    """

    values: Any
    max_abs_error: float
    l2_error: float
    algorithm: str
    bytes_sent: int = 0
    bytes_received: int = 0
    ratio: float = 1.0


class Part:
    """What this rank gives to a collective operation; `error` says why it cannot, if it cannot.

    `values` are finite, flat, and of the machine's byte order; `strange` are the places and values of what is not
    finite, where `values` has zeros.
    """

    def __init__(
        self,
        kind: str,
        array: Any,
        root: int,
        tolerance: float | None,
        relative: float | None,
        algorithm: str | None,
        comm: Communicator,
    ) -> None:
        self.comm = comm
        self.backend: Any = gpu_quantised if gpu.is_device_array(array) else quantised
        self.error: BaseException | None = None
        self.values: Any = None
        self.original: Any = None
        self.strange: Strange = (np.empty(0, np.int64), np.empty(0))
        self.report = Report(kind, 0, None, None, None, failed=True)
        try:
            self._check(root, tolerance, relative, algorithm)
            report = Report(kind, root, algorithm, tolerance, relative)
            if kind != "bcast" or comm.rank == root:
                report = self._take(array, report)
            self.report = report
        except Exception as error:  # noqa: BLE001  agree() raises it
            self.error = error

    def _check(self, root: int, tolerance: float | None, relative: float | None, algorithm: str | None) -> None:
        if (tolerance is None) == (relative is None):
            raise ToleranceError(f"expected one of tolerance and relative, got {tolerance!r} and {relative!r}")
        wanted = tolerance if relative is None else relative
        if not isinstance(wanted, (int, float, np.integer, np.floating)) or not 0 < wanted < math.inf:
            raise ToleranceError(f"expected a positive, finite number as tolerance or relative, got {wanted!r}")
        if algorithm is not None and algorithm not in ALGORITHMS:
            raise ConfigurationError(f"expected algorithm to be one of {ALGORITHMS} or None, got {algorithm!r}")
        if not 0 <= root < self.comm.size:
            raise CommunicatorError(f"root: expected 0 <= root < {self.comm.size}, got {root}")

    def _take(self, array: Any, report: Report) -> Report:
        """Read the array, and return the report with what it is like."""
        if isinstance(array, np.ma.MaskedArray):
            raise DtypeError("array: expected one without a mask, got a masked array: fill it, for example with 0")
        x = gpu.asarray(array) if self.backend is gpu_quantised else np.asarray(array)
        if x.dtype.kind != "f" or x.dtype.itemsize > 8:
            raise DtypeError(f"array: expected float16, float32 or float64, got {x.dtype}: convert it")
        if x.ndim > MOST_AXES or (x.ndim == 0 and report.kind in ("reduce_scatter", "allgather")):
            raise ShapeError(f"array: expected 1 to {MOST_AXES} axes, got {x.ndim}: reshape it")
        values = self.backend.flat(x)
        self.original = values.reshape(x.shape)
        extent = self.backend.extent(values)
        if extent is None:
            self.strange = self.backend.strange(values)
            values = values.copy()
            values[self.strange[0]] = 0
            extent = self.backend.extent(values) or (0.0, 0.0)
        self.values = values
        bits: tuple[float, ...] = ()
        sets = agreement.stride_sets(x.shape, values.size // self.comm.size)
        if extent[0] < extent[1] and values.size >= TILE:
            bits = self.backend.sampled_bits(values, (extent[1] - extent[0]) / _SAMPLE_STEPS, sets)
        return Report(
            report.kind, report.root, report.algorithm, report.tolerance, report.relative, x.shape, values.dtype,
            extent, bool(len(self.strange[0])), bits,
        )  # fmt: skip


@dataclass(frozen=True)
class _Way:
    """The way of an array's segments: which values each has, what this rank does with them, and what it wants."""

    segments: tuple[Span, ...]
    program: schedules.Program
    wanted: frozenset[int]
    first: int  # where this rank's values begin in the flat array
    shape: tuple[int, ...]  # of the result
    terms: int


def steps(part: Part, channels: Channels, running: Running) -> Generator[bool, None, Reduction]:
    """Carry out an operation; yield whether anything was done, or there is only something to wait for."""
    tag = channels.next_tag()  # before anything is waited for: operations begin in one order on all ranks
    found = yield from channels.greatest(part.report.encode())
    common = agreement.read(found, part.report)
    if common is None:
        yield from _turn(running)
        channels.end.agree(part.error)
        raise CommunicatorError("expected a rank that says why it cannot take part, got none")
    rows = None
    if part.report.kind == "allgather":
        own = 0 if part.report.shape is None else part.report.shape[0]
        yield from _turn(running)
        rows = yield from channels.gather(np.array([float(own)]))
    itemsize = common.dtype.itemsize
    algorithm = agreement.choose_algorithm(common.algorithm, itemsize * math.prod(common.shape), part.comm.size)
    way = _way(part.report, common, algorithm, part.comm, rows)
    plan = agreement.plan(common, way.terms)
    segment = max((stop - start for start, stop in way.segments), default=0)
    sets = agreement.stride_sets(common.shape, math.prod(common.shape) // part.comm.size)
    strides = sets[int(np.argmin(common.bits[: len(sets)]))]
    out = part.backend.empty((math.prod(way.shape),), common.dtype)
    pipeline = Pipeline(
        part.backend,
        channels.begin,
        channels.mpi,
        tag,
        program=way.program,
        segments=way.segments,
        piece=agreement.piece_length(segment, strides),
        values=part.values,
        first=way.first,
        out=out,
        wanted=way.wanted,
        plan=plan,
        strides=strides,
    )
    while not pipeline.finished:
        yield pipeline.advance()
    yield from _turn(running)
    own_errors = [float(pipeline.error is not None), pipeline.largest_error, pipeline.squared_error]
    errors = yield from channels.gather(np.array(own_errors))
    if errors[:, 0].any():
        channels.end.agree(pipeline.error)
    if common.strange:
        _place_strange(channels.end, part, way, out)
    sent = pipeline.values_sent * itemsize
    max_abs, l2 = _bounds(errors, plan, way.terms, max((stop for _, stop in way.segments), default=0))
    return Reduction(
        out.reshape(way.shape),
        max_abs,
        l2,
        algorithm,
        4 * pipeline.words_sent,
        4 * pipeline.words_received,
        sent / (4 * pipeline.words_sent) if pipeline.words_sent else 1.0,
    )


def _turn(running: Running) -> Generator[bool, None, None]:
    """Wait for the operations that began before: what is gathered is gathered in one order on all ranks."""
    while not running.is_first:
        yield False


def _way(report: Report, common: Common, algorithm: str, comm: Communicator, rows: NDArray[np.float64] | None) -> _Way:
    rank, size, shape = comm.rank, comm.size, common.shape
    cells = math.prod(shape)
    if report.kind == "allreduce":
        count, program = schedules.allreduce(rank, size, algorithm)
        segments = tuple((cells * i // count, cells * (i + 1) // count) for i in range(count))
        return _Way(segments, program, frozenset(range(count)), 0, shape, size)
    if report.kind == "bcast":
        program = schedules.broadcast(rank, size, report.root, algorithm)
        return _Way(((0, cells),), program, frozenset([0]), 0, shape, 1)
    inner = math.prod(shape[1:])
    if rows is None:
        each, longer = divmod(shape[0], size)
        extents = [each + (i < longer) for i in range(size)]
        program = schedules.reduce_scatter(rank, size, algorithm)
        segments = tuple(spans([n * inner for n in extents]))
        return _Way(segments, program, frozenset([rank]), 0, (extents[rank], *shape[1:]), size)
    extents = [int(n) for n in rows[:, 0]]
    segments = tuple(spans([n * inner for n in extents]))
    program = schedules.allgather(rank, size, algorithm)
    whole = (sum(extents), *shape[1:])
    return _Way(segments, program, frozenset(range(size)), segments[rank][0], whole, 1)


def _bounds(errors: NDArray[np.float64], plan: Plan, terms: int, cells: int) -> tuple[float, float]:
    """Return the bounds of the largest error and of the 2-norm, from those of all ranks."""
    largest, squares = errors[:, 1], errors[:, 2]
    slack = 1 + 2.0**-22  # measured in single precision: a difference may be rounded by a unit in the last place
    if terms > 1:
        max_abs, l2 = float(largest.sum()) * slack, float(np.sqrt(squares).sum()) * slack
    else:
        max_abs, l2 = float(largest.max()) * slack, math.sqrt(float(squares.sum())) * slack
    return max_abs + plan.rounding, l2 + plan.rounding * math.sqrt(cells)


def _place_strange(end: Communicator, part: Part, way: _Way, out: Any) -> None:
    """Write what is not finite: the sums of what the ranks have there."""
    given = end.gather_objects((part.strange[0] + way.first, part.strange[1].astype(np.float64)))
    origin = min((way.segments[segment][0] for segment in way.wanted), default=0)
    places = np.concatenate([place for place, _ in given]) - origin
    values = np.concatenate([value for _, value in given])
    inside = (places >= 0) & (places < out.size)
    where, number = np.unique(places[inside], return_inverse=True)
    sums = np.zeros(len(where))
    with np.errstate(invalid="ignore"):
        np.add.at(sums, number, values[inside])
    if len(where):
        out[where] = part.backend.flat(sums.astype(out.dtype))
