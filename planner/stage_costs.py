"""What one stage of one block costs on one device, as a function of its share; both phases at once.

Knows which steps make a stage. Knows nothing of the other devices' shares, or of how costs become constraints.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

from .layer_graph import StepBuilder, attention_inputs, mlp_inputs, scale_table_bytes
from .plan import HIDDEN_UNIT, VOCAB_UNIT, Range, Strategy
from .price import Chunk, Pricer
from .steps import Block, Kind, Step
from .units import Units
from .weight_formats import mlp_unit

# Seconds of the whole workload, all new tokens and all prompts: compute in decode and prefill; pushes in decode, in all
# chunks of prefill, in its last chunk.
Costs = tuple[float, float, float, float, float]
NOTHING: Costs = (0.0,) * 5
OUTPUT_ROLE = {"attention": "o_proj", "mlp": "down_proj"}


def less(costs: Costs, other: Costs, times: float = 1.0) -> Costs:
    """`costs - times * other`."""
    a, b, c, d, e = (one - times * two for one, two in zip(costs, other))
    return a, b, c, d, e


@dataclass(frozen=True)
class StageCosts:
    """Prices stages on single devices in seconds of the whole workload, as often as a layer has them.

    `replicate_kv`: attention is cut by query heads; costs are then those of a share without any KV head that another
    device caches too, and `replica` is what one more of those costs.
    """

    pricer: Pricer
    replicate_kv: bool = False
    _pulls: dict[tuple[object, ...], Costs] = field(default_factory=dict)
    _replicas: dict[tuple[int, Strategy, int], Costs] = field(default_factory=dict)

    @cached_property
    def phases(self) -> tuple[list[Chunk], list[Chunk]]:
        return self.pricer.phase_chunks("decode"), self.pricer.chunks

    @cached_property
    def hidden(self) -> Units:
        return Units(self.pricer.model.hidden, HIDDEN_UNIT)

    @cached_property
    def vocabulary(self) -> Units:
        return Units(self.pricer.model.vocab, VOCAB_UNIT)

    def units(self, block: Block) -> Units:
        """Query heads of a KV head (single ones where KV heads may be replicated), or MLP columns."""
        m = self.pricer.model
        if block == "attention":
            return Units(m.heads, 1 if self.replicate_kv else m.group)
        return Units(m.mlp, mlp_unit(m, self.pricer.dtype))

    def inputs(self, block: Block) -> int:
        """Width of the output projection's input."""
        m = self.pricer.model
        return m.heads * m.head_dim if block == "attention" else m.mlp

    def share(self, layer: int, block: Block, strategy: Strategy, d: int, units: float, alone: bool) -> Costs:
        """A block's first stage with `units` units, the output projection included under row, without the residual."""
        costs = self._first_stage(layer, block, strategy, d, (0, self.units(block).of(units)), alone)
        missing = -units % self.pricer.model.group if block == "attention" and self.replicate_kv else 0
        if not missing:
            return costs
        return less(costs, self.replica(layer, strategy, d), missing / self.pricer.model.group)

    def replica(self, layer: int, strategy: Strategy, d: int) -> Costs:
        """The least that caching one KV head more adds to a share."""
        key = (layer, strategy, d)
        if key not in self._replicas:
            self._replicas[key] = self._replica(*key)
        return self._replicas[key]

    def _replica(self, layer: int, strategy: Strategy, d: int) -> Costs:
        group, heads = self.pricer.model.group, self.pricer.model.heads
        added = []
        for whole in sorted({group, heads // 2 // group * group or group, heads - group}):
            if 0 < whole < heads:
                spans = ((1, whole + 1), (0, whole))
                more, same = (self._first_stage(layer, "attention", strategy, d, span, False) for span in spans)
                added.append(less(more, same))
        least = [max(0.0, min(each)) for each in zip(*added)] or list(NOTHING)
        return least[0], least[1], least[2], least[3], least[4]

    def _first_stage(self, layer: int, block: Block, strategy: Strategy, d: int, span: Range, alone: bool) -> Costs:
        build = attention_inputs if block == "attention" else mlp_inputs
        hidden = self.pricer.model.hidden

        def steps(b: StepBuilder) -> int:
            width = build(b, d, span)
            if strategy == "column":
                return 0 if alone else width
            extra = scale_table_bytes(b.model, block, width)
            b.add(d, Kind.LINEAR, OUTPUT_ROLE[block], width, hidden, extra_bytes=extra)
            return hidden

        return self.costs(layer, block, d, alone, steps)

    def outputs(self, layer: int, block: Block, d: int, units: float, alone: bool) -> Costs:
        """The second stage of a column block with `units` hidden units."""
        width, inputs = self.hidden.of(units), self.inputs(block)

        def steps(b: StepBuilder) -> int:
            b.add(d, Kind.LINEAR, OUTPUT_ROLE[block], inputs, width)
            b.add(d, Kind.RESIDUAL, "residual", width, width)
            return width

        return self.costs(layer, block, d, alone, steps)

    def residual(self, block: Block, d: int, alone: bool) -> Costs:
        hidden = self.pricer.model.hidden

        def steps(b: StepBuilder) -> int:
            b.add(d, Kind.RESIDUAL, "residual", hidden, hidden)
            return 0

        return self.costs(0, block, d, alone, steps)

    def embedding(self, d: int, alone: bool) -> Costs:
        hidden = self.pricer.model.hidden

        def steps(b: StepBuilder) -> int:
            b.add(d, Kind.EMBED, "embed", hidden, hidden)
            return hidden

        return self.costs(-1, "embed", d, alone, steps)

    def head(self, d: int, units: float, alone: bool) -> Costs:
        hidden, tokens = self.pricer.model.hidden, self.vocabulary.of(units)

        def steps(b: StepBuilder) -> int:
            b.rows = b.logits
            b.add(d, Kind.NORM, "norm", hidden, hidden)
            b.add(d, Kind.LINEAR, "lm_head", hidden, tokens)
            b.add(d, Kind.ARGMAX, "argmax", tokens, 1)
            return 0

        return self.costs(-1, "head", d, alone, steps, last_only=True)

    def pull(self, d: int, producers: tuple[int, ...], width: int, combine: str, alone: bool = False) -> Costs:
        """Pulls of `width` values a row from each of `producers` (sum), or in all from those that are not `d` (concat).

        In decode, in prefill, and as last cost in prefill's last chunk.
        """
        key = (d, len(producers), d in producers, width, combine, alone)
        if key not in self._pulls:
            self._pulls[key] = self._pull(d, producers, width, combine, alone)
        return self._pulls[key]

    def _pull(self, d: int, producers: tuple[int, ...], width: int, combine: str, alone: bool) -> Costs:
        linked = self.pricer.profile.devices[d].link is not None
        peers = tuple(p for p in producers if p != d or combine == "sum" or not linked) or producers
        each = width if combine == "sum" else width / len(peers)

        def steps(b: StepBuilder) -> int:
            more = {"peers": peers, "widths": (each,) * len(peers), "combine": combine}
            b.add(d, Kind.PULL, "pull", width, width, **more)
            return 0

        every = self.costs(0, "mlp", d, alone, steps)
        last = self.costs(0, "mlp", d, alone, steps, last_only=True)
        return every[:4] + (last[1],)

    def costs(
        self,
        layer: int,
        block: Block,
        d: int,
        alone: bool,
        steps: Callable[[StepBuilder], int],
        last_only: bool = False,
    ) -> Costs:
        """Runs `steps`, which adds compute and returns the width it pushes, for every chunk of both phases."""
        compute, push, last = [0.0, 0.0], [0.0, 0.0], 0.0
        for phase, chunks in enumerate(self.phases):
            for chunk in chunks[-1:] if last_only else chunks:
                b = StepBuilder(self.pricer.model, chunk.rows, chunk.context, chunk.logits)
                b.enter(layer, block, (d,) if alone else (d, d))
                width = steps(b)
                compute[phase] += chunk.count * self.seconds(b.steps)
                if width:
                    b.add(d, Kind.PUSH, "push", width, width)
                    last = self.pricer.cost.step_s(b.steps[-1])
                    push[phase] += chunk.count * last
        return self.weighted((compute[0], compute[1], push[0], push[1], last))

    def weighted(self, costs: Costs) -> Costs:
        """A decode step's costs as often as there are new tokens, a prompt's as often as there are sequences."""
        new, batch = self.pricer.workload.new_tokens, self.pricer.workload.batch
        return new * costs[0], batch * costs[1], new * costs[2], batch * costs[3], batch * costs[4]

    def seconds(self, steps: list[Step]) -> float:
        """Of steps one after the other."""
        return sum(map(self.pricer.cost.step_s, steps))
