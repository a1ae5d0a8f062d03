"""Operations that a kernel may not leave to the compiler, or that the simulator has under another name.

A product (or a quotient) that is added to something would be contracted into one operation of one rounding: another
result than the CPU's. Those of ``times`` and ``quotient`` are rounded by themselves: both backends make the same
coefficients.
"""

import math

import numpy as np
from numba import cuda
from numba.extending import register_jitable

from .constants import REAL

SIMULATED = cuda.config.ENABLE_CUDASIM

if SIMULATED:
    import sys
    import threading

    from numba.cuda.simulator.kernel import _get_kernel_context

    class _Context:
        """What ``cuda`` is within a simulated kernel and the functions of other modules that it calls."""

        def __getattr__(self, name):
            return self if name == "shared" else getattr(_get_kernel_context(), name)

        def array(self, shape, dtype):
            """Allocate shared memory once for all threads, however they take turns."""
            shared = _get_kernel_context().shared
            if shape == 0:
                return shared.array(0, dtype)
            caller = sys._getframe(1)
            with _lock:
                held = shared.__dict__.setdefault("_held", {})
                key = caller.f_code.co_filename, caller.f_lineno
                if key not in held:
                    held[key] = np.empty(shape, np.dtype(dtype.name))
                return held[key]

    _lock = threading.Lock()
    cuda = _Context()

    def forget():
        return

    def power(exponent):
        return math.ldexp(1.0, int(exponent))

    def times(a, b):
        return a * b

    def quotient(a, b):
        return a / b

    def nearest(x):
        return np.rint(x)

    def times_double(a, b):
        return a * b

    def nearest_double(x):
        return np.rint(x)

else:
    from numba.cuda import libdevice

    if REAL is np.float32:

        @register_jitable(forceinline=True)
        def times(a, b):
            return libdevice.fmul_rn(a, b)

        @register_jitable(forceinline=True)
        def quotient(a, b):
            return libdevice.fdiv_rn(a, b)

        @register_jitable(forceinline=True)
        def nearest(x):
            return libdevice.rintf(x)

    else:

        @register_jitable(forceinline=True)
        def times(a, b):
            return libdevice.dmul_rn(a, b)

        @register_jitable(forceinline=True)
        def quotient(a, b):
            return libdevice.dmul_rn(a / b, 1.0)  # a quotient by a known power of two becomes a product

        @register_jitable(forceinline=True)
        def nearest(x):
            return libdevice.rint(x)

    @register_jitable(forceinline=True)
    def nearest_double(x):
        return libdevice.rint(x)

    @register_jitable(forceinline=True)
    def times_double(a, b):
        return libdevice.dmul_rn(a, b)

    @register_jitable(forceinline=True)
    def power(exponent):
        return math.ldexp(1.0, np.int32(exponent))

    @register_jitable(forceinline=True)
    def forget():
        """Have what was loaded from shared memory loaded again, where a compiler would fill registers with it."""
        cuda.threadfence_block()
