"""From good splits to the one that ships: descents by exact prices, then fewer devices and exchanges among equals.

Knows the order of choices. Everything here is deterministic: what a descent may cost is counted, not timed.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import takewhile
from math import log2

from .baselines import split_bytes
from .heuristic import Balancer
from .memory import distinct_blocks
from .neighbours import Neighbourhood
from .plan import BlockPlan, Split, devices_used, members, size
from .sums import exchanged, with_best_sums

BETTER = 1e-6  # relative; prices closer than that are equal, and the lower peak of memory counts
NEAR_ENOUGH = 0.005  # plans this close count as equal, and the simpler one is preferred
MOST_PRICES = 2500  # of one descent


@dataclass
class Descent:
    """`deadline` (of time.perf_counter) ends everything early; otherwise `prices_left` does."""

    near: Neighbourhood
    deadline: float
    prices_left: int = MOST_PRICES
    _prices: dict[Split, float] = field(default_factory=dict)

    def price_s(self, split: Split) -> float:
        if split not in self._prices:
            self._prices[split] = self.near.pricer.split_s(split)
            self.prices_left -= 1
        return self._prices[split]

    @property
    def over(self) -> bool:
        return self.prices_left <= 0 or time.perf_counter() > self.deadline

    def polished(self, split: Split, reshape: bool = True) -> Split:
        """Block by block to the first better neighbour, until none is, with the best sums at last.

        `reshape`: strategies and members of blocks may change.
        """
        split, improved, self.prices_left = self.summed(split), True, MOST_PRICES
        while improved and not self.over:
            improved = False
            for part in self.near.parts(split):
                for option in self.near.promising(split, part, reshape):
                    if not self.over and self._better(option, split):
                        split, improved = option, True
        return self.summed(split)

    def finished(self, split: Split) -> Split:
        """Polished until none of all its neighbours is better."""
        better: Split | None = split
        while better is not None:
            split = self.polished(better)
            every = () if self.over else self.near.every(split)
            better = next((option for option in every if not self.over and self._better(option, split)), None)
        return split

    def summed(self, split: Split) -> Split:
        """With the fastest ways of summing."""
        return with_best_sums(self.near.pricer, split, self.near.allows)

    def _better(self, split: Split, other: Split) -> bool:
        """By price in steps of `BETTER`, then by the peak of memory."""
        one_s, other_s = self.price_s(split), self.price_s(other)
        step_s = BETTER * 2.0 ** round(log2(other_s))
        one, two = round(one_s / step_s), round(other_s / step_s)
        return one < two or (one == two and self._peak(split) < self._peak(other))

    def _peak(self, split: Split) -> tuple[int, ...]:
        """Bytes of the fullest device first."""
        return tuple(sorted((n.total for n in split_bytes(self.near.pricer, split)), reverse=True))

    def fastest(self, splits: Iterable[Split]) -> Split:
        """The first of the fastest."""
        return min(splits, key=self.price_s)

    def simplest(self, split: Split, balancer: Balancer) -> Split:
        """Within `NEAR_ENOUGH` of `split`: fewer devices, then fewer exchanges; late devices go first."""
        limit_s, simpler, self.prices_left = self.price_s(split) * (1 + NEAR_ENOUGH), True, MOST_PRICES
        while simpler and not self.over:
            simpler = False
            for option in takewhile(lambda _: not self.over, self._simpler(split, balancer)):
                if effort(option) < effort(split) and self.price_s(option) <= limit_s:
                    split, simpler = option, True
                    break
        return self._canonical(split)

    def _canonical(self, split: Split) -> Split:
        """Blocks that are not shared go by row unless the user says otherwise; of two devices that differ in name only,
        the earlier one holds more.
        """
        for block, name, _ in distinct_blocks(split):
            if len(members(block.units)) == 1 and getattr(self.near.request, f"{name}_strategy") != "column":
                split = exchanged(split, name, block, BlockPlan("row", block.units))
        for option in self.near.swapped(split):
            no_slower = self.price_s(option) <= (1 + BETTER) * self.price_s(split)
            if no_slower and self.near.allows(option) and _early(option) > _early(split):
                split = option
        return split

    def _simpler(self, split: Split, balancer: Balancer) -> Iterable[Split]:
        used = sorted(devices_used(split))
        for d in reversed(used) if len(used) > 1 else ():
            fewer = balancer.split(tuple(e for e in used if e != d))
            if fewer is not None and self.near.allows(fewer):
                yield self._settled(fewer, split)
        for option in self.near.reshaped(split):
            if effort(option) < effort(split):
                yield self._settled(option, split)

    def _settled(self, option: Split, split: Split) -> Split:
        """`option` with its best shares, if it is not far slower than `split`."""
        close = self.price_s(option) <= self.price_s(split) * (1 + 4 * NEAR_ENOUGH)
        return self.polished(option, reshape=False) if close else option


def effort(split: Split) -> tuple[int, int]:
    """Devices in use, and exchanges of a pass."""
    blocks = [block for layer in split.layers for block in (layer.attention, layer.mlp)]
    return len(devices_used(split)), sum(map(_exchanges, blocks))


def _early(split: Split) -> tuple[int, ...]:
    """Shares in device order, block by block."""
    spans = [s for layer in split.layers for s in (layer.attention.units, layer.mlp.units)]
    return tuple(size(span) for each in (*spans, split.head, split.embedding) for span in each)


def _exchanges(block: BlockPlan) -> int:
    if len(members(block.units)) < 2:
        return 0
    return 2 if block.strategy == "column" else 1
