"""Figures of a block's shares on all devices, as bounds over device sets take them: lines, pushes, the whole.

Knows which shares there are. Knows nothing of exchanges.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from .device_sets import DeviceSets
from .plan import Strategy
from .share_lines import Curve, Lines, lines_below
from .stage_costs import Costs, StageCosts
from .steps import Block
from .units import Units


@dataclass(frozen=True)
class Figures:
    """Shares of one dimension by device: lines without and with the push, `[device, phase]` seconds of having it all
    without and with its push, of the residual that the first member adds, and the values a row that a unit pushes:
    `fixed_push` in all, whatever the share, or `unit_push` for each.
    """

    dimension: Units
    bare: list[Lines]
    pushed: list[Lines]
    alone: np.ndarray
    alone_pushed: np.ndarray
    residual: np.ndarray
    fixed_push: int = 0
    unit_push: int = 0

    @property
    def units(self) -> float:
        """All of them, the ragged last one as a part."""
        return self.dimension.whole


@dataclass(frozen=True)
class SetShares:
    """Shares of the blocks of one layer, of hidden columns, of the head."""

    costs: StageCosts
    sets: DeviceSets
    layer: int = 0

    def inputs(self, block: Block, strategy: Strategy) -> Figures:
        """A block's first stage; under row the output projection is a part of it."""
        row, units = strategy == "row", self.costs.units(block)
        share = partial(self._share, block, strategy)
        plain = np.zeros((len(self.sets.of), 2))
        residual = self._each(lambda d: self.costs.residual(block, d, False)) if row else plain
        alone = self._each(lambda d: self.costs.residual(block, d, True)) if row else plain
        width = self.costs.inputs(block) * units.unit // units.total
        return self._figures(share, units, residual, alone, (self.costs.pricer.model.hidden, 0) if row else (0, width))

    def outputs(self, block: Block) -> Figures:
        """A column block's second stage."""
        units, plain = self.costs.hidden, np.zeros((len(self.sets.of), 2))

        def share(d: int, count: float, alone: bool) -> Costs:
            return self.costs.outputs(self.layer, block, d, count, alone)

        return self._figures(share, units, plain, plain, (0, units.unit))

    @cached_property
    def head(self) -> Figures:
        plain = np.zeros((len(self.sets.of), 2))
        return self._figures(self.costs.head, self.costs.vocabulary, plain, plain, (0, 0))

    @cached_property
    def embedding_s(self) -> float:
        """The least for looking up tokens, in both phases."""
        devices = range(len(self.sets.of))
        return min(sum(self.costs.embedding(d, alone)[:2]) for d in devices for alone in (False, True))

    def _share(self, block: Block, strategy: Strategy, d: int, units: float, alone: bool) -> Costs:
        return self.costs.share(self.layer, block, strategy, d, units, alone)

    def _figures(self, share, units: Units, residual, alone_residual, widths) -> Figures:  # type: ignore[no-untyped-def]
        bare, pushed, kept = [], [], {}
        for d, like in enumerate(self.sets.of):
            if like == d:
                curve = Curve(partial(share, d, alone=False), units)
                kept[d] = lines_below(curve, pushed=False), lines_below(curve, pushed=True)
            bare.append(kept[like][0])
            pushed.append(kept[like][1])
        whole = np.array([share(like, units.count, True) for like in self.sets.of])
        alone = whole[:, :2] + alone_residual
        return Figures(units, bare, pushed, alone, alone + whole[:, 2:4], residual, *widths)

    def _each(self, costs) -> np.ndarray:  # type: ignore[no-untyped-def]
        return np.array([costs(like)[:2] for like in self.sets.of])
