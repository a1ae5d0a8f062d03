"""Where the operations read their tiles from: the packed records, or the fixed form of the paper."""

from .constants import FORM
from .packing import ROWS

if FORM == "packed":
    from .packing import sum_of_means, unpack_tile
else:
    from .fixed import sum_of_means, unpack_tile

__all__ = ["ROWS", "sum_of_means", "unpack_tile"]
