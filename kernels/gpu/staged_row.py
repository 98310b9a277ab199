"""One row times a weight that passes through shared memory: for parts of a GPU, whose few SMs could read faster each.

A part of a GPU has more memory bandwidth an SM than the whole: loads into registers (linear, gate_up) keep too few
bytes in flight for it, so here tiles are copied ahead into shared memory, several deep. The first of them are asked for
before the kernel waits for its input: a part that waits for another in an exchange reads weights meanwhile. x lies one
tile ahead in registers.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .launch import inverse_rms, tile, wait
from .sms import sms_for, whole_sms

# Measured on an H100 at 8, 16 to 24 and 48 of 132 SMs: at most so many SMs, then rows, bytes a row, stages, warps.
TILES = ((12, (8, 512, 6, 1)), (32, (8, 1024, 3, 2)), (1024, (8, 512, 4, 2)))
SHORT_BYTES, SHORT_TILES = 6144, (8, 512, 3, 1)  # of weights this short, on 8 and 16 SMs


def staged_tiles(x: torch.Tensor, K: int) -> tuple[int, int, int, int] | None:
    """BLOCK_N, BLOCK_K, stages, warps for a launch on the current stream; None where registers do better."""
    sms = sms_for(x)
    if sms * 4 > whole_sms(x) * 3:
        return None
    tiles = next(tiles for most, tiles in TILES if sms <= most)
    if K * x.element_size() <= SHORT_BYTES and sms <= TILES[1][0]:
        tiles = SHORT_TILES
    rows, row_bytes, stages, warps = tiles
    return rows, tile(K, least=16, most=row_bytes // x.element_size()), stages, warps


@triton.jit
def linear_row(
    x, weight, bias, out, squares, N, K, parts, width, eps,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PARTS: tl.constexpr, STAGES: tl.constexpr,
    EVEN: tl.constexpr, BIASED: tl.constexpr, SCALED: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """As linear._one_row."""
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    source = weight + tl.minimum(n, N - 1).to(tl.int64)[:, None] * K + k[None, :]
    total = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
    values = tl.zeros((BLOCK_K,), x.dtype.element_ty)
    for start in tl.range(0, K, BLOCK_K, num_stages=STAGES):
        w = tl.load(source + start, mask=EVEN | (k < K - start)[None, :], other=0.0, eviction_policy="evict_first")
        if start == 0:
            wait(OVERLAP)
            values = tl.load(x + k, mask=k < K, other=0.0)
        ahead = tl.load(x + start + BLOCK_K + k, mask=k < K - start - BLOCK_K, other=0.0)
        total += w.to(tl.float32) * values.to(tl.float32)[None, :]
        values = ahead
    y = tl.sum(total, 1)
    if SCALED:
        y *= inverse_rms(squares, 0, parts, width, eps, PARTS)
    if BIASED:
        y += tl.load(bias + n, mask=n < N, other=0.0)
    tl.store(out + n, y.to(out.dtype.element_ty), mask=n < N)


@triton.jit
def gate_up_row(
    x, weight, bias, out, squares, N, K, parts, width, eps,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PARTS: tl.constexpr, STAGES: tl.constexpr,
    EVEN: tl.constexpr, BIASED: tl.constexpr, SCALED: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """As gate_up._one_row."""
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    gates = weight + tl.minimum(n, N - 1).to(tl.int64)[:, None] * K + k[None, :]
    ups = gates + tl.cast(N, tl.int64) * K
    gate = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
    up = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
    values = tl.zeros((BLOCK_K,), x.dtype.element_ty)
    for start in tl.range(0, K, BLOCK_K, num_stages=STAGES):
        mask = EVEN | (k < K - start)[None, :]
        g = tl.load(gates + start, mask=mask, other=0.0, eviction_policy="evict_first")
        u = tl.load(ups + start, mask=mask, other=0.0, eviction_policy="evict_first")
        if start == 0:
            wait(OVERLAP)
            values = tl.load(x + k, mask=k < K, other=0.0)
        ahead = tl.load(x + start + BLOCK_K + k, mask=k < K - start - BLOCK_K, other=0.0)
        wide = values.to(tl.float32)[None, :]
        gate += g.to(tl.float32) * wide
        up += u.to(tl.float32) * wide
        values = ahead
    gate_sum, up_sum = tl.sum(gate, 1), tl.sum(up, 1)
    if SCALED:
        scale = inverse_rms(squares, 0, parts, width, eps, PARTS)
        gate_sum *= scale
        up_sum *= scale
    if BIASED:
        gate_sum += tl.load(bias + n, mask=n < N, other=0.0)
        up_sum += tl.load(bias + N + n, mask=n < N, other=0.0)
    tl.store(out + n, (gate_sum / (1.0 + tl.exp(-gate_sum)) * up_sum).to(out.dtype.element_ty), mask=n < N)
