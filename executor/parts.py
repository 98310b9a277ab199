"""How a CPU device keeps matrices in the formats of their checkpoint (see `tiles`). Knows neither files nor steps."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from .grouped import Columns, GroupedRows
from .tiles import Parts, Tiles
from .weights import Shard


class PartsKeeper:
    """Quantised matrices in tiles, dense ones as they are."""

    def part(self, source: GroupedRows, rows: Columns) -> Tiles:
        """Rows of `source`: a range of them, or their numbers in any order."""
        return Tiles(source, rows)

    def shard(self, role: str, parts: Sequence[Tiles | torch.Tensor], bias: torch.Tensor | None) -> Shard:
        return Shard(torch.empty(0), bias, Parts(parts))
