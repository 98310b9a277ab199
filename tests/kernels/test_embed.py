"""Embedding rows of one device's part of the vocabulary."""

from __future__ import annotations

import pytest
import torch
from tapes import LANES, assert_guarded, poisoned, run_one, seeded

from tpplan.kernels import embed, linear, tape

BEGIN, HELD = 10, 7
DTYPES = [torch.float32, torch.bfloat16]
TOKENS = [[12], [0], [16], [17], [2**40], [9, 10, 16, 17, 0, 10], [0, 1, 2]]


def table(wide: int, dtype: torch.dtype) -> torch.Tensor:
    """Vocabulary rows 10 to 16."""
    return torch.randn(HELD, wide, generator=seeded(wide)).to(dtype)


def expected(tokens: list[int], rows: torch.Tensor) -> torch.Tensor:
    held = range(BEGIN, BEGIN + HELD)
    return torch.stack([rows[t - BEGIN].float() if t in held else torch.zeros(rows.shape[1]) for t in tokens])


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("wide", [1, 3, 17, 577])
@pytest.mark.parametrize("tokens", TOKENS)
def test_tape_takes_the_rows(tokens: list[int], wide: int, dtype: torch.dtype, lanes: int) -> None:
    """A held token gives its very row, any other one zeros, not what lies beside the table."""
    rows, out, ids = table(wide, dtype), poisoned(len(tokens), wide), torch.tensor(tokens)
    sizes = (BEGIN, HELD, wide, linear.FORMATS[dtype])
    run_one((tape.EMBED, rows.data_ptr(), out.data_ptr(), *sizes, ids.data_ptr()), lanes, rows=len(tokens))
    assert torch.equal(out, expected(tokens, rows))
    assert_guarded(out)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("tokens", TOKENS)
def test_reference(tokens: list[int], dtype: torch.dtype) -> None:
    """The reference does the same."""
    rows, out = table(17, dtype), poisoned(len(tokens), 17)
    embed.reference(torch.tensor(tokens), rows, BEGIN, out)
    assert torch.equal(out, expected(tokens, rows))
    assert_guarded(out)


def test_parts_sum_to_the_table() -> None:
    """Two devices' results add up to the undivided table's rows."""
    whole, tokens = torch.randn(20, 5, generator=seeded(20)), torch.arange(20)
    parts = [poisoned(20, 5) for _ in range(2)]
    for out, (begin, end) in zip(parts, [(0, 8), (8, 20)], strict=True):
        embed.reference(tokens, whole[begin:end], begin, out)
    assert torch.equal(parts[0] + parts[1], whole)
