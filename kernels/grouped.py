"""y = x @ w^T for grouped-affine weights, `w = (code - zero) * scale + minimum`, on tiles of 32 outputs.

A tile's codes are stored input by input, 32 outputs beside each other: uint8 `[tiles, places / 2, 32]` for 4 bits (the
low half is the even place), `[tiles, places, 32]` for 8. Tables of a group lie alike: `[tiles, groups, 32]`. A place is
a position along the input: groups follow one another, each ends at `ends[g]`, on an even place for 4 bits; `order`
names the input of each place, or -1 where it is filled up. So groups of any length cost the same, and an order other
than the inputs' own costs one gather of x a product.

`part` is a matrix as the int64 words of `describe`; 8-bit codes are taken less 128, which keeps sums small.
"""

from __future__ import annotations

import ctypes

import numpy as np
import torch
from numba import carray

from .bfloat16 import widen
from .half import half
from .jit import f32, i8, i32, kernel, u8, u16
from .linear import linear_bf16, linear_f16, linear_f32
from .tile_products import TILE, TOKENS, add_group_4bit, add_group_8bit, add_groups_4bit, add_groups_8bit

# fmt: off
(
    BITS, OUTPUTS, PLACES, GROUPS, CODES, SCALES, MINIMUMS, ZEROS, ZERO, ENDS, ORDER, KIND, BLOCK_SCALES,
    BLOCK_MINIMUMS, BLOCK, SKIPPED, WORDS,
) = range(17)
# fmt: on
FLOAT16, FLOAT32, BFLOAT16, CODES_OF_BLOCKS = range(4)


MOST_ROWS = 64  # of a product row by row; for more, writing the weights out pays
BLOCK_FLOATS = 1 << 18  # of weights written out at a time: they stay in a cache


def scratch_floats(parts: np.ndarray) -> int:
    """Of a lane that computes products with `parts`, int64 [parts, WORDS]."""
    quantised = parts[parts[:, BITS] < 16]
    sizes = TOKENS * (quantised[:, PLACES] + quantised[:, GROUPS]) + 2 * TILE * quantised[:, GROUPS]
    return TOKENS * TILE + int(sizes.max(initial=0))


def _dense_rows_of(part: np.ndarray, begin: int, end: int) -> torch.Tensor:
    """Rows of a dense part in float32."""
    wide, each = int(part[PLACES]), int(part[BITS]) // 8
    raw = (ctypes.c_uint8 * ((end - begin) * wide * each)).from_address(int(part[CODES]) + begin * wide * each)
    dtype = {FLOAT16: torch.float16, FLOAT32: torch.float32, BFLOAT16: torch.bfloat16}[int(part[KIND])]
    return torch.frombuffer(raw, dtype=dtype).view(end - begin, wide).float()


def reference(x: torch.Tensor, parts: np.ndarray, bias: torch.Tensor | None, out: torch.Tensor) -> None:
    """x: [rows, in] float32, parts: int64 [parts, WORDS], bias: [out] float32 or None, out: [rows, out] float32.

    Weights are written out in float32, some tiles at a time, for torch's matrix product.
    """
    inputs, at = x.shape[1], 0
    step = max(1, BLOCK_FLOATS // (TILE * max(inputs, 1)))
    block = torch.zeros(inputs, TILE * step)
    for part in parts:
        outputs = int(part[OUTPUTS])
        for begin in range(0, -(-outputs // TILE), step):
            first, last = begin * TILE, min((begin + step) * TILE, outputs)
            if part[BITS] >= 16:
                weights = _dense_rows_of(part, first, last).t()
            else:
                weights_grouped(part, begin, -(-last // TILE), block.numpy())
                weights = block[:, : last - first]
            out[:, at + first : at + last] = torch.mm(x, weights)
        at += outputs
    if bias is not None:
        out += bias


@kernel
def _table(part, which, tile, out):  # type: ignore[no-untyped-def]
    """out: [groups * 32] of the tile's SCALES or MINIMUMS."""
    address, at = part[which], tile * out.size
    if part[KIND] == CODES_OF_BLOCKS:
        _blocks(part, which, tile, out)
    elif part[KIND] == FLOAT32:
        values = carray(f32(address + 4 * at), (out.size,))
        for j in range(out.size):
            out[j] = values[j]
    else:
        words = carray(u16(address + 2 * at), (out.size,))
        if part[KIND] == FLOAT16:
            for j in range(out.size):
                out[j] = half(words[j])
        else:
            for j in range(out.size):
                out[j] = widen(words[j])


@kernel
def _blocks(part, which, tile, out):  # type: ignore[no-untyped-def]
    """Codes of groups times the float16 of their block."""
    blocks = (part[GROUPS] + part[SKIPPED] + part[BLOCK] - 1) // part[BLOCK]
    whole = part[BLOCK_SCALES] if which == SCALES else part[BLOCK_MINIMUMS]
    for g in range(part[GROUPS]):
        block = tile * blocks + (g + part[SKIPPED]) // part[BLOCK]
        words = carray(u16(whole + 2 * TILE * block), (TILE,))
        codes = carray(i8(part[which] + tile * out.size + TILE * g), (TILE,))
        for j in range(TILE):
            out[g * TILE + j] = half(words[j]) * np.float32(codes[j])


@kernel
def _affine(part, tile, scales, offsets):  # type: ignore[no-untyped-def]
    """scales, offsets: [groups * 32] of a tile: w = code * scale + offset, 8-bit codes less 128."""
    _table(part, SCALES, tile, scales)
    centre = np.float32(128 if part[BITS] == 8 else 0) - np.float32(part[ZERO])
    if part[ZEROS]:
        zeros = carray(u8(part[ZEROS] + tile * scales.size), (scales.size,))
        for j in range(scales.size):
            offsets[j] = (centre - np.float32(zeros[j])) * scales[j]
        return
    if part[MINIMUMS]:
        _table(part, MINIMUMS, tile, offsets)
    else:
        offsets[:] = 0
    if centre != 0:
        for j in range(scales.size):
            offsets[j] += centre * scales[j]


@kernel
def _codes_of(part, tile):  # type: ignore[no-untyped-def]
    """Address of a tile's codes."""
    return part[CODES] + tile * part[PLACES] * part[BITS] // 8 * TILE


@kernel
def gather(part, x, places, sums):  # type: ignore[no-untyped-def]
    """places: x in the order of the weights; sums: of x over each group."""
    order, ends = carray(i32(part[ORDER]), (part[PLACES],)), carray(i32(part[ENDS]), (part[GROUPS],))
    for p in range(part[PLACES]):
        places[p] = x[order[p]] if order[p] >= 0 else np.float32(0)
    begin = 0
    for g in range(part[GROUPS]):
        total = np.float32(0)
        for p in range(begin, ends[g]):
            total += places[p]
        sums[g], begin = total, ends[g]


@kernel
def linear_grouped(part, places, sums, bias, out, begin, end, tables, totals):  # type: ignore[no-untyped-def]
    """Tiles [begin, end) of the product of one token, or of up to four, x as `gather` gives it.

    places: [1 or 4, places]; sums: [1 or 4, groups]; bias: [outputs] or empty; out: [tokens, outputs];
    tables: [2, groups * 32]; totals: [4, 32].
    """
    groups, several = part[GROUPS], places.shape[0] > 1
    ends, x, x_sums = carray(i32(part[ENDS]), (groups,)), places.ctypes.data, sums.ctypes.data
    stride, sums_stride, to = 4 * part[PLACES], 4 * groups, totals.ctypes.data
    for tile in range(begin, end):
        codes, place = _codes_of(part, tile), 0
        _affine(part, tile, tables[0], tables[1])
        totals[:] = 0
        for g in range(groups):
            wide, scale = ends[g] - place, tables.ctypes.data + 4 * TILE * g
            offset, here, x_sum = scale + 4 * TILE * groups, x + 4 * place, x_sums + 4 * g
            if part[BITS] == 4:
                rows = wide // 2
                if several:
                    add_groups_4bit(codes, here, rows, scale, offset, x_sum, to, stride, sums_stride)
                else:
                    add_group_4bit(codes, here, rows, scale, offset, x_sum, to, stride, sums_stride)
            else:
                rows = wide
                if several:
                    add_groups_8bit(codes, here, rows, scale, offset, x_sum, to, stride, sums_stride)
                else:
                    add_group_8bit(codes, here, rows, scale, offset, x_sum, to, stride, sums_stride)
            codes, place = codes + rows * TILE, ends[g]
        row = tile * TILE
        for t in range(out.shape[0]):
            for j in range(min(TILE, part[OUTPUTS] - row)):
                out[t, row + j] = totals[t, j] + (bias[row + j] if bias.size else np.float32(0))


@kernel
def weights_grouped(part, begin, end, out):  # type: ignore[no-untyped-def]
    """Tiles [begin, end) as weights. out: [inputs, 32 * (end - begin)]."""
    order, ends = carray(i32(part[ORDER]), (part[PLACES],)), carray(i32(part[ENDS]), (part[GROUPS],))
    tables = np.zeros((2, part[GROUPS] * TILE), np.float32)
    for tile in range(begin, end):
        first, place, column = _codes_of(part, tile), 0, (tile - begin) * TILE
        _affine(part, tile, tables[0], tables[1])
        for g in range(part[GROUPS]):
            scale, offset = tables[0, g * TILE : (g + 1) * TILE], tables[1, g * TILE : (g + 1) * TILE]
            for p in range(place, ends[g]):
                if order[p] >= 0:
                    _weight_row(part, first, p, scale, offset, out[order[p], column : column + TILE])
            place = ends[g]


@kernel
def _weight_row(part, codes, place, scale, offset, out):  # type: ignore[no-untyped-def]
    """out[32]: the weights of one place of a tile."""
    if part[BITS] == 4:
        row, shift = carray(u8(codes + place // 2 * TILE), (TILE,)), np.uint8(place % 2 * 4)
        for j in range(TILE):
            out[j] = np.float32((row[j] >> shift) & np.uint8(15)) * scale[j] + offset[j]
    else:
        row = carray(u8(codes + place * TILE), (TILE,))
        for j in range(TILE):
            out[j] = np.float32(np.int32(row[j]) - np.int32(128)) * scale[j] + offset[j]


@kernel
def _dense(part, at):  # type: ignore[no-untyped-def]
    """One value of a dense part."""
    if part[KIND] == FLOAT32:
        return carray(f32(part[CODES] + 4 * at), (1,))[0]
    word = carray(u16(part[CODES] + 2 * at), (1,))[0]
    return half(word) if part[KIND] == FLOAT16 else widen(word)


@kernel
def embed_part(part, row, out):  # type: ignore[no-untyped-def]
    """One row of a part, in float32. out: [in]."""
    if part[BITS] >= 16:
        for k in range(out.size):
            out[k] = _dense(part, row * part[PLACES] + k)
        return
    order, ends = carray(i32(part[ORDER]), (part[PLACES],)), carray(i32(part[ENDS]), (part[GROUPS],))
    tile, lane, place = row // TILE, row % TILE, 0
    tables = np.zeros((2, part[GROUPS] * TILE), np.float32)
    _affine(part, tile, tables[0], tables[1])
    codes = carray(u8(_codes_of(part, tile)), (part[PLACES] * part[BITS] // 8 * TILE,))
    for g in range(part[GROUPS]):
        for p in range(place, ends[g]):
            if part[BITS] == 4:
                code = np.int32(codes[p // 2 * TILE + lane] >> np.uint8(p % 2 * 4)) & 15
            else:
                code = np.int32(codes[p * TILE + lane]) - 128
            if order[p] >= 0:
                out[order[p]] = np.float32(code) * tables[0, g * TILE + lane] + tables[1, g * TILE + lane]
        place = ends[g]


@kernel
def _dense_rows(part, x, bias, out, begin, end):  # type: ignore[no-untyped-def]
    shape = (part[OUTPUTS], part[PLACES])
    for t in range(out.shape[0]):
        if part[KIND] == FLOAT32:
            linear_f32(x[t], carray(f32(part[CODES]), shape), bias, out[t], begin, end)
        elif part[KIND] == FLOAT16:
            linear_f16(x[t], carray(u16(part[CODES]), shape), bias, out[t], begin, end)
        else:
            linear_bf16(x[t], carray(u16(part[CODES]), shape), bias, out[t], begin, end)


@kernel
def linear_parts(x, parts, bias, out, begin, end, scratch):  # type: ignore[no-untyped-def]
    """Tiles [begin, end), counted through all parts, of the products of up to four tokens. x: [tokens, in]; bias: [out]
    or empty; out: [tokens, out]; scratch: `scratch_floats` of them.
    """
    tokens, before, at, gathered = x.shape[0], 0, 0, -1
    taken = 1 if tokens == 1 else TOKENS
    for p in range(parts.shape[0]):
        part = parts[p]
        outputs, places, groups = part[OUTPUTS], part[PLACES], part[GROUPS]
        tiles = (outputs + TILE - 1) // TILE
        first, last = max(begin - before, 0), min(end - before, tiles)
        y, b = out[:, at : at + outputs], bias[at : at + outputs]
        if first < last and part[BITS] >= 16:
            _dense_rows(part, x, b, y, first * TILE, min(last * TILE, outputs))
        elif first < last:
            wide, tables = places + groups, scratch[TOKENS * TILE :]
            totals, gathers = scratch[: TOKENS * TILE], tables[2 * groups * TILE :]
            xs = gathers[: taken * places].reshape(taken, places)
            sums = gathers[taken * places : taken * wide].reshape(taken, groups)
            if gathered < 0 or parts[gathered, ORDER] != part[ORDER]:
                for t in range(taken):
                    gather(part, x[min(t, tokens - 1)], xs[t], sums[t])
                gathered = p
            both = tables[: 2 * groups * TILE].reshape(2, groups * TILE)
            linear_grouped(part, xs, sums, b, y, first, last, both, totals.reshape(TOKENS, TILE))
        before, at = before + tiles, at + outputs
