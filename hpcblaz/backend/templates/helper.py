"""How functions are compiled that only other compiled functions call: without the ways in from Python and from C.

These take half of the time to compile a small function.
"""

from functools import partial

from numba import njit

helper = partial(njit, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)
kernel = partial(njit, nogil=True, cache=True, error_model="numpy", no_cfunc_wrapper=True)
inlined = partial(helper, inline="always")  # where they are called, before types are known: few places, or short ones
