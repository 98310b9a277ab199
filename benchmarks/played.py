"""A plan played through step by step, over its prediction: never more, less where what shares a path does not meet.

Knows both phases of a plan. Knows nothing of other plans.
"""

from __future__ import annotations

from tpplan.planner.plan import Plan
from tpplan.planner.price import Pricer
from tpplan.planner.simulate import simulate, simulated_prefill_s

ROUNDING = 1e-6


def played(plan: Plan, pricer: Pricer) -> tuple[float, float]:
    """Simulated over predicted seconds of a decode step and of all prefill; an assertion where one is above 1."""
    step = simulate(plan.split, pricer, "decode")
    decode_s = step.overhead_s + max(span.end_s for span in step.spans)
    ratios = (
        decode_s / plan.predicted.decode_s_per_token,
        simulated_prefill_s(plan.split, pricer) / plan.predicted.prefill_s,
    )
    assert max(ratios) <= 1 + ROUNDING, f"the simulation is slower than the prediction: {ratios}"
    return ratios
