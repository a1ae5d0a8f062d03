"""The messages of a collective operation, piece by piece: one piece is computed on while others are on their way."""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from hpcblaz.backend import quantised
from hpcblaz.backend.payload import SPARE_WORDS
from hpcblaz.backend.quantised import Words
from hpcblaz.errors import PeerError
from hpcblaz.mpi.agreement import Plan
from hpcblaz.mpi.schedules import Operation

_DEPTH = 4  # messages on their way at a time, in each direction
_BROKEN = np.zeros(1 + SPARE_WORDS, np.uint32)  # the message of a rank that has failed

Span = tuple[int, int]


class Pipeline:
    """What one rank does in a collective operation.

    It never waits by itself: :meth:`advance` does what can be done. A rank that fails goes through the same messages as
    the others, which are empty from there on, so that no rank waits for one that will not come.

    Parameters
    ----------
    backend : module
        :mod:`hpcblaz.backend.quantised`, or the drivers of a GPU: where `values` and `out` are.
    comm : mpi4py.MPI.Comm
    mpi : module
        ``mpi4py.MPI``.
    tag : int
        Of all messages.
    program : sequence of Operation
    segments : sequence of (int, int)
        First value and end of each segment of the flat array.
    piece : int
        Values of a message.
    values : array or None
        This rank's values, one axis; None if it gives none.
    first : int
        Where they begin in the flat array.
    out : array
        Where results go, one axis.
    wanted : collection of int
        The segments whose results this rank wants; they are written from the first value of the first one on.
    plan : Plan
    strides : sequence of int
        Of the differences, see :func:`hpcblaz.backend.quantised.pack`.
    """

    def __init__(
        self,
        backend: Any,
        comm: Any,
        mpi: Any,
        tag: int,
        *,
        program: Sequence[Operation],
        segments: Sequence[Span],
        piece: int,
        values: Any | None,
        first: int,
        out: Any,
        wanted: Collection[int],
        plan: Plan,
        strides: Sequence[int],
    ) -> None:
        self._backend, self._comm, self._mpi, self._tag = backend, comm, mpi, tag
        self._values, self._first, self._out = values, first, out
        self._plan, self._strides = plan, strides
        pieces = [[(at, min(stop, at + piece)) for at in range(start, stop, piece)] for start, stop in segments]
        self._sends: list[_Send] = []
        self._receives: list[_Receive] = []
        received: Counter[int] = Counter()
        for number, operation in enumerate(program):
            segment = operation.segment
            later = next((other for other in program[number + 1 :] if other.segment == segment), None)
            for span in pieces[segment]:
                if operation.sends:
                    self._sends.append(
                        _Send(operation.peer, span, received[segment], later is not None and later.sends)
                    )
                else:
                    self._receives.append(_Receive(operation.peer, span, operation.adds, later))
            received[segment] += not operation.sends
        self._left_to_receive = Counter(receive.span for receive in self._receives)
        self._arrived: Counter[Span] = Counter()
        self._wanted = {span for segment in wanted for span in pieces[segment]}
        self._origin = min((span[0] for span in self._wanted), default=0)
        sent = {send.span for send in self._sends}
        self._alone = [s for s in self._wanted if not self._left_to_receive[s] and s not in sent]
        largest = max((stop - start for own in pieces for start, stop in own), default=0)
        self._capacity = quantised.most_words(largest)
        self._pool: list[Words] = []
        self._integers = backend.empty((largest,), np.int32)
        self._scratch = backend.empty((2, largest), np.int32)
        self._messages: dict[Span, tuple[Words, int]] = {}
        self._sums: dict[Span, Any] = {}
        self._posted: list[tuple[Any, Words]] = []
        self._sent: list[tuple[Any, Words]] = []
        self._next_send = self._next_receive = 0
        self.error: BaseException | None = None  # of this rank, not of one that it has heard of
        self._broken = False
        self.largest_error = self.squared_error = 0.0
        self.words_sent = self.words_received = self.values_sent = 0

    @property
    def finished(self) -> bool:
        """Whether all is sent, received and written."""
        return (
            self._next_send == len(self._sends)
            and self._next_receive == len(self._receives)
            and not self._sent
            and not self._alone
        )

    def advance(self) -> bool:
        """Do what can be done without waiting: at most one piece is computed on. Returns whether anything was done."""
        while len(self._posted) < _DEPTH and self._next_receive + len(self._posted) < len(self._receives):
            receive = self._receives[self._next_receive + len(self._posted)]
            buffer = self._take()
            request = self._comm.Irecv([buffer, self._mpi.UINT32_T], receive.peer, self._tag)
            self._posted.append((request, buffer))
        done = [entry for entry in self._sent if entry[0].Test()]
        self._sent = [entry for entry in self._sent if all(entry is not other for other in done)]
        for _, buffer in done:
            self._release(buffer)
        if self._can_send():
            self._send()
            return True
        if self._posted:
            status = self._mpi.Status()
            request, buffer = self._posted[0]
            if request.Test(status):
                self._posted.pop(0)
                self._process(buffer, status.Get_count(self._mpi.UINT32_T))
                return True
        elif self._alone:
            self._finish_alone(self._alone.pop())
            return True
        return bool(done)

    def _can_send(self) -> bool:
        if self._next_send == len(self._sends) or len(self._sent) >= _DEPTH:
            return False
        send = self._sends[self._next_send]
        return self._arrived[send.span] >= send.after

    def _send(self) -> None:
        send = self._sends[self._next_send]
        self._next_send += 1
        buffer, length = (_BROKEN, 1) if self._broken else self._message(send.span)
        self.words_sent += length
        self.values_sent += send.span[1] - send.span[0]
        request = self._comm.Isend([buffer, length, self._mpi.UINT32_T], send.peer, self._tag)
        self._sent.append((request, buffer))
        if not send.again:
            self._messages.pop(send.span, None)

    def _message(self, span: Span) -> tuple[Words, int]:
        """Return the message of a piece as it is by now, and its length."""
        if span not in self._messages:
            try:
                q = self._own(span)
                self._pack(span, q)
                if span in self._wanted and not self._left_to_receive[span]:
                    self._restore(span, q)
            except Exception as error:  # noqa: BLE001  agree() raises it, once no rank waits any more
                self._fail(error)
                return _BROKEN, 1
        return self._messages[span]

    def _process(self, buffer: Words, length: int) -> None:
        """Take in a piece that has arrived."""
        receive = self._receives[self._next_receive]
        self._next_receive += 1
        self._arrived[receive.span] += 1
        self._left_to_receive[receive.span] -= 1
        self.words_received += length
        self._broken = self._broken or length < 1 or buffer[0] != quantised.SOUND  # its sender has failed
        if not self._broken:
            try:
                self._take_in(buffer, length, receive)
            except Exception as error:  # noqa: BLE001  agree() raises it, once no rank waits any more
                self._fail(error)
        self._release(buffer)

    def _take_in(self, buffer: Words, length: int, receive: "_Receive") -> None:
        """Add a piece to what is there or put it in place, and keep it for what comes next."""
        span, later = receive.span, receive.later
        last = span in self._wanted and not self._left_to_receive[span]
        if receive.adds:
            q = self._sums.pop(span) if span in self._sums else self._own(span)
            self._backend.unpack(buffer, self._strides, q, True, self._scratch)
            if later is not None and later.sends:
                self._pack(span, q)
            elif later is not None:
                self._sums[span] = q if q.base is None else q.copy()
        else:
            q = self._integers[: span[1] - span[0]]
            if last:
                self._backend.unpack(buffer, self._strides, q, False, self._scratch)
            if later is not None:
                self._messages[span] = (buffer, length)
        if last:
            self._restore(span, q)

    def _finish_alone(self, span: Span) -> None:
        """Write a piece that is neither sent nor received."""
        try:
            if not self._broken:
                self._restore(span, self._own(span))
        except Exception as error:  # noqa: BLE001  agree() raises it
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        self.error, self._broken = error, True

    def _own(self, span: Span) -> Any:
        """Return the integers of this rank's values; they are there until the next piece is computed on."""
        start, stop = (cell - self._first for cell in span)
        q = self._integers[: stop - start]
        if self._values is None:
            raise PeerError(f"expected values from {start} to {stop} from a peer, got none")
        largest, norm = self._backend.quantise(self._values[start:stop], self._plan.step, self._plan.precision, q)
        self.largest_error = max(self.largest_error, largest)
        self.squared_error += norm * norm
        return q

    def _pack(self, span: Span, q: Any) -> None:
        buffer = self._take()
        self._messages[span] = (buffer, self._backend.pack(q, self._strides, self._scratch, buffer))

    def _restore(self, span: Span, q: Any) -> None:
        start, stop = (cell - self._origin for cell in span)
        self._backend.restore(q, self._plan.step, self._out[start:stop], self._plan.exact)

    def _take(self) -> Words:
        return self._pool.pop() if self._pool else np.empty(self._capacity, np.uint32)

    def _release(self, buffer: Words) -> None:
        """Keep a buffer for another message, unless it is still needed; then it is released later."""
        needed = any(buffer is other for _, other in self._sent)
        needed = needed or any(buffer is other for other, _ in self._messages.values())
        # Two messages of one buffer may have ended at once: it must not be given out twice
        given_back = any(buffer is other for other in self._pool)
        if not needed and not given_back and buffer is not _BROKEN:
            self._pool.append(buffer)


class _Send(NamedTuple):
    """A message to send: after so many arrivals of its piece; it may be sent again."""

    peer: int
    span: Span
    after: int
    again: bool


class _Receive(NamedTuple):
    """A message to receive, and what comes next for its segment."""

    peer: int
    span: Span
    adds: bool
    later: Operation | None


def spans(sizes: Sequence[int]) -> Iterator[Span]:
    """Yield the first value and the end of segments of these sizes, one after the other."""
    start = 0
    for size in sizes:
        yield start, start + size
        start += size
