"""Rotary position embedding with the cache write: rotates q and k, norms them first where the model does (Qwen3).

Half-split layout: value i of a head pairs with value i + head_dim / 2 (Su et al. 2021, as in Hugging Face Llama).
Norm and rotation are float32; q, k and v are rounded once.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .launch import options, tile, wait


@triton.jit
def _rope(
    qkv, cos, sin, q_norm, k_norm, eps, keys, values, control, stride, heads, kv_heads, capacity,
    HALF: tl.constexpr, BLOCK: tl.constexpr, NORMS: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    row, head = tl.program_id(0), tl.program_id(1)
    wait(OVERLAP)
    position = tl.load(control) + row
    inside = tl.arange(0, BLOCK)
    mask = inside < HALF
    source = qkv + row.to(tl.int64) * stride + head * (2 * HALF) + inside
    low = tl.load(source, mask=mask, other=0.0).to(tl.float32)
    high = tl.load(source + HALF, mask=mask, other=0.0).to(tl.float32)
    if head < heads + kv_heads:
        if NORMS:
            factors = k_norm + inside
            if head < heads:
                factors = q_norm + inside
            scale = 1.0 / tl.sqrt((tl.sum(low * low, 0) + tl.sum(high * high, 0)) / (2 * HALF) + eps)
            low = low * scale * tl.load(factors, mask=mask, other=0.0)
            high = high * scale * tl.load(factors + HALF, mask=mask, other=0.0)
        turn = position.to(tl.int64) * HALF + inside
        c, s = tl.load(cos + turn, mask=mask, other=0.0), tl.load(sin + turn, mask=mask, other=0.0)
        turned = low * c - high * s
        high = high * c + low * s
        low = turned
    if head < heads:
        tl.store(source, low.to(qkv.dtype.element_ty), mask=mask)
        tl.store(source + HALF, high.to(qkv.dtype.element_ty), mask=mask)
    else:
        kv_head = (head - heads) % kv_heads
        target = keys
        if head >= heads + kv_heads:
            target = values
        target += (kv_head.to(tl.int64) * capacity + position) * (2 * HALF) + inside
        tl.store(target, low.to(keys.dtype.element_ty), mask=mask)
        tl.store(target + HALF, high.to(keys.dtype.element_ty), mask=mask)


def rope(
    qkv: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    norms: tuple[torch.Tensor, torch.Tensor] | None,
    eps: float,
    keys: torch.Tensor,
    values: torch.Tensor,
    control: torch.Tensor,
) -> None:
    """Rotates q in place, writes k and v to the cache; row r stands at control[0] + r.

    qkv: [rows, (heads + 2 kv_heads) * head_dim], rows may be strided; cos, sin: [capacity, head_dim / 2] float32;
    norms: q and k weights [head_dim] float32; keys, values: [kv_heads, capacity, head_dim]; control: int32.
    """
    kv_heads, capacity, head_dim = keys.shape
    heads = qkv.shape[1] // head_dim - 2 * kv_heads
    q_norm, k_norm = norms or (None, None)
    _rope[(qkv.shape[0], heads + 2 * kv_heads)](
        qkv, cos, sin, q_norm, k_norm, eps, keys, values, control, qkv.stride(0), heads, kv_heads, capacity,
        HALF=head_dim // 2, BLOCK=tile(head_dim // 2), NORMS=norms is not None, **options(qkv), num_warps=1,
    )  # fmt: skip
