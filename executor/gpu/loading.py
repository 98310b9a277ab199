"""Loads what the devices of a plan with GPUs hold, all at once, and binds, warms and captures their programs.

Knows the order in which devices come to life: nothing may wait for a peer before all kernels of all devices are loaded,
since loading a kernel waits for kernels that wait.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import torch

from ...kernels.gpu.bulk import Bulk, BulkSlots, new_bulk_slots
from ...kernels.gpu.handover import Handover, advance, new_handover, new_results
from ...kernels.gpu.host_memory import HostMemory, Layout, Rank
from ...kernels.gpu.slots import Site
from ...kernels.worker import Worker
from ...planner.layer_graph import device_steps
from ...planner.model_spec import ModelSpec
from ...planner.plan import PREFILL_CHUNK, Phase, Split, members
from ...planner.steps import Step
from ..loading import all_at_once
from ..parts import PartsKeeper
from ..phases import phase_steps, steps_of_any_phase
from ..rope_tables import rope_tables
from ..weights import Keeper, Key, Shard, ShardReader, WeightFiles
from .cpu_ranks import CpuRanks
from .devices import GpuDevice, GpuWorker
from .exchanges import PhaseExchanges, make_sites
from .matrices import MatrixKeeper
from .pieces import BUCKETS
from .program import GpuBinder
from .residuals import Residuals
from .runner import GpuProgram, GpuRunner
from .state import BULK, Formats, GpuState
from .tokens import Tokens

Runners = dict[Phase, GpuRunner]
Sites = dict[Phase, dict[int, Site]]


@dataclass
class GpuLoader:
    """`devices`: by number in the plan, those that take part; `files_of`: how a device reads the checkpoint, called on
    its thread; `limit_ms`: how long a device waits for another; `rows`: of the largest pass; `logits`: [vocab] on the
    host, for sampling; `cpus`: threads and names of the CPU devices that take part, whose cache is in `cpu_cache`;
    `progress`: told bytes of weights as they come.
    """

    model: ModelSpec
    split: Split
    devices: dict[int, GpuDevice]
    files_of: Callable[[int], WeightFiles]
    form: torch.dtype
    context: int
    logits: torch.Tensor
    limit_ms: int = 5000
    rows: int = PREFILL_CHUNK
    cpus: dict[int, Worker] = field(default_factory=dict)
    cpu_cache: torch.dtype = torch.float32
    progress: Callable[[int], None] = lambda loaded_bytes: None
    as_stored: bool = False
    residuals: Residuals = field(init=False)
    steps: dict[Phase, list[Step]] = field(init=False)

    def load(self) -> Runners:
        """Ready runners by phase: one and the same where both phases run the same steps. ValueError where memory is
        refused or a file cannot be read; the first of several devices' errors, once all have ended.
        """
        self.residuals = Residuals.of(self.split, with_cpus=bool(self.cpus))
        self.steps = phase_steps(self.model, self.split)
        phases: list[Phase] = ["decode"] if self.steps["decode"] == self.steps["prefill"] else ["decode", "prefill"]
        layout, sites = Layout(len(self.split.head)), Sites()
        for phase in phases:
            first = sum(map(len, sites.values()))
            sites[phase] = make_sites(layout, self.steps[phase], first, self.model.hidden, self.residuals, self.form)
        widest = max((sum(site.widths) for each in sites.values() for site in each.values()), default=0)
        slots = new_bulk_slots(layout, self.rows, max(widest, self.model.hidden))
        heads, everyone = members(self.split.head), tuple(sorted(self.devices))
        handover, results = new_handover(layout, sum(map(len, sites.values())), heads, everyone), new_results(layout)
        memory = HostMemory(layout, [device.index for device in self.devices.values()])
        numbered = {site.number: site for each in sites.values() for site in each.values()}
        tokens = Tokens(memory, numbered | {handover.number: handover}, results)
        try:
            return self._runners(sites, slots, handover, tokens)
        except BaseException:
            for device in self.devices.values():  # no kernel may be at work on memory that is given back
                device.worker.submit(device.compute.synchronize).exception()
            memory.close()
            raise

    def _runners(self, sites: Sites, slots: BulkSlots, handover: Site, tokens: Tokens) -> Runners:
        workers: dict[int, Worker | GpuWorker] = {d: device.worker for d, device in self.devices.items()}
        workers |= self.cpus
        ropes = rope_tables(self.model.rope, self.model.head_dim, self.context)
        names = {d: device.name for d, device in self.devices.items()}
        ranks = CpuRanks(self.model, self.cpus, names, tokens, ropes, self.logits, self.rows, self.cpu_cache)
        states: dict[int, GpuState] = {}

        def make_state(d: int) -> None:
            mine = steps_of_any_phase(self.steps, d)
            if d in self.cpus:
                ranks.add(d, mine, self._shards(d, mine, torch.device("cpu")))
            else:
                place = self.devices[d].place
                shards = self._shards(d, mine, place)
                states[d] = GpuState(
                    d, place, self.model, mine, shards, Formats(self.form, self.form), ropes, self.rows
                )

        all_at_once(workers, make_state)
        runners: Runners = {}
        for phase, mine in sites.items():
            bind = partial(self._program, phase, states, mine, slots, handover, tokens)
            programs = all_at_once({d: workers[d] for d in self.devices}, bind)
            cpus = ranks.runner(self.steps[phase], mine, slots) if self.cpus else None
            runners[phase] = GpuRunner(list(programs.values()), tokens, self.context, self.logits, self.rows, cpus)
        self._warm_up(runners, tokens)
        return {"decode": runners["decode"], "prefill": runners.get("prefill", runners["decode"])}

    def _shards(self, d: int, steps: list[Step], place: torch.device) -> dict[Key, Shard]:
        dtype: torch.dtype | None = self.form
        keeper: Keeper | None = None
        if self.as_stored:
            on_gpu = d in self.devices
            keeper, dtype = (MatrixKeeper(place), self.form) if on_gpu else (PartsKeeper(), None)
        files = self.files_of(d)
        return ShardReader(files, self.model, self.split, dtype, d, place, self.progress, keeper).read_all(steps)

    def _program(
        self,
        phase: Phase,
        states: Mapping[int, GpuState],
        sites: dict[int, Site],
        slots: BulkSlots,
        handover: Site,
        tokens: Tokens,
        d: int,
    ) -> GpuProgram:
        state, device = states[d], self.devices[d]
        rank = Rank(tokens.memory, d, device.index, self.limit_ms)
        exchanges = PhaseExchanges(sites, rank, Bulk(slots, rank, base=state.control[BULK:]), self.model.norm_eps)
        binder = GpuBinder(self.model, state, self.residuals, exchanges)
        launches = binder.bind(device_steps(self.steps[phase], d))
        hand_over = self._hand_over(state, handover, rank, tokens)
        return GpuProgram(device.name, state, device.worker, launches, hand_over, exchanges)

    def _hand_over(self, state: GpuState, handover: Site, rank: Rank, tokens: Tokens) -> Callable[[], None]:
        """What ends a pass: the next token and position from device to device. With CPU devices the host tells both."""
        if self.cpus:
            return lambda: None
        own = state.device in handover.producers
        hand = Handover(handover, rank, tokens.results if state.device == min(self.devices) else None)

        def hand_over() -> None:
            best = (state.best_value, state.best_id) if own else (None, None)
            hand(state.control, best[0], best[1], state.tokens[:1])
            advance(state.control, 1)

        return hand_over

    def _warm_up(self, runners: Runners, tokens: Tokens) -> None:
        """Every size of every phase once, with all waits given up, then the graphs of decode, then all is forgotten."""
        programs = [program for runner in runners.values() for program in runner.programs]
        sizes = [bucket for bucket in BUCKETS if bucket <= self.rows]
        tokens.memory.abort()
        for program in programs:
            program.worker.submit(partial(_launch_all, program, sizes)).result()
        for program in runners["decode"].programs:
            program.worker.submit(partial(program.capture, 1, True)).result()
        for program in runners.get("prefill", runners["decode"]).programs:
            program.worker.submit(partial(_capture_all, program, sizes[1:])).result()
        for program in programs:
            program.worker.submit(program.exchanges.bulk.settle).result()
        for device in self.devices.values():
            device.worker.submit(device.compute.synchronize).result()
        tokens.memory.reset()


def _launch_all(program: GpuProgram, sizes: list[int]) -> None:
    """The largest size again: for whom a bulk exchange waits depends on the pass before."""
    for rows in [*sizes, *sizes[-1:] * 2]:
        program.state.upload([0] * rows, rows, 0, 1)
        program.launch(rows, logits=True)
    program.worker.stream.synchronize()


def _capture_all(program: GpuProgram, sizes: list[int]) -> None:
    """Passes over prompts; those without logits only in the largest size, which is that of all chunks but the last."""
    for rows in sizes:
        program.capture(rows, logits=True)
    for rows in sizes[-1:]:
        program.capture(rows, logits=False)
