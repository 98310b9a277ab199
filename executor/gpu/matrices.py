"""Matrices of a GPU device that stay in the formats of their checkpoint: made while read, then multiplied with.

Knows how the grouped form (`executor.grouped`) becomes that of the kernels, and which matrices one kernel can take at
once. Knows neither files nor steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch

from ...kernels.gpu import (
    embed_quant,
    gate_up_quant,
    grouped,
    linear,
    linear_quant,
    products,
    products_quant,
    reorder,
    swiglu,
)
from ...kernels.gpu.linear import ROWS as FEW_ROWS
from ..grouped import Array, Columns, Grouped, GroupedRows
from ..weights import Shard

BATCH_CODES = 1 << 24  # brought to the GPU and rewritten at a time
READ_CODES = 1 << 20  # read at a time
WRITTEN_BYTES = 64 * 2**20  # for matrices that products of many rows write out as floats, a part at a time


@dataclass(frozen=True)
class Matrix:
    """`weight`: dense `[out, in]`, or grouped-affine, with the input of each of its places, -1 for none; None for all
    inputs in their own order.
    """

    weight: torch.Tensor | grouped.GroupedWeight
    order: torch.Tensor | None = None

    @property
    def outputs(self) -> int:
        if isinstance(self.weight, torch.Tensor):
            return self.weight.shape[0]
        return self.weight.rows * self.weight.halves

    @property
    def bytes(self) -> int:
        return self.weight.nbytes + (0 if self.order is None else self.order.nbytes)


@dataclass(frozen=True)
class Matrices:
    """Below each other, with the same inputs."""

    each: tuple[Matrix, ...]

    @property
    def bytes(self) -> int:
        return sum(matrix.bytes for matrix in self.each)


class Scratch:
    """What products with quantised matrices need beside inputs and outputs: for passes of up to `rows` rows."""

    def __init__(self, shards: Iterable[Shard], rows: int, form: torch.dtype, place: torch.device) -> None:
        several = [s.matrices.each for s in shards if isinstance(s.matrices, Matrices)]
        each = [matrix for matrices in several for matrix in matrices]
        ordered = [m.weight.places for m in each if m.order is not None and not isinstance(m.weight, torch.Tensor)]
        apart = [matrix.outputs for matrices in several if len(matrices) > 1 for matrix in matrices]
        many = each if rows > FEW_ROWS else []
        written = [written_floats(m.weight, form) for m in many if not isinstance(m.weight, torch.Tensor)]
        counts = rows * max(ordered, default=0), rows * max(apart, default=0), max(written, default=0)
        self.placed, self.outputs, self.written = (torch.zeros(n, dtype=form, device=place) for n in counts)

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        return self.placed, self.outputs, self.written

    def input(self, x: torch.Tensor, matrix: Matrix) -> torch.Tensor:
        """x in the order of the matrix's places."""
        if matrix.order is None:
            return x
        rows, places = len(x), len(matrix.order)
        placed = self.placed[: rows * places].view(rows, places)
        reorder.reordered(x, matrix.order, placed)
        return placed

    def output(self, out: torch.Tensor) -> torch.Tensor:
        """Where a kernel can write what belongs to `out`, some columns of several rows."""
        if out.is_contiguous():
            return out
        assert out.dtype is self.outputs.dtype, "only outputs in the format of activations have several matrices"
        rows, wide = out.shape
        return self.outputs[: rows * wide].view(rows, wide)


def written_floats(weight: grouped.GroupedWeight, form: torch.dtype) -> int:
    """That a matrix takes which products of many rows write out: whole blocks, as many as there is room for."""
    block = grouped.BLOCK * weight.places
    return max(1, min(weight.blocks, WRITTEN_BYTES // form.itemsize // block)) * block


def multiply(
    matrices: Matrices,
    x: torch.Tensor,
    bias: torch.Tensor | None,
    out: torch.Tensor,
    scratch: Scratch,
    squares: torch.Tensor | None = None,
    width: int = 1,
    eps: float = 0.0,
) -> None:
    """As `linear.linear`, any rows; those of more than FEW_ROWS without `squares`."""
    at, several = 0, len(matrices.each) > 1
    for matrix in matrices.each:
        some = slice(at, at := at + matrix.outputs)
        target, part = (out[:, some] if several else out), None if bias is None else bias[some]
        written = scratch.output(target)
        _multiply(matrix, x, part, written, scratch, (squares, width, eps))
        if written is not target:
            target.copy_(written)


def _multiply(
    matrix: Matrix,
    x: torch.Tensor,
    bias: torch.Tensor | None,
    out: torch.Tensor,
    scratch: Scratch,
    norms: tuple[torch.Tensor | None, int, float],
) -> None:
    weight, few = matrix.weight, len(x) <= FEW_ROWS
    if isinstance(weight, torch.Tensor):
        if few:
            linear.linear(x, weight, bias, out, *norms)
        else:
            products.many_rows(x, weight, bias, out)
    elif few:
        linear_quant.linear(scratch.input(x, matrix), weight, bias, out, *norms)
    else:
        products_quant.many_rows(scratch.input(x, matrix), weight, bias, out, scratch.written)


def gate_up(
    matrices: Matrices,
    x: torch.Tensor,
    bias: torch.Tensor | None,
    both: torch.Tensor,
    out: torch.Tensor,
    scratch: Scratch,
    squares: torch.Tensor | None = None,
    width: int = 1,
    eps: float = 0.0,
) -> None:
    """silu(x @ gate^T) * (x @ up^T): [rows, N] to `out`; `both`: [rows, 2 N] for them side by side."""
    matrix = matrices.each[0]
    if len(x) <= FEW_ROWS and isinstance(matrix.weight, grouped.GroupedWeight) and matrix.weight.halves == 2:
        gate_up_quant.gate_up(scratch.input(x, matrix), matrix.weight, bias, out, squares, width, eps)
        return
    multiply(matrices, x, bias, both, scratch, squares, width, eps)
    swiglu.swiglu(both, out)


def embed(tokens: torch.Tensor, matrices: Matrices, begin: int, out: torch.Tensor) -> None:
    """As `embed.embed`."""
    (matrix,) = matrices.each
    assert isinstance(matrix.weight, grouped.GroupedWeight)
    assert matrix.order is None, "embeddings have no order of inputs"
    embed_quant.embed(tokens, matrix.weight, begin, out)


class MatrixKeeper:
    """Brings matrices to a GPU as they are quantised: on the thread and stream of the GPU at `place`."""

    def __init__(self, place: torch.device) -> None:
        self.place = place

    def part(self, source: GroupedRows, rows: Columns) -> Matrix:
        """Rows of `source`: a range of them, or their numbers in any order."""
        layout = source.layout
        group_of_place = np.repeat(np.arange(len(layout.ends)), np.diff(layout.ends, prepend=0))
        kept = layout.order >= 0
        groups = torch.from_numpy(group_of_place[kept]).to(self.place)
        made = [self._packed(source, some, kept, groups) for some in _batches(rows, len(layout.order))]
        weight = grouped.stacked([each for each, _ in made])
        assert weight is not None, "batches of one matrix go together"
        inputs, order = torch.from_numpy(layout.order[kept]).to(self.place), made[0][1]
        if order is not None:
            inputs = torch.where(order >= 0, inputs[order.clamp(min=0).long()], -1)
        in_order = len(inputs) == weight.places and bool((inputs == torch.arange(len(inputs), device=self.place)).all())
        return Matrix(weight, None if in_order else inputs.int())

    def _packed(
        self, source: GroupedRows, rows: Columns, kept: Array, groups: torch.Tensor
    ) -> tuple[grouped.GroupedWeight, torch.Tensor | None]:
        parts = list(_read(source, rows))
        codes = self._joined([part.codes for part in parts])
        if source.form.bits == 4:
            codes = torch.stack([codes & 15, codes >> 4], 2).flatten(1)
        if not kept.all():
            codes = codes[:, torch.from_numpy(kept).to(self.place)]
        form = source.form
        scales = self._table(parts, "scales")
        zeros = self._table(parts, "zeros") + form.zero if form.zeros else None
        minimums = self._table(parts, "minimums") if form.minimums else None
        factors = None
        if form.table == "int8":
            factors = (
                self._table(parts, "block_scales"),
                self._table(parts, "block_minimums") if form.minimums else None,
            )
        return grouped.pack(
            codes, groups, scales, minimums, zeros, bits=form.bits, zero=form.zero, factors=factors,
            factor_groups=form.block, skipped=form.skipped,
        )  # fmt: skip

    def _joined(self, parts: Sequence[Array]) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(np.concatenate(parts))).to(self.place)

    def _table(self, parts: Sequence[Grouped], name: str) -> torch.Tensor:
        table = self._joined([getattr(part, name) for part in parts])
        return table.view(torch.bfloat16) if parts[0].form.table == "uint16" and name != "zeros" else table

    def shard(self, role: str, parts: Sequence[Matrix | torch.Tensor], bias: torch.Tensor | None) -> Shard:
        """`role`: of the step whose matrices these are."""
        bias = None if bias is None else bias.to(self.place)
        dense = [part for part in parts if isinstance(part, torch.Tensor)]
        if len(dense) == len(parts):
            return Shard(dense[0] if len(dense) == 1 else torch.cat(dense), bias)
        each = [part if isinstance(part, Matrix) else Matrix(part) for part in parts]
        return Shard(torch.empty(0, device=self.place), bias, matrices=Matrices(tuple(_together(role, each))))


def _together(role: str, each: list[Matrix]) -> Iterator[Matrix]:
    """Those below each other as one that a kernel takes at once, where they are alike; gate and up as halves."""
    for is_dense, alike in groupby(each, lambda matrix: isinstance(matrix.weight, torch.Tensor)):
        some = list(alike)
        first = some[0]
        joined = None
        if not is_dense and all(_same(matrix.order, first.order) for matrix in some):
            halves = 2 if role == "gate_up" and len(some) == 2 else 1
            joined = grouped.stacked([matrix.weight for matrix in some], halves)  # type: ignore[misc]
        yield from some if joined is None else [Matrix(joined, first.order)]


def _same(a: torch.Tensor | None, b: torch.Tensor | None) -> bool:
    return a is b or (a is not None and b is not None and torch.equal(a, b))


def _batches(rows: Columns, places: int) -> Iterator[Columns]:
    """Some rows at a time, whole blocks of them; rows in an order of their own all at once, since they lie anywhere."""
    if not isinstance(rows, tuple):
        yield rows
        return
    step = max(1, BATCH_CODES // max(1, places) // grouped.BLOCK) * grouped.BLOCK
    for begin in range(rows[0], max(rows[1], rows[0] + 1), step):
        yield begin, min(begin + step, rows[1])


def _read(source: GroupedRows, rows: Columns) -> Iterator[Grouped]:
    """`rows` in their order, read some at a time."""
    step = max(1, READ_CODES // max(1, len(source.layout.order)))
    if isinstance(rows, tuple):
        for begin in range(*rows, step):
            yield source.read((begin, min(begin + step, rows[1])))
        return
    first, last = int(rows.min()), int(rows.max()) + 1
    parts = list(_read(source, (first, last)))
    tables = {
        name: np.concatenate([getattr(part, name) for part in parts])[rows - first]
        for name, table in vars(parts[0]).items()
        if isinstance(table, np.ndarray)
    }
    yield Grouped(parts[0].form, parts[0].layout, **tables)
