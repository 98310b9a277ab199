"""bfloat16 words made by compiled code against torch's conversions, bit for bit."""

from __future__ import annotations

import pytest
import torch

from tpplan.kernels.bfloat16 import narrow, widen


def words(values: torch.Tensor) -> list[int]:
    return (values.bfloat16().view(torch.int16).int() & 0xFFFF).tolist()


def test_rounding_equals_torch() -> None:
    """Around every tie, at every exponent and sign: the nearest, the even one of two, infinity beyond the largest."""
    upper = torch.arange(0, 2**16, 97, dtype=torch.int64) << 16
    lower = torch.tensor([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF])
    bits = (upper.unsqueeze(1) + lower).flatten()
    values = torch.where(bits < 2**31, bits, bits - 2**32).int().view(torch.float32)
    values = values[~values.isnan()]
    assert len(values) > 4000
    assert [int(narrow(value)) for value in values.numpy()] == words(values)


@pytest.mark.parametrize("bits", [0x7F800001, 0x7FFFFFFF, 0x7FC00000, -1, -0x7FFFFF])
def test_nan_stays_nan(bits: int) -> None:
    """No NaN is carried over into an infinity, whatever its bits."""
    value = torch.tensor([bits], dtype=torch.int32).view(torch.float32)
    assert value.isnan().all()
    assert torch.tensor([int(narrow(value.numpy()[0]))], dtype=torch.int32).short().view(torch.bfloat16).isnan().all()


def test_widening_loses_nothing() -> None:
    """Every word widens to the float32 of the same value."""
    every = torch.arange(0, 2**16, 31, dtype=torch.int32)
    want = every.short().view(torch.bfloat16).float()
    got = torch.tensor([float(widen(word)) for word in every.numpy().astype("uint16")])
    assert torch.equal(got.nan_to_num(1.5), want.nan_to_num(1.5))
