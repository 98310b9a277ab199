"""Grouped-query attention of new rows over the cache: softmax(q k^T / sqrt(head_dim)) v, causal, optional window.

The cache is `[kv_heads, capacity, head_dim]`, keys already rotated. `group` query heads read one KV head. A device's
query heads may begin and end inside a group: `skipped` heads of the first one are another device's.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
import triton
import triton.language as tl

from .launch import options, shared_bytes, tile, wait
from .sms import sms_for

MOST_SPLITS = 32
LOG2E = math.log2(math.e)


def reference(
    q: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, position: int, window: int, group: int, skipped: int = 0
) -> torch.Tensor:
    """float32 [rows, heads * head_dim] of operands widened to float32; row r stands at `position + r`."""
    rows, head_dim = q.shape[0], keys.shape[2]
    heads, last = q.shape[1] // head_dim, position + rows
    at = torch.arange(last, device=q.device)
    row_at = torch.arange(position, last, device=q.device).unsqueeze(1)
    mask = at <= row_at
    if window:
        mask &= at > row_at - window
    theirs = (torch.arange(heads, device=q.device) + skipped) // group
    k, v = (x[theirs, :last].float() for x in (keys, values))
    asked = q.float().view(rows, heads, head_dim).transpose(0, 1)
    mixed = F.softmax((asked @ k.mT / math.sqrt(head_dim)).masked_fill(~mask, -math.inf), -1) @ v
    return mixed.transpose(0, 1).reshape(rows, -1)


def scratch(heads: int, head_dim: int, rows: int, kv_heads: int, device: torch.device | str) -> list[torch.Tensor]:
    """Of `decode`, allocated once: sums [rows, heads, splits, head_dim] and their peaks and weights [rows, heads,
    splits, 2] float32, arrivals [rows, kv_heads] int32."""
    return [
        torch.empty(rows, heads, MOST_SPLITS, head_dim, device=device),
        torch.empty(rows, heads, MOST_SPLITS, 2, device=device),
        torch.zeros(rows, kv_heads, dtype=torch.int32, device=device),
    ]


@triton.jit
def _decode(
    q, keys, values, control, out, sums, peaks, arrivals,
    stride, heads, kv_heads, capacity, window, skipped, scale,
    GROUP: tl.constexpr, HEADS: tl.constexpr, GROUP_TILE: tl.constexpr, HEAD_DIM: tl.constexpr, DIM: tl.constexpr,
    BLOCK: tl.constexpr, SPLITS: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """One row, one KV head, one split of the positions; the last program to arrive adds the splits up, in order."""
    kv_head, split, row = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    wait(OVERLAP)
    last = tl.load(control) + row
    first = tl.where(window > 0, tl.maximum(last + 1 - window, 0), 0)
    share = tl.cdiv(tl.cdiv(last + 1 - first, SPLITS), BLOCK) * BLOCK
    used = tl.cdiv(last + 1 - first, share)
    if split < used:
        inside, d, t = tl.arange(0, HEADS), tl.arange(0, DIM), tl.arange(0, BLOCK)
        head = kv_head * GROUP + inside - skipped
        mine = (inside < GROUP) & (head >= 0) & (head < heads)
        asked = q + row.to(tl.int64) * stride + head[:, None] * HEAD_DIM + d[None, :]
        query = tl.load(asked, mask=mine[:, None] & (d < HEAD_DIM)[None, :], other=0.0)
        begin = first + split * share
        end = tl.minimum(begin + share, last + 1)
        cached = (kv_head.to(tl.int64) * capacity + t[:, None]) * HEAD_DIM + d[None, :]
        peak = tl.full((HEADS,), float("-inf"), tl.float32)
        weights = tl.zeros((HEADS,), tl.float32)
        total = tl.zeros((HEADS, DIM), tl.float32)
        for start in range(begin, end, BLOCK):
            mask = (t < end - start)[:, None] & (d < HEAD_DIM)[None, :]
            at = cached + start * HEAD_DIM
            k = tl.load(keys + at, mask=mask, other=0.0)
            v = tl.load(values + at, mask=mask, other=0.0)
            scores = tl.dot(query, tl.trans(k), input_precision="ieee") * scale
            scores = tl.where((t < end - start)[None, :], scores, float("-inf"))
            top = tl.maximum(peak, tl.max(scores, 1))
            p = tl.exp2(scores - top[:, None])
            fade = tl.exp2(peak - top)
            weights = weights * fade + tl.sum(p, 1)
            total = total * fade[:, None] + tl.dot(p.to(v.dtype), v, input_precision="ieee")
            peak = top
        slot = (row * heads + head) * SPLITS + split
        tl.store(sums + slot[:, None] * HEAD_DIM + d[None, :], total, mask=mine[:, None] & (d < HEAD_DIM)[None, :])
        tl.store(peaks + slot * 2, peak, mask=mine)
        tl.store(peaks + slot * 2 + 1, weights, mask=mine)
        tl.debug_barrier()
        before = tl.atomic_add(arrivals + row * kv_heads + kv_head, 1)
        if before == used - 1:
            tl.store(arrivals + row * kv_heads + kv_head, 0)
            _combine(out, sums, peaks, row, kv_head, used, heads, skipped, GROUP, GROUP_TILE, HEAD_DIM, DIM, SPLITS)


@triton.jit
def _combine(
    out, sums, peaks, row, kv_head, used, heads, skipped,
    GROUP: tl.constexpr, HEADS: tl.constexpr, HEAD_DIM: tl.constexpr, DIM: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    """All heads of a group at once: all loads are in flight together."""
    s, inside, d = tl.arange(0, SPLITS), tl.arange(0, HEADS), tl.arange(0, DIM)
    head = kv_head * GROUP + inside - skipped
    mine = (inside < GROUP) & (head >= 0) & (head < heads)
    slot = (row * heads + head)[None, :] * SPLITS + s[:, None]
    there = mine[None, :] & (s < used)[:, None]
    peak = tl.load(peaks + slot * 2, mask=there, other=float("-inf"))
    weight = tl.load(peaks + slot * 2 + 1, mask=there, other=0.0)
    mask = there[:, :, None] & (d < HEAD_DIM)[None, None, :]
    total = tl.load(sums + slot[:, :, None] * HEAD_DIM + d[None, None, :], mask=mask, other=0.0)
    fade = tl.exp2(peak - tl.where(mine, tl.max(peak, 0), 0.0)[None, :])
    weights = tl.where(mine, tl.sum(weight * fade, 0), 1.0)
    mixed = tl.sum(total * fade[:, :, None], 0) / weights[:, None]
    target = out + (row.to(tl.int64) * heads + head)[:, None] * HEAD_DIM + d[None, :]
    tl.store(target, mixed.to(out.dtype.element_ty), mask=mine[:, None] & (d < HEAD_DIM)[None, :])


def decode(
    q: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    control: torch.Tensor,
    window: int,
    out: torch.Tensor,
    group: int,
    skipped: int,
    scratch: list[torch.Tensor],
) -> None:
    """Rows stand at control[0], control[0] + 1, ...; the grid does not depend on them.

    q: [rows, heads * head_dim] of the cache's dtype, rows may be strided; keys, values: [kv_heads, capacity, head_dim];
    control: int32; window: positions a row sees, itself included, 0 for all; out: [rows, heads * head_dim];
    scratch: from `scratch`.
    """
    kv_heads, capacity, head_dim = keys.shape
    rows, heads = q.shape[0], q.shape[1] // head_dim
    splits, block = decode_tiles(kv_heads * rows, head_dim, q.element_size(), shared_bytes(q), sms_for(q))
    _decode[(kv_heads, splits, rows)](
        q, keys, values, control, out, *scratch,
        q.stride(0), heads, kv_heads, capacity, window, skipped, LOG2E / math.sqrt(head_dim),
        GROUP=group, HEADS=tile(group, least=16), GROUP_TILE=tile(group), HEAD_DIM=head_dim,
        DIM=tile(head_dim, least=16), BLOCK=block, SPLITS=splits, **options(q), num_warps=4,
    )  # fmt: skip


def decode_tiles(groups: int, head_dim: int, element_bytes: int, shared: int, sms: int) -> tuple[int, int]:
    """SPLITS of each of `groups` KV heads and rows, and positions a step: about a program for every SM, since an SM's
    second program begins late; and room for keys and values twice.
    """
    positions = 64
    while positions > 16 and 4 * positions * tile(head_dim, least=16) * element_bytes > shared * 7 // 8:
        positions //= 2
    return tile(sms // groups // 2 + 1, least=8, most=MOST_SPLITS), positions


@triton.jit(do_not_specialize=["rows"])
def _prefill(
    q, keys, values, out, control, rows,
    stride, heads, capacity, window, group, skipped, scale,
    HEAD_DIM: tl.constexpr, DIM: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, STAGES: tl.constexpr,
    OVERLAP: tl.constexpr,
):  # fmt: skip
    """ROWS rows of one head."""
    head, first_row = tl.program_id(0), tl.program_id(1) * ROWS
    wait(OVERLAP)
    row, d, t = first_row + tl.arange(0, ROWS), tl.arange(0, DIM), tl.arange(0, BLOCK)
    position = tl.load(control)
    here = (row < rows)[:, None] & (d < HEAD_DIM)[None, :]
    query = tl.load(q + row.to(tl.int64)[:, None] * stride + head * HEAD_DIM + d[None, :], mask=here, other=0.0)
    cached = ((skipped + head) // group).to(tl.int64) * capacity * HEAD_DIM + t[:, None] * HEAD_DIM + d[None, :]
    end = position + tl.minimum(first_row + ROWS, rows)
    begin = tl.where(window > 0, tl.maximum(position + first_row + 1 - window, 0), 0) // BLOCK * BLOCK
    peak = tl.full((ROWS,), -1e30, tl.float32)
    weights = tl.zeros((ROWS,), tl.float32)
    total = tl.zeros((ROWS, DIM), tl.float32)
    for start in tl.range(begin, end, BLOCK, num_stages=STAGES):
        mask = (t < end - start)[:, None] & (d < HEAD_DIM)[None, :]
        at = cached + start * HEAD_DIM
        k = tl.load(keys + at, mask=mask, other=0.0)
        scores = tl.dot(query, tl.trans(k), input_precision="ieee") * scale
        behind = position + row[:, None] - start - t[None, :]
        seen = (behind >= 0) & ((window == 0) | (behind < window))
        scores = tl.where(seen, scores, float("-inf"))
        top = tl.maximum(peak, tl.max(scores, 1))
        p = tl.exp2(scores - top[:, None])
        fade = tl.exp2(peak - top)
        weights = weights * fade + tl.sum(p, 1)
        v = tl.load(values + at, mask=mask, other=0.0)
        total = total * fade[:, None] + tl.dot(p.to(v.dtype), v, input_precision="ieee")
        peak = top
    target = out + (row.to(tl.int64)[:, None] * heads + head) * HEAD_DIM + d[None, :]
    tl.store(target, (total / weights[:, None]).to(out.dtype.element_ty), mask=here)


def prefill(
    q: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    control: torch.Tensor,
    window: int,
    out: torch.Tensor,
    group: int,
    skipped: int = 0,
) -> None:
    """As `decode`, for many rows, the first at control[0]."""
    capacity, head_dim = keys.shape[1:]
    rows, heads = q.shape[0], q.shape[1] // head_dim
    row_tile, block, stages, warps = prefill_tiles(head_dim, q.element_size(), shared_bytes(q))
    _prefill[(heads, triton.cdiv(rows, row_tile))](
        q, keys, values, out, control, rows,
        q.stride(0), heads, capacity, window, group, skipped, LOG2E / math.sqrt(head_dim),
        HEAD_DIM=head_dim, DIM=tile(head_dim, least=16), ROWS=row_tile, BLOCK=block, STAGES=stages,
        **options(q), num_warps=warps,
    )  # fmt: skip


def prefill_tiles(head_dim: int, element_bytes: int, shared: int) -> tuple[int, int, int, int]:
    """ROWS, BLOCK, stages, warps."""
    row_bytes = tile(head_dim, least=16) * element_bytes
    side = 64 if row_bytes <= 256 else 32
    stages = max(1, min(3, (shared - side * row_bytes) // (2 * side * row_bytes + 1024)))
    return side, side, stages, 4
