"""silu(x @ gate^T) * (x @ up^T) for few rows, weights grouped-affine: as linear_quant, both halves in one program."""

from __future__ import annotations

import torch

from .grouped import GroupedWeight
from .linear_quant import launch


def gate_up(
    x: torch.Tensor,
    weight: GroupedWeight,
    bias: torch.Tensor | None,
    out: torch.Tensor,
    squares: torch.Tensor | None = None,
    width: int = 1,
    eps: float = 0.0,
) -> None:
    """x: [rows <= 16, places]; weight: packed with `halves` 2, N rows each; bias: [2 N] float32; out: [rows, N];
    squares, width, eps: as in `linear_quant.linear`."""
    assert weight.halves == 2, "the weight is not of a gate and an up half: pack it with halves=2"
    launch(x, weight, bias, out, squares, width, eps)
