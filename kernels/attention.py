"""Grouped-query attention of new tokens over the cache: softmax(q k^T / sqrt(head_dim)) v, causal, optional window.

The cache is `[kv_heads, capacity, head_dim]` float32, keys already rotated.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F

from .jit import kernel


@lru_cache(maxsize=8)
def _mask(position: int, rows: int, window: int) -> torch.Tensor:
    """[rows, cached positions that any of them sees] bool, the same for all layers of a pass."""
    first = max(0, position - window + 1) if window else 0
    rows_at = torch.arange(position, position + rows).unsqueeze(1)
    cached_at = torch.arange(first, position + rows).unsqueeze(0)
    mask = cached_at <= rows_at
    return mask & (cached_at > rows_at - window) if window else mask


def reference(
    q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, position: int, window: int, out: torch.Tensor
) -> None:
    """q, out: [rows, heads * head_dim]; keys, values: [kv_heads, capacity, head_dim]; row r stands at `position + r`.

    `window`: positions a row sees, itself included; 0 for all.
    """
    rows, (kv_heads, _, head_dim) = q.shape[0], keys.shape
    last = position + rows
    first = max(0, position - window + 1) if window else 0
    plain = position == 0 and not window
    heads = q.shape[1] // head_dim
    mixed = F.scaled_dot_product_attention(
        q.view(rows, heads, head_dim).transpose(0, 1).unsqueeze(0),
        keys[:, first:last].unsqueeze(0),
        values[:, first:last].unsqueeze(0),
        attn_mask=None if plain else _mask(position, rows, window),
        is_causal=plain,
        enable_gqa=heads != kv_heads,
    )
    out.view(rows, heads, head_dim).copy_(mixed[0].transpose(0, 1))


@kernel
def attend(q, keys, values, out, scores, position, window):  # type: ignore[no-untyped-def]
    """One query head, one token. q, out: [head_dim]; keys, values: [capacity, head_dim]; scores: [capacity] scratch."""
    first = max(0, position - window + 1) if window else 0
    scale = np.float32(1.0 / math.sqrt(q.size))
    peak = np.float32(-np.inf)
    for t in range(first, position + 1):
        total = np.float32(0)
        for k in range(q.size):
            total += q[k] * keys[t, k]
        scores[t] = total * scale
        peak = max(peak, scores[t])
    for k in range(q.size):
        out[k] = 0
    weights = np.float32(0)
    for t in range(first, position + 1):
        weight = np.float32(math.exp(scores[t] - peak))
        weights += weight
        for k in range(q.size):
            out[k] += weight * values[t, k]
    for k in range(q.size):
        out[k] /= weights
