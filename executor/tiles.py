"""Weights of a CPU device that are kept as they are stored: grouped ones in tiles of 32 outputs, or dense ones.

Knows how `kernels.grouped` wants them. Knows nothing of files or steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch

from ..kernels import grouped as kernel
from .grouped import Array, Columns, Grouped, GroupedRows

TILE = kernel.TILE
KINDS = {
    "float16": kernel.FLOAT16,
    "float32": kernel.FLOAT32,
    "uint16": kernel.BFLOAT16,
    "int8": kernel.CODES_OF_BLOCKS,
}
WORD = {
    "codes": kernel.CODES,
    "scales": kernel.SCALES,
    "minimums": kernel.MINIMUMS,
    "zeros": kernel.ZEROS,
    "block_scales": kernel.BLOCK_SCALES,
    "block_minimums": kernel.BLOCK_MINIMUMS,
}
BATCH_CODES = 1 << 20  # rewritten at a time


class Tiles:
    """Rows of `source` as `[tiles, ..., 32]`, read and rewritten some at a time; the last tile is filled up.

    `rows`: a range of them, or their numbers in any order.
    """

    def __init__(self, source: GroupedRows, rows: Columns) -> None:
        wanted = np.arange(*rows) if isinstance(rows, tuple) else rows
        self.form, self.layout, self.outputs = source.form, source.layout, len(wanted)
        count, places, groups = -(-self.outputs // TILE), len(self.layout.order), len(self.layout.ends)
        form, table = self.form, (count, groups, TILE)
        blocks = (count, form.blocks(groups), TILE)
        self.arrays = {"codes": np.zeros((count, places * form.bits // 8, TILE), np.uint8)}
        self.arrays["scales"] = np.zeros(table, form.table)
        if form.minimums:
            self.arrays["minimums"] = np.zeros(table, form.table)
        if form.zeros:
            self.arrays["zeros"] = np.zeros(table, np.uint8)
        if form.table == "int8":
            self.arrays["block_scales"] = np.zeros(blocks, np.float16)
        if form.table == "int8" and form.minimums:
            self.arrays["block_minimums"] = np.zeros(blocks, np.float16)
        on_disk = np.sort(wanted)
        places_on_disk = np.argsort(wanted, kind="stable")
        step = max(1, BATCH_CODES // max(1, places))
        while len(on_disk):
            first = int(on_disk[0])
            here = int(np.searchsorted(on_disk, first + step))
            read = source.read((first, int(on_disk[here - 1]) + 1))
            self._put(read, on_disk[:here] - first, places_on_disk[:here])
            on_disk, places_on_disk = on_disk[here:], places_on_disk[here:]

    def _put(self, read: Grouped, rows: Array, outputs: Array) -> None:
        """Those of the rows that were read, as these outputs."""
        for name, target in self.arrays.items():
            target[outputs // TILE, :, outputs % TILE] = getattr(read, name)[rows]

    @property
    def bytes(self) -> int:
        """Without a layout that matrices share."""
        return sum(array.nbytes for array in self.arrays.values()) + self.layout.bytes

    @property
    def words(self) -> list[int]:
        """What `kernels.grouped` calls a part."""
        form, words = self.form, [0] * kernel.WORDS
        words[kernel.BITS], words[kernel.OUTPUTS] = form.bits, self.outputs
        words[kernel.PLACES], words[kernel.GROUPS] = len(self.layout.order), len(self.layout.ends)
        for name, array in self.arrays.items():
            words[WORD[name]] = array.ctypes.data
        words[kernel.ENDS], words[kernel.ORDER] = self.layout.ends.ctypes.data, self.layout.order.ctypes.data
        words[kernel.ZERO], words[kernel.KIND] = form.zero, KINDS[form.table]
        words[kernel.BLOCK], words[kernel.SKIPPED] = form.block, form.skipped
        return words


def _dense_words(weight: torch.Tensor) -> list[int]:
    kind = {torch.float16: kernel.FLOAT16, torch.float32: kernel.FLOAT32, torch.bfloat16: kernel.BFLOAT16}[weight.dtype]
    words = [0] * kernel.WORDS
    words[kernel.BITS], words[kernel.OUTPUTS], words[kernel.PLACES] = 8 * weight.element_size(), *weight.shape
    words[kernel.CODES], words[kernel.KIND] = weight.data_ptr(), kind
    return words


class Parts:
    """Matrices below each other that share their inputs, each in its own format."""

    def __init__(self, parts: Sequence[Tiles | torch.Tensor]) -> None:
        self.parts = tuple(parts)
        self.table = np.array([p.words if isinstance(p, Tiles) else _dense_words(p) for p in parts], dtype=np.int64)

    @property
    def address(self) -> int:
        """Of the table that kernels take."""
        return int(self.table.ctypes.data)

    @property
    def bytes(self) -> int:
        return sum(p.bytes if isinstance(p, Tiles) else p.numel() * p.element_size() for p in self.parts)

    @cached_property
    def scratch_floats(self) -> int:
        """What a lane needs to compute a product."""
        return kernel.scratch_floats(self.table)
