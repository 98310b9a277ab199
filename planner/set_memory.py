"""What shares of a layer take of a device's memory at least, in bytes a unit, where memory is short.

Linear and never above what `memory.device_bytes` counts. Knows nothing of time.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from .memory import Sizes
from .plan import HIDDEN_UNIT
from .stage_costs import StageCosts
from .steps import Block

TIGHT = 0.6  # of all memory; with more room than that left no linear program knows of it


@dataclass(frozen=True)
class SetMemory:
    costs: StageCosts
    caps: tuple[int, ...]
    limited: bool = True
    _token_s: dict[tuple[int, int], float] = field(default_factory=dict)

    @cached_property
    def sizes(self) -> Sizes:
        p = self.costs.pricer
        return Sizes(p.model, p.workload, p.dtype, p.cache_dtype)

    @cached_property
    def tight(self) -> bool:
        """Whether a linear program must know of memory."""
        blocks: tuple[Block, Block] = ("attention", "mlp")
        layers = sum(self.unit_bytes(block, True) * self.costs.units(block).count for block in blocks)
        tables = self.table_bytes * self.costs.pricer.model.vocab * self.tables
        return self.limited and layers + tables > TIGHT * sum(self.caps)

    @property
    def tables(self) -> int:
        """Embedding and head, or one for both."""
        return 1 if self.costs.pricer.model.tied_embeddings else 2

    @property
    def table_bytes(self) -> float:
        """One token of the smaller table."""
        return min(self._matrix(role, self.costs.pricer.model.hidden) for role in ("embed", "lm_head"))

    def unit_bytes(self, block: Block, row: bool) -> float:
        """A unit of the first stage in all layers, its output projection with it under row."""
        m, unit = self.costs.pricer.model, self.costs.units(block).unit
        if block == "mlp":
            each = m.hidden * unit
            weights = self._matrix("gate_up", 2 * each) + row * self._matrix("down_proj", each)
            return m.layers * weights + 3 * self.sizes.buffer(unit)
        each = unit * m.head_dim * m.hidden
        weights = self._matrix("qkv", (1 + 2 / m.group) * each) + row * self._matrix("o_proj", each)
        width = (2 + 2 / m.group) * unit * m.head_dim
        return m.layers * (weights + self.sizes.cache(1) * unit / m.group) + self.sizes.buffer(1) * width

    def column_bytes(self, block: Block) -> float:
        """A unit of hidden columns under column, in all layers."""
        role = "o_proj" if block == "attention" else "down_proj"
        return self.costs.pricer.model.layers * self._matrix(role, HIDDEN_UNIT * self.costs.inputs(block))

    def member_bytes(self, several: bool) -> int:
        """What any part in anything takes."""
        return self.sizes.member_buffers + (self.sizes.slots(self.costs.pricer.model.hidden) if several else 0)

    def head_token_s(self, d: int, phase: int) -> float:
        """What a token of the head takes at least, on average over a share of any size."""
        if (d, phase) not in self._token_s:
            self._token_s[d, phase] = self._measured_token_s(d, phase)
        return self._token_s[d, phase]

    def _measured_token_s(self, d: int, phase: int) -> float:
        units = self.costs.vocabulary
        options = [
            self.costs.head(d, count, alone)[phase] / units.of(count)
            for count in {1, -(-units.count // 2), units.count}
            for alone in (False, True)
        ]
        return min(options)

    def _matrix(self, role: str, weights: float) -> float:
        many = 1 << 20
        return self.sizes.matrix(many, role) / many * weights
