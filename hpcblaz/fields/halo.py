"""Values of a rank's part with some cells of its neighbours around it.

What neighbours send are decoded values, or the compressed blocks that hold them, which the receiver decodes: the values
are the same, and the blocks take fewer bytes unless a halo is thin and blocks are thick.
"""

import itertools
import pickle
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import DTypeLike

from hpcblaz.backend import gpu
from hpcblaz.backend.blocks import BlockGrid
from hpcblaz.backend.dispatch import drivers_of
from hpcblaz.backend.payload import SPARE_WORDS, Blocks, FixedBlocks, Numerics, PackedBlocks
from hpcblaz.errors import ConfigurationError
from hpcblaz.fields.boxes import Box, array_of, held_part, put_together
from hpcblaz.fields.codec import BlockCodec, empty_blocks
from hpcblaz.fields.gaps import decode_window
from hpcblaz.fields.moments import check_array
from hpcblaz.mpi import Layout
from hpcblaz.mpi.exchange import exchange_unsized
from hpcblaz.mpi.halo import Halo, HaloPlan, Transfer, Width, check_alike, exchange_boxes, plan_halo

if TYPE_CHECKING:
    from hpcblaz.fields.array import CompressedArray

Cells = tuple[int, ...]
Decode = Callable[["CompressedArray", Cells, Cells], Any]
Way = Literal["decoded", "compressed"]
Source = tuple[Transfer, "CompressedArray", Cells]  # a box, the local array that has it, and where that begins


class Neighbourhood(NamedTuple):
    """What :func:`hpcblaz.with_halo` returns.

    Parameters
    ----------
    values : numpy.ndarray
        Of this rank's part and its halo; of CuPy if the array is on a GPU.
    low : tuple of int
        Index of their first cell in the whole field; negative where a periodic axis goes on below its first cell.
    inner : tuple of slice
        Where the part of this rank is in them: ``values[inner]`` are its own values.
    """

    values: Any
    low: Cells
    inner: tuple[slice, ...]


def with_halo(
    a: "CompressedArray",
    width: Width,
    *,
    periodic: bool | Sequence[bool] = False,
    exchange: Way = "decoded",
) -> Neighbourhood:
    """Return the decompressed values of this rank's part with cells of its neighbours around it.

    A collective call; messages go between neighbours only, corners among them.

    Parameters
    ----------
    a : CompressedArray
    width : int, or sequence of int or pair of int
        Cells on all sides; or for each axis those on both sides, or those (below, above). A halo may be wider than the
        parts of neighbours.
    periodic : bool or sequence of bool, default False
        Whether cells beyond the faces of the field are those from its other end, for all axes or for each. Otherwise
        there are none, and halos end at the faces.
    exchange : {'decoded', 'compressed'}
        What neighbours send: values, or the compressed blocks that hold them. The answer is the same, bit for bit.

    Returns
    -------
    Neighbourhood
        The values have the array's dtype, and missing cells are as :meth:`CompressedArray.decompress` has them. There
        is nothing around an empty part.

    Raises
    ------
    ShapeError, ConfigurationError
        If an argument is not as described above.
    LayoutError
        If ranks ask for different halos.
    UnsupportedOperationError
        If `a` is no compressed array.

    See Also
    --------
    hpcblaz.stencil : Apply a function of neighbourhoods, slab by slab, and compress the result.

    Examples
    --------
    >>> import numpy as np, hpcblaz as hb
    >>> a = hb.compress(np.arange(40.0).reshape(5, 8), tolerance=1e-6)
    >>> around = hb.with_halo(a, (1, 2), periodic=(True, False))
    >>> around.values.shape, around.low
    ((7, 8), (-1, 0))
    >>> bool((around.values[around.inner] == a.decompress()).all())
    True
    """
    check_array(a, "a")
    return _neighbourhood(a, width, periodic, exchange, _decompressed, a.dtype)


def doubles_with_halo(a: "CompressedArray", below: int, above: int) -> Neighbourhood:
    """Return values in double precision, not rounded to the array's type; missing ones are any numbers.

    A collective call. There is nothing beyond the faces of the field.
    """
    return _neighbourhood(a, [(below, above)] * a.ndim, False, "decoded", decode_window, np.float64)


def _decompressed(a: "CompressedArray", low: Cells, high: Cells) -> Any:
    return a._raw(low, high)


class Surroundings:
    """A rank's part and what its neighbours have sent: any window of both is put together when it is asked for.

    Blocks that came compressed stay so, and so does the part itself.
    """

    def __init__(
        self, a: "CompressedArray", width: Width, periodic: bool | Sequence[bool], way: Way, decode: Decode,
        dtype: DTypeLike, meanwhile: Callable[["Surroundings"], None] | None = None,
    ) -> None:  # fmt: skip
        """Exchange the halo of an array; a collective call.

        Parameters
        ----------
        a : CompressedArray
        width, periodic, way
            As for :func:`with_halo`.
        decode : callable
            Returns the values of a window of a local array, of `dtype`.
        dtype : dtype
        meanwhile : callable, optional
            Called while the messages are under way; windows have nothing of neighbours then.
        """
        with a._comm.together():
            if way not in ("decoded", "compressed"):
                raise ConfigurationError(f"expected exchange to be 'decoded' or 'compressed', got {way!r}")
            halo = Halo.of(a.ndim, width, periodic)
            layout = a.layout if a.layout is not None else Layout(a.shape, block_shape=a.codec.block_shape)
            self.plan = plan_halo(layout, halo)
        check_alike(a._comm, halo, dtype, int(way == "compressed"))
        self._a = a
        self._dtype = np.dtype(dtype)
        self._decode = decode
        self._sources: list[Source] = [(box, a, layout.offset) for box in self.plan.incoming if box.rank == layout.rank]
        self._received: list[tuple[Transfer, Any]] = []
        error: BaseException | None = None

        def work() -> None:
            nonlocal error
            try:
                if meanwhile is not None:
                    meanwhile(self)
            except Exception as caught:  # noqa: BLE001  agree() raises it, once no rank waits any more
                error = caught

        if way == "compressed":
            self._sources += _exchange_blocks(a, layout, self.plan, work)
        else:
            drivers = drivers_of(a._blocks)

            def cut(box: Transfer) -> Any:
                return drivers.asnumpy(decode(a, _minus(box.low, layout.offset), _minus(box.high, layout.offset)))

            self._received = exchange_boxes(a._comm, self.plan, cut, self._dtype, work)
        if meanwhile is not None:
            a._comm.agree(error)

    def window(self, low: Cells, high: Cells) -> Any:
        """Return the values between two cells of the neighbourhood, which are counted from its first one."""
        values = drivers_of(self._a._blocks).array_module().empty(_minus(high, low), self._dtype)
        self.fill(values, low, high)
        return values

    def fill(self, values: Any, low: Cells, high: Cells, own: bool = True, others: bool = True) -> None:
        """Put the values between two cells into an array: those of this rank itself, of others, or of all."""
        for box, held, first in self._sources:
            found = _overlap(box, low, high)
            if found is not None and (own if held is self._a else others):
                begin, end = found
                inside = _minus(box.low, first)
                cells = (_plus(inside, _minus(cell, box.place)) for cell in found)
                values[_slices(_minus(begin, low), _minus(end, low))] = self._decode(held, *cells)
        for box, piece in self._received:
            found = _overlap(box, low, high)
            if found is not None and others:
                begin, end = found
                part = piece[_slices(_minus(begin, box.place), _minus(end, box.place))]
                values[_slices(_minus(begin, low), _minus(end, low))] = drivers_of(self._a._blocks).asarray(part)


def _neighbourhood(
    a: "CompressedArray", width: Width, periodic: bool | Sequence[bool], way: Way, decode: Decode, dtype: DTypeLike
) -> Neighbourhood:
    """Return all values; those of this rank are decoded while the messages are under way."""
    begun: list[Any] = []

    def decode_own(around: Surroundings) -> None:
        shape = around.plan.shape
        begun.append(drivers_of(a._blocks).array_module().empty(shape, np.dtype(dtype)))
        around.fill(begun[0], (0,) * len(shape), shape, others=False)

    around = Surroundings(a, width, periodic, way, decode, dtype, decode_own)
    with a._comm.together():
        around.fill(begun[0], (0,) * a.ndim, around.plan.shape, own=False)
    return Neighbourhood(begun[0], around.plan.low, around.plan.inner)


def _exchange_blocks(
    a: "CompressedArray", layout: Layout, plan: HaloPlan, meanwhile: Callable[[], None]
) -> list[Source]:
    """Send the blocks of boxes; return those of others as arrays, with the index of their first cell in the field."""
    outgoing: dict[int, bytes] = {}
    with a._comm.together():
        host = a._replace(blocks=gpu.to_host(a._blocks))
        for rank, boxes in itertools.groupby(plan.outgoing, key=lambda box: box.rank):
            pieces = [
                _packed(_cut(host, _minus(low, layout.offset), _minus(high, low))) for low, high in _whole(a, boxes)
            ]
            outgoing[rank] = pickle.dumps(pieces, pickle.HIGHEST_PROTOCOL)
    senders = {
        rank: list(boxes)
        for rank, boxes in itertools.groupby(plan.incoming, key=lambda box: box.rank)
        if rank != layout.rank
    }
    messages = exchange_unsized(a._comm, outgoing, list(senders), meanwhile)
    found: list[Source] = []
    with a._comm.together():
        for rank, expected in senders.items():
            places = _whole(a, expected)
            held = {
                place: _unpacked(a, _minus(place[1], place[0]), piece)
                for place, piece in zip(places, pickle.loads(messages[rank].data), strict=True)
            }
            for box in expected:
                place = _outward(a, box)
                found.append((box, held[place], place[0]))
    return found


def _whole(a: "CompressedArray", boxes: Iterable[Transfer]) -> list[tuple[Cells, Cells]]:
    """Return the boxes of whole blocks around others, each once."""
    return list(dict.fromkeys(_outward(a, box) for box in boxes))


def _outward(a: "CompressedArray", box: Transfer) -> tuple[Cells, Cells]:
    """Return first cell and end of the whole blocks around a box; all of them belong to the part that the box is of."""
    sides = a._numerics.grid.block_shape
    low = tuple(o // side * side for o, side in zip(box.low, sides, strict=True))
    return low, tuple(min(n, -(-h // side) * side) for h, n, side in zip(box.high, a.shape, sides, strict=True))


def _cut(a: "CompressedArray", low: Cells, extents: Cells) -> "CompressedArray":
    """Return a box of whole blocks of the local array, without decoding."""
    return array_of(a, put_together([held_part(a, (0,) * a.ndim)], Box(low, extents), a._numerics, a.codec))


def _packed(a: "CompressedArray") -> tuple[Any, ...]:
    """Return what has to be sent of an array whose shape and codec are known."""
    blocks = a._blocks
    if isinstance(blocks, FixedBlocks):
        return blocks.scales, blocks.indices, a._missing
    words = blocks.words[: int(blocks.offsets[-1])]
    return words, np.diff(blocks.offsets).astype(np.uint32), blocks.exponent, blocks.mean_exponent, a._missing


def _unpacked(a: "CompressedArray", extents: Cells, piece: tuple[Any, ...]) -> "CompressedArray":
    """Return a box that another rank has sent, as a local array on the device of this rank's part."""
    numerics = Numerics(BlockGrid(extents, a._numerics.grid.block_shape), a._numerics.transform, a._numerics.precision)
    blocks: Blocks
    if isinstance(a.codec, BlockCodec):
        blocks = empty_blocks(a.codec, numerics)
        blocks.scales[...], blocks.indices[...] = piece[:2]
    else:
        words, sizes, exponent, mean_exponent = piece[:4]
        offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes, dtype=np.int64)])
        blocks = PackedBlocks(
            np.concatenate([words, np.zeros(SPARE_WORDS, np.uint32)]), offsets, exponent, mean_exponent
        )
    if a._blocks.device != "cpu":
        blocks = gpu.to_device(blocks)
    return a._replace(blocks=blocks, numerics=numerics, missing=piece[-1], layout=None)


def _overlap(box: Transfer, low: Cells, high: Cells) -> tuple[Cells, Cells] | None:
    """Return first cell and end of what a window has of a box, in the neighbourhood."""
    begin = tuple(map(max, low, box.place))
    end = tuple(map(min, high, _plus(box.place, box.shape)))
    return (begin, end) if all(b < e for b, e in zip(begin, end, strict=True)) else None


def _minus(cell: Cells, other: Cells) -> Cells:
    return tuple(c - o for c, o in zip(cell, other, strict=True))


def _plus(cell: Cells, other: Cells) -> Cells:
    return tuple(c + o for c, o in zip(cell, other, strict=True))


def _slices(low: Cells, high: Cells) -> tuple[slice, ...]:
    return tuple(slice(o, h) for o, h in zip(low, high, strict=True))
