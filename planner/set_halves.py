"""Halves of a layer by the sets that hold them, and the split that shares over such sets come to.

Knows sets, ways of summing and rounding. Knows nothing of time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import msgspec

from .device_sets import Set
from .plan import BlockPlan, LayerPlan, Split, size
from .stage_costs import StageCosts
from .units import Units, proportional

Ways = tuple[int, ...]


@dataclass(frozen=True)
class Half:
    """A block cut over the set `members`; under column `writers` write its output. Numbers of sets; -1 for row.

    `ways`: by which row ways its sums may be handed on, in decode and in prefill.
    """

    members: int
    writers: int = -1
    ways: tuple[Ways, Ways] = ((), ())

    @property
    def producers(self) -> int:
        return self.members if self.writers < 0 else self.writers

    @property
    def settled(self) -> bool:
        """Whether no way of summing is left open."""
        return all(len(ways) < 2 for ways in self.ways)

    def each_way(self) -> Iterator[Half]:
        """The same with every way of summing."""
        decode, prefill = (self._apart(ways) for ways in self.ways)
        for one, two in product(decode, prefill):
            yield Half(self.members, self.writers, (one, two))

    def _apart(self, ways: Ways) -> list[Ways]:
        alone: list[Ways] = [(way,) for way in ways]
        return alone or [()]


@dataclass(frozen=True)
class Halves:
    """One layer."""

    attention: Half
    mlp: Half

    def of(self, block: str) -> Half:
        return self.attention if block == "attention" else self.mlp

    def other(self, block: str) -> Half:
        return self.mlp if block == "attention" else self.attention

    def each_way(self) -> Iterator[Halves]:
        for attention, mlp in product(self.attention.each_way(), self.mlp.each_way()):
            yield Halves(attention, mlp)


def with_layer(start: Split, costs: StageCosts, units: dict[str, list[float]], wrote: dict[str, list[float]]) -> Split:
    """`start` with all layers cut by shares `units` of attention and MLP, and `wrote` of the hidden columns of blocks
    split by column, rounded.
    """
    layer = LayerPlan(*(_rounded(costs, block, units, wrote) for block in ("attention", "mlp")))
    return msgspec.structs.replace(start, layers=(layer,) * len(start.layers))


def _rounded(costs: StageCosts, block: str, units: dict[str, list[float]], wrote: dict[str, list[float]]) -> BlockPlan:
    spans = _spans(costs.units(block), units[block])  # type: ignore[arg-type]
    if block not in wrote:
        return BlockPlan("row", spans)
    left = [share * (size(span) > 0) for share, span in zip(wrote[block], spans)]  # rounding may leave a writer nothing
    return BlockPlan("column", spans, _spans(costs.hidden, left if any(left) else [float(size(s)) for s in spans]))


def _spans(units: Units, shares: list[float]) -> tuple[tuple[int, int], ...]:
    return units.spans(proportional(units.count, shares))


def members_of(sets: tuple[Set, ...], halves: Halves) -> set[int]:
    """Devices with a part in the layer."""
    return {*sets[halves.attention.members], *sets[halves.mlp.members]}
