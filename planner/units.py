"""Units: the smallest shares a dimension is cut into.

Knows whole units and the ragged last one. Knows nothing of what they hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .plan import Range


@dataclass(frozen=True)
class Units:
    """A dimension cut into units, the last one ragged where it must be."""

    total: int
    unit: int

    @property
    def count(self) -> int:
        return -(-self.total // self.unit)

    @property
    def missing(self) -> int:
        """Values that the last unit lacks."""
        return self.count * self.unit - self.total

    @property
    def whole(self) -> float:
        """All of them, the ragged last one as a part."""
        return self.total / self.unit

    @property
    def least(self) -> float:
        """The smallest share: one unit, or the ragged last one."""
        return 1.0 - self.missing / self.unit

    def of(self, units: float) -> int:
        """Values in `units` units, which may be whole ones and a part."""
        return min(round(units * self.unit), self.total)

    def spans(self, units: tuple[int, ...]) -> tuple[Range, ...]:
        """Contiguous ranges in device order."""
        ends = [self.of(sum(units[: d + 1])) for d in range(len(units))]
        return tuple(zip([0, *ends], ends))


def proportional(units: int, weights: Sequence[float]) -> tuple[int, ...]:
    """Whole units in proportion, by largest remainder; ties go to the earlier device. Equal where all weights are 0."""
    total = sum(weights)
    exact = [units * w / total if total else units / len(weights) for w in weights]
    shares = [int(e) for e in exact]
    order = sorted(range(len(exact)), key=lambda d: (shares[d] - exact[d], d))
    for d in order[: units - sum(shares)]:
        shares[d] += 1
    return tuple(shares)
