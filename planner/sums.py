"""How partial sums of row blocks are added up: by every consumer, by all members in parts, or by one CPU device.

Knows what each way costs for a set of devices, and picks the fastest for a split. Knows nothing of shares of blocks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import msgspec

from .layer_graph import StepBuilder
from .plan import HIDDEN_UNIT, BlockPlan, LayerPlan, Phase, Range, Split, distinct_layers, members
from .price import Pricer
from .stage_costs import Costs
from .steps import Kind, Step
from .units import Units, proportional

PHASES: tuple[Phase, Phase] = ("decode", "prefill")
Sums = tuple[Range, ...]


@dataclass(frozen=True)
class SumWays:
    """Ways of summing besides the one in which every consumer adds up all parts (`()`)."""

    pricer: Pricer
    _shares: dict[tuple[int, ...], Sums] = field(default_factory=dict)
    _columns: dict[tuple[int, int], float] = field(default_factory=dict)
    _best: dict[tuple[int, ...], tuple[Sums, Sums]] = field(default_factory=dict)
    _middles: dict[tuple[Sums, tuple[int, ...], bool], Costs] = field(default_factory=dict)

    def ways(self, producers: tuple[int, ...]) -> Iterator[Sums]:
        """Reduce-scatter and all-gather among three or more `producers`, and a sum on each CPU device."""
        devices = self.pricer.profile.devices
        if len(producers) > 2:
            yield self.in_parts(producers)
        for d, device in enumerate(devices):
            if device.kind == "cpu" and len(producers) > 1:
                yield self.on_one(d)

    def best(self, producers: tuple[int, ...]) -> tuple[Sums, Sums]:
        """The fastest way for decode and for prefill where the producers are the consumers."""
        if producers not in self._best:
            ways: list[Sums] = [(), *self.ways(producers)] if len(producers) > 1 else [()]
            costs = [self.exchange_costs(producers, sums) for sums in ways]
            decode, prefill = (ways[min(range(len(ways)), key=lambda i: costs[i][phase])] for phase in (0, 1))
            self._best[producers] = decode, prefill
        return self._best[producers]

    def exchange_costs(self, producers: tuple[int, ...], sums: Sums) -> tuple[float, float]:
        """Seconds from the parts of `producers` to their sum at the slowest of them: of a decode step, of a prompt."""
        middle = self.middle_costs(sums, producers) if sums else (0.0,) * 5
        slices, combine = (members(sums), "concat") if sums else (producers, "sum")
        pulls = [self._pull_costs(d, slices, combine) for d in producers]
        return max(p[0] for p in pulls) + middle[0], max(p[1] for p in pulls) + middle[1]

    def _pull_costs(self, d: int, slices: tuple[int, ...], combine: str) -> tuple[float, float]:
        hidden, totals = self.pricer.model.hidden, []
        wide = hidden if combine == "sum" else hidden / len(slices)
        for phase in PHASES:
            total_s = 0.0
            for chunk in self.pricer.phase_chunks(phase):
                b = self._builder(chunk.rows, chunk.context, phase)
                more = {"peers": slices, "widths": (wide,) * len(slices), "combine": combine}
                b.add(d, Kind.PULL, "pull_hidden", hidden, hidden, **more)
                total_s += chunk.count * self.pricer.cost.step_s(b.steps[0])
            totals.append(total_s)
        return totals[0], totals[1]

    def in_parts(self, producers: tuple[int, ...]) -> Sums:
        """Hidden columns for each producer, in proportion to how fast its link moves what a column takes."""
        if producers not in self._shares:
            self._shares[producers] = self._spans({d: 1 / self._column_s(d, producers) for d in producers})
        return self._shares[producers]

    def on_one(self, d: int) -> Sums:
        """All hidden columns for device `d`."""
        return self._spans({d: 1.0})

    def _spans(self, weights: dict[int, float]) -> Sums:
        units = Units(self.pricer.model.hidden, HIDDEN_UNIT)
        everyone = range(len(self.pricer.profile.devices))
        return units.spans(proportional(units.count, [weights.get(d, 0.0) for d in everyone]))

    def _column_s(self, d: int, producers: tuple[int, ...]) -> float:
        """Seconds by which summing all columns of a full chunk exceeds summing a few, over their number."""
        key = (d, len(producers))
        if key not in self._columns:
            self._columns[key] = self._measured_column_s(d, producers)
        return self._columns[key]

    def _measured_column_s(self, d: int, producers: tuple[int, ...]) -> float:
        hidden = self.pricer.model.hidden
        few = min(hidden, HIDDEN_UNIT)
        if hidden == few:
            return 1.0
        return max(self._reducer_s(d, producers, hidden) - self._reducer_s(d, producers, few), 1e-12) / (hidden - few)

    def _reducer_s(self, d: int, producers: tuple[int, ...], width: int) -> float:
        chunk = max(self.pricer.chunks, key=lambda c: c.rows)
        return self._seconds(self._builder(chunk.rows, chunk.context, "prefill"), {d: (0, width)}, producers)

    def middle_costs(self, sums: Sums, producers: tuple[int, ...], pushed: bool = True) -> Costs:
        """The stage between parts and sums: its slowest reducer, in decode, prefill, and prefill's last chunk.

        `pushed`: False for what is left of it at least where one device alone consumes the sums.
        """
        key = (sums, producers, pushed)
        if key not in self._middles:
            self._middles[key] = self._middle_costs(*key)
        return self._middles[key]

    def _middle_costs(self, sums: Sums, producers: tuple[int, ...], pushed: bool) -> Costs:
        spans = {d: sums[d] for d in members(sums)}
        decode, prefill = (
            [
                chunk.count * self._seconds(self._builder(chunk.rows, chunk.context, phase), spans, producers, pushed)
                for chunk in self.pricer.phase_chunks(phase)
            ]
            for phase in PHASES
        )
        return decode[0], sum(prefill), 0.0, 0.0, prefill[-1]

    def _builder(self, rows: int, context: int, phase: Phase) -> StepBuilder:
        b = StepBuilder(self.pricer.model, rows, context, phase=phase)
        b.enter(0, "mlp", (0, 1))
        return b

    def _seconds(
        self, b: StepBuilder, spans: dict[int, Range], producers: tuple[int, ...], pushed: bool = True
    ) -> float:
        everyone = range(len(self.pricer.profile.devices))
        b.reduced_exchange(producers, producers, tuple(spans.get(d, (0, 0)) for d in everyone))
        busy = dict.fromkeys(spans, 0.0)
        for step in b.steps:
            if _of_reducer(step) and (pushed or step.kind is Kind.PULL):
                busy[step.device] += self.pricer.cost.step_s(step)
        return max(busy.values())


def _of_reducer(step: Step) -> bool:
    return (step.kind, step.role) in ((Kind.PULL, "pull_parts"), (Kind.PUSH, "push_hidden"))


def with_best_sums(pricer: Pricer, split: Split, allowed: Callable[[Split], bool]) -> Split:
    """`split` with the fastest allowed way of summing, in each phase, for every row block of several members."""
    ways = SumWays(pricer)
    for phase in PHASES:
        for name in ("attention", "mlp"):
            for block in dict.fromkeys(getattr(layer, name) for layer in split.layers):
                holders = members(block.units)
                if block.strategy == "row" and len(holders) > 1:
                    options = [_summed(block, phase, sums) for sums in ((), *ways.ways(holders))]
                    splits = [exchanged(split, name, block, option) for option in options]
                    split = min(filter(allowed, splits), key=lambda s: pricer.phase_s(s, phase), default=split)
    return split


def _summed(block: BlockPlan, phase: Phase, sums: Sums) -> BlockPlan:
    return msgspec.structs.replace(block, **{f"{phase}_sums": sums})


def exchanged(split: Split, name: str, block: BlockPlan, other: BlockPlan) -> Split:
    """`split` with `other` wherever a layer has `block`."""

    def change(layer: LayerPlan) -> LayerPlan:
        return msgspec.structs.replace(layer, **{name: other}) if getattr(layer, name) == block else layer

    changed = {layer: change(layer) for layer in distinct_layers(split)}
    return msgspec.structs.replace(split, layers=tuple(changed[layer] for layer in split.layers))
