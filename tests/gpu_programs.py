"""GPU programs of all devices of a split, run by one thread on the CPU: kernels are plain torch (`torch_kernels`)."""

from __future__ import annotations

import torch
from torch_kernels import KERNELS, DictExchanges

from tpplan.executor.gpu import program
from tpplan.executor.gpu.pieces import pieces
from tpplan.executor.gpu.program import GpuBinder, Launch
from tpplan.executor.gpu.residuals import Residuals
from tpplan.executor.gpu.state import Formats, GpuState
from tpplan.executor.phases import phase_steps, steps_of_any_phase
from tpplan.executor.rope_tables import rope_tables
from tpplan.executor.weights import HOST, Keeper, ShardReader, WeightFiles
from tpplan.planner.layer_graph import device_steps
from tpplan.planner.model_spec import ModelSpec
from tpplan.planner.plan import Phase, Split


def use_torch_kernels() -> None:
    """From now on, in this process."""
    for name, functions in KERNELS.items():
        setattr(program, name, functions)


class Devices:
    """Whose matrices stay as they are stored where there is a `keeper`."""

    def __init__(
        self, model: ModelSpec, weights: WeightFiles, split: Split, form: torch.dtype, keeper: Keeper | None = None
    ) -> None:
        self.model = model
        steps = phase_steps(model, split)
        ropes, residuals = rope_tables(model.rope, model.head_dim, 64), Residuals.of(split)
        self.exchanges = DictExchanges(residuals)
        self.states: list[GpuState] = []
        self.launches: dict[Phase, list[list[Launch]]] = {phase: [] for phase in steps}
        for d in range(len(split.head)):
            mine = steps_of_any_phase(steps, d)
            shards = ShardReader(weights, model, split, form, d, keeper=keeper).read_all(mine)
            state = GpuState(d, HOST, model, mine, shards, Formats(form, form), ropes, 64)
            self.states.append(state)
            for phase in steps:
                binder = GpuBinder(model, state, residuals, self.exchanges)
                self.launches[phase].append(binder.bind(device_steps(steps[phase], d)))

    def run(self, tokens: list[int], position: int, phase: Phase) -> torch.Tensor:
        """Logits of the last token."""
        for taken, bucket in pieces(len(tokens), position, 64):
            self._pass(tokens[:taken], bucket, position, phase)
            tokens, position = tokens[taken:], position + taken
        logits = torch.full((self.model.vocab,), torch.nan)
        for state, launches in zip(self.states, self.launches[phase], strict=True):
            for launch in launches:
                if launch.steps[0].role == "lm_head":
                    logits[slice(*launch.steps[0].span)] = state.buffers["logits"][: launch.steps[0].out_features]
        return logits

    def _pass(self, tokens: list[int], bucket: int, position: int, phase: Phase) -> None:
        self.exchanges.pushed.clear()
        for state in self.states:
            state.upload(tokens + [0] * (bucket - len(tokens)), len(tokens), position, 1)
        at, pushed = [0] * len(self.states), [-1] * len(self.states)
        while any(a < len(launches) for a, launches in zip(at, self.launches[phase], strict=True)):
            before = [*at, *pushed]
            for d, launches in enumerate(self.launches[phase]):
                while at[d] < len(launches):
                    run = launches[at[d]].run
                    if hasattr(run, "moved"):
                        if pushed[d] != at[d]:
                            run.push(bucket)
                            pushed[d] = at[d]
                        if not self.exchanges.ready(run.moved):
                            break
                        run.pull(bucket)
                    else:
                        run(bucket)
                    at[d] += 1
            assert [*at, *pushed] != before, "devices wait for each other"
