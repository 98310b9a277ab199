"""Values of a wire type in the payloads of cells, and what is done with those that came: parts of exchange kernels.

A payload is one float32 or two values of a 2-byte type; `VALUES` says how many. A cell has three. In kernels the values
of cells are six tensors (low, high) * 3, of which float32 needs the low ones only.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

TL_TYPES = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}


@triton.jit
def load(tensor, at, inside, inside_high, VALUES: tl.constexpr):
    """Both values of each word as float32: [n], [n]. Two loads a thread keep the layout of the words: no shuffles."""
    low = tl.load(tensor + at, mask=inside, other=0.0).to(tl.float32)
    high = low
    if VALUES == 2:
        high = tl.load(tensor + at + 1, mask=inside_high, other=0.0).to(tl.float32)
    return low, high


@triton.jit
def store(tensor, at, low, high, inside, inside_high, VALUES: tl.constexpr):
    tl.store(tensor + at, low.to(tensor.dtype.element_ty), mask=inside)
    if VALUES == 2:
        tl.store(tensor + at + 1, high.to(tensor.dtype.element_ty), mask=inside_high)


@triton.jit
def pack(low, high, WIRE: tl.constexpr, VALUES: tl.constexpr):
    """Float32 values, rounded to WIRE, as words' payloads: [n] int32."""
    if VALUES == 2:
        bits = low.to(WIRE).to(tl.int16, bitcast=True).to(tl.int32) & 0xFFFF
        payload = (high.to(WIRE).to(tl.int16, bitcast=True).to(tl.int32) << 16) | bits
    else:
        payload = low.to(tl.int32, bitcast=True)
    return payload


@triton.jit
def unpack(payload, WIRE: tl.constexpr, VALUES: tl.constexpr):
    """The inverse: [n] int32 to two [n] float32."""
    if VALUES == 2:
        low = payload.to(tl.int16).to(WIRE, bitcast=True).to(tl.float32)
        high = (payload >> 16).to(tl.int16).to(WIRE, bitcast=True).to(tl.float32)
    else:
        low = payload.to(tl.float32, bitcast=True)
        high = low
    return low, high


@triton.jit
def load_cells(tensor, offset, cell, shift, begin, end, VALUES: tl.constexpr):
    """The six values of each cell: those of columns [begin, end), which lie at offset + column - shift."""
    at = cell * (3 * VALUES)
    a, b = _pair(tensor, offset - shift, at, begin, end, VALUES)
    c, d = _pair(tensor, offset - shift, at + VALUES, begin, end, VALUES)
    e, f = _pair(tensor, offset - shift, at + 2 * VALUES, begin, end, VALUES)
    return a, b, c, d, e, f


@triton.jit
def _pair(tensor, offset, column, begin, end, VALUES: tl.constexpr):
    inside, inside_high = (column >= begin) & (column < end), (column + 1 >= begin) & (column + 1 < end)
    return load(tensor, offset + column, inside, inside_high, VALUES)


@triton.jit
def pack_cells(values, WIRE: tl.constexpr, VALUES: tl.constexpr):
    """Three payloads of six values."""
    return (
        pack(values[0], values[1], WIRE, VALUES),
        pack(values[2], values[3], WIRE, VALUES),
        pack(values[4], values[5], WIRE, VALUES),
    )


@triton.jit
def finish(
    low, high, column, shift, begin, end, row, out, out_stride, scale_low, scale_high, scaled, scaled_stride,
    SQUARES: tl.constexpr, VALUES: tl.constexpr,
):  # fmt: skip
    """Writes out and scaled; the squares of what it wrote, [n] float32."""
    inside, inside_high = (column >= begin) & (column < end), (column + 1 >= begin) & (column + 1 < end)
    at = column - shift
    store(out, row * out_stride + at, low, high, inside, inside_high, VALUES)
    if scaled is not None:
        store(scaled, row * scaled_stride + at, low * scale_low, high * scale_high, inside, inside_high, VALUES)
    kept = low
    if SQUARES:
        kept = tl.where(inside, low * low, 0.0)
        if VALUES == 2:
            kept += tl.where(inside_high, high * high, 0.0)
    return kept
