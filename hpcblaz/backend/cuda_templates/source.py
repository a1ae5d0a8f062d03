"""Where the operations read their tiles from: the packed records, or the fixed form of the paper."""

from .constants import FORM

if FORM == "packed":
    from .packing import open_tile, sum_of_means, unpack_tile
else:
    from .fixed_source import open_tile, sum_of_means, unpack_tile

__all__ = ["open_tile", "sum_of_means", "unpack_tile"]
