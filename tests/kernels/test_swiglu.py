"""SwiGLU of the tape and of the reference against float64."""

from __future__ import annotations

import pytest
import torch
from tapes import LANES, assert_as_close, assert_guarded, poisoned, run_one, seeded

from tpplan.kernels import swiglu, tape

SIZES = (1, 3, 17, 577)


def exact(gate_up: torch.Tensor) -> torch.Tensor:
    gate, up = gate_up.double().chunk(2, dim=-1)
    return gate / (1 + torch.exp(-gate)) * up


def plain(gate_up: torch.Tensor) -> torch.Tensor:
    gate, up = gate_up.chunk(2, dim=-1)
    return gate * torch.sigmoid(gate) * up


def run(gate_up: torch.Tensor, lanes: int = 1) -> torch.Tensor:
    """gate_up: [rows, 2 * columns] through the tape."""
    rows, columns = len(gate_up), gate_up.shape[1] // 2
    out = poisoned(rows, columns)
    run_one((tape.SWIGLU, gate_up.data_ptr(), out.data_ptr(), columns), lanes, rows=rows)
    assert_guarded(out)
    return out


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("rows", [1, 2, 7])
@pytest.mark.parametrize("columns", SIZES)
def test_tape_equals_float64(columns: int, rows: int, lanes: int) -> None:
    """Every row is as near to the float64 formula as torch in float32, whoever computes which column."""
    gate_up = 4 * torch.randn(rows, 2 * columns, generator=seeded(rows, columns))
    assert_as_close(run(gate_up, lanes), exact(gate_up), plain(gate_up))


def test_far_from_zero() -> None:
    """Gates far below zero close, gates far above it let everything through, without overflow."""
    gate_up = torch.tensor([[-1e30, -200.0, -90.0, 90.0, 200.0, 1e30] + [1.0] * 6])
    torch.testing.assert_close(run(gate_up), torch.tensor([[0.0, 0.0, 0.0, 90.0, 200.0, 1e30]]), rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize("rows", [1, 3, 7])
@pytest.mark.parametrize("columns", SIZES)
def test_reference(rows: int, columns: int) -> None:
    """The reference gives the float64 formula for several rows."""
    gate_up, out = torch.randn(rows, 2 * columns, generator=seeded(rows, columns)), poisoned(rows, columns)
    swiglu.reference(gate_up, out)
    assert_as_close(out, exact(gate_up), plain(gate_up))
    assert_guarded(out)
