"""Operations on 16 lanes of 32 bits as single vector instructions.

A loop over 16 lanes is unrolled by LLVM before it could be vectorised, and a loop of unknown length brings checks that
take longer than the work. These intrinsics say what is meant. They take arrays of 32-bit integers and unsigned 64-bit
positions, and read or write 16 elements from there, unchecked and unaligned.
"""

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

_WORD = ir.IntType(32)
_ROW = ir.VectorType(_WORD, 16)


def _place(context: Any, builder: Any, kind: Any, array: Any, position: Any) -> Any:
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [position]), _ROW.as_pointer())


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
