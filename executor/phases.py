"""The steps of a plan's phases, and who takes part in any. Knows no tensors."""

from __future__ import annotations

from ..planner.layer_graph import device_steps, pass_steps
from ..planner.memory import PHASES
from ..planner.model_spec import ModelSpec
from ..planner.plan import Phase, Split
from ..planner.steps import Step


def phase_steps(model: ModelSpec, split: Split) -> dict[Phase, list[Step]]:
    """One pass of each phase; the phases differ in who adds up partial sums, and so in their collectives."""
    return {phase: pass_steps(model, split, rows=1, context=1, phase=phase) for phase in PHASES}


def steps_of_any_phase(steps: dict[Phase, list[Step]], device: int) -> list[Step]:
    """What `device` runs in any phase, none twice; empty for a device that takes no part."""
    return list(dict.fromkeys(step for phase in steps for step in device_steps(steps[phase], device)))
