"""From one split of a compressed array over ranks to another: compressed records travel, and nothing is decoded."""

from typing import Any, NamedTuple

from hpcblaz.backend import gpu
from hpcblaz.backend.blocks import BlockGrid
from hpcblaz.backend.payload import Numerics
from hpcblaz.errors import LayoutError
from hpcblaz.fields.array import CompressedArray
from hpcblaz.fields.boxes import Box, brought_together, exponents_of, put_together
from hpcblaz.fields.dumping import agreed_header, check_saved, header_of
from hpcblaz.fields.fileformat import FileHeader
from hpcblaz.fields.scalars import ErrorBound
from hpcblaz.mpi import Communicator, Layout, communicator, device_number


class _Offer(NamedTuple):
    """What a rank holds, and what it wants: the same description of both on every rank."""

    header: FileHeader
    attributes: dict[str, Any]
    is_split: bool
    exponents: tuple[int, int] | None  # None if it holds no cells
    on_gpu: bool


def redistribute(a: CompressedArray | None, layout: Layout | None, *, root: int = 0) -> CompressedArray | None:
    """Split a compressed array over the ranks in another way, without loss.

    A collective call; errors are raised on every rank or on none. Values, missing cells, attributes and bounds stay
    what they are. Compressed blocks go from rank to rank, and a rank holds its old part, its new part and the pieces
    that the new one is made of, all of them compressed.

    Parameters
    ----------
    a : CompressedArray or None
        An array that is split over the ranks; or a whole one on one rank, and None on the others.
    layout : Layout or None
        How to split it, with the communicator of the ranks and the array's blocks. None: bring the whole array,
        compressed, to one rank; the array must be split then.
    root : int, default 0
        The rank that gets the whole array. Looked at if `layout` is None.

    Returns
    -------
    CompressedArray or None
        With the new layout, on the device of `a`. Of a whole array: without a layout on the root, None elsewhere.

    Raises
    ------
    LayoutError
        If the layout is for another array or another communicator, if ranks do not pass the same, or if parts have
        steps too different for one array.
    CodecError
        If ranks hold parts of different arrays.

    See Also
    --------
    hpcblaz.load : Read a file with any layout.

    Examples
    --------
    >>> import numpy as np, hpcblaz as hb
    >>> from hpcblaz.mpi import world
    >>> comm = world()
    >>> rows = hb.Layout((64, 64), comm, splits=(comm.size, 1))
    >>> a = hb.compress(rows.local(np.eye(64)), layout=rows, tolerance=1e-3)
    >>> b = hb.redistribute(a, hb.Layout((64, 64), comm, splits=(1, comm.size)))
    >>> b.layout.splits == (1, comm.size), b.error == a.error
    (True, True)
    """
    own_layout = layout if layout is not None else getattr(a, "layout", None)
    comm = communicator(None if own_layout is None else own_layout.comm)
    with comm.together():
        offer = _offer_of(a, layout, comm)
    wishes = comm.gather_objects(None if layout is None else (layout.global_shape, layout.block_shape, layout.splits))
    offers: list[_Offer | None] = comm.gather_objects(offer)
    with comm.together():
        if any(wish != wishes[0] for wish in wishes):
            raise LayoutError(f"expected the same layout on all ranks, got the splits {wishes}")
        sources, header, model = _sources(offers, comm)
        targets = _targets(header, layout, root, comm)
        host = None if a is None else a.to_device("cpu")
    held = brought_together(host, sources, targets, comm)
    with comm.together():
        mine = targets[comm.rank]
        like = Numerics(BlockGrid(mine.extents, header.block_shape), header.codec.transform, header.precision)
        exponents = None if mine.size else _least(offers)
        part = put_together(held, mine, like, header.codec, exponents)
        if model.on_gpu and a is None:
            gpu.use_device(device_number(comm, gpu.device_count()))
        if layout is None and comm.rank != root:
            return None
        result = CompressedArray(
            part.blocks,
            part.numerics,
            header.codec,
            header.dtype,
            ErrorBound(header.max_abs, header.l2),
            magnitude=header.magnitude,
            factor=header.factor,
            offset=header.offset,
            layout=layout,
            promise=header.promise,
            attributes=model.attributes,
            missing=part.missing,
        )
        return result.to_device("gpu") if model.on_gpu else result


def _offer_of(a: Any, layout: Any, comm: Communicator) -> _Offer | None:
    """Return what this rank holds, or raise LayoutError if it does not go with the communicator."""
    for one in (layout, None if a is None else getattr(a, "layout", None)):
        if one is not None and (not isinstance(one, Layout) or (one.rank, one.size) != (comm.rank, comm.size)):
            raise LayoutError(
                f"expected a Layout of rank {comm.rank} of {comm.size}, got {one!r}: pass the communicator of the "
                "ranks to it"
            )
    if a is None:
        if comm.size == 1:
            raise LayoutError(
                "expected an array, got None on the only rank there is: pass a Layout with a communicator"
            )
        return None
    check_saved(a)
    cells = a._numerics.grid.size
    exponents = exponents_of(a._blocks) if cells else None
    return _Offer(header_of(a, {}, {}), a.attributes, a.layout is not None, exponents, a.device != "cpu")


def _sources(offers: list[_Offer | None], comm: Communicator) -> tuple[list[Box], FileHeader, _Offer]:
    """Return which cells each rank holds, and what the array is."""
    there = {rank: offer for rank, offer in enumerate(offers) if offer is not None}
    split = [rank for rank, offer in there.items() if offer.is_split]
    if len(split) == comm.size:
        header = agreed_header([offer.header for offer in there.values()])
        layout = Layout(header.shape, block_shape=header.block_shape, splits=header.splits, rank=0, size=comm.size)
        return [Box.of(layout.slices_of(rank)) for rank in range(comm.size)], header, there[0]
    if len(there) != 1 or split:
        raise LayoutError(
            "expected an array that is split over all ranks, or a whole one on one rank and None on the others, got "
            f"split ones on the ranks {split} and whole ones on {sorted(set(there) - set(split))}"
        )
    ((holder, offer),) = there.items()
    zeros = (0,) * len(offer.header.shape)
    boxes = [Box(zeros, offer.header.shape if rank == holder else zeros) for rank in range(comm.size)]
    return boxes, offer.header, offer


def _targets(header: FileHeader, layout: Layout | None, root: int, comm: Communicator) -> list[Box]:
    """Return which cells each rank is to hold."""
    if layout is None:
        if not 0 <= root < comm.size:
            raise LayoutError(f"expected a root from 0 to {comm.size - 1}, got {root}")
        zeros = (0,) * len(header.shape)
        return [Box(zeros, header.shape if rank == root else zeros) for rank in range(comm.size)]
    if (layout.global_shape, layout.block_shape) != (header.shape, header.block_shape):
        raise LayoutError(
            f"expected a layout of shape {header.shape} in blocks of {header.block_shape}, as the array has them, got "
            f"{layout.global_shape} in blocks of {layout.block_shape}"
        )
    return [Box.of(layout.slices_of(rank)) for rank in range(comm.size)]


def _least(offers: list[_Offer | None]) -> tuple[int, int]:
    """Return the least exponents of the steps of all parts with cells."""
    found = [offer.exponents for offer in offers if offer is not None and offer.exponents is not None] or [(0, 0)]
    return min(pair[0] for pair in found), min(pair[1] for pair in found)
