"""Rotary position embedding with the cache write: rotates q and k, norms them first where the model does (Qwen3).

Half-split layout: value i of a head pairs with value i + head_dim / 2 (Su et al. 2021, as in Hugging Face Llama).
Norm and rotation are float32; a bfloat16 cache takes k and v rounded once, to nearest, ties to even.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

from .bfloat16 import rounded
from .jit import kernel
from .norm import rms_norm


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """x: [rows, heads, head_dim]; cos, sin: [rows, head_dim / 2]."""
    low, high = x.chunk(2, dim=-1)
    cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
    return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1)


def reference(
    qkv: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    norms: tuple[torch.Tensor, torch.Tensor] | None,
    eps: float,
    keys: torch.Tensor,
    values: torch.Tensor,
    position: int,
) -> None:
    """Rotates q in place, writes k and v to the cache. qkv: [rows, (heads + 2 kv_heads) * head_dim];
    cos, sin: [capacity, head_dim / 2]; norms: q and k weights [head_dim]; keys, values: [kv_heads, capacity, head_dim].
    qkv and the cache may be of any format; arithmetic is float32.
    """
    rows, (kv_heads, _, head_dim) = qkv.shape[0], keys.shape
    split = qkv.view(rows, -1, head_dim)
    q, k, v = split[:, : -2 * kv_heads].float(), split[:, -2 * kv_heads : -kv_heads].float(), split[:, -kv_heads:]
    at = slice(position, position + rows)
    if norms is not None:
        q, k = (F.rms_norm(x, (head_dim,), weight, eps) for x, weight in zip((q, k), norms, strict=True))
    split[:, : -2 * kv_heads] = rotate(q, cos[at], sin[at])
    keys[:, at] = rotate(k, cos[at], sin[at]).transpose(0, 1)
    values[:, at] = v.transpose(0, 1)


@kernel
def rotate_head(head, cos, sin, out):  # type: ignore[no-untyped-def]
    """head, out: [head_dim]; cos, sin: [head_dim / 2]; `out` may be `head`."""
    half = cos.size
    for i in range(half):
        low, high = head[i], head[i + half]
        out[i] = low * cos[i] - high * sin[i]
        out[i + half] = high * cos[i] + low * sin[i]


@kernel
def rope(qkv, cos, sin, q_norm, k_norm, eps, keys, values):  # type: ignore[no-untyped-def]
    """One token; q and k turn in place. qkv: [heads + 2 kv_heads, head_dim]; norms: [head_dim] or empty; keys, values:
    this position's [kv_heads, head_dim], float32 or bfloat16 words."""
    kv_heads, head_dim = keys.shape
    heads = qkv.shape[0] - 2 * kv_heads
    for h in range(heads + kv_heads):
        norm = q_norm if h < heads else k_norm
        if norm.size:
            rms_norm(qkv[h], norm, eps, qkv[h])
        rotate_head(qkv[h], cos, sin, qkv[h])
    for h in range(kv_heads):
        for i in range(head_dim):
            keys[h, i] = rounded(qkv[heads + h, i], keys)
            values[h, i] = rounded(qkv[heads + kv_heads + h, i], values)
