"""torch's packed 4-bit product against the plain formula."""

from __future__ import annotations

import pytest
import torch
from tapes import seeded

from tpplan.kernels import linear_int4


@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize(("rows", "wide_in", "wide_out"), [(1, 128, 16), (3, 256, 48), (17, 640, 32)])
def test_packed_equals_the_formula(rows: int, wide_in: int, wide_out: int, group: int) -> None:
    """Packed weights multiply as (q - 8) * scale + zero in groups along the input, to bfloat16 rounding."""
    g = seeded(rows, wide_in, wide_out)
    x = torch.randn(rows, wide_in, generator=g).bfloat16()
    q = torch.randint(0, 16, (wide_out, wide_in), generator=g, dtype=torch.int32)
    scales_zeros = torch.randn(wide_in // group, wide_out, 2, generator=g).bfloat16()
    want = torch.empty(rows, wide_out, dtype=torch.float64)
    for n in range(wide_out):
        weights = [
            (int(q[n, k]) - 8) * float(scales_zeros[k // group, n, 0]) + float(scales_zeros[k // group, n, 1])
            for k in range(wide_in)
        ]
        want[:, n] = x.double() @ torch.tensor(weights, dtype=torch.float64)
    peak = float(want.abs().max())
    reference = linear_int4.reference(x, q, scales_zeros)
    torch.testing.assert_close(reference.double(), want, rtol=0, atol=1e-5 * peak)
    packed = linear_int4.packed(x, linear_int4.pack(q), group, scales_zeros)
    assert packed.dtype is torch.bfloat16
    torch.testing.assert_close(packed.double(), want, rtol=0, atol=2**-6 * peak)


def test_packed_is_half_a_byte_each() -> None:
    """A packed weight takes four bits."""
    weight = linear_int4.pack(torch.zeros(32, 64, dtype=torch.int32))
    assert weight.numel() * weight.element_size() == 32 * 64 // 2
