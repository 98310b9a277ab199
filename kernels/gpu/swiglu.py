"""silu(gate) * up (Shazeer 2020) of many rows, gate and up side by side; of few rows it is part of `gate_up`."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

BLOCK = 1024


@triton.jit
def swiglu_kernel(gate_up, out, columns, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """One program: up to BLOCK columns of one row."""
    row, at = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < columns
    gate = tl.load(gate_up + row * 2 * columns + at, inside, 0.0).to(tl.float32)
    up = tl.load(gate_up + (row * 2 + 1) * columns + at, inside, 0.0).to(tl.float32)
    tl.store(out + row * columns + at, (gate / (1.0 + tl.exp(-gate)) * up).to(out.dtype.element_ty), inside)


def swiglu(gate_up: torch.Tensor, out: torch.Tensor) -> None:
    """gate_up: [rows, 2 * columns], out: [rows, columns], both contiguous and of one format; arithmetic in float32."""
    rows, columns = out.shape
    swiglu_kernel[(rows, triton.cdiv(columns, BLOCK))](gate_up, out, columns, BLOCK=BLOCK)
