"""Why the plan is what it is, in sentences with numbers: each compares the plan with the same plan changed in one way.

Knows how to flip a strategy or a number format and price the result. Knows nothing of the solver.
"""

from __future__ import annotations

import msgspec

from .model_spec import ModelSpec
from .plan import HIDDEN_UNIT, BlockPlan, LayerPlan, Split, members, size
from .price import Pricer
from .units import Units


def reasons(pricer: Pricer, split: Split, source: str) -> list[str]:
    """One line for each choice; `source` says where the plan comes from."""
    lines = [source]
    for name in ("attention", "mlp"):
        lines += _strategy_reasons(pricer, split, name) + _absences(pricer, split, name)
    if pricer.dtype == "float32":
        lines += _bfloat16_note(pricer, split)
    return lines


def _strategy_reasons(pricer: Pricer, split: Split, name: str) -> list[str]:
    """Why row or column, for each distinct shared block."""
    lines, now_s = [], pricer.split_s(split)
    for block in dict.fromkeys(getattr(layer, name) for layer in split.layers):
        if len(members(block.units)) < 2:
            continue
        other = _flipped(pricer.model, block)
        other_s = pricer.split_s(_exchanged(split, name, block, other))
        verdict = f"{other.strategy} would take {_change(other_s, now_s)}"
        lines.append(f"{name} is split by {block.strategy} ({_shares(block)}): {verdict}")
    return lines


def _absences(pricer: Pricer, split: Split, name: str) -> list[str]:
    """Why a device holds nothing of a block: what one unit on it would cost, taken from the largest share."""
    lines, now_s = [], pricer.split_s(split)
    block: BlockPlan = getattr(split.layers[0], name)
    for d, device in enumerate(pricer.profile.devices):
        if size(block.units[d]) or any(size(getattr(layer, name).units[d]) for layer in set(split.layers)):
            continue
        other = _with_a_unit(pricer, block, name, d)
        if other is None:
            lines.append(f"{device.name} has no part in {name}: there is one unit only")
            continue
        other_s = pricer.split_s(_exchanged(split, name, block, other))
        lines.append(f"{device.name} has no part in {name}: with one unit it would take {_change(other_s, now_s)}")
    return lines


def _with_a_unit(pricer: Pricer, block: BlockPlan, name: str, d: int) -> BlockPlan | None:
    from .stage_costs import StageCosts

    units = StageCosts(pricer).units(name)  # type: ignore[arg-type]
    counts = [-(-size(span) // units.unit) for span in block.units]
    donor = max(range(len(counts)), key=lambda i: counts[i])
    if counts[donor] < 2:
        return None
    counts[donor], counts[d] = counts[donor] - 1, 1
    return msgspec.structs.replace(block, units=units.spans(tuple(counts)))


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


def _exchanged(split: Split, name: str, block: BlockPlan, other: BlockPlan) -> Split:
    def change(layer: LayerPlan) -> LayerPlan:
        return msgspec.structs.replace(layer, **{name: other}) if getattr(layer, name) == block else layer

    return msgspec.structs.replace(split, layers=tuple(map(change, split.layers)))


def _shares(block: BlockPlan) -> str:
    return ":".join(str(size(span)) for span in block.units)


def _change(other_s: float, now_s: float) -> str:
    percent = 100 * (other_s / now_s - 1)
    return f"{other_s:.3g} s, {abs(percent):.1f} % {'more' if percent >= 0 else 'less'}, for the whole workload"
