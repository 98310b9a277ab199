"""Rows of this device's part of a grouped-affine embedding table, zeros for tokens that others hold."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .grouped import BLOCK, GroupedWeight
from .launch import options, wait
from .planes import plane_values, table_words

_BLOCK = tl.constexpr(BLOCK)


@triton.jit(do_not_specialize=["begin", "held", "group_shift", "factor_count", "factor_groups", "skipped"])
def _embed(
    tokens, codes, table, factors, out, begin, held, width, tiles, groups, group_shift, factor_count, factor_groups,
    skipped,
    BITS: tl.constexpr, RUN: tl.constexpr, GROUPS_PER_TILE: tl.constexpr, SECOND: tl.constexpr, ZERO: tl.constexpr,
    FORMAT: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """Each program: one tile of a token's row."""
    PLANES: tl.constexpr = 16 // BITS
    EACH: tl.constexpr = PLANES // GROUPS_PER_TILE
    token, at = tl.program_id(0).to(tl.int64), tl.program_id(1)
    one, p = tl.arange(0, 1), tl.arange(0, RUN)
    wait(OVERLAP)
    index = tl.load(tokens + token + one) - begin
    mine = (index >= 0) & (index < held)
    index = tl.where(mine, index, 0)
    block, inside = index // _BLOCK, index % _BLOCK
    w = tl.load(codes + ((block * tiles + at) * _BLOCK + inside)[:, None] * RUN + p[None, :])
    for j in tl.static_range(PLANES):
        if GROUPS_PER_TILE > 1:
            group = tl.minimum(at * GROUPS_PER_TILE + j // EACH, groups - 1)
        else:
            group = at >> group_shift
        pair, second, factor = table_words(
            table, factors, block, group, groups, factor_count, factor_groups, skipped, inside, inside >= 0, SECOND,
            FORMAT,
        )  # fmt: skip
        value = plane_values(w, pair, second, factor, BITS, j, SECOND, ZERO, FORMAT)
        place = (at * PLANES + j) * RUN + p
        value = tl.where(mine[:, None], value, 0.0)
        tl.store(out + token * width + one[:, None] + place[None, :], value, mask=place[None, :] < width)


def embed(tokens: torch.Tensor, weight: GroupedWeight, begin: int, out: torch.Tensor) -> None:
    """tokens: [rows] int64; weight: of the vocabulary from `begin` on, inputs in their own order; out: [rows, width]
    float32.
    """
    assert weight.groups_of_runs is None, "tables with groups of several sizes are not embeddings"
    rows, width = out.shape
    _embed[(rows, weight.tiles)](
        tokens, weight.codes, weight.table, weight.factors, out, begin, weight.rows, width, weight.tiles, weight.groups,
        weight.group_shift, *weight.factor_numbers,
        BITS=weight.bits, RUN=weight.run, GROUPS_PER_TILE=weight.groups_per_tile, SECOND=weight.second,
        ZERO=weight.zero, FORMAT=weight.table_format, **options(out), num_warps=1,
    )  # fmt: skip
