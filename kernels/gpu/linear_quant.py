"""y = x @ w^T + bias for few rows, weights grouped-affine (grouped.py): codes become 16-bit floats in registers.

The matrix units multiply 16 rows of a weight by 8 columns, so one row of x would leave seven columns idle. Instead each
of PARTS parts of the input gets columns of its own: the program's rows stand below one another once for each part, a
warp takes a part or several, and of the results those count whose row and column are of one part. Codes less zeros are
exact; sums are float32 within a group, then scaled and added in a fixed order: results repeat bitwise.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from .grouped import BLOCK, MINIMUMS, RUNS, ZEROS, GroupedWeight
from .launch import architecture, options, shared_bytes, tile, wait
from .linear import ROWS
from .planes import (
    as_minimum,
    as_scale,
    carried,
    instructions,
    plane,
    prefetch,
    raw_instructions,
    raw_plane,
    table_words,
)
from .sms import sms_for, whole_sms

_ZEROS, _MINIMUMS, _BLOCK = tl.constexpr(ZEROS), tl.constexpr(MINIMUMS), tl.constexpr(BLOCK)
AHEAD_BYTES = 16384  # asked for by a program before its input is ready


@triton.jit(do_not_specialize=["rows", "tiles", "group_shift", "parts", "factor_count", "factor_groups", "skipped"])
def product(
    x, codes, table, factors, groups_of_runs, bias, out, squares, rows, N, K, tiles, groups, group_shift, factor_count,
    factor_groups, skipped, parts, width, eps,
    HALVES: tl.constexpr, BLOCK_N: tl.constexpr, PARTS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    BITS: tl.constexpr, RUN: tl.constexpr, GROUPS_PER_TILE: tl.constexpr, RAGGED: tl.constexpr, SECOND: tl.constexpr,
    ZERO: tl.constexpr, FORMAT: tl.constexpr, SQUARES: tl.constexpr, STAGES: tl.constexpr, AHEAD: tl.constexpr,
    THREADS: tl.constexpr, EVEN: tl.constexpr, BIASED: tl.constexpr, SCALED: tl.constexpr, ASM: tl.constexpr,
    BASES: tl.constexpr, FOLDED: tl.constexpr, CARRIED: tl.constexpr, UNIT: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    """Each program: BLOCK_N outputs; with HALVES 2, of the gate and of the up half, and silu(gate) * up."""
    PLANES: tl.constexpr = 16 // BITS
    EACH: tl.constexpr = PLANES // GROUPS_PER_TILE
    TYPE: tl.constexpr = x.dtype.element_ty
    SPLIT: tl.constexpr = UNIT != 1.0 and BITS == 4  # odd planes are 16 times as large
    ONES: tl.constexpr = SECOND == _MINIMUMS or (FOLDED and (SECOND == _ZEROS or CARRIED + ZERO != 0.0))
    m, c, p = tl.arange(0, PARTS * HALVES * BLOCK_N), tl.arange(0, COLUMNS), tl.arange(0, RUN)
    part, part_of_column, row = m // (HALVES * BLOCK_N), c // ROWS, c % ROWS
    share = tl.cdiv(tiles, PARTS)
    blocks = tl.cdiv(N, _BLOCK)
    block = tl.minimum(tl.program_id(0) * (BLOCK_N // _BLOCK) + m % BLOCK_N // _BLOCK, blocks - 1)
    block = (block + m // BLOCK_N % HALVES * blocks).to(tl.int64)
    first, inside = part * share, m % _BLOCK
    words = codes + ((block * tiles + first) * _BLOCK + inside)[:, None] * RUN + p[None, :]
    if OVERLAP and AHEAD:
        _prefetch_codes(codes, tiles, share, blocks, HALVES, BLOCK_N, PARTS, RUN, AHEAD, THREADS)
    wait(OVERLAP)
    asked = x + (row * K + part_of_column * (share * PLANES * RUN))[None, :] + p[:, None]
    mine = (part_of_column < PARTS) & (row < rows)
    place = (part_of_column * (share * PLANES * RUN))[None, :] + p[:, None]
    total = tl.zeros((PARTS * HALVES * BLOCK_N, COLUMNS), tl.float32)
    for i in tl.range(0, share, num_stages=STAGES):
        there = EVEN | (first + i < tiles)
        w = tl.load(words + i * (_BLOCK * RUN), mask=there[:, None], other=0, eviction_policy="evict_first")
        for g in tl.static_range(GROUPS_PER_TILE):
            if RAGGED:
                group = tl.load(groups_of_runs + (first + i) * PLANES + g, mask=there, other=0)
            elif GROUPS_PER_TILE > 1:
                group = tl.minimum((first + i) * GROUPS_PER_TILE + g, groups - 1)
            else:
                group = (first + i) >> group_shift
            pair, second, factor = table_words(
                table, factors, block, group, groups, factor_count, factor_groups, skipped, inside, there, SECOND,
                FORMAT,
            )  # fmt: skip
            sums = tl.zeros((PARTS * HALVES * BLOCK_N, COLUMNS), tl.float32)
            odd = tl.zeros((PARTS * HALVES * BLOCK_N, COLUMNS), tl.float32)
            inputs = tl.zeros((PARTS * HALVES * BLOCK_N, COLUMNS), tl.float32)
            for e in tl.static_range(EACH):
                at = i * (PLANES * RUN) + (g * EACH + e) * RUN
                values = tl.load(asked + at, mask=mine[None, :] & (EVEN | (place + at < K)), other=0.0)
                if FOLDED:
                    a = raw_plane(w, BITS, g * EACH + e, CARRIED, UNIT, TYPE, ASM)
                else:
                    a = plane(w, second, BITS, g * EACH + e, SECOND, ZERO, TYPE, ASM, BASES)
                if FOLDED and SPLIT and (g * EACH + e) % 2 == 1:
                    odd = tl.dot(a, values, odd, input_precision="ieee")
                else:
                    sums = tl.dot(a, values, sums, input_precision="ieee")
                if ONES:
                    one = tl.full((PARTS * HALVES * BLOCK_N, RUN), 1.0, TYPE)
                    inputs = tl.dot(one, values, inputs, input_precision="ieee")
            scale = as_scale(pair, factor, FORMAT)
            if FOLDED:
                if SPLIT:
                    sums += odd * 0.0625
                if SECOND == _ZEROS:
                    sums -= ((second.to(tl.float32) + CARRIED) * UNIT)[:, None] * inputs
                elif CARRIED + ZERO != 0.0:
                    sums -= (CARRIED + ZERO) * UNIT * inputs
                scale *= 1.0 / UNIT
            total += scale[:, None] * sums
            if SECOND == _MINIMUMS:
                total += as_minimum(second, factor, FORMAT)[:, None] * inputs
    if PARTS > 1:
        total = tl.where(part[:, None] == part_of_column[None, :], total, 0.0)
        total = tl.sum(tl.reshape(total, (PARTS, HALVES * BLOCK_N, COLUMNS)), 0)
    y = total
    if COLUMNS > ROWS:
        y = tl.sum(tl.reshape(total, (HALVES * BLOCK_N, COLUMNS // ROWS, ROWS)), 1)
    row, n = tl.arange(0, ROWS), tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    inverse = tl.full((ROWS,), 1.0, tl.float32)
    if SCALED:
        at = tl.arange(0, SQUARES)
        mask = (row < rows)[:, None] & (at < parts)[None, :]
        squared = tl.load(squares + row[:, None] * parts + at[None, :], mask=mask, other=0.0)
        inverse = 1.0 / tl.sqrt(tl.sum(squared, 1) / width + eps)
    target, mask = out + row[None, :] * N + n[:, None], (row < rows)[None, :] & (n < N)[:, None]
    if HALVES == 2:
        gate, up = tl.split(tl.permute(tl.reshape(y, (2, BLOCK_N, ROWS)), (1, 2, 0)))
        gate = _finished(gate, inverse, bias, n, N, SCALED, BIASED)
        up = _finished(up, inverse, bias + N if BIASED else bias, n, N, SCALED, BIASED)
        tl.store(target, (gate / (1.0 + tl.exp(-gate)) * up).to(out.dtype.element_ty), mask=mask)
    else:
        tl.store(target, _finished(y, inverse, bias, n, N, SCALED, BIASED).to(out.dtype.element_ty), mask=mask)


@triton.jit
def _finished(y, inverse, bias, n, N, SCALED: tl.constexpr, BIASED: tl.constexpr):
    if SCALED:
        y *= inverse[None, :]
    if BIASED:
        y += tl.load(bias + n, mask=n < N, other=0.0)[:, None]
    return y


@triton.jit
def _prefetch_codes(
    codes, tiles, share, blocks, HALVES: tl.constexpr, BLOCK_N: tl.constexpr, PARTS: tl.constexpr, RUN: tl.constexpr,
    AHEAD: tl.constexpr, THREADS: tl.constexpr,
):  # fmt: skip
    """The first AHEAD bytes that the program will read, a thread for each piece of a block of rows and a part."""
    BLOCKS: tl.constexpr = BLOCK_N // _BLOCK
    PIECES: tl.constexpr = BLOCKS * HALVES * PARTS
    piece = tl.arange(0, THREADS)
    block, half, part = piece % BLOCKS, piece // BLOCKS % HALVES, piece // (BLOCKS * HALVES)
    block = tl.program_id(0) * BLOCKS + block
    first = part * share
    count = tl.minimum(tl.minimum(share, tiles - first), tl.cdiv(AHEAD // PIECES, 2 * _BLOCK * RUN))
    address = codes + ((block + half * blocks).to(tl.int64) * tiles + first) * (_BLOCK * RUN)
    wanted = (piece < PIECES) & (block < blocks) & (count > 0)
    prefetch(address.to(tl.int64), count * (2 * _BLOCK * RUN), wanted)


def linear(
    x: torch.Tensor,
    weight: GroupedWeight,
    bias: torch.Tensor | None,
    out: torch.Tensor,
    squares: torch.Tensor | None = None,
    width: int = 1,
    eps: float = 0.0,
) -> None:
    """out = x @ weight^T [/ sqrt(sum(squares) / width + eps)] [+ bias].

    x: [rows <= 16, places] float16, bfloat16 or (slowly) float32, in the order of the weight's places, 0 where one
    has no input (`reorder` does both); bias: [N] float32; out: [rows, N]; squares, width, eps: as in linear.linear.
    """
    assert weight.halves == 1, "the weight is of a gate and an up half: it goes to gate_up_quant"
    launch(x, weight, bias, out, squares, width, eps)


def launch(
    x: torch.Tensor,
    weight: GroupedWeight,
    bias: torch.Tensor | None,
    out: torch.Tensor,
    squares: torch.Tensor | None,
    width: int,
    eps: float,
) -> None:
    """`product` with the tiles that suit the shape; both halves of a weight with two."""
    rows, K = x.shape
    assert rows <= ROWS, f"{rows} rows: products of more than {ROWS} are matrix products"
    assert weight.places == K, f"{K} inputs for {weight.places} places: bring x into the order of the weight's places"
    BLOCK_N, PARTS, COLUMNS, stages, warps = tiles(x, weight)
    parts = 1 if squares is None else squares.shape[1]
    zero, brain = None if weight.second == ZEROS else weight.zero, x.dtype is torch.bfloat16
    plain = x.device.type == "cpu" or x.dtype is torch.float32
    folded = folds(x)
    asm, bases = instructions(weight.bits, brain, zero)
    carries, unit = carried(weight.bits, x.dtype is not torch.float16)
    if folded:
        asm = raw_instructions(weight.bits, brain)
    even = weight.tiles % PARTS == 0 and weight.tiles * weight.planes * weight.run == K
    product[(triton.cdiv(weight.rows, BLOCK_N),)](
        x, weight.codes, weight.table, weight.factors, weight.groups_of_runs, bias, out, squares,
        rows, weight.rows, K, weight.tiles, weight.groups, weight.group_shift, *weight.factor_numbers, parts, width,
        eps,
        HALVES=weight.halves, BLOCK_N=BLOCK_N, PARTS=PARTS, ROWS=tile(rows), COLUMNS=COLUMNS, BITS=weight.bits,
        RUN=weight.run, GROUPS_PER_TILE=weight.groups_per_tile, RAGGED=weight.groups_of_runs is not None,
        SECOND=weight.second, ZERO=weight.zero, FORMAT=weight.table_format, SQUARES=tile(parts), STAGES=stages,
        AHEAD=AHEAD_BYTES, THREADS=32 * warps, EVEN=even, BIASED=bias is not None, SCALED=squares is not None,
        ASM=None if plain else asm, BASES=bases, FOLDED=folded, CARRIED=carries, UNIT=unit, **options(x),
        num_warps=warps,
    )  # fmt: skip


def folds(x: torch.Tensor) -> bool:
    """Whether zeros are taken from sums, not from codes: less work a weight, sums some bits longer; on parts of a GPU,
    whose few SMs could read faster than they compute."""
    return sms_for(x) * 2 <= whole_sms(x)


def tiles(x: torch.Tensor, weight: GroupedWeight) -> tuple[int, int, int, int, int]:
    """BLOCK_N, PARTS, COLUMNS, stages, warps, as measured (`benchmarks/gpu_quant.py --sweep`).

    Where programs are few for the SMs, more parts and warps share a tile; where they are many, two warps each. Four
    warps with more than 8 columns mean Hopper's units for whole warp groups: with minimums their sums came out wrong
    there (Triton 3.6), so single warps' units are taken. Before Ampere, and for float32, Triton has none: no part pays.
    """
    rows, generation = tile(x.shape[0]), architecture(x) // 10
    if generation < 8 or x.dtype is torch.float32:
        return 64 if rows <= 4 else 32, 1, rows, 2, 4
    shorter = max(1, RUNS[0] // weight.run)  # short runs: as many words a tile
    few = 2 * weight.halves * triton.cdiv(weight.rows, BLOCK) < 5 * sms_for(x)
    if rows <= 4:
        PARTS, warps, stages = (8, 4, 5) if few else (4, 2, 3)
    else:
        PARTS, warps, stages = (4, 4 if rows == 8 else 2, 4) if few else (2, 2, 4)
    COLUMNS = max(8, PARTS * rows)
    if COLUMNS > 8 and (generation != 9 or weight.second == MINIMUMS or weight.groups_per_tile > 1):
        warps = 2
    BLOCK_N = max(BLOCK, 64 * shorter // (PARTS * weight.halves))
    bytes_a_stage = weight.run * 2 * (PARTS * weight.halves * BLOCK_N + COLUMNS * weight.planes)
    while stages > 2 and (stages - 1) * bytes_a_stage > shared_bytes(x) * 7 // 8:
        stages -= 1
    return BLOCK_N, PARTS, COLUMNS, stages, warps
