"""What an exchange of a GPU device moves, in terms of its buffers. How it moves is `kernels.gpu`'s business."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from ...planner.steps import Step


@dataclass(frozen=True)
class Moved:
    """One device's side of one collective, in a model `hidden` wide.

    `source`: buffer that is pushed; `target`: buffer that is pulled into. `own_residual`: the step that adds the hidden
    state to what is pushed, where this device does so for all. `adds_hidden`: the device adds its own hidden state to
    what it pulls. `exact`: parts travel in float32, not in the format of the weights. `norm_weight`: [hidden] of the
    norm that follows, None where none does; `squares`: where it leaves sums of squares.
    """

    hidden: int
    push: Step | None
    pull: Step | None
    source: str
    target: str
    own_residual: Step | None
    adds_hidden: bool
    exact: bool
    norm_weight: torch.Tensor | None
    squares: torch.Tensor | None

    @property
    def width(self) -> int:
        """Values a row of this device's own part, pushed or not: a sole consumer keeps its part; 0 if it has none."""
        if self.push is not None:
            return self.push.out_features
        assert self.pull is not None
        if self.pull.device not in self.pull.peers:
            return 0
        if self.pull.role == "pull_parts":
            return self.hidden
        return self.pull.widths[self.pull.peers.index(self.pull.device)]

    @property
    def site(self) -> int:
        step = self.push or self.pull
        assert step is not None
        return step.collective
