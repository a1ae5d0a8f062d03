"""What a compressed array is to hold, and the search for the tolerance that holds it."""

import math
import numbers
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from hpcblaz.errors import CodecError, ToleranceError
from hpcblaz.fields.codec import BlockCodec, Codec, ToleranceCodec
from hpcblaz.mpi import Communicator

if TYPE_CHECKING:
    from hpcblaz.fields.array import CompressedArray


class Target:
    """What the caller wants to hold, and the search for the tolerance that holds it."""

    def __init__(self, name: str, value: float, codec: Codec) -> None:
        self.name = name
        self.value = value
        self.codec = codec

    @classmethod
    def of(
        cls,
        tolerance: float | None,
        relative: float | None,
        psnr: float | None,
        rate: float | None,
        codec: Codec | None,
    ) -> "Target":
        """Return the target of the arguments of :func:`hpcblaz.compress`; raise CodecError or ToleranceError."""
        given = {"tolerance": tolerance, "relative": relative, "psnr": psnr, "rate": rate}
        chosen = {name: value for name, value in given.items() if value is not None}
        if codec is not None and not isinstance(codec, (ToleranceCodec, BlockCodec)):
            raise CodecError(f"expected codec to be a ToleranceCodec or a BlockCodec, got {type(codec).__name__}")
        if isinstance(codec, BlockCodec):
            if chosen:
                raise CodecError(f"expected no {' and no '.join(chosen)} with a BlockCodec, whose size is fixed")
            return cls("codec", 0.0, codec)
        if len(chosen) != 1:
            raise ToleranceError(
                f"expected one of tolerance=, relative=, psnr= and rate=, got {' and '.join(chosen) or 'none'}"
            )
        ((name, value),) = chosen.items()
        if isinstance(value, np.ndarray) and value.ndim == 0:
            value = value[()]
        if isinstance(value, (bool, np.bool_)) or not isinstance(value, numbers.Real):
            raise ToleranceError(f"expected {name} to be a number, got {value!r}")
        number = float(value)
        if not (number > 0 and math.isfinite(number)):
            raise ToleranceError(f"expected {name} to be positive and finite, got {value!r}")
        return cls(name, number, codec or ToleranceCodec())

    def search(
        self,
        attempt: "Callable[[float], CompressedArray]",
        cells: tuple[int, int],
        extent: tuple[float, float],
        comm: Communicator,
    ) -> "CompressedArray":
        """Return what `attempt` makes of the largest tolerance that holds the target.

        A collective call. The field has cells[0] cells on all ranks; cells[1] of them hold numbers, from extent[0] to
        extent[1].
        """
        span = extent[1] - extent[0]
        if not math.isfinite(span):
            raise ToleranceError(
                f"expected a range that float64 holds, got {extent[0]} to {extent[1]}: rescale the data"
            )
        if self.name == "tolerance" or span == 0 or not cells[0]:
            return attempt(self.value)
        if self.name == "relative":
            return attempt(self.value * span)
        if self.name == "psnr":
            return self._search_psnr(attempt, span, cells[1])
        return self._search_rate(attempt, span, cells[0], comm)

    def _search_psnr(self, attempt: "Callable[[float], CompressedArray]", span: float, cells: int) -> "CompressedArray":
        limit = span * 10 ** (-self.value / 20)
        # The error of a block is spread like uniform noise: the largest is about three times the root mean square
        tolerance = 3 * limit
        best: CompressedArray | None = None
        for _ in range(8):
            a = attempt(tolerance)
            rmse = a.error.l2 / math.sqrt(cells)
            if rmse <= limit:
                if best is None or a.error.l2 > best.error.l2:
                    best = a
                if rmse >= 0.9 * limit:
                    break
                tolerance *= min(2.0, 0.97 * limit / rmse) if rmse > 0 else 2.0
            else:
                tolerance *= max(0.25, 0.97 * limit / rmse)
        return best if best is not None else attempt(limit)

    def _search_rate(
        self, attempt: "Callable[[float], CompressedArray]", span: float, cells: int, comm: Communicator
    ) -> "CompressedArray":
        def bits(a: "CompressedArray") -> float:
            return float(comm.allgather(np.array([a.local.nbytes])).sum()) * 8 / cells

        low = span * 2.0**-60  # too fine, as far as known
        best = attempt(span)
        high = span
        if bits(best) > self.value:
            raise ToleranceError(
                f"expected a rate of at least {bits(best):.3g} bits a value for this field, got {self.value:g}: "
                "it is too small or its blocks are"
            )
        tolerance = span * 2.0 ** (-max(1.0, self.value))
        for _ in range(12):
            try:
                a = attempt(tolerance)
            except ToleranceError:
                low = max(low, tolerance)
            else:
                spent = bits(a)
                if spent <= self.value:
                    best, high = a, tolerance
                    if spent >= 0.98 * self.value:
                        break
                else:
                    low = max(low, tolerance)
            if high / low < 1.01:
                break
            tolerance = math.sqrt(low * high) if low > span * 2.0**-59 else high / 8
        return best
