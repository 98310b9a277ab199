"""A Plan as people read it: who holds what, what it is expected to reach, how sure that is, and why.

Knows the plan alone: no model, profile or solver.
"""

from __future__ import annotations

from ..hwprofiles.units import Table, binary_bytes, duration
from .plan import BlockPlan, DeviceUse, Plan, size

PROVEN_GAP = 0.01


def plan_tables(plan: Plan) -> list[Table]:
    """The split, device by device, and the plan among its baselines, fastest first."""
    return [_split_table(plan), _baseline_table(plan)]


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
    least = f"no split of this space can take more than {plan.gap:.1%} less time"
    return (
        f"{proof}, {least if plan.bound_s > 0 else 'no bound was found'}; "
        f"expected: prefill of {plan.workload.prompt_tokens} tokens in "
        f"{duration(plan.predicted.prefill_s)}, decode {plan.predicted.decode_tokens_per_s:.1f} tok/s"
    )


def _split_table(plan: Plan) -> Table:
    attention, mlp = [layer.attention for layer in plan.layers], [layer.mlp for layer in plan.layers]
    rows = [
        (
            name,
            _kv_heads(use, len(plan.layers)),
            _shares(mlp, device),
            str(size(plan.head[device])),
            binary_bytes(use.bytes),
            binary_bytes(use.cap_bytes),
        )
        for device, (name, use) in enumerate(zip(plan.devices, plan.device_use, strict=True))
    ]
    title = (
        f"Split of each of {len(plan.layers)} layers: attention by {_strategies(attention)}, MLP by {_strategies(mlp)}"
    )
    return title, ("device", "KV heads", "MLP columns", "vocabulary rows", "memory", "cap"), rows


def _shares(blocks: list[BlockPlan], device: int) -> str:
    shares = {size(block.units[device]) for block in blocks}
    return str(min(shares)) if len(shares) == 1 else f"{min(shares)} to {max(shares)}"


def _kv_heads(use: DeviceUse, layers: int) -> str:
    """KV heads a layer, on average."""
    return f"{use.attention_units / layers:.3g}"


def _strategies(blocks: list[BlockPlan]) -> str:
    return " or ".join(sorted({block.strategy for block in blocks}))


def _baseline_table(plan: Plan) -> Table:
    priced = [("this plan", plan.objective_s, plan.predicted.decode_tokens_per_s)]
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
    slower = f"{objective_s / best_s - 1:+.1%}" if best_s else "-"
    return name, duration(objective_s), f"{tokens_per_s:.1f}", slower


def _unfit(name: str) -> tuple[str, ...]:
    return name.replace("_", " "), "does not fit", "-", "-"
