"""Bounds of a whole split for every two sets that hand on the halves of a layer.

Knows how often stages come, the embedding, the head and fixed costs of a pass. Knows nothing of how bounds are raised.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .device_sets import DeviceSets
from .set_halves import Half, Halves
from .set_tables import SetTables
from .steps import Block


@dataclass(frozen=True)
class SetTotals:
    """Seconds of the whole workload, all layers alike. Nodes as in `SetTables`."""

    tables: SetTables

    @property
    def sets(self) -> DeviceSets:
        return self.tables.bounds.sources.sets

    @property
    def repeats(self) -> int:
        """Layers that come after one of their like."""
        return self.tables.bounds.shares.costs.pricer.model.layers - 1

    @cached_property
    def edges(self) -> dict[tuple[Block, bool], np.ndarray]:
        """`[node before, node]` by block, and by whether its producers push to more than one of themselves."""
        blocks: tuple[Block, Block] = ("attention", "mlp")
        return {(block, pushed): self.tables.edges(block, pushed) for block in blocks for pushed in (True, False)}

    @cached_property
    def sole(self) -> np.ndarray:
        """`[node, node]`: whether the first is one device, which is among the second's producers."""
        one = (self.sets.sizes == 1)[:, None] & self.sets.within
        return np.block([[one, one], [np.zeros_like(one), np.zeros_like(one)]])

    @cached_property
    def each(self) -> np.ndarray:
        """`[attention's node, MLP's node]`."""
        attention = np.where(self.sole, self.edges["attention", False], self.edges["attention", True]).T
        mlp = np.where(self.sole, self.edges["mlp", False], self.edges["mlp", True])
        opening = self.edges["attention", False][: self.tables.count].min(axis=0)
        ends = opening[:, None] + self.edges["mlp", False] + self.head_s + self.tables.bounds.shares.embedding_s
        return np.asarray(self.repeats * (attention + mlp) + ends + self._overheads_s)

    @cached_property
    def head_s(self) -> np.ndarray:
        """`[node]`: the head after such producers."""
        return np.asarray(self.tables.stage_s(self.tables.bounds.shares.head, False, last=True).min(axis=1))

    @cached_property
    def _overheads_s(self) -> np.ndarray:
        pricer = self.tables.bounds.shares.costs.pricer
        passes = pricer.workload.new_tokens + pricer.workload.batch * sum(chunk.count for chunk in pricer.chunks)
        each = np.array([device.step_overhead_s for device in pricer.profile.devices])
        most = np.tile(np.where(self.sets.held, each, 0.0).max(axis=1), 2)
        return np.asarray(passes * np.maximum(most[:, None], most[None, :]))

    def once_s(self, halves: Halves) -> float:
        """All but the layers that repeat, and the head."""
        q, r = self.node(halves.attention), self.node(halves.mlp)
        attention = self.edges["attention", not self.sole[r, q]][r, q]
        mlp = self.edges["mlp", not self.sole[q, r]][q, r]
        return float(self.each[q, r] - self.repeats * (attention + mlp) - self.head_s[r])

    def node(self, half: Half) -> int:
        return half.members if half.writers < 0 else self.tables.count + half.writers

    def halves(self, block: Block, node: int, before: int) -> list[tuple[float, Half]]:
        """Every half that ends in a node, and by how much its layers take longer than the fastest after `before`."""
        if node < self.tables.count:
            return [(0.0, self._row(node))]
        seconds = self.tables.column_s(block, node - self.tables.count, not self.sole[before, node])[before]
        more_s = self.repeats * (seconds - seconds.min())
        return [
            (float(more_s[i]), Half(int(i), node - self.tables.count)) for i in np.flatnonzero(np.isfinite(seconds))
        ]

    def _row(self, members: int) -> Half:
        sources = self.tables.bounds.sources.row_ways
        ways = tuple(way for way, source in enumerate(sources) if np.isfinite(source.middle_s[members, 0]))
        return Half(members, ways=(ways, ways))
