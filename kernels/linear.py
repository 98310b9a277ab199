"""y = x @ w^T + bias, weights as float32 or bfloat16, activations and sums in float32.

Weights are `[out_features, in_features]`, as checkpoints store them; a row is read once, in order.
"""

from __future__ import annotations

import numpy as np
import torch

from .bfloat16 import widen
from .half import half
from .jit import kernel

FORMATS = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
PARTS = 3  # matrices in formats of their own (see `grouped`)


def reference(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor) -> None:
    """x: [rows, in] float32, weight: [out, in], bias: [out] float32 or None, out: [rows, out] float32.

    bfloat16 weights meet x rounded to bfloat16, since matrix units take equal types; sums stay in float32. float16
    weights are widened, since x may lie beyond that format.
    """
    if weight.dtype is torch.float16:
        weight = weight.float()
    if weight.dtype is torch.float32 and bias is None:
        torch.mm(x, weight.t(), out=out)
    elif weight.dtype is torch.float32:
        torch.addmm(bias, x, weight.t(), out=out)  # type: ignore[arg-type]
    else:
        out.copy_(x.to(weight.dtype) @ weight.t())
        if bias is not None:
            out += bias


@kernel
def dot_f32(x, row):  # type: ignore[no-untyped-def]
    total = np.float32(0)
    for k in range(x.size):
        total += row[k] * x[k]
    return total


@kernel
def dot_bf16(x, row):  # type: ignore[no-untyped-def]
    total = np.float32(0)
    for k in range(x.size):
        total += widen(row[k]) * x[k]
    return total


@kernel
def dot_f16(x, row):  # type: ignore[no-untyped-def]
    total = np.float32(0)
    for k in range(x.size):
        total += half(row[k]) * x[k]
    return total


@kernel
def linear_f32(x, weight, bias, out, begin, end):  # type: ignore[no-untyped-def]
    """Rows [begin, end) of one token's product. x: [in], weight: [out, in], bias: [out] or empty, out: [out]."""
    for n in range(begin, end):
        out[n] = dot_f32(x, weight[n]) + (bias[n] if bias.size else np.float32(0))


@kernel
def linear_bf16(x, weight, bias, out, begin, end):  # type: ignore[no-untyped-def]
    """As `linear_f32`, weight as uint16 words."""
    for n in range(begin, end):
        out[n] = dot_bf16(x, weight[n]) + (bias[n] if bias.size else np.float32(0))


@kernel
def linear_f16(x, weight, bias, out, begin, end):  # type: ignore[no-untyped-def]
    """As `linear_bf16`, words of float16."""
    for n in range(begin, end):
        out[n] = dot_f16(x, weight[n]) + (bias[n] if bias.size else np.float32(0))
