"""Counters that several threads share, and how a thread waits for others."""

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic


def _address(context, builder, signature, arguments):
    """Return where an entry of a one-dimensional array of int64 is."""
    array_type, array = signature.args[0], arguments[0]
    structure = context.make_array(array_type)(context, builder, array)
    return cgutils.get_item_pointer(context, builder, array_type, structure, [arguments[1]], wraparound=False)


@intrinsic
def read(typingctx, counters, index):
    """Return a counter, and see all that was written before it became what it is."""

    def generate(context, builder, signature, arguments):
        return builder.load_atomic(_address(context, builder, signature, arguments), "acquire", 8)

    return types.int64(counters, types.intp), generate


@intrinsic
def add_one(typingctx, counters, index):
    """Add one to a counter, and let all see what was written before; return what it was."""

    def generate(context, builder, signature, arguments):
        one = ir.Constant(ir.IntType(64), 1)
        return builder.atomic_rmw("add", _address(context, builder, signature, arguments), one, "seq_cst")

    return types.int64(counters, types.intp), generate


@intrinsic
def claim(typingctx, counters, index, seen):
    """Add one to a counter if it is still what was seen; return whether it was."""

    def generate(context, builder, signature, arguments):
        place = _address(context, builder, signature, arguments)
        following = builder.add(arguments[2], ir.Constant(ir.IntType(64), 1))
        found = builder.cmpxchg(place, arguments[2], following, "seq_cst", "seq_cst")
        return builder.extract_value(found, 1)

    return types.boolean(counters, types.intp, types.int64), generate


@intrinsic
def step_aside(typingctx):
    """Let another thread have the core."""

    def generate(context, builder, signature, arguments):
        kind = ir.FunctionType(ir.IntType(32), [])
        function = cgutils.get_or_insert_function(builder.module, kind, "sched_yield")
        return builder.call(function, [])

    return types.int32(), generate
