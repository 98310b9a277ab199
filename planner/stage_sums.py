"""How long a pass lasts, as the sum over its stages of the busiest device's time.

Every consumer of an exchange waits for every producer, so that sum is the longest path through the layer graph (`check`
walks the graph to see that it is). Knows steps block by block; what a block costs is computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import groupby

from .cost import CostModel
from .layer_graph import StepBuilder, block_steps, embedding_steps, head_steps
from .model_spec import ModelSpec
from .plan import BlockPlan, Phase, Range, Split, members
from .steps import Block, Kind, Step

Busy = dict[int, float]  # seconds by device
Pass = tuple[int, int, int, Phase]  # rows, context, logits, phase


@dataclass(frozen=True)
class BlockStages:
    """`first`: until the block's first exchange. `middle_s`: stages between its exchanges. `last`: what consumers spend
    on pulling its output, which is the beginning of their next block's first stage.
    """

    first: Busy
    middle_s: float
    last: Busy


@dataclass(frozen=True)
class StageSums:
    """Passes of splits of one model, priced by `cost`; times in seconds."""

    model: ModelSpec
    cost: CostModel
    _found: dict[tuple[object, ...], BlockStages] = field(default_factory=dict)

    def pass_s(self, split: Split, of: Pass) -> float:
        """One pass without its fixed cost."""
        total_s, pulls = 0.0, dict[int, float]()
        for stages, times in self._sequence(split, of):
            first = max(pulls.get(d, 0.0) + busy for d, busy in stages.first.items())
            total_s += times * (first + stages.middle_s)
            pulls = stages.last
        return total_s

    def _sequence(self, split: Split, of: Pass) -> Iterator[tuple[BlockStages, int]]:
        """Blocks in order, a run of equal layers as two: its first attention block follows, and its last MLP block
        precedes, something else; the others come as often as there are layers.
        """
        runs = [
            (window, layer, sum(1 for _ in run))
            for (window, layer), run in groupby(zip(self.model.windows, split.layers, strict=True))
        ]
        after = [members(layer.attention.units) for _, layer, _ in runs[1:]] + [members(split.head) if of[2] else ()]
        yield self._embedding(split.embedding, members(runs[0][1].attention.units), of), 1
        at = 0
        for (window, layer, length), following in zip(runs, after):
            attention, own = members(layer.attention.units), members(layer.mlp.units)
            first = self._block(at, window, "attention", layer.attention, own, of)
            yield first, 1
            if length > 1:
                yield self._block(at, window, "mlp", layer.mlp, attention, of), length - 1
                yield first, length - 1
            yield self._block(at, window, "mlp", layer.mlp, following, of), 1
            at += length
        if of[2]:
            yield self._head(split.head, of), 1

    def _block(
        self, layer: int, window: int, name: Block, plan: BlockPlan, consumers: tuple[int, ...], of: Pass
    ) -> BlockStages:
        key = (window, name, plan, consumers, of)
        return self._once(key, of, lambda b: block_steps(b, layer, name, plan, consumers))

    def _embedding(self, spans: tuple[Range, ...], consumers: tuple[int, ...], of: Pass) -> BlockStages:
        return self._once((spans, consumers, of), of, lambda b: embedding_steps(b, spans, consumers))

    def _head(self, spans: tuple[Range, ...], of: Pass) -> BlockStages:
        return self._once((spans, of), of, lambda b: head_steps(b, spans))

    def _once(self, key: tuple[object, ...], of: Pass, add: Callable[[StepBuilder], None]) -> BlockStages:
        if key not in self._found:
            rows, context, logits, phase = of
            b = StepBuilder(self.model, rows, context, logits, phase)
            add(b)
            self._found[key] = self._stages(b.steps)
        return self._found[key]

    def _stages(self, steps: list[Step]) -> BlockStages:
        """Cut wherever the pulls of another exchange begin."""
        parts: list[tuple[Busy, bool]] = [({}, False)]
        site = -1
        for step in steps:
            if step.kind is Kind.PULL and step.collective != site:
                site = step.collective
                parts.append(({}, True))
            busy, pulls_only = parts[-1]
            busy[step.device] = busy.get(step.device, 0.0) + self.cost.step_s(step)
            parts[-1] = busy, pulls_only and step.kind is Kind.PULL
        last = parts.pop()[0] if parts[-1][1] else {}
        return BlockStages(parts[0][0], sum(max(busy.values()) for busy, _ in parts[1:]), last)
