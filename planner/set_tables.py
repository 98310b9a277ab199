"""Bounds of whole layers by device sets: what handing a layer's halves on between any two sets of producers costs.

A node is a set that produced a block's output: whole sums of it first (`row`), then slices of it (`column`). Knows
blocks and their neighbours. Knows nothing of how a bound is raised (see `set_search`).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .set_bounds import SetBounds
from .set_shares import Figures
from .set_sources import Sources
from .steps import Block

Strategies = dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class SetTables:
    """Seconds of the whole workload. `strategies`: what each block may be cut by."""

    bounds: SetBounds
    strategies: Strategies

    @property
    def count(self) -> int:
        """Sets; there are twice as many nodes."""
        return len(self.bounds.sources.sets.sets)

    @cached_property
    def hidden(self) -> Sources:
        return self.bounds.sources.gathered(self.bounds.shares.costs.pricer.model.hidden)

    @cached_property
    def figures(self) -> dict[tuple[str, str], Figures]:
        """By block and strategy; what a column block's writers do by block and `outputs`."""
        shares, found = self.bounds.shares, {}
        for block in ("attention", "mlp"):
            for strategy in {"row", *self.strategies[block]}:
                found[block, strategy] = shares.inputs(block, strategy)  # type: ignore[arg-type]
            if "column" in self.strategies[block]:
                found[block, "outputs"] = shares.outputs(block)  # type: ignore[arg-type]
        return found

    @cached_property
    def gathers(self) -> dict[str, Sources]:
        """Inputs of the output projection of a column block."""
        costs, sources = self.bounds.shares.costs, self.bounds.sources
        columns = [block for block in ("attention", "mlp") if "column" in self.strategies[block]]
        return {block: sources.gathered(costs.inputs(block)) for block in columns}  # type: ignore[arg-type]

    def stage_s(self, figures: Figures, pushed: bool, last: bool = False) -> np.ndarray:
        """`[node, members]`: a stage of both phases."""
        rows = self.bounds.stage_s(figures, self.bounds.sources.row_ways, pushed, last)
        return np.concatenate([rows, self.bounds.stage_s(figures, [self.hidden], pushed, last)])

    @cached_property
    def firsts(self) -> dict[tuple[str, str, bool], np.ndarray]:
        """`[node before, members]` of a block's first stage, by strategy and whether it pushes."""
        both = (True, False)
        return {
            (block, strategy, pushed): self.stage_s(figures, pushed)
            for (block, strategy), figures in self.figures.items()
            if strategy != "outputs"
            for pushed in both
        }

    @cached_property
    def seconds(self) -> dict[tuple[str, bool], np.ndarray]:
        """`[members, writers]` of a column block's second stage, by whether it pushes."""
        found = {}
        for block, gather in self.gathers.items():
            width = self.bounds.shares.costs.inputs(block)  # type: ignore[arg-type]
            for pushed in (True, False):
                found[block, pushed] = self.bounds.second_s(self.figures[block, "outputs"], gather, width, pushed)
        return found

    def column_s(self, block: str, writers: int, pushed: bool) -> np.ndarray:
        """`[node before, members]` of a column block with these writers; its only writer need not push inputs."""
        alone = self.bounds.sources.sets.sizes[writers] == 1
        return np.asarray(self.firsts[block, "column", not alone] + self.seconds[block, pushed][:, writers])

    def edges(self, block: Block, pushed: bool) -> np.ndarray:
        """`[node before, node]`: a block at its fastest between two nodes."""
        nothing = np.full((2 * self.count, self.count), np.inf)
        row = self.firsts[block, "row", pushed]
        if "row" not in self.strategies[block]:  # one device shares nothing, and does the same by either strategy
            row = np.where(self.bounds.sources.sets.sizes == 1, row, np.inf)
        if "column" not in self.strategies[block]:
            return np.concatenate([row, nothing], axis=1)
        columns = [self.column_s(block, w, pushed).min(axis=1) for w in range(self.count)]
        return np.concatenate([row, np.stack(columns, axis=1)], axis=1)
