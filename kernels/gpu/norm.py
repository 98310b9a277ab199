"""RMSNorm (Zhang and Sennrich 2019) in float32: whole, or without its scale so that the consumer applies it.

Decode needs no kernel for the scale: `scaled` writes hidden * weight and partial sums of squares, and the next
product multiplies its result by 1 / sqrt(sum(squares) / width + eps).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .launch import options, tile, wait


@triton.jit
def _scaled(
    hidden, part, weight, scaled, squares, width, parts, ADDS: tl.constexpr, BLOCK: tl.constexpr, OVERLAP: tl.constexpr
):
    row, piece = tl.program_id(0), tl.program_id(1)
    share = tl.cdiv(width, parts)
    inside = tl.arange(0, BLOCK)
    at = piece * share + inside
    mask = (inside < share) & (at < width)
    factor = tl.load(weight + at, mask=mask, other=0.0)
    wait(OVERLAP)
    at = row.to(tl.int64) * width + at
    x = tl.load(hidden + at, mask=mask, other=0.0)
    if ADDS:
        x += tl.load(part + at, mask=mask, other=0.0)
        tl.store(hidden + at, x, mask=mask)
    tl.store(scaled + at, (x * factor).to(scaled.dtype.element_ty), mask=mask)
    tl.store(squares + row * parts + piece, tl.sum(x * x, 0))


def scaled(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    scaled: torch.Tensor,
    squares: torch.Tensor,
    part: torch.Tensor | None = None,
) -> None:
    """scaled = hidden * weight, squares = partial sums of hidden^2; with `part`, hidden += part first.

    hidden, part: [rows, width] float32; weight: [width] float32; scaled: [rows, width]; squares: [rows, parts] float32.
    """
    (rows, width), parts = hidden.shape, squares.shape[1]
    block = tile(triton.cdiv(width, parts))
    _scaled[(rows, parts)](
        hidden, part, weight, scaled, squares, width, parts, ADDS=part is not None, BLOCK=block, **options(hidden)
    )


@triton.jit
def _norm(hidden, weight, eps, out, width, BLOCK: tl.constexpr, OVERLAP: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    mask = at < width
    factor = tl.load(weight + at, mask=mask, other=0.0)
    wait(OVERLAP)
    x = tl.load(hidden + row * width + at, mask=mask, other=0.0)
    scale = 1.0 / tl.sqrt(tl.sum(x * x, 0) / width + eps)
    tl.store(out + row * width + at, (x * scale * factor).to(out.dtype.element_ty), mask=mask)


def norm(hidden: torch.Tensor, weight: torch.Tensor, eps: float, out: torch.Tensor) -> None:
    """hidden: [rows, width] float32; weight: [width] float32; out: [rows, width]."""
    rows, width = hidden.shape
    block = tile(width)
    warps = max(1, min(16, block // 512))
    _norm[(rows,)](hidden, weight, eps, out, width, BLOCK=block, **options(hidden), num_warps=warps)
