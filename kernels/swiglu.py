"""silu(gate) * up (Shazeer 2020), gate and up side by side in one buffer."""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F

from .jit import kernel


def reference(gate_up: torch.Tensor, out: torch.Tensor) -> None:
    """gate_up: [rows, 2 * columns], out: [rows, columns], float32."""
    columns = out.shape[1]
    out.copy_(F.silu(gate_up[:, :columns]).mul_(gate_up[:, columns:]))


@kernel
def swiglu(gate_up, out, begin, end):  # type: ignore[no-untyped-def]
    """Columns [begin, end) of one token. gate_up: [2 * columns], out: [columns]."""
    for c in range(begin, end):
        gate = gate_up[c]
        out[c] = gate / (np.float32(1) + np.float32(math.exp(-gate))) * gate_up[out.size + c]
