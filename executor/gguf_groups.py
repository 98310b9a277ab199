"""GGUF's blocks of quantised weights as codes and scales, nothing rounded.

Knows block layouts, as `gguf.quants` defines them. Knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from gguf.constants import GGML_QUANT_SIZES
from gguf.constants import GGMLQuantizationType as Q

from .grouped import Form

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Apart:
    """Rows taken apart: codes [rows, values], scales and minimums [rows, groups], those of blocks [rows, blocks]."""

    codes: Array
    scales: Array
    minimums: Array | None = None
    block_scales: Array | None = None
    block_minimums: Array | None = None

    def by_rows(self, rows: int) -> Apart:
        each = (None if part is None else part.reshape(rows, -1) for part in vars(self).values())
        return Apart(*each)  # type: ignore[arg-type]


def _halves(raw: Array) -> Array:
    """uint8 [blocks, 2 n] as float16 [blocks, n]."""
    return np.ascontiguousarray(raw).view(np.float16)


def _nibbles(raw: Array) -> Array:
    """uint8 [blocks, 16] -> [blocks, 32]: the low halves of all bytes, then the high halves."""
    return np.concatenate([raw & 15, raw >> 4], axis=1)


def _fifth_bits(raw: Array) -> Array:
    """uint8 [blocks, 4] -> [blocks, 32], 16 where the bit is set."""
    return np.unpackbits(raw, axis=1, bitorder="little") << 4


def _q4_0(blocks: Array) -> Apart:
    return Apart(_nibbles(blocks[:, 2:]), _halves(blocks[:, :2]))


def _q4_1(blocks: Array) -> Apart:
    return Apart(_nibbles(blocks[:, 4:]), _halves(blocks[:, :2]), _halves(blocks[:, 2:4]))


def _q5_0(blocks: Array) -> Apart:
    codes = _nibbles(blocks[:, 6:]) | _fifth_bits(blocks[:, 2:6])
    return Apart(codes + np.uint8(112), _halves(blocks[:, :2]))


def _q5_1(blocks: Array) -> Apart:
    codes = _nibbles(blocks[:, 8:]) | _fifth_bits(blocks[:, 4:8])
    return Apart(codes + np.uint8(112), _halves(blocks[:, :2]), _halves(blocks[:, 2:4]))


def _q8_0(blocks: Array) -> Apart:
    return Apart(blocks[:, 2:] ^ 128, _halves(blocks[:, :2]))


def _six_bits(raw: Array) -> tuple[Array, Array]:
    """Scales and minimums of a block's eight groups: uint8 [blocks, 12] -> two of int8 [blocks, 8]."""
    first, second, rest = raw[:, :4], raw[:, 4:8], raw[:, 8:]
    scales = np.concatenate([first & 63, rest & 15 | first >> 2 & 48], axis=1)
    minimums = np.concatenate([second & 63, rest >> 4 | second >> 2 & 48], axis=1)
    return scales.view(np.int8), minimums.view(np.int8)


def _pairs_of_32(raw: Array) -> Array:
    """uint8 [blocks, 128] -> [blocks, 256]: of each 32 bytes the low halves, then the high halves."""
    lines = raw.reshape(len(raw), 4, 1, 32)
    return np.concatenate([lines & 15, lines >> 4], axis=2).reshape(len(raw), 256)


def _q4_k(blocks: Array) -> Apart:
    scales, minimums = _six_bits(blocks[:, 4:16])
    return Apart(_pairs_of_32(blocks[:, 16:]), scales, minimums, _halves(blocks[:, :2]), -_halves(blocks[:, 2:4]))


def _q5_k(blocks: Array) -> Apart:
    scales, minimums = _six_bits(blocks[:, 4:16])
    bits = np.unpackbits(blocks[:, 16:48, None], axis=2, bitorder="little").swapaxes(1, 2).reshape(len(blocks), 256)
    codes = (_pairs_of_32(blocks[:, 48:]) | bits << 4) + np.uint8(112)
    return Apart(codes, scales, minimums, _halves(blocks[:, :2]), -_halves(blocks[:, 2:4]))


def _q6_k(blocks: Array) -> Apart:
    count = len(blocks)
    halves, quarters = blocks[:, :128].reshape(count, 2, 1, 64), blocks[:, 128:192].reshape(count, 2, 1, 32)
    low = np.concatenate([halves & 15, halves >> 4], axis=2).reshape(count, 256)
    high = np.concatenate([quarters >> shift & 3 for shift in (0, 2, 4, 6)], axis=2).reshape(count, 256)
    codes = (low | high << 4) + np.uint8(96)
    return Apart(codes, np.ascontiguousarray(blocks[:, 192:208]).view(np.int8), None, _halves(blocks[:, 208:]))


FORMS: dict[Q, tuple[Form, int, Callable[[Array], Apart]]] = {
    Q.Q4_0: (Form(4, zero=8), 32, _q4_0),
    Q.Q4_1: (Form(4, minimums=True), 32, _q4_1),
    Q.Q5_0: (Form(8, zero=128), 32, _q5_0),
    Q.Q5_1: (Form(8, zero=112, minimums=True), 32, _q5_1),
    Q.Q8_0: (Form(8, zero=128), 32, _q8_0),
    Q.Q4_K: (Form(4, minimums=True, table="int8", block=8), 32, _q4_k),
    Q.Q5_K: (Form(8, zero=112, minimums=True, table="int8", block=8), 32, _q5_k),
    Q.Q6_K: (Form(8, zero=128, table="int8", block=16), 16, _q6_k),
}
"""By type: its form, inputs of a group, and how its blocks are taken apart. Codes of 5 and 6 bits lie around 128."""


def take_apart(raw: Array, kind: Q) -> Apart:
    """raw: uint8 [rows, bytes]."""
    _, block_bytes = GGML_QUANT_SIZES[kind]
    return FORMS[kind][2](raw.reshape(-1, block_bytes)).by_rows(len(raw))
