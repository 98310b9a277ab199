"""From good splits to the one that ships: descents by exact prices, then fewer devices and exchanges among equals.

Knows the order of choices. Everything here is deterministic: what a descent may cost is counted, not timed.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from .baselines import split_bytes
from .heuristic import Balancer
from .neighbours import Neighbourhood
from .plan import BlockPlan, Split, devices_used, members
from .sums import with_best_sums

BETTER = 1e-6  # relative; prices closer than that are equal, and the lower peak of memory counts
NEAR_ENOUGH = 0.005  # plans this close count as equal, and the simpler one is preferred
MOST_PRICES = 6000


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

    def polished(self, split: Split) -> Split:
        """Block by block to the first better neighbour, until none is, with the best sums at last."""
        improved = True
        while improved and not self.over:
            improved = False
            for part in self.near.parts(split):
                for option in self.near.promising(split, part):
                    if not self.over and self._better(option, split):
                        split, improved = option, True
        return self._summed(split)

    def _summed(self, split: Split) -> Split:
        return with_best_sums(self.near.pricer, split, self.near.allows)

    def _better(self, split: Split, other: Split) -> bool:
        one_s, other_s = self.price_s(split), self.price_s(other)
        if abs(one_s - other_s) > BETTER * other_s:
            return one_s < other_s
        return self._peak(split) < self._peak(other)

    def _peak(self, split: Split) -> tuple[int, ...]:
        """Bytes of the fullest device first."""
        return tuple(sorted((n.total for n in split_bytes(self.near.pricer, split)), reverse=True))

    def fastest(self, splits: Iterable[Split]) -> Split:
        """The first of the fastest."""
        return min(splits, key=self.price_s)

    def simplest(self, split: Split, balancer: Balancer) -> Split:
        """Within `NEAR_ENOUGH` of `split`: fewer devices, then fewer exchanges; late devices go first."""
        limit_s, simpler = self.price_s(split) * (1 + NEAR_ENOUGH), True
        while simpler and not self.over:
            simpler = False
            for option in self._simpler(split, balancer):
                if effort(option) < effort(split) and self.price_s(option) <= limit_s:
                    split, simpler = option, True
                    break
        return split

    def _simpler(self, split: Split, balancer: Balancer) -> Iterable[Split]:
        used = sorted(devices_used(split))
        for d in reversed(used) if len(used) > 1 else ():
            fewer = balancer.split(tuple(e for e in used if e != d))
            if fewer is not None and self.near.allows(fewer):
                if self.price_s(fewer) <= self.price_s(split) * (1 + 4 * NEAR_ENOUGH):
                    fewer = self.polished(fewer)
                yield fewer
        for option in self.near.reshaped(split):
            yield self._summed(option)


def effort(split: Split) -> tuple[int, int]:
    """Devices in use, and exchanges of a pass."""
    blocks = [block for layer in split.layers for block in (layer.attention, layer.mlp)]
    return len(devices_used(split)), sum(map(_exchanges, blocks))


def _exchanges(block: BlockPlan) -> int:
    if len(members(block.units)) < 2:
        return 0
    return 2 if block.strategy == "column" else 1
