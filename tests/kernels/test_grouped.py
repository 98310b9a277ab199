"""Products with grouped-affine weights against the weights they mean, one by one in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from grouped import FORMS, TABLES, RandomRows
from tapes import assert_as_close, assert_guarded, poisoned, run_one

from tpplan.executor.tiles import Parts, Tiles
from tpplan.kernels import grouped, linear, tape

EVEN = np.arange(192) // 32
ROUNDINGS = 8
GROUPS = {
    "even": EVEN,
    "one": np.zeros(70, int),
    "odd lengths": np.repeat([0, 1, 2, 5], [3, 1, 40, 17]),
    "shuffled": np.random.default_rng(1).permutation(EVEN),
    "one input": np.zeros(1, int),
}


def tape_product(
    x: torch.Tensor, parts: Parts, bias: torch.Tensor | None, outputs: int, lanes: int = 1
) -> torch.Tensor:
    """[rows, outputs] by the tape's instruction; nothing beside the output is written."""
    rows, inputs = x.shape
    out, scratch = poisoned(rows, outputs), torch.zeros(lanes, parts.scratch_floats)
    where = (x.data_ptr(), parts.address, 0 if bias is None else bias.data_ptr(), out.data_ptr())
    more = (len(parts.parts), scratch.data_ptr(), parts.scratch_floats, 0)
    run_one((tape.LINEAR, *where, inputs, outputs, linear.PARTS, *more), lanes, rows=rows)
    assert_guarded(out)
    return out


def assert_products(parts: Parts, weights: np.ndarray, lanes: int = 1, rows: int = 1, bias: bool = False) -> None:
    """Both the kernel and the reference give x @ weights^T (+ bias), within some roundings of the largest sum of terms'
    sizes.
    """
    outputs, inputs = weights.shape
    generator = torch.Generator().manual_seed(outputs + inputs)
    x = torch.randn(rows, inputs, generator=generator)
    added = torch.randn(outputs, generator=generator) if bias else None
    exact = x.double() @ torch.from_numpy(weights).t() + (0 if added is None else added.double())
    allowed = ROUNDINGS * 2**-24 * float((x.abs().double() @ torch.from_numpy(np.abs(weights)).t()).max() + bias)
    out = torch.zeros(rows, outputs)
    grouped.reference(x, parts.table, added, out)
    for got in (out, tape_product(x, parts, added, outputs, lanes)):
        error = float((got.double() - exact).abs().max())
        assert error <= allowed, f"off by {error:.3g}, allowed {allowed:.3g}"


@pytest.mark.parametrize("table", TABLES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("groups", GROUPS)
def test_products(groups: str, form: str, table: str) -> None:
    """Every form, with tables of every format, over groups of any length in any order."""
    source = RandomRows(FORMS[form], 64, GROUPS[groups], table)
    assert_products(Parts([Tiles(source, (0, 64))]), source.weights)


@pytest.mark.parametrize("lanes", [1, 2, 3])
@pytest.mark.parametrize("rows", [(0, 1), (0, 33), (5, 69), (16, 48)])
def test_some_outputs_on_some_threads(rows: tuple[int, int], lanes: int) -> None:
    """Outputs that are no whole tiles, on more threads than tiles too, with several rows and a bias."""
    source = RandomRows(FORMS["zeros"], 80, EVEN)
    assert_products(Parts([Tiles(source, rows)]), source.weights[slice(*rows)], lanes, rows=3, bias=True)


@pytest.mark.parametrize("rows", [1, 2, 4, 5, 8, 64])
@pytest.mark.parametrize("form", ["minimums", "8 bits, zeros"])
def test_several_tokens(form: str, rows: int) -> None:
    """Four at a time, with a rest or without."""
    source = RandomRows(FORMS[form], 64, GROUPS["shuffled"])
    assert_products(Parts([Tiles(source, (0, 64))]), source.weights, rows=rows)


@pytest.mark.parametrize("lanes", [1, 2])
def test_mixed_parts(lanes: int) -> None:
    """Matrices of several forms and dense ones below each other, as a layer of mixed formats stacks them."""
    four, eight = RandomRows(FORMS["minimums"], 40, EVEN), RandomRows(FORMS["8 bits"], 64, np.arange(192) // 16)
    dense = [torch.randn(48, 192).to(dtype) for dtype in (torch.float32, torch.float16, torch.bfloat16)]
    parts = Parts([Tiles(four, (0, 40)), *dense, Tiles(eight, (0, 64)), Tiles(four, (0, 32))])
    weights = [four.weights, *(part.double().numpy() for part in dense), eight.weights, four.weights[:32]]
    assert_products(parts, np.concatenate(weights), lanes, rows=lanes)


@pytest.mark.parametrize("form", FORMS)
def test_embedding_rows(form: str) -> None:
    """Rows of a quantised table, zeros for tokens that others hold."""
    source = RandomRows(FORMS[form], 70, np.random.default_rng(2).permutation(EVEN))
    parts, tokens, out = Parts([Tiles(source, (0, 70))]), np.array([99, 100, 131, 169, 170]), poisoned(5, 192)
    where = (parts.address, out.data_ptr(), 100, 70, 192, linear.PARTS, tokens.ctypes.data)
    run_one((tape.EMBED, *where), lanes=2, rows=5)
    exact = torch.from_numpy(source.weights)[[0, 0, 31, 69, 0]]
    exact[[0, 4]] = 0
    assert_as_close(out, exact, exact.float())
    assert not out[[0, 4]].any()


def test_halves() -> None:
    """Every finite float16 as the float32 of the same value, zeros with their sign."""
    from tpplan.kernels.half import half

    words = np.arange(1 << 16).astype(np.uint16)
    finite = words[np.isfinite(words.view(np.float16))]
    got = np.array([half(word) for word in finite], np.float32)
    assert (got.view(np.uint32) == finite.view(np.float16).astype(np.float32).view(np.uint32)).all()
