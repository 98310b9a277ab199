"""Rows of this device's part of the embedding table, zeros for tokens that others hold."""

from __future__ import annotations

import torch

from .bfloat16 import widen
from .half import half
from .jit import kernel


def reference(tokens: torch.Tensor, table: torch.Tensor, begin: int, out: torch.Tensor) -> None:
    """tokens: [rows] int64; table: [held rows, hidden], vocabulary from `begin` on; out: [rows, hidden] float32."""
    held = (tokens >= begin) & (tokens < begin + table.shape[0])
    out.copy_(table[torch.where(held, tokens - begin, 0)])
    out.masked_fill_(~held.unsqueeze(1), 0)


@kernel
def embed_f32(token, table, begin, out):  # type: ignore[no-untyped-def]
    """One token. table: [held rows, hidden]; out: [hidden]."""
    held = begin <= token < begin + table.shape[0]
    for k in range(out.size):
        out[k] = table[token - begin, k] if held else 0


@kernel
def embed_bf16(token, table, begin, out):  # type: ignore[no-untyped-def]
    """As `embed_f32`, table as uint16 words."""
    held = begin <= token < begin + table.shape[0]
    for k in range(out.size):
        out[k] = widen(table[token - begin, k]) if held else 0


@kernel
def embed_f16(token, table, begin, out):  # type: ignore[no-untyped-def]
    """As `embed_f32`, table as uint16 words of float16."""
    held = begin <= token < begin + table.shape[0]
    for k in range(out.size):
        out[k] = half(table[token - begin, k]) if held else 0
