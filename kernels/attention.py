"""Grouped-query attention of new tokens over the cache: softmax(q k^T / sqrt(head_dim)) v, causal, optional window.

The cache is `[kv_heads, capacity, head_dim]`, keys already rotated, float32 or bfloat16; what it holds is widened and
all arithmetic is float32. `group` query heads read one KV head. A device's query heads may begin and end inside a
group: `skipped` heads of the first one are another device's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F

from .bfloat16 import widened
from .jit import kernel


@lru_cache(maxsize=8)
def _mask(position: int, rows: int, window: int) -> torch.Tensor:
    """[rows, cached positions that any of them sees] bool, the same for all layers of a pass."""
    first = max(0, position - window + 1) if window else 0
    rows_at = torch.arange(position, position + rows).unsqueeze(1)
    cached_at = torch.arange(first, position + rows).unsqueeze(0)
    mask = cached_at <= rows_at
    return mask & (cached_at > rows_at - window) if window else mask


def _calls(heads: int, group: int, skipped: int) -> Iterator[tuple[slice, slice]]:
    """Query heads and their KV heads, call by call: all whole groups together, a part of a group by itself."""
    at = 0
    while at < heads:
        kv_head, inside = divmod(skipped + at, group)
        whole = 0 if inside else (heads - at) // group
        taken = whole * group or min(group - inside, heads - at)
        yield slice(at, at + taken), slice(kv_head, kv_head + max(whole, 1))
        at += taken


def reference(
    q: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    position: int,
    window: int,
    out: torch.Tensor,
    group: int,
    skipped: int = 0,
) -> None:
    """q, out: [rows, heads * head_dim]; keys, values: [kv_heads, capacity, head_dim]; row r stands at `position + r`.

    `window`: positions a row sees, itself included; 0 for all.
    """
    rows, head_dim = q.shape[0], keys.shape[2]
    last = position + rows
    first = max(0, position - window + 1) if window else 0
    plain = position == 0 and not window
    heads = q.shape[1] // head_dim
    asked, mixed = (x.view(rows, heads, head_dim).transpose(0, 1) for x in (q, out))
    for mine, theirs in _calls(heads, group, skipped):
        result = F.scaled_dot_product_attention(
            asked[mine].unsqueeze(0),
            keys[theirs, first:last].float().unsqueeze(0),
            values[theirs, first:last].float().unsqueeze(0),
            attn_mask=None if plain else _mask(position, rows, window),
            is_causal=plain,
            enable_gqa=group > 1,
        )
        mixed[mine] = result[0]


@kernel
def attend(q, keys, values, out, scores, position, window):  # type: ignore[no-untyped-def]
    """One query head, one token. q, out: [head_dim]; keys, values: [capacity, head_dim], float32 or
    bfloat16 words; scores: [capacity] scratch."""
    first = max(0, position - window + 1) if window else 0
    scale = np.float32(1.0 / math.sqrt(q.size))
    peak = np.float32(-np.inf)
    for t in range(first, position + 1):
        total = np.float32(0)
        for k in range(q.size):
            total += q[k] * widened(keys[t, k])
        scores[t] = total * scale
        peak = max(peak, scores[t])
    for k in range(q.size):
        out[k] = 0
    weights = np.float32(0)
    for t in range(first, position + 1):
        weight = np.float32(math.exp(scores[t] - peak))
        weights += weight
        for k in range(q.size):
            out[k] += weight * widened(values[t, k])
    for k in range(q.size):
        out[k] /= weights
