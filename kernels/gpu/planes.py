"""Codes of grouped.py's words as 16-bit floats, two at a time, by PTX.

A code put into the low bits of a float's mantissa adds itself: bits 0x4300 | q are the bfloat16 128 + q (seven bits of
mantissa), 0x6400 | q the float16 1024 + q (ten bits, so that q << 4 fits too and saves a shift). `asm` takes the power
of two and the zero away by a fused multiply-add: `code - zero`, exactly. `raw_asm` leaves that to the product, which
then needs the sum of its inputs: 128 + q; or q 2^-24, a float16 without an exponent, and q 2^-20 in odd planes.
"""

from __future__ import annotations

import struct
from functools import lru_cache

import triton
import triton.language as tl

from .grouped import BLOCK, MINIMUMS, ZEROS

AND_OR, AND_XOR = 0xEA, 0x6A  # (a & b) | c, (a & b) ^ c: look-up tables of lop3
_ZEROS, _MINIMUMS, _BLOCK = tl.constexpr(ZEROS), tl.constexpr(MINIMUMS), tl.constexpr(BLOCK)


def _odd_half(bits: int, plane: int, brain: bool) -> bool:
    """Whether the code is taken where it lies, four bits up."""
    return bits == 4 and not brain and plane % 2 == 1


def _twice(value: float, brain: bool) -> str:
    """Two 16-bit floats of that value in a register's bits."""
    raw = struct.pack("<f", value)[2:] if brain else struct.pack("<e", value)
    return f"0x{int.from_bytes(raw * 2, 'little'):08X}"


def base(bits: int, plane: int, brain: bool) -> float:
    """What `asm` adds to a code beside its zero, taken from below."""
    if brain:
        return 128.0 if bits == 8 else -128.0
    return -64.0 if _odd_half(bits, plane, brain) else -1024.0


def _extracted(bits: int, plane: int, brain: bool) -> list[str]:
    """t: the code as a float, plus or minus a power of two."""
    shift = 8 * (plane // 2) if bits == 4 and not brain else bits * plane
    lines = [f"shr.u32 t, $1, {shift};"]
    if bits == 4:
        mask = "0x00F000F0" if _odd_half(bits, plane, brain) else "0x000F000F"
        return [*lines, f"lop3.b32 t, t, {mask}, {'0x43004300' if brain else '0x64006400'}, {AND_OR};"]
    if not brain:
        return [*lines, f"lop3.b32 t, t, 0x00FF00FF, 0x64806480, {AND_XOR};"]
    # the low seven bits plus 128; the top bit is the last of the exponent: 128 or 256
    low, top = (
        f"lop3.b32 {to}, t, {mask}, 0x43004300, {AND_OR};" for to, mask in (("v", "0x007F007F"), ("u", "0x00800080"))
    )
    return [*lines, low, top, f"mov.b32 f, {_twice(-1.0, brain)};", "fma.rn.bf16x2 t, u, f, v;"]


def asm(bits: int, plane: int, brain: bool, zero: int | None) -> str:
    """PTX of two codes less their zero: $0 of words $1; without a `zero`, $2 has two floats `base` - zero."""
    lines = _extracted(bits, plane, brain)
    factor = 1 / 16 if _odd_half(bits, plane, brain) else 1.0
    added = "$2" if zero is None else _twice(base(bits, plane, brain) - zero, brain)
    kind = "bf16x2" if brain else "f16x2"
    lines += [f"mov.b32 f, {_twice(factor, brain)};", f"mov.b32 z, {added};", f"fma.rn.{kind} $0, t, f, z;"]
    return "{ .reg .b32 t, u, v, f, z; " + " ".join(lines) + " }"


def carried(bits: int, brain: bool) -> tuple[float, float]:
    """a and b, where `raw_asm` gives (code + a) * b, in odd planes of 4-bit codes for float16 16 times as much."""
    return (128.0 if bits == 4 else -128.0, 1.0) if brain else (0.0, 2.0**-24)


def raw_asm(bits: int, plane: int, brain: bool) -> str:
    """PTX of two codes as `carried` says: $0 of words $1."""
    lines = _extracted(bits, plane, brain)
    if not brain:
        mask = {4: "0x00F000F0" if _odd_half(bits, plane, brain) else "0x000F000F", 8: "0x00FF00FF"}[bits]
        flipped = "0x00800080" if bits == 8 else "0"
        lines[1:] = [f"lop3.b32 t, t, {mask}, {flipped}, {AND_XOR};"]
    return "{ .reg .b32 t, u, v, f; " + " ".join(lines) + " mov.b32 $0, t; }"


@lru_cache
def raw_instructions(bits: int, brain: bool) -> tuple[str, ...]:
    """`raw_asm` of each plane."""
    return tuple(raw_asm(bits, at, brain) for at in range(16 // bits))


@lru_cache
def instructions(bits: int, brain: bool, zero: int | None) -> tuple[tuple[str, ...], tuple[float, ...]]:
    """`asm` and `base` of each plane."""
    planes = range(16 // bits)
    return tuple(asm(bits, at, brain, zero) for at in planes), tuple(base(bits, at, brain) for at in planes)


@triton.jit
def plane(
    words, zeros, BITS: tl.constexpr, PLANE: tl.constexpr, SECOND: tl.constexpr, ZERO: tl.constexpr,
    TYPE: tl.constexpr, ASM: tl.constexpr, BASES: tl.constexpr,
):  # fmt: skip
    """words: int16 [rows, run], zeros: int32 [rows] -> code - zero in TYPE [rows, run]. Without ASM: for any float."""
    if ASM is None:
        codes = (words.to(tl.int32) >> (BITS * PLANE)) & ((1 << BITS) - 1)
        if BITS == 8:
            codes = codes ^ 128
        codes = codes - (zeros[:, None] if SECOND == _ZEROS else ZERO)
        return codes.to(tl.float32).to(TYPE)
    elif SECOND == _ZEROS:
        added = (BASES[PLANE] - zeros.to(tl.float32)).to(TYPE).to(tl.int16, bitcast=True)[:, None]
        codes = tl.inline_asm_elementwise(ASM[PLANE], "=r,r,r", [words, added], dtype=tl.int16, is_pure=True, pack=2)
        return codes.to(TYPE, bitcast=True)
    else:
        codes = tl.inline_asm_elementwise(ASM[PLANE], "=r,r", [words], dtype=tl.int16, is_pure=True, pack=2)
        return codes.to(TYPE, bitcast=True)


@triton.jit
def raw_plane(
    words, BITS: tl.constexpr, PLANE: tl.constexpr, CARRIED: tl.constexpr, UNIT: tl.constexpr, TYPE: tl.constexpr,
    ASM: tl.constexpr,
):  # fmt: skip
    """words: int16 [rows, run] -> as `carried` says, TYPE [rows, run]. Without ASM: for any float."""
    if ASM is None:
        codes = (words.to(tl.int32) >> (BITS * PLANE)) & ((1 << BITS) - 1)
        if BITS == 8:
            codes = codes ^ 128
        odd: tl.constexpr = 16.0 if UNIT != 1.0 and BITS == 4 and PLANE % 2 == 1 else 1.0
        return ((codes.to(tl.float32) + CARRIED) * (UNIT * odd)).to(TYPE)
    else:
        codes = tl.inline_asm_elementwise(ASM[PLANE], "=r,r", [words], dtype=tl.int16, is_pure=True, pack=2)
        return codes.to(TYPE, bitcast=True)


@triton.jit
def prefetch(address, nbytes, wanted):
    """Asks for `nbytes` at each wanted address to be brought into the L2 cache: int64 [n], a multiple of 16, int1 [n].

    From compute capability 9.0 up; n: the threads of a program, since fewer elements are repeated.
    """
    tl.inline_asm_elementwise(
        "{ .reg .pred p; setp.ne.s32 p, $3, 0; @p cp.async.bulk.prefetch.L2.global [$1], $2; mov.b32 $0, 0; }",
        "=r,l,r,r", [address, nbytes, wanted.to(tl.int32)], dtype=tl.int32, is_pure=False, pack=1,
    )  # fmt: skip


@triton.jit
def as_float(bits, FORMAT: tl.constexpr):
    """The float whose bits are the low half of an int32 (or all of it): formats of grouped.py."""
    if FORMAT == 0:
        return bits.to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
    elif FORMAT == 1:
        return (bits << 16).to(tl.float32, bitcast=True)
    else:
        return bits.to(tl.float32, bitcast=True)


@triton.jit
def table_words(
    table, factors, block, group, groups, factor_count, factor_groups, skipped, inside, there, SECOND: tl.constexpr,
    FORMAT: tl.constexpr,
):  # fmt: skip
    """A group's word, the zero or the bits of the minimum in it, and the word of its factors: int32, a row each."""
    WORDS: tl.constexpr = 2 if FORMAT == 2 else 1
    found = table + (block * groups + group) * (_BLOCK * WORDS) + inside
    pair = tl.load(found, mask=there, other=0).to(tl.int32)
    second, factor = pair, pair
    if FORMAT == 3:
        at = block * factor_count + (group + skipped) // factor_groups
        factor = tl.load(factors + at * _BLOCK + inside, mask=there, other=0).to(tl.int32)
        second = pair >> 8
    elif SECOND and WORDS == 2:
        second = tl.load(found + _BLOCK, mask=there, other=0)
    elif SECOND:
        second = pair >> 16
    return pair, second, factor


@triton.jit
def as_scale(pair, factor, FORMAT: tl.constexpr):
    if FORMAT == 3:
        return ((pair << 24) >> 24).to(tl.float32) * as_float(factor, 0)
    else:
        return as_float(pair, FORMAT)


@triton.jit
def as_minimum(second, factor, FORMAT: tl.constexpr):
    if FORMAT == 3:
        return second.to(tl.float32) * as_float(factor >> 16, 0)
    else:
        return as_float(second, FORMAT)


@triton.jit
def plane_values(
    w, pair, second, factor, BITS: tl.constexpr, PLANE: tl.constexpr, SECOND: tl.constexpr, ZERO: tl.constexpr,
    FORMAT: tl.constexpr,
):  # fmt: skip
    """What the codes of a plane mean: words int16 [rows, run] and what `table_words` gives -> float32 [rows, run]."""
    values = (
        plane(w, second, BITS, PLANE, SECOND, ZERO, tl.float32, None, None) * as_scale(pair, factor, FORMAT)[:, None]
    )
    if SECOND == _MINIMUMS:
        values += as_minimum(second, factor, FORMAT)[:, None]
    return values
