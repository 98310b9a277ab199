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


def _store(builder: Any, value: Any, address: Any) -> None:
    builder.store(value, builder.inttoptr(address, _FLOATS.as_pointer())).align = 4


def _product(inputs: int, unpack: Callable[[Any, Any], list[Any]]) -> Callable[..., Any]:
    """The code that adds up `inputs` inputs a row of 32 bytes, then adds the group to the outputs."""

    def codegen(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        codes, x, rows, scales, offsets, x_sum, out = args
        zero = ir.Constant(_FLOATS, [0.0] * LANES)
        starts = range(0, TILE, LANES)
        sums = {(s, k): cgutils.alloca_once_value(builder, zero) for s in starts for k in range(inputs)}
        with cgutils.for_range(builder, rows) as loop:
            row = builder.add(codes, builder.mul(loop.index, ir.Constant(_I64, TILE)))
            here = builder.add(x, builder.mul(loop.index, ir.Constant(_I64, 4 * inputs)))
            at = [builder.add(here, ir.Constant(_I64, 4 * k)) for k in range(inputs)]
            values = [_broadcast(builder, _load(builder, address, _F32, 4)) for address in at]
            for s in starts:
                raw = _load(builder, builder.add(row, ir.Constant(_I64, s)), _BYTES, 1)
                for k, code in enumerate(unpack(builder, raw)):
                    term = builder.fmul(code, values[k], flags=FUSED)
                    builder.store(builder.fadd(builder.load(sums[s, k]), term, flags=FUSED), sums[s, k])
        x_sums = _broadcast(builder, x_sum)
        for s in starts:
            product = builder.load(sums[s, 0])
            for k in range(1, inputs):
                product = builder.fadd(product, builder.load(sums[s, k]))
            at = ir.Constant(_I64, 4 * s)
            scale, offset, total = (_load(builder, builder.add(a, at), _FLOATS, 4) for a in (scales, offsets, out))
            for one, two in ((scale, product), (offset, x_sums)):
                total = builder.fadd(total, builder.fmul(one, two, flags=FUSED), flags=FUSED)
            _store(builder, total, builder.add(out, at))
        return context.get_dummy_value()

    return codegen


_SIGNATURE = types.void(*[types.int64] * 5, types.float32, types.int64)


@intrinsic
def add_group_4bit(typingctx, codes, x, rows, scales, offsets, x_sum, out):  # type: ignore[no-untyped-def]
    """out[32] += scales[32] * (sum over `rows` rows of codes[row, 32] times x) + offsets[32] * x_sum, by addresses.

    A byte's low half meets x[2 * row], its high half x[2 * row + 1].
    """
    return _SIGNATURE, _product(2, _nibbles)


@intrinsic
def add_group_8bit(typingctx, codes, x, rows, scales, offsets, x_sum, out):  # type: ignore[no-untyped-def]
    """As `add_group_4bit`; codes less 128 meet x[row]."""
    return _SIGNATURE, _product(1, _centred)
