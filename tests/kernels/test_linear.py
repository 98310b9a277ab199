"""Matrix products of the tape and of the reference against float64."""

from __future__ import annotations

import pytest
import torch
from tapes import LANES, assert_as_close, assert_guarded, poisoned, run_one, seeded

from tpplan.kernels import linear, tape

DTYPES = [torch.float32, torch.bfloat16]
SIZES = (1, 3, 17, 577)


def operands(
    rows: int, wide_in: int, wide_out: int, dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x: [rows, in] float32, weight: [out, in] in `dtype`, bias: [out] float32."""
    g = seeded(rows, wide_in, wide_out)
    shapes = (rows, wide_in), (wide_out, wide_in), (wide_out,)
    x, weight, bias = (torch.randn(shape, generator=g) for shape in shapes)
    return x, weight.to(dtype), bias


def exact(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    product = x.double() @ weight.double().t()
    return product if bias is None else product + bias.double()


def run(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, lanes: int = 1) -> torch.Tensor:
    """One row, [in], through the tape."""
    out = poisoned(len(weight))
    bias_at = 0 if bias is None else bias.data_ptr()
    where = (x.data_ptr(), weight.data_ptr(), bias_at, out.data_ptr())
    run_one((tape.LINEAR, *where, weight.shape[1], len(weight), linear.FORMATS[weight.dtype]), lanes)
    assert_guarded(out)
    return out


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("wide_out", SIZES)
@pytest.mark.parametrize("wide_in", SIZES)
def test_tape_equals_float64(wide_in: int, wide_out: int, has_bias: bool, dtype: torch.dtype) -> None:
    """One row is as near to the float64 product as torch in float32, whatever the sizes, for both types of weight."""
    x, weight, bias = operands(1, wide_in, wide_out, dtype)
    used = bias if has_bias else None
    plain = torch.nn.functional.linear(x, weight.float(), used)
    assert_as_close(run(x[0], weight, used)[None], exact(x, weight, used), plain)


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("wide_out", SIZES)
def test_lanes_share_the_rows(wide_out: int, dtype: torch.dtype, lanes: int) -> None:
    """Any number of lanes gives the very numbers of one."""
    x, weight, bias = operands(1, 64, wide_out, dtype)
    assert torch.equal(run(x[0], weight, bias, lanes), run(x[0], weight, bias))


@pytest.mark.parametrize("rows", [1, 2, 7])
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize(("wide_in", "wide_out"), [(1, 577), (17, 3), (577, 17)])
def test_reference_in_float32(wide_in: int, wide_out: int, has_bias: bool, rows: int) -> None:
    """The reference gives the float64 product to float32 rounding for several rows."""
    x, weight, bias = operands(rows, wide_in, wide_out, torch.float32)
    used, out = bias if has_bias else None, poisoned(rows, wide_out)
    linear.reference(x, weight, used, out)
    plain = x @ weight.t() + (bias if has_bias else 0)
    assert_as_close(out, exact(x, weight, used), plain)
    assert_guarded(out)


@pytest.mark.parametrize("rows", [1, 2, 7])
@pytest.mark.parametrize("has_bias", [False, True])
def test_reference_in_bfloat16(rows: int, has_bias: bool) -> None:
    """The reference with bfloat16 weights rounds inputs and product to bfloat16, not the sums nor the bias."""
    x, weight, bias = operands(rows, 577, 17, torch.bfloat16)
    used, out = bias if has_bias else None, poisoned(rows, 17)
    linear.reference(x, weight, used, out)
    rounded = exact(x.bfloat16(), weight, None)
    want = rounded + bias.double() if has_bias else rounded
    torch.testing.assert_close(out.double(), want, rtol=0, atol=2**-8 * float(rounded.abs().max()))
    assert_guarded(out)


def test_every_bfloat16_is_widened() -> None:
    """All 65,536 bfloat16 patterns, infinities included, become the float32 that torch makes of them; NaN stays NaN."""
    words = torch.arange(2**16, dtype=torch.int32).to(torch.uint16).view(torch.bfloat16)
    got = run(torch.ones(1), words.view(-1, 1), None)
    torch.testing.assert_close(got, words.float(), rtol=0, atol=0, equal_nan=True)
