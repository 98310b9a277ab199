"""Grouped-affine weights made at random, and what they mean, worked out weight by weight in float64."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from tpplan.executor.grouped import Form, Grouped, Layout, packed
from tpplan.planner.plan import Range, size

FORMS = {
    "zero of all": Form(4, zero=8),
    "minimums": Form(4, minimums=True),
    "zeros": Form(4, zeros=True),
    "8 bits": Form(8, zero=128),
    "8 bits, minimums": Form(8, zero=112, minimums=True),
    "8 bits, zeros": Form(8, zeros=True),
}
TABLES = ("float16", "float32", "uint16")


def rounded_to(values: np.ndarray, table: str) -> np.ndarray:
    """As a table of that format holds them: uint16 for the bits of bfloat16."""
    if table == "uint16":
        return (values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    return values.astype(table)


def meant(values: np.ndarray) -> np.ndarray:
    """A table's values in float64."""
    if values.dtype == np.uint16:
        values = (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float64)


class RandomRows:
    """A matrix [rows, inputs] with `group_of_input`; `weights` is what it means, in the inputs' own order."""

    def __init__(self, form: Form, rows: int, group_of_input: np.ndarray, table: str = "float16", seed: int = 0):
        rng = np.random.default_rng(seed)
        self.form = form = replace(form, table=table)  # type: ignore[arg-type]
        self.layout, groups = Layout.of(group_of_input, form.bits)
        count = len(groups)
        self.codes = rng.integers(0, 2**form.bits, (rows, len(group_of_input)), dtype=np.uint8)
        self.scales = rounded_to(rng.uniform(0.01, 0.1, (rows, count)) * rng.choice([-1, 1], (rows, count)), table)
        self.minimums = rounded_to(rng.standard_normal((rows, count)), table) if form.minimums else None
        self.zeros = rng.integers(0, 2**form.bits, (rows, count), dtype=np.uint8) if form.zeros else None
        of = np.searchsorted(groups, group_of_input)
        offset: Any = form.zero if self.zeros is None else self.zeros[:, of].astype(np.float64)
        self.weights = (self.codes.astype(np.float64) - offset) * meant(self.scales)[:, of]
        if self.minimums is not None:
            self.weights += meant(self.minimums)[:, of]

    def read(self, rows: Range) -> Grouped:
        assert size(rows) > 0
        part = slice(*rows)
        minimums, zeros = (None if t is None else t[part] for t in (self.minimums, self.zeros))
        codes = packed(self.codes[part], self.layout, self.form.bits)
        return Grouped(self.form, self.layout, codes, self.scales[part], minimums, zeros)
