"""Operations on 16 lanes of 32 bits as single vector instructions.

A loop over 16 lanes is unrolled by LLVM before it could be vectorised, and a loop of unknown length brings checks that
take longer than the work. These intrinsics say what is meant. They take arrays of 32-bit integers (or of floats, to sum
products) and 64-bit positions, and read or write 16 elements from there, unchecked and unaligned.
"""

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

PANEL = 4  # fields whose products with as many others are summed at a time: 16 rows of sums stay in registers

_WORD = ir.IntType(32)
_ROW = ir.VectorType(_WORD, 16)


def _place(context: Any, builder: Any, kind: Any, array: Any, position: Any, row: Any = _ROW) -> Any:
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [position]), row.as_pointer())


def _load(context: Any, builder: Any, kind: Any, array: Any, position: Any) -> Any:
    value = builder.load(_place(context, builder, kind, array, position))
    value.align = 4
    return value


def _store(context: Any, builder: Any, kind: Any, array: Any, position: Any, value: Any) -> None:
    builder.store(value, _place(context, builder, kind, array, position)).align = 4


def _every_lane(builder: Any, value: Any) -> Any:
    if value.type.width > _WORD.width:
        value = builder.trunc(value, _WORD)
    undefined = ir.Constant(_ROW, ir.Undefined)
    first = builder.insert_element(undefined, value, ir.Constant(_WORD, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(_ROW, [0] * 16))


@intrinsic
def zero_row(typingctx, rows, row):
    """Set a row to zero."""

    def generate(context, builder, signature, values):
        _store(context, builder, signature.args[0], values[0], values[1], ir.Constant(_ROW, [0] * 16))
        return context.get_dummy_value()

    return types.void(rows, row), generate


@intrinsic
def unpack_row(typingctx, words, word, following, shift, unused, rows, row):
    """Write the signed integers of ``32 - unused`` bits that begin at bit `shift` of two rows of words."""

    def generate(context, builder, signature, values):
        words, word, following, shift, unused, rows, row = values
        kinds = signature.args
        down = _every_lane(builder, shift)
        up = builder.sub(ir.Constant(_ROW, [31] * 16), down)
        low = builder.lshr(_load(context, builder, kinds[0], words, word), down)
        high = _load(context, builder, kinds[0], words, following)
        high = builder.shl(builder.shl(high, ir.Constant(_ROW, [1] * 16)), up)  # by 1 to 32 in all
        outer = _every_lane(builder, unused)
        value = builder.ashr(builder.shl(builder.or_(low, high), outer), outer)
        _store(context, builder, kinds[5], rows, row, value)
        return context.get_dummy_value()

    return types.void(words, word, following, shift, unused, rows, row), generate


@intrinsic
def append_row(typingctx, words, word, rows, row, mask, shift):
    """Add the masked bits of a row to words, from bit `shift` on."""

    def generate(context, builder, signature, values):
        words, word, rows, row, mask, shift = values
        kinds = signature.args
        bits = builder.and_(_load(context, builder, kinds[2], rows, row), _every_lane(builder, mask))
        bits = builder.shl(bits, _every_lane(builder, shift))
        old = _load(context, builder, kinds[0], words, word)
        _store(context, builder, kinds[0], words, word, builder.or_(old, bits))
        return context.get_dummy_value()

    return types.void(words, word, rows, row, mask, shift), generate


@intrinsic
def begin_row(typingctx, words, word, rows, row, mask, shift):
    """Write to words the masked bits of a row without their lowest `shift`."""

    def generate(context, builder, signature, values):
        words, word, rows, row, mask, shift = values
        kinds = signature.args
        bits = builder.and_(_load(context, builder, kinds[2], rows, row), _every_lane(builder, mask))
        _store(context, builder, kinds[0], words, word, builder.lshr(bits, _every_lane(builder, shift)))
        return context.get_dummy_value()

    return types.void(words, word, rows, row, mask, shift), generate


def _add_pairs(difference):
    """Return what generates the sums over rows of the products (or squared differences) of two panels of fields."""

    def generate(context, builder, signature, values):
        rows, first, second, stride, count, sums, place = values
        kinds = signature.args
        real = context.get_value_type(kinds[0].dtype)
        row, wide = ir.VectorType(real, 16), ir.VectorType(ir.DoubleType(), 16)
        flags = ("contract",)  # one rounding for a product and a sum where the processor has it, two elsewhere

        def load(kind, array, position, vector):
            value = builder.load(_place(context, builder, kind, array, position, vector))
            value.align = 4
            return value

        totals = [cgutils.alloca_once_value(builder, ir.Constant(row, [0.0] * 16)) for _ in range(PANEL * PANEL)]
        with cgutils.for_range(builder, count) as loop:
            here = builder.mul(loop.index, ir.Constant(loop.index.type, 16))

            def panel(start):
                start = builder.add(start, here)
                fields = []
                for _ in range(PANEL):
                    fields.append(load(kinds[0], rows, start, row))
                    start = builder.add(start, stride)
                return fields

            left, right = panel(first), panel(second)
            for i in range(PANEL):
                for j in range(PANEL):
                    a, b = left[i], right[j]
                    if difference:
                        a = b = builder.fsub(a, b)
                    total = totals[i * PANEL + j]
                    product = builder.fmul(a, b, flags=flags)
                    builder.store(builder.fadd(builder.load(total), product, flags=flags), total)
        for total in totals:
            value = builder.load(total)
            value = value if real == wide.element else builder.fpext(value, wide)
            target = _place(context, builder, kinds[5], sums, place, wide)
            old = builder.load(target)
            old.align = 4
            builder.store(builder.fadd(old, value), target).align = 4
            place = builder.add(place, ir.Constant(place.type, 16))
        return context.get_dummy_value()

    return generate


@intrinsic
def add_products(typingctx, rows, first, second, stride, count, sums, place):
    """Add the products of PANEL fields with PANEL others, over `count` rows, to as many rows of sums, in double.

    Fields of a panel are `stride` apart. The products of one lane are summed in the precision of the rows.
    """
    return types.void(rows, first, second, stride, count, sums, place), _add_pairs(False)


@intrinsic
def add_differences(typingctx, rows, first, second, stride, count, sums, place):
    """Add the squared differences of PANEL fields and PANEL others, as add_products does the products."""
    return types.void(rows, first, second, stride, count, sums, place), _add_pairs(True)
