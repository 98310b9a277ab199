"""The one vocabulary of steps: the planner prices them, the executor runs them, traces are labelled with their names.

A step is one call on one device. It says what is computed and how much, never how.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from .plan import Range

Block = Literal["embed", "attention", "mlp", "head"]


class Kind(StrEnum):
    """Step kinds; the values are the `op` names of `hwprofiles.profile.OpPoint`."""

    EMBED = "embed"  # rows of the table this device holds, zeros for the others
    NORM = "norm"  # RMSNorm of the hidden state
    LINEAR = "linear"  # x @ w^T (+ bias)
    ROPE = "rope"  # q/k norm where the model has it, rotary embedding, K and V into the cache
    ATTENTION = "attention"  # softmax(q k^T) v over the cache
    SWIGLU = "swiglu"  # silu(gate) * up
    RESIDUAL = "residual"  # adds the block's input to this device's part of its output
    ARGMAX = "argmax"  # best value and id of this device's logits
    PUSH = "push"  # this device's part into its host slot
    PULL = "pull"  # waits for the producers, sums or concatenates their parts in device order


@dataclass(frozen=True)
class Step:
    """`name` is unique in a graph. A step reads `[rows, in_features]` and writes `[rows, out_features]` values.

    `span` is this device's range of the split dimension: query heads (qkv, rope, attention, o_proj by row), MLP
    columns, hidden columns (output projections by column; pulls of a reducer) or vocabulary rows.
    `collective` numbers the push/pull sites of one pass, in the order that every device meets them; -1 for compute.
    `peers`: a push's consumers, a pull's producers, as device indices in order.
    `widths`: for a pull, the values a row that it reads from each producer, in the order of `peers`.
    `movers`: for a push, all producers, for a pull, all consumers: who uses the links in that direction meanwhile.
    `extra_bytes`: read by a matrix product beside its weights (the whole scale table under act-order).
    `exact`: what a push or pull moves holds the residual stream, since a consumer lacks it; never rounded to 16 bits.
    """

    name: str
    kind: Kind
    device: int
    layer: int
    block: Block
    role: str
    rows: int
    in_features: int
    out_features: int
    span: Range = (0, 0)
    context: int = 0
    collective: int = -1
    peers: tuple[int, ...] = ()
    widths: tuple[int, ...] = ()
    combine: Literal["", "sum", "concat"] = ""
    movers: tuple[int, ...] = ()
    extra_bytes: int = 0
    exact: bool = False
    contended: bool = False


def moved_bytes(step: Step) -> int:
    """Bytes that a push or pull sends over its device's link; a device does not pull what it pushed itself."""
    if step.kind is Kind.PUSH:
        return 4 * step.rows * step.in_features
    return 4 * step.rows * sum(width for peer, width in zip(step.peers, step.widths) if peer != step.device)
