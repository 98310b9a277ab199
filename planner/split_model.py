"""The CP-SAT model of all splits: blocks by layer class, head and embedding, times of both phases, memory.

Knows how variables, costs and limits come together. Knows nothing of searching (see `solve`).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from .curves import MOST_PIECES, Curve, fit, floors, free_curve
from .exchanges import Exchanges
from .memory import Sizes, host_cap
from .memory_model import add_memory
from .plan import BlockPlan, LayerPlan, Split, members, size
from .price import Pricer
from .request import Request
from .stage_costs import NOTHING, StageCosts
from .stage_times import StageTimes
from .variables import BlockVariables, Shares, Variant, add_spares, hint_shares, hint_spares, make_shares

OBJECTIVE_TICKS = 10**8  # 10**12 made OR-Tools 9.15 hang or abort now and then; beyond 10**9 its linear bounds are weak


@dataclass
class SplitModel:
    """`objective`: ticks of `tick_s` seconds.

    `timed`: False where only memory matters; `limited`: False where it does not. `error`: how far, relatively, fitted
    costs lie above true ones at worst.
    """

    pricer: Pricer
    request: Request
    caps: tuple[int, ...]
    tick_s: float
    cp: Any
    timed: bool = True
    limited: bool = True
    blocks: dict[tuple[str, int], BlockVariables] = field(default_factory=dict)
    layer_class: list[int] = field(default_factory=list)
    objective: Any = 0
    devices_used: list[Any] = field(default_factory=list)
    bytes_used: list[Any] = field(default_factory=list)
    error: float = 0.0

    def __post_init__(self) -> None:
        model = self.pricer.model
        self.costs = StageCosts(self.pricer, self.request.replicate_kv and model.group > 1)

    def build(self) -> None:
        """All variables and constraints."""
        model = self.pricer.model
        keys = [w if 0 < w < self.pricer.workload.context else 0 for w in model.windows]
        self.layer_class = [keys.index(key) for key in keys]
        for layer in sorted(set(self.layer_class)):
            self.blocks["attention", layer] = self._layer_block("attention", layer)
            self.blocks["mlp", layer] = self._layer_block("mlp", layer)
        self.blocks["head", -1] = self._plain("head", self.costs.head)
        self.blocks["embed", -1] = self.blocks["head", -1]
        if not model.tied_embeddings:
            self.blocks["embed", -1] = self._plain("embed", lambda d, units, alone: self.costs.embedding(d, alone))
        self.devices_used = [self._any_use(d) for d in range(len(self.caps))]
        if self.timed:
            self._add_times()
        sizes = Sizes(model, self.pricer.workload, self.pricer.dtype, self.pricer.cache_dtype)
        counts, sums = Counter(self.layer_class), len(self.caps) > 2
        self.bytes_used = add_memory(self.cp, self.blocks, counts, self.devices_used, sizes, sums)
        if self.limited:
            self._limit_memory()

    def _curves(self, costs: Any, units: int) -> list[Curve]:
        if not self.timed:
            return [free_curve(units)] * len(self.caps)
        devices = range(len(self.caps))
        most = MOST_PIECES // len(devices)
        floor = floors([costs(d, units, False) for d in devices])
        fitted = [fit(lambda u, alone, d=d: costs(d, u, alone), units, self.tick_s, floor, most) for d in devices]
        self.error = max(self.error, *(error for _, error in fitted))
        return [curve for curve, _ in fitted]

    def _layer_block(self, block: Any, layer: int) -> BlockVariables:
        wish, by_hand = getattr(self.request, f"{block}_strategy"), getattr(self.request, f"{block}_split")
        units, name = self.costs.units(block), f"{block}{layer}"
        variables = BlockVariables(name)
        for strategy in ("row", "column"):
            if wish not in (None, strategy):
                continue
            present = self.cp.new_bool_var(f"{name}.{strategy}")
            curves = self._curves(
                lambda d, u, alone, s=strategy: self.costs.share(layer, block, s, d, u, alone), units.count
            )
            inputs = make_shares(self.cp, f"{name}.{strategy}", curves, present, units)
            if block == "attention" and self.costs.replicate_kv:
                self._add_spares(inputs, layer, strategy)
            variant = Variant(strategy, inputs)
            if strategy == "column":
                variant.outputs = self._outputs(block, layer, name, inputs)
                if wish is None:
                    self.cp.add(inputs.single == 0)
            variables.variants.append(variant)
        self.cp.add(sum(v.inputs.present for v in variables.variants) == 1)
        if by_hand is not None:
            for d, share in enumerate(by_hand):
                chosen = sum(v.inputs.by_device[d].units for v in variables.variants)
                values = share * self.pricer.model.group if block == "attention" else share
                self.cp.add(chosen == -(-values // units.unit))
        return variables

    def _add_spares(self, inputs: Shares, layer: int, strategy: Any) -> None:
        group = self.pricer.model.group
        costs = [self.costs.replica(layer, strategy, d) if self.timed else NOTHING for d in range(len(self.caps))]
        ticks = [tuple(int(seconds / self.tick_s / group) for seconds in each) for each in costs]
        add_spares(self.cp, inputs.by_device[0].whole.name, inputs, group, ticks)

    def _outputs(self, block: Any, layer: int, name: str, inputs: Shares) -> Shares:
        """Under column: the members of a shared block that write hidden columns."""
        curves = self._curves(
            lambda d, u, alone: self.costs.outputs(layer, block, d, u, alone=False), self.costs.hidden.count
        )
        outputs = make_shares(self.cp, f"{name}.outputs", curves, inputs.present - inputs.single, self.costs.hidden)
        for out, share in zip(outputs.by_device, inputs.by_device):
            self.cp.add(out.used <= share.used - share.whole)
        return outputs

    def _plain(self, name: str, costs: Any) -> BlockVariables:
        """Vocabulary shares of the head or the embedding."""
        curves = self._curves(costs, self.costs.vocabulary.count)
        return BlockVariables(name, [Variant("row", make_shares(self.cp, name, curves, 1, self.costs.vocabulary))])

    def _any_use(self, d: int) -> Any:
        used = self.cp.new_bool_var(f"d{d}.used")
        terms = [block.used(d) for block in self.blocks.values()]
        for term in terms:
            self.cp.add(term <= used)
        self.cp.add(used <= sum(terms))
        return used

    def _add_times(self) -> None:
        """Objective: prefill + new tokens * decode, stage by stage, equal stages counted together."""
        batch, new = self.pricer.workload.batch, self.pricer.workload.new_tokens
        sequence: list[tuple[str, int]] = [("embed", -1)]
        for c in self.layer_class:
            sequence += [("attention", c), ("mlp", c)]
        sequence.append(("head", -1))
        times = StageTimes(self.cp, self.costs, Exchanges(self.costs), self.tick_s)
        total = times.embedding(self.blocks["embed", -1], self.blocks[sequence[1]])
        places = Counter(zip(sequence, sequence[1:], sequence[2:]))
        for (before, here, after), count in places.items():
            total += count * times.block(before, here, after, self.blocks)
        total += times.head(self.blocks[sequence[-2]], self.blocks["head", -1])
        passes = new + batch * sum(chunk.count for chunk in self.pricer.chunks)
        self.objective = total + times.overhead(self.devices_used, passes)

    def _limit_memory(self) -> None:
        profile = self.pricer.profile
        for needed, cap in zip(self.bytes_used, self.caps):
            self.cp.add(needed <= cap)
        on_host = [n for n, d in zip(self.bytes_used, profile.devices) if d.kind == "cpu"]
        if on_host:
            self.cp.add(sum(on_host) <= host_cap(profile))

    def hint(self, split: Split) -> None:
        """Hints shares and strategies of a split whose layers of one class are alike."""
        for (kind, layer), block in self.blocks.items():
            if kind == "embed" and self.pricer.model.tied_embeddings:
                continue
            if kind in ("head", "embed"):
                spans = split.head if kind == "head" else split.embedding
                hint_shares(self.cp, block.variants[0].inputs, _units(spans, self.costs.vocabulary.unit))
                continue
            plan: BlockPlan = getattr(split.layers[layer], kind)
            self._hint_block(kind, block, plan, self.costs.units(kind).unit)  # type: ignore[arg-type]

    def _hint_block(self, kind: str, block: BlockVariables, plan: BlockPlan, unit: int) -> None:
        for v in block.variants:
            here = v.strategy == plan.strategy
            self.cp.add_hint(v.inputs.present, here)
            units = _units(plan.units, unit) if here else None
            hint_shares(self.cp, v.inputs, units)
            if kind == "attention" and self.costs.replicate_kv:
                hint_spares(self.cp, v.inputs, self.pricer.model.group, units)
            if v.outputs:
                shared = here and len(members(plan.units)) > 1
                hint_shares(self.cp, v.outputs, _units(plan.outputs, self.costs.hidden.unit) if shared else None)

    def split_of(self, value: Any) -> Split:
        """The split that a solution stands for; `value` reads a variable or expression."""
        vocabulary = self.costs.vocabulary
        plans = {key: self._block_plan(key, value) for key in self.blocks if key[1] >= 0}
        layers = tuple(LayerPlan(plans["attention", c], plans["mlp", c]) for c in self.layer_class)
        spans = {
            name: vocabulary.spans(_values(self.blocks[name, -1].variants[0].inputs, value))
            for name in ("embed", "head")
        }
        return Split(spans["embed"], layers, spans["head"])

    def _block_plan(self, key: tuple[str, int], value: Any) -> BlockPlan:
        v = next(v for v in self.blocks[key].variants if value(v.inputs.present))
        units = self.costs.units(key[0]).spans(_values(v.inputs, value))  # type: ignore[arg-type]
        if not v.outputs:
            return BlockPlan("row", units)
        hidden = self.costs.hidden
        counts = _values(v.outputs, value)
        if not any(counts):
            counts = tuple(hidden.count * (size(span) > 0) for span in units)
        return BlockPlan("column", units, hidden.spans(counts))


def _values(shares: Shares, value: Any) -> tuple[int, ...]:
    return tuple(value(share.units) for share in shares.by_device)


def _units(spans: Any, unit: int) -> tuple[int, ...]:
    """Ranges back to units; a ragged end counts as a whole unit."""
    return tuple(-(-end // unit) - -(-begin // unit) for begin, end in spans)
