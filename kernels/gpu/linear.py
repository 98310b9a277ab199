"""y = x @ w^T + bias for few rows: bound by the reading of weights, which begins before the input is ready.

Weights are `[out_features, in_features]`, as checkpoints store them; products and sums are float32. One row takes the
plain kernel (16 bytes a thread and load), or on a part of a GPU that of `staged_row`; 2 to 16 the matrix units. Sums
have a fixed order: results repeat bitwise.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .launch import inverse_rms, options, shared_bytes, tile, wait
from .staged_row import linear_row, staged_tiles

ROWS = 16


def reference(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """float32 [rows, out] of operands widened to float32."""
    return torch.nn.functional.linear(x.float(), weight.float(), bias)


@triton.jit
def _one_row(
    x, weight, bias, out, squares, N, K, parts, width, eps,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PARTS: tl.constexpr,
    EVEN: tl.constexpr, BIASED: tl.constexpr, SCALED: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """Each program: BLOCK_N rows of the weight, the next tile in flight while one is multiplied."""
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    source = weight + tl.minimum(n, N - 1).to(tl.int64)[:, None] * K + k[None, :]
    w = tl.load(source, mask=EVEN | (k < K)[None, :], other=0.0, eviction_policy="evict_first")
    wait(OVERLAP)
    total = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
    for start in range(BLOCK_K, K, BLOCK_K):
        mask = EVEN | (k < K - start)
        ahead = tl.load(source + start, mask=mask[None, :], other=0.0, eviction_policy="evict_first")
        total += w.to(tl.float32) * tl.load(x + start - BLOCK_K + k).to(tl.float32)[None, :]
        w = ahead
    last = (tl.cdiv(K, BLOCK_K) - 1) * BLOCK_K + k
    total += w.to(tl.float32) * tl.load(x + last, mask=EVEN | (last < K), other=0.0).to(tl.float32)[None, :]
    y = tl.sum(total, 1)
    if SCALED:
        y *= inverse_rms(squares, 0, parts, width, eps, PARTS)
    if BIASED:
        y += tl.load(bias + n, mask=n < N, other=0.0)
    tl.store(out + n, y.to(out.dtype.element_ty), mask=n < N)


@triton.jit
def _few_rows(
    x, weight, bias, out, squares, rows, N, K, parts, width, eps,
    ROWS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PARTS: tl.constexpr, STAGES: tl.constexpr,
    EVEN: tl.constexpr, BIASED: tl.constexpr, SCALED: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    k, row = tl.arange(0, BLOCK_K), tl.arange(0, ROWS)
    source = weight + tl.minimum(n, N - 1).to(tl.int64)[:, None] * K + k[None, :]
    wait(OVERLAP)
    total = tl.zeros((BLOCK_N, ROWS), tl.float32)
    for start in tl.range(0, K, BLOCK_K, num_stages=STAGES):
        mask = EVEN | (k < K - start)
        w = tl.load(source + start, mask=mask[None, :], other=0.0, eviction_policy="evict_first")
        asked = x + tl.minimum(row, rows - 1)[None, :] * K + (start + k)[:, None]
        total += tl.dot(w, tl.load(asked, mask=mask[:, None], other=0.0), input_precision="ieee")
    if SCALED:
        at = tl.arange(0, PARTS)
        mask = (row < rows)[:, None] & (at < parts)[None, :]
        sums = tl.sum(tl.load(squares + row[:, None] * parts + at[None, :], mask=mask, other=0.0), 1)
        total *= (1.0 / tl.sqrt(sums / width + eps))[None, :]
    if BIASED:
        total += tl.load(bias + n, mask=n < N, other=0.0)[:, None]
    target = out + row[None, :] * N + n[:, None]
    tl.store(target, total.to(out.dtype.element_ty), mask=(row < rows)[None, :] & (n < N)[:, None])


def linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    out: torch.Tensor,
    squares: torch.Tensor | None = None,
    width: int = 1,
    eps: float = 0.0,
) -> None:
    """out = x @ weight^T [/ sqrt(sum(squares) / width + eps)] [+ bias].

    x: [rows <= 16, K] of the weight's dtype; weight: [N, K]; bias: [N] float32; out: [rows, N]; squares: [rows, parts]
    float32, of a norm over `width` values that left its scale to this product.
    """
    rows, (N, K) = x.shape[0], weight.shape
    assert rows <= ROWS, f"{rows} rows: products of more than {ROWS} are matrix products"
    parts = 1 if squares is None else squares.shape[1]
    flags = {"PARTS": tile(parts), "BIASED": bias is not None, "SCALED": squares is not None, **options(x)}
    staged = staged_tiles(x, K) if rows == 1 else None
    if staged is not None:
        BLOCK_N, BLOCK_K, stages, warps = staged
        linear_row[(triton.cdiv(N, BLOCK_N),)](
            x, weight, bias, out, squares, N, K, parts, width, eps,
            BLOCK_N=BLOCK_N, BLOCK_K=BLOCK_K, STAGES=stages, EVEN=K % BLOCK_K == 0, **flags, num_warps=warps,
        )  # fmt: skip
    elif rows == 1:
        BLOCK_N, BLOCK_K, warps = one_row_tiles(K, weight.element_size())
        _one_row[(triton.cdiv(N, BLOCK_N),)](
            x, weight, bias, out, squares, N, K, parts, width, eps,
            BLOCK_N=BLOCK_N, BLOCK_K=BLOCK_K, EVEN=K % BLOCK_K == 0, **flags, num_warps=warps,
        )  # fmt: skip
    else:
        BLOCK_N, BLOCK_K, stages, warps = few_rows_tiles(1, K, weight.element_size(), shared_bytes(x))
        _few_rows[(triton.cdiv(N, BLOCK_N),)](
            x, weight, bias, out, squares, rows, N, K, parts, width, eps, ROWS=ROWS,
            BLOCK_N=BLOCK_N, BLOCK_K=BLOCK_K, STAGES=stages, EVEN=K % BLOCK_K == 0, **flags, num_warps=warps,
        )  # fmt: skip


def one_row_tiles(K: int, element_bytes: int) -> tuple[int, int, int]:
    """BLOCK_N, BLOCK_K, warps: 16 bytes a thread and row, short rows in shorter tiles, so that the last is fuller."""
    BLOCK_N, warps = (4, 2) if K * element_bytes <= 4096 else (2, 4)
    return BLOCK_N, tile(K, most=warps * 512 // element_bytes), warps


def few_rows_tiles(halves: int, K: int, element_bytes: int, shared: int) -> tuple[int, int, int, int]:
    """BLOCK_N, BLOCK_K, stages, warps, for a weight of so many halves: the most in flight that `shared` bytes hold."""
    BLOCK_N, stages = 64, 4
    BLOCK_K = tile(K, least=16, most=256 // element_bytes)
    while stages * (halves * BLOCK_N + ROWS) * BLOCK_K * element_bytes > shared * 7 // 8:
        if stages > 2:
            stages -= 1
        else:
            BLOCK_N //= 2
    return BLOCK_N, BLOCK_K, stages, 4
