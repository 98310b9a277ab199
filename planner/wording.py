"""Layers, shares and strategies as people read them. Knows notation only."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from .plan import BlockPlan, LayerPlan, members, size

MOST_RUNS = 4


def layer_groups(layers: Sequence[LayerPlan]) -> dict[LayerPlan, list[int]]:
    """The numbers of equal layers, by first appearance."""
    groups: dict[LayerPlan, list[int]] = {}
    for i, layer in enumerate(layers):
        groups.setdefault(layer, []).append(i)
    return groups


def layer_words(numbers: Sequence[int]) -> str:
    """Ascending numbers as `0-45`, `0-3, 8`, or, where there are many runs, `40 of 0-79`."""
    cuts = [i + 1 for i, (a, b) in enumerate(pairwise(numbers)) if b != a + 1]
    runs = [numbers[a:b] for a, b in pairwise([0, *cuts, len(numbers)])]
    if len(runs) > MOST_RUNS:
        return f"{len(numbers)} of {numbers[0]}-{numbers[-1]}"
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def shares_words(block: BlockPlan, per_share: int = 1) -> str:
    """`2:1`; `per_share` values count as one."""
    return ":".join(f"{size(span) / per_share:.3g}" if per_share > 1 else str(size(span)) for span in block.units)


def strategy_words(block: BlockPlan, devices: Sequence[str]) -> str:
    """`by row`, or `all on cuda:0`."""
    holders = members(block.units)
    return f"by {block.strategy}" if len(holders) > 1 else f"all on {devices[holders[0]]}"


def listed(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
