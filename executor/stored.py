"""One tensor as it lies in a file, and reading a slice of it.

Knows offsets, blocks and bytes. Knows nothing of names or of what a tensor is for.
Reads with `preadv` rather than through a memory map: mapped pages would count as this process's memory, and a file
that shrinks meanwhile would kill it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from ..planner.plan import Range, size
from .dequantise import decode

BATCH_VALUES = 1 << 18  # decoded at a time: fits in cache, bounds memory beyond the result

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Stored:
    """`shape` is [rows, columns] or [columns], rows contiguous from `offset` on.

    `head_rows`: rows per head of a tensor whose heads have their two halves interleaved (llama.cpp's q and k), else 0.
    """

    path: Path
    offset: int
    shape: tuple[int, ...]
    type: GGMLQuantizationType
    head_rows: int = 0

    @property
    def paths(self) -> set[Path]:
        return {self.path}

    @property
    def row_bytes(self) -> int:
        values, block_bytes = GGML_QUANT_SIZES[self.type]
        return self.shape[-1] // values * block_bytes

    @property
    def bytes(self) -> int:
        return prod(self.shape[:-1]) * self.row_bytes


def read_slice(fd: int, stored: Stored, rows: Range, columns: Range) -> Array:
    """Float32 [rows, columns] of a matrix (a vector is one row); ValueError if the file ends early or holds a NaN."""
    result = np.empty((size(rows), size(columns)), np.float32)
    values, block_bytes = GGML_QUANT_SIZES[stored.type]
    covering = (columns[0] // values * values, -(-columns[1] // values) * values)
    trimmed = slice(columns[0] - covering[0], columns[1] - covering[0])
    for begin, end in _batches(rows, size(covering)):
        out = result[begin - rows[0] : end - rows[0]]
        whole = out if covering == columns else np.empty((end - begin, size(covering)), np.float32)
        raw = np.empty((end - begin, size(covering) // values * block_bytes), np.uint8)
        read_raw(fd, stored, (begin, end), covering, raw)
        decode(raw, stored.type, whole)
        if whole is not out:
            out[:] = whole[:, trimmed]
        if not np.isfinite(out).all():
            raise ValueError("holds NaN or infinite weights")
    return result


def _batches(rows: Range, columns: int) -> Iterator[Range]:
    step = max(1, BATCH_VALUES // max(1, columns))
    for begin in range(*rows, step):
        yield begin, min(begin + step, rows[1])


def read_raw(fd: int, stored: Stored, rows: Range, columns: Range, raw: Array) -> None:
    """Stored bytes of whole blocks into `raw`: uint8 [rows, bytes], contiguous. ValueError if the file is too short."""
    values, block_bytes = GGML_QUANT_SIZES[stored.type]
    begin = stored.offset + rows[0] * stored.row_bytes + columns[0] // values * block_bytes
    if raw.shape[1] == stored.row_bytes:
        _fill(fd, raw.reshape(-1), begin)
    else:
        for number, row in enumerate(raw):
            _fill(fd, row, begin + number * stored.row_bytes)


def _fill(fd: int, buffer: Array, offset: int) -> None:
    if os.preadv(fd, [buffer.data], offset) != buffer.nbytes:
        raise ValueError("ends before its last row; the file was truncated")


def join_halves(values: Array, head_rows: int) -> None:
    """Undoes in place llama.cpp's interleaving of the halves of each head (`LlamaModel.permute` in its converter).

    `values`: whole heads of `head_rows` rows, [heads * head_rows, columns] or [heads * head_rows].
    """
    for head in values.reshape(-1, head_rows // 2, 2, *values.shape[1:]):
        head[:] = head.swapaxes(0, 1).reshape(head.shape)
