"""The largest of residuals, where NaN may be among them."""

import numpy as np

from .constants import INTEGER, REAL
from .helper import helper

HIDE_SIGN = INTEGER(0x7FFFFFFF) if INTEGER(-1).nbytes == 4 else INTEGER(0x7FFFFFFFFFFFFFFF)


@helper()
def settle(above, largest, tolerance):
    """Return the largest of residuals, from the largest number and how many are not within the tolerance.

    `max` passes NaN over. It is the answer if nothing else is above the tolerance.
    """
    return REAL(np.nan) if above > 0 and not largest > tolerance else largest
