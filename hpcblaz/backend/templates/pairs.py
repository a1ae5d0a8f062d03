"""Sums of products, or of squared differences, of the coefficients of every pair of several fields."""

import numpy as np
from numba import njit

from hpcblaz.backend.vectors import PANEL, add_differences, add_products
from hpcblaz.bodies.records import LANES

from .constants import SIZE

CHUNK = min(64, SIZE)  # terms that are summed in the precision of the rows


@njit(nogil=True, cache=True)
def pairs(rows, fields, stride, count, differences, out):
    """Add to out[i, j], i <= j, the sum over `count` rows of 16 of the products of fields i and j.

    Field i begins at ``i * stride`` of rows; the number of fields is a multiple of PANEL. With `differences`, squares
    of differences are summed instead.
    """
    panels = fields // PANEL
    sums = np.zeros(panels * (panels + 1) // 2 * PANEL * PANEL * LANES)
    for start in range(0, count, CHUNK):
        length = min(CHUNK, count - start)
        place = 0
        for p in range(panels):
            for q in range(p, panels):
                first = p * PANEL * stride + start * LANES
                second = q * PANEL * stride + start * LANES
                if differences:
                    add_differences(rows, first, second, stride, length, sums, place)
                else:
                    add_products(rows, first, second, stride, length, sums, place)
                place += PANEL * PANEL * LANES
    place = 0
    for p in range(panels):
        for q in range(p, panels):
            for i in range(PANEL):
                for j in range(PANEL):
                    total = 0.0
                    for lane in range(LANES):
                        total += sums[place + lane]
                    place += LANES
                    out[p * PANEL + i, q * PANEL + j] += total
