"""Who adds the residual to a block's output, and in which format parts travel. Data for binding, no tensors.

A consumer that was a member of the block holds the block's input itself: where all are, each adds its own and the parts
travel in the format of the weights, as an unsplit model would round them. Elsewhere the first producer adds it (as the
layer graph says), and parts travel in float32: a rounded residual stream would lose more than the unsplit model does.
CPU devices compute in float32 and follow the layer graph, so with one of them among the devices all is exact.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...planner.plan import Split, members
from ...planner.steps import Step


@dataclass(frozen=True)
class Residuals:
    """`local`: blocks (layer, name) whose consumers all add their own residual; `all_exact`: everything in float32."""

    local: frozenset[tuple[int, str]]
    all_exact: bool = False

    @classmethod
    def of(cls, split: Split, with_cpus: bool = False) -> Residuals:
        """`with_cpus`: CPU devices take part."""
        if with_cpus:
            return cls(frozenset(), all_exact=True)
        blocks = [
            (layer, name, members(plan.units))
            for layer, plans in enumerate(split.layers)
            for name, plan in (("attention", plans.attention), ("mlp", plans.mlp))
        ]
        consumers = [holders for _, _, holders in blocks[1:]] + [members(split.head)]
        return cls(
            frozenset(
                (layer, name)
                for (layer, name, holders), takers in zip(blocks, consumers, strict=True)
                if set(takers) <= set(holders)
            )
        )

    def is_local(self, step: Step) -> bool:
        """Whether the consumers of what `step` produces, moves or takes add their own residual."""
        return (step.layer, step.block) in self.local

    def exact(self, step: Step) -> bool:
        """Whether the parts of an exchange travel in float32: sums that hold a residual."""
        holds_residual = step.block != "embed" and not step.role.endswith("inputs") and not self.is_local(step)
        return self.all_exact or holds_residual
