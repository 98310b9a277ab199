"""A Plan as people read it: who holds what, what it is expected to reach, how sure that is, and why.

Knows the plan alone: no model, profile or solver.
"""

from __future__ import annotations

from ..hwprofiles.units import Table, binary_bytes, duration
from .memory import PHASES
from .plan import BlockPlan, LayerPlan, Plan, Range, members, size
from .wording import layer_groups, layer_words, listed, strategy_words

PROVEN_GAP = 0.01
TIE = 0.005  # plans nearer than this count as equal in the search, too
LEAST_TOLD = 0.0005  # rounds to 0.1 %
THIS_PLAN = "this plan"


def plan_tables(plan: Plan) -> list[Table]:
    """The split, device by device, and the plan among its baselines, fastest first."""
    alike = len(set(plan.layers)) == 1
    return [*([_split_table(plan)] if alike else [_layers_table(plan), _vocabulary_table(plan)]), _baseline_table(plan)]


def split_notes(plan: Plan) -> list[str]:
    """What the tables of the split leave out: shared KV heads, and who adds up partial sums."""
    notes, group = [], queries_per_kv_head(plan)
    spans = {span for layer in set(plan.layers) for span in layer.attention.units if size(span)}
    if any(end % group for span in spans for end in span):
        notes.append("a fraction of a KV head: its keys and values are cached by every device that reads it")
    for phase in PHASES:
        for name in ("attention", "mlp"):
            sums = {getattr(layer, name).sums(phase) for layer in plan.layers}
            notes += [_sum_note(plan, phase, name, spans) for spans in sorted(sums) if spans]
    return notes


def queries_per_kv_head(plan: Plan) -> int:
    """Query heads that share a KV head, as the plan counts them."""
    queries = sum(plan.layers[0].attention.units[-1][1] for _ in plan.layers)
    return max(1, round(queries / sum(use.attention_units for use in plan.device_use)))


def memory_table(plan: Plan) -> Table:
    """What fills each device's memory."""
    rows: list[tuple[str, ...]] = [
        (
            use.name,
            *map(binary_bytes, (use.weight_bytes, use.cache_bytes, use.workspace_bytes, use.bytes, use.cap_bytes)),
        )
        for use in plan.device_use
    ]
    return "Memory", ("device", "weights", "KV cache", "workspace", "sum", "cap"), rows


def verdict(plan: Plan) -> str:
    """One line: what the plan is expected to reach, and how far from the best it can be."""
    near = plan.status == "optimal" and plan.gap < PROVEN_GAP
    proof = "proven optimal" if near else "the fastest found"
    return (
        f"{proof}, {_least(plan)}; "
        f"expected: prefill of {plan.workload.prompt_tokens} tokens in "
        f"{duration(plan.predicted.prefill_s)}, decode {plan.predicted.decode_tokens_per_s:.1f} tok/s"
    )


def _least(plan: Plan) -> str:
    """What the best split of the space could save."""
    if plan.bound_s <= 0:
        return "no bound was found"
    if plan.gap < LEAST_TOLD:
        return "the best split of this space could take less than 0.1% less time"
    return f"no split of this space can take more than {plan.gap:.1%} less time"


def _split_table(plan: Plan) -> Table:
    """Layers all alike: a row per device."""
    layer, group = plan.layers[0], queries_per_kv_head(plan)
    rows = [
        (
            use.name,
            _kv_heads(layer, d, group),
            str(size(layer.mlp.units[d])),
            str(size(plan.head[d])),
            binary_bytes(use.bytes),
            binary_bytes(use.cap_bytes),
        )
        for d, use in enumerate(plan.device_use)
    ]
    attention, mlp = (strategy_words(block, plan.devices) for block in (layer.attention, layer.mlp))
    title = f"Split of each of {len(plan.layers)} layers: attention {attention}, MLP {mlp}"
    return title, ("device", "KV heads", "MLP columns", "vocabulary rows", "memory", "cap"), rows


def _layers_table(plan: Plan) -> Table:
    """Layers that differ: a row per group of equal layers and device that has part in it."""
    rows, group = [], queries_per_kv_head(plan)
    for layer, numbers in layer_groups(plan.layers).items():
        words = layer_words(numbers)
        for d, name in enumerate(plan.devices):
            if size(layer.attention.units[d]) or size(layer.mlp.units[d]):
                shares = _kv_heads(layer, d, group), str(size(layer.mlp.units[d]))
                strategies = [_strategy(block) for block in (layer.attention, layer.mlp)]
                rows.append((words, name, shares[0], strategies[0], shares[1], strategies[1]))
                words = ""
    title = f"Split of {len(plan.layers)} layers"
    return title, ("layers", "device", "KV heads", "attention by", "MLP columns", "MLP by"), rows


def _vocabulary_table(plan: Plan) -> Table:
    """What goes with layers that differ: vocabulary and memory per device."""
    rows = [
        (
            use.name,
            str(size(plan.embedding[d])),
            str(size(plan.head[d])),
            binary_bytes(use.bytes),
            binary_bytes(use.cap_bytes),
        )
        for d, use in enumerate(plan.device_use)
    ]
    return "Vocabulary and memory", ("device", "embedding rows", "head rows", "memory", "cap"), rows


def _kv_heads(layer: LayerPlan, d: int, group: int) -> str:
    return f"{size(layer.attention.units[d]) / group:.3g}"


def _strategy(block: BlockPlan) -> str:
    return block.strategy if len(members(block.units)) > 1 else "-"


def _sum_note(plan: Plan, phase: str, name: str, spans: tuple[Range, ...]) -> str:
    adders = members(spans)
    names = [plan.devices[d] for d in adders]
    parts = ":".join(str(size(spans[d])) for d in adders)
    how = f"{names[0]} adds up" if len(adders) == 1 else f"{listed(names)} add up {parts} hidden columns of"
    return f"{phase}: {how} the partial sums of {name}"


def _baseline_table(plan: Plan) -> Table:
    priced = [(THIS_PLAN, plan.objective_s, plan.predicted.decode_tokens_per_s)]
    priced += [
        (name.replace("_", " "), baseline.objective_s, baseline.decode_tokens_per_s or 0.0)
        for name, baseline in plan.baselines.items()
        if baseline.objective_s is not None
    ]
    priced.sort(key=lambda row: row[1])  # stable: the plan comes before its equals
    rows = [_fit(name, s, tokens_per_s, plan.objective_s) for name, s, tokens_per_s in priced]
    rows += [_unfit(name) for name, baseline in plan.baselines.items() if not baseline.feasible]
    work = plan.workload
    title = f"Expected for {work.prompt_tokens} prompt and {work.new_tokens} new tokens, batch {work.batch}"
    return title, ("split", "whole answer", "decode tok/s", "slower by"), rows


def _fit(name: str, objective_s: float, tokens_per_s: float, best_s: float) -> tuple[str, ...]:
    """Within what plans are told apart by, a baseline ties with the plan; it can be faster than one fixed by hand."""
    more = objective_s / best_s - 1 if best_s else 0.0
    tie = "ties with the plan" if abs(more) < LEAST_TOLD else f"ties ({more:+.1%})"
    slower = tie if abs(more) < TIE else f"{more:+.1%}"
    return name, duration(objective_s), f"{tokens_per_s:.1f}", "-" if name == THIS_PLAN else slower


def _unfit(name: str) -> tuple[str, ...]:
    return name.replace("_", " "), "does not fit", "-", "-"
