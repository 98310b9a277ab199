"""Splits that differ from a given one in one respect: units moved, another strategy, a device left out, a layer more.

Knows which changes there are and whether they are allowed. Knows nothing of which are good.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, combinations, pairwise, permutations
from typing import Literal

import msgspec

from .baselines import split_bytes
from .memory import Sizes, fits
from .plan import BlockPlan, LayerPlan, Range, Split, distinct_layers, members, size
from .price import Pricer
from .request import Request
from .stage_costs import StageCosts
from .sums import SumWays, exchanged
from .units import Units, proportional
from .wishes import obeys

STEPS = (64, 16, 4, 1)
RECEIVERS = 3
TIGHT = 0.9  # of a cap
Name = Literal["attention", "mlp"]
Part = tuple[int, Name] | None


@dataclass(frozen=True)
class Neighbourhood:
    """Splits one change away that fit and obey the request; equal blocks of a layer class change together."""

    pricer: Pricer
    request: Request
    caps: tuple[int, ...]

    @cached_property
    def ways(self) -> SumWays:
        return SumWays(self.pricer)

    @cached_property
    def costs(self) -> StageCosts:
        return StageCosts(self.pricer, self.request.replicate_kv and self.pricer.model.group > 1)

    def every(self, split: Split) -> Iterator[Split]:
        """A unit moved between any two devices, a strategy flipped, a device left out, for every block and table."""
        everyone = tuple(range(len(self.caps)))
        for _, name, block in self._blocks(split):
            options = [*self._moved(name, block, everyone, everyone, (1,)), *self._reshaped(name, block)]
            yield from self._allowed(exchanged(split, name, block, option) for option in options)
        yield from self._allowed(chain(self._tables(split, (1,)), self._borders(split)))

    def parts(self, split: Split) -> list[Part]:
        """What `promising` can change: every distinct block, by its first layer, then tables and borders."""
        return [*((layer, name) for layer, name, _ in self._blocks(split)), None]

    def promising(self, split: Split, part: Part, reshape: bool) -> Iterator[Split]:
        """Changes of one part: units leave the devices that others wait for, in steps of several sizes.

        `reshape`: strategies and members may change too.
        """
        if part is None:
            trades = self._trades(split) if self._tight(split) else ()
            return self._allowed(chain(self._tables(split, STEPS), self._borders(split), trades))
        layer, name = part
        block: BlockPlan = getattr(split.layers[layer], name)
        busy, idle = self._by_load(layer, name, block)
        moves = self._moved(name, block, busy, idle, STEPS)
        options = chain(moves, self._reshaped(name, block)) if reshape else moves
        return self._allowed(exchanged(split, name, block, option) for option in options)

    def _blocks(self, split: Split) -> list[tuple[int, Name, BlockPlan]]:
        """Distinct blocks, each with the first layer that has it."""
        found: dict[tuple[Name, BlockPlan], int] = {}
        for layer in distinct_layers(split):
            i = split.layers.index(layer)
            found.setdefault(("attention", layer.attention), i)
            found.setdefault(("mlp", layer.mlp), i)
        return [(i, name, block) for (name, block), i in found.items()]

    def reshaped(self, split: Split) -> Iterator[Split]:
        """Block by block: the other strategy, or a device left out."""
        for _, name, block in self._blocks(split):
            yield from self._allowed(exchanged(split, name, block, option) for option in self._reshaped(name, block))

    def allows(self, split: Split) -> bool:
        """Whether a split fits and obeys the request."""
        return fits(split_bytes(self.pricer, split), self.pricer.profile, self.caps) and obeys(
            split, self.request, self.pricer.model
        )

    def _allowed(self, splits: Iterable[Split]) -> Iterator[Split]:
        return (split for split in splits if self.allows(split))

    def _tight(self, split: Split) -> bool:
        return any(n.total > TIGHT * cap for n, cap in zip(split_bytes(self.pricer, split), self.caps))

    def _trades(self, split: Split) -> Iterator[Split]:
        """Vocabulary rows or query heads to another device, and as many bytes of MLP columns back."""
        sizes, (unit, table) = self._sizes, (self.costs.units("mlp"), self.costs.vocabulary)
        columns_bytes = len(split.layers) * (
            sizes.gate_up(unit.unit) + sizes.output("mlp", unit.unit, sizes.model.hidden)
        )
        everyone = tuple(range(len(self.caps)))
        blocks = [(block, name) for _, name, block in self._blocks(split)]
        for a, b in permutations(everyone, 2):
            for step in STEPS:
                back = max(1, round(step * sizes.vocabulary(table.unit) / columns_bytes))
                for spans in shifted(split.head, table, (a,), (b,), (step,)):
                    tied = spans if sizes.model.tied_embeddings else split.embedding
                    moved = msgspec.structs.replace(split, head=spans, embedding=tied)
                    yield from self._all_moved(moved, "mlp", blocks, b, a, back)
                heads_bytes = len(split.layers) * self._head_bytes * self.costs.units("attention").unit
                back = max(1, round(step * heads_bytes / columns_bytes))
                for moved in self._all_moved(split, "attention", blocks, a, b, step):
                    yield from self._all_moved(moved, "mlp", blocks, b, a, back)

    def _all_moved(
        self, split: Split, name: Name, blocks: list[tuple[BlockPlan, Name]], a: int, b: int, step: int
    ) -> Iterator[Split]:
        """Units of every block of that name moved from `a` to `b`, where all have them."""
        for block in [block for block, of in blocks if of == name]:
            options = list(shifted(block.units, self.costs.units(name), (a,), (b,), (step,)))
            if not options:
                return
            split = exchanged(split, name, block, self._with_units(block, options[0]))
        yield split

    @cached_property
    def _sizes(self) -> Sizes:
        return Sizes(self.pricer.model, self.pricer.workload, self.pricer.dtype, self.pricer.cache_dtype)

    @property
    def _head_bytes(self) -> int:
        """Bytes of a query head, with its part of a KV head's weights and cache."""
        sizes, m = self._sizes, self.pricer.model
        kv = (2 * sizes.qkv(1) + sizes.cache(1)) // m.group
        return sizes.qkv(1) + kv + sizes.output("attention", m.head_dim, m.hidden)

    def _borders(self, split: Split) -> Iterator[Split]:
        """A layer cut like its neighbour, where the two are cut differently."""
        for i, (one, other) in enumerate(pairwise(split.layers)):
            for at, layer in ((i, other), (i + 1, one)) if one != other else ():
                layers = (*split.layers[:at], layer, *split.layers[at + 1 :])
                yield msgspec.structs.replace(split, layers=layers)

    def _by_load(self, layer: int, name: Name, block: BlockPlan) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The busiest members in either phase, and the devices that are busy for the shortest time."""
        units = self.costs.units(name)
        loads = []
        for d, span in enumerate(block.units):
            held = -(-size(span) // units.unit)
            costs = self.costs.share(layer, name, block.strategy, d, held, alone=False) if held else (0.0,) * 5
            loads.append((costs[0] + costs[2], costs[1] + costs[3]))
        holders = members(block.units)
        busy = {max(holders, key=lambda d: loads[d][phase]) for phase in (0, 1)}
        idle = sorted(range(len(loads)), key=lambda d: sum(loads[d]))[:RECEIVERS]
        return tuple(sorted(busy)), tuple(idle)

    def _moved(
        self, name: Name, block: BlockPlan, donors: Iterable[int], receivers: Iterable[int], steps: Iterable[int]
    ) -> Iterator[BlockPlan]:
        receivers = tuple(receivers)
        for spans in shifted(block.units, self.costs.units(name), donors, receivers, steps):
            yield self._with_units(block, spans)
        for spans in shifted(block.outputs, self.costs.hidden, donors, receivers, steps):
            if set(members(spans)) <= set(members(block.units)):
                yield msgspec.structs.replace(block, outputs=spans)

    def _reshaped(self, name: Name, block: BlockPlan) -> Iterator[BlockPlan]:
        """The other strategy, every member left out in favour of the others, every other device let in by its speed."""
        if len(members(block.units)) > 1:
            yield from self._flipped(block)
        units = self.costs.units(name)
        held = [-(-size(span) // units.unit) for span in block.units]
        for d in members(block.units) if len(members(block.units)) > 1 else ():
            rest = [0 if e == d else count for e, count in enumerate(held)]
            yield self._with_units(block, units.spans(proportional(units.count, rest)))
        speeds = [device.read_bytes_per_s for device in self.pricer.profile.devices]
        together = sum(speeds[d] for d in members(block.units))
        for d in range(len(held)):
            if not held[d] and units.count > 1:
                joined = [float(count) for count in held]
                joined[d] = units.count * speeds[d] / together
                yield self._with_units(block, units.spans(proportional(units.count, joined)))

    def _flipped(self, block: BlockPlan) -> Iterator[BlockPlan]:
        """The other strategy; columns go by units, or by how fast a device reads."""
        if block.strategy == "column":
            yield self._with_units(BlockPlan("row", block.units), block.units)
            return
        yield self._with_units(BlockPlan("column", block.units), block.units)
        speeds = [d.read_bytes_per_s * (size(span) > 0) for d, span in zip(self.pricer.profile.devices, block.units)]
        outputs = self.costs.hidden.spans(proportional(self.costs.hidden.count, speeds))
        yield BlockPlan("column", block.units, outputs)

    def swapped(self, split: Split) -> Iterator[Split]:
        """The parts of two devices exchanged that differ in nothing but their names."""
        units = {name: self.costs.units(name).unit for name in ("attention", "mlp")}
        units |= {"hidden": self.costs.hidden.unit, "vocabulary": self.costs.vocabulary.unit}
        nameless = [msgspec.structs.replace(d, name="", cores=()) for d in self.pricer.profile.devices]
        for a, b in combinations(range(len(nameless)), 2):
            if nameless[a] == nameless[b] and self.caps[a] == self.caps[b]:
                yield with_swap(split, a, b, units)

    def _with_units(self, block: BlockPlan, spans: tuple[Range, ...]) -> BlockPlan:
        """Under row, sums go the fastest way; under column, outputs stay where they may, or follow the units."""
        if block.strategy == "row":
            return BlockPlan("row", spans, (), *self.ways.best(members(spans)))
        outputs = block.outputs
        if not outputs or not set(members(outputs)) <= set(members(spans)):
            outputs = self.costs.hidden.spans(proportional(self.costs.hidden.count, [size(span) for span in spans]))
        return BlockPlan("column", spans, outputs)

    def _tables(self, split: Split, steps: tuple[int, ...]) -> Iterator[Split]:
        """Vocabulary rows moved between devices; tied tables move together."""
        everyone = tuple(range(len(self.caps)))
        for spans in shifted(split.head, self.costs.vocabulary, everyone, everyone, steps):
            tied = self.pricer.model.tied_embeddings
            yield msgspec.structs.replace(split, head=spans, embedding=spans if tied else split.embedding)
        if not self.pricer.model.tied_embeddings:
            whole = Units(self.pricer.model.vocab, self.pricer.model.vocab)
            for d in everyone:
                alone = whole.spans(tuple(int(e == d) for e in everyone))
                yield msgspec.structs.replace(split, embedding=alone)


def shifted(
    spans: tuple[Range, ...], units: Units, donors: Iterable[int], receivers: tuple[int, ...], steps: Iterable[int]
) -> Iterator[tuple[Range, ...]]:
    """Shares with some units moved from one device to another; none where there are no spans."""
    held = [-(-end // units.unit) - -(-begin // units.unit) for begin, end in spans]
    for a in donors if held else ():
        for b in receivers:
            for step in {min(step, held[a]) for step in steps} - {0} if a != b else ():
                counts = list(held)
                counts[a], counts[b] = counts[a] - step, counts[b] + step
                yield units.spans(tuple(counts))


def with_swap(split: Split, a: int, b: int, units: dict[str, int]) -> Split:
    """The shares of devices `a` and `b` exchanged everywhere, ranges still in device order.

    `units`: what shares of attention, mlp, hidden columns and vocabulary are multiples of.
    """

    def spans(old: tuple[Range, ...], of: str) -> tuple[Range, ...]:
        if not old:
            return old
        counts = [-(-end // units[of]) - -(-begin // units[of]) for begin, end in old]
        counts[a], counts[b] = counts[b], counts[a]
        return Units(old[-1][1], units[of]).spans(tuple(counts))

    def block(old: BlockPlan, of: str) -> BlockPlan:
        hidden = (spans(each, "hidden") for each in (old.outputs, old.decode_sums, old.prefill_sums))
        return BlockPlan(old.strategy, spans(old.units, of), *hidden)

    layers = {
        layer: LayerPlan(block(layer.attention, "attention"), block(layer.mlp, "mlp"))
        for layer in distinct_layers(split)
    }
    head, embedding = (spans(table, "vocabulary") for table in (split.head, split.embedding))
    return Split(embedding, tuple(layers[layer] for layer in split.layers), head)
