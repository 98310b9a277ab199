"""Measures this machine: every named device alone, then all of them together, with the functions that `run` calls.

Knows the order of measuring. What is timed stands in `probes` and `exchange`, how in `timing`.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch

from .. import __version__
from ..kernels.worker import Worker
from .device_names import cores_of
from .exchange import QUICK_SIZES, SIZES, Exchange, rendezvous_s
from .host_memory import available_bytes
from .probes import Probe, probes
from .profile import SCHEMA_VERSION, DeviceProfile, HardwareProfile, Host, OpPoint
from .timing import Bench, open_gate, start_calls, together, typical_s

Progress = Callable[[str, float], None]
BUDGET_S, QUICK_BUDGET_S = 0.1, 0.03  # of one probe, alone and again together
VISITS = 3
MOST_CALLS = 4000


def measure(specs: Sequence[str], quick: bool, progress: Progress) -> HardwareProfile:
    """The profile of devices `specs`, all cores as one when empty. ValueError for devices this machine does not have.

    `progress(what, share)` is called along the way, `share` from 0 to 1.
    """
    names = list(specs) or ["cpu"]
    cores = [cores_of(name) for name in names]
    if len(set(cores)) < len(cores):
        raise ValueError("a device is named twice; name each once")
    workers = [Worker(name, mine) for name, mine in zip(names, cores, strict=True)]
    try:
        free_bytes = available_bytes()
        gate = open_gate()
        benches = [Bench(worker, gate) for worker in workers]
        return _measure(benches, quick, free_bytes, progress)
    finally:
        for worker in workers:
            worker.close()


def _measure(benches: list[Bench], quick: bool, free_bytes: int, progress: Progress) -> HardwareProfile:
    progress("memory bandwidth and matrix rate", 0.0)
    rates = _rates(benches)
    overhead_s = _overhead_s(benches)
    ops = _compute_points(benches, quick, progress)
    progress("push, pull and rendezvous through host memory", 0.9)
    flag_s = rendezvous_s(benches)
    links = _exchange_points(benches, quick, flag_s)
    progress("memory bandwidth and matrix rate again", 0.97)
    rates = [Rates(*map(max, first, second)) for first, second in zip(rates, _rates(benches), strict=True)]
    devices = tuple(
        DeviceProfile(
            name=bench.worker.name,
            kind="cpu",
            description=f"{_cpu_model()}, {len(bench.worker.cores)} core(s)",
            cores=bench.worker.cores,
            free_bytes=free_bytes,
            read_bytes_per_s_alone=rates[d].read_alone,
            read_bytes_per_s=rates[d].read,
            matmul_flops_per_s=rates[d].matmul,
            step_overhead_s=overhead_s,
            ops=tuple(ops[d] + links[d]),
        )
        for d, bench in enumerate(benches)
    )
    host = Host(f"{_cpu_model()}, {platform.system()} {platform.machine()}", os.cpu_count() or 1, free_bytes)
    created = datetime.now(UTC).isoformat(timespec="seconds")
    progress("done", 1.0)
    return HardwareProfile(SCHEMA_VERSION, __version__, created, quick, host, flag_s, devices)


def _compute_points(benches: list[Bench], quick: bool, progress: Progress) -> list[list[OpPoint]]:
    """Each probe on each device alone, then on all at once, in several visits far apart: the median of the visits.

    Memory bandwidth changes over seconds where machines are shared; one visit would tell of one moment.
    """
    todo = list(probes(quick))
    budget_s = (QUICK_BUDGET_S if quick else BUDGET_S) / VISITS
    calls: list[list[int]] = []
    alone: list[list[list[float]]] = [[[] for _ in benches] for _ in todo]
    contended: list[list[list[float]]] = [[[] for _ in benches] for _ in todo]
    for visit in range(VISITS):
        for i, probe in enumerate(todo):
            progress(f"{probe.op} {probe.format}, {probe.rows} row(s)", 0.05 + 0.85 * (visit + i / len(todo)) / VISITS)
            if not visit:
                calls.append([_calls(probe, bench, budget_s) for bench in benches])
            for d, bench in enumerate(benches):
                alone[i][d].append(typical_s(probe.start(bench, calls[i][d]).result()))
            with together(benches):
                futures = [probe.start(bench, n) for bench, n in zip(benches, calls[i], strict=True)]
            for d, future in enumerate(futures):
                contended[i][d].append(typical_s(future.result()))
    return [
        [_point(probe, median(alone[i][d]), median(contended[i][d])) for i, probe in enumerate(todo)]
        for d in range(len(benches))
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


def _calls(probe: Probe, bench: Bench, budget_s: float) -> int:
    """How many calls fill the budget, by two trial calls; 3 at least."""
    trial_s = probe.start(bench, 2).result()[-1]
    return int(min(MOST_CALLS, max(3, budget_s / max(trial_s, 1e-9))))


def _exchange_points(benches: list[Bench], quick: bool, flag_s: float) -> list[list[OpPoint]]:
    """Pushes, and pulls of as many slices as there are devices (own included) and of one more; the flag's way apart."""
    points: list[list[OpPoint]] = [[] for _ in benches]
    for values in QUICK_SIZES if quick else SIZES:
        exchange = Exchange(benches, values)
        for extra in (0, 1):
            together = exchange.together(extra)
            for d, mine in enumerate(points):
                alone = exchange.alone(d, extra)
                if extra == 0:
                    mine.append(OpPoint("push", 1, values, values, alone[0], together[d][0]))
                pull_s = max(together[d][1] - flag_s, alone[1])
                mine.append(OpPoint("pull", 1, values, values, alone[1], pull_s, peers=len(benches) + extra))
    return points


class Rates(NamedTuple):
    """Of one device: bytes/s read alone and with all active, operations/s of a large float32 product."""

    read_alone: float
    read: float
    matmul: float


def _rates(benches: list[Bench]) -> list[Rates]:
    """Reading the whole pool; a product of 256 rows with a 1024 x 1024 matrix."""
    x, weight = torch.ones(256, 1024), torch.ones(1024, 1024)
    read_bytes, flops = 4.0 * benches[0].pool.numel(), 2.0 * 256 * 1024 * 1024
    read_s = _times_s(benches, lambda bench: bench.pool.sum())
    return [
        Rates(
            read_bytes / _times_s([bench], lambda bench: bench.pool.sum())[0],
            read_bytes / read_s[d],
            flops / _times_s([bench], lambda bench: x @ weight)[0],
        )
        for d, bench in enumerate(benches)
    ]


def _times_s(benches: list[Bench], call: Callable[[Bench], object]) -> list[float]:
    """Least seconds of `call` made on all `benches` at once: these rates are what others are measured against."""
    with together(benches):
        futures = [start_calls(bench, partial(call, bench), 8) for bench in benches]
    return [min(future.result()) for future in futures]


def _overhead_s(benches: list[Bench]) -> float:
    """Handing a job to every device and hearing back from all of them: what a pass costs beside its steps."""
    samples = []
    for _ in range(200):
        started = time.perf_counter()
        for job in [bench.worker.submit(lambda: None) for bench in benches]:
            job.result()
        samples.append(time.perf_counter() - started)
    return median(samples)


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or "CPU"
