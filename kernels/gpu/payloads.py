"""Values of a wire type in the payloads of words, and what is done with those that came: parts of exchange kernels.

A word's payload is one float32 or two values of a 2-byte type; `VALUES` says how many.
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
def finish(
    low, high, at, inside, inside_high, row, out, out_stride, scale_low, scale_high, scaled, scaled_stride, squares,
    program, programs, VALUES: tl.constexpr,
):  # fmt: skip
    """Writes out, scaled and this program's sum of squares."""
    store(out, row * out_stride + at, low, high, inside, inside_high, VALUES)
    if scaled is not None:
        store(scaled, row * scaled_stride + at, low * scale_low, high * scale_high, inside, inside_high, VALUES)
    if squares is not None:
        kept = tl.where(inside, low * low, 0.0)
        if VALUES == 2:
            kept += tl.where(inside_high, high * high, 0.0)
        tl.store(squares + row * programs + program, tl.sum(kept))
