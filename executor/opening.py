"""Whether a plan can be run here, and its CPU devices made ready. Knows no tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack

import msgspec
import torch

from ..hwprofiles.device_names import cores_of, is_gpu
from ..hwprofiles.host_memory import available_bytes
from ..kernels.worker import Worker
from ..planner.memory import DeviceBytes, device_bytes
from ..planner.model_spec import ModelSpec
from ..planner.plan import Plan
from .loading import DTYPES, Runners, load
from .phases import phase_steps, steps_of_any_phase
from .weight_files import WeightFiles, check_weights


def refuse_what_cannot_run(plan: Plan, model: ModelSpec) -> None:
    """ValueError for what no machine can run yet."""
    for name in plan.devices:
        if not (name.startswith("cpu") or is_gpu(name)):
            raise ValueError(
                f"the plan is for a device {name!r}, which run cannot use: plans for machines of the catalogue can be "
                "simulated and exported"
            )
    if plan.dtype not in DTYPES and not (plan.dtype == "native" or model.quant is not None):
        raise ValueError(
            f"the plan holds weights in {plan.dtype}, which run cannot use yet: such plans can be simulated and "
            f"exported; to run the model, solve with --dtype {'native, ' if model.stored else ''}bfloat16 or float32"
        )


def held_bytes(plan: Plan, model: ModelSpec) -> Sequence[DeviceBytes]:
    """What running one sequence takes on every device."""
    one_sequence = msgspec.structs.replace(plan.workload, batch=1)
    return device_bytes(model, plan.split, one_sequence, plan.dtype, plan.cache_dtype)


def refuse_full_memory(needed_bytes: int) -> None:
    """ValueError with both figures where the host has not so much."""
    if needed_bytes > (free := available_bytes()):
        raise ValueError(
            f"the plan needs {needed_bytes / 2**20:.0f} MiB of host memory, {free / 2**20:.0f} MiB are free: "
            "close other programs, or run tpplan profile and solve again"
        )


def busy_devices(plan: Plan, model: ModelSpec) -> list[int]:
    """Devices that take part in any phase."""
    steps = phase_steps(model, plan.split)
    return [d for d in range(len(plan.devices)) if steps_of_any_phase(steps, d)]


def start_worker(name: str, held: ExitStack) -> Worker:
    """The threads of a CPU device, which end with `held`."""
    worker = Worker(name, cores_of(name))
    held.callback(worker.close)
    return worker


def open_on_cpus(
    plan: Plan,
    model: ModelSpec,
    files: WeightFiles,
    logits: torch.Tensor,
    progress: Callable[[int], None],
    held: ExitStack,
) -> Runners:
    """Ready runners by phase; what they hold is given back with `held`."""
    for name in plan.devices:
        cores_of(name)
    refuse_full_memory(sum(each.total for each in held_bytes(plan, model)))
    workers = {d: start_worker(plan.devices[d], held) for d in busy_devices(plan, model)}
    check_weights(files, model)
    runners = load(plan, model, files, workers, logits, progress)
    held.callback(runners["decode"].abort)
    return runners
