"""Quantised weights in the one form that is computed with: codes in groups along the input, each with its own scale.

`w = (code - zero) * scale + minimum`. Knows the form and how inputs lie in it. Knows neither files nor devices.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any, Literal, Protocol

import numpy as np

from ..planner.plan import Range

Array = np.ndarray[Any, Any]
Columns = Range | Array
"""A range of inputs, or their numbers in any order."""


@dataclass(frozen=True)
class Form:
    """What all groups of a matrix have in common. `zero` is taken off every code, beside a group's own zero if any.

    `table`: of scales and minimums, as numpy has it; uint16 for the bits of bfloat16, int8 for codes that count with a
    float16 of `block` groups each. `skipped`: groups of the first block that are not here.
    """

    bits: int
    zero: int = 0
    minimums: bool = False
    zeros: bool = False
    table: Literal["float16", "float32", "uint16", "int8"] = "float16"
    block: int = 1
    skipped: int = 0

    def blocks(self, groups: int) -> int:
        """That so many groups lie in."""
        return -(-(groups + self.skipped) // self.block)


@dataclass(frozen=True)
class Layout:
    """Where inputs stand: `ends` int32 [groups], the place after each group; `order` int32 [places], the input of each
    place, -1 where a place is filled up. Groups of 4-bit codes begin and end on even places, so that no byte is cut.
    `shared`: by all matrices that are cut alike.
    """

    ends: Array
    order: Array
    shared: bool = False

    @property
    def bytes(self) -> int:
        """Of its own."""
        return 0 if self.shared else self.ends.nbytes + self.order.nbytes

    @staticmethod
    def of(group_of_input: Array, bits: int) -> tuple[Layout, Array]:
        """Inputs sorted by group, in their own order within each; and the groups met, ascending."""
        groups, counts = np.unique(group_of_input, return_counts=True)
        rounded = counts + (counts % 2 if bits == 4 else 0)
        ends = np.cumsum(rounded)
        order = np.full(ends[-1] if len(ends) else 0, -1, np.int32)
        within = np.concatenate([np.arange(n) for n in counts]) if len(counts) else np.zeros(0, int)
        order[np.repeat(ends - rounded, counts) + within] = np.argsort(group_of_input, kind="stable")
        return Layout(ends.astype(np.int32), order), groups

    @staticmethod
    @cache
    def regular(columns: Range, group: int, bits: int) -> tuple[Layout, tuple[int, ...]]:
        """As `of`, of columns whose groups follow one another; made once for all matrices that are cut alike."""
        layout, groups = Layout.of(np.arange(*columns) // group, bits)
        return replace(layout, shared=True), tuple(map(int, groups))

    def placed(self, codes: Array) -> Array:
        """codes [rows, inputs] as [rows, places], 0 where filled up."""
        if len(self.order) == codes.shape[1] and (self.order == np.arange(len(self.order))).all():
            return codes
        placed = codes[:, np.maximum(self.order, 0)]
        placed[:, self.order < 0] = 0
        return placed


@dataclass(frozen=True)
class Grouped:
    """Rows of a matrix. codes: uint8 [out, places], for 4 bits [out, places / 2], the even place in the low half.

    scales, minimums: [out, groups] of the form's `table`; zeros: uint8 [out, groups]. block_scales, block_minimums:
    float16 [out, blocks], of a table of int8.
    """

    form: Form
    layout: Layout
    codes: Array
    scales: Array
    minimums: Array | None = None
    zeros: Array | None = None
    block_scales: Array | None = None
    block_minimums: Array | None = None


class GroupedRows(Protocol):
    """Some columns of a matrix on disk: what is known of them, and any of their rows."""

    form: Form
    layout: Layout

    def read(self, rows: Range) -> Grouped:
        """Those rows, in their order on disk."""
        ...


def packed(codes: Array, layout: Layout, bits: int) -> Array:
    """codes: uint8 [rows, inputs] -> as `Grouped` has them."""
    placed = layout.placed(codes)
    return placed[:, 0::2] | placed[:, 1::2] << 4 if bits == 4 else placed


def floats(rows: Grouped, columns: int) -> Array:
    """What the codes mean, in the order of the inputs: float32 [rows, columns]. Not for tables of int8."""
    form, layout = rows.form, rows.layout
    assert form.table != "int8", form
    codes = rows.codes
    if form.bits == 4:
        codes = np.stack([codes & 15, codes >> 4], axis=2).reshape(len(codes), -1)
    widths = np.diff(layout.ends, prepend=0)
    zeros = form.zero if rows.zeros is None else np.repeat(rows.zeros, widths, axis=1).astype(np.float32)
    values = (codes - np.float32(0) - zeros) * np.repeat(_as_floats(rows.scales), widths, axis=1)
    if rows.minimums is not None:
        values += np.repeat(_as_floats(rows.minimums), widths, axis=1)
    result = np.empty((len(codes), columns), np.float32)
    result[:, layout.order[layout.order >= 0]] = values[:, layout.order >= 0]
    return result


def _as_floats(table: Array) -> Array:
    if table.dtype == np.uint16:
        return (table.astype(np.uint32) << 16).view(np.float32)
    return table.astype(np.float32)
