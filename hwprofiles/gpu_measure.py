"""What only GPU devices have measured: links, exchanges, what a pass costs beside its steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

import msgspec
import torch

from ..executor.gpu.devices import GpuDevice
from ..kernels.gpu.handover import advance
from .gpu_exchange import exchange_figures
from .gpu_links import links
from .gpu_timing import GpuBench, Launch, captured, replayed
from .profile import Link, OpPoint
from .units import duration, rate

KERNELS, REPLAYS = 64, 200


@dataclass(frozen=True)
class GpuFigures:
    """By device: links, pushes and pulls, seconds of a pass beside its steps. `flag_s`: one word's way between two;
    `residual_s`: what adding a residual adds to an exchange, 0 where nobody exchanged.
    """

    links: list[Link]
    points: list[list[OpPoint]]
    overhead_s: list[float]
    flag_s: float
    residual_s: float


def gpu_figures(benches: Sequence[GpuBench], devices: int, quick: bool, note: Callable[[str], None]) -> GpuFigures:
    """Of all GPU devices among `devices` devices; `note` is told what the profile has no place for."""
    overheads = [bench.worker.submit(lambda b=bench: _overheads_s(b)).result() for bench in benches]  # type: ignore[misc]
    for bench, (graph_s, kernel_s) in zip(benches, overheads, strict=True):
        copied = bench.worker.submit(lambda b=bench: _copy_bytes_per_s(b)).result()  # type: ignore[misc]
        note(
            f"{bench.name}: copies {rate(copied, 'B/s')} in its memory (read and written), a graph costs "
            f"{duration(graph_s)}, a kernel in it {duration(kernel_s)}"
        )
    paths = links(benches, note)
    exchanges = exchange_figures(benches, devices, quick)
    costs = [graph_s for graph_s, _ in overheads]
    return GpuFigures(paths, exchanges.points, costs, exchanges.flag_s, exchanges.residual_s)


def _overheads_s(bench: GpuBench) -> tuple[float, float]:
    """From one replay of a graph of one kernel to the next, less the kernel; a kernel among others in a graph."""

    def launches(count: int) -> list[Launch]:
        control = bench.own(8, dtype=torch.int32)
        return [lambda: advance(control)] * count

    single, _, _ = captured(bench, "one kernel", lambda: launches(1), 0)
    several, _, _ = captured(bench, "kernels", lambda: launches(KERNELS), 0)
    kernel_s = median(replayed(bench, several, 10, cold=False)) / KERNELS
    started = time.perf_counter()
    for _ in range(REPLAYS):
        single.replay()
    bench.worker.stream.synchronize()
    return max((time.perf_counter() - started) / REPLAYS - kernel_s, 1e-7), kernel_s


def _copy_bytes_per_s(bench: GpuBench) -> float:
    """Half of the pool onto new memory, bytes read and written."""
    half = bench.pool[: bench.pool.numel() // 4]
    target = torch.empty_like(half)
    graph, _, _ = captured(bench, "copy", lambda: [lambda: target.copy_(half)], half.nbytes)
    seconds = median(replayed(bench, graph, 5, cold=False))
    del bench.graphs["copy"]
    return 2 * half.nbytes / seconds


def with_fused_residuals(points: list[OpPoint], residual_s: float) -> list[OpPoint]:
    """A residual of few rows is part of the exchange where a block is shared; alone it is a kernel, with the norm."""

    def fused(point: OpPoint) -> OpPoint:
        if point.op != "residual" or point.rows > 1 or not residual_s:
            return point
        return msgspec.structs.replace(point, together_s=residual_s)

    return [fused(point) for point in points]


def read_bytes_per_s(points: Sequence[OpPoint], together: bool) -> float:
    """The fastest that a product of one row read its weights."""
    sizes = {"bfloat16": 2, "float32": 4}
    return max(
        sizes[p.format] * p.in_features * p.out_features / (p.together_s if together else p.alone_s)
        for p in points
        if p.op == "linear" and p.rows == 1
    )


def shared_bytes(devices: Sequence[GpuDevice], device: GpuDevice) -> int:
    """Free memory of `device`: parts of one GPU have it by their SMs."""
    sms = sum(other.sms for other in devices if other.index == device.index)
    return device.free_bytes * device.sms // sms
