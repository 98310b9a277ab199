"""How long the slowest of a set's devices takes at least for its query heads, KV heads that are cut apart counted.

Knows shares of heads in device order. Knows nothing of exchanges.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .plan import Strategy
from .set_shares import Figures
from .stage_costs import StageCosts


@dataclass(frozen=True)
class HeadTimes:
    """Seconds of query heads from one to another, as attention's first stage has them."""

    costs: StageCosts
    layer: int
    _tables: dict[tuple[Strategy, int, int, bool], np.ndarray] = field(default_factory=dict)

    def least_s(
        self, figures: Figures, strategy: Strategy, phase: int, devices: list[tuple[int, float, float, bool]]
    ) -> float:
        """The least for which `devices` take all heads in this order: numbers, seconds whatever the share, seconds for
        each head, whether they push.
        """
        heads = figures.dimension.count
        ahead, own = np.arange(heads + 1)[:, None], np.arange(heads + 1)[None, :]
        taken = np.full(heads + 1, np.inf)
        taken[0] = 0.0
        for d, base_s, head_s, pushed in devices:
            table = self._table(figures, strategy, d, phase, pushed) + base_s + head_s * (own - ahead)
            taken = np.maximum(taken[:, None], table).min(axis=0)
        return float(taken[heads]) if np.isfinite(taken[heads]) else 0.0

    def _table(self, figures: Figures, strategy: Strategy, d: int, phase: int, pushed: bool) -> np.ndarray:
        """`[begin, end]`, infinite where there is nothing between them."""
        key = (strategy, d, phase, pushed)
        if key not in self._tables:
            heads, group = figures.dimension.count, self.costs.pricer.model.group
            lines = (figures.pushed if pushed else figures.bare)[d]
            begin, end = np.arange(heads + 1)[:, None], np.arange(heads + 1)[None, :]
            spare = group * (-(-end // group) - begin // group) - (end - begin)
            each = np.max(
                [s * (end - begin) + b for s, b in zip(lines.slopes[:, phase], lines.bases[:, phase])], axis=0
            )
            each = each + spare * self.costs.replica(self.layer, strategy, d)[phase] / group
            self._tables[key] = np.where(end > begin, each, np.inf)
        return self._tables[key]
