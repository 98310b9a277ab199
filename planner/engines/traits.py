"""What few engines can express of a plan: strategies, copies of KV heads, sums, sets that differ.

Knows the plan alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..plan import Plan, Range, members, size
from .addresses import Address

ALIKE = 0.05
"""Shares of two blocks that differ by less are no loss worth a line."""


@dataclass(frozen=True)
class Traits:
    """`column_blocks`: names of blocks split by column in some layer. `replicated`: a KV head on two devices.

    `summed_by_some`: sums made by chosen devices. `patterns`: distinct splits of layers. `unlike_blocks`: attention and
    MLP, `unlike_head`: MLP and head shared differently. `parts`: names of devices that are parts of a GPU.
    """

    column_blocks: tuple[str, ...]
    replicated: bool
    summed_by_some: bool
    patterns: int
    unlike_blocks: bool
    unlike_head: bool
    parts: tuple[str, ...]


def traits_of(plan: Plan, spots: tuple[Address, ...], group: int) -> Traits:
    """The traits of a plan whose shape is sound; `group`: query heads per KV head."""
    kinds = set(plan.layers)
    blocks = {"attention": {layer.attention for layer in kinds}, "MLP": {layer.mlp for layer in kinds}}
    every = blocks["attention"] | blocks["MLP"]
    cuts = [span[0] for block in blocks["attention"] for span in block.units if size(span)]
    return Traits(
        column_blocks=tuple(name for name, found in blocks.items() if any(b.strategy == "column" for b in found)),
        replicated=any(cut % group for cut in cuts),
        summed_by_some=any(block.decode_sums or block.prefill_sums for block in every),
        patterns=len(kinds),
        unlike_blocks=any(not _alike(layer.attention.units, layer.mlp.units) for layer in kinds),
        unlike_head=any(not _alike(block.units, plan.head) for block in blocks["MLP"]),
        parts=tuple(name for name, at in zip(plan.devices, spots) if at.part),
    )


def fractions(spans: tuple[Range, ...]) -> list[float]:
    """Each device's part of a whole."""
    return [size(span) / spans[-1][1] for span in spans]


def _alike(a: tuple[Range, ...], b: tuple[Range, ...]) -> bool:
    """Whether two things are shared by the same devices in about the same proportion."""
    return members(a) == members(b) and all(abs(x - y) < ALIKE for x, y in zip(fractions(a), fractions(b)))
