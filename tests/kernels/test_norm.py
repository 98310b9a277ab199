"""RMSNorm of the tape and of the reference against float64."""

from __future__ import annotations

import pytest
import torch
from tapes import LANES, assert_as_close, assert_guarded, poisoned, run_one, seeded

from tpplan.kernels import norm, tape


def exact(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    x = x.double()
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps) * weight.double()


def operands(rows: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    g = seeded(rows, width)
    return torch.randn(rows, width, generator=g), torch.randn(width, generator=g)


def run(
    x: torch.Tensor, weight: torch.Tensor, eps: float, out: torch.Tensor, lanes: int = 1, last_only: int = 0
) -> None:
    """x: [rows, width] through the tape."""
    where = (x.data_ptr(), weight.data_ptr(), out.data_ptr())
    run_one((tape.NORM, *where, x.shape[1], tape.bits(eps), last_only), lanes, rows=len(x))


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("rows", [1, 2, 7])
@pytest.mark.parametrize("scale", [1.0, 1e-4, 1e4])
@pytest.mark.parametrize("width", [1, 3, 17, 577])
def test_tape_equals_float64(width: int, scale: float, rows: int, lanes: int) -> None:
    """Every row is as near to the float64 formula as torch in float32, for small and large values alike."""
    x, weight = operands(rows, width)
    x, eps, out = x * scale, 1e-5, poisoned(rows, width)
    run(x, weight, eps, out, lanes)
    plain = torch.nn.functional.rms_norm(x, (width,), weight, eps)
    assert_as_close(out, exact(x, weight, eps), plain)
    assert_guarded(out)


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("rows", [1, 2, 7])
def test_last_row_only(rows: int, lanes: int) -> None:
    """Where only the last row is wanted, it alone is made, at the beginning of the output."""
    x, weight = operands(rows, 17)
    out = poisoned(rows, 17)
    run(x, weight, 1e-5, out, lanes, last_only=1)
    torch.testing.assert_close(out[:1].double(), exact(x[-1:], weight, 1e-5), rtol=1e-6, atol=1e-6)
    assert out[1:].isnan().all()
    assert_guarded(out)


def test_in_place() -> None:
    """The result may overwrite the input."""
    x, weight = operands(3, 17)
    want = exact(x, weight, 1e-6)
    run(x, weight, 1e-6, x)
    torch.testing.assert_close(x.double(), want, rtol=1e-6, atol=1e-6)


def test_zeros() -> None:
    """A row of zeros stays zero: eps keeps it from dividing by nothing."""
    x, weight, out = torch.zeros(1, 17), torch.ones(17), poisoned(1, 17)
    run(x, weight, 1e-6, out)
    assert not out.any()


@pytest.mark.parametrize("rows", [1, 3, 7])
@pytest.mark.parametrize("width", [1, 17, 577])
def test_reference(rows: int, width: int) -> None:
    """The reference gives the float64 formula for several rows."""
    x, weight = operands(rows, width)
    out = poisoned(rows, width)
    norm.reference(x, weight, 1e-5, out)
    plain = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * weight
    assert_as_close(out, exact(x, weight, 1e-5), plain)
    assert_guarded(out)
