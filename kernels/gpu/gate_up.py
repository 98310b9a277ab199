"""silu(x @ gate^T) * (x @ up^T) (Shazeer 2020) for few rows: both products and the activation in one kernel.

As linear.py; a program holds the same rows of the gate and of the up half of the weight.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl

from .launch import inverse_rms, options, shared_bytes, tile, wait
from .linear import ROWS, few_rows_tiles, one_row_tiles
from .staged_row import gate_up_row, staged_tiles


def reference(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """float32 [rows, columns] of operands widened to float32."""
    gate, up = F.linear(x.float(), weight.float(), bias).chunk(2, dim=-1)
    return F.silu(gate) * up


@triton.jit
def _activated(gate, up):
    return gate / (1.0 + tl.exp(-gate)) * up


@triton.jit
def _one_row(
    x, weight, bias, out, squares, N, K, parts, width, eps,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PARTS: tl.constexpr,
    EVEN: tl.constexpr, BIASED: tl.constexpr, SCALED: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    gates = weight + tl.minimum(n, N - 1).to(tl.int64)[:, None] * K + k[None, :]
    ups = gates + tl.cast(N, tl.int64) * K
    mask = EVEN | (k < K)[None, :]
    g = tl.load(gates, mask=mask, other=0.0, eviction_policy="evict_first")
    u = tl.load(ups, mask=mask, other=0.0, eviction_policy="evict_first")
    wait(OVERLAP)
    gate = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
    up = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
    for start in range(BLOCK_K, K, BLOCK_K):
        mask = EVEN | (k < K - start)[None, :]
        next_g = tl.load(gates + start, mask=mask, other=0.0, eviction_policy="evict_first")
        next_u = tl.load(ups + start, mask=mask, other=0.0, eviction_policy="evict_first")
        values = tl.load(x + start - BLOCK_K + k).to(tl.float32)[None, :]
        gate += g.to(tl.float32) * values
        up += u.to(tl.float32) * values
        g, u = next_g, next_u
    last = (tl.cdiv(K, BLOCK_K) - 1) * BLOCK_K + k
    values = tl.load(x + last, mask=EVEN | (last < K), other=0.0).to(tl.float32)[None, :]
    gate_sum = tl.sum(gate + g.to(tl.float32) * values, 1)
    up_sum = tl.sum(up + u.to(tl.float32) * values, 1)
    if SCALED:
        scale = inverse_rms(squares, 0, parts, width, eps, PARTS)
        gate_sum *= scale
        up_sum *= scale
    if BIASED:
        gate_sum += tl.load(bias + n, mask=n < N, other=0.0)
        up_sum += tl.load(bias + N + n, mask=n < N, other=0.0)
    tl.store(out + n, _activated(gate_sum, up_sum).to(out.dtype.element_ty), mask=n < N)


@triton.jit
def _few_rows(
    x, weight, bias, out, squares, rows, N, K, parts, width, eps,
    ROWS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PARTS: tl.constexpr, STAGES: tl.constexpr,
    EVEN: tl.constexpr, BIASED: tl.constexpr, SCALED: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    k, row = tl.arange(0, BLOCK_K), tl.arange(0, ROWS)
    gates = weight + tl.minimum(n, N - 1).to(tl.int64)[:, None] * K + k[None, :]
    ups = gates + tl.cast(N, tl.int64) * K
    wait(OVERLAP)
    gate = tl.zeros((BLOCK_N, ROWS), tl.float32)
    up = tl.zeros((BLOCK_N, ROWS), tl.float32)
    for start in tl.range(0, K, BLOCK_K, num_stages=STAGES):
        mask = EVEN | (k < K - start)
        g = tl.load(gates + start, mask=mask[None, :], other=0.0, eviction_policy="evict_first")
        u = tl.load(ups + start, mask=mask[None, :], other=0.0, eviction_policy="evict_first")
        asked = x + tl.minimum(row, rows - 1)[None, :] * K + (start + k)[:, None]
        values = tl.load(asked, mask=mask[:, None], other=0.0)
        gate += tl.dot(g, values, input_precision="ieee")
        up += tl.dot(u, values, input_precision="ieee")
    if SCALED:
        at = tl.arange(0, PARTS)
        mask = (row < rows)[:, None] & (at < parts)[None, :]
        sums = tl.sum(tl.load(squares + row[:, None] * parts + at[None, :], mask=mask, other=0.0), 1)
        scale = (1.0 / tl.sqrt(sums / width + eps))[None, :]
        gate *= scale
        up *= scale
    if BIASED:
        gate += tl.load(bias + n, mask=n < N, other=0.0)[:, None]
        up += tl.load(bias + N + n, mask=n < N, other=0.0)[:, None]
    target = out + row[None, :] * N + n[:, None]
    mask = (row < rows)[None, :] & (n < N)[:, None]
    tl.store(target, _activated(gate, up).to(out.dtype.element_ty), mask=mask)


def gate_up(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    out: torch.Tensor,
    squares: torch.Tensor | None = None,
    width: int = 1,
    eps: float = 0.0,
) -> None:
    """x: [rows <= 16, K] of the weight's dtype; weight: [2 N, K], gate rows, then up rows; bias: [2 N] float32;
    out: [rows, N]; squares, width, eps: as in `linear`."""
    rows, N, K = x.shape[0], weight.shape[0] // 2, weight.shape[1]
    assert rows <= ROWS, f"{rows} rows: products of more than {ROWS} are matrix products"
    parts = 1 if squares is None else squares.shape[1]
    flags = {"PARTS": tile(parts), "BIASED": bias is not None, "SCALED": squares is not None, **options(x)}
    staged = staged_tiles(x, K) if rows == 1 else None
    if staged is not None:
        BLOCK_N, BLOCK_K, stages, warps = staged
        BLOCK_N //= 2
        gate_up_row[(triton.cdiv(N, BLOCK_N),)](
            x, weight, bias, out, squares, N, K, parts, width, eps,
            BLOCK_N=BLOCK_N, BLOCK_K=BLOCK_K, STAGES=stages, EVEN=K % BLOCK_K == 0, **flags, num_warps=warps,
        )  # fmt: skip
    elif rows == 1:
        BLOCK_N, BLOCK_K, warps = one_row_tiles(K, weight.element_size())
        BLOCK_N //= 2
        _one_row[(triton.cdiv(N, BLOCK_N),)](
            x, weight, bias, out, squares, N, K, parts, width, eps,
            BLOCK_N=BLOCK_N, BLOCK_K=BLOCK_K, EVEN=K % BLOCK_K == 0, **flags, num_warps=warps,
        )  # fmt: skip
    else:
        BLOCK_N, BLOCK_K, stages, warps = few_rows_tiles(2, K, weight.element_size(), shared_bytes(x))
        _few_rows[(triton.cdiv(N, BLOCK_N),)](
            x, weight, bias, out, squares, rows, N, K, parts, width, eps, ROWS=ROWS,
            BLOCK_N=BLOCK_N, BLOCK_K=BLOCK_K, STAGES=stages, EVEN=K % BLOCK_K == 0, **flags, num_warps=warps,
        )  # fmt: skip
