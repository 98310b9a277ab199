"""Why the plan is what it is, in sentences with numbers: each compares the plan with the same plan changed in one way.

Knows how to flip a strategy, move a unit or change a number format, and prices the result in both phases. Knows nothing
of the solver.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import msgspec

from ..hwprofiles.units import binary_bytes, duration
from .baselines import split_bytes
from .memory import fits
from .model_spec import ModelSpec
from .plan import HIDDEN_UNIT, VOCAB_UNIT, BlockPlan, Predicted, Range, Split, distinct_layers, members, size
from .price import Pricer
from .units import Units
from .weight_formats import mlp_unit
from .wording import layer_groups, layer_words, shares_words

BLOCKS = ("attention", "mlp")


@dataclass(frozen=True)
class Shipped:
    """What others are compared with: the split of the plan, and the memory that devices may use."""

    pricer: Pricer
    split: Split
    caps: tuple[int, ...]

    @cached_property
    def predicted(self) -> Predicted:
        return self.pricer.predict(self.split)

    def against(self, other: Split) -> str:
        """What `other` would take, as changes against the plan, and the memory that it lacks."""
        now, then = self.predicted, self.pricer.predict(other)
        whole = _percent(self.pricer.objective_s(then), self.pricer.objective_s(now))
        prefill = f"prefill {duration(then.prefill_s)}, {_percent(then.prefill_s, now.prefill_s)}"
        step_s, now_s = then.decode_s_per_token, now.decode_s_per_token
        times = f"{whole} time in all (a decode step {duration(step_s)}, {_percent(step_s, now_s)}; {prefill})"
        return times + self.lacks(other)

    def lacks(self, other: Split) -> str:
        needed = split_bytes(self.pricer, other)
        for device, held, cap in zip(self.pricer.profile.devices, needed, self.caps):
            if held.total > cap:
                return f", but it does not fit: {device.name} lacks {binary_bytes(held.total - cap)}"
        return "" if fits(needed, self.pricer.profile, self.caps) else ", but it does not fit in host memory"

    def exchanged(self, name: str, others: dict[BlockPlan, BlockPlan]) -> Split:
        """The split with other blocks in place of some."""
        layers = {
            layer: msgspec.structs.replace(layer, **{name: others.get(block, block)})
            for layer in set(self.split.layers)
            for block in [getattr(layer, name)]
        }
        return msgspec.structs.replace(self.split, layers=tuple(layers[layer] for layer in self.split.layers))


def reasons(pricer: Pricer, split: Split, source: str, caps: tuple[int, ...]) -> list[str]:
    """One line for each choice; `source` says where the plan comes from, `caps` are the bytes devices may use."""
    lines, shipped = [source], Shipped(pricer, split, caps)
    for name in BLOCKS:
        lines += _strategy_reasons(shipped, name) + _absences(shipped, name)
    lines += _head_absences(shipped)
    if pricer.dtype == "float32":
        lines += _bfloat16_note(pricer, split)
    return lines


def _strategy_reasons(shipped: Shipped, name: str) -> list[str]:
    """Why row or column, for each distinct shared block."""
    lines, model = [], shipped.pricer.model
    for block in dict.fromkeys(getattr(layer, name) for layer in shipped.split.layers):
        if len(members(block.units)) < 2:
            continue
        other = _flipped(model, block)
        change = shipped.against(shipped.exchanged(name, {block: other}))
        shares = shares_words(block, model.group if name == "attention" else 1)
        where = f"{shares}{_where(shipped.split, name, block)}"
        lines.append(
            f"{name} is split by {block.strategy} ({where}): {other.strategy} with these shares would take {change}"
        )
    return lines


def _where(split: Split, name: str, block: BlockPlan) -> str:
    """Which layers have this block; nothing where all do."""
    numbers = [i for layer, at in layer_groups(split.layers).items() if getattr(layer, name) == block for i in at]
    return f", layers {layer_words(sorted(numbers))}" if len(numbers) < len(split.layers) else ""


def _absences(shipped: Shipped, name: str) -> list[str]:
    """Why a device holds nothing of a block in any layer: what one unit a layer on it would cost."""
    pricer, m, lines = shipped.pricer, shipped.pricer.model, []
    blocks = list(dict.fromkeys(getattr(layer, name) for layer in shipped.split.layers))
    whole = all(end % m.group == 0 for block in blocks for _, end in block.units)
    unit = (m.group if whole else 1) if name == "attention" else mlp_unit(m, pricer.dtype)
    for d, device in enumerate(pricer.profile.devices):
        if any(size(block.units[d]) for block in blocks):
            continue
        moved = {block: spans for block in blocks if (spans := _with_a_unit(block.units, d, unit))}
        if not moved:
            lines.append(f"{device.name} has no part in {name}: there is one unit only")
            continue
        others = {block: msgspec.structs.replace(block, units=spans) for block, spans in moved.items()}
        change = shipped.against(shipped.exchanged(name, others))
        lines.append(f"{device.name} has no part in {name}: with one unit a layer it would take {change}")
    return lines


def _head_absences(shipped: Shipped) -> list[str]:
    """Why a device that holds something holds nothing of the head."""
    split, model, lines = shipped.split, shipped.pricer.model, []
    layers = distinct_layers(split)
    for d, device in enumerate(shipped.pricer.profile.devices):
        idle = not any(size(getattr(layer, name).units[d]) for layer in layers for name in BLOCKS)
        spans = None if idle or size(split.head[d]) else _with_a_unit(split.head, d, VOCAB_UNIT)
        if spans:
            tied = {"embedding": spans} if model.tied_embeddings else {}
            change = shipped.against(msgspec.structs.replace(split, head=spans, **tied))
            lines.append(f"{device.name} has no part in the head: with {VOCAB_UNIT} rows it would take {change}")
    return lines


def _with_a_unit(spans: tuple[Range, ...], d: int, unit: int) -> tuple[Range, ...] | None:
    """One unit for device `d`, from the largest share; None where that is all there is."""
    ends = Units(spans[-1][1], unit)
    counts = [-(-end // unit) - -(-begin // unit) for begin, end in spans]
    donor = max(range(len(counts)), key=lambda i: counts[i])
    if counts[donor] < 2:
        return None
    counts[donor], counts[d] = counts[donor] - 1, counts[d] + 1
    return ends.spans(tuple(counts))


def _bfloat16_note(pricer: Pricer, split: Split) -> list[str]:
    half = Pricer(pricer.model, pricer.profile, "bfloat16", pricer.workload, pricer.cache_dtype)
    try:
        predicted = half.predict(split)
    except ValueError:
        return []
    return [f"weights are float32; this split in bfloat16 would decode {predicted.decode_tokens_per_s:.1f} tokens/s"]


def _flipped(model: ModelSpec, block: BlockPlan) -> BlockPlan:
    if block.strategy == "column":
        return BlockPlan("row", block.units)
    hidden, total = Units(model.hidden, HIDDEN_UNIT), block.units[-1][1]
    ends = [round(hidden.count * end / total) for _, end in block.units]
    counts = tuple(end - begin for begin, end in zip([0, *ends], ends))
    return BlockPlan("column", block.units, hidden.spans(counts))


def _percent(other_s: float, now_s: float) -> str:
    percent = 100 * (other_s / now_s - 1)
    return f"{abs(percent):.1f} % {'more' if percent >= 0 else 'less'}"
