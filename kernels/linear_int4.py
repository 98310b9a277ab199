"""y = x @ dequantised(w)^T for 4-bit weights in groups along the input, by torch's packed CPU kernel.

`w = (q - 8) * scale + zero` with q in 0..15, as `torch.ops.aten._weight_int4pack_mm_for_cpu` defines it. It is fast
only for bfloat16 activations.
"""

from __future__ import annotations

import torch


def reference(x: torch.Tensor, q: torch.Tensor, scales_zeros: torch.Tensor) -> torch.Tensor:
    """x: [rows, in] bfloat16; q: [out, in] int32; scales_zeros: [groups, out, 2] bfloat16; [rows, out] float32."""
    group = q.shape[1] // len(scales_zeros)
    scales, zeros = scales_zeros.float().repeat_interleave(group, 0).permute(2, 1, 0)
    return x.float() @ ((q - 8) * scales + zeros).t()


def pack(q: torch.Tensor) -> torch.Tensor:
    """q: [out, in] int32 in 0..15 as the kernel's layout, uint8; `out` a multiple of 16, `in` of 32."""
    return torch.ops.aten._convert_weight_to_int4pack_for_cpu(q, 1)


def packed(x: torch.Tensor, weight: torch.Tensor, group: int, scales_zeros: torch.Tensor) -> torch.Tensor:
    """[rows, out] bfloat16 from `pack`'s weight."""
    return torch.ops.aten._weight_int4pack_mm_for_cpu(x, weight, group, scales_zeros)
