"""Inputs brought into the order of a grouped-affine weight's places: for act-order, and where groups are filled up."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .launch import options, wait

BLOCK = 512


@triton.jit
def _reordered(x, order, out, width, places, BLOCK: tl.constexpr, OVERLAP: tl.constexpr):
    row, at = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    source = tl.load(order + at, mask=at < places, other=-1)
    wait(OVERLAP)
    value = tl.load(x + row * width + source, mask=source >= 0, other=0.0)
    tl.store(out + row * places + at, value, mask=at < places)


def reordered(x: torch.Tensor, order: torch.Tensor, out: torch.Tensor) -> None:
    """out[r, p] = x[r, order[p]], 0 where that is -1. x: [rows, width]; order: int32 [places]; out: [rows, places]."""
    rows, places = out.shape
    _reordered[(rows, triton.cdiv(places, BLOCK))](x, order, out, x.shape[1], places, BLOCK=BLOCK, **options(x))
