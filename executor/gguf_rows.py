"""Some columns of a quantised GGUF tensor, row by row in the grouped form.

Knows which groups the columns meet. Knows nothing of blocks (see `gguf_groups`).
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from gguf.constants import GGML_QUANT_SIZES

from ..planner.plan import Range, size
from .gguf_groups import FORMS, take_apart
from .grouped import Grouped, Layout, packed
from .stored import Stored, join_halves, read_raw


class GgufRows:
    """Columns of the tensor `stored` in the file open as `fd`; `name` is for errors."""

    def __init__(self, fd: int, stored: Stored, columns: Range, name: str) -> None:
        self.fd, self.stored, self.columns, self.name = fd, stored, columns, name
        values, self.block_bytes = GGML_QUANT_SIZES[stored.type]
        form, self.group, _ = FORMS[stored.type]
        self.covering = (columns[0] // values * values, -(-columns[1] // values) * values)
        self.layout, groups = Layout.regular(columns, self.group, form.bits)
        self.groups = np.array(groups, int) - self.covering[0] // self.group
        self.form = replace(form, skipped=int(self.groups[0]) if form.block > 1 and len(groups) else 0)

    def read(self, rows: Range) -> Grouped:
        """Those rows; ValueError in one line where the file ends early or holds scales that are no numbers."""
        try:
            return self._read(rows)
        except ValueError as error:
            raise ValueError(f"{self.stored.path}: tensor {self.name!r} {error}") from None

    def _read(self, rows: Range) -> Grouped:
        values, block_bytes = GGML_QUANT_SIZES[self.stored.type]
        raw = np.empty((size(rows), size(self.covering) // values * block_bytes), np.uint8)
        read_raw(self.fd, self.stored, rows, self.covering, raw)
        if self.stored.head_rows:
            join_halves(raw, self.stored.head_rows)
        apart, begin = take_apart(raw, self.stored.type), self.columns[0] - self.covering[0]
        codes = packed(apart.codes[:, begin : begin + size(self.columns)], self.layout, self.form.bits)
        scales, minimums = (
            apart.scales[:, self.groups],
            None if apart.minimums is None else apart.minimums[:, self.groups],
        )
        tables = (scales, minimums, apart.block_scales, apart.block_minimums)
        if not all(np.isfinite(table).all() for table in tables if table is not None):
            raise ValueError("holds NaN or infinite scales; download it again")
        blocks = (apart.block_scales, apart.block_minimums)
        return Grouped(self.form, self.layout, codes, scales, minimums, None, *blocks)
