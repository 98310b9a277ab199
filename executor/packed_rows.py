"""Some columns of a packed matrix, row by row in the grouped form.

Knows how GPTQ, AWQ and compressed-tensors lay out codes, zero points and groups. Knows nothing of names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ..planner.plan import Range
from .grouped import Columns, Form, Grouped, Layout, packed
from .packed_weights import AGAIN, Packed
from .packed_words import awq_unpacked, unpacked, word_span
from .stored import read_raw

Array = np.ndarray[Any, Any]


class PackedRows:
    """`columns` of `matrix`, whose files are open as `fds`. ValueError where group numbers are out of range."""

    def __init__(self, fds: dict[Path, int], matrix: Packed, columns: Columns) -> None:
        self.fds, self.matrix = fds, matrix
        self.columns = np.arange(*columns) if isinstance(columns, tuple) else columns
        bits, found = 4 if matrix.bits <= 4 else 8, group_of_input(fds, matrix)
        if isinstance(columns, tuple) and not is_scattered(found, matrix.groups):
            self.layout, groups = Layout.regular(columns, matrix.shape[1] // matrix.groups, bits)
            self.groups = np.array(groups, int)
        else:
            self.layout, self.groups = Layout.of(found[self.columns], bits)
        self.has_zeros = bool({"qzeros", "weight_zero_point"} & matrix.parts.keys())
        scales = matrix.part(matrix.scales)
        self.form = Form(
            bits=bits,
            zero=0 if self.has_zeros else 2 ** (matrix.bits - 1),
            zeros=self.has_zeros,
            table={"F32": "float32", "BF16": "uint16"}.get(scales.type.name, "float16"),  # type: ignore[arg-type]
        )

    def read(self, rows: Range) -> Grouped:
        """ValueError in one line where a file ends early, or a scale or a zero point is out of range."""
        compressed = self.matrix.method == "compressed-tensors"
        codes = {"gptq": self._gptq_codes, "awq": self._awq_codes, "compressed-tensors": self._compressed_codes}
        here = codes[self.matrix.method](rows)
        scales = self._scales(rows, compressed)
        zeros = self._zeros(rows, compressed) if self.has_zeros else None
        return Grouped(self.form, self.layout, packed(here, self.layout, self.form.bits), scales, None, zeros)

    def _gptq_codes(self, outputs: Range) -> Array:
        bits, inputs = self.matrix.bits, self.columns
        first, last = word_span(int(inputs.min(initial=0)), int(inputs.max(initial=-1)) + 1, bits)
        words = self._words("qweight", (first, last), outputs)
        return unpacked(words, inputs, bits, first).T

    def _awq_codes(self, outputs: Range) -> Array:
        first, last = word_span(*outputs, 4)
        inputs = int(self.columns.min(initial=0)), int(self.columns.max(initial=-1)) + 1
        words = self._words("qweight", inputs, (first, last))[self.columns - inputs[0]]
        return awq_unpacked(words.T, np.arange(*outputs), first)

    def _compressed_codes(self, outputs: Range) -> Array:
        bits, inputs = self.matrix.bits, self.columns
        first, last = word_span(int(inputs.min(initial=0)), int(inputs.max(initial=-1)) + 1, bits)
        words = self._words("weight_packed", outputs, (first, last))
        return unpacked(words.T, inputs, bits, first).T

    def _scales(self, outputs: Range, compressed: bool) -> Array:
        part = self.matrix.scales
        stored = self.matrix.parts[part]
        kind = {"F32": np.float32, "F16": np.float16, "BF16": np.uint16}[stored.type.name]
        whole = (0, self.matrix.groups)
        found = self._read(part, outputs, whole, kind) if compressed else self._read(part, whole, outputs, kind).T
        scales = found[:, self.groups]
        exponent = 0x7F80 if kind is np.uint16 else 0
        finite = (scales & exponent) != exponent if exponent else np.isfinite(scales)
        if not finite.all():
            raise ValueError(f"{stored.path}: tensor '{self.matrix.name}.{part}' holds NaN or infinite scales; {AGAIN}")
        return scales

    def _zeros(self, outputs: Range, compressed: bool) -> Array:
        """uint8 [out, groups]. GPTQ's first format stores one less."""
        bits, numbers, whole = self.matrix.bits, np.arange(*outputs), (0, self.matrix.groups)
        first, last = word_span(*outputs, bits)
        if compressed:
            return unpacked(self._words("weight_zero_point", (first, last), whole), numbers, bits, first)[
                :, self.groups
            ]
        words = self._words("qzeros", whole, (first, last)).T
        if self.matrix.method == "awq":
            return awq_unpacked(words, numbers, first)[:, self.groups]
        zeros = unpacked(words, numbers, bits, first)[:, self.groups]
        if self.matrix.quant.method == "gptq":
            if (zeros == 2**bits - 1).any():
                raise ValueError(
                    f"{self.matrix.parts['qzeros'].path}: tensor '{self.matrix.name}.qzeros' has zero points of "
                    f"{2**bits}, out of range for {bits} bits; convert the checkpoint to gptq_v2 with GPTQModel"
                )
            zeros += 1
        return zeros

    def _words(self, part: str, rows: Range, columns: Range) -> Array:
        return self._read(part, rows, columns, np.uint32)

    def _read(self, part: str, rows: Range, columns: Range, kind: Any) -> Array:
        return read_part(self.fds, self.matrix, part, rows, columns, kind)


def read_part(fds: dict[Path, int], matrix: Packed, part: str, rows: Range, columns: Range, kind: Any) -> Array:
    """A slice of one of the tensors, as numbers of that kind."""
    stored = matrix.part(part)
    raw = np.empty((rows[1] - rows[0], (columns[1] - columns[0]) * np.dtype(kind).itemsize), np.uint8)
    try:
        read_raw(fds[stored.path], stored, rows, columns, raw)
    except ValueError as error:
        raise ValueError(f"{stored.path}: tensor '{matrix.name}.{part}' {error}") from None
    return raw.view(kind)


def group_of_input(fds: dict[Path, int], matrix: Packed) -> Array:
    """int [in]; ValueError where a group is named that has no scales."""
    part = next((p for p in ("g_idx", "weight_g_idx") if p in matrix.parts), None)
    inputs, groups = matrix.shape[1], matrix.groups
    if part is None:
        return np.arange(inputs) // (inputs // groups)
    found = read_part(fds, matrix, part, (0, 1), (0, inputs), np.int32)[0]
    if part == "weight_g_idx" and (found == -1).all():  # how compressed-tensors says that there is no order
        return np.arange(inputs) // (inputs // groups)
    if inputs and not 0 <= found.min() <= found.max() < groups:
        raise ValueError(
            f"{matrix.parts[part].path}: tensor '{matrix.name}.{part}' names group "
            f"{found.min() if found.min() < 0 else found.max()} of {groups}; {AGAIN}"
        )
    return found.astype(np.int64)


def is_scattered(groups_of_inputs: Array, groups: int) -> bool:
    """Whether groups are anything but equal runs of neighbours."""
    inputs = len(groups_of_inputs)
    return bool(inputs % groups or (groups_of_inputs != np.arange(inputs) // (inputs // groups)).any())


def order_of_inputs(fds: dict[Path, int], matrix: Packed) -> Array | None:
    """The inputs sorted by group, in their own order within each; None where they are already."""
    found = group_of_input(fds, matrix)
    return np.argsort(found, kind="stable") if is_scattered(found, matrix.groups) else None
