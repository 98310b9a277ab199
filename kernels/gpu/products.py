"""Matrix products of many rows, by cuBLAS; few rows have kernels of their own (linear, gate_up)."""

from __future__ import annotations

import torch


def many_rows(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor) -> None:
    """x: [rows, K], weight: [N, K] of one format; bias: [N] float32; out: [rows, N] in it or in float32, where sums go
    unrounded.
    """
    if out.dtype is x.dtype:
        torch.mm(x, weight.t(), out=out)
    else:
        torch.mm(x, weight.t(), out_dtype=out.dtype, out=out)
    if bias is not None:
        out += bias
