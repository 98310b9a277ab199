"""Timelines from a small scheduler without contention, for tests of what shows them."""

from __future__ import annotations

from tpplan.planner.layer_graph import pass_steps
from tpplan.planner.plan import Phase, Plan
from tpplan.planner.price import Pricer
from tpplan.planner.steps import Kind
from tpplan.planner.timeline import Span, Timeline


def make_timeline(pricer: Pricer, plan: Plan, phase: Phase = "decode") -> Timeline:
    """Every step as soon as its device and the pushes that it needs are done; critical are those that never waited."""
    work = plan.workload
    rows, context = (1, work.prompt_tokens) if phase == "decode" else (min(256, work.prompt_tokens), work.prompt_tokens)
    free, pushed, spans = [0.0] * len(plan.devices), dict[tuple[int, int], float](), []
    for step in pass_steps(pricer.model, plan.split, rows, context, 1, phase):
        ready_s = max((pushed.get((step.collective, peer), 0.0) for peer in step.peers), default=0.0)
        begin_s = max(free[step.device], ready_s if step.kind is Kind.PULL else 0.0)
        end_s = begin_s + pricer.cost.step_s(step)
        if step.kind is Kind.PUSH:
            pushed[step.collective, step.device] = end_s
        spans.append(Span(step, free[step.device], begin_s, end_s, begin_s == free[step.device]))
        free[step.device] = end_s
    return Timeline(phase, plan.devices, tuple(spans), 20e-6, 20e-6 + max(free))
