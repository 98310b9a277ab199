"""What the page says about a plan in words: how fast, how sure, how much better than a rule of thumb.

Knows plans and timelines. Knows nothing of pages.
"""

from __future__ import annotations

from pathlib import Path

from ..hwprofiles.units import duration
from .model_spec import ModelSpec
from .plan import Plan
from .report import LEAST_TOLD, PROVEN_GAP
from .timeline import Timeline

GENERIC = ("model.json", "config.json")


def name(path: str) -> str:
    """What people call the model: its file, or its folder where the file is called like all others."""
    file = Path(path)
    return (file.parent.name if file.name in GENERIC else file.name) or path


def shape(model: ModelSpec) -> str:
    count = model.weights
    weights = f"{count / 1e9:.1f} billion" if count >= 1e9 else f"{count / 1e6:.0f} million"
    heads = f"{model.heads} query heads over {model.kv_heads} KV heads"
    layers = f"{model.layers} layer{'s' if model.layers > 1 else ''}"
    return f"{model.architecture}, {weights} weights, {layers}, {heads}, {model.mlp:,} MLP columns"


def headline(plan: Plan) -> list[tuple[str, str]]:
    """The figures that people come for, each with what it is."""
    work, told = plan.workload, plan.predicted
    rate = work.batch * work.prompt_tokens / told.prefill_s if told.prefill_s else 0.0
    each, all_ = (f" for each of {work.batch:,} sequences", " for all of them") if work.batch > 1 else ("", "")
    return [
        (f"{told.decode_tokens_per_s:.1f} tok/s", f"decode: {duration(told.decode_s_per_token)} a step{all_}"),
        (duration(told.prefill_s), f"prefill of {work.prompt_tokens:,} tokens{each}, {rate:,.0f} tok/s"),
        (duration(plan.objective_s), f"for the whole answer: prompt and {work.new_tokens:,} new tokens{each}"),
    ]


def proof(plan: Plan) -> str:
    """How far from the best this can be, in plain words."""
    if plan.bound_s <= 0:
        return "The best split that was found. Nothing is proven about how much faster another one could be."
    if plan.status == "optimal" and plan.gap < LEAST_TOLD:
        return "Proven: no split of the space searched takes less time."
    proven = f"Proven: no split of the space searched takes more than {plan.gap:.1%} less time."
    if plan.gap < LEAST_TOLD:
        proven = "Proven: the best split of the space searched takes less than 0.1% less time."
    near = plan.status == "optimal" and plan.gap < PROVEN_GAP
    return proven if near else f"The best split found in the time given. {proven}"


def against_baselines(plan: Plan) -> str:
    """How much the plan gains over the best split that needs no solver."""
    fitting = {name: b.objective_s for name, b in plan.baselines.items() if b.objective_s is not None}
    if not fitting or not plan.objective_s:
        return "No split by a rule of thumb fits into the memory of this machine." if plan.baselines else ""
    best = min(fitting, key=lambda name: fitting[name])
    gain, words = fitting[best] / plan.objective_s - 1, best.replace("_", " ")
    if gain <= -LEAST_TOLD:
        return f"What was fixed by hand costs time: a split by a rule of thumb ({words}) takes {-gain:.1%} less."
    if gain < LEAST_TOLD:
        return f"The best split by a rule of thumb ({words}) is as fast."
    longer = f"{gain:.1%} longer" if gain < 1 else f"{1 + gain:.1f} times as long"
    return f"The best split by a rule of thumb ({words}) takes {longer}."


def contention(timeline: Timeline) -> str:
    """What sharing links and host memory costs, where it costs anything."""
    alone_s = timeline.uncontended_s
    late = timeline.length_s / alone_s - 1 if alone_s else 0.0
    return f"Shared links and host memory make it {late:.1%} longer than {duration(alone_s)}." if late > 0.001 else ""
