"""Rows of this device's part of the embedding table, zeros for tokens that others hold."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .launch import options, tile, wait


@triton.jit(do_not_specialize=["begin", "held"])
def _embed(tokens, table, begin, held, out, width, BLOCK: tl.constexpr, OVERLAP: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    wait(OVERLAP)
    index = tl.load(tokens + row) - begin
    mine = (index >= 0) & (index < held)
    values = tl.load(table + index * width + at, mask=mine & (at < width), other=0.0)
    tl.store(out + row * width + at, values.to(tl.float32), mask=at < width)


def embed(tokens: torch.Tensor, table: torch.Tensor, begin: int, out: torch.Tensor) -> None:
    """tokens: [rows] int64; table: [held rows, width], vocabulary from `begin` on; out: [rows, width] float32."""
    rows, width = out.shape
    block = tile(width, most=1024)
    grid = (rows, triton.cdiv(width, block))
    _embed[grid](tokens, table, begin, table.shape[0], out, width, BLOCK=block, **options(out))
