"""Products of one tile of 32 outputs with a group of inputs, as vector instructions: what numba's loops do not become.

Lanes of a vector are outputs, so a group may have any length, and no sum is taken across a vector. Written as LLVM
vectors of 16, which LLVM cuts to what the machine has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

TILE, LANES = 32, 16
FUSED = ("contract",)
_F32, _I8, _I32, _I64 = ir.FloatType(), ir.IntType(8), ir.IntType(32), ir.IntType(64)
_FLOATS, _WORDS, _BYTES = (ir.VectorType(kind, LANES) for kind in (_F32, _I32, _I8))


def _all(kind: Any, value: int) -> Any:
    return ir.Constant(kind, [value] * LANES)


def _nibbles(builder: Any, raw: Any) -> list[Any]:
    """Bytes as the values of their low and of their high halves."""
    words = builder.zext(raw, _WORDS)
    halves = builder.and_(words, _all(_WORDS, 15)), builder.lshr(words, _all(_WORDS, 4))
    return [builder.sitofp(half, _FLOATS) for half in halves]


def _centred(builder: Any, raw: Any) -> list[Any]:
    """Bytes less 128."""
    return [builder.sitofp(builder.sext(builder.xor(raw, _all(_BYTES, 128)), _WORDS), _FLOATS)]


def _broadcast(builder: Any, value: Any) -> Any:
    one = builder.insert_element(ir.Constant(_FLOATS, ir.Undefined), value, ir.Constant(_I32, 0))
    return builder.shuffle_vector(one, one, _all(_WORDS, 0))


def _load(builder: Any, address: Any, kind: Any, align: int) -> Any:
    value = builder.load(builder.inttoptr(address, kind.as_pointer()))
    value.align = align
    return value


def _product(inputs: int, tokens: int, unpack: Callable[[Any, Any], list[Any]]) -> Callable[..., Any]:
    """The code that adds up `inputs` inputs a row of 32 bytes for so many tokens, then adds the group to `out`."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        codes, x, rows, scales, offsets, x_sums, out, stride, sums_stride = args
        zero, starts = ir.Constant(_FLOATS, [0.0] * LANES), range(0, TILE, LANES)

        def at(address: Any, by: int) -> Any:
            return builder.add(address, ir.Constant(_I64, by))

        def of_token(address: Any, each: Any, token: int) -> Any:
            return builder.add(address, builder.mul(each, ir.Constant(_I64, token)))

        chains = 1 if tokens > 1 else inputs  # sums that do not wait for each other
        keys = [(t, s, k) for t in range(tokens) for s in starts for k in range(chains)]
        sums = {key: cgutils.alloca_once_value(builder, zero) for key in keys}
        for key in keys:
            builder.store(zero, sums[key])
        with cgutils.for_range(builder, rows) as loop:
            row = builder.add(codes, builder.mul(loop.index, ir.Constant(_I64, TILE)))
            here = builder.add(x, builder.mul(loop.index, ir.Constant(_I64, 4 * inputs)))
            terms = {s: unpack(builder, _load(builder, at(row, s), _BYTES, 1)) for s in starts}
            for t, k in ((t, k) for t in range(tokens) for k in range(inputs)):
                value = _broadcast(builder, _load(builder, at(of_token(here, stride, t), 4 * k), _F32, 4))
                for s in starts:
                    total = sums[t, s, k % chains]
                    term = builder.fmul(terms[s][k], value, flags=FUSED)
                    builder.store(builder.fadd(builder.load(total), term, flags=FUSED), total)
        for t in range(tokens):
            x_sum = _broadcast(builder, _load(builder, of_token(x_sums, sums_stride, t), _F32, 4))
            for s in starts:
                product = builder.load(sums[t, s, 0])
                for k in range(1, chains):
                    product = builder.fadd(product, builder.load(sums[t, s, k]))
                scale, offset = (_load(builder, at(table, 4 * s), _FLOATS, 4) for table in (scales, offsets))
                here = at(out, 4 * (TILE * t + s))
                total = _load(builder, here, _FLOATS, 4)
                for one, two in ((scale, product), (offset, x_sum)):
                    total = builder.fadd(total, builder.fmul(one, two, flags=FUSED), flags=FUSED)
                builder.store(total, builder.inttoptr(here, _FLOATS.as_pointer())).align = 4
        return context.get_dummy_value()

    return codegen


_SIGNATURE = types.void(*[types.int64] * 9)
TOKENS = 4  # that the kernels of several take


@intrinsic
def add_group_4bit(typingctx, codes, x, rows, scales, offsets, x_sums, out, stride, sums_stride):  # type: ignore[no-untyped-def]
    """out[32] += scales[32] * (sum over `rows` rows of codes[row, 32] times x) + offsets[32] * x_sums[0], by addresses.

    A byte's low half meets x[2 * row], its high half x[2 * row + 1].
    """
    return _SIGNATURE, _product(2, 1, _nibbles)


@intrinsic
def add_group_8bit(typingctx, codes, x, rows, scales, offsets, x_sums, out, stride, sums_stride):  # type: ignore[no-untyped-def]
    """As `add_group_4bit`; codes less 128 meet x[row]."""
    return _SIGNATURE, _product(1, 1, _centred)


@intrinsic
def add_groups_4bit(typingctx, codes, x, rows, scales, offsets, x_sums, out, stride, sums_stride):  # type: ignore[no-untyped-def]
    """As `add_group_4bit` for four tokens, whose x and x_sums lie so many bytes apart, and out [4, 32]."""
    return _SIGNATURE, _product(2, TOKENS, _nibbles)


@intrinsic
def add_groups_8bit(typingctx, codes, x, rows, scales, offsets, x_sums, out, stride, sums_stride):  # type: ignore[no-untyped-def]
    """As `add_groups_4bit`, of 8 bits."""
    return _SIGNATURE, _product(1, TOKENS, _centred)
