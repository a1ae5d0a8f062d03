"""From files to Zarr stores whose fields are compressed, chunk by chunk: neither need fit in memory."""

import contextlib
import itertools
import math
import os
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hpcblaz.errors import FileFormatError, StoppedError, StorageError, ToleranceError
from hpcblaz.fields.array import CompressedArray
from hpcblaz.fields.checkpoint import Checkpoint
from hpcblaz.fields.codec import BlockCodec, Codec
from hpcblaz.fields.conversion_plan import Converted, Plan, facts_of, fields_of, plan, stored_attributes, write_rest
from hpcblaz.fields.dumping import dumps
from hpcblaz.fields.open_field import has_variables, open_dataset
from hpcblaz.fields.storage import loads
from hpcblaz.fields.zarr_store import chunk_name, chunks_of, codec_options, consolidate, create_array, zarr_module
from hpcblaz.mpi import Communicator

CHUNK_CELLS = 1 << 22  # 16 MiB of float32, 32 MiB of float64
_LOSSLESS = 0.499  # no error of an integer is below a half and not zero

Cells = tuple[int, ...]


def convert(
    path: str | os.PathLike[str],
    store: str | os.PathLike[str],
    variables: Sequence[str],
    comm: Communicator,
    *,
    target: Mapping[str, float],
    codec: Codec,
    shape: Sequence[int] | None = None,
    progress: Callable[[int, int], None] | None = None,
    stop: Callable[[], bool] | None = None,
    restart: bool = False,
    say: Callable[[str], None] | None = None,
) -> list[Converted]:
    """Write a file as a Zarr store with some of its variables compressed; all else stays as it is.

    A collective call: chunks are dealt out to the ranks, and errors are raised on every rank or on none. The store
    takes its name when it is complete. Until then the work is in a folder beside it
    (:mod:`hpcblaz.fields.checkpoint`); if this call ends early, the next one goes on there, on any number of ranks, and
    makes the very same chunks.

    Parameters
    ----------
    path, store : str or os.PathLike
    variables : sequence of str
        Which to compress; empty for the only field that there is.
    comm : Communicator
    target : mapping
        One of ``tolerance``, ``relative`` and ``psnr``; nothing for a BlockCodec.
    codec : ToleranceCodec or BlockCodec
    shape : sequence of int, optional
        Of a raw file.
    progress : callable, optional
        Called with the chunks done and those there are, of all ranks, as this rank reckons by its own.
    stop : callable, optional
        Asked between chunks whether to stop; on any rank, for all.
    restart : bool, default False
        Throw away what an earlier call has left.
    say : callable, optional
        Called, on rank 0, with what the user should know of work that is continued or kept.

    Returns
    -------
    list of Converted
        One for each variable.

    Raises
    ------
    StoppedError
        If it was stopped; what is done is kept.
    ConfigurationError
        If the work that an earlier call has left is of another input or other options.
    ToleranceError
        If the target is the size (``rate``), which no chunk by itself can keep to.
    HpcblazError
        As reading, compressing and writing do. What is done is kept, too, if any chunk is.
    """
    with comm.together():
        dataset = open_dataset(path) if has_variables(path) else None
        if "rate" in target:
            raise ToleranceError(
                "expected --tolerance, --relative or --psnr for a store, got --rate: a chunk does not know how many "
                "bits the others need; use --index-dtype for a size that is known"
            )
        fields = fields_of(path, variables, dataset, shape)
        plans = [plan(name, one, codec, CHUNK_CELLS) for name, one in fields]
    checkpoint: Checkpoint | None = None
    committed = False
    try:
        with comm.together():
            if comm.rank == 0:
                checkpoint = Checkpoint.begin(Path(store), facts_of(path, plans, target), restart=restart)
                if not checkpoint.begun:
                    write_rest(checkpoint.folder, dataset, [one.name for one in plans])
                    checkpoint.mark_begun()
        shared = comm.broadcast(None if checkpoint is None else checkpoint.shared)
        if checkpoint is None:
            checkpoint = Checkpoint.join(Path(store), shared, comm.rank)
        work = _Work(comm, checkpoint, target, plans, progress, stop, say)
        found = work.run()
        with comm.together():
            if comm.rank == 0:
                consolidate(checkpoint.folder)
                checkpoint.commit()
        committed = True
        return found
    finally:
        if checkpoint is not None:
            if comm.rank == 0 and not committed:
                _leave(checkpoint, say)
            checkpoint.close()
        if dataset is not None:
            dataset.close()


def _leave(checkpoint: Checkpoint, say: Callable[[str], None] | None) -> None:
    """Keep unfinished work if anything of it is worth it."""
    if not checkpoint.holds_results():
        checkpoint.discard()
    elif say is not None:
        say(f"what is done is kept in {checkpoint.place}: the same command continues there")


class _Work:
    """Compresses variables one after the other; the ranks share the chunks that are not done."""

    def __init__(
        self,
        comm: Communicator,
        checkpoint: Checkpoint,
        target: Mapping[str, float],
        plans: list[Plan],
        progress: Callable[[int, int], None] | None,
        stop: Callable[[], bool] | None,
        say: Callable[[str], None] | None,
    ) -> None:
        self._comm, self._checkpoint, self._target, self._plans = comm, checkpoint, target, plans
        self._progress, self._stop, self._say = progress, stop, say
        self._total = sum(one.count for one in plans)
        self._chunks_done = 0  # of all ranks and variables
        self._steps = self._total  # these and, if a range is to be found, the chunks to look through
        self._steps_done = 0

    def run(self) -> list[Converted]:
        """Return what became of the variables."""
        before = [self._done_before(number) for number in range(len(self._plans))]
        ranges = [self._ranges_before(number) for number in range(len(self._plans))]
        self._chunks_done = sum(len(positions) for positions, _ in before)
        self._steps_done = self._chunks_done + sum(map(len, ranges))
        if "tolerance" not in self._target:
            new = (one for one in self._plans if one.name not in self._checkpoint.tolerances)
            self._steps += sum(one.count for one in new if not isinstance(one.codec, BlockCodec))
        if self._checkpoint.continued and self._comm.rank == 0 and self._say is not None:
            known = sum(map(len, ranges))
            more = f", and the range of {known} is known" if known and not self._chunks_done else ""
            self._say(f"continuing: {self._chunks_done} of {self._total} chunks are done{more}")
        return [self._convert(number, *before[number], ranges[number]) for number in range(len(self._plans))]

    def _convert(
        self, number: int, done: set[int], sums: NDArray[np.float64], ranges: dict[int, tuple[float, float]]
    ) -> Converted:
        start = time.perf_counter()
        comm, one = self._comm, self._plans[number]
        known = one.name in self._checkpoint.tolerances
        tolerance = self._checkpoint.tolerances[one.name] if known else self._tolerance(number, ranges)
        with comm.together():
            if comm.rank == 0 and not known:
                self._create(one, tolerance)
        comm.barrier()
        with comm.together():
            array = zarr_module().open_array(str(self._checkpoint.folder), path=one.name, mode="r")
            encoder = array.metadata.codecs[0]
            mine, stopped = 0, False
            for _, index, values in self._chunks(one, done):
                if values is None:
                    stopped = True
                    break
                a = encoder.compress(values)
                record = dumps(a)
                self._checkpoint.write(chunk_name(array, one.name, index), record)
                sums, mine = _added(sums, a, len(record)), mine + 1
        self._meet(mine, stopped)
        self._chunks_done += one.count - len(done)
        with comm.together():
            for position, (index, _, _) in enumerate(chunks_of(one.field.shape, one.chunk) if one.count else ()):
                file = self._checkpoint.folder / chunk_name(array, one.name, index)
                if position % comm.size == comm.rank and not file.is_file():
                    raise StorageError(f"expected {file}, got nothing there: was it removed? Run the command again")
        total = comm.allgather(sums)
        return Converted(
            one.name,
            one.field.shape,
            one.field.dtype.name,
            one.chunk,
            None if tolerance is None else tolerance * one.scale,
            math.prod(one.field.shape) * one.field.dtype.itemsize,
            int(total[:, 0].sum()),
            int(total[:, 1].sum()),
            float(total[:, 2].max()) * one.scale,
            math.sqrt(float(total[:, 3].sum())) * one.scale * (1 + 2.0**-40),
            float(comm.allgather([time.perf_counter() - start]).max()),
        )

    def _create(self, one: Plan, tolerance: float | None) -> None:
        """Make the array of a variable, without chunks, and note its tolerance."""
        stored = tolerance
        if stored is not None and one.field.dtype.kind in "iu":
            stored = max(stored, _LOSSLESS)  # integers come back exactly: there is no need to be nearer
        shutil.rmtree(self._checkpoint.folder / one.name, ignore_errors=True)  # of a run that died right here
        create_array(
            self._checkpoint.folder,
            one.name,
            shape=one.field.shape,
            chunks=one.chunk,
            dtype=one.field.dtype,
            codec=codec_options(one.codec, stored, one.field.fill_value),
            dimensions=one.field.dims,
            attributes=stored_attributes(one.field),
        )
        self._checkpoint.mark_created(one.name, tolerance)

    def _tolerance(self, number: int, ranges: dict[int, tuple[float, float]]) -> float | None:
        """Return the tolerance of the values as they are stored; of a range, which takes a pass over all values."""
        one = self._plans[number]
        if isinstance(one.codec, BlockCodec):
            return None
        if "tolerance" in self._target:
            return self._target["tolerance"] / one.scale
        low = min((found[0] for found in ranges.values()), default=math.inf)
        high = max((found[1] for found in ranges.values()), default=-math.inf)
        with self._comm.together():
            stopped = False
            for position, _, values in self._chunks(one, set(ranges)):
                if values is None:
                    stopped = True
                    break
                least, most = _range(values, one)
                self._checkpoint.note_range(number, position, least, most)
                low, high = min(low, least), max(high, most)
            self._checkpoint.close_ranges()
        self._meet(0, stopped)
        extents = self._comm.allgather([low, high])
        low, high = float(extents[:, 0].min()), float(extents[:, 1].max())
        if not low < high:  # constant, or nothing: exact with any tolerance
            return 1.0
        if "relative" in self._target:
            return self._target["relative"] * (high - low)
        return float((high - low) * 10 ** (-self._target["psnr"] / 20))

    def _chunks(self, one: Plan, done: Collection[int]) -> Iterator[tuple[int, Cells, NDArray[Any] | None]]:
        """Yield position, index and values of this rank's share of what is not done; no values when it is to stop."""
        comm, begun = self._comm, self._steps_done
        rest = ((i, *chunk) for i, chunk in enumerate(chunks_of(one.field.shape, one.chunk)) if i not in done)
        for position, index, first, extents in itertools.islice(rest if one.count else (), comm.rank, None, comm.size):
            if self._checkpoint.asked_to_stop(self._stop):
                yield position, index, None
                return
            yield position, index, one.field[tuple(slice(f, f + n) for f, n in zip(first, extents, strict=True))]
            self._steps_done = min(self._steps_done + comm.size, begun + one.count - len(done))
            if self._progress is not None:
                self._progress(self._steps_done, self._steps)
        self._steps_done = begun + one.count - len(done)

    def _meet(self, mine: int, stopped: bool) -> None:
        """Let all ranks stop if one of them did."""
        met = self._comm.allgather([mine, stopped])
        if met[:, 1].any():
            done = self._chunks_done + int(met[:, 0].sum())
            raise StoppedError(f"stopped as asked: {done} of {self._total} chunks are done")

    def _done_before(self, number: int) -> tuple[set[int], NDArray[np.float64]]:
        """Return the positions of the chunks that are there and whole, and the sums of this rank's share of them."""
        comm, one, sums = self._comm, self._plans[number], np.zeros(4)
        mine: list[int] = []
        if not self._checkpoint.continued or one.name not in self._checkpoint.tolerances:
            return set(), sums
        with comm.together():
            array = zarr_module().open_array(str(self._checkpoint.folder), path=one.name, mode="r")
            for position, (index, _, extents) in enumerate(chunks_of(one.field.shape, one.chunk) if one.count else ()):
                record = None
                if position % comm.size == comm.rank:
                    record = self._checkpoint.read(chunk_name(array, one.name, index))
                if record is None:
                    continue
                with contextlib.suppress(FileFormatError):  # a disk that lost a part of it: the chunk is made again
                    a = loads(record)
                    if a.shape == array.metadata.codecs[0].field_shape(extents):
                        mine.append(position)
                        sums = _added(sums, a, len(record))
        return set(itertools.chain.from_iterable(comm.gather_objects(mine))), sums

    def _ranges_before(self, number: int) -> dict[int, tuple[float, float]]:
        """Return the ranges of chunks that are known, of a variable whose tolerance is not known."""
        comm = self._comm
        found: dict[int, tuple[float, float]] = {}
        if not self._checkpoint.continued or self._plans[number].name in self._checkpoint.tolerances:
            return found
        with comm.together():
            if comm.rank == 0:
                found = self._checkpoint.known_ranges(number)
        return dict(comm.broadcast(found))


def _added(sums: NDArray[np.float64], a: CompressedArray, length: int) -> NDArray[np.float64]:
    """Return the sums over chunks with one more: bytes, missing cells, largest error, square of the 2-norm."""
    gone = 0 if a._missing is None else a._missing.count
    return np.array([sums[0] + length, sums[1] + gone, max(sums[2], a.error.max_abs), sums[3] + a.error.l2**2])


def _range(values: NDArray[Any], one: Plan) -> tuple[float, float]:
    """Return the least and the largest of the values that are numbers."""
    numbers = values[np.isfinite(values) & (values != one.field.fill_value)].astype(np.float64)
    return (float(numbers.min()), float(numbers.max())) if numbers.size else (math.inf, -math.inf)
