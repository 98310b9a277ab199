"""Matrix products of many rows with grouped-affine weights: written out in 16 bits, some rows at a time, for cuBLAS."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .grouped import BLOCK, GroupedWeight
from .launch import options, wait
from .linear import ROWS
from .linear_quant import linear
from .planes import plane_values, table_words
from .products import many_rows as dense_many_rows

_BLOCK = tl.constexpr(BLOCK)
FEW_PRODUCTS = 4  # of 16 rows: reading the codes as often costs less than writing the weights out


@triton.jit(do_not_specialize=["first", "begin", "end", "group_shift", "factor_count", "factor_groups", "skipped"])
def _floats(
    codes, table, factors, groups_of_runs, out, first, begin, end, K, tiles, groups, group_shift, factor_count,
    factor_groups, skipped,
    BITS: tl.constexpr, RUN: tl.constexpr, GROUPS_PER_TILE: tl.constexpr, RAGGED: tl.constexpr, SECOND: tl.constexpr,
    ZERO: tl.constexpr, FORMAT: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """Each program: one tile of a block of rows. `first`: block of the first program; rows begin to end are written."""
    PLANES: tl.constexpr = 16 // BITS
    EACH: tl.constexpr = PLANES // GROUPS_PER_TILE
    TYPE: tl.constexpr = out.dtype.element_ty
    block, at = (first + tl.program_id(1)).to(tl.int64), tl.program_id(0)
    inside, p = tl.arange(0, _BLOCK), tl.arange(0, RUN)
    w = tl.load(codes + ((block * tiles + at) * _BLOCK + inside)[:, None] * RUN + p[None, :])
    wait(OVERLAP)
    row = block * _BLOCK + inside - begin
    for j in tl.static_range(PLANES):
        if RAGGED:
            group = tl.load(groups_of_runs + at * PLANES + j)
        elif GROUPS_PER_TILE > 1:
            group = tl.minimum(at * GROUPS_PER_TILE + j // EACH, groups - 1)
        else:
            group = at >> group_shift
        pair, second, factor = table_words(
            table, factors, block, group, groups, factor_count, factor_groups, skipped, inside, inside >= 0, SECOND,
            FORMAT,
        )  # fmt: skip
        value = plane_values(w, pair, second, factor, BITS, j, SECOND, ZERO, FORMAT)
        place = (at * PLANES + j) * RUN + p
        mask = ((row >= 0) & (row < end - begin))[:, None] & (place < K)[None, :]
        tl.store(out + row[:, None] * K + place[None, :], value.to(TYPE), mask=mask)


def floats(weight: GroupedWeight, begin: int, end: int, out: torch.Tensor, half: int = 0) -> None:
    """Rows of a half in the order of places, each weight rounded once: out [end - begin, places], contiguous."""
    first, last = begin // BLOCK, triton.cdiv(end, BLOCK)
    before = half * weight.blocks
    factors = None if weight.factors is None else weight.factors[before:]
    _floats[(weight.tiles, last - first)](
        weight.codes[before:], weight.table[before:], factors, weight.groups_of_runs, out, first, begin, end,
        weight.places, weight.tiles, weight.groups, weight.group_shift, *weight.factor_numbers,
        BITS=weight.bits, RUN=weight.run, GROUPS_PER_TILE=weight.groups_per_tile,
        RAGGED=weight.groups_of_runs is not None, SECOND=weight.second, ZERO=weight.zero, FORMAT=weight.table_format,
        **options(weight.codes), num_warps=2,
    )  # fmt: skip


def many_rows(
    x: torch.Tensor, weight: GroupedWeight, bias: torch.Tensor | None, out: torch.Tensor, scratch: torch.Tensor
) -> None:
    """x: [rows, places] in the order of places; bias: [N] float32; out: [rows, N] of x's dtype or float32, both halves
    side by side; scratch: [floats] of x's dtype, at least 16 * places of them; best a whole weight's.
    """
    rows, (N, K) = x.shape[0], (weight.rows, weight.places)
    if weight.halves == 1 and rows <= FEW_PRODUCTS * ROWS:
        for begin in range(0, rows, ROWS):
            linear(x[begin : begin + ROWS], weight, bias, out[begin : begin + ROWS])
        return
    step = scratch.numel() // K // BLOCK * BLOCK
    assert step, f"scratch of {scratch.numel()} floats: it needs {BLOCK * K}"
    for half in range(weight.halves):
        for begin in range(0, N, step):
            end = min(begin + step, N)
            written = scratch[: (end - begin) * K].view(end - begin, K)
            floats(weight, begin, end, written, half)
            mine = slice(half * N + begin, half * N + end)
            dense_many_rows(x, written, None if bias is None else bias[mine], out[:, mine])
