"""Good splits without a solver: shares that keep all devices of a set busy equally long, within their memory.

Knows costs of shares. Knows neither proofs nor what happens at the borders of blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial

import msgspec
import numpy as np

from .baselines import proportional_split, split_bytes
from .memory import fits
from .plan import BlockPlan, LayerPlan, Range, Split
from .price import Pricer
from .stage_costs import Costs, StageCosts
from .steps import Block
from .sums import SumWays
from .units import Units

SAMPLES = 12
ROOM = 0.98  # of a device's cap, since shares are rounded to units
Devices = tuple[int, ...]


@dataclass(frozen=True)
class Balancer:
    """Shares units so that the slowest device of a set is as fast as can be, prefill and decode added up."""

    pricer: Pricer
    caps: tuple[int, ...]
    replicate_kv: bool

    @cached_property
    def costs(self) -> StageCosts:
        return StageCosts(self.pricer, self.replicate_kv and self.pricer.model.group > 1)

    def splits(self) -> Iterator[Split]:
        """Row splits that fit, over all devices and then over ever fewer: the slowest loss goes first."""
        held: Devices = tuple(range(len(self.caps)))
        while held:
            if (split := self.split(held)) is not None:
                yield split
            smaller = [tuple(e for e in held if e != d) for d in held]
            held = min(smaller, key=self._layer_s, default=())

    def pattern(self, held: Devices) -> LayerPlan | None:
        """One layer over `held`, by row; None where all layers like it would not fit."""
        attention, mlp = self._shares("attention", held), self._shares("mlp", held)
        return LayerPlan(BlockPlan("row", attention), BlockPlan("row", mlp)) if attention and mlp else None

    def split(self, held: Devices) -> Split | None:
        """All layers alike over `held`; None where that does not fit."""
        m, layer = self.pricer.model, self.pattern(held)
        head = self._spread(self._vocabulary, self.costs.vocabulary, held)
        if layer is None or head is None:
            return None
        split = Split(head, (layer,) * m.layers, head)
        options = [split] if m.tied_embeddings else [self._embedded(split, d) for d in held] + [split]
        fitting = [s for s in options if fits(split_bytes(self.pricer, s), self.pricer.profile, self.caps)]
        return min(fitting, key=self.pricer.split_s, default=None)

    def _embedded(self, split: Split, d: int) -> Split:
        vocab = self.pricer.model.vocab
        whole = Units(vocab, vocab).spans(tuple(int(e == d) for e in range(len(self.caps))))
        return msgspec.structs.replace(split, embedding=whole)

    def _layer_s(self, held: Devices) -> float:
        """Seconds of a layer's two stages, for the whole workload; infinite where memory is too small."""
        if not held:
            return np.inf
        spans = [(name, self._shares(name, held)) for name in ("attention", "mlp")]
        return 2 * self._exchange_s(held) + sum(np.inf if s is None else self._slowest_s(name, s) for name, s in spans)

    def _exchange_s(self, held: Devices) -> float:
        """An all-reduce among them, for the whole workload."""
        work, sums = self.pricer.workload, self._ways.best(held)
        (decode_s, _), (_, prefill_s) = (self._ways.exchange_costs(held, way) for way in sums)
        return work.new_tokens * decode_s + work.batch * prefill_s if len(held) > 1 else 0.0

    @cached_property
    def _ways(self) -> SumWays:
        return SumWays(self.pricer)

    def _slowest_s(self, name: str, spans: tuple[Range, ...]) -> float:
        unit = self.costs.units(name).unit  # type: ignore[arg-type]
        return max(float(self._tables[name][d][-(-(end - begin) // unit)]) for d, (begin, end) in enumerate(spans))

    def _shares(self, name: str, held: Devices) -> tuple[Range, ...] | None:
        return self._spread(self._tables[name], self.costs.units(name), held)  # type: ignore[arg-type]

    def _spread(self, tables: list[np.ndarray], units: Units, held: Devices) -> tuple[Range, ...] | None:
        """The least time in which the devices can take all units, found by bisection; surplus goes from the slowest."""
        limits = [int(self._room[d] * units.count) if d in held else 0 for d in range(len(self.caps))]
        if sum(limits) < units.count:
            return None
        low, high = 0.0, max(float(table[-1]) for table in tables)
        for _ in range(50):
            middle = (low + high) / 2
            low, high = (low, middle) if sum(_taken(tables, limits, middle)) >= units.count else (middle, high)
        counts = _taken(tables, limits, high)
        for _ in range(sum(counts) - units.count):
            counts[max((d for d in held if counts[d]), key=lambda d: tables[d][counts[d]])] -= 1
        return units.spans(tuple(counts))

    @cached_property
    def _room(self) -> list[float]:
        """The share of everything that each device can hold."""
        count, room = len(self.caps), []
        for d, cap in enumerate(self.caps):
            whole = split_bytes(self.pricer, proportional_split(self.pricer, [float(e == d) for e in range(count)]))[d]
            room.append(max(0.0, min(1.0, (ROOM * cap - whole.workspace) / (whole.weights + whole.cache))))
        return room

    @cached_property
    def _tables(self) -> dict[str, list[np.ndarray]]:
        return {"attention": self._block_tables("attention"), "mlp": self._block_tables("mlp")}

    def _block_tables(self, name: Block) -> list[np.ndarray]:
        count, devices = self.costs.units(name).count, range(len(self.caps))
        return [self._table(partial(self._share, name, d), count) for d in devices]

    def _share(self, name: Block, d: int, units: int) -> Costs:
        return self.costs.share(0, name, "row", d, units, alone=False)

    @cached_property
    def _vocabulary(self) -> list[np.ndarray]:
        count = self.costs.vocabulary.count
        return [self._table(partial(self.costs.head, d, alone=False), count) for d in range(len(self.caps))]

    def _table(self, costs: Callable[[int], Costs], count: int) -> np.ndarray:
        """[u]: weighted seconds of u units, rising, between samples by straight lines."""
        at = sorted({max(1, round(count * i / SAMPLES)) for i in range(SAMPLES + 1)})
        seconds = [sum(c[:4]) for c in map(costs, at)]
        return np.maximum.accumulate(np.interp(np.arange(count + 1), [0, *at], [0.0, *seconds]))


def _taken(tables: list[np.ndarray], limits: list[int], seconds: float) -> list[int]:
    """Units that each device does in that time, within its limit."""
    return [min(limit, int(np.searchsorted(t, seconds, side="right")) - 1) for t, limit in zip(tables, limits)]
