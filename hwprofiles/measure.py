"""Measures this machine: every named device alone, then all of them together, with the functions that `run` calls.

Knows the order of measuring, and that CPUs and GPUs may stand side by side. What is timed stands in `probes`,
`exchange` and their counterparts for GPUs, how in `timing` and `gpu_timing`. What one kind needs is loaded only where
a device of that kind is named.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import __version__
from ..kernels.worker import Worker
from .bench import Bench, Probe, open_gate, together, typical_s
from .device_names import check_names, cores_of, is_gpu, numbered
from .host_memory import available_bytes, cpu_model
from .profile import SCHEMA_VERSION, DeviceProfile, HardwareProfile, Host, OpPoint

if TYPE_CHECKING:
    from .gpu_measure import GpuFigures

Progress = Callable[[str, float], None]
Note = Callable[[str], None]
BUDGET_S, QUICK_BUDGET_S = 0.1, 0.03  # of one probe, alone and again together
BUDGET_BESIDE_GPUS_S = 0.04  # where GPUs' kernels are compiled too, a minute's work
GPU_BUDGET_S = 0.012  # alone: their clocks and memory are their own
VISITS = 3
MOST_CALLS = 4000


def measure(specs: Sequence[str], quick: bool, progress: Progress, note: Note = lambda line: None) -> HardwareProfile:
    """The profile of devices `specs`; when empty, of all GPUs that can be used, and all cores as one device. ValueError
    for devices this machine does not have.

    `progress(what, share)` is called along the way, `share` from 0 to 1; `note` with lines that a user should read.
    """
    names = numbered(list(specs) or [*usable_gpus(note), "cpu"])
    check_names(names)
    free_bytes = available_bytes()
    with _opened(names) as box:
        return _measure(box, quick, free_bytes, progress, note)


def usable_gpus(note: Note) -> list[str]:
    """`cuda:0` and so on; `note` is told why others are left out."""
    import torch

    from ..executor.gpu.requirements import check_gpu, free_bytes

    names = []
    for index in range(torch.cuda.device_count()):
        try:
            check_gpu(index)
            free_bytes(index)
            names.append(f"cuda:{index}")
        except ValueError as error:
            note(f"cuda:{index} is left out: {error}")
    return names


@dataclass
class Box:
    """The devices under test in the order named; `cpus` and `gpus` are places in it."""

    benches: list[Any]
    cpus: list[int]
    gpus: list[int]

    def of(self, places: Sequence[int]) -> list[Any]:
        return [self.benches[place] for place in places]


@contextmanager
def _opened(names: Sequence[str]) -> Iterator[Box]:
    gpus = [at for at, name in enumerate(names) if is_gpu(name)]
    cpus = [at for at in range(len(names)) if at not in gpus]
    workers: list[Worker] = []
    devices: Any = None
    gate = open_gate()
    box = Box([None] * len(names), cpus, gpus)
    try:
        if gpus:
            from ..executor.gpu.devices import open_devices
            from .gpu_timing import gpu_benches

            devices = open_devices([names[at] for at in gpus])
            for at, bench in zip(gpus, gpu_benches(devices, gate), strict=True):
                box.benches[at] = bench
        if cpus:
            from . import timing

            workers += [Worker(names[at], cores_of(names[at])) for at in cpus]
            for at, worker in zip(cpus, workers, strict=True):
                box.benches[at] = timing.Bench(worker, gate)
        yield box
    finally:
        for worker in workers:
            worker.close()
        if devices is not None:
            devices.close()


def _measure(box: Box, quick: bool, free_bytes: int, progress: Progress, note: Note) -> HardwareProfile:
    progress("memory bandwidth and matrix rate", 0.0)
    rates = _rates(box.benches)
    overhead_s = _overhead_s(box.benches)
    ops = _compute_points(box, quick, progress)
    progress("push, pull and rendezvous through host memory", 0.9)
    gpu = _gpu_figures(box, quick, note) if box.gpus else None
    flag_s = _flag_s(box, gpu)
    for at, points in _exchange_points(box, quick, flag_s, gpu).items():
        ops[at] += points
    progress("memory bandwidth and matrix rate again", 0.97)
    rates = [Rates(*map(max, first, second)) for first, second in zip(rates, _rates(box.benches), strict=True)]
    devices = [_cpu_profile(box.benches[at], rates[at], overhead_s, ops[at], free_bytes) for at in box.cpus]
    profiles = dict(zip(box.cpus, devices, strict=True))
    if gpu is not None:
        profiles |= _gpu_profiles(box, rates, ops, gpu)
    host = Host(_host_name(), os.cpu_count() or 1, free_bytes)
    created = datetime.now(UTC).isoformat(timespec="seconds")
    progress("done", 1.0)
    ordered = tuple(profiles[at] for at in range(len(box.benches)))
    return HardwareProfile(SCHEMA_VERSION, __version__, created, quick, host, flag_s, ordered)


def _cpu_profile(bench: Any, rates: Rates, overhead_s: float, ops: list[OpPoint], free_bytes: int) -> DeviceProfile:
    from .cpu_measure import described

    return DeviceProfile(
        name=bench.name,
        kind="cpu",
        description=described(bench.worker),
        cores=bench.worker.cores,
        free_bytes=free_bytes,
        read_bytes_per_s_alone=rates.read_alone,
        read_bytes_per_s=rates.read,
        matmul_flops_per_s=rates.matmul,
        step_overhead_s=overhead_s,
        ops=tuple(ops),
    )


def _gpu_profiles(box: Box, rates: list[Rates], ops: list[list[OpPoint]], gpu: GpuFigures) -> dict[int, DeviceProfile]:
    """A GPU reads as fast as the best of its products did, where that is faster than plain reading."""
    from .gpu_measure import read_bytes_per_s, shared_bytes, with_fused_residuals

    devices = [bench.device for bench in box.of(box.gpus)]
    return {
        at: DeviceProfile(
            name=device.name,
            kind="cuda",
            description=device.description,
            cores=(),
            free_bytes=shared_bytes(devices, device),
            read_bytes_per_s_alone=max(rates[at].read_alone, read_bytes_per_s(ops[at], together=False)),
            read_bytes_per_s=max(rates[at].read, read_bytes_per_s(ops[at], together=True)),
            matmul_flops_per_s=rates[at].matmul,
            step_overhead_s=gpu.overhead_s[d],
            ops=tuple(with_fused_residuals(ops[at], gpu.residual_s)),
            link=gpu.links[d],
        )
        for d, (at, device) in enumerate(zip(box.gpus, devices, strict=True))
    }


def _probes(box: Box, quick: bool) -> list[list[Probe]]:
    """By device."""
    found: list[list[Probe]] = [[] for _ in box.benches]
    if box.cpus:
        from .probes import probes

        for at in box.cpus:
            found[at] = list(probes(quick))
    if box.gpus:
        from .gpu_probes import gpu_probes

        for at in box.gpus:
            found[at] = list(gpu_probes(quick, box.benches[at].pool.nbytes))
    return found


def _compute_points(box: Box, quick: bool, progress: Progress) -> list[list[OpPoint]]:
    """Each probe on each device alone, then one of each device on all at once, in several visits far apart: the median
    of the visits. Devices of fewer probes begin theirs anew, so that all are busy all the time.

    Memory bandwidth changes over seconds where machines are shared; one visit would tell of one moment.
    """
    benches, todo = box.benches, _probes(box, quick)
    most = max(map(len, todo))
    budget_s = (QUICK_BUDGET_S if quick else BUDGET_BESIDE_GPUS_S if box.gpus else BUDGET_S) / VISITS
    own_s = [GPU_BUDGET_S / VISITS if at in box.gpus else budget_s for at in range(len(benches))]
    common_s = max(own_s)
    trial_s: list[dict[int, float]] = [{} for _ in benches]
    alone: list[list[list[float]]] = [[[] for _ in each] for each in todo]
    contended: list[list[list[float]]] = [[[] for _ in each] for each in todo]
    for visit in range(VISITS):
        for i in range(most):
            longest = max(todo, key=len)[i]
            told = f"{longest.op} {longest.format}, {longest.rows} row(s)"
            progress(told, 0.05 + 0.85 * (visit + i / most) / VISITS)
            at = [i % len(each) for each in todo]
            for d, bench in enumerate(benches):
                probe = todo[d][at[d]]
                if at[d] not in trial_s[d]:
                    trial_s[d][at[d]] = max(probe.start(bench, 2).result()[-1], 1e-9)
                if i < len(todo[d]):
                    samples = probe.start(bench, _calls(own_s[d], trial_s[d][at[d]])).result()
                    alone[d][i].append(typical_s(samples))
            with together(benches):
                futures = []
                for d, bench in enumerate(benches):
                    probe = todo[d][at[d]]
                    futures.append(probe.start(bench, _calls(common_s, trial_s[d][at[d]])))
            for d, future in enumerate(futures):
                contended[d][at[d]].append(typical_s(future.result()))
    return [
        [_point(probe, median(alone[d][i]), median(contended[d][i])) for i, probe in enumerate(each)]
        for d, each in enumerate(todo)
    ]


def _point(probe: Probe, alone_s: float, together_s: float) -> OpPoint:
    return OpPoint(
        op=probe.op,
        rows=probe.rows,
        in_features=probe.in_features,
        out_features=probe.out_features,
        alone_s=alone_s,
        together_s=together_s,
        format=probe.format,
        context=probe.context,
    )


def _calls(budget_s: float, trial_s: float) -> int:
    """How many calls fill the budget; 3 at least."""
    return int(min(MOST_CALLS, max(3, budget_s / trial_s)))


def _gpu_figures(box: Box, quick: bool, note: Note) -> GpuFigures:
    from .gpu_measure import gpu_figures

    return gpu_figures(box.benches, box.of(box.gpus), quick, note)


def _flag_s(box: Box, gpu: GpuFigures | None) -> float:
    """The slowest of a flag's way between two CPUs, two GPUs, a GPU and a CPU; 0 for one device."""
    from_gpus = gpu.flag_s if gpu else 0.0
    if len(box.cpus) < 2:
        return from_gpus
    from .exchange import rendezvous_s

    return max(from_gpus, rendezvous_s(box.of(box.cpus)))


def _exchange_points(box: Box, quick: bool, flag_s: float, gpu: GpuFigures | None) -> dict[int, list[OpPoint]]:
    """By device. CPUs beside GPUs speak the GPUs' words."""
    if gpu:
        return dict(enumerate(gpu.points))
    from .cpu_measure import exchange_points

    return dict(enumerate(exchange_points(box.benches, quick, flag_s)))


class Rates(NamedTuple):
    """Of one device: bytes/s read alone and with all active, operations/s of a large product."""

    read_alone: float
    read: float
    matmul: float


def _rates(benches: Sequence[Bench]) -> list[Rates]:
    """These are what others are measured against, so the least time counts."""
    with together(benches):
        futures = [bench.start_read(8) for bench in benches]
    read_s = [min(future.result()) for future in futures]
    return [
        Rates(
            bench.read_bytes / min(bench.start_read(8).result()),
            bench.read_bytes / seconds,
            bench.matmul_flops / min(bench.start_matmul(8).result()),
        )
        for bench, seconds in zip(benches, read_s, strict=True)
    ]


def _overhead_s(benches: Sequence[Any]) -> float:
    """Handing a job to every device and hearing back from all of them: what a pass costs beside its steps."""
    samples = []
    for _ in range(200):
        started = time.perf_counter()
        for job in [bench.worker.submit(lambda: None) for bench in benches]:
            job.result()
        samples.append(time.perf_counter() - started)
    return median(samples)


def _host_name() -> str:
    return f"{cpu_model()}, {platform.system()} {platform.machine()}"
