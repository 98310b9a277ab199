"""Loads what a plan's devices hold, all devices at once, and binds their programs: one for each phase, over one state.

Knows which devices take part in what. Knows nothing of tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future
from functools import partial
from typing import Protocol, TypeVar

import torch

from ..kernels.staging import Staging
from ..kernels.worker import Worker
from ..planner.layer_graph import device_steps
from ..planner.model_spec import ModelSpec
from ..planner.plan import Phase, Plan
from ..planner.steps import Kind, Step
from .parts import PartsKeeper
from .pass_runner import DeviceProgram, PassRunner
from .phases import phase_steps, steps_of_any_phase
from .program import Binder
from .rope_tables import rope_tables
from .state import DeviceState
from .weights import HOST, ShardReader, WeightFiles

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
Runners = dict[Phase, PassRunner]
T = TypeVar("T")


class Submits(Protocol):
    """The thread of a device, of a CPU or a GPU."""

    def submit(self, job: Callable[[], T], lane: int = 0) -> Future[T]: ...


def slot_widths(steps: dict[Phase, list[Step]], hidden: int, devices: int) -> list[int]:
    """Values a row of each device's slots: its widest push, the hidden state at least; 0 where nothing is exchanged."""
    if not any(step.kind is Kind.PUSH for phase in steps for step in steps[phase]):
        return [0] * devices
    mine = [steps_of_any_phase(steps, d) for d in range(devices)]
    pushed = [[step.out_features for step in each if step.kind is Kind.PUSH] for each in mine]
    return [max(hidden, *pushes) if each else 0 for each, pushes in zip(mine, pushed, strict=True)]


def load(
    plan: Plan,
    model: ModelSpec,
    files: WeightFiles,
    workers: dict[int, Worker],
    logits: torch.Tensor,
    progress: Callable[[int], None] = lambda loaded_bytes: None,
) -> Runners:
    """Ready runners by phase: one and the same where both phases run the same steps.

    `workers`: of every device with steps. `logits`: [vocab], which the devices of the head fill. `progress`: told bytes
    of weights as they come. Of several devices' errors the first is raised, once all have ended.
    """
    steps, context = phase_steps(model, plan.split), plan.workload.context
    rows, devices = plan.workload.chunk_rows, len(plan.devices)
    shared = Staging([rows * width for width in slot_widths(steps, model.hidden, devices)])
    ropes = rope_tables(model.rope, model.head_dim, context)

    def state_of(device: int) -> DeviceState:
        mine = steps_of_any_phase(steps, device)
        dtype, keeper = DTYPES.get(plan.dtype), None if plan.dtype in DTYPES else PartsKeeper()
        shards = ShardReader(files, model, plan.split, dtype, device, HOST, progress, keeper).read_all(mine)
        cache_dtype = DTYPES[plan.cache_dtype]
        return DeviceState(workers[device], device, model, mine, shards, ropes, logits, rows, cache_dtype)

    states = list(all_at_once(workers, state_of).values())
    decode = _runner(plan, model, states, steps["decode"], shared)
    if steps["prefill"] == steps["decode"]:
        return {"decode": decode, "prefill": decode}
    return {"decode": decode, "prefill": _runner(plan, model, states, steps["prefill"], shared)}


def _runner(plan: Plan, model: ModelSpec, states: list[DeviceState], steps: list[Step], shared: Staging) -> PassRunner:
    bound = [(state, Binder(model, state, shared).bind(device_steps(steps, state.device))) for state in states]
    programs = [DeviceProgram(plan.devices[state.device], state, mine) for state, mine in bound if mine]
    return PassRunner(programs, shared, 1 + max((step.collective for step in steps), default=-1))


def all_at_once(workers: Mapping[int, Submits], make: Callable[[int], T]) -> dict[int, T]:
    """`make` of every device on its own thread; the first of several devices' errors, once all have ended."""
    jobs = {device: worker.submit(partial(make, device)) for device, worker in workers.items()}
    errors = [error for job in jobs.values() if (error := job.exception())]
    if errors:
        raise errors[0]
    return {device: job.result() for device, job in jobs.items()}
