"""RMSNorm: x / sqrt(mean(x^2) + eps) * weight (Zhang and Sennrich 2019), in float32."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F

from .jit import kernel


def reference(x: torch.Tensor, weight: torch.Tensor, eps: float, out: torch.Tensor) -> None:
    """x, out: [rows, width] float32, weight: [width] float32."""
    out.copy_(F.rms_norm(x, weight.shape, weight, eps))


@kernel
def rms_norm(x, weight, eps, out):  # type: ignore[no-untyped-def]
    """x, weight, out: [width]; `out` may be `x`."""
    total = np.float32(0)
    for k in range(x.size):
        total += x[k] * x[k]
    scale = np.float32(1.0 / math.sqrt(total / x.size + eps))
    for k in range(x.size):
        out[k] = x[k] * scale * weight[k]
