"""Row or column, said once, as data: how the output projection of a block is cut and what collective follows.

Graph building and weight slicing both read this table, so they cannot disagree.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from .plan import Strategy


@dataclass(frozen=True)
class OutputProjection:
    """`sliced`: the dimension of the `[out, in]` weight that devices share. `gathers_input`: it is all-gathered first.

    `combine`: how consumers join the pushed parts. Row: 1 collective a block (all-reduce); column: 2 (gather, gather).
    """

    sliced: Literal["in", "out"]
    gathers_input: bool
    combine: Literal["sum", "concat"]


OUTPUT_PROJECTION: dict[Strategy, OutputProjection] = {
    "row": OutputProjection(sliced="in", gathers_input=False, combine="sum"),
    "column": OutputProjection(sliced="out", gathers_input=True, combine="concat"),
}
