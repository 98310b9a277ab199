"""Loads what the GPU devices of a plan hold, all at once, and binds, warms and captures their programs.

Knows the order in which devices come to life: nothing may wait for a peer before all kernels of all devices are loaded,
since loading a kernel waits for kernels that wait.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import torch

from ...kernels.gpu.bulk import Bulk, BulkSlots, new_bulk_slots
from ...kernels.gpu.handover import Handover, advance, new_handover, new_results
from ...kernels.gpu.host_memory import HostMemory, Layout, Rank
from ...kernels.gpu.slots import Site
from ...planner.layer_graph import device_steps
from ...planner.model_spec import ModelSpec
from ...planner.plan import PREFILL_CHUNK, Phase, Split, members
from ...planner.steps import Step
from ..phases import phase_steps, steps_of_any_phase
from ..rope_tables import rope_tables
from ..weights import ShardReader, WeightFiles
from .devices import GpuDevice
from .exchanges import PhaseExchanges, make_sites
from .pieces import BUCKETS
from .program import GpuBinder
from .residuals import Residuals
from .runner import GpuProgram, GpuRunner
from .state import Formats, GpuState
from .tokens import Tokens

Runners = dict[Phase, GpuRunner]
T = TypeVar("T")


@dataclass
class GpuLoader:
    """`devices`: by number in the plan, those that take part; `files_of`: how a device reads the checkpoint, called on
    its thread; `limit_ms`: how long a device waits for another; `logits`: [vocab] on the host, for sampling.
    """

    model: ModelSpec
    split: Split
    devices: dict[int, GpuDevice]
    files_of: Callable[[int], WeightFiles]
    form: torch.dtype
    context: int
    logits: torch.Tensor
    limit_ms: int = 5000
    residuals: Residuals = field(init=False)
    steps: dict[Phase, list[Step]] = field(init=False)

    def load(self) -> Runners:
        """Ready runners by phase: one and the same where both phases run the same steps. ValueError where pinned memory
        is refused or a file cannot be read; the first of several devices' errors, once all have ended.
        """
        self.residuals, self.steps = Residuals.of(self.split), phase_steps(self.model, self.split)
        phases: list[Phase] = ["decode"] if self.steps["decode"] == self.steps["prefill"] else ["decode", "prefill"]
        layout = Layout(len(self.split.head))
        sites: dict[Phase, dict[int, Site]] = {}
        for phase in phases:
            first = sum(map(len, sites.values()))
            sites[phase] = make_sites(layout, self.steps[phase], first, self.model.hidden, self.residuals, self.form)
        widest = max((sum(site.widths) for each in sites.values() for site in each.values()), default=self.model.hidden)
        slots = new_bulk_slots(layout, PREFILL_CHUNK, max(widest, self.model.hidden))
        heads, everyone = members(self.split.head), tuple(sorted(self.devices))
        handover, results = new_handover(layout, sum(map(len, sites.values())), heads, everyone), new_results(layout)
        memory = HostMemory(layout, [device.index for device in self.devices.values()])
        numbered = {site.number: site for each in sites.values() for site in each.values()}
        tokens = Tokens(memory, numbered | {handover.number: handover}, results)
        try:
            return self._runners(phases, sites, slots, handover, tokens)
        except BaseException:
            for device in self.devices.values():  # no kernel may be at work on memory that is given back
                device.worker.submit(device.compute.synchronize).exception()
            memory.close()
            raise

    def _runners(
        self,
        phases: list[Phase],
        sites: dict[Phase, dict[int, Site]],
        slots: BulkSlots,
        handover: Site,
        tokens: Tokens,
    ) -> Runners:
        states = self._everywhere(self._state)
        runners: Runners = {}
        for phase in phases:
            bind = lambda d, phase=phase: self._program(phase, states[d], sites[phase], slots, handover, tokens)  # noqa: E731
            programs = self._everywhere(bind)
            runners[phase] = GpuRunner(list(programs.values()), tokens, self.context, self.logits)
        self._warm_up(runners, tokens)
        return {"decode": runners["decode"], "prefill": runners.get("prefill", runners["decode"])}

    def _state(self, d: int) -> GpuState:
        mine, place = steps_of_any_phase(self.steps, d), self.devices[d].place
        shards = ShardReader(self.files_of(d), self.model, self.split, self.form, d, place).read_all(mine)
        ropes = rope_tables(self.model.rope, self.model.head_dim, self.context)
        return GpuState(d, place, self.model, mine, shards, Formats(self.form, self.form), ropes)

    def _program(
        self, phase: Phase, state: GpuState, sites: dict[int, Site], slots: BulkSlots, handover: Site, tokens: Tokens
    ) -> GpuProgram:
        d, device = state.device, self.devices[state.device]
        rank = Rank(tokens.memory, d, device.index, self.limit_ms)
        exchanges = PhaseExchanges(sites, rank, Bulk(slots, rank), self.model.norm_eps)
        binder = GpuBinder(self.model, state, self.residuals, exchanges)
        launches = binder.bind(device_steps(self.steps[phase], d))
        hand = Handover(handover, rank, tokens.results if d == min(self.devices) else None)
        own = d in handover.producers

        def hand_over() -> None:
            best = (state.best_value, state.best_id) if own else (None, None)
            hand(state.control, best[0], best[1], state.tokens[:1])
            advance(state.control, 1)

        return GpuProgram(device.name, state, device.worker, launches, hand_over, exchanges)

    def _warm_up(self, runners: Runners, tokens: Tokens) -> None:
        """Every size of every phase once, with all waits given up, then the graphs of decode, then all is forgotten."""
        programs = [program for runner in runners.values() for program in runner.programs]
        each = [runner.collectives for runner in runners.values() for _ in runner.programs]
        sizes = [bucket for bucket in BUCKETS if bucket <= self.context]
        tokens.memory.abort()
        for program, collectives in zip(programs, each, strict=True):
            program.worker.submit(partial(_launch_all, program, sizes, collectives)).result()
        for program in runners["decode"].programs:
            program.worker.submit(program.capture).result()
        for program in programs:
            program.worker.submit(program.exchanges.bulk.reset).result()
        for device in self.devices.values():
            device.worker.submit(device.compute.synchronize).result()
        tokens.memory.reset()

    def _everywhere(self, make: Callable[[int], T]) -> dict[int, T]:
        """`make` of every device on its own thread."""
        jobs = {d: device.worker.submit(lambda d=d: make(d)) for d, device in self.devices.items()}  # type: ignore[misc]
        errors = [error for job in jobs.values() if (error := job.exception())]
        if errors:
            raise errors[0]
        return {d: job.result() for d, job in jobs.items()}


def _launch_all(program: GpuProgram, sizes: list[int], collectives: int) -> None:
    """The largest size again: in which slots a bulk collective waits for readers depends on the pass before."""
    for pass_, rows in enumerate([*sizes, *sizes[-1:] * 2]):
        program.exchanges.number = 1 + pass_ * collectives
        program.state.upload([0] * rows, rows, 0, 1)
        program.launch(rows, logits=True)
    program.worker.stream.synchronize()
