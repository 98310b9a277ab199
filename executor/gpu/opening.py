"""The devices of a plan with GPUs, opened, loaded and made ready; CPU devices of the plan beside them.

Knows the order of opening and giving back. Knows no tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack

import torch

from ...hwprofiles.device_names import cores_of, is_gpu
from ...planner.model_spec import ModelSpec
from ...planner.plan import Plan
from ..loading import DTYPES
from ..opening import busy_devices, held_bytes, refuse_full_memory, start_worker
from ..weight_files import WeightFiles, check_weights
from .devices import GpuDevice, open_devices
from .loading import GpuLoader, Runners
from .staged_files import StagedFiles

PATIENCE_MS, PATIENCE_WITH_CPUS_MS = 5_000, 20_000


def open_with_gpus(
    plan: Plan,
    model: ModelSpec,
    files: WeightFiles,
    logits: torch.Tensor,
    progress: Callable[[int], None],
    held: ExitStack,
) -> Runners:
    """Ready runners by phase; what they hold is given back with `held`. ValueError, before anything is loaded, where a
    device is not here or has too little memory; or where memory runs out after all.
    """
    as_stored = plan.dtype not in DTYPES
    if not as_stored and plan.cache_dtype != plan.dtype:
        raise ValueError(
            f"GPUs keep keys and values in the format of the weights, the plan has a {plan.cache_dtype} cache: run "
            f"tpplan solve with --cache-dtype {plan.dtype}"
        )
    busy = busy_devices(plan, model)
    on_gpus = [d for d in busy if is_gpu(plan.devices[d])]
    for d in set(busy) - set(on_gpus):
        cores_of(plan.devices[d])
    opened = held.enter_context(open_devices([plan.devices[d] for d in on_gpus]))
    devices = dict(zip(on_gpus, opened, strict=True))
    _refuse_full_devices(plan, model, devices)
    cpus = {d: start_worker(plan.devices[d], held) for d in busy if d not in devices}
    check_weights(files, model)

    def files_of(device: int) -> WeightFiles:
        return StagedFiles(files) if device in devices else files  # type: ignore[return-value]

    loader = GpuLoader(
        model, plan.split, devices, files_of, DTYPES[plan.cache_dtype], plan.workload.context, logits,
        PATIENCE_WITH_CPUS_MS if cpus else PATIENCE_MS, plan.workload.chunk_rows, cpus, DTYPES[plan.cache_dtype],
        progress, as_stored,
    )  # fmt: skip
    try:
        runners = loader.load()
    except torch.OutOfMemoryError as error:
        raise ValueError(
            f"a GPU ran out of memory while loading ({str(error).splitlines()[0][:120]}): end what uses it, or solve "
            "again with a smaller --context or --cap"
        ) from None
    held.callback(_give_back, runners, devices)
    return runners


def _refuse_full_devices(plan: Plan, model: ModelSpec, devices: Mapping[int, GpuDevice]) -> None:
    """ValueError with both figures; the parts of a GPU share its memory."""
    each = held_bytes(plan, model)
    for index in sorted({device.index for device in devices.values()}):
        here = [d for d, device in devices.items() if device.index == index]
        needed, free = sum(each[d].total for d in here), devices[here[0]].free_bytes
        if needed > free:
            raise ValueError(
                f"the plan needs {needed / 2**20:.0f} MiB of GPU {index}, {free / 2**20:.0f} MiB are free: end what "
                "uses it, or run tpplan profile and solve again"
            )
    refuse_full_memory(sum(each[d].total for d, name in enumerate(plan.devices) if not is_gpu(name)))


def _give_back(runners: Runners, devices: Mapping[int, GpuDevice]) -> None:
    """Ends every wait, then, once all devices are at rest, unpins what they share."""
    runners["decode"].abort()
    for device in devices.values():
        device.worker.submit(device.compute.synchronize).exception()
    runners["decode"].host.memory.close()
