"""GGUF's blocks of quantised weights as codes and scales, nothing rounded.

Knows block layouts, as `gguf.quants` defines them. Knows nothing of files.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from gguf.constants import GGML_QUANT_SIZES
from gguf.constants import GGMLQuantizationType as Q

from .grouped import Form

Array = np.ndarray[Any, Any]
Tables = tuple[Array, Array, Array | None]  # codes [blocks, values], scales [blocks, groups], minimums


def _halves(raw: Array) -> Array:
    """uint8 [blocks, 2 n] as float16 [blocks, n]."""
    return np.ascontiguousarray(raw).view(np.float16)


def _nibbles(raw: Array) -> Array:
    """uint8 [blocks, 16] -> [blocks, 32]: the low halves of all bytes, then the high halves."""
    return np.concatenate([raw & 15, raw >> 4], axis=1)


def _q4_0(blocks: Array) -> Tables:
    return _nibbles(blocks[:, 2:]), _halves(blocks[:, :2]), None


def _q4_1(blocks: Array) -> Tables:
    return _nibbles(blocks[:, 4:]), _halves(blocks[:, :2]), _halves(blocks[:, 2:4])


def _q8_0(blocks: Array) -> Tables:
    return blocks[:, 2:] ^ 128, _halves(blocks[:, :2]), None


FORMS: dict[Q, tuple[Form, int, Callable[[Array], Tables]]] = {
    Q.Q4_0: (Form(4, zero=8), 32, _q4_0),
    Q.Q4_1: (Form(4, minimums=True), 32, _q4_1),
    Q.Q8_0: (Form(8, zero=128), 32, _q8_0),
}
"""By type: its form, inputs of a group, and how its blocks are taken apart."""


def take_apart(raw: Array, kind: Q) -> Tables:
    """raw: uint8 [rows, bytes] -> codes [rows, values], scales and minimums [rows, groups]."""
    _, block_bytes = GGML_QUANT_SIZES[kind]
    parts = FORMS[kind][2](raw.reshape(-1, block_bytes))
    codes, scales, minimums = (None if part is None else part.reshape(len(raw), -1) for part in parts)
    assert codes is not None
    assert scales is not None
    return codes, scales, minimums
