"""What only GPU devices have measured: links, exchanges, what a pass costs beside its steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from statistics import median
from typing import NamedTuple

import msgspec
import torch

from ..executor.gpu.devices import GpuDevice
from ..kernels.gpu.handover import Handover, advance, new_handover, new_results
from ..kernels.gpu.host_memory import HostMemory, Layout, Rank
from .bench import together, typical_s
from .cell_rings import Benches
from .gpu_exchange import exchange_figures
from .gpu_links import links
from .gpu_timing import LEAST_S, GpuBench, Launch, captured, replayed, start_graph
from .profile import Link, OpPoint
from .roofline import WEIGHT_BYTES
from .units import duration, rate

COPIES, KERNELS, REPLAYS = 5, 64, 200


@dataclass(frozen=True)
class GpuFigures:
    """By GPU: links, seconds of a pass beside its steps. `points`: pushes and pulls of all devices, CPUs too. `flag_s`:
    one word's way between two; `residual_s`: what adding a residual adds to an exchange, 0 where nobody exchanged.
    """

    links: list[Link]
    points: list[list[OpPoint]]
    overhead_s: list[float]
    flag_s: float
    residual_s: float


def gpu_figures(benches: Benches, gpus: Sequence[GpuBench], quick: bool, note: Callable[[str], None]) -> GpuFigures:
    """Of `gpus` among all `benches`; `note` is told what the profile has no place for."""
    copied = _copies_bytes_per_s(gpus)
    overheads = [bench.worker.submit(partial(_overheads, bench)).result() for bench in gpus]
    for bench, o, (alone, all_at_once) in zip(gpus, overheads, copied, strict=True):
        note(
            f"{bench.name}: copies {rate(alone, 'B/s')} in its memory alone, {rate(all_at_once, 'B/s')} beside the "
            f"others (read and written); a replay costs {duration(o.replay_s)}, a kernel in it "
            f"{duration(o.kernel_s)}, a kernel launched from Python {duration(o.launch_s)}"
        )
    paths = links(gpus, note)
    exchanges = exchange_figures(benches, quick)
    costs = [o.replay_s + (exchanges.flag_s if len(benches) > 1 else 0.0) for o in overheads]
    return GpuFigures(paths, exchanges.points, costs, exchanges.flag_s, exchanges.residual_s)


class Overheads(NamedTuple):
    """Seconds from one replay to the next of what ends every pass (the next token handed over, pass and position
    counted on); of a kernel among others in a graph; of one launched from Python.
    """

    replay_s: float
    kernel_s: float
    launch_s: float


def _overheads(bench: GpuBench) -> Overheads:
    """On the device's thread."""
    layout = Layout(1)
    site, results = new_handover(layout, 0, (0,), (0,)), new_results(layout)
    memory = HostMemory(layout, [bench.device.index])
    hand = Handover(site, Rank(memory, 0, bench.device.index), results)
    control, token = bench.own(8, dtype=torch.int32), bench.own(1, dtype=torch.int64)
    value, best = bench.own(1), bench.own(1, dtype=torch.int64)
    ends: list[Launch] = [lambda: hand(control, value, best, token), lambda: advance(control, 1)]
    last, _, _ = captured(bench, "end of a pass", lambda: ends, 0)
    several, _, _ = captured(bench, "kernels", lambda: [ends[1]] * KERNELS, 0)
    try:
        kernel_s = median(replayed(bench, several, 10, cold=False)) / KERNELS
        return Overheads(_each_s(bench, last.replay), kernel_s, _each_s(bench, ends[1]))
    finally:
        bench.worker.stream.synchronize()
        memory.close()


def _each_s(bench: GpuBench, call: Launch) -> float:
    """Of many calls one after the other, by the clock of the host."""
    started = time.perf_counter()
    for _ in range(REPLAYS):
        call()
    bench.worker.stream.synchronize()
    return (time.perf_counter() - started) / REPLAYS


def _copies_bytes_per_s(benches: Sequence[GpuBench]) -> list[tuple[float, float]]:
    """Bytes read and written a second by copying half of the pool, each device alone and all at once."""
    targets = {bench.name: torch.empty_like(_half(bench)) for bench in benches}

    def start(bench: GpuBench) -> Future[list[float]]:
        half, target = _half(bench), targets[bench.name]
        return start_graph(bench, "copy", lambda: [lambda: target.copy_(half)], half.nbytes, COPIES)

    alone = [typical_s(start(bench).result()) for bench in benches]
    with together(benches):
        futures = [start(bench) for bench in benches]
    contended = [typical_s(future.result()) for future in futures]
    for bench in benches:
        del bench.graphs["copy"]
    sizes = [2 * _half(bench).nbytes for bench in benches]
    return [(size / a, size / b) for size, a, b in zip(sizes, alone, contended, strict=True)]


def _half(bench: GpuBench) -> torch.Tensor:
    return bench.pool[: bench.pool.numel() // 4]


def with_fused_residuals(points: list[OpPoint], residual_s: float) -> list[OpPoint]:
    """A residual is part of the exchange where a block is shared; alone it is a kernel, of few rows with the norm."""

    def fused(point: OpPoint) -> OpPoint:
        if point.op != "residual" or not residual_s:
            return point
        return msgspec.structs.replace(point, together_s=residual_s if point.rows == 1 else LEAST_S)

    return [fused(point) for point in points]


def read_bytes_per_s(points: Sequence[OpPoint], together: bool) -> float:
    """The fastest that a product of one row read its weights."""
    return max(
        WEIGHT_BYTES[p.format] * p.in_features * p.out_features / (p.together_s if together else p.alone_s)
        for p in points
        if p.op == "linear" and p.rows == 1
    )


def shared_bytes(devices: Sequence[GpuDevice], device: GpuDevice) -> int:
    """Free memory of `device`: parts of one GPU have it by their SMs."""
    sms = sum(other.sms for other in devices if other.index == device.index)
    return device.free_bytes * device.sms // sms
